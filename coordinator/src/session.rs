//! One connection to the coordinator: its settings, and the statements it runs.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion::physical_plan::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::scalar::ScalarValue;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use parking_lot::Mutex;
use skep_common::{QueryId, Result, SessionId};
use skep_engine::Statement;
use skep_engine::settings::Settings;
use tokio_util::sync::CancellationToken;

use crate::coordinator::Shared;
use crate::deadline::{over, within};
use crate::lanes::Ran;
use crate::maintenance::Active;
use crate::queries::{Queries, Watch};
use crate::statement::Run;
use crate::tables;
use crate::transaction::Open;

/// Whether a statement returns rows or changes something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatementKind {
    /// Returns rows.
    Query,
    /// Changes data, names or settings, and returns an outcome without rows.
    Update,
}

/// What a statement is, found without running it.
#[derive(Debug, Clone)]
pub struct Description {
    /// Rows or change.
    pub kind: StatementKind,
    /// The schema of its rows, exactly as the stream will have it; for updates that of [`Done::details`], mostly no columns.
    pub schema: SchemaRef,
    /// Its parameters in order, named `$1`, `$2`, ... or as written.
    pub parameters: SchemaRef,
}

/// What running a statement gave.
pub enum Outcome {
    /// Rows, still to be read.
    Rows(Rows),
    /// A change that is done.
    Done(Done),
}

/// The rows of a query. Dropping the stream cancels the query.
pub struct Rows {
    /// The query's id.
    pub query: QueryId,
    /// Equal to the schema that [`Session::describe`] gives.
    pub schema: SchemaRef,
    /// The rows, as they come.
    pub stream: SendableRecordBatchStream,
}

impl Rows {
    /// The same rows, with somebody at work until they are read or dropped.
    fn held(self, active: Active) -> Self {
        let Self { query, schema, stream } = self;
        let inner = stream.schema();
        let stream = stream.inspect(move |_| {
            let _ = &active;
        });
        Self { query, schema, stream: Box::pin(RecordBatchStreamAdapter::new(inner, stream)) }
    }
}

/// The outcome of a statement without rows, shown as `INSERT 2`.
#[derive(Debug, Clone, PartialEq)]
pub struct Done {
    /// The query's id.
    pub query: QueryId,
    /// `INSERT`, `CREATE TABLE`, ...
    pub tag: &'static str,
    /// Rows written, for statements that write rows.
    pub rows: Option<u64>,
    /// What it did in detail, for those that say so: with the schema that [`Session::describe`] gives.
    pub details: Option<RecordBatch>,
}

/// Which tables to list. `None` matches all.
#[derive(Debug, Clone, Default)]
pub struct TableFilter {
    /// A LIKE pattern (`%`, `_`) over schema names.
    pub schema: Option<String>,
    /// A LIKE pattern over table names.
    pub table: Option<String>,
}

/// The kind of a listed table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableKind {
    /// A table of the catalog, or an external one.
    Table,
    /// A view.
    View,
    /// A table of `information_schema` or `system`.
    System,
}

/// One listed table.
#[derive(Debug, Clone)]
pub struct TableInfo {
    /// The catalog, `skep`.
    pub catalog: String,
    /// The schema.
    pub schema: String,
    /// The name.
    pub name: String,
    /// Table, view or system table.
    pub kind: TableKind,
    /// Its columns, with the types that a query returns.
    pub columns: SchemaRef,
    /// Its comment.
    pub comment: Option<String>,
}

/// One connection's session. Cheap to clone; clones are the same session.
#[derive(Debug, Clone)]
pub struct Session(pub(crate) Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) id: SessionId,
    pub(crate) user: String,
    pub(crate) shared: Arc<Shared>,
    pub(crate) settings: Arc<Mutex<Settings>>,
    pub(crate) last: Arc<Mutex<Option<Ran>>>,
    /// Between BEGIN and its end.
    pub(crate) open: Mutex<Option<Open>>,
    /// Whether it is one transaction beside the session, and nothing after it.
    pub(crate) beside: bool,
}

/// How far a statement is that was started.
#[derive(Debug, Clone)]
pub struct Progress {
    id: QueryId,
    queries: Arc<Queries>,
}

impl Progress {
    /// The share of the work that is done, 0 to 1, while the statement runs and as far as somebody knows.
    pub fn share(&self) -> Option<f64> {
        self.queries.share(self.id)
    }
}

impl Session {
    pub(crate) fn new(shared: Arc<Shared>, user: &str) -> Self {
        Self(Arc::new(Inner {
            id: SessionId::generate(),
            user: user.to_owned(),
            shared,
            settings: Arc::default(),
            last: Arc::default(),
            open: Mutex::default(),
            beside: false,
        }))
    }

    /// The same session with a place of its own for a transaction.
    pub(crate) fn beside(&self) -> Self {
        let Inner { id, user, shared, settings, last, .. } = &*self.0;
        Self(Arc::new(Inner {
            id: *id,
            user: user.clone(),
            shared: Arc::clone(shared),
            settings: Arc::clone(settings),
            last: Arc::clone(last),
            open: Mutex::default(),
            beside: true,
        }))
    }

    /// The session's id.
    pub fn id(&self) -> SessionId {
        self.0.id
    }

