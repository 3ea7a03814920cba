//! EXPLAIN: what would happen, or what happened.

use std::sync::Arc;

use arrow::array::StringArray;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use datafusion::scalar::ScalarValue;
use skep_common::{Error, Result};
use skep_engine::Statement;
use skep_engine::planner::Noted;
use skep_engine::write::WriteTarget;

use super::Run;
use super::query::lane;
use crate::lanes::Job;
use crate::session::Outcome;

/// The part that says where the statement would wait for its turn.
const GROUP: &str = "resource_group";

/// One row for each part of the plan.
pub(super) fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("plan_type", DataType::Utf8, false),
        Field::new("plan", DataType::Utf8, false),
    ]))
}

impl Run {
    pub(super) async fn explain(
        self,
        statement: Statement,
        analyze: bool,
        verbose: bool,
        parameters: Vec<ScalarValue>,
    ) -> Result<Outcome> {
        if super::changes_rows(&statement) {
            let mut parts = self.explain_edit(&statement, analyze, parameters).await?;
            parts.push((GROUP.to_owned(), self.shown_group(None)?));
            return self.explained(parts.iter().map(|(name, text)| (name.as_str(), text.as_str())));
        }
        if analyze && statement.tag().is_some() {
            return Err(Error::unsupported(
                "EXPLAIN ANALYZE runs the statement, and only queries can be run for it",
            )
            .hint("run EXPLAIN ANALYZE on the query inside, or EXPLAIN without ANALYZE"));
        }
        let planner = self.planner(self.snapshot().await?).await?.with_parameters(parameters);
        let Some(plan) = planner.plan(&statement).await? else {
            return Err(Error::invalid("this statement has no plan").hint("EXPLAIN shows queries and writes"));
        };
        let logical = match planner.state().optimize(&plan) {
            Ok(optimised) if !verbose => skep_engine::explain::logical(&optimised),
            Ok(optimised) => format!(
                "{}\n-- optimised\n{}",
                skep_engine::explain::logical(&plan),
                skep_engine::explain::logical(&optimised)
            ),
            Err(e) => return Err(skep_engine::error::from_datafusion(e)),
        };
        let job = Job {
            state: planner.state().clone(),
            logical: plan,
            write: self.explained_target(&statement, &planner).await?,
            lane: lane(&self.settings),
            query: self.query,
        };
        let group = self.shown_group(Some(&job))?;
        let physical =
            if analyze { self.analyzed(job).await? } else { self.shared.lanes.explain(&job).await? };
        let mut parts = vec![("logical_plan", logical), ("physical_plan", physical)];
        if let Statement::Insert(insert) = &statement
            && let Some(replaced) = planner.explain_replaced(insert).await?
        {
            parts.push(("replaced", replaced));
        }
        let scans = skep_engine::explain::scans(&planner.reports());
        if !scans.is_empty() {
            parts.push(("scans", scans));
        }
        parts.push((GROUP, group));
        self.explained(parts.iter().map(|(name, text)| (*name, text.as_str())))
    }

    fn explained<'a>(&self, parts: impl Iterator<Item = (&'a str, &'a str)> + Clone) -> Result<Outcome> {
        let types: StringArray = parts.clone().map(|(name, _)| Some(name)).collect();
        let texts: StringArray = parts.map(|(_, text)| Some(text)).collect();
        let batch = RecordBatch::try_new(schema(), vec![Arc::new(types), Arc::new(texts)])
            .map_err(|e| Error::internal("the plan does not fit its schema").source(e))?;
        self.rows(schema(), vec![batch])
    }

    /// Where a statement that writes would write to.
    async fn explained_target(
        &self,
        statement: &Statement,
        planner: &skep_engine::Planner,
    ) -> Result<Option<WriteTarget>> {
        let (folder, columns, noted) = match statement {
            Statement::Insert(insert) => {
                let table = planner.writable(&insert.table)?;
                (table.path.clone(), table.columns.clone(), Noted::of(&table))
            }
            Statement::CopyInto(copy) => {
                let table = planner.writable(&copy.table)?;
                (table.path.clone(), table.columns.clone(), Noted::of(&table))
            }
            Statement::CreateTableAs(create) => {
                let schema = create.name.schema_or(self.settings.schema());
                let made = planner.create_table_as(create).await?;
                let folder = made.noted.folder(planner.snapshot(), schema, &create.name.name);
                (folder, made.columns, made.noted)
            }
            _ => return Ok(None),
        };
        let mut target = self.shared.root.target(&folder, columns)?;
        noted.lay_out(&mut target)?;
        Ok(Some(target))
    }
}
