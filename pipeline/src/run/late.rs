//! Which columns of which tables say to what interval a row belongs: where a query compares them with `$start`.
//!
//! With it, rows that came late tell which intervals have to be made again, without anybody naming them.
//! Pure.
//!
//! # Not here
//! Reading the changes of those tables (`decide`).

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, Query, Select, SetExpr, TableFactor, Value, Visit, Visitor,
};
use std::ops::ControlFlow;

use skep_engine::names;

use crate::project::Name;

/// The expression over a table's columns that is compared with `$start`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Watched {
    pub(super) table: Name,
    /// What the table is called where the expression stands.
    pub(super) alias: String,
    pub(super) time: String,
}

/// All of a query, those of outer queries first.
pub(super) fn watched(query: &Query) -> Vec<Watched> {
    let mut finder = Finder::default();
    let _ = query.visit(&mut finder);
    finder.found
}

#[derive(Default)]
struct Finder {
    found: Vec<Watched>,
}

impl Visitor for Finder {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        self.body(&query.body);
        ControlFlow::Continue(())
    }
}

impl Finder {
    fn body(&mut self, body: &SetExpr) {
        match body {
            SetExpr::Select(select) => self.select(select),
            SetExpr::SetOperation { left, right, .. } => {
                self.body(left);
                self.body(right);
            }
            _ => {}
        }
    }

    fn select(&mut self, select: &Select) {
        let Some(selection) = &select.selection else { return };
        let factors = select.from.iter().flat_map(|from| {
            std::iter::once(&from.relation).chain(from.joins.iter().map(|join| &join.relation))
        });
        let relations: Vec<Option<(Name, String)>> = factors.map(relation).collect();
        let mut compared = Vec::new();
        starts(selection, &mut compared);
        for time in compared {
            let mut names = Qualifiers::default();
            let _ = time.visit(&mut names);
            let named =
                |alias: &str| relations.iter().flatten().find(|(_, known)| known.as_str() == alias).cloned();
            let found = match (names.0.as_slice(), relations.as_slice()) {
                ([], _) => None,
                (all, [Some(only)]) if all.iter().all(|name| name.as_ref().is_none_or(|n| *n == only.1)) => {
                    Some(only.clone())
                }
                ([Some(first), rest @ ..], _) if rest.iter().all(|name| name.as_ref() == Some(first)) => {
                    named(first)
                }
                _ => None,
            };
            if let Some((table, alias)) = found {
                self.found.push(Watched { table, alias, time: time.to_string() });
            }
        }
    }
}

fn relation(factor: &TableFactor) -> Option<(Name, String)> {
    let TableFactor::Table { name, alias, args: None, .. } = factor else { return None };
    let idents: Vec<String> =
        name.0.iter().filter_map(|part| part.as_ident()).map(names::normalise).collect();
    let table = match idents.as_slice() {
        [name] => Name { schema: "main".to_owned(), name: name.clone() },
        [.., schema, name] => Name { schema: schema.clone(), name: name.clone() },
        [] => return None,
    };
    let alias = alias.as_ref().map_or_else(|| table.name.clone(), |alias| names::normalise(&alias.name));
    Some((table, alias))
}

/// The sides of comparisons that must hold whose other side is `$start`.
fn starts<'a>(condition: &'a Expr, found: &mut Vec<&'a Expr>) {
    match condition {
        Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
            starts(left, found);
            starts(right, found);
        }
        Expr::Nested(inside) => starts(inside, found),
        Expr::BinaryOp { left, op: BinaryOperator::GtEq | BinaryOperator::Gt, right } if is_start(right) => {
            found.push(left);
        }
        Expr::BinaryOp { left, op: BinaryOperator::LtEq | BinaryOperator::Lt, right } if is_start(left) => {
            found.push(right);
        }
        Expr::Between { expr, negated: false, low, .. } if is_start(low) => found.push(expr),
        _ => {}
    }
}

fn is_start(expr: &Expr) -> bool {
    match expr {
        Expr::Value(value) => {
            matches!(&value.value, Value::Placeholder(name) if name.eq_ignore_ascii_case("$start"))
        }
        Expr::Cast { expr, .. } | Expr::Nested(expr) => is_start(expr),
        _ => false,
    }
}

/// What stands before the columns of an expression.
#[derive(Default)]
struct Qualifiers(Vec<Option<String>>);

impl Visitor for Qualifiers {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        match expr {
            Expr::Identifier(_) => self.0.push(None),
            Expr::CompoundIdentifier(parts) => {
                let before = parts.len().checked_sub(2).and_then(|at| parts.get(at));
                self.0.push(before.map(names::normalise));
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(sql: &str) -> Vec<String> {
        let (query, _) = crate::rewrite::reads(sql).unwrap();
        let shown = |w: Watched| format!("{} AS {}: {}", w.table, w.alias, w.time);
        watched(&query).into_iter().map(shown).collect()
    }

    #[test]
    fn what_is_compared_with_the_start_says_the_interval() {
        assert_eq!(
            found("SELECT * FROM lake.f WHERE CAST(t AS TIMESTAMP) >= $start AND t < $end"),
            ["lake.f AS f: CAST(t AS TIMESTAMP)"]
        );
        assert_eq!(
            found(
                "WITH x AS (SELECT * FROM lake.o AS o JOIN lake.c ON o.c = c.id WHERE (o.at BETWEEN $start AND $end)) \
                 SELECT * FROM x UNION ALL SELECT * FROM s.y WHERE $start <= y.day"
            ),
            ["s.y AS y: y.day", "lake.o AS o: o.at"]
        );
        // Whose column it is nobody can tell; it need not hold; it is no table.
        assert!(found("SELECT * FROM a JOIN b ON true WHERE t >= $start").is_empty());
        assert!(found("SELECT * FROM a WHERE t >= $start OR x").is_empty());
        assert!(found("SELECT * FROM (SELECT * FROM a) AS a WHERE t >= $start").is_empty());
    }
}
