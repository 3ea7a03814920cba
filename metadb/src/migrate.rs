//! Numbered steps that bring a component's `skep_*` tables up to date.

use skep_common::{Error, Result};
use sqlx::AssertSqlSafe;

use crate::{MetaDb, database_error};

/// The table that knows which steps ran.
pub const MIGRATIONS: &str = "skep_migration";

pub(crate) async fn run(db: &MetaDb, component: &str, steps: &[&'static str]) -> Result<()> {
    let doing = || format!("cannot prepare the tables of '{component}'");
    let mut tx = db.begin().await?;
    let table =
        "CREATE TABLE IF NOT EXISTS skep_migration (component TEXT PRIMARY KEY, version INTEGER NOT NULL)";
    sqlx::raw_sql(AssertSqlSafe(db.dialect().definitions(table).into_owned()))
        .execute(tx.conn())
        .await
        .map_err(|e| database_error(doing(), e))?;
    let version: Option<(i64,)> = sqlx::query_as("SELECT version FROM skep_migration WHERE component = ?")
        .bind(component)
        .fetch_optional(tx.conn())
        .await
        .map_err(|e| database_error(doing(), e))?;
    let version = version.map_or(0, |(version,)| version);
    let known = i64::try_from(steps.len()).unwrap_or(i64::MAX);
    if version > known {
        return Err(Error::invalid(format!(
            "the tables of '{component}' in '{}' have version {version}, and this program knows versions up to {known}",
            db.location()
        ))
        .hint("a newer skep wrote this data directory: run that version, or restore a backup made before it"));
    }
    if version == known {
        return Ok(());
    }
    let done = usize::try_from(version).unwrap_or(0);
    for step in &steps[done..] {
        let sql = AssertSqlSafe(db.dialect().definitions(step).into_owned());
        sqlx::raw_sql(sql).execute(tx.conn()).await.map_err(|e| database_error(doing(), e))?;
    }
    sqlx::query(
        "INSERT INTO skep_migration (component, version) VALUES (?, ?) \
         ON CONFLICT (component) DO UPDATE SET version = excluded.version",
    )
    .bind(component)
    .bind(known)
    .execute(tx.conn())
    .await
    .map_err(|e| database_error(doing(), e))?;
    tx.commit().await
}
