//! RESTORE TABLE: a table as it was, as a snapshot of its own.

use std::sync::Arc;

use datafusion::sql::sqlparser::ast::TableVersion;
use skep_catalog::{Change, NewFile};
use skep_common::{Error, Result};
use skep_engine::planner::Restoration;
use skep_engine::sql::Name;
use skep_engine::write::{Moved, collect_report};

use super::Run;
use crate::commit::{next_attempt, publish};
use crate::session::Outcome;
use crate::transaction::refused;

impl Run {
    /// Restores and commits; again on a later snapshot if another commit came in between.
    pub(super) async fn restore(self, table: &Name, version: &TableVersion) -> Result<Outcome> {
        let mut attempt = 0;
        loop {
            match self.restore_once(table, version, attempt).await {
                Ok(()) => return Ok(self.done("RESTORE TABLE", None)),
                Err(error) => attempt = next_attempt(attempt, error).await?,
            }
        }
    }

    async fn restore_once(&self, table: &Name, version: &TableVersion, attempt: u32) -> Result<()> {
        let base = self.snapshot().await?;
        let restoration = self.planner(Arc::clone(&base)).await?.restore(table, version).await?;
        let mut changes = restoration.definition();
        let (id, folder) = (restoration.table().id, &restoration.table().path);
        if !restoration.gone().is_empty() {
            changes.push(Change::RemoveFiles { table: id, files: restoration.gone().to_vec() });
        }
        let files = self.write_restored(&restoration).await?;
        let paths: Vec<String> = files.iter().map(|file| format!("{folder}{}", file.path)).collect();
        let written: u64 = files.iter().map(|file| file.rows).sum();
        if let Some(rows) = restoration.count().filter(|rows| *rows != written) {
            self.shared.discard(paths).await;
            return Err(Error::internal(format!("{rows} rows were to be restored, and {written} were")));
        }
        if !files.is_empty() {
            changes.push(Change::Append { table: id, files });
        }
        if changes.is_empty() {
            return Ok(());
        }
        let catalog = &self.shared.environment.catalog;
        if let Err(error) = publish(catalog, base, &self.author(), attempt, changes).await {
            if refused(&error) {
                self.shared.discard(paths).await;
            }
            return Err(error);
        }
        Ok(())
    }

    async fn write_restored(&self, restoration: &Restoration) -> Result<Vec<NewFile>> {
        let Some(rows) = restoration.rows()? else { return Ok(Vec::new()) };
        let columns = restoration.columns().to_vec();
        let mut target = self.shared.root.target(&restoration.table().path, columns)?;
        target.file_size = self.settings.file_size();
        target.moved = Some(Moved::WithIds);
        restoration.lay_out(&mut target)?;
        collect_report(&self.run_report(restoration.planner(), rows, target).await?)
    }
}
