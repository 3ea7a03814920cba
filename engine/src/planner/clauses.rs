//! What a table says beside its columns, resolved: keys to columns, conditions to expressions, properties to values.

use std::collections::{BTreeMap, HashSet};

use datafusion::arrow::datatypes::{DataType, Schema};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, TableReference};
use datafusion::logical_expr::{Expr, ExprSchemable, Volatility};
use datafusion::sql::sqlparser::ast;
use skep_catalog::{Change, Check, Column, PartitionKey, Snapshot, SortKey, TableDef};
use skep_common::{ByteSize, Error, Result, unit};

use super::{Planner, tables};
use crate::sql::{CheckSpec, Clauses, ColumnPath, Location, PartitionSpec, SortSpec};
use crate::write::WriteTarget;
use crate::{error, files, names, settings, types};

/// The clauses of a table that is made.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Noted {
    /// `PARTITIONED BY`
    pub partitions: Vec<PartitionKey>,
    /// `SORTED BY`
    pub sorting: Vec<SortKey>,
    /// `CHECK`
    pub checks: Vec<Check>,
    /// `TBLPROPERTIES`
    pub properties: BTreeMap<String, String>,
    /// `LOCATION`: an absolute folder of this machine or a URL, ending in `/`. Not set for a table that is there.
    pub location: Option<String>,
}

impl Noted {
    /// Those of a table that is there.
    pub fn of(table: &TableDef) -> Self {
        Self {
            partitions: table.partitioning.keys.clone(),
            sorting: table.sorting.clone(),
            checks: table.checks.clone(),
            properties: table.properties.clone(),
            location: None,
        }
    }

    /// Tells a write how the files of the table are laid out.
    ///
    /// # Errors
    /// [`Kind::Invalid`](skep_common::Kind::Invalid) for a property that another engine gave a wrong value.
    pub fn lay_out(&self, target: &mut WriteTarget) -> Result<()> {
        target.partitions.clone_from(&self.partitions);
        target.sorting.clone_from(&self.sorting);
        if let Some(size) = self.file_size()? {
            target.file_size = size;
        }
        Ok(())
    }

    /// The size of files that the table asks for.
    ///
    /// # Errors
    /// [`Kind::Invalid`](skep_common::Kind::Invalid) for one that another engine set and that is none.
    pub fn file_size(&self) -> Result<Option<ByteSize>> {
        let size = self.properties.get(settings::FILE_SIZE);
        size.map(|size| settings::file_size(size)?.parse()).transpose()
    }

    /// Where the files of a table that is made lie: its location, or its place under the data path.
    pub fn folder(&self, snapshot: &Snapshot, schema: &str, name: &str) -> String {
        self.location.clone().unwrap_or_else(|| snapshot.path_of_new_table(schema, name))
    }

    /// What gives all of it to table `table`, which was just made.
    pub fn changes(&self, table: i64) -> Vec<Change> {
        let mut changes = Vec::new();
        if let Some(location) = &self.location {
            changes.push(Change::Locate { table, location: location.clone() });
        }
        if !self.partitions.is_empty() {
            changes.push(Change::SetPartitioning { table, keys: self.partitions.clone() });
        }
        if !self.sorting.is_empty() {
            changes.push(Change::SetSorting { table, keys: self.sorting.clone() });
        }
        if !self.checks.is_empty() {
            changes.push(Change::SetChecks { table, checks: self.checks.clone() });
        }
        if !self.properties.is_empty() {
            changes.push(Change::SetProperties { table, properties: self.properties.clone() });
        }
        changes
    }
}

impl Planner {
    /// The clauses of a table with `columns`.
    ///
    /// # Errors
    /// [`Kind::Invalid`](skep_common::Kind::Invalid) for columns that are not there, transforms that do not fit their
    /// columns, conditions that are none, and values that a property cannot have.
    pub fn noted(&self, columns: &[Column], clauses: &Clauses) -> Result<Noted> {
        let mut noted = Noted {
            partitions: partitions(columns, &clauses.partitions)?,
            sorting: sorting(columns, &clauses.sorting)?,
            ..Noted::default()
        };
        for spec in &clauses.checks {
            let check = self.named_check(columns, &noted.checks, spec)?;
            noted.checks.push(check);
        }
        for (key, value) in &clauses.properties {
            property(key, value)?;
            noted.properties.insert(key.clone(), value.clone());
        }
        if let Some(location) = &clauses.location {
            noted.location = Some(self.location(location)?);
        }
        Ok(noted)
    }

