//! Refuses statements whose operators form very long chains.
//!
//! `a OR b OR c` is read in a loop and becomes a tree as deep as it has operators, and so do UNION and JOIN. Whatever walks such
//! a tree, plans it or drops it needs stack for each level, and often time for each pair of levels. What is too long is refused
//! before it is read.
//! Nesting by parentheses has a limit of its own, in the parser.
//!
//! # Not here
//! The limits of what plans may hold (`planner`): these are of texts.

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};
use skep_common::{Error, Result};

use crate::names;

/// Operators in one expression.
const OPERATORS_MAX: usize = 2_000;
/// Queries that UNION combines.
const UNIONS_MAX: usize = 300;
/// Queries that EXCEPT and INTERSECT combine, which become joins.
const DIFFERENCES_MAX: usize = 50;
/// Tables that one FROM joins.
const JOINS_MAX: usize = 100;

/// What was counted in one pair of parentheses.
#[derive(Default)]
struct Level {
    operators: usize,
    joins: usize,
    unions: usize,
    differences: usize,
    /// Whether commas join tables here.
    from: bool,
}

/// # Errors
/// [`Kind::Invalid`](skep_common::Kind::Invalid) at the first operator that is too many.
pub(super) fn check(tokens: &[TokenWithSpan]) -> Result<()> {
    let (mut level, mut outer) = (Level::default(), Vec::new());
    for TokenWithSpan { token, span } in tokens {
        match token {
            Token::LParen | Token::LBrace => outer.push(std::mem::take(&mut level)),
            Token::LBracket => {
                level.operators += 1;
                outer.push(std::mem::take(&mut level));
            }
            Token::RParen | Token::RBrace | Token::RBracket => level = outer.pop().unwrap_or_default(),
            Token::SemiColon => (level, outer) = (Level::default(), Vec::new()),
            Token::Comma => {
                level.operators = 0;
                level.joins += usize::from(level.from);
            }
            Token::Word(word) => of_keyword(word.keyword, &mut level),
            Token::Whitespace(_)
            | Token::Number(..)
            | Token::SingleQuotedString(_)
            | Token::Placeholder(_)
            | Token::Period
            | Token::EOF => {}
            _ => level.operators += 1,
        }
        let (what, max) = if level.operators > OPERATORS_MAX {
            ("operators in one expression", OPERATORS_MAX)
        } else if level.joins > JOINS_MAX {
            ("joins in one FROM", JOINS_MAX)
        } else if level.unions > UNIONS_MAX {
            ("queries combined by UNION", UNIONS_MAX)
        } else if level.differences > DIFFERENCES_MAX {
            ("queries combined by EXCEPT and INTERSECT", DIFFERENCES_MAX)
        } else {
            continue;
        };
        let error = Error::invalid(format!("more than {max} {what}"))
            .hint("write values into a list after IN or into VALUES, or load them into a table");
        return Err(match names::from_location(span.start) {
            Some(at) => error.at(at),
            None => error,
        });
    }
    Ok(())
}

fn of_keyword(keyword: Keyword, level: &mut Level) {
    use Keyword as K;
    match keyword {
        K::AND
        | K::OR
        | K::XOR
        | K::IS
        | K::LIKE
        | K::ILIKE
        | K::RLIKE
        | K::REGEXP
        | K::SIMILAR
        | K::BETWEEN
        | K::IN
        | K::AT
        | K::COLLATE
        | K::DIV
        | K::OVERLAPS
        | K::NOTNULL => level.operators += 1,
        K::JOIN | K::APPLY | K::PIVOT | K::UNPIVOT => level.joins += 1,
        K::UNION => {
            let Level { unions, differences, .. } = *level;
            *level = Level { unions: unions + 1, differences, ..Level::default() };
        }
        K::EXCEPT | K::INTERSECT | K::MINUS => {
            let Level { unions, differences, .. } = *level;
            *level = Level { unions, differences: differences + 1, ..Level::default() };
        }
        K::FROM | K::USING => (level.operators, level.from) = (0, true),
        K::SELECT
        | K::WHERE
        | K::GROUP
        | K::HAVING
        | K::ORDER
        | K::LIMIT
        | K::WINDOW
        | K::QUALIFY
        | K::SET => {
            (level.operators, level.from) = (0, false);
        }
        K::WHEN | K::THEN | K::ELSE => level.operators = 0,
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use skep_common::Kind;

    use crate::parse_one;

    fn chain(of: &str, with: &str, count: usize) -> String {
        vec![of; count].join(with)
    }

    #[test]
    fn chains_end_somewhere() {
        for sql in [
            format!("SELECT {}", chain("1", "+", 4_000)),
            format!("SELECT 1 WHERE {}", chain("1 = 1", " AND ", 2_000)),
            format!("SELECT a{}", "::INT".repeat(4_000)),
            format!("SELECT a{}", "[1]".repeat(4_000)),
            format!("SELECT 1{}", " IS NULL".repeat(4_000)),
            chain("SELECT 1", " UNION ALL ", 400),
            chain("SELECT 1", " EXCEPT ", 60),
            format!("SELECT 1 FROM {}", chain("t", " CROSS JOIN ", 400)),
            format!("SELECT 1 FROM {}", chain("t", ", ", 400)),
        ] {
            let error = parse_one(&sql).unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid);
            assert!(error.message().starts_with("more than "), "{error:?}");
            assert!(error.position().is_some(), "{error:?}");
        }
    }

    #[test]
    fn what_is_long_but_not_deep_is_read() {
        for sql in [
            format!("SELECT 1 WHERE 1 IN ({})", chain("1", ", ", 20_000)),
            format!("VALUES {}", chain("(1 + 1, 2 * 2)", ", ", 5_000)),
            format!("SELECT {}", chain("a + b * c AS d", ", ", 2_000)),
            format!("SELECT CASE {} END", "WHEN a = 1 AND b = 2 THEN c + 1 ".repeat(1_000)),
            chain("SELECT a FROM t, u JOIN v ON t.a = v.a", " UNION ALL ", 200),
        ] {
            parse_one(&sql).unwrap();
        }
    }
}
