//! CREATE and DROP.

use datafusion::sql::sqlparser::ast::{self, ColumnOption, ColumnOptionDef, DataType};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Token;
use skep_common::{Error, Result};

use super::alteration::{CheckSpec, Clauses, Location};
use super::read::Reader;
use super::statement::{
    ColumnSpec, CreateExternal, CreateTable, CreateTableAs, CreateView, Name, Options, Statement,
};
use super::{alter, clauses, copy};
use crate::names;

/// After `CREATE`.
pub(super) fn create(reader: &mut Reader<'_>) -> Result<Statement> {
    let or_replace = reader.parser.parse_keywords(&[Keyword::OR, Keyword::REPLACE]);
    let at = reader.here();
    match reader.peek_word().as_deref() {
        Some("schema" | "database") if !or_replace => {
            reader.parser.next_token();
            let if_not_exists = if_not_exists(reader);
            Ok(Statement::CreateSchema { name: schema(reader)?, if_not_exists })
        }
        Some("table") => {
            reader.parser.next_token();
            table(reader, or_replace)
        }
        Some("external") => {
            reader.parser.next_token();
            let result = reader.parser.expect_keyword_is(Keyword::TABLE);
            reader.ok(result)?;
            external(reader, or_replace)
        }
        Some("view") => {
            reader.parser.next_token();
            view(reader, or_replace)
        }
        Some("tag") => {
            reader.parser.next_token();
            tag(reader, or_replace)
        }
        Some("temporary" | "temp") => Err(Error::unsupported("temporary tables and views are not supported")
            .at(at)
            .hint("use WITH inside the query, or a schema of your own for scratch tables")),
        Some("materialized") => {
            Err(Error::unsupported("materialized views are not supported by this version")
                .at(at)
                .hint("CREATE TABLE ... AS SELECT keeps the rows of a query"))
        }
        Some(word @ ("index" | "unique" | "function" | "macro" | "sequence" | "type" | "role" | "user")) => {
            let word = if word == "unique" { "index" } else { word };
            Err(Error::unsupported(format!("CREATE {} is not supported", word.to_uppercase()))
                .at(at)
                .hint("schemas, tables, external tables and views can be created"))
        }
        _ => reader.expected("SCHEMA, TABLE, EXTERNAL TABLE or VIEW"),
    }
}

/// After `DROP`.
pub(super) fn drop(reader: &mut Reader<'_>) -> Result<Statement> {
    let at = reader.here();
    match reader.peek_word().as_deref() {
        Some("schema" | "database") => {
            reader.parser.next_token();
            let if_exists = if_exists(reader);
            let name = schema(reader)?;
            let cascade = reader.parser.parse_keyword(Keyword::CASCADE);
            let _ = reader.parser.parse_keyword(Keyword::RESTRICT);
            Ok(Statement::DropSchema { name, if_exists, cascade })
        }
        Some("tag") => {
            reader.parser.next_token();
            let if_exists = if_exists(reader);
            Ok(Statement::DropTag { name: label(reader)?, if_exists })
        }
        Some(word @ ("table" | "view" | "external")) => {
            let is_view = word == "view";
            reader.parser.next_token();
            if word == "external" {
                let result = reader.parser.expect_keyword_is(Keyword::TABLE);
                reader.ok(result)?;
            }
            let if_exists = if_exists(reader);
            let mut names = vec![reader.name()?];
            while reader.parser.consume_token(&Token::Comma) {
                names.push(reader.name()?);
            }
            if reader.parser.peek_keyword(Keyword::CASCADE) {
                return Err(Error::unsupported("DROP ... CASCADE drops nothing else for tables and views")
                    .at(reader.here())
                    .hint("leave CASCADE out; views that read the table fail until it is back"));
            }
            let _ = reader.parser.parse_keyword(Keyword::RESTRICT);
            Ok(if is_view {
                Statement::DropView { names, if_exists }
            } else {
                Statement::DropTable { names, if_exists }
            })
        }
        Some(
            word @ ("index" | "function" | "macro" | "sequence" | "type" | "role" | "user" | "materialized"),
        ) => Err(Error::unsupported(format!("DROP {} is not supported", word.to_uppercase())).at(at)),
        _ => reader.expected("SCHEMA, TABLE or VIEW"),
    }
}

