//! One statement from the tokens of a script.

use std::collections::HashSet;

use datafusion::sql::sqlparser::ast::{self, Ident};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Location, Span, Token, TokenWithSpan, Tokenizer};
use skep_common::{Error, Position, Result};

use super::statement::{Described, Name, Parsed, Statement};
use super::{SkepDialect, alter, care, copy, create, dml, show, transaction, unsupported};
use crate::names;

/// Nesting that a statement may have before it is refused.
const DEPTH_MAX: usize = 100;

/// The parser over a script, with what it takes to place errors and cut texts out.
pub(super) struct Reader<'a> {
    pub(super) parser: Parser<'a>,
    sql: &'a str,
    /// Byte offset of each line's first character.
    lines: Vec<usize>,
}

/// Makes each `?` the next of `$1`, `$2`, ...: drivers of Python, JDBC and ODBC write parameters so.
fn number_parameters(tokens: &mut [TokenWithSpan]) {
    let mut last = 0;
    for token in tokens {
        match &mut token.token {
            Token::Placeholder(name) if name == "?" => {
                last += 1;
                *name = format!("${last}");
            }
            Token::SemiColon => last = 0,
            _ => {}
        }
    }
}

/// Makes `VERSION AS OF 'tag'`, of which the parser knows numbers only, the same as `AT (VERSION => 'tag')`.
fn tags(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let solid: Vec<usize> =
        (0..tokens.len()).filter(|&at| !matches!(tokens[at].token, Token::Whitespace(_))).collect();
    let word =
        |at: usize, keyword: Keyword| matches!(&tokens[at].token, Token::Word(w) if w.keyword == keyword);
    let starts = |window: &&[usize]| {
        word(window[0], Keyword::VERSION)
            && word(window[1], Keyword::AS)
            && word(window[2], Keyword::OF)
            && matches!(tokens[window[3]].token, Token::SingleQuotedString(_))
    };
    let found: Vec<&[usize]> = solid.windows(4).filter(starts).collect();
    if found.is_empty() {
        return tokens;
    }
    let mut out = Vec::with_capacity(tokens.len() + 2 * found.len());
    let mut from = 0;
    for window in found {
        out.extend_from_slice(&tokens[from..window[0]]);
        let (first, last) = (tokens[window[0]].span, tokens[window[3]].span);
        let put = |token: Token, span| TokenWithSpan { token, span };
        out.push(put(Token::make_keyword("AT"), first));
        out.push(put(Token::LParen, first));
        out.push(put(Token::make_keyword("VERSION"), first));
        out.push(put(Token::RArrow, first));
        out.push(tokens[window[3]].clone());
        out.push(put(Token::RParen, last));
        from = window[3] + 1;
    }
    out.extend_from_slice(&tokens[from..]);
    out
}

/// Takes `>>` before `[]` apart: of `STRUCT<a STRUCT<b INT>>[]` the parser would give the brackets to the inner type.
fn closed_types(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let solid: Vec<usize> =
        (0..tokens.len()).filter(|&at| !matches!(tokens[at].token, Token::Whitespace(_))).collect();
    let brackets = |window: &&[usize]| {
        window.iter().map(|&at| &tokens[at].token).eq([
            &Token::ShiftRight,
            &Token::LBracket,
            &Token::RBracket,
        ])
    };
    let found: HashSet<usize> = solid.windows(3).filter(brackets).map(|window| window[0]).collect();
    let apart = |(at, token): (usize, TokenWithSpan)| {
        if !found.contains(&at) {
            return vec![token];
        }
        let (start, end) = (token.span.start, token.span.end);
        let middle = Location { line: start.line, column: start.column + 1 };
        let put = |start, end| TokenWithSpan { token: Token::Gt, span: Span::new(start, end) };
        vec![put(start, middle), put(middle, end)]
    };
    if found.is_empty() { tokens } else { tokens.into_iter().enumerate().flat_map(apart).collect() }
}

