//! What a commit is made of, and the promise of how it lands.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use skep_common::{Error, Result, task};
use skep_metadb::Conn;
use uuid::Uuid;

use crate::catalog::{Catalog, Hold};
use crate::column::Column;
use crate::commit;
use crate::layout::{Check, PartitionKey, SortKey};
use crate::model::{External, NewFile, Snapshot};

/// Who commits, why, and under which key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitInfo {
    /// The user, for people who read the history.
    pub author: Option<String>,
    /// What it did, for the same people.
    pub message: Option<String>,
    /// Committing the same key again changes nothing and returns the first snapshot.
    pub key: Uuid,
}

impl CommitInfo {
    /// A commit of nobody in particular under a fresh key.
    pub fn anonymous() -> Self {
        Self { author: None, message: None, key: Uuid::now_v7() }
    }
}

/// One change. Those of a transaction apply in order: drop a table first to create another of its name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// A schema of a name that is free.
    CreateSchema {
        /// The name.
        name: String,
    },
    /// An empty schema goes. Tables dropped before it in the same transaction no longer count.
    DropSchema {
        /// Its id.
        id: i64,
    },
    /// A table of a name that is free.
    CreateTable {
        /// How later changes of the transaction name it: below zero, see [`Snapshot::fresh_id`].
        id: i64,
        /// Its schema, which may be one this transaction creates.
        schema: String,
        /// Its name.
        name: String,
        /// Its columns, see [`columns_from_arrow`](crate::columns_from_arrow).
        columns: Vec<Column>,
        /// What people say about it.
        comment: Option<String>,
    },
    /// The files of a table that the same transaction creates lie in a folder of its own, not under the data path.
    Locate {
        /// The table, which has no files yet.
        table: i64,
        /// An absolute folder of this machine or a URL, ending in `/`.
        location: String,
    },
    /// A table goes, external or not. Its files stay until no snapshot names them.
    DropTable {
        /// Its id.
        id: i64,
    },
    /// A view of a name that is free, or another view's if it may replace it.
    PutView {
        /// Its schema.
        schema: String,
        /// Its name.
        name: String,
        /// The query, in the dialect [`DIALECT`](crate::DIALECT).
        sql: String,
        /// Names for its first columns.
        column_aliases: Vec<String>,
        /// Whether a view of that name goes.
        or_replace: bool,
    },
    /// A view goes.
    DropView {
        /// Its id.
        id: i64,
    },
    /// An external table of a name that is free, or another external table's if it may replace it.
    PutExternal {
        /// Its schema.
        schema: String,
        /// Its name.
        name: String,
        /// Its columns, partition columns among them.
        columns: Vec<Column>,
        /// Where the rows are.
        external: External,
        /// What people say about it.
        comment: Option<String>,
        /// Whether an external table of that name goes.
        or_replace: bool,
    },
    /// A table gets another name, which is free in its schema.
    RenameTable {
        /// Its id.
        table: i64,
        /// The name.
        name: String,
    },
    /// The columns of a table become these. A column that has the id of one that was there is that one, changed.
    SetColumns {
        /// The table, not an external one.
        table: i64,
        /// All of them. Ids of columns that come to it are at least [`TableDef::next_column_id`](crate::TableDef), but for
        /// those that it had before.
        columns: Vec<Column>,
    },
    /// The properties of a table become these.
    SetProperties {
        /// The table, not an external one.
        table: i64,
        /// All of them.
        properties: BTreeMap<String, String>,
    },
    /// The conditions on the rows of a table become these. That the rows which are there fulfil them is the caller's to
    /// know.
    SetChecks {
        /// The table, not an external one.
        table: i64,
        /// All of them.
        checks: Vec<Check>,
    },
    /// Files that are added from here on are divided so. Those that are there stay as they are.
    SetPartitioning {
        /// The table, not an external one.
        table: i64,
        /// Outermost first; none: files hold any rows.
        keys: Vec<PartitionKey>,
    },
    /// Files that are added from here on have their rows in this order.
    SetSorting {
        /// The table, not an external one.
        table: i64,
        /// None: rows lie as they come.
        keys: Vec<SortKey>,
    },
    /// What people say about a view.
    CommentView {
        /// Its id.
        view: i64,
        /// Nothing takes the comment away.
        comment: Option<String>,
    },
    /// What people say about a table.
    Comment {
        /// Its id.
        table: i64,
        /// Nothing takes the comment away.
        comment: Option<String>,
    },
    /// Rows are added.
    Append {
        /// The table, not an external one.
        table: i64,
        /// The files, which must be durable in the store by now.
        files: Vec<NewFile>,
    },
    /// Files take the place of others and hold the same rows. Nothing else happens to the rows of the table in the same
    /// transaction.
    Compact {
        /// The table.
        table: i64,
        /// Ids of files of the base.
        remove: Vec<i64>,
        /// The files in their place.
        add: Vec<NewFile>,
    },
    /// Rows go. With an [`Change::Append`] in the same transaction: rows change.
    RemoveFiles {
        /// The table.
        table: i64,
        /// Ids of files that the transaction sees. None: there were no rows to go, and whoever adds some in the meantime is
        /// in conflict with those that are added in their place.
        files: Vec<i64>,
    },
}

