//! What others add to a coordinator: actions that clients call by name, and tables of schema `system`.
//!
//! ```text
//! client --action, bytes--> server --> Extension::call --> bytes, one answer after the other
//! SELECT * FROM system.t -----------> Extension::tables --> rows, read when the plan runs
//! SELECT * FROM name.schema.t ------> Extension::staged --> key of a transaction that was written down, and what it staged
//! ```
//!
//! # Not here
//! What they are about: the coordinator runs whatever it was given.

use std::fmt::Debug;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use skep_catalog::Snapshot;
use skep_common::{Error, Kind, Result};
use skep_engine::planner::Others;
use uuid::Uuid;

use crate::coordinator::{Coordinator, Shared};
use crate::session::Session;

/// Answers of an action, as they come. Dropping the stream ends what makes them.
pub type Answers = BoxStream<'static, Result<Bytes>>;

/// A table of schema `system`.
#[derive(Clone)]
pub struct SystemTable {
    /// Its name.
    pub name: &'static str,
    /// Its columns.
    pub schema: SchemaRef,
    /// Its rows as they are when a plan over it runs.
    pub rows: Arc<dyn Fn() -> BoxFuture<'static, Result<RecordBatch>> + Send + Sync>,
}

impl Debug for SystemTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SystemTable").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Something that a coordinator does beside statements.
#[async_trait]
pub trait Extension: Debug + Send + Sync {
    /// The names of its actions, each with a line for people.
    fn actions(&self) -> Vec<(&'static str, &'static str)>;

    /// Runs one of them for the user of `session`, which is the caller's own.
    ///
    /// # Errors
    /// What makes it fail before its first answer; what comes later is in the stream.
    async fn call(&self, session: &Session, action: &str, body: Bytes) -> Result<Answers>;

    /// Its tables.
    fn tables(&self) -> Vec<SystemTable>;

    /// The key of the transaction whose tables queries read as `name.schema.table`; `None` for a name that is not its own.
    ///
    /// # Errors
    /// Why a name of its own shows nothing.
    async fn staged(&self, name: &str) -> Result<Option<Uuid>> {
        let _ = name;
        Ok(None)
    }
}

/// What extensions show beside the catalog.
#[derive(Debug)]
pub(crate) struct Staged(pub(crate) Arc<Shared>);

#[async_trait]
impl Others for Staged {
    async fn snapshot(&self, name: &str) -> Result<Option<Arc<Snapshot>>> {
        let extensions = self.0.extensions.read().clone();
        for extension in extensions {
            let Some(key) = extension.staged(name).await? else { continue };
            // As it was written down last: whoever goes on with it changes a copy of its own.
            return match self.0.environment.catalog.resume(key).await {
                Ok(transaction) => Ok(Some(transaction.snapshot())),
                Err(error) if error.kind() == Kind::NotFound => {
                    Err(Error::not_found(format!("'{name}' shows nothing: nothing of it is written down"))
                        .hint("it staged nothing, was published, or was given up when another began")
                        .source(error))
                }
                Err(error) => Err(error),
            };
        }
        Ok(None)
    }
}

impl Coordinator {
    /// Adds `extension`. Its names must be its own.
    pub fn extend(&self, extension: Arc<dyn Extension>) {
        self.0.extensions.write().push(extension);
    }

    /// The names of all actions that were added, each with a line for people.
    pub fn actions(&self) -> Vec<(&'static str, &'static str)> {
        self.0.extensions.read().iter().flat_map(|extension| extension.actions()).collect()
    }

    /// The extension that knows `action`.
    pub fn extension_of(&self, action: &str) -> Option<Arc<dyn Extension>> {
        let extensions = self.0.extensions.read();
        let knows =
            |extension: &&Arc<dyn Extension>| extension.actions().iter().any(|(name, _)| *name == action);
        extensions.iter().find(knows).cloned()
    }
}