/// `name [VERSION AS OF n | TIMESTAMP AS OF t]`
fn tag(reader: &mut Reader<'_>, or_replace: bool) -> Result<Statement> {
    let name = label(reader)?;
    let result = reader.parser.maybe_parse_table_version();
    let version = reader.ok(result)?.map(Box::new);
    Ok(Statement::CreateTag { name, or_replace, version })
}

/// A name, in quotes of either kind or none.
fn label(reader: &mut Reader<'_>) -> Result<String> {
    let result = reader.parser.parse_identifier();
    let ident = reader.ok(result)?;
    Ok(if ident.quote_style == Some('\'') { ident.value } else { names::normalise(&ident) })
}

pub(super) fn if_not_exists(reader: &mut Reader<'_>) -> bool {
    reader.parser.parse_keywords(&[Keyword::IF, Keyword::NOT, Keyword::EXISTS])
}

pub(super) fn if_exists(reader: &mut Reader<'_>) -> bool {
    reader.parser.parse_keywords(&[Keyword::IF, Keyword::EXISTS])
}

/// A schema's name, which may begin with the catalog.
fn schema(reader: &mut Reader<'_>) -> Result<String> {
    let at = reader.here();
    let name = reader.name()?;
    match name.schema.as_deref() {
        None => Ok(name.name),
        Some(catalog) if catalog == names::CATALOG => Ok(name.name),
        Some(_) => Err(Error::invalid(format!("'{name}' is not the name of a schema")).at(at)),
    }
}

fn table(reader: &mut Reader<'_>, or_replace: bool) -> Result<Statement> {
    let if_not_exists = exclusive(reader, or_replace)?;
    let name = reader.name()?;
    if reader.take_word("like") {
        let like = reader.name()?;
        return Ok(Statement::CreateTableLike { name, if_not_exists, or_replace, like });
    }
    let mut clauses = Clauses::default();
    let mut columns = columns(reader, Some(&mut clauses.checks))?;
    let comment = table_clauses(reader, &mut columns, &mut clauses)?;
    let at = reader.here();
    if reader.parser.parse_keyword(Keyword::AS) {
        let query = reader.query()?;
        if let Some(column) = columns.iter().find(|c| c.default.is_some()) {
            return Err(Error::unsupported(format!(
                "column '{}' of CREATE TABLE ... AS has a default",
                column.name
            ))
            .at(column.at.unwrap_or(at))
            .hint("ALTER TABLE t ALTER COLUMN c SET DEFAULT gives it one afterwards"));
        }
        return Ok(Statement::CreateTableAs(CreateTableAs {
            name,
            if_not_exists,
            or_replace,
            columns,
            comment,
            clauses,
            query,
        }));
    }
    if columns.is_empty() {
        return reader.expected("columns in parentheses, LIKE and a table, or AS and a query");
    }
    require_types(&columns)?;
    Ok(Statement::CreateTable(CreateTable { name, if_not_exists, or_replace, columns, comment, clauses }))
}

/// What stands behind the columns. Returns the comment.
fn table_clauses(
    reader: &mut Reader<'_>,
    columns: &mut Vec<ColumnSpec>,
    clauses: &mut Clauses,
) -> Result<Option<String>> {
    let mut comment = None;
    loop {
        let at = reader.here();
        match reader.peek_word().as_deref() {
            Some("comment") => {
                reader.parser.next_token();
                comment = Some(reader.string("the comment in single quotes")?);
            }
            Some("partitioned") => {
                reader.parser.next_token();
                by(reader)?;
                let (keys, declared) = clauses::keys_or_columns(reader, true)?;
                clauses.partitions = keys;
                columns.extend(declared);
            }
            Some("sorted") => {
                reader.parser.next_token();
                by(reader)?;
                clauses.sorting = clauses::sorting(reader)?;
            }
            Some("tblproperties") => {
                reader.parser.next_token();
                clauses.properties = clauses::properties(reader)?;
            }
            Some("clustered" | "cluster") => {
                return Err(Error::unsupported("CLUSTERED BY is not supported")
                    .at(at)
                    .hint("PARTITIONED BY (bucket(8, column)) and SORTED BY (column) say the same"));
            }
            Some("location") => {
                reader.parser.next_token();
                let at = reader.here();
                let text = reader.string("the folder in single quotes")?;
                clauses.location = Some(Location { text, at });
            }
            Some("stored" | "row") => {
                return Err(Error::invalid("STORED AS belongs to external tables")
                    .at(at)
                    .hint("write CREATE EXTERNAL TABLE, or leave the clause out: tables of the catalog are in Parquet"));
            }
            _ => return Ok(comment),
        }
    }
}

