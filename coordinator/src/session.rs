//! One connection to the coordinator: its settings, and the statements it runs.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use datafusion::physical_plan::SendableRecordBatchStream;
use datafusion::scalar::ScalarValue;
use skep_common::{Error, QueryId, Result, SessionId};

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
    /// The schema of its rows, exactly as the stream will have it; no columns for updates.
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

/// The outcome of a statement without rows, shown as `INSERT 2`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// The query's id.
    pub query: QueryId,
    /// `INSERT`, `CREATE TABLE`, ...
    pub tag: &'static str,
    /// Rows written, for statements that write rows.
    pub rows: Option<u64>,
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
pub struct Session {
    id: SessionId,
}

impl Session {
    /// The session's id.
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// Plans `sql`, one statement, without running it.
    ///
    /// # Errors
    /// [`Kind::Invalid`](skep_common::Kind::Invalid) with the position, and the kinds of planning.
    pub async fn describe(&self, sql: &str) -> Result<Description> {
        let _ = sql;
        let empty = Arc::new(Schema::empty());
        Ok(Description { kind: StatementKind::Update, schema: Arc::clone(&empty), parameters: empty })
    }

    /// Runs `sql`, exactly one statement, once. An update is complete when this returns.
    ///
    /// # Errors
    /// As [`Session::describe`], and the kinds of running; a query that fails later fails in its stream.
    pub async fn execute(&self, sql: &str, parameters: Vec<ScalarValue>) -> Result<Outcome> {
        let _ = (sql, parameters);
        Err(Error::unsupported("statements do not run yet"))
    }

    /// The schemas of the catalog, sorted, with `information_schema`.
    ///
    /// # Errors
    /// Those of reading the catalog.
    pub async fn schemas(&self) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    /// The tables and views that match, sorted by schema and name.
    ///
    /// # Errors
    /// Those of reading the catalog.
    pub async fn tables(&self, filter: &TableFilter) -> Result<Vec<TableInfo>> {
        let _ = filter;
        Ok(Vec::new())
    }

    /// Sets a setting of this session, such as `skep.execution`.
    ///
    /// # Errors
    /// [`Kind::NotFound`](skep_common::Kind::NotFound) for an unknown name, with the nearest;
    /// [`Kind::Invalid`](skep_common::Kind::Invalid) for a value it does not take.
    pub fn set(&self, name: &str, value: &str) -> Result<()> {
        let _ = (name, value);
        Ok(())
    }

    /// The value of a setting, as text.
    ///
    /// # Errors
    /// [`Kind::NotFound`](skep_common::Kind::NotFound) for an unknown name.
    pub fn get(&self, name: &str) -> Result<String> {
        Err(Error::not_found(format!("setting '{name}' does not exist")))
    }
}

/// The coordinator of one cluster. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Coordinator;

impl Coordinator {
    /// Opens a session for `user`. It ends when its last clone is dropped.
    pub fn open_session(&self, user: &str) -> Session {
        let _ = user;
        Session { id: SessionId::generate() }
    }

    /// Whether it takes statements.
    pub fn ready(&self) -> bool {
        true
    }
}
