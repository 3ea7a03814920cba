//! Statements: what each kind does between its text and its outcome.
//!
//! ```text
//! query.rs   SELECT, EXPLAIN          plan -> lane -> rows
//! write.rs   INSERT, CTAS             plan -> lane -> files and completions -> one commit
//! load.rs    COPY INTO                ledger -> plan -> lane -> files and completions -> one commit, the ledger in it
//! dml.rs     UPDATE, DELETE, MERGE    find -> rewrite -> files and completions -> one commit
//! ddl.rs     CREATE, DROP             snapshot -> changes -> one commit
//! BEGIN, COMMIT and ROLLBACK are `transaction`'s: between them, what others commit is not seen, and what would be
//! committed is added to the session's transaction instead.
//! SHOW and DESCRIBE are the planner's: snapshot or settings -> rows
//! ```

mod admit;
mod alter;
mod care;
mod ddl;
mod define;
mod dml;
mod explain;
mod kill;
mod load;
mod query;
mod restore;
mod write;

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use datafusion::catalog::TableProvider;
use datafusion::physical_plan::memory::MemoryStream;
use datafusion::scalar::ScalarValue;
use skep_catalog::Snapshot;
use skep_common::{Error, QueryId, Result};
use skep_engine::planner::Planner;
use skep_engine::settings::Settings;
use skep_engine::{Parsed, Statement};

use crate::commit::Author;
use crate::coordinator::Shared;
use crate::extension::Staged;
use crate::lanes::{Job, Running};
use crate::queries::{State, Watch};
use crate::session::{Description, Done, Inner, Outcome, Rows, Session, StatementKind};
use crate::transaction::Open;
use crate::{blocks, ingest, system};

pub(crate) use load::Pending;

/// One statement on its way: the session's settings as they were when it came, and an id of its own.
pub(crate) struct Run {
    pub(crate) shared: Arc<Shared>,
    pub(crate) session: Arc<Inner>,
    settings: Settings,
    query: QueryId,
    pub(crate) watch: Arc<Watch>,
    text: String,
    /// Rows that came with the statement, once, as the table that [`crate::ingest`] names.
    given: Option<Arc<dyn TableProvider>>,
    /// The transaction that it is part of; absent: it commits by itself.
    pub(crate) open: Option<Open>,
}

impl Run {
    pub(crate) fn new(session: &Session, parsed: &Parsed, watch: &Arc<Watch>) -> Self {
        let inner = &session.0;
        Self {
            shared: Arc::clone(&inner.shared),
            session: Arc::clone(inner),
            settings: inner.settings.lock().clone(),
            query: watch.id(),
            watch: Arc::clone(watch),
            text: parsed.text.clone(),
            given: None,
            open: inner.open.lock().clone(),
        }
    }

    /// The statement reads `rows`, which can be read only once and only here.
    pub(crate) fn with_given(mut self, rows: Arc<dyn TableProvider>) -> Self {
        self.given = Some(rows);
        self
    }

    /// What `statement` is, without running it.
    pub(crate) async fn describe(&self, statement: &Statement) -> Result<Description> {
        if let Statement::Query(query) = statement {
            return self.describe_query(query).await;
        }
        let empty = Arc::new(Schema::empty());
        if let Statement::Insert(insert) = statement {
            // With the table, whose columns give types to parameters that stand alone in VALUES.
            let rows = self.planner(self.snapshot().await?).await?.insert(insert).await?;
            let parameters = skep_engine::planner::parameters(&rows.plan)?;
            return Ok(Description { kind: StatementKind::Update, schema: empty, parameters });
        }
        if changes_rows(statement) {
            let parameters = self.edit_parameters(statement).await?;
            return Ok(Description { kind: StatementKind::Update, schema: empty, parameters });
        }
        if let Some((query, snapshot)) = self.source_of(statement).await? {
            let parameters = self.parameters_of(query, snapshot).await?;
            return Ok(Description { kind: StatementKind::Update, schema: empty, parameters });
        }
        let (kind, schema) = match statement.tag() {
            Some(_) if matches!(statement, Statement::CopyInto(_)) => (StatementKind::Update, load::schema()),
            Some(_) => (StatementKind::Update, Arc::clone(&empty)),
            None => (StatementKind::Query, shown_schema(statement)?),
        };
        Ok(Description { kind, schema, parameters: empty })
    }