    /// The folder of a table outside the data path.
    ///
    /// # Errors
    /// [`Kind::Invalid`](skep_common::Kind::Invalid) for what is no folder, one that not every node sees, one in the
    /// data path, and a store that nothing is configured for.
    fn location(&self, location: &Location) -> Result<String> {
        let wrong = |e: Error| e.at(location.at);
        let environment = &self.environment;
        let (store, path) = files::folder(&location.text, self.settings.directory()).map_err(wrong)?;
        let folder = files::folder_shown(&store, &path);
        if environment.only_here(&store, &path) {
            return Err(wrong(
                Error::invalid(format!("not every node sees the folder '{folder}'"))
                    .hint("name it, or a folder above it, in [coordinator] shared_paths if all do; or take skep://, s3:// or hdfs://"),
            ));
        }
        environment.runtime.object_store(&store).map_err(|e| wrong(error::from_datafusion(e)))?;
        let (root, below) = files::data_path(environment.catalog.data_path())?;
        let data = files::folder_shown(&root, &below);
        if names::within(&folder, &data) {
            return Err(wrong(
                Error::invalid(format!("'{folder}' is in the folder of the warehouse, '{data}'"))
                    .hint("leave LOCATION out: tables have their places there without it"),
            ));
        }
        Ok(folder)
    }

    /// `spec` under a name that none of `others` has.
    pub(super) fn named_check(
        &self,
        columns: &[Column],
        others: &[Check],
        spec: &CheckSpec,
    ) -> Result<Check> {
        let taken = |name: &str| others.iter().any(|check| check.name.eq_ignore_ascii_case(name));
        let place = |e: Error| tables::placed(e, spec.at);
        let name = match &spec.name {
            Some(name) if taken(name) => {
                return Err(place(
                    Error::already_exists(format!("constraint '{name}' exists already"))
                        .hint("take another name, or DROP CONSTRAINT it first"),
                ));
            }
            Some(name) => name.clone(),
            None => {
                let mut numbers = (1..).map(|at: u32| format!("check_{at}"));
                numbers.find(|name| !taken(name)).unwrap_or_default()
            }
        };
        self.condition(columns, &spec.expr).map_err(|e| place(e.context(format!("constraint '{name}'"))))?;
        Ok(Check { name, sql: spec.expr.to_string() })
    }

    /// The condition of a CHECK over columns of those names.
    pub(super) fn condition(&self, columns: &[Column], expr: &ast::Expr) -> Result<Expr> {
        let fields = skep_catalog::logical_schema(columns);
        let schema = Schema::new(
            fields.fields().iter().map(|f| f.as_ref().clone().with_nullable(true)).collect::<Vec<_>>(),
        );
        let schema = DFSchema::try_from_qualified_schema(TableReference::bare("row"), &schema)
            .map_err(error::from_datafusion)?;
        let unqualified = schema.clone().strip_qualifiers();
        let refused = |why: &str| {
            Err(Error::invalid(format!("the condition {why}"))
                .hint("a CHECK compares columns of one row, as in CHECK (price >= 0)"))
        };
        let found = self
            .state
            .create_logical_expr_from_sql_expr(
                datafusion::sql::sqlparser::ast::ExprWithAlias { expr: expr.clone(), alias: None },
                &unqualified,
            )
            .map_err(error::from_datafusion)?;
        let mut reason = None;
        let _ = found.apply(|node| {
            reason = reason.or(match node {
                Expr::ScalarSubquery(_) | Expr::Exists(_) | Expr::InSubquery(_) => Some("has a subquery"),
                Expr::AggregateFunction(_) | Expr::WindowFunction(_) => Some("has an aggregate"),
                Expr::Placeholder(_) => Some("has a parameter"),
                Expr::ScalarFunction(call) if call.func.signature().volatility != Volatility::Immutable => {
                    Some("has a function whose value changes")
                }
                _ => None,
            });
            Ok(TreeNodeRecursion::Continue)
        });
        if let Some(reason) = reason {
            return refused(reason);
        }
        match found.get_type(&unqualified).map_err(error::from_datafusion)? {
            DataType::Boolean | DataType::Null => Ok(found),
            _ => refused("is not a condition"),
        }
    }

