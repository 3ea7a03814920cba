//! The tables that a query names.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use datafusion::sql::parser::Statement as DfStatement;
use datafusion::sql::resolve::resolve_table_references;
use datafusion::sql::sqlparser::ast::{
    self, Ident, ObjectName, ObjectNamePart, Query, TableFactor, Visit, VisitMut, Visitor, VisitorMut,
};
use skep_common::{Position, Result};

use super::changes;
use crate::sql::Name;
use crate::{error, names};

/// Something that stands in FROM.
#[derive(Debug, Clone)]
pub(super) enum Reference {
    /// A table or view.
    Table(Name),
    /// A file, folder or pattern in single quotes.
    File(String, Option<Position>),
}

/// What `query` reads, without the names that WITH gives inside it and without table functions.
///
/// # Errors
/// [`Kind::Invalid`](skep_common::Kind::Invalid) for names that cannot be.
pub(super) fn of(query: &Query) -> Result<Vec<Reference>> {
    let statement = DfStatement::Statement(Box::new(ast::Statement::Query(Box::new(query.clone()))));
    let (found, _) = resolve_table_references(&statement, true).map_err(error::from_datafusion)?;
    let mut tables = Tables::default();
    let _ = query.visit(&mut tables);
    let mut references = Vec::new();
    for reference in found {
        let parts = reference.to_vec();
        // A function in FROM is resolved as a name too.
        let Some(name) = tables.names.iter().find(|name| normalised(name) == parts) else { continue };
        references.push(match file(name) {
            Some(path) => Reference::File(path, names::position(name)),
            None => Reference::Table(Name::from_ast(name)?),
        });
    }
    Ok(references)
}

fn normalised(name: &ObjectName) -> Vec<String> {
    name.0.iter().filter_map(|part| part.as_ident()).map(names::normalise).collect()
}

fn file(name: &ObjectName) -> Option<String> {
    match name.0.as_slice() {
        [ObjectNamePart::Identifier(Ident { value, quote_style: Some('\''), .. })] => Some(value.clone()),
        _ => None,
    }
}

#[derive(Default)]
struct Tables {
    names: Vec<ObjectName>,
}

impl Visitor for Tables {
    type Break = ();

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        if let TableFactor::Table { name, args: None, .. } = factor {
            self.names.push(name.clone());
        }
        ControlFlow::Continue(())
    }
}

/// Puts `schema` before every name of a table that has none.
///
/// A name that WITH gives anywhere in the query is left alone.
pub(super) fn qualify(query: &mut Query, schema: &str) {
    let mut given = Given::default();
    let _ = Visit::visit(query, &mut given);
    let mut qualify = Qualify { schema: schema.to_owned(), given: given.0 };
    let _ = VisitMut::visit(query, &mut qualify);
}

#[derive(Default)]
struct Given(BTreeSet<String>);

impl Visitor for Given {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        for cte in query.with.iter().flat_map(|with| &with.cte_tables) {
            self.0.insert(names::normalise(&cte.alias.name));
        }
        ControlFlow::Continue(())
    }
}

struct Qualify {
    schema: String,
    given: BTreeSet<String>,
}

impl VisitorMut for Qualify {
    type Break = ();

    fn post_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        if let TableFactor::Table { name, args: Some(args), .. } = factor
            && changes::named(name)
        {
            changes::qualify(args, &self.schema);
        }
        if let TableFactor::Table { name, args: None, .. } = factor
            && let [ObjectNamePart::Identifier(only)] = name.0.as_slice()
            && only.quote_style != Some('\'')
            && !self.given.contains(&names::normalise(only))
        {
            let schema = Ident::with_quote('"', self.schema.clone());
            name.0.insert(0, ObjectNamePart::Identifier(schema));
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::parse_query;

    fn shown(sql: &str) -> String {
        let references = of(&parse_query(sql).unwrap()).unwrap();
        let shown: Vec<String> = references
            .iter()
            .map(|reference| match reference {
                Reference::Table(name) => name.to_string(),
                Reference::File(path, _) => format!("<{path}>"),
            })
            .collect();
        shown.join(" ")
    }

    #[test]
    fn what_a_query_reads() {
        assert_eq!(shown("SELECT * FROM a JOIN s.\"B\" ON true WHERE x IN (SELECT y FROM c)"), "a c s.\"B\"");
        assert_eq!(shown("WITH a AS (SELECT * FROM b) SELECT * FROM a, 'd/*.csv'"), "b <d/*.csv>");
        assert_eq!(shown("SELECT * FROM generate_series(1, 2) AS g(x)"), "");
    }

    #[test]
    fn names_get_their_schema_where_they_have_none() {
        let mut query = parse_query(
            "WITH c AS (SELECT * FROM a) SELECT *, (SELECT max(x) FROM d) FROM c, b.t, 'f.csv', range(3)",
        )
        .unwrap();
        qualify(&mut query, "lake");
        insta::assert_snapshot!(query.to_string(), @r#"WITH c AS (SELECT * FROM "lake".a) SELECT *, (SELECT max(x) FROM "lake".d) FROM c, b.t, 'f.csv', range(3)"#);
    }
}
