//! One statement over one snapshot: names to tables, syntax to logical plans.
//!
//! ```text
//! Query --references--> names --load--> tables, views, files --DataFusion--> LogicalPlan
//! ```
//!
//! # Invariants
//! - Everything a planner finds is of the snapshot it was made with.
//! - The file lists of the tables that a statement names are loaded before it is planned; planning itself reads nothing.

mod alter;
mod analyze;
mod catalog;
mod changes;
mod clauses;
mod constant;
mod describe;
mod edit;
mod health;
mod history;
pub mod information;
mod insert;
mod literals;
mod load;
mod references;
mod replace;
mod restore;
mod retype;
mod stats;
mod subqueries;
mod tables;
mod versions;
mod view;
mod write;

pub use alter::{Altered, Rule};
pub use analyze::Analysis;
pub use clauses::{MAINTENANCE, Noted, SNAPSHOT_RETENTION, row_shown};
pub(crate) use constant::{encode as text_of, shown as default_shown};
pub use edit::{Compaction, Edit};
pub use health::Health;
pub use history::schemas as history_schemas;
pub use load::{LoadFile, Loading, rejects_columns};
pub use replace::{Replaced, Replacement};
pub use restore::Restoration;
pub use view::ViewSpec;
pub use write::{NewTable, WriteInput};

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::common::{ParamValues, ScalarValue};
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::logical_expr::logical_plan::Statement as PlanStatement;
use datafusion::prelude::SessionConfig;
use datafusion::sql::parser::Statement as DfStatement;
use datafusion::sql::sqlparser::ast;
use skep_catalog::Snapshot;
use skep_common::{Error, Result};

use crate::environment::Environment;
use crate::scan::{Fresh, Reports, ScanReport};
use crate::settings::Settings;
use crate::sql::{CopySource, Name, Statement};
use crate::types::Types;
use crate::{error, functions, names, order, types};
use catalog::Catalogs;

/// Knows catalogs beside the one that statements change: `name.schema.table` in FROM is a table of theirs.
#[async_trait]
pub trait Others: std::fmt::Debug + Send + Sync {
    /// What the catalog of that name shows; nothing: it is none of theirs.
    ///
    /// # Errors
    /// What keeps it from being shown.
    async fn snapshot(&self, name: &str) -> Result<Option<Arc<Snapshot>>>;
}

/// Plans one statement. Made for each, and thrown away.
#[derive(Debug)]
pub struct Planner {
    environment: Arc<Environment>,
    snapshot: Arc<Snapshot>,
    settings: Settings,
    catalogs: Arc<Catalogs>,
    reports: Arc<Reports>,
    state: SessionState,
    parameters: Option<Vec<ScalarValue>>,
    others: Option<Arc<dyn Others>>,
}

impl Planner {
    /// A planner over `snapshot` with the settings of a session.
    ///
    /// # Errors
    /// None so far; settings were checked when they were set.
    pub async fn new(
        environment: Arc<Environment>,
        snapshot: Arc<Snapshot>,
        settings: &Settings,
    ) -> Result<Self> {
        let catalogs = Arc::new(Catalogs::new(&snapshot, settings.schema()));
        let reports = Arc::new(Reports::default());
        let config = config(&environment, settings).with_extension(Arc::clone(&reports));
        let mut builder = SessionStateBuilder::new_with_default_features()
            .with_config(config)
            .with_runtime_env(Arc::clone(&environment.runtime))
            .with_catalog_list(Arc::clone(&catalogs) as _)
            .with_type_planner(Arc::new(Types { views: settings.view_types() }))
            .with_optimizer_rules(order::rules())
            .with_analyzer_rule(Arc::new(Fresh(Arc::clone(&reports))));
        builder = functions::register(builder);
        let mut state = builder.build();
        // The time of now() in the whole statement.
        state.mark_start_execution();
        Ok(Self {
            environment,
            snapshot,
            settings: settings.clone(),
            catalogs,
            reports,
            state,
            parameters: None,
            others: None,
        })
    }

    /// Gives `$1`, `$2`, ... these values.
    #[must_use]
    pub fn with_parameters(mut self, values: Vec<ScalarValue>) -> Self {
        self.parameters = (!values.is_empty()).then_some(values);
        self
    }