fn by(reader: &mut Reader<'_>) -> Result<()> {
    let result = reader.parser.expect_keyword_is(Keyword::BY);
    reader.ok(result)
}

/// `IF NOT EXISTS`, which says the opposite of `OR REPLACE`.
fn exclusive(reader: &mut Reader<'_>, or_replace: bool) -> Result<bool> {
    let at = reader.here();
    let found = if_not_exists(reader);
    if found && or_replace {
        return Err(Error::invalid("OR REPLACE and IF NOT EXISTS exclude each other").at(at));
    }
    Ok(found)
}

fn require_types(columns: &[ColumnSpec]) -> Result<()> {
    match columns.iter().find(|column| column.ty == DataType::Unspecified) {
        None => Ok(()),
        Some(column) => {
            let error =
                Error::invalid(format!("column '{}' has no type", column.name)).hint("as in: name VARCHAR");
            Err(column.at.map_or(error.clone(), |at| error.at(at)))
        }
    }
}

/// `(name type NOT NULL DEFAULT x, CHECK (...), ...)`, or nothing. Types may be left out. Constraints go into `checks`;
/// without it they are refused.
fn columns(reader: &mut Reader<'_>, mut checks: Option<&mut Vec<CheckSpec>>) -> Result<Vec<ColumnSpec>> {
    if !reader.parser.consume_token(&Token::LParen) {
        return Ok(Vec::new());
    }
    let mut columns: Vec<ColumnSpec> = Vec::new();
    loop {
        let at = reader.here();
        if let Some("primary" | "foreign" | "unique" | "check" | "constraint") = reader.peek_word().as_deref()
            && !matches!(reader.parser.peek_nth_token_ref(1).token, Token::Comma | Token::RParen)
        {
            let check = clauses::check(reader)?;
            match &mut checks {
                Some(checks) => checks.push(check),
                None => return Err(constraint("CHECK").at(at)),
            }
        } else {
            let mut column = column(reader)?;
            if columns.iter().any(|other| other.name == column.name) {
                return Err(Error::invalid(format!("column '{}' is named twice", column.name)).at(at));
            }
            match &mut checks {
                Some(checks) => checks.append(&mut column.checks),
                None if column.checks.is_empty() => {}
                None => return Err(constraint("CHECK").at(at)),
            }
            columns.push(column);
        }
        if reader.parser.consume_token(&Token::RParen) {
            return Ok(columns);
        }
        if !reader.parser.consume_token(&Token::Comma) {
            return reader.expected("',' or ')' after the column");
        }
    }
}

fn column(reader: &mut Reader<'_>) -> Result<ColumnSpec> {
    let at = Some(reader.here());
    let bare = matches!(reader.parser.peek_nth_token_ref(1).token, Token::Comma | Token::RParen);
    if bare {
        let result = reader.parser.parse_identifier();
        let name = names::normalise(&reader.ok(result)?);
        return Ok(ColumnSpec::new(name, DataType::Unspecified, at));
    }
    let result = reader.parser.parse_column_def();
    let definition = reader.ok(result)?;
    let mut column = ColumnSpec::new(names::normalise(&definition.name), definition.data_type, at);
    for ColumnOptionDef { name, option: found } in definition.options {
        option(&mut column, found).map_err(|e| at.map_or(e.clone(), |at| e.at(at)))?;
        // A constraint may have a name of its own.
        if let (Some(name), Some(check)) = (name, column.checks.last_mut()) {
            check.name.get_or_insert(names::normalise(&name));
        }
    }
    Ok(column)
}

