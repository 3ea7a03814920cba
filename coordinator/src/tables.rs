//! What drivers list: schemas, tables and views with their columns.

use std::sync::Arc;

use skep_common::Result;
use skep_engine::Planner;
use skep_engine::names::{self, INFORMATION_SCHEMA};
use skep_engine::planner::information;

use crate::session::{Session, TableFilter, TableInfo, TableKind};
use crate::system;

pub(crate) async fn schemas(session: &Session) -> Result<Vec<String>> {
    let snapshot = session.snapshot().await?;
    let mut all: Vec<String> = snapshot.schemas().map(|schema| schema.name.clone()).collect();
    all.extend([INFORMATION_SCHEMA.to_owned(), system::SCHEMA.to_owned()]);
    all.sort_unstable();
    all.dedup();
    Ok(all)
}

pub(crate) async fn tables(session: &Session, filter: &TableFilter) -> Result<Vec<TableInfo>> {
    let wanted =
        |text: &str, pattern: &Option<String>| pattern.as_deref().is_none_or(|p| names::like(text, p));
    let shared = &session.0.shared;
    let base = session.snapshot().await?;
    let settings = session.0.settings.lock().clone();
    let planner = Planner::new(Arc::clone(&shared.environment), base, &settings).await?;
    let snapshot = Arc::clone(planner.snapshot());
    let mut found = Vec::new();
    let info = |schema: &str, name: &str, kind, columns, comment| TableInfo {
        catalog: names::CATALOG.to_owned(),
        schema: schema.to_owned(),
        name: name.to_owned(),
        kind,
        columns,
        comment,
    };
    for schema in snapshot.schemas().filter(|schema| wanted(&schema.name, &filter.schema)) {
        for table in snapshot.tables(&schema.name).filter(|table| wanted(&table.name, &filter.table)) {
            let (columns, comment) = (table.arrow_schema(), table.comment.clone());
            found.push(info(&schema.name, &table.name, TableKind::Table, columns, comment));
        }
        for view in snapshot.views(&schema.name).filter(|view| wanted(&view.name, &filter.table)) {
            match planner.columns_of(&schema.name, &view.name).await {
                Ok(columns) => found.push(info(&schema.name, &view.name, TableKind::View, columns, None)),
                // A view over a table that is gone: listing the others must go on.
                Err(error) => tracing::debug!(view = view.name, error = error.report(), "not listed"),
            }
        }
    }
    let own =
        system::schemas(&session.0.shared).into_iter().map(|(name, columns)| (system::SCHEMA, name, columns));
    let standard = information::schemas().map(|(name, columns)| (INFORMATION_SCHEMA, name, columns));
    for (schema, name, columns) in own.chain(standard) {
        if wanted(schema, &filter.schema) && wanted(name, &filter.table) {
            found.push(info(schema, name, TableKind::System, columns, None));
        }
    }
    found.sort_by(|a, b| (&a.schema, &a.name).cmp(&(&b.schema, &b.name)));
    Ok(found)
}