    /// Finds tables of other catalogs too.
    #[must_use]
    pub fn with_others(mut self, others: Arc<dyn Others>) -> Self {
        self.others = Some(others);
        self
    }

    /// Adds tables that are not the catalog's under `schema`, in place of what the snapshot has there under their names.
    #[must_use]
    pub fn with_tables(self, schema: &str, tables: Vec<(String, Arc<dyn TableProvider>)>) -> Self {
        for (name, table) in tables {
            self.catalogs.put(schema, &name, table);
        }
        self
    }

    /// The columns of a table or view, with the types that a query returns.
    ///
    /// # Errors
    /// [`Kind::NotFound`](skep_common::Kind::NotFound) for a name, and those of reading a view.
    pub async fn columns_of(&self, schema: &str, name: &str) -> Result<SchemaRef> {
        let name = Name { schema: Some(schema.to_owned()), name: name.to_owned(), at: None };
        Ok(crate::boundary::plain_schema(&self.provider(&name).await?.schema()))
    }

    /// DataFusion's state, for physical planning and for running.
    pub fn state(&self) -> &SessionState {
        &self.state
    }

    /// The snapshot that is read.
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// The settings of the session.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What the scans of the physical plan that was made last left out.
    pub fn reports(&self) -> Vec<ScanReport> {
        self.reports.list()
    }

    /// The plan of a query, not optimised.
    ///
    /// # Errors
    /// [`Kind::NotFound`](skep_common::Kind::NotFound) for a name, with the nearest;
    /// [`Kind::Invalid`](skep_common::Kind::Invalid) with the position, for the rest.
    pub async fn logical(&self, query: &ast::Query) -> Result<LogicalPlan> {
        self.typed(query, &[]).await
    }

    /// The plan of the rows that `statement` returns or writes, as EXPLAIN shows it. `None` for statements without rows.
    ///
    /// # Errors
    /// As [`Planner::logical`], and those of the statement.
    pub async fn plan(&self, statement: &Statement) -> Result<Option<LogicalPlan>> {
        Ok(Some(match statement {
            Statement::Query(query) => self.logical(query).await?,
            Statement::CreateTableAs(create) => self.create_table_as(create).await?.plan,
            Statement::Insert(insert) => self.insert(insert).await?.plan,
            Statement::CopyInto(copy) => match self.copy_into(copy, &HashMap::new()).await?.rows {
                Some(plan) => plan,
                None => return Ok(None),
            },
            Statement::CopyTo(copy) => self.copy_to(copy).await?,
            Statement::CreateView(create) => self.logical(&create.query).await?,
            Statement::Describe(crate::sql::Described::Query(query)) => self.logical(query).await?,
            _ => return Ok(None),
        }))
    }

    /// The rows that COPY takes from a query or table.
    pub(crate) async fn copy_source(&self, source: &CopySource) -> Result<LogicalPlan> {
        match source {
            CopySource::Query(query) => self.logical(query).await,
            CopySource::Table(name) => {
                let schema = names::quote(name.schema_or(self.settings.schema()));
                let sql = format!("SELECT * FROM {schema}.{}", names::quote(&name.name));
                let query = crate::sql::parse_query(&sql)?;
                self.logical(&query).await
            }
        }
    }

    /// The plan of a query whose parameters have `hints` as types where nothing else says them.
    async fn typed(&self, query: &ast::Query, hints: &[Option<ast::DataType>]) -> Result<LogicalPlan> {
        let mut query = query.clone();
        versions::resolve(self, &mut query, &mut Vec::new()).await?;
        self.load(&query).await?;
        literals::exponents(&mut query);
        let query = ast::Statement::Query(Box::new(query));
        let given = self.parameters.as_deref().map(parameter_types).transpose()?;
        let hinted: Option<Vec<ast::DataType>> =
            (!hints.is_empty()).then(|| hints.iter().cloned().collect()).flatten();
        let (statement, prepared) = match given.or(hinted) {
            Some(data_types) => {
                let name = ast::Ident::new("p");
                (ast::Statement::Prepare { name, data_types, statement: Box::new(query) }, true)
            }
            None => (query, false),
        };
        let statement = DfStatement::Statement(Box::new(statement));
        let plan = self.state.statement_to_plan(statement).await.map_err(|failed| {
            let known = self.state.table_functions().keys().map(String::as_str);
            error::unknown_table_function(error::from_datafusion(failed), known)
        })?;
        let plan = match plan {
            LogicalPlan::Statement(PlanStatement::Prepare(prepare)) if prepared => {
                Arc::unwrap_or_clone(prepare.input)
            }
            plan => plan,
        };
        let plan = match &self.parameters {
            Some(values) => {
                let values = ParamValues::from(values.clone());
                plan.with_param_values(values).map_err(error::from_datafusion)?
            }
            None => plan,
        };
        self.settled(plan)
    }

