//! Which commits commute: decides whether changes planned on a base may be placed on top of later commits.
//!
//! | ours, to one table | does not commute with theirs, to the same table |
//! |---|---|
//! | insert | drop, alter, delete |
//! | delete (and so any rewrite) | drop, alter, delete, compact, insert |
//! | alter | drop, alter |
//! | drop | drop |
//! | create a table or view | a thing of the same name in the schema, drop of the schema |
//! | drop a schema | drop of it, creation of anything in it |
//! | create a schema | a schema of the same name |
//!
//! Insert commutes with insert and with compaction, which is what lets many writers load one table. Two deletes from
//! one table never commute here, though DuckDB lets them when they touch different files: our rewrites decide on rows
//! of the whole table.
//!
//! # Invariants
//! - Pure: no I/O, no clock.
//! - Never more permissive than DuckDB's own check.
//!
//! # Source
//! The conflict rules of the DuckLake specification, "Conflict Resolution", and the behaviour of DuckDB 1.5.5.

use skep_common::Error;

use crate::changes::Token;

/// What the base knew, for changes that go by id on one side and by name on the other.
pub trait Names {
    /// The name of a schema of the base.
    fn schema(&self, id: i64) -> Option<String>;
    /// What to call a table or view of the base.
    fn object(&self, id: i64) -> String;
}

/// Whether `ours` may follow `theirs`, the changes that the snapshots after our base made.
///
/// # Errors
/// [`Kind::Conflict`](skep_common::Kind::Conflict) naming the first pair that does not commute.
pub fn check(ours: &[Token], theirs: &[(i64, Vec<Token>)], names: &impl Names) -> Result<(), Error> {
    for (snapshot, tokens) in theirs {
        for their in tokens {
            for our in ours {
                if clash(our, their, names) {
                    let what = describe(their, names);
                    return Err(Error::conflict(format!("snapshot {snapshot} {what} in the meantime"))
                        .hint("run the statement again: it will see that change"));
                }
            }
        }
    }
    Ok(())
}