    /// As [`Planner::condition`], from the catalog's text.
    pub(super) fn condition_of(&self, columns: &[Column], check: &Check) -> Result<Expr> {
        let expr = expression(&check.sql).ok_or_else(|| {
            Error::corrupt(format!("constraint '{}' does not read: {}", check.name, check.sql))
                .hint("ALTER TABLE ... DROP CONSTRAINT takes it away")
        })?;
        self.condition(columns, &expr)
    }
}

/// The first row of `batch`, for people.
pub fn row_shown(batch: &RecordBatch) -> String {
    let names: Vec<String> = batch.schema().fields().iter().map(|field| field.name().clone()).collect();
    crate::functions::shown(&names, batch.columns(), 0)
}

/// The expression that `sql` is.
pub(super) fn expression(sql: &str) -> Option<ast::Expr> {
    let query = crate::sql::parse_query(&format!("SELECT ({sql})")).ok()?;
    let ast::SetExpr::Select(select) = *query.body else { return None };
    match select.projection.into_iter().next()? {
        ast::SelectItem::UnnamedExpr(ast::Expr::Nested(expr)) => Some(*expr),
        ast::SelectItem::UnnamedExpr(expr) => Some(expr),
        _ => None,
    }
}

/// The columns, not the fields inside them, that `sql` names.
pub(super) fn mentioned(sql: &str) -> HashSet<String> {
    let mut found = HashSet::new();
    if let Some(expr) = expression(sql) {
        let _ = ast::visit_expressions(&expr, |node| {
            match node {
                ast::Expr::Identifier(ident) => found.insert(names::normalise(ident)),
                ast::Expr::CompoundIdentifier(parts) => {
                    parts.first().is_some_and(|p| found.insert(names::normalise(p)))
                }
                _ => false,
            };
            std::ops::ControlFlow::<()>::Continue(())
        });
    }
    found
}

/// `sql` with column `from` called `to`.
pub(super) fn renamed(sql: &str, from: &str, to: &str) -> String {
    let Some(mut expr) = expression(sql) else { return sql.to_owned() };
    let rename = |ident: &mut ast::Ident| {
        if names::normalise(ident) == from {
            let quote = (names::quote(to) != to).then_some('"');
            *ident = ast::Ident { value: to.to_owned(), quote_style: quote, span: ident.span };
        }
    };
    let _ = ast::visit_expressions_mut(&mut expr, |node| {
        match node {
            ast::Expr::Identifier(ident) => rename(ident),
            ast::Expr::CompoundIdentifier(parts) => parts.iter_mut().take(1).for_each(rename),
            _ => {}
        }
        std::ops::ControlFlow::<()>::Continue(())
    });
    expr.to_string()
}

/// The column of that name. Fields inside others are refused.
pub(super) fn top<'a>(columns: &'a [Column], path: &ColumnPath, what: &str) -> Result<&'a Column> {
    let place = |e: Error| tables::placed(e, path.at);
    let [name] = path.parts.as_slice() else {
        return Err(place(
            Error::unsupported(format!("{what} takes columns, and '{path}' is a field inside one"))
                .hint("keep it in a column of its own"),
        ));
    };
    columns.iter().find(|column| column.name == *name).ok_or_else(|| place(missing(columns, name)))
}

pub(super) fn missing(columns: &[Column], name: &str) -> Error {
    let known = columns.iter().map(|column| column.name.as_str());
    let error = Error::not_found(format!("column '{name}' does not exist"));
    match names::nearest(name, known.clone()) {
        Some(near) => error.hint(format!("did you mean '{near}'?")),
        None => error.hint(format!("columns are {}", known.collect::<Vec<_>>().join(", "))),
    }
}

