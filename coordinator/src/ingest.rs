//! Rows that a client streams into a table.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use datafusion::catalog::streaming::StreamingTable;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;
use parking_lot::Mutex;
use skep_common::{Error, Result};
use skep_engine::error::{from_datafusion, to_datafusion};
use skep_engine::names::quote;
use tokio_util::sync::CancellationToken;

use crate::deadline::{over, within};
use crate::queries::Watch;
use crate::session::{Done, Outcome, Session};
use crate::statement::Run;
use crate::system;

/// What to do with the table when it is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Refuse.
    Fail,
    /// Add the rows.
    Append,
    /// Put the rows in the place of its own.
    Replace,
}

/// Where streamed rows go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The schema; the session's when absent.
    pub schema: Option<String>,
    /// The table.
    pub table: String,
    /// Whether to create it, from the schema of the rows, when it is not there.
    pub create: bool,
    /// What to do when it is.
    pub existing: Existing,
}

impl fmt::Display for Target {
    /// As a statement that a reader of statements understands.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.existing {
            Existing::Replace => "CREATE OR REPLACE TABLE ",
            Existing::Append => "INSERT INTO ",
            Existing::Fail => "CREATE TABLE ",
        })?;
        if let Some(schema) = &self.schema {
            write!(f, "{}.", quote(schema))?;
        }
        f.write_str(&quote(&self.table))
    }
}

/// The table of schema `system` as which the statement that ingests reads the rows.
pub(crate) const ROWS: &str = "$rows";

impl Session {
    /// Writes `rows` to a table in one commit. Columns match by name; a column that `rows` lack takes its default.
    ///
    /// An error in the stream, or dropping the future before the commit, leaves the table as it was. The rows are read
    /// once, so a conflict with another commit is not retried.
    ///
    /// # Errors
    /// [`Kind::NotFound`](skep_common::Kind::NotFound) and [`Kind::AlreadyExists`](skep_common::Kind::AlreadyExists) as
    /// `target` says, [`Kind::Invalid`](skep_common::Kind::Invalid) for columns the table lacks or types that do not cast.
    pub async fn ingest(&self, target: &Target, rows: SendableRecordBatchStream) -> Result<Done> {
        let _active = self.0.shared.activity.enter();
        let columns = rows.schema();
        let shown = format!("-- rows that a client streams into table '{}'", target.table);
        let watch = self.watch(&shown, CancellationToken::new());
        let outcome = self.ingest_watched(&watch, target, columns, rows).await;
        match watch.settle(outcome)? {
            Outcome::Done(done) => Ok(Done { tag: "INSERT", ..done }),
            Outcome::Rows(_) => Err(Error::internal("writing rows gave rows")),
        }
    }

    async fn ingest_watched(
        &self,
        watch: &Arc<Watch>,
        target: &Target,
        columns: SchemaRef,
        rows: SendableRecordBatchStream,
    ) -> Result<Outcome> {
        if columns.fields().is_empty() {
            return Err(Error::invalid("the rows have no columns"));
        }
        let snapshot = self.snapshot().await?;
        let schema = match &target.schema {
            Some(schema) => schema.clone(),
            None => self.0.settings.lock().schema().to_owned(),
        };
        let exists = snapshot.table(&schema, &target.table).is_some();
        let sql = statement(target, &schema, &columns, exists)?;
        let parsed = skep_engine::parse_one(&sql)?;
        let partition = Once { schema: Arc::clone(&columns), stream: Mutex::new(Some(rows)) };
        let table = StreamingTable::try_new(columns, vec![Arc::new(partition)]).map_err(from_datafusion)?;
        let run = Run::new(self, &parsed, watch).with_given(Arc::new(table));
        run.belongs(&parsed.statement)?;
        let timeout = self.0.settings.lock().statement_timeout();
        within(&over(timeout, watch), run.execute(parsed.statement, Vec::new())).await
    }
}

/// The statement that does what `target` asks for.
fn statement(target: &Target, schema: &str, columns: &Schema, exists: bool) -> Result<String> {
    let shown = format!("{schema}.{}", target.table);
    let table = format!("{}.{}", quote(schema), quote(&target.table));
    let names = columns.fields().iter().map(|field| quote(field.name())).collect::<Vec<_>>().join(", ");
    let select = format!("SELECT {names} FROM {}.{}", quote(system::SCHEMA), quote(ROWS));
    match (exists, target.existing) {
        (true, Existing::Append) => Ok(format!("INSERT INTO {table} ({names}) {select}")),
        (true, Existing::Replace) => Ok(format!("CREATE OR REPLACE TABLE {table} AS {select}")),
        (true, Existing::Fail) => {
            Err(Error::already_exists(format!("table '{shown}' exists")).hint("append to it or replace it"))
        }
        (false, _) if target.create => Ok(format!("CREATE TABLE {table} AS {select}")),
        (false, _) => {
            Err(Error::not_found(format!("table '{shown}' does not exist")).hint("create it first"))
        }
    }
}

/// A stream as a partition that can be read once.
struct Once {
    schema: SchemaRef,
    stream: Mutex<Option<SendableRecordBatchStream>>,
}

impl fmt::Debug for Once {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Once").field("schema", &self.schema).finish_non_exhaustive()
    }
}

impl PartitionStream for Once {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        self.stream.lock().take().unwrap_or_else(|| {
            let again = to_datafusion(Error::internal("streamed rows were read twice"));
            let stream = futures::stream::iter([Err(again)]);
            Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), stream))
        })
    }
}
