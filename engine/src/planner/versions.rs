//! Tables as of another snapshot: `t VERSION AS OF 3`, `t TIMESTAMP AS OF '2024-02-29'`.
//!
//! Each is replaced by a name of its own, under which the planner finds the table or view of that snapshot. The alias
//! stays what it was, or the table's name. What compares snapshots is resolved with them, see [`changes`].
//! `name.schema.t` is a table of a catalog that somebody else shows under that name ([`super::Others`]), in the same way.

use std::ops::ControlFlow;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use datafusion::arrow::array::{ArrayRef, AsArray};
use datafusion::arrow::datatypes::{DataType, Int64Type, TimeUnit, TimestampMicrosecondType};
use datafusion::common::cast::as_string_array;
use datafusion::physical_plan::collect;
use datafusion::sql::sqlparser::ast::{
    Expr, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, ObjectName, ObjectNamePart, Query,
    TableAlias, TableFactor, TableVersion, VisitMut, VisitorMut,
};
use skep_catalog::Snapshot;
use skep_common::{Error, Result};

use super::{Planner, changes, tables};
use crate::sql::Name;
use crate::{error, names};

/// Takes the versions out of `query` and puts their tables into the planner's catalog.
pub(super) async fn resolve(planner: &Planner, query: &mut Query, within: &mut Vec<String>) -> Result<()> {
    let mut found = Versions { schema: planner.settings.schema().to_owned(), found: Vec::new(), error: None };
    let _ = VisitMut::visit(query, &mut found);
    if let Some(error) = found.error {
        return Err(error);
    }
    for Version { name, hidden, version } in found.found {
        let version = match version {
            Of::Version(version) => version,
            Of::Other(catalog) => {
                other(planner, &catalog, &name, &hidden, within).await?;
                continue;
            }
        };
        let schema = name.schema_or(planner.settings.schema());
        if planner.catalogs.get(schema, &hidden).is_some() {
            continue;
        }
        let at = name.at;
        let snapshot = planner.snapshot_of(&version).await.map_err(|e| tables::placed(e, at))?;
        let past = Planner::new(Arc::clone(&planner.environment), snapshot, &planner.settings).await?;
        let id = past.snapshot().id;
        let provider = Box::pin(tables::provider(&past, &name, schema, within)).await;
        let provider = provider.map_err(|e| e.context(format!("as of snapshot {id}")))?;
        planner.catalogs.put(schema, &hidden, provider);
    }
    changes::resolve(planner, query).await
}

/// Finds a table of a catalog that is not ours.
async fn other(
    planner: &Planner,
    catalog: &str,
    name: &Name,
    hidden: &str,
    within: &mut Vec<String>,
) -> Result<()> {
    let default = planner.settings.schema();
    if planner.catalogs.get(default, hidden).is_some() {
        return Ok(());
    }
    let snapshot = match &planner.others {
        Some(others) => others.snapshot(catalog).await.map_err(|e| tables::placed(e, name.at))?,
        None => None,
    };
    let snapshot = snapshot.ok_or_else(|| {
        let error = Error::invalid(format!("catalog '{catalog}' does not exist"));
        tables::placed(error.hint(format!("the catalog is named '{}'", names::CATALOG)), name.at)
    })?;
    let there = Planner::new(Arc::clone(&planner.environment), snapshot, &planner.settings).await?;
    let provider = Box::pin(tables::provider(&there, name, name.schema_or(default), within)).await;
    planner.catalogs.put(default, hidden, provider.map_err(|e| e.context(format!("in '{catalog}'")))?);
    Ok(())
}

struct Version {
    name: Name,
    hidden: String,
    version: Of,
}

enum Of {
    Version(Box<TableVersion>),
    /// A catalog by its name.
    Other(String),
}

