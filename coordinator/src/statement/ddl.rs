//! Names: which changes a CREATE or DROP asks of one snapshot. Pure; committing is `commit`'s.

use skep_catalog::{Change, Snapshot};
use skep_common::{Error, Result};
use skep_engine::names;
use skep_engine::sql::Name;

/// The schemas that every catalog has from the start; they cannot be dropped.
const FIXED_SCHEMAS: [&str; 4] = ["main", "lake", "warehouse", "mart"];

/// What a name stands for in a snapshot.
enum Found {
    Table(i64),
    View(i64),
}

fn find(snapshot: &Snapshot, schema: &str, name: &str) -> Option<Found> {
    let table = snapshot.table(schema, name).map(|table| Found::Table(table.id));
    table.or_else(|| snapshot.view(schema, name).map(|view| Found::View(view.id)))
}

fn located(error: Error, name: &Name) -> Error {
    match name.at {
        Some(at) => error.at(at),
        None => error,
    }
}

/// The schema must exist.
pub(crate) fn require_schema(snapshot: &Snapshot, schema: &str, name: Option<&Name>) -> Result<()> {
    if snapshot.schema(schema).is_some() {
        return Ok(());
    }
    let mut error = Error::not_found(format!("schema '{schema}' does not exist"));
    error = match names::nearest(schema, snapshot.schemas().map(|s| s.name.as_str())) {
        Some(near) => error.hint(format!("did you mean '{near}'? SHOW SCHEMAS lists all")),
        None => error.hint(format!("create it with CREATE SCHEMA {schema}; SHOW SCHEMAS lists all")),
    };
    Err(match name {
        Some(name) => located(error, name),
        None => error,
    })
}

/// `CREATE SCHEMA`. Empty: nothing to do.
pub(crate) fn create_schema(snapshot: &Snapshot, name: &str, if_not_exists: bool) -> Result<Vec<Change>> {
    if name == "information_schema" {
        return Err(Error::already_exists("schema 'information_schema' is the system's"));
    }
    match snapshot.schema(name) {
        None => Ok(vec![Change::CreateSchema { name: name.to_owned() }]),
        Some(_) if if_not_exists => Ok(Vec::new()),
        Some(_) => Err(Error::already_exists(format!("schema '{name}' exists already"))
            .hint("CREATE SCHEMA IF NOT EXISTS does nothing in that case")),
    }
}

/// `DROP SCHEMA [CASCADE]`.
pub(crate) fn drop_schema(
    snapshot: &Snapshot,
    name: &str,
    if_exists: bool,
    cascade: bool,
) -> Result<Vec<Change>> {
    if FIXED_SCHEMAS.contains(&name) {
        return Err(Error::invalid(format!(
            "schema '{name}' is part of every catalog and cannot be dropped"
        )));
    }
    let Some(schema) = snapshot.schema(name) else {
        return if if_exists {
            Ok(Vec::new())
        } else {
            require_schema(snapshot, name, None).map(|()| Vec::new())
        };
    };
    let tables = snapshot.tables(name).map(|table| Change::DropTable { id: table.id });
    let views = snapshot.views(name).map(|view| Change::DropView { id: view.id });
    let mut changes: Vec<Change> = tables.chain(views).collect();
    if !changes.is_empty() && !cascade {
        let count = changes.len();
        let things = if count == 1 { "table or view" } else { "tables and views" };
        return Err(Error::invalid(format!("schema '{name}' holds {count} {things}"))
            .hint(format!("DROP SCHEMA {name} CASCADE drops them too")));
    }
    changes.push(Change::DropSchema { id: schema.id });
    Ok(changes)
}

/// What to do about a name that may be taken: `None` if the statement has nothing to do, else what makes room for it.
pub(crate) fn make_room(
    snapshot: &Snapshot,
    schema: &str,
    name: &Name,
    if_not_exists: bool,
    or_replace: bool,
    view: bool,
) -> Result<Option<Vec<Change>>> {
    require_schema(snapshot, schema, Some(name))?;
    let full = format!("{schema}.{}", name.name);
    match find(snapshot, schema, &name.name) {
        None => Ok(Some(Vec::new())),
        Some(Found::Table(id)) if or_replace && !view => Ok(Some(vec![Change::DropTable { id }])),
        // The change that puts the view replaces it.
        Some(Found::View(_)) if or_replace && view => Ok(Some(Vec::new())),
        Some(_) if if_not_exists => Ok(None),
        Some(found) => {
            let what = if matches!(found, Found::Table(_)) { "table" } else { "view" };
            let error = Error::already_exists(format!("{what} '{full}' exists already"));
            let hint = match (found, view) {
                (Found::Table(_), true) | (Found::View(_), false) => {
                    format!("drop the {what} first, or take another name")
                }
                (_, true) => "CREATE OR REPLACE VIEW replaces it".to_owned(),
                (_, false) => "CREATE OR REPLACE TABLE replaces it, IF NOT EXISTS leaves it".to_owned(),
            };
            Err(located(error.hint(hint), name))
        }
    }
}

/// `DROP TABLE a, b` (or views): what exists, or an error for what does not.
pub(crate) fn drop_named(
    snapshot: &Snapshot,
    default_schema: &str,
    names: &[Name],
    if_exists: bool,
    views: bool,
) -> Result<Vec<Change>> {
    let mut changes = Vec::new();
    for name in names {
        let schema = name.schema_or(default_schema);
        match (find(snapshot, schema, &name.name), views) {
            (Some(Found::Table(id)), false) => changes.push(Change::DropTable { id }),
            (Some(Found::View(id)), true) => changes.push(Change::DropView { id }),
            (Some(Found::Table(_)), true) => {
                let error = Error::invalid(format!("'{schema}.{}' is a table, not a view", name.name));
                return Err(located(error.hint("use DROP TABLE"), name));
            }
            (Some(Found::View(_)), false) => {
                let error = Error::invalid(format!("'{schema}.{}' is a view, not a table", name.name));
                return Err(located(error.hint("use DROP VIEW"), name));
            }
            (None, _) if if_exists => {}
            (None, _) => return Err(missing(snapshot, schema, name, views)),
        }
    }
    Ok(changes)
}

/// The error for a table or view that is not there, with the nearest name.
pub(crate) fn missing(snapshot: &Snapshot, schema: &str, name: &Name, view: bool) -> Error {
    let what = if view { "view" } else { "table" };
    let error = Error::not_found(format!("{what} '{name}' does not exist"));
    let near = if view {
        names::nearest(&name.name, snapshot.views(schema).map(|v| v.name.as_str()))
    } else {
        names::nearest(&name.name, snapshot.tables(schema).map(|t| t.name.as_str()))
    };
    let hint = match near {
        Some(near) => format!("did you mean '{schema}.{near}'?"),
        None => format!("SHOW TABLES FROM {schema} lists what is there"),
    };
    located(error.hint(hint), name)
}