fn clash(our: &Token, their: &Token, names: &impl Names) -> bool {
    use Token as T;
    let same_schema = |name: &str, id: &i64| names.schema(*id).is_some_and(|s| s.eq_ignore_ascii_case(name));
    match (our, their) {
        (T::CreatedSchema(a), T::CreatedSchema(b)) => a.eq_ignore_ascii_case(b),
        (T::CreatedTable(s, a) | T::CreatedView(s, a), T::CreatedTable(t, b) | T::CreatedView(t, b)) => {
            s.eq_ignore_ascii_case(t) && a.eq_ignore_ascii_case(b)
        }
        (T::CreatedTable(schema, _) | T::CreatedView(schema, _), T::DroppedSchema(id)) => {
            same_schema(schema, id)
        }
        (
            T::DroppedSchema(id),
            T::CreatedTable(schema, _)
            | T::CreatedView(schema, _)
            | T::CreatedScalarMacro(schema, _)
            | T::CreatedTableMacro(schema, _),
        ) => same_schema(schema, id),
        (T::DroppedSchema(a), T::DroppedSchema(b)) => a == b,
        (T::DroppedView(a), T::DroppedView(b) | T::AlteredView(b)) => a == b,
        _ => match (table_effect(our), table_effect(their)) {
            (Some((a, our)), Some((b, their))) => a == b && effects_clash(our, their),
            _ => false,
        },
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Effect {
    Insert,
    Delete,
    Alter,
    Drop,
    Compact,
}

fn table_effect(token: &Token) -> Option<(i64, Effect)> {
    Some(match token {
        Token::InsertedIntoTable(id) | Token::InlinedInsert(id) => (*id, Effect::Insert),
        Token::DeletedFromTable(id) | Token::InlinedDelete(id) => (*id, Effect::Delete),
        Token::AlteredTable(id) => (*id, Effect::Alter),
        Token::DroppedTable(id) => (*id, Effect::Drop),
        Token::MergeAdjacent(id)
        | Token::RewriteDelete(id)
        | Token::CompactedTable(id)
        | Token::InlineFlush(id) => (*id, Effect::Compact),
        _ => return None,
    })
}

fn effects_clash(our: Effect, their: Effect) -> bool {
    use Effect::{Alter, Compact, Delete, Drop, Insert};
    match our {
        Insert => matches!(their, Drop | Alter | Delete),
        Delete => matches!(their, Drop | Alter | Delete | Compact | Insert),
        Alter => matches!(their, Drop | Alter),
        Drop => matches!(their, Drop),
        Compact => matches!(their, Drop | Alter | Delete | Compact),
    }
}

fn describe(token: &Token, names: &impl Names) -> String {
    let object = |id: &i64| names.object(*id);
    match token {
        Token::CreatedSchema(name) => format!("created schema '{name}'"),
        Token::CreatedTable(schema, name) => format!("created table '{schema}.{name}'"),
        Token::CreatedView(schema, name) => format!("created view '{schema}.{name}'"),
        Token::CreatedScalarMacro(schema, name) | Token::CreatedTableMacro(schema, name) => {
            format!("created macro '{schema}.{name}'")
        }
        Token::DroppedSchema(id) => {
            format!("dropped schema '{}'", names.schema(*id).unwrap_or_else(|| id.to_string()))
        }
        Token::DroppedTable(id) => format!("dropped table {}", object(id)),
        Token::DroppedView(id) => format!("dropped view {}", object(id)),
        Token::DroppedScalarMacro(id) | Token::DroppedTableMacro(id) => format!("dropped macro {id}"),
        Token::AlteredTable(id) => format!("altered table {}", object(id)),
        Token::AlteredView(id) => format!("altered view {}", object(id)),
        Token::InsertedIntoTable(id) | Token::InlinedInsert(id) => {
            format!("inserted rows into table {}", object(id))
        }
        Token::DeletedFromTable(id) | Token::InlinedDelete(id) => {
            format!("deleted rows of table {}", object(id))
        }
        Token::InlineFlush(id)
        | Token::MergeAdjacent(id)
        | Token::RewriteDelete(id)
        | Token::CompactedTable(id) => format!("rewrote files of table {}", object(id)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::changes::parse;

    struct Base;

    impl Names for Base {
        fn schema(&self, id: i64) -> Option<String> {
            (id == 1).then(|| "lake".to_owned())
        }
        fn object(&self, id: i64) -> String {
            format!("'lake.t{id}'")
        }
    }

    /// Ours, theirs, whether they commute.
    #[test]
    fn the_matrix() {
        let table = [
            ("inserted_into_table:7", "inserted_into_table:7", true),
            ("inserted_into_table:7", "inlined_insert:7", true),
            ("inserted_into_table:7", "merge_adjacent:7", true),
            ("inserted_into_table:7", "rewrite_delete:7", true),
            ("inserted_into_table:7", "inline_flush:7", true),
            ("inserted_into_table:7", "deleted_from_table:7", false),
            ("inserted_into_table:7", "inlined_delete:7", false),
            ("inserted_into_table:7", "altered_table:7", false),
            ("inserted_into_table:7", "dropped_table:7", false),
            ("inserted_into_table:7", "dropped_table:8", true),
            ("inserted_into_table:7", "deleted_from_table:8", true),
            ("inserted_into_table:7", "dropped_view:7", true),
            ("deleted_from_table:7", "inserted_into_table:7", false),
            ("deleted_from_table:7", "inlined_insert:7", false),
            ("deleted_from_table:7", "deleted_from_table:7", false),
            ("deleted_from_table:7", "merge_adjacent:7", false),
            ("deleted_from_table:7", "rewrite_delete:7", false),
            ("deleted_from_table:7", "compacted_table:7", false),
            ("deleted_from_table:7", "inserted_into_table:8", true),
            ("altered_table:7", "altered_table:7", false),
            ("altered_table:7", "dropped_table:7", false),
            ("altered_table:7", "inserted_into_table:7", true),
            ("dropped_table:7", "dropped_table:7", false),
            ("dropped_table:7", "inserted_into_table:7", true),
            ("merge_adjacent:7", "deleted_from_table:7", false),
            ("merge_adjacent:7", "merge_adjacent:7", false),
            ("merge_adjacent:7", "inserted_into_table:7", true),
            ("created_table:\"lake\".\"t\"", "created_table:\"lake\".\"t\"", false),
            ("created_table:\"lake\".\"t\"", "created_table:\"lake\".\"T\"", false),
            ("created_table:\"lake\".\"t\"", "created_view:\"lake\".\"t\"", false),
            ("created_view:\"lake\".\"t\"", "created_table:\"lake\".\"t\"", false),
            ("created_table:\"lake\".\"t\"", "created_table:\"mart\".\"t\"", true),
            ("created_table:\"lake\".\"t\"", "created_table:\"lake\".\"u\"", true),
            ("created_table:\"lake\".\"t\"", "dropped_schema:1", false),
            ("created_table:\"mart\".\"t\"", "dropped_schema:1", true),
            ("created_view:\"lake\".\"t\"", "dropped_schema:1", false),
            ("dropped_schema:1", "created_table:\"lake\".\"t\"", false),
            ("dropped_schema:1", "created_scalar_macro:\"lake\".\"t\"", false),
            ("dropped_schema:1", "created_table:\"mart\".\"t\"", true),
            ("dropped_schema:1", "dropped_schema:1", false),
            ("dropped_schema:1", "dropped_table:7", true),
            ("created_schema:\"x\"", "created_schema:\"X\"", false),
            ("created_schema:\"x\"", "created_schema:\"y\"", true),
            ("dropped_view:7", "dropped_view:7", false),
            ("dropped_view:7", "altered_view:7", false),
            ("dropped_view:7", "dropped_table:7", true),
            ("dropped_table:7,created_table:\"lake\".\"t\"", "inserted_into_table:7", true),
            ("inserted_into_table:7,deleted_from_table:7", "inserted_into_table:7", false),
            ("inserted_into_table:7", "", true),
            ("", "dropped_table:7", true),
        ];
        for (ours, theirs, commute) in table {
            let theirs_parsed = [(3, parse(theirs).unwrap())];
            let verdict = check(&parse(ours).unwrap(), &theirs_parsed, &Base);
            assert_eq!(verdict.is_ok(), commute, "ours {ours}, theirs {theirs}: {verdict:?}");
        }
    }

    #[test]
    fn the_message_says_who_did_what() {
        let theirs = [(8, Vec::new()), (9, vec![Token::DeletedFromTable(7)])];
        let error = check(&[Token::InsertedIntoTable(7)], &theirs, &Base).unwrap_err();
        assert_eq!(error.message(), "snapshot 9 deleted rows of table 'lake.t7' in the meantime");
        assert!(error.kind().retryable());
    }
}