/// The catalog and the rest of a name with three parts, unless it is ours.
fn of_other(name: &ObjectName) -> Option<(String, Name)> {
    let [catalog, schema, table] = name.0.as_slice() else { return None };
    let [catalog, schema, table] = [catalog, schema, table].map(|part| part.as_ident().map(names::normalise));
    let catalog = catalog.filter(|catalog| catalog != names::CATALOG)?;
    Some((catalog, Name { schema: Some(schema?), name: table?, at: names::position(name) }))
}

struct Versions {
    schema: String,
    found: Vec<Version>,
    error: Option<Error>,
}

impl VisitorMut for Versions {
    type Break = ();

    fn post_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        let TableFactor::Table { name, version, alias, args: None, .. } = factor else {
            return ControlFlow::Continue(());
        };
        let last = name.0.last().and_then(|part| part.as_ident()).cloned();
        let quoted = |value: String| ObjectNamePart::Identifier(Ident::with_quote('"', value));
        let called = |alias: &mut Option<TableAlias>| {
            if let (None, Some(last)) = (&alias, last) {
                *alias = Some(TableAlias { explicit: true, name: last, columns: Vec::new(), at: None });
            }
        };
        let Some(version) = version.take() else {
            if let Some((catalog, parsed)) = of_other(name) {
                // A name that no table has: it begins with a space.
                let hidden = format!(" {catalog}.{parsed}");
                *name = ObjectName(vec![quoted(self.schema.clone()), quoted(hidden.clone())]);
                called(alias);
                self.found.push(Version { name: parsed, hidden, version: Of::Other(catalog) });
            }
            return ControlFlow::Continue(());
        };
        let parsed = match Name::from_ast(name) {
            Ok(parsed) => parsed,
            Err(error) => {
                self.error.get_or_insert(error);
                return ControlFlow::Continue(());
            }
        };
        let hidden = format!("{} {version}", parsed.name);
        let schema = parsed.schema_or(&self.schema).to_owned();
        *name = ObjectName(vec![quoted(schema), quoted(hidden.clone())]);
        called(alias);
        self.found.push(Version { name: parsed, hidden, version: Of::Version(Box::new(version)) });
        ControlFlow::Continue(())
    }
}

