//! Keeping the catalog small: EXPIRE SNAPSHOTS forgets, VACUUM deletes.

use std::collections::HashSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use datafusion::sql::sqlparser::ast::Expr;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use skep_catalog::{FILE_PREFIX, Retention, ScheduledFile};
use skep_common::{Error, Result};
use uuid::Uuid;

use super::Run;
use crate::session::Outcome;

/// How long files stay that no snapshot names: queries that began before may read them.
const RETAIN_HOURS: u64 = 1;
/// Age at which a file that no commit ever named is nobody's: no statement writes for that long.
const ORPHAN_AGE: Duration = Duration::from_secs(7 * 24 * 60 * 60);

impl Run {
    pub(super) async fn expire(self, older_than: &Expr, retain: u64) -> Result<Outcome> {
        self.alone("EXPIRE SNAPSHOTS")?;
        let since = self.planner(self.snapshot().await?).await?.time(older_than).await?;
        let expired = self.shared.environment.catalog.expire(Retention { since, last: retain }).await?;
        tracing::info!(snapshots = expired.snapshots.len(), files = expired.files, "snapshots expired");
        Ok(self.done("EXPIRE SNAPSHOTS", Some(expired.snapshots.len() as u64)))
    }

    pub(super) async fn vacuum(self, retain_hours: Option<u64>) -> Result<Outcome> {
        self.alone("VACUUM")?;
        let catalog = &self.shared.environment.catalog;
        let now = self.shared.environment.catalog.now();
        let retain = Duration::from_secs(60 * 60 * retain_hours.unwrap_or(RETAIN_HOURS).min(24 * 365));
        let scheduled = catalog.scheduled(now - retain).await?;
        let mut deleted = self.delete(&scheduled).await?;
        catalog.deleted(&scheduled).await?;
        deleted += self.orphans(now - ORPHAN_AGE).await?;
        Ok(self.done("VACUUM", Some(deleted)))
    }

    /// Deletes files. One that is gone already is as good as deleted.
    async fn delete(&self, files: &[ScheduledFile]) -> Result<u64> {
        let store = self.store()?;
        let mut deleted = 0;
        for file in files {
            if file.absolute {
                return Err(Error::unsupported(format!(
                    "file '{}' is not under the catalog's data path",
                    file.path
                ))
                .hint("another engine wrote it there: delete it with that engine"));
            }
            let path = self.shared.root.join(&file.path);
            match store.delete(&path).await {
                Ok(()) => deleted += 1,
                Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => {
                    return Err(Error::unavailable(format!("cannot delete '{path}'"))
                        .hint("nothing is lost: VACUUM goes on from there")
                        .source(error));
                }
            }
        }
        Ok(deleted)
    }

    /// Deletes files of ours that were begun before `until` and that nothing names.
    async fn orphans(&self, until: DateTime<Utc>) -> Result<u64> {
        let failed =
            |e: object_store::Error| Error::unavailable("cannot list the files of the catalog").source(e);
        let listed: Vec<Path> = self
            .store()?
            .list(Some(&self.shared.root.folder))
            .map_ok(|file| file.location)
            .try_filter(|path| std::future::ready(begun(path).is_some_and(|time| time < until)))
            .try_collect()
            .await
            .map_err(failed)?;
        // After the listing: what was committed in between is known by now.
        let known: HashSet<Path> = self
            .shared
            .environment
            .catalog
            .known_files()
            .await?
            .iter()
            .map(|file| self.shared.root.join(file))
            .collect();
        let store = self.store()?;
        let mut deleted = 0;
        for path in listed.into_iter().filter(|path| !known.contains(path)) {
            store
                .delete(&path)
                .await
                .map_err(|e| Error::unavailable(format!("cannot delete '{path}'")).source(e))?;
            deleted += 1;
        }
        Ok(deleted)
    }

    fn store(&self) -> Result<std::sync::Arc<dyn ObjectStore>> {
        self.shared
            .environment
            .runtime
            .object_store(&self.shared.root.store)
            .map_err(skep_engine::error::from_datafusion)
    }

    fn alone(&self, what: &str) -> Result<()> {
        match self.open {
            None => Ok(()),
            Some(_) => {
                Err(Error::invalid(format!("{what} does not run inside a transaction")).hint("COMMIT first"))
            }
        }
    }
}

/// When a file was begun, if it is one of ours: its name says it.
fn begun(path: &Path) -> Option<DateTime<Utc>> {
    let name = path.filename()?.strip_prefix(FILE_PREFIX)?.strip_suffix(".parquet")?;
    let (seconds, nanos) = Uuid::parse_str(name).ok()?.get_timestamp()?.to_unix();
    DateTime::from_timestamp(i64::try_from(seconds).ok()?, nanos)
}
