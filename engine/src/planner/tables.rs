//! Loads what a query names into the planner's catalog.

use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::sql::sqlparser::ast::Query;
use skep_catalog::TableDef;
use skep_common::{Error, Position, Result};

use super::references::{self, Reference};
use super::{Planner, history, information, view};
use crate::files::{FileOptions, FileTable, Place, declared};
use crate::provider::provide;
use crate::sql::Name;
use crate::table::SkepTable;
use crate::{files, names, scan};

/// Views over views that are followed.
const VIEW_DEPTH_MAX: usize = 32;

/// Loads every table, view and file that `query` names. `within`: the views that are being expanded.
pub(super) async fn load(planner: &Planner, query: &Query, within: &mut Vec<String>) -> Result<()> {
    for reference in references::of(query)? {
        match reference {
            Reference::File(path, at) => {
                let schema = planner.settings.schema();
                if planner.catalogs.get(schema, &path).is_none() {
                    let table = open(planner, &path).await.map_err(|e| placed(e, at))?;
                    planner.catalogs.put(schema, &path, table);
                }
            }
            Reference::Table(name) => {
                let schema = name.schema_or(planner.settings.schema()).to_owned();
                if planner.catalogs.get(&schema, &name.name).is_none() {
                    let table = Box::pin(provider(planner, &name, &schema, within)).await?;
                    planner.catalogs.put(&schema, &name.name, table);
                }
            }
        }
    }
    Ok(())
}

async fn open(planner: &Planner, path: &str) -> Result<Arc<dyn TableProvider>> {
    let place = Place::parse(path, planner.settings.directory())?;
    let options = FileOptions::parse([], path)?;
    let views = planner.settings.view_types();
    let table =
        FileTable::open(&planner.environment, place, options, files::Declared::default(), views).await?;
    Ok(provide(Arc::new(table)))
}

pub(super) async fn provider(
    planner: &Planner,
    name: &Name,
    schema: &str,
    within: &mut Vec<String>,
) -> Result<Arc<dyn TableProvider>> {
    if schema == names::INFORMATION_SCHEMA {
        return information::table(planner, name).await;
    }
    if schema == names::SYSTEM_SCHEMA
        && let Some(table) = history::table(planner, &name.name).await?
    {
        return Ok(table);
    }
    if let Some(def) = planner.snapshot.table(schema, &name.name) {
        return table(planner, def).await;
    }
    if let Some(view) = planner.snapshot.view(schema, &name.name) {
        let key = format!("{schema}.{}", name.name);
        if within.contains(&key) || within.len() >= VIEW_DEPTH_MAX {
            return Err(Error::invalid(format!("view '{key}' reads itself"))
                .hint("CREATE OR REPLACE VIEW one of the views between"));
        }
        within.push(key);
        let result = view::expand(planner, view, within).await;
        within.pop();
        return result.map_err(|e| placed(e, name.at));
    }
    Err(missing(planner, name))
}

/// The table `def`, catalog or external, with its files.
pub(super) async fn table(planner: &Planner, def: &Arc<TableDef>) -> Result<Arc<dyn TableProvider>> {
    if def.external.is_none() {
        return Ok(provide(Arc::new(own(planner, def).await?)));
    }
    Ok(provide(Arc::new(external(planner, def).await?)))
}

/// The files of an external table, as they are now.
pub(super) async fn external(planner: &Planner, def: &Arc<TableDef>) -> Result<FileTable> {
    let views = planner.settings.view_types();
    let environment = &planner.environment;
    let Some(external) = &def.external else {
        return Err(Error::internal(format!("table '{}' is not an external one", def.name)));
    };
    let options = external.options.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let format = [("format", external.format.as_str())];
    let options =
        FileOptions::parse(options.filter(|(name, _)| *name != "format").chain(format), &external.location)?;
    let place = Place::parse(&external.location, None)?;
    let declared = declared(&def.arrow_schema(), &external.partition_columns);
    let table = FileTable::open(environment, place, options, declared, views).await;
    table.map_err(|e| e.context(format!("external table '{}.{}' cannot be read", def.schema_name, def.name)))
}

/// The table `def` of the catalog, with its files.
pub(super) async fn own(planner: &Planner, def: &Arc<TableDef>) -> Result<SkepTable> {
    let environment = &planner.environment;
    let files = environment.catalog.files(&planner.snapshot, def.id).await?;
    scan::ask(environment, def, &files).await?;
    let table =
        SkepTable::new(Arc::clone(def), files, Arc::clone(environment), planner.settings.view_types())?;
    Ok(table.with_distinct(environment.catalog.distinct(def.id).await?))
}

/// The error of a name that is neither a table nor a view, with the nearest that is.
pub(super) fn missing(planner: &Planner, name: &Name) -> Error {
    let snapshot = &planner.snapshot;
    let schema = name.schema_or(planner.settings.schema());
    let written = match &name.schema {
        Some(schema) => format!("{schema}.{}", name.name),
        None => name.name.clone(),
    };
    if snapshot.schema(schema).is_none() {
        let known: Vec<&str> = snapshot.schemas().map(|schema| schema.name.as_str()).collect();
        let error =
            Error::not_found(format!("schema '{schema}' does not exist, so there is no table '{written}'"));
        let error = match names::nearest(schema, known.iter().copied()) {
            Some(near) => error.hint(format!("did you mean '{near}.{}'?", name.name)),
            None => error.hint(format!("schemas are {}", known.join(", "))),
        };
        return placed(error, name.at);
    }
    let of = |schema: &str| -> Vec<String> {
        let tables = snapshot.tables(schema).map(|table| table.name.clone());
        tables.chain(snapshot.views(schema).map(|view| view.name.clone())).collect()
    };
    let here = of(schema);
    let error = Error::not_found(format!("table '{written}' does not exist"));
    let prefix = name.schema.as_ref().map(|schema| format!("{schema}.")).unwrap_or_default();
    let error = if let Some(near) = names::nearest(&name.name, here.iter().map(String::as_str)) {
        error.hint(format!("did you mean '{prefix}{near}'?"))
    } else if let Some(other) = snapshot.schemas().find(|other| of(&other.name).contains(&name.name)) {
        error.hint(format!("did you mean '{}.{}'?", other.name, name.name))
    } else {
        error.hint(format!("SHOW TABLES FROM {} lists them", names::quote(schema)))
    };
    placed(error, name.at)
}

/// `error` at the place of the name that led to it; places inside a view mean nothing to the reader.
pub(super) fn placed(error: Error, at: Option<Position>) -> Error {
    match (at, error.position()) {
        (Some(at), None) => error.at(at),
        _ => error,
    }
}