/// Rows of our own that change with the commit, in its database transaction: offsets, ledgers, runs.
#[async_trait]
pub trait SideEffect: Debug + Send + Sync {
    /// Runs last before the commit, once for each attempt; an attempt that is not committed leaves nothing.
    ///
    /// # Errors
    /// Any error takes the whole commit back and is returned as it is.
    async fn apply(&self, connection: &mut Conn, snapshot: i64) -> Result<()>;
}

/// How a commit ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// The snapshot that shows it.
    pub snapshot: i64,
    /// Whether an earlier commit of the same key had made it.
    pub already: bool,
}

/// Changes on top of a base snapshot, collected to be committed as one. Dropping it changes nothing.
///
/// Several statements may add to it at the same time: what one reads with [`Transaction::snapshot`] is what was applied
/// by then.
#[derive(Debug)]
pub struct Transaction {
    pub(crate) catalog: Catalog,
    pub(crate) base: Arc<Snapshot>,
    pub(crate) info: CommitInfo,
    state: Mutex<State>,
    held: Hold,
}

#[derive(Debug)]
struct State {
    target: Arc<Snapshot>,
    changes: Vec<Change>,
    staged: Vec<String>,
    side: Vec<Box<dyn SideEffect>>,
}

impl Transaction {
    pub(crate) fn new(catalog: Catalog, base: Arc<Snapshot>, info: CommitInfo) -> Self {
        let state =
            State { target: Arc::clone(&base), changes: Vec::new(), staged: Vec::new(), side: Vec::new() };
        let held = catalog.hold(base.id);
        Self { catalog, base, info, state: Mutex::new(state), held }
    }

    /// The snapshot that the first change was made on.
    pub fn base(&self) -> &Arc<Snapshot> {
        &self.base
    }

    /// The base with all changes that were applied: what the next statement of the transaction reads.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.state.lock().target)
    }

    /// Whether anything was changed.
    pub fn is_empty(&self) -> bool {
        let state = self.state.lock();
        state.changes.is_empty() && state.side.is_empty()
    }

    /// Adds changes, all of them or none.
    ///
    /// # Errors
    /// [`Kind::AlreadyExists`](skep_common::Kind::AlreadyExists), [`Kind::NotFound`](skep_common::Kind::NotFound) and
    /// [`Kind::Invalid`](skep_common::Kind::Invalid) for changes that do not fit what is there;
    /// [`Kind::Conflict`](skep_common::Kind::Conflict) for files that another statement of the transaction removed.
    pub fn apply(&self, changes: impl IntoIterator<Item = Change>) -> Result<&Self> {
        let changes: Vec<Change> = changes.into_iter().collect();
        let mut state = self.state.lock();
        let target = Snapshot::with(&state.target, &changes)?;
        for change in &changes {
            if let Change::Append { table, files } | Change::Compact { table, add: files, .. } = change
                && let Some(table) = target.table_by_id(*table)
            {
                state.staged.extend(files.iter().map(|file| format!("{}{}", table.path, file.path)));
            }
        }
        state.target = target;
        state.changes.extend(changes);
        drop(state);
        Ok(self)
    }

    /// Adds rows of our own.
    pub fn with(&self, side: impl SideEffect + 'static) -> &Self {
        self.state.lock().side.push(Box::new(side));
        self
    }

    /// The files that were staged, relative to the data path: nobody else's until a commit names them.
    pub fn staged_files(&self) -> Vec<String> {
        self.state.lock().staged.clone()
    }

    pub(crate) fn changes(&self) -> Vec<Change> {
        self.state.lock().changes.clone()
    }

    pub(crate) fn into_parts(self) -> Parts {
        let Self { catalog, base, info, held, state } = self;
        let State { target, side, .. } = state.into_inner();
        Parts { catalog, base, info, target, side, _held: held }
    }

    /// Publishes all changes as one snapshot.
    ///
    /// If other commits came after the base, the changes are placed on top of them where the two commute. The work
    /// goes on if the caller stops waiting. A transaction without changes makes no snapshot.
    ///
    /// # Errors
    /// [`Kind::Conflict`](skep_common::Kind::Conflict) if they do not commute: plan again on a later base.
    /// [`Kind::Unavailable`](skep_common::Kind::Unavailable) if the database stays locked by another process.
    /// After any error nothing was changed, and the files of the changes are still the caller's to delete.
    pub async fn commit(self) -> Result<Committed> {
        let catalog = self.catalog.clone();
        let (send, receive) = tokio::sync::oneshot::channel();
        catalog.keep(task::spawn("catalog commit", async move {
            // A caller that left does not want the answer.
            let _ = send.send(commit::run(self.into_parts()).await);
        }));
        receive.await.map_err(|_| Error::internal("the catalog commit ended without an answer"))?
    }
}

/// A transaction that takes no more changes.
pub(crate) struct Parts {
    pub(crate) catalog: Catalog,
    pub(crate) base: Arc<Snapshot>,
    pub(crate) info: CommitInfo,
    pub(crate) target: Arc<Snapshot>,
    pub(crate) side: Vec<Box<dyn SideEffect>>,
    _held: Hold,
}