/// The type of `column` as SQL writes it.
pub(super) fn type_name(column: &Column) -> String {
    let schema = skep_catalog::logical_schema(std::slice::from_ref(column));
    types::sql_name(schema.field(0).data_type())
}

pub(super) fn partitions(columns: &[Column], specs: &[PartitionSpec]) -> Result<Vec<PartitionKey>> {
    let mut keys: Vec<PartitionKey> = Vec::with_capacity(specs.len());
    for spec in specs {
        let column = top(columns, &spec.column, "PARTITIONED BY")?;
        let (transform, at) = (spec.transform, spec.column.at);
        if !transform.takes(&column.ty) {
            return Err(tables::placed(unfit(transform, column), at));
        }
        let key = PartitionKey { column: column.id, transform };
        if keys.contains(&key) {
            return Err(tables::placed(
                Error::invalid(format!("the key '{transform}' of '{}' is given twice", column.name)),
                at,
            ));
        }
        keys.push(key);
    }
    Ok(keys)
}

fn unfit(transform: skep_catalog::Transform, column: &Column) -> Error {
    use skep_catalog::Transform;
    let takes = match transform {
        Transform::Identity => "numbers that are not floats, texts, binary, dates and times",
        Transform::Year | Transform::Month | Transform::Day => "DATE and TIMESTAMP columns",
        Transform::Hour => "TIMESTAMP columns",
        Transform::Bucket(_) => "signed integers, VARCHAR, DATE and TIMESTAMP columns",
    };
    Error::invalid(format!(
        "partition transform '{transform}' takes {takes}, and column '{}' is {}",
        column.name,
        type_name(column)
    ))
    .hint("choose another transform, or another column")
}

pub(super) fn sorting(columns: &[Column], specs: &[SortSpec]) -> Result<Vec<SortKey>> {
    let mut keys: Vec<SortKey> = Vec::with_capacity(specs.len());
    for spec in specs {
        let column = top(columns, &spec.column, "SORTED BY")?;
        let place = |e: Error| tables::placed(e, spec.column.at);
        if column.ty.is_nested() {
            return Err(place(Error::invalid(format!(
                "rows cannot be sorted by column '{}', which is {}",
                column.name,
                type_name(column)
            ))));
        }
        if keys.iter().any(|key| key.column == column.id) {
            return Err(place(Error::invalid(format!("column '{}' is named twice", column.name))));
        }
        keys.push(SortKey { column: column.id, descending: spec.descending, nulls_first: spec.nulls_first });
    }
    Ok(keys)
}

/// The property that leaves a table out of what Skep does by itself: `off`.
pub const MAINTENANCE: &str = "skep.maintenance";
/// The property that says how long a table keeps snapshots, as in `30d`.
pub const SNAPSHOT_RETENTION: &str = "skep.snapshot_retention";

/// Properties that mean something to Skep, and what checks their values.
const KNOWN: [&str; 3] = [settings::FILE_SIZE, MAINTENANCE, SNAPSHOT_RETENTION];

/// Refuses values that a property cannot have.
pub(super) fn property(key: &str, value: &str) -> Result<()> {
    if key == settings::FILE_SIZE {
        return settings::file_size(value).map(drop);
    }
    if key == SNAPSHOT_RETENTION {
        return unit::parse_duration(value).map(drop);
    }
    if key == MAINTENANCE {
        if ["on", "off"].iter().any(|known| value.eq_ignore_ascii_case(known)) {
            return Ok(());
        }
        return Err(Error::invalid(format!("'{value}' is not a value of {MAINTENANCE}")).hint("on or off"));
    }
    if key.is_empty() {
        return Err(Error::invalid("the name of a property is empty"));
    }
    if !key.starts_with("skep.") {
        return Ok(());
    }
    let error = Error::invalid(format!("there is no table property '{key}'"));
    Err(match names::nearest(key, KNOWN) {
        Some(near) => error.hint(format!("did you mean '{near}'?")),
        None => {
            error.hint(format!("those of skep are {}; other names are kept as they are", KNOWN.join(", ")))
        }
    })
}