/// What a version is given by.
enum Given<'a> {
    Version(&'a Expr),
    Time(&'a Expr),
}

impl Planner {
    /// The snapshot that `version` names.
    ///
    /// # Errors
    /// [`Kind::NotFound`](skep_common::Kind::NotFound) for a snapshot or tag that is not there,
    /// [`Kind::Invalid`](skep_common::Kind::Invalid) for what is neither.
    pub async fn snapshot_of(&self, version: &TableVersion) -> Result<Arc<Snapshot>> {
        let catalog = &self.environment.catalog;
        match given(version)? {
            Given::Version(expr) => {
                let batch = self.constant(expr, None).await?;
                match batch.data_type() {
                    DataType::Int64 => match batch.as_primitive::<Int64Type>().iter().next().flatten() {
                        Some(id) => catalog.snapshot_at(id).await,
                        None => Err(Error::invalid("a version cannot be NULL")),
                    },
                    DataType::Utf8 => {
                        let names = as_string_array(&batch).map_err(error::from_datafusion)?;
                        let name = names.iter().next().flatten().unwrap_or_default();
                        self.tagged(name).await
                    }
                    other => Err(Error::invalid(format!("a version cannot be of type {other}"))
                        .hint("it is the number of a snapshot, or the name of a tag in quotes")),
                }
            }
            Given::Time(expr) => catalog.snapshot_as_of(self.time(expr).await?).await,
        }
    }

    /// The point in time that an expression without columns is; without a zone, in the session's.
    ///
    /// # Errors
    /// [`Kind::Invalid`](skep_common::Kind::Invalid) for what is none.
    pub async fn time(&self, expr: &Expr) -> Result<DateTime<Utc>> {
        let value = self.constant(expr, Some("TIMESTAMP WITH TIME ZONE")).await?;
        let micros = value.as_primitive::<TimestampMicrosecondType>().iter().next().flatten();
        let time = micros.and_then(DateTime::from_timestamp_micros);
        time.ok_or_else(|| Error::invalid("a point in time cannot be NULL"))
    }

    async fn tagged(&self, name: &str) -> Result<Arc<Snapshot>> {
        let tags = self.environment.catalog.tags().await?;
        match tags.iter().find(|tag| tag.name == name) {
            Some(tag) => self.environment.catalog.snapshot_at(tag.snapshot).await,
            None => {
                let error = Error::not_found(format!("tag '{name}' does not exist"));
                Err(match names::nearest(name, tags.iter().map(|tag| tag.name.as_str())) {
                    Some(near) => error.hint(format!("did you mean '{near}'?")),
                    None => error.hint("SHOW TAGS lists them; CREATE TAG makes one"),
                })
            }
        }
    }

    /// The one value of an expression without columns: as a 64-bit integer, a text or, for `ty`, a time.
    pub(super) async fn constant(&self, expr: &Expr, ty: Option<&str>) -> Result<ArrayRef> {
        let sql = match ty {
            Some(ty) => format!("SELECT CAST({expr} AS {ty})"),
            None => format!("SELECT {expr}"),
        };
        let query = crate::sql::parse_query(&sql)?;
        let plan = Box::pin(self.logical(&query)).await.map_err(placeless)?;
        let state = self.state();
        let physical = state.create_physical_plan(&plan).await.map_err(error::from_datafusion)?;
        let batches = collect(physical, state.task_ctx()).await.map_err(error::from_datafusion)?;
        let rows: usize = batches.iter().map(|batch| batch.num_rows()).sum();
        let Some(batch) = batches.into_iter().find(|batch| batch.num_rows() == 1).filter(|_| rows == 1)
        else {
            return Err(Error::invalid(format!("'{expr}' is not one value")));
        };
        let array = batch.column(0);
        let target = match array.data_type() {
            _ if ty.is_some() => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            ty if ty.is_integer() => DataType::Int64,
            DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
            other => other.clone(),
        };
        datafusion::arrow::compute::cast(array, &target).map_err(|e| error::from_datafusion(e.into()))
    }
}

/// Places inside an expression that was cut out are not places of the statement.
fn placeless(error: Error) -> Error {
    let moved = Error::new(error.kind(), error.message().to_owned());
    match error.hint_text() {
        Some(hint) => moved.hint(hint),
        None => moved,
    }
}

fn given(version: &TableVersion) -> Result<Given<'_>> {
    let usage = "write VERSION AS OF 3, VERSION AS OF 'tag' or TIMESTAMP AS OF '2024-02-29 12:00:00'";
    let refused = || Error::unsupported(format!("'{version}' is not understood")).hint(usage);
    match version {
        TableVersion::VersionAsOf(expr) => Ok(Given::Version(expr)),
        TableVersion::TimestampAsOf(expr) | TableVersion::ForSystemTimeAsOf(expr) => Ok(Given::Time(expr)),
        TableVersion::Function(Expr::Function(function))
            if function.name.to_string().eq_ignore_ascii_case("at") =>
        {
            let FunctionArguments::List(list) = &function.args else { return Err(refused()) };
            let [only] = list.args.as_slice() else { return Err(refused()) };
            let (name, value) = match only {
                FunctionArg::Named { name, arg: FunctionArgExpr::Expr(value), .. } => {
                    (name.value.clone(), value)
                }
                FunctionArg::ExprNamed { name, arg: FunctionArgExpr::Expr(value), .. } => {
                    (name.to_string(), value)
                }
                _ => return Err(refused()),
            };
            match name.to_ascii_lowercase().as_str() {
                "version" | "snapshot" | "tag" => Ok(Given::Version(value)),
                "timestamp" => Ok(Given::Time(value)),
                _ => Err(refused()),
            }
        }
        _ => Err(refused()),
    }
}
