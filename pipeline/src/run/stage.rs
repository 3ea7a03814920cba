//! Puts the rows of a model into its table, inside the run's transaction.
//!
//! # Not here
//! Whether it is to be done (`decide`), and whether the rows are right (`test`).

use std::collections::BTreeSet;

use arrow::datatypes::{Schema, SchemaRef};
use chrono::NaiveDateTime;
use futures::FutureExt;
use skep_common::{Error, Kind as ErrorKind, Result};
use skep_coordinator::StatementKind;
use skep_engine::names::quote;
use skep_engine::types::sql_name;

use super::decide::Work;
use super::{Outcome, Runner, placed, rows};
use crate::event::Event;
use crate::interval::Span;
use crate::project::{Kind, Model, Name, SchemaChange};
use crate::rewrite::Rewritten;
use crate::statements;

impl Runner {
    pub(super) async fn stage_and_test(&self, model: &Model, changed: &BTreeSet<Name>) -> Result<Outcome> {
        self.references(model).await?;
        let work = self.decide(model, changed).await?;
        let range = match &work {
            Work::Spans { spans, .. } => {
                Some(spans.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
            }
            _ => None,
        };
        let (name, kind) = (model.name.to_string(), model.kind.name().to_owned());
        let outcome = match work {
            Work::Nothing(note) => return Ok(Outcome { note: Some(note), ..Outcome::default() }),
            work => {
                self.tell(Event::Model { model: name, kind, range }).await;
                self.stage(model, work).await?
            }
        };
        if outcome.changed {
            self.tests(model).await?;
        }
        self.session.save().await?;
        Ok(outcome)
    }

    async fn stage(&self, model: &Model, work: Work) -> Result<Outcome> {
        let (spans, starts, reset) = match work {
            Work::Spans { spans, starts, reset } => (spans, starts, reset),
            _ => (Vec::new(), BTreeSet::new(), self.request.full_refresh),
        };
        match model.kind {
            Kind::View => self.stage_view(model).await,
            Kind::Load => self.stage_load(model, reset).await,
            Kind::Seed => self.stage_seed(model).await,
            Kind::Table | Kind::Partition | Kind::Merge | Kind::Snapshot => {
                self.stage_rows(model, reset).await
            }
            Kind::Append | Kind::Interval => self.stage_spans(model, &spans, &starts, reset).await,
        }
    }

    /// The columns of a model's query, which is checked by this.
    pub(super) async fn columns(&self, query: &Rewritten) -> Result<SchemaRef> {
        let described = self.session.describe(&query.text).await.map_err(|e| query.placed(e))?;
        if described.kind != StatementKind::Query {
            return Err(Error::invalid("a model is one query"));
        }
        if !described.parameters.fields().is_empty() {
            return Err(
                Error::invalid("a parameter of the query has no value").hint("values have names: $start")
            );
        }
        let schema = described.schema;
        let mut seen = BTreeSet::new();
        match schema.fields().iter().find(|field| !seen.insert(field.name().clone())) {
            Some(twice) => {
                Err(Error::invalid(format!("two columns of the query have the name '{}'", twice.name()))
                    .hint("give one another name with AS"))
            }
            None => Ok(schema),
        }
    }

    pub(super) async fn stage_view(&self, model: &Model) -> Result<Outcome> {
        let query = self.bound(&model.sql, &model.reads, self.any_span(model));
        self.columns(&query).await?;
        let name = self.table(&model.name);
        let _names = self.names.lock().await;
        // A table of an earlier kind of the model.
        let snapshot = self.session.sees().await?;
        if snapshot.table(&name.schema, &name.name).is_some() {
            rows::run(&self.session, &format!("DROP TABLE {}", statements::table(&name))).await?;
        }
        let sql = format!("CREATE OR REPLACE VIEW {} AS\n{}", statements::table(&name), query.text);
        rows::run(&self.session, &sql).await.map_err(|e| placed(e, &query, 1))?;
        Ok(Outcome { changed: true, ..Outcome::default() })
    }

    async fn stage_load(&self, model: &Model, reset: bool) -> Result<Outcome> {
        let load = model.load.as_ref().ok_or_else(|| Error::internal("a load without files"))?;
        let name = self.table(&model.name);
        let snapshot = self.session.sees().await?;
        let mut changed = false;
        if reset || snapshot.table(&name.schema, &name.name).is_none() {
            let columns = match model.header.columns {
                Some(_) => std::sync::Arc::new(Schema::empty()),
                None => {
                    let query = self.bound(&model.sql, &model.reads, self.any_span(model));
                    self.columns(&query).await?
                }
            };
            let _names = self.names.lock().await;
            rows::run(&self.session, &statements::create(&name, model, &columns)).await?;
            changed = true;
        }
        let rejects = model
            .header
            .reject
            .then(|| Name { schema: name.schema.clone(), name: format!("{}__rejected", name.name) });
        let sql = statements::load(&name, load, rejects.as_ref());
        // It may make a table, for rows that do not fit.
        let _names = if rejects.is_some() { Some(self.names.lock().await) } else { None };
        match rows::run(&self.session, &sql).await {
            Ok((loaded, _)) => {
                let loaded = loaded.unwrap_or(0);
                let note = (loaded == 0).then(|| "no file that was not loaded yet".to_owned());
                Ok(Outcome { rows: Some(loaded), changed: changed || loaded > 0, note, ..Outcome::default() })
            }
            Err(error) => Err(error),
        }
    }

    async fn stage_seed(&self, model: &Model) -> Result<Outcome> {
        let name = self.table(&model.name);
        let (schema, batch) = seed(model)?;
        let _names = self.names.lock().await;
        rows::run(&self.session, &statements::create(&name, model, &schema)).await?;
        let target = skep_coordinator::ingest::Target {
            schema: Some(name.schema.clone()),
            table: name.name.clone(),
            create: false,
            existing: skep_coordinator::ingest::Existing::Append,
        };
        let stream = datafusion::physical_plan::memory::MemoryStream::try_new(vec![batch], schema, None)
            .map_err(skep_engine::error::from_datafusion)?;
        let done = self.session.ingest(&target, Box::pin(stream)).boxed().await?;
        Ok(Outcome { rows: done.rows, changed: true, ..Outcome::default() })
    }

    /// Kinds whose query is run once.
    async fn stage_rows(&self, model: &Model, reset: bool) -> Result<Outcome> {
        let query = self.bound(&model.sql, &model.reads, self.any_span(model));
        let columns = self.columns(&query).await?;
        let name = self.table(&model.name);
        let kept = if model.kind == Kind::Snapshot {
            std::sync::Arc::new(statements::snapshot_columns(&columns))
        } else {
            SchemaRef::clone(&columns)
        };
        let made = self.table_for(model, &name, &kept, reset).await?;
        let header = &model.header;
        let sql = match model.kind {
            Kind::Partition => {
                vec![statements::partitions(&name, &header.partition, &columns, &query.text)]
            }
            Kind::Merge => vec![statements::merge(&name, &header.key, &columns, &query.text)],
            Kind::Snapshot => {
                let now = statements::moment(self.begun);
                statements::snapshot(&name, &header.key, &header.check, &columns, &query.text, &now).to_vec()
            }
            _ => vec![statements::overwrite(&name, &columns, &query.text)],
        };
        if matches!(model.kind, Kind::Merge | Kind::Snapshot) {
            self.keys_once(model, &query).await?;
        }
        let mut written = 0;
        for sql in sql {
            let (rows, _) = rows::run(&self.session, &sql).await.map_err(|e| placed(e, &query, 1))?;
            written += rows.unwrap_or(0);
        }
        let changed = made || written > 0 || model.kind == Kind::Table;
        Ok(Outcome { rows: Some(written), changed, ..Outcome::default() })
    }

    /// A key that the query gives twice decides nothing.
    async fn keys_once(&self, model: &Model, query: &Rewritten) -> Result<()> {
        let keys: Vec<String> = model.header.key.iter().map(|key| quote(key)).collect();
        let keys = keys.join(", ");
        let sql = format!(
            "SELECT {keys}, count(*) AS times FROM (\n{}\n) AS model GROUP BY {keys} HAVING count(*) > 1 LIMIT 3",
            query.text
        );
        let shown = rows::shown(&self.session, &sql).await.map_err(|e| placed(e, query, 1))?;
        if shown.is_empty() {
            return Ok(());
        }
        Err(Error::invalid(format!("the query gives several rows for one key: {shown}"))
            .hint("keep one of them, as by row_number() OVER (PARTITION BY key ORDER BY time DESC) = 1"))
    }

    async fn stage_spans(
        &self,
        model: &Model,
        spans: &[Span],
        starts: &BTreeSet<NaiveDateTime>,
        reset: bool,
    ) -> Result<Outcome> {
        let Some((time, grain)) = model.intervals() else {
            return Err(Error::internal("a model without intervals is run for some"));
        };
        let name = self.table(&model.name);
        let shape = self.bound(&model.sql, &model.reads, self.any_span(model));
        let columns = self.columns(&shape).await?;
        column_is_there(model, &columns, time)?;
        let made = self.table_for(model, &name, &columns, reset).await?;
        let mut written = 0;
        for span in spans {
            let query = self.bound(&model.sql, &model.reads, *span);
            // A run that is gone on with may have staged rows of it before it failed.
            let again = model.kind == Kind::Interval || self.request.retry.is_some();
            if again && !made {
                rows::run(&self.session, &statements::clear(&name, time, *span)).await?;
            }
            let sql = statements::fill(&name, &columns, &query.text, time, *span);
            let (rows, _) = rows::run(&self.session, &sql).await.map_err(|e| placed(e, &query, 1))?;
            written += rows.unwrap_or(0);
        }
        let made_spans = starts.iter().map(|start| (*start, grain.step(*start, 1))).collect();
        Ok(Outcome { rows: Some(written), changed: true, made: made_spans, reset, note: None })
    }

    /// Sees to it that the table is there and takes `columns`. Whether it was made, and is empty.
    async fn table_for(&self, model: &Model, name: &Name, columns: &SchemaRef, reset: bool) -> Result<bool> {
        let _names = self.names.lock().await;
        let snapshot = self.session.sees().await?;
        let shown = statements::table(name);
        if snapshot.view(&name.schema, &name.name).is_some() {
            rows::run(&self.session, &format!("DROP VIEW {shown}")).await?;
        }
        let create =
            async || rows::run(&self.session, &statements::create(name, model, columns)).await.map(|_| true);
        let Some(table) = snapshot.table(&name.schema, &name.name) else { return create().await };
        if reset {
            return create().await;
        }
        let there = table.arrow_schema();
        let (mut lacks, mut others) = (Vec::new(), Vec::new());
        for field in columns.fields() {
            match there.field_with_name(field.name()) {
                Err(_) => lacks.push(field),
                Ok(old) if sql_name(old.data_type()) != sql_name(field.data_type()) => others.push(format!(
                    "column '{}' is {} in the table and {} in the query",
                    field.name(),
                    sql_name(old.data_type()),
                    sql_name(field.data_type())
                )),
                Ok(_) => {}
            }
        }
        let gone: Vec<&str> = there
            .fields()
            .iter()
            .filter(|field| columns.field_with_name(field.name()).is_err())
            .map(|field| field.name().as_str())
            .collect();
        if lacks.is_empty() && others.is_empty() && gone.is_empty() {
            return Ok(false);
        }
        others.extend(lacks.iter().map(|field| format!("column '{}' is new", field.name())));
        others.extend(gone.iter().map(|name| format!("column '{name}' is no longer in the query")));
        match model.on_schema_change() {
            SchemaChange::Replace if model.in_intervals() => {
                Err(Error::invalid(format!("{}: its intervals must all be made again", others.join("; ")))
                    .hint("run with --full-refresh"))
            }
            SchemaChange::Replace => create().await,
            SchemaChange::Add if others.len() == lacks.len() + gone.len() => {
                for field in lacks {
                    let sql = format!(
                        "ALTER TABLE {shown} ADD COLUMN {} {}",
                        quote(field.name()),
                        sql_name(field.data_type())
                    );
                    rows::run(&self.session, &sql).await?;
                }
                Ok(false)
            }
            _ => Err(Error::new(ErrorKind::Invalid, format!("the query and table '{name}' differ: {}", others.join("; ")))
                .hint("on_schema_change = \"add\" adds columns, \"replace\" or --full-refresh makes the table again")),
        }
    }
}

pub(super) fn column_is_there(model: &Model, columns: &Schema, column: &str) -> Result<()> {
    if columns.field_with_name(column).is_ok() {
        return Ok(());
    }
    let error = Error::not_found(format!("the query of '{}' has no column '{column}'", model.name));
    let names = columns.fields().iter().map(|field| field.name().as_str());
    Err(crate::project::near(error, column, names))
}

/// The rows of a CSV text. Columns that it does not name are texts, or what all their values read as.
pub(crate) fn seed(model: &Model) -> Result<(SchemaRef, arrow::record_batch::RecordBatch)> {
    use arrow::csv::ReaderBuilder;
    use arrow::csv::reader::Format;
    let wrong = |e: arrow::error::ArrowError| {
        Error::invalid(format!("'{}' does not read as CSV", model.file)).source(e)
    };
    let format = Format::default().with_header(true);
    let (schema, _) = format.infer_schema(model.sql.as_bytes(), None).map_err(wrong)?;
    let schema = std::sync::Arc::new(schema);
    let reader = ReaderBuilder::new(SchemaRef::clone(&schema))
        .with_format(format)
        .build(model.sql.as_bytes())
        .map_err(wrong)?;
    let batches: Vec<_> = reader.collect::<Result<_, _>>().map_err(wrong)?;
    let batch = arrow::compute::concat_batches(&schema, &batches).map_err(wrong)?;
    Ok((schema, batch))
}