    /// Runs `statement` once.
    pub(crate) async fn execute(self, statement: Statement, parameters: Vec<ScalarValue>) -> Result<Outcome> {
        tracing::debug!(query = %self.query, "statement");
        if statement.writes() {
            self.may_write()?;
        }
        match statement {
            Statement::Begin { read_only } => self.begin(read_only).await,
            Statement::Commit => self.commit().await,
            Statement::Rollback => self.rollback().await,
            Statement::Optimize(optimize) => self.optimize(&optimize).await,
            Statement::Analyze { table, columns } => self.analyze(&table, columns.as_deref()).await,
            Statement::Restore { table, version } => self.restore(&table, &version).await,
            Statement::Expire { older_than, retain } => self.expire(&older_than, retain).await,
            Statement::Vacuum { retain_hours } => self.vacuum(retain_hours).await,
            Statement::Query(query) => self.query(&query, parameters).await,
            Statement::Explain { analyze, verbose, inner } => {
                self.explain(*inner, analyze, verbose, parameters).await
            }
            Statement::Insert(insert) => self.insert(insert, parameters).await,
            Statement::CreateTableAs(create) => self.create_table_as(create, parameters).await,
            Statement::CopyInto(copy) => self.copy_into(copy).await,
            Statement::CopyTo(copy) => self.copy_to(copy, parameters).await,
            Statement::Set { name, value, at } => self.set(&name, value.as_deref(), at).await,
            Statement::Kill { query } => self.kill(&query).await,
            Statement::System(action) => self.system(&action).await,
            Statement::ShowBlocks { table } => self.show_blocks(&table).await,
            ref other if changes_rows(other) => self.edit(other, parameters).await,
            ref other if other.tag().is_none() => {
                let shown = self.planner(self.snapshot().await?).await?.show(other).await?;
                self.rows(shown_schema(other)?, shown.into_iter().collect())
            }
            other => self.define(other).await,
        }
    }

    pub(crate) async fn snapshot(&self) -> Result<Arc<Snapshot>> {
        match &self.open {
            Some(open) => Ok(open.transaction.snapshot()),
            None => self.shared.environment.catalog.snapshot().await,
        }
    }

    /// A planner over `snapshot`, which knows the tables of schema `system` as well.
    pub(crate) async fn planner(&self, snapshot: Arc<Snapshot>) -> Result<Planner> {
        let planner = Planner::new(Arc::clone(&self.shared.environment), snapshot, &self.settings).await?;
        let planner = planner.with_others(Arc::new(Staged(Arc::clone(&self.shared))));
        let planner = planner.with_tables(system::SCHEMA, system::tables(&self.shared)?);
        Ok(match &self.given {
            None => planner,
            Some(rows) => {
                planner.with_tables(system::SCHEMA, vec![(ingest::ROWS.to_owned(), Arc::clone(rows))])
            }
        })
    }

    pub(crate) fn author(&self) -> Author {
        Author {
            watch: Arc::clone(&self.watch),
            user: self.session.user.clone(),
            statement: self.text.clone(),
            query: self.query,
            transaction: self.open.as_ref().map(|open| Arc::clone(&open.transaction)),
        }
    }

    /// Starts a plan of the statement.
    async fn start(&self, job: Job) -> Result<Running> {
        let (job, sight) = self.admit(job).await?;
        self.watch.advance(State::Running)?;
        let running = self.shared.lanes.run(job).await?;
        self.watch.ran(&running.ran, &sight);
        Ok(running)
    }

    /// Runs a plan of the statement to its end, and tells what its operators measured.
    async fn analyzed(&self, job: Job) -> Result<String> {
        let (job, _) = self.admit(job).await?;
        self.watch.advance(State::Running)?;
        self.shared.lanes.analyze(job).await
    }

    pub(crate) fn done(&self, tag: &'static str, rows: Option<u64>) -> Outcome {
        Outcome::Done(Done { query: self.query, tag, rows, details: None })
    }

    /// Rows that are known already.
    pub(crate) fn rows(&self, schema: SchemaRef, batches: Vec<RecordBatch>) -> Result<Outcome> {
        let stream = MemoryStream::try_new(batches, Arc::clone(&schema), None);
        let stream = stream.map_err(skep_engine::error::from_datafusion)?;
        Ok(Outcome::Rows(Rows { query: self.query, schema, stream: Box::pin(stream) }))
    }
}

/// Whether `statement` changes rows that are there.
fn changes_rows(statement: &Statement) -> bool {
    matches!(
        statement,
        Statement::Update(_) | Statement::Delete(_) | Statement::Merge(_) | Statement::Truncate(_)
    )
}

/// The schema of a statement that shows something.
fn shown_schema(statement: &Statement) -> Result<SchemaRef> {
    match statement {
        Statement::Explain { .. } => return Ok(explain::schema()),
        Statement::ShowBlocks { .. } => return Ok(blocks::blocks_schema()),
        _ => {}
    }
    let schema = skep_engine::show::schema(statement);
    schema.ok_or_else(|| Error::unsupported("this statement shows nothing yet"))
}
