//! What snapshots did to the files of a table, one by one.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use skep_common::{Error, Kind, Result};
use skep_metadb::database_error;

use crate::catalog::Catalog;
use crate::changes::{self, Token};
use crate::files::{self, List};
use crate::load;
use crate::model::{DataFile, Snapshot};

/// Snapshots that changed a table and are looked at by one call.
const STEPS_MAX: usize = 1000;

/// What one snapshot did to the rows of a table, as far as files tell: rows that only moved from file to file are among
/// those before and those after.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// The snapshot.
    pub snapshot: i64,
    /// Files as the snapshot before it saw them, which it sees otherwise or no more.
    pub before: Vec<Arc<DataFile>>,
    /// Files as it sees them, which the snapshot before it saw otherwise or not at all.
    pub after: Vec<Arc<DataFile>>,
}

impl Catalog {
    /// What the snapshots from `first` to `last`, both among them, did to the rows of a table, in their order. Snapshots
    /// that only wrote the same rows into other files are not among them.
    ///
    /// # Errors
    /// [`Kind::NotFound`](skep_common::Kind::NotFound) if one of the snapshots, or the one before a change, is not there;
    /// [`Kind::Invalid`](skep_common::Kind::Invalid) for more than a thousand changes; those of [`Catalog::files`].
    pub async fn steps(&self, table: i64, first: i64, last: i64) -> Result<Vec<Step>> {
        let changed = self.changed(table, first, last).await?;
        if changed.len() > STEPS_MAX {
            return Err(Error::invalid(format!(
                "{} snapshots between {first} and {last} changed the table, and {STEPS_MAX} can be looked at together",
                changed.len()
            ))
            .hint("ask for fewer snapshots at once"));
        }
        let mut steps = Vec::with_capacity(changed.len());
        let mut list = None;
        for snapshot in changed {
            let before = self.state(table, snapshot - 1, &mut list).await.map_err(|e| match e.kind() {
                Kind::NotFound => Error::not_found(format!(
                    "what snapshot {snapshot} changed is not known: the snapshot before it was expired"
                ))
                .hint(format!("start at snapshot {} or later", snapshot + 1)),
                _ => e,
            })?;
            let after = self.state(table, snapshot, &mut list).await?;
            steps.push(Step { snapshot, before: lacking(&before, &after), after: lacking(&after, &before) });
        }
        Ok(steps)
    }

    /// What a transaction did to the rows of a table so far, `snapshot` being what it reads: as the step of the snapshot that
    /// comes next. `None`: nothing.
    ///
    /// # Errors
    /// Those of [`Catalog::files`].
    pub async fn own_step(&self, snapshot: &Arc<Snapshot>, table: i64) -> Result<Option<Step>> {
        let after = self.files(snapshot, table).await?;
        let before = match &snapshot.overlay {
            Some(overlay) if overlay.base.table_by_id(table).is_some() => {
                self.files(&overlay.base, table).await?
            }
            _ => Arc::default(),
        };
        let step = Step {
            snapshot: snapshot.id + 1,
            before: lacking(&before, &after),
            after: lacking(&after, &before),
        };
        Ok((!step.before.is_empty() || !step.after.is_empty()).then_some(step))
    }

    /// The snapshots from `first` to `last` that changed rows of a table.
    async fn changed(&self, table: i64, first: i64, last: i64) -> Result<Vec<i64>> {
        let rows: Vec<(i64, Option<String>)> = sqlx::query_as(
            "SELECT snapshot_id, changes_made FROM ducklake_snapshot_changes \
             WHERE snapshot_id >= ? AND snapshot_id <= ? ORDER BY snapshot_id",
        )
        .bind(first)
        .bind(last)
        .fetch_all(self.db().reader())
        .await
        .map_err(|e| database_error("cannot read what snapshots changed", e))?;
        let mut changed = Vec::new();
        let mut next = first;
        for (snapshot, text) in rows {
            if snapshot != next {
                break;
            }
            next += 1;
            let touches = |token: &Token| {
                matches!(token, Token::InsertedIntoTable(id) | Token::DeletedFromTable(id)
                    | Token::InlinedInsert(id) | Token::InlinedDelete(id) if *id == table)
            };
            if changes::parse(&text.unwrap_or_default())?.iter().any(touches) {
                changed.push(snapshot);
            }
        }
        if next <= last { Err(load::no_snapshot(next)) } else { Ok(changed) }
    }

    /// The files of a table in a snapshot: none before it was created. `list` is what the last call found.
    async fn state(
        &self,
        table: i64,
        snapshot: i64,
        list: &mut Option<List>,
    ) -> Result<Arc<Vec<Arc<DataFile>>>> {
        let snapshot = self.snapshot_at(snapshot).await?;
        let Some(table) = snapshot.table_by_id(table) else { return Ok(Arc::default()) };
        let found = files::follow(self.db(), snapshot.id, table, list.take()).await?;
        Ok(Arc::clone(&list.insert(found).files))
    }

    /// The first snapshot that was made at `time` or later.
    ///
    /// # Errors
    /// [`Kind::NotFound`](skep_common::Kind::NotFound) if there is none.
    pub async fn snapshot_since(&self, time: DateTime<Utc>) -> Result<i64> {
        let row: (Option<i64>,) = sqlx::query_as(
            "SELECT min(snapshot_id) FROM ducklake_snapshot WHERE snapshot_time >= CAST(? AS TIMESTAMPTZ)",
        )
        .bind(load::time_text(time))
        .fetch_one(self.db().reader())
        .await
        .map_err(|e| database_error("cannot look for a snapshot", e))?;
        row.0.ok_or_else(|| {
            Error::not_found(format!("there is no snapshot as young as {time}"))
                .hint("SHOW SNAPSHOTS lists those that are there")
        })
    }
}

/// Those of `files` that are not among `others` in the same state.
fn lacking(files: &[Arc<DataFile>], others: &[Arc<DataFile>]) -> Vec<Arc<DataFile>> {
    let others: HashMap<i64, &Arc<DataFile>> = others.iter().map(|file| (file.id, file)).collect();
    let same = |file: &DataFile| {
        others.get(&file.id).is_some_and(|o| (&o.deletes, o.until) == (&file.deletes, file.until))
    };
    files.iter().filter(|file| !same(file)).cloned().collect()
}