impl<'a> Reader<'a> {
    pub(super) fn new(sql: &'a str) -> Result<Self> {
        let mut tokens = Tokenizer::new(&SkepDialect, sql).tokenize_with_location().map_err(|error| {
            let message = lower_first(&error.message);
            match names::from_location(error.location) {
                Some(at) => Error::invalid(message).at(at),
                None => Error::invalid(message),
            }
        })?;
        super::chains::check(&tokens)?;
        number_parameters(&mut tokens);
        let tokens = closed_types(tags(tokens));
        let parser =
            Parser::new(&SkepDialect).with_recursion_limit(DEPTH_MAX).with_tokens_with_locations(tokens);
        let lines = std::iter::once(0).chain(sql.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Ok(Self { parser, sql, lines })
    }

    /// Steps over `;`. Whether a statement follows.
    pub(super) fn skip_separators(&mut self) -> bool {
        while self.parser.consume_token(&Token::SemiColon) {}
        self.parser.peek_token_ref().token != Token::EOF
    }

    /// Reads a statement and checks that a `;` or the end follows.
    pub(super) fn statement(&mut self) -> Result<Parsed> {
        let start = self.parser.peek_token_ref().span.start;
        let statement = self.any()?;
        let end = self.parser.get_current_token().span.end;
        match self.parser.peek_token_ref().token {
            Token::EOF | Token::SemiColon => {}
            _ => return self.expected("the end of the statement"),
        }
        let text = self.sql[self.offset(start)..self.offset(end)].trim_end().to_owned();
        Ok(Parsed { statement, text, at: Position { line: start.line, column: start.column } })
    }

    /// Reads a statement, wherever it stands (EXPLAIN nests them).
    fn any(&mut self) -> Result<Statement> {
        let token = self.parser.peek_token();
        let at = names::from_location(token.span.start);
        let Token::Word(word) = &token.token else {
            return match token.token {
                Token::LParen => self.query().map(Statement::Query),
                _ => self.expected("a statement"),
            };
        };
        if matches!(word.keyword, Keyword::SELECT | Keyword::WITH | Keyword::VALUES | Keyword::FROM) {
            return self.query().map(Statement::Query);
        }
        if let Some(error) = unsupported::statement(&word.value) {
            return Err(at.map_or(error.clone(), |at| error.at(at)));
        }
        let keyword = word.keyword;
        self.parser.next_token();
        match keyword {
            Keyword::EXPLAIN => self.explain(),
            Keyword::CREATE => create::create(self),
            Keyword::DROP => create::drop(self),
            Keyword::INSERT => dml::insert(self),
            Keyword::UPDATE => dml::update(self),
            Keyword::DELETE => dml::delete(self),
            Keyword::MERGE => dml::merge(self),
            Keyword::TRUNCATE => dml::truncate(self),
            Keyword::ALTER => alter::alter(self),
            Keyword::COMMENT => alter::comment(self),
            Keyword::MSCK => self.repair(),
            Keyword::COPY => copy::copy(self),
            Keyword::SHOW => show::show(self),
            Keyword::DESCRIBE | Keyword::DESC => self.describe(),
            Keyword::SET => show::set(self),
            Keyword::RESET => show::reset(self),
            Keyword::USE => show::use_schema(self),
            Keyword::VACUUM => care::vacuum(self),
            Keyword::OPTIMIZE => care::optimize(self),
            Keyword::ANALYZE => care::analyze(self),
            _ if word.value.eq_ignore_ascii_case("expire") => care::expire(self),
            _ if word.value.eq_ignore_ascii_case("restore") => care::restore(self),
            _ if word.value.eq_ignore_ascii_case("kill") => show::kill(self),
            _ if word.value.eq_ignore_ascii_case("system") => show::system(self),
            Keyword::BEGIN | Keyword::START => transaction::begin(self, keyword),
            Keyword::COMMIT | Keyword::END => transaction::end(self, Statement::Commit),
            Keyword::ROLLBACK | Keyword::ABORT => transaction::end(self, Statement::Rollback),
            _ => {
                self.parser.prev_token();
                self.expected("a statement such as SELECT, INSERT or CREATE")
            }
        }
    }

    pub(super) fn query(&mut self) -> Result<Box<ast::Query>> {
        let result = self.parser.parse_query();
        self.ok(result)
    }

    fn explain(&mut self) -> Result<Statement> {
        let mut analyze = false;
        let mut verbose = false;
        loop {
            if self.parser.parse_keyword(Keyword::ANALYZE) {
                analyze = true;
            } else if self.parser.parse_keyword(Keyword::VERBOSE) {
                verbose = true;
            } else {
                break;
            }
        }
        let at = self.here();
        let inner = self.any()?;
        if matches!(inner, Statement::Explain { .. }) {
            return Err(Error::invalid("EXPLAIN cannot explain EXPLAIN").at(at));
        }
        Ok(Statement::Explain { analyze, verbose, inner: Box::new(inner) })
    }

    /// `MSCK [REPAIR] TABLE name`, as Hive has it.
    fn repair(&mut self) -> Result<Statement> {
        let _ = self.take_word("repair");
        let result = self.parser.expect_keyword_is(Keyword::TABLE);
        self.ok(result)?;
        let table = self.name()?;
        // They say which of the folders to take up, and a scan takes up all.
        for word in ["add", "drop", "sync"] {
            if self.take_word(word) {
                let result = self.parser.expect_keyword_is(Keyword::PARTITIONS);
                self.ok(result)?;
            }
        }
        Ok(Statement::Repair { table })
    }

    fn describe(&mut self) -> Result<Statement> {
        let token = self.parser.peek_token();
        let described = match &token.token {
            Token::LParen => Described::Query(self.query()?),
            Token::SingleQuotedString(path) => {
                self.parser.next_token();
                let sql = format!("SELECT * FROM '{}'", path.replace('\'', "''"));
                Described::Query(super::parse_query(&sql)?)
            }
            Token::Word(word)
                if matches!(word.keyword, Keyword::SELECT | Keyword::WITH | Keyword::VALUES) =>
            {
                Described::Query(self.query()?)
            }
            _ => {
                let _ = self.parser.parse_keyword(Keyword::TABLE) || self.parser.parse_keyword(Keyword::VIEW);
                Described::Table(self.name()?)
            }
        };
        Ok(Statement::Describe(described))
    }

    /// `(a, b)` as a list of columns, unless the parenthesis opens a query.
    pub(super) fn columns_or_subquery(&mut self) -> Result<Option<Vec<Ident>>> {
        let opens = self.parser.peek_token_ref().token == Token::LParen;
        let starts_query = matches!(
            &self.parser.peek_nth_token_ref(1).token,
            Token::Word(w) if w.quote_style.is_none()
                && matches!(w.keyword, Keyword::SELECT | Keyword::WITH | Keyword::VALUES | Keyword::FROM)
        ) || self.parser.peek_nth_token_ref(1).token == Token::LParen;
        if !opens || starts_query {
            return Ok(None);
        }
        self.parser.next_token();
        let result = self.parser.parse_comma_separated(Parser::parse_identifier);
        let columns = self.ok(result)?;
        self.expect(&Token::RParen)?;
        Ok(Some(columns))
    }

    pub(super) fn name(&mut self) -> Result<Name> {
        let result = self.parser.parse_object_name(false);
        Name::from_ast(&self.ok(result)?)
    }

    pub(super) fn string(&mut self, what: &str) -> Result<String> {
        match self.parser.next_token().token {
            Token::SingleQuotedString(text) => Ok(text),
            _ => {
                self.parser.prev_token();
                self.expected(what)
            }
        }
    }

    pub(super) fn expect(&mut self, token: &Token) -> Result<()> {
        let result = self.parser.expect_token(token).map(drop);
        self.ok(result)
    }

    /// The word at the cursor, in lower case, whatever keyword it may be.
    pub(super) fn peek_word(&self) -> Option<String> {
        match &self.parser.peek_token_ref().token {
            Token::Word(word) => Some(word.value.to_ascii_lowercase()),
            _ => None,
        }
    }

    /// Steps over `word` if it stands at the cursor.
    pub(super) fn take_word(&mut self, word: &str) -> bool {
        let found = self.peek_word().is_some_and(|w| w == word);
        if found {
            self.parser.next_token();
        }
        found
    }

    /// Fails at the cursor.
    pub(super) fn expected<T>(&self, what: &str) -> Result<T> {
        let found = self.parser.peek_token();
        Err(Error::invalid(format!("expected {what}, found {}", shown(&found)))
            .at(self.place(found.span.start)))
    }

    /// Where the cursor stands.
    pub(super) fn here(&self) -> Position {
        self.place(self.parser.peek_token_ref().span.start)
    }

    fn place(&self, location: Location) -> Position {
        names::from_location(location).unwrap_or_else(|| self.end())
    }

    /// The position behind the last character that is not space.
    fn end(&self) -> Position {
        let text = self.sql.trim_end();
        let line = text.matches('\n').count();
        let column = text[self.lines[line].min(text.len())..].chars().count();
        Position { line: line as u64 + 1, column: column as u64 + 1 }
    }

    pub(super) fn ok<T>(&self, result: Result<T, ParserError>) -> Result<T> {
        result.map_err(|error| self.error(error))
    }

    fn error(&self, error: ParserError) -> Error {
        let text = match error {
            ParserError::TokenizerError(text) | ParserError::ParserError(text) => text,
            ParserError::RecursionLimitExceeded => {
                return Error::invalid(format!("the statement is nested deeper than {DEPTH_MAX} levels"))
                    .hint("put inner queries into views or WITH");
            }
        };
        let (message, at) = split_place(&text);
        let message = match message.strip_prefix("Expected: ").and_then(|rest| rest.split_once(", found: ")) {
            Some((expected, "EOF")) => format!("expected {}, found the end of the statement", sign(expected)),
            Some((expected, found)) => format!("expected {}, found {}", sign(expected), quoted(found)),
            None => lower_first(message),
        };
        Error::invalid(message).at(at.unwrap_or_else(|| self.end()))
    }

    /// The byte offset of `location`, whose columns count characters.
    fn offset(&self, location: Location) -> usize {
        let line = usize::try_from(location.line).unwrap_or(usize::MAX).saturating_sub(1);
        let column = usize::try_from(location.column).unwrap_or(usize::MAX).saturating_sub(1);
        let start = self.lines.get(line).copied().unwrap_or(self.sql.len());
        let rest = &self.sql[start..];
        start + rest.char_indices().nth(column).map_or(rest.len(), |(at, _)| at)
    }

    /// The text from the cursor up to the statement's end; the cursor moves there.
    pub(super) fn rest(&mut self) -> Vec<TokenWithSpan> {
        let mut tokens = Vec::new();
        while !matches!(self.parser.peek_token_ref().token, Token::EOF | Token::SemiColon) {
            tokens.push(self.parser.next_token());
        }
        tokens
    }

    pub(super) fn text(&self, first: &TokenWithSpan, last: &TokenWithSpan) -> &'a str {
        &self.sql[self.offset(first.span.start)..self.offset(last.span.end)]
    }
}