/// Takes what stands behind the type of a column.
pub(super) fn option(column: &mut ColumnSpec, option: ColumnOption) -> Result<()> {
    if let Some(mut check) = alter::column_check(&option) {
        check.at = column.at;
        column.checks.push(check);
        return Ok(());
    }
    match option {
        ColumnOption::Null => {}
        ColumnOption::NotNull => column.nullable = false,
        ColumnOption::Default(expr) => column.default = Some(expr),
        ColumnOption::Comment(text) => column.comment = Some(text),
        ColumnOption::PrimaryKey(_) => return Err(constraint("PRIMARY KEY")),
        ColumnOption::Unique(_) => return Err(constraint("UNIQUE")),
        ColumnOption::ForeignKey(_) => return Err(constraint("REFERENCES")),
        other => {
            return Err(Error::unsupported(format!(
                "'{other}' of column '{}' is not supported",
                column.name
            ))
            .hint("columns take a type, NOT NULL, DEFAULT, CHECK and COMMENT"));
        }
    }
    Ok(())
}

pub(super) fn constraint(name: &str) -> Error {
    Error::unsupported(format!("{name} constraints are not supported"))
        .hint("leave it out; NOT NULL and, on tables of the catalog, CHECK are enforced")
}

fn external(reader: &mut Reader<'_>, or_replace: bool) -> Result<Statement> {
    let if_not_exists = exclusive(reader, or_replace)?;
    let name = reader.name()?;
    let columns = columns(reader, None)?;
    require_types(&columns)?;
    let mut table = CreateExternal {
        name,
        if_not_exists,
        or_replace,
        columns,
        format: None,
        location: String::new(),
        partitions: Vec::new(),
        options: Options::default(),
        comment: None,
    };
    let mut located = false;
    loop {
        match reader.peek_word().as_deref() {
            Some("stored") => {
                reader.parser.next_token();
                let result = reader.parser.expect_keyword_is(Keyword::AS);
                reader.ok(result)?;
                let result = reader.parser.parse_identifier();
                table.format = Some(reader.ok(result)?.value.to_ascii_lowercase());
            }
            Some("partitioned") => {
                reader.parser.next_token();
                let result = reader.parser.expect_keyword_is(Keyword::BY);
                reader.ok(result)?;
                if reader.parser.peek_token_ref().token != Token::LParen {
                    return reader.expected("partition columns in parentheses");
                }
                table.partitions = self::columns(reader, None)?;
            }
            Some("location") => {
                reader.parser.next_token();
                table.location = reader.string("a folder or pattern in single quotes")?;
                located = true;
            }
            Some("options" | "with") => {
                reader.parser.next_token();
                table.options = copy::options(reader)?;
            }
            Some("comment") => {
                reader.parser.next_token();
                table.comment = Some(reader.string("the comment in single quotes")?);
            }
            _ if located => break,
            _ => return reader.expected("LOCATION '...'"),
        }
    }
    Ok(Statement::CreateExternal(table))
}

fn view(reader: &mut Reader<'_>, or_replace: bool) -> Result<Statement> {
    let if_not_exists = exclusive(reader, or_replace)?;
    let name: Name = reader.name()?;
    let mut columns = Vec::new();
    if reader.parser.consume_token(&Token::LParen) {
        let result = reader.parser.parse_comma_separated(Parser::parse_identifier);
        columns = reader.ok(result)?.iter().map(names::normalise).collect();
        reader.expect(&Token::RParen)?;
    }
    let comment =
        if reader.take_word("comment") { Some(reader.string("the comment in single quotes")?) } else { None };
    let result = reader.parser.expect_keyword_is(Keyword::AS);
    reader.ok(result)?;
    let query: Box<ast::Query> = reader.query()?;
    Ok(Statement::CreateView(CreateView { name, if_not_exists, or_replace, columns, query, comment }))
}