    /// The table or view that `name` names.
    pub(crate) async fn provider(&self, name: &Name) -> Result<Arc<dyn TableProvider>> {
        let schema = name.schema_or(self.settings.schema());
        tables::provider(self, name, schema, &mut Vec::new()).await
    }

    /// The error of a name that is neither a table nor a view, with the nearest that is.
    pub fn missing_table(&self, name: &Name) -> Error {
        tables::missing(self, name)
    }

    /// `plan` with the types that it will run with. Before, a UNION has the types of its first input alone.
    fn settled(&self, plan: LogicalPlan) -> Result<LogicalPlan> {
        let plan = literals::beside_floats(plan)
            .and_then(subqueries::single_rows)
            .and_then(subqueries::unknown_in)
            .map_err(error::from_datafusion)?;
        let analysed =
            self.state.analyzer().execute_and_check(plan.clone(), self.state.config_options(), |_, _| {});
        match analysed {
            Ok(analysed) => literals::folded(analysed).map_err(error::from_datafusion),
            // A parameter without a value may have no type yet: then the plan is only described.
            Err(_) if self.parameters.is_none() && has_parameters(&plan) => Ok(plan),
            Err(e) => Err(error::from_datafusion(e)),
        }
    }

    async fn load(&self, query: &ast::Query) -> Result<()> {
        tables::load(self, query, &mut Vec::new()).await
    }
}

/// The parameters of `plan` in order, with the types that their places in it ask for.
///
/// # Errors
/// [`Kind::Invalid`](skep_common::Kind::Invalid) for parameters that are not `$1`, `$2`, ...
pub fn parameters(plan: &LogicalPlan) -> Result<SchemaRef> {
    parameters_of(std::slice::from_ref(plan), &HashMap::new())
}

/// As [`parameters`], for plans that a statement runs one after the other. `known` are types that they do not say.
fn parameters_of(plans: &[LogicalPlan], known: &HashMap<String, DataType>) -> Result<SchemaRef> {
    let mut found = HashMap::new();
    for plan in plans {
        for (name, ty) in plan.get_parameter_types().map_err(error::from_datafusion)? {
            let known = found.entry(name).or_insert(None);
            *known = known.take().or(ty);
        }
    }
    let mut fields = Vec::with_capacity(found.len());
    for at in 1..=found.len() {
        let name = format!("${at}");
        let Some(ty) = found.get(&name) else {
            return Err(Error::invalid("parameters are not numbered from $1 without a gap"));
        };
        let ty = ty.as_ref().or_else(|| known.get(&name)).map_or(DataType::Null, types::plain);
        fields.push(Field::new(name, ty, true));
    }
    Ok(Arc::new(Schema::new(fields)))
}

fn has_parameters(plan: &LogicalPlan) -> bool {
    plan.get_parameter_types().map_or(true, |found| !found.is_empty())
}

/// Types of parameters as the parser has them.
fn parameter_types(values: &[ScalarValue]) -> Result<Vec<ast::DataType>> {
    values.iter().map(|value| types::sql_type(&value.data_type())).collect()
}

fn config(environment: &Environment, settings: &Settings) -> SessionConfig {
    let partitions = settings.partitions().unwrap_or(environment.partitions).get();
    let mut config = SessionConfig::new()
        .with_target_partitions(partitions)
        .with_create_default_catalog_and_schema(false)
        .with_default_catalog_and_schema(names::CATALOG, settings.schema())
        .with_information_schema(false);
    let options = config.options_mut();
    options.sql_parser.collect_spans = true;
    options.sql_parser.map_string_types_to_utf8view = settings.view_types();
    // A number with a point is compared digit by digit.
    options.sql_parser.parse_float_as_decimal = true;
    // DataFusion 55 loses the columns of unions and joins when it moves fields of structs below them.
    options.optimizer.enable_leaf_expression_pushdown = false;
    settings.apply(config)
}
