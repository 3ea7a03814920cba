//! ALTER, COMMENT and CREATE TABLE LIKE: decided on a snapshot, the rows looked at where a constraint asks for it, committed.
//!
//! ```text
//! snapshot --planner--> changes, rules --rules on the snapshot with the changes--> commit
//! ```

use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use arrow::record_batch::RecordBatch;
use futures::TryStreamExt;
use skep_catalog::{Change, Column, CommitInfo, Snapshot, Unchanged};
use skep_common::{Error, Result};
use skep_engine::boundary;
use skep_engine::error::from_datafusion;
use skep_engine::planner::{Altered, row_shown};
use skep_engine::sql::{AlterTable, AlterView, Name, ViewAction, parse_query};

use super::{Run, ddl};
use crate::commit::{autocommit, next_attempt, publish};
use crate::lanes::Job;
use crate::queries::State;

impl Run {
    pub(super) async fn alter_table(&self, alter: &AlterTable) -> Result<()> {
        let catalog = &self.shared.environment.catalog;
        let mut attempt = 0;
        loop {
            let base = self.snapshot().await?;
            let altered = self.planner(Arc::clone(&base)).await?.alter_table(alter).await?;
            if altered.changes.is_empty() {
                return Ok(());
            }
            self.verify(&base, &altered).await?;
            let since = match altered.changes.first() {
                Some(change) if !altered.rules.is_empty() => table_of(change).map(|table| (table, base.id)),
                _ => None,
            };
            let author = self.author();
            let done = match (since, &author.transaction) {
                // Rows that others add until the commit are looked at by nobody.
                (Some((table, since)), Some(transaction)) => {
                    transaction.apply(altered.changes).map(|transaction| {
                        transaction.with(Unchanged { table, since });
                    })
                }
                (Some((table, since)), None) => {
                    let transaction = catalog.begin(base, author.info(attempt));
                    transaction.apply(altered.changes)?.with(Unchanged { table, since });
                    self.watch.advance(State::Finishing)?;
                    transaction.commit().await.map(drop)
                }
                (None, _) => publish(catalog, base, &author, attempt, altered.changes).await,
            };
            match done {
                Ok(()) => return Ok(()),
                Err(error) => attempt = next_attempt(attempt, error).await?,
            }
        }
    }

    /// Looks at the rows of the table for what the changes ask of them.
    async fn verify(&self, base: &Arc<Snapshot>, altered: &Altered) -> Result<()> {
        if altered.rules.is_empty() {
            return Ok(());
        }
        // As it will be, but that a column which says it has no NULL would not be asked for it.
        let scratch = self.shared.environment.catalog.begin(Arc::clone(base), CommitInfo::anonymous());
        scratch.apply(altered.changes.iter().cloned().map(nullable))?;
        for rule in &altered.rules {
            let counts = self.rows_of(scratch.snapshot(), &rule.count(&altered.table)).await?;
            let count: i64 = counts
                .iter()
                .flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().iter())
                .sum();
            if count > 0 {
                let rows = self.rows_of(scratch.snapshot(), &rule.example(&altered.table)).await?;
                let example =
                    rows.iter().find(|batch| batch.num_rows() > 0).map(row_shown).unwrap_or_default();
                return Err(rule.broken(u64::try_from(count).unwrap_or_default(), &example));
            }
        }
        Ok(())
    }

    async fn rows_of(&self, snapshot: Arc<Snapshot>, sql: &str) -> Result<Vec<RecordBatch>> {
        let planner = self.planner(snapshot).await?;
        let query = parse_query(sql)?;
        let plan = planner.logical(&query).await?;
        let schema = boundary::output_schema(&plan);
        let lane = super::query::lane(&self.settings);
        let job = Job { state: planner.state().clone(), logical: plan, write: None, lane, query: self.query };
        let running = self.start(job).await?;
        boundary::wrap_stream(running.stream, schema).try_collect().await.map_err(from_datafusion)
    }

    pub(super) async fn alter_view(&self, alter: &AlterView) -> Result<()> {
        let default = self.settings.schema();
        let schema = alter.name.schema_or(default);
        autocommit(&self.shared.environment.catalog, &self.author(), |base| {
            let Some(view) = base.view(schema, &alter.name.name) else {
                if alter.if_exists {
                    return Ok(Vec::new());
                }
                return Err(ddl::missing(base, schema, &alter.name, true));
            };
            match &alter.action {
                ViewAction::Comment(comment) => {
                    Ok(vec![Change::CommentView { view: view.id, comment: comment.clone() }])
                }
                ViewAction::Rename(name) => {
                    let wanted = name.schema.as_deref().unwrap_or(schema);
                    if wanted != schema {
                        return Err(Error::unsupported(format!(
                            "a view cannot move from schema '{schema}' to '{wanted}'"
                        ))
                        .hint("CREATE VIEW makes it there"));
                    }
                    let room = ddl::make_room(base, schema, name, false, false, true)?;
                    let put = Change::PutView {
                        schema: schema.to_owned(),
                        name: name.name.clone(),
                        sql: view.sql.clone(),
                        column_aliases: view.column_aliases.clone(),
                        or_replace: false,
                    };
                    let mut changes = vec![Change::DropView { id: view.id }];
                    changes.extend(room.unwrap_or_default());
                    let made = base.fresh_id();
                    changes.push(put);
                    if let Some(comment) = &view.comment {
                        changes.push(Change::CommentView { view: made, comment: Some(comment.clone()) });
                    }
                    Ok(changes)
                }
            }
        })
        .await?;
        Ok(())
    }

    pub(super) async fn create_like(
        &self,
        name: &Name,
        like: &Name,
        if_not_exists: bool,
        or_replace: bool,
    ) -> Result<()> {
        let (columns, noted, comment) = self.planner(self.snapshot().await?).await?.like(like).await?;
        let schema = name.schema_or(self.settings.schema());
        autocommit(&self.shared.environment.catalog, &self.author(), |base| {
            let room = ddl::make_room(base, schema, name, if_not_exists, or_replace, false)?;
            Ok(room.map_or_else(Vec::new, |mut changes| {
                let id = base.fresh_id();
                changes.push(Change::CreateTable {
                    id,
                    schema: schema.to_owned(),
                    name: name.name.clone(),
                    columns: columns.clone(),
                    comment: comment.clone(),
                });
                changes.extend(noted.changes(id));
                changes
            }))
        })
        .await?;
        Ok(())
    }
}

/// The table that a change of ALTER TABLE is about.
fn table_of(change: &Change) -> Option<i64> {
    match change {
        Change::SetColumns { table, .. }
        | Change::SetChecks { table, .. }
        | Change::SetPartitioning { table, .. }
        | Change::SetSorting { table, .. } => Some(*table),
        _ => None,
    }
}

/// `change` without NOT NULL.
fn nullable(change: Change) -> Change {
    match change {
        Change::SetColumns { table, columns } => {
            let columns = columns.into_iter().map(|column| Column { nullable: true, ..column }).collect();
            Change::SetColumns { table, columns }
        }
        other => other,
    }
}