fn shown(token: &TokenWithSpan) -> String {
    match &token.token {
        Token::EOF => "the end of the statement".to_owned(),
        other => quoted(&other.to_string()),
    }
}

fn quoted(text: &str) -> String {
    if text.starts_with('\'') || text.starts_with('"') { text.to_owned() } else { format!("'{text}'") }
}

/// A punctuation mark in quotes; words as they are.
fn sign(text: &str) -> String {
    if text.chars().any(char::is_alphanumeric) { text.to_owned() } else { format!("'{text}'") }
}

fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    match (chars.next(), chars.clone().next()) {
        // "SQL" stays as it is.
        (Some(first), Some(second)) if !second.is_uppercase() => {
            first.to_lowercase().chain(chars).collect::<String>()
        }
        _ => text.to_owned(),
    }
}

/// The parser puts the place at the end of its message, as in ` at Line: 1, Column: 8`.
fn split_place(text: &str) -> (&str, Option<Position>) {
    let split = || {
        let (message, place) = text.rsplit_once(" at Line: ")?;
        let (line, column) = place.split_once(", Column: ")?;
        Some((message, Position { line: line.parse().ok()?, column: column.trim().parse().ok()? }))
    };
    split().map_or((text, None), |(message, at)| (message, Some(at)))
}
