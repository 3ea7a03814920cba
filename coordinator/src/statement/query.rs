//! Queries.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::scalar::ScalarValue;
use datafusion::sql::sqlparser::ast;
use futures::StreamExt;
use skep_catalog::Snapshot;
use skep_common::Result;
use skep_engine::settings::{Execution, Settings};
use skep_engine::sql::CopySource;
use skep_engine::{Statement, boundary};

use super::Run;
use crate::coordinator::Shared;
use crate::lanes::{Job, Lane, Ran};
use crate::session::{Description, Outcome, Rows, StatementKind};

/// The lane that the settings ask for.
pub(super) fn lane(settings: &Settings) -> Option<Lane> {
    match settings.execution() {
        Execution::Auto => None,
        Execution::Local => Some(Lane::Local),
        Execution::Pipelined => Some(Lane::Pipelined),
        Execution::Durable => Some(Lane::Durable),
    }
}

impl Run {
    pub(super) async fn describe_query(&self, query: &ast::Query) -> Result<Description> {
        let planner = self.planner(self.snapshot().await?).await?;
        let plan = planner.logical(query).await?;
        let parameters = skep_engine::planner::parameters(&plan)?;
        Ok(Description { kind: StatementKind::Query, schema: boundary::output_schema(&plan), parameters })
    }

    /// The query inside a statement that writes, if it has one.
    pub(super) async fn source_of<'a>(
        &self,
        statement: &'a Statement,
    ) -> Result<Option<(&'a ast::Query, Arc<Snapshot>)>> {
        let query = match statement {
            Statement::CreateTableAs(create) => Some(&*create.query),
            Statement::CopyTo(copy) => match &copy.source {
                CopySource::Query(query) => Some(&**query),
                CopySource::Table(_) => None,
            },
            _ => None,
        };
        match query {
            Some(query) => Ok(Some((query, self.snapshot().await?))),
            None => Ok(None),
        }
    }

    pub(super) async fn parameters_of(
        &self,
        query: &ast::Query,
        snapshot: Arc<Snapshot>,
    ) -> Result<SchemaRef> {
        let plan = self.planner(snapshot).await?.logical(query).await?;
        skep_engine::planner::parameters(&plan)
    }

    pub(super) async fn query(self, query: &ast::Query, parameters: Vec<ScalarValue>) -> Result<Outcome> {
        let planner = self.planner(self.snapshot().await?).await?.with_parameters(parameters);
        let plan = planner.logical(query).await?;
        let schema = boundary::output_schema(&plan);
        let job = Job {
            state: planner.state().clone(),
            logical: plan,
            write: None,
            lane: lane(&self.settings),
            query: self.query,
        };
        let running = self.start(job).await?;
        *self.session.last.lock() = Some(running.ran.clone());
        let stream = boundary::wrap_stream(running.stream, Arc::clone(&schema));
        let stream = counted(stream, Arc::clone(&self.shared), running.ran);
        Ok(Outcome::Rows(Rows { query: self.query, schema, stream }))
    }
}

/// The same rows; at their end the tasks that made them are counted.
fn counted(stream: SendableRecordBatchStream, shared: Arc<Shared>, ran: Ran) -> SendableRecordBatchStream {
    let schema = stream.schema();
    let end = futures::stream::once(async move {
        shared.count_tasks(&ran);
        None
    });
    let all = stream.map(Some).chain(end).filter_map(std::future::ready);
    Box::pin(RecordBatchStreamAdapter::new(schema, all))
}