    /// Plans `sql`, one statement, without running it.
    ///
    /// # Errors
    /// [`Kind::Invalid`](skep_common::Kind::Invalid) with the position, and the kinds of planning.
    pub fn describe<'a>(&'a self, sql: &'a str) -> BoxFuture<'a, Result<Description>> {
        async move {
            let watch = self.watch(sql, CancellationToken::new());
            let work = async {
                let parsed = skep_engine::parse_one(sql)?;
                let run = Run::new(self, &parsed, &watch);
                run.belongs(&parsed.statement)?;
                run.describe(&parsed.statement).await
            };
            let described = tokio::select! {
                described = work => described,
                error = watch.stopped() => Err(error),
            };
            match &described {
                // It is run by another call, if at all.
                Ok(_) => watch.forget(),
                Err(error) => watch.fail(error),
            }
            described
        }
        .boxed()
    }

    /// Runs `sql`, exactly one statement, once. An update is complete when this returns.
    ///
    /// # Errors
    /// As [`Session::describe`], and the kinds of running; a query that fails later, or is not read to its end within
    /// `skep.statement_timeout`, fails in its stream.
    pub fn execute<'a>(
        &'a self,
        sql: &'a str,
        parameters: Vec<ScalarValue>,
    ) -> BoxFuture<'a, Result<Outcome>> {
        self.execute_until(sql, parameters, CancellationToken::new())
    }

    /// As [`Session::execute`], until `cancel` is cancelled. A commit that has begun is made all the same.
    ///
    /// # Errors
    /// As [`Session::execute`], and [`Kind::Cancelled`](skep_common::Kind::Cancelled).
    pub fn execute_until<'a>(
        &'a self,
        sql: &'a str,
        parameters: Vec<ScalarValue>,
        cancel: CancellationToken,
    ) -> BoxFuture<'a, Result<Outcome>> {
        self.start(sql.to_owned(), parameters, cancel).1
    }

    /// As [`Session::execute_until`], and how far it is while the future is awaited and its rows are read.
    pub fn start(
        &self,
        sql: String,
        parameters: Vec<ScalarValue>,
        cancel: CancellationToken,
    ) -> (Progress, BoxFuture<'static, Result<Outcome>>) {
        let watch = self.watch(&sql, cancel);
        let progress = Progress { id: watch.id(), queries: Arc::clone(&self.0.shared.queries) };
        let session = self.clone();
        let outcome = async move {
            let active = session.0.shared.activity.enter();
            let outcome = session.execute_watched(&watch, &sql, parameters).await;
            match watch.settle(outcome)? {
                Outcome::Rows(rows) => Ok(Outcome::Rows(rows.held(active))),
                done => Ok(done),
            }
        };
        (progress, outcome.boxed())
    }

    /// As [`Session::execute`], of a statement that is nobody's.
    pub(crate) fn execute_quietly<'a>(&'a self, sql: &'a str) -> BoxFuture<'a, Result<Outcome>> {
        async move {
            let watch = self.watch(sql, CancellationToken::new());
            let outcome = self.execute_watched(&watch, sql, Vec::new()).await;
            watch.settle(outcome)
        }
        .boxed()
    }

    async fn execute_watched(
        &self,
        watch: &Arc<Watch>,
        sql: &str,
        parameters: Vec<ScalarValue>,
    ) -> Result<Outcome> {
        let parsed = skep_engine::parse_one(sql)?;
        let run = Run::new(self, &parsed, watch);
        run.belongs(&parsed.statement)?;
        // Whoever stops waiting for a commit does not know how it ended.
        let commits = matches!(parsed.statement, Statement::Commit);
        let timeout = self.0.settings.lock().statement_timeout().filter(|_| !commits);
        within(&over(timeout, watch), run.execute(parsed.statement, parameters)).await
    }

    /// A statement of this session came.
    pub(crate) fn watch(&self, sql: &str, cancel: CancellationToken) -> Arc<Watch> {
        self.0.shared.queries.begin(self.0.id, &self.0.user, sql, cancel)
    }

    /// The schemas of the catalog, sorted, with `information_schema` and `system`.
    ///
    /// # Errors
    /// Those of reading the catalog.
    pub async fn schemas(&self) -> Result<Vec<String>> {
        tables::schemas(self).await
    }

    /// The tables and views that match, sorted by schema and name.
    ///
    /// # Errors
    /// Those of reading the catalog.
    pub async fn tables(&self, filter: &TableFilter) -> Result<Vec<TableInfo>> {
        tables::tables(self, filter).await
    }

    /// Sets a setting of this session, such as `skep.execution`.
    ///
    /// # Errors
    /// [`Kind::NotFound`](skep_common::Kind::NotFound) for an unknown name, with the nearest;
    /// [`Kind::Invalid`](skep_common::Kind::Invalid) for a value it does not take.
    pub fn set(&self, name: &str, value: &str) -> Result<()> {
        let mut settings = self.0.settings.lock();
        let mut wanted = settings.clone();
        wanted.set(name, Some(value))?;
        self.0.shared.admission.group(wanted.group())?;
        *settings = wanted;
        Ok(())
    }

    /// The value of a setting, as text.
    ///
    /// # Errors
    /// [`Kind::NotFound`](skep_common::Kind::NotFound) for an unknown name.
    pub fn get(&self, name: &str) -> Result<String> {
        self.0.settings.lock().get(name)
    }

    /// The statement that this session began last: what it does, or how it ended. It is forgotten some time after its end.
    pub fn latest(&self) -> Option<crate::queries::Status> {
        self.0.shared.queries.latest(self.0.id)
    }

    /// What the last statement of this session that had a plan ran where; complete when its rows were read.
    pub fn last_run(&self) -> Option<Ran> {
        self.0.last.lock().clone()
    }
}
