//! The rows in whose place those of INSERT OVERWRITE come.
//!
//! A file that was written for today's partitioning holds rows of one partition, which the catalog knows: it goes or stays
//! as a whole. Files of another engine, and those from before the table was partitioned as it is, hold rows of any
//! partition: theirs are found and taken out as DELETE does it.

use std::collections::HashSet;
use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::{Column as Qualified, DFSchema, ScalarValue, TableReference};
use datafusion::logical_expr::{Expr, lit};
use skep_catalog::{Column, DataFile, NewFile, PartitionKey, TableDef, Transform, text};
use skep_common::{Error, Result};

use super::edit::Edit;
use super::write::WriteInput;
use super::{Planner, constant, tables};
use crate::sql::Insert;
use crate::{error, functions};

/// Which rows give way to those that are written.
#[derive(Debug, Clone, PartialEq)]
pub enum Replaced {
    /// None.
    Nothing,
    /// All.
    Everything,
    /// Those with these values, in columns by their place in the table.
    Named(Vec<(usize, ScalarValue)>),
    /// Those of the partitions that rows are written to.
    Written,
}

/// The files of the rows that give way.
#[derive(Debug)]
pub struct Replacement {
    /// Of how many files.
    pub files: usize,
    /// All their rows go.
    pub removed: Vec<i64>,
    /// What takes the rows out of files that may hold others too; its files are those.
    pub mixed: Option<Edit>,
}

/// The value of each key of a partition, as the catalog writes values of that type today.
type Texts = Vec<Option<String>>;

impl Planner {
    /// Which files the rows of `insert` replace, for people. `None` if it replaces none.
    ///
    /// # Errors
    /// As [`Planner::insert`] and [`Planner::replacement`].
    pub async fn explain_replaced(&self, insert: &Insert) -> Result<Option<String>> {
        let WriteInput { table, replaced, .. } = self.insert(insert).await?;
        let found = self.replacement(&table, &replaced, &[]).await?;
        let (all, gone) = (found.files, found.removed.len());
        let mixed = found.mixed.map_or(0, |edit| edit.files().len());
        let text = match &replaced {
            Replaced::Nothing => return Ok(None),
            Replaced::Everything => format!("all {all} files are replaced"),
            Replaced::Named(values) => {
                let name =
                    |(at, value): &(usize, ScalarValue)| format!("{} = {value}", table.columns[*at].name);
                let named: Vec<String> = values.iter().map(name).collect();
                format!(
                    "of {all} files {gone} are replaced, and {mixed} are looked into for rows with {}",
                    named.join(", ")
                )
            }
            Replaced::Written => {
                format!("of {all} files those of the partitions that rows are written to are replaced")
            }
        };
        Ok(Some(format!("{}.{}: {text}", table.schema_name, table.name)))
    }

    /// The files of `table` whose rows, or some of them, give way to those of `written`.
    ///
    /// # Errors
    /// Those of reading the catalog; [`Kind::Unsupported`](skep_common::Kind::Unsupported) for files whose rows cannot be
    /// told apart.
    pub async fn replacement(
        &self,
        table: &Arc<TableDef>,
        replaced: &Replaced,
        written: &[NewFile],
    ) -> Result<Replacement> {
        let own = tables::own(self, table).await?;
        let files = own.files();
        let all = files.len();
        let wanted = match replaced {
            Replaced::Nothing => Wanted::None,
            Replaced::Everything => {
                let removed = files.iter().map(|file| file.id).collect();
                return Ok(Replacement { files: all, removed, mixed: None });
            }
            Replaced::Named(values) => Wanted::named(table, values)?,
            Replaced::Written => Wanted::written(table, written)?,
        };
        let (mut removed, mut mixed) = (Vec::new(), HashSet::new());
        if wanted != Wanted::None {
            for file in files.iter() {
                match partition_of(table, file) {
                    Some(texts) if wanted.has(&texts) => removed.push(file.id),
                    Some(_) => {}
                    None => {
                        mixed.insert(file.id);
                    }
                }
            }
        }
        let mixed = if mixed.is_empty() {
            None
        } else {
            Some(self.deletion(table, &mixed, |name, schema| wanted.condition(table, name, schema)).await?)
        };
        Ok(Replacement { files: all, removed, mixed })
    }
}

/// The partitions whose rows give way.
#[derive(Debug, PartialEq)]
enum Wanted {
    None,
    /// Keys by place, with their values.
    Named(Vec<(usize, Option<String>)>),
    /// Whole partitions, at least one.
    Tuples(HashSet<Texts>),
}

impl Wanted {
    fn named(table: &TableDef, values: &[(usize, ScalarValue)]) -> Result<Self> {
        let mut named = Vec::with_capacity(values.len());
        for (at, value) in values {
            let column = &table.columns[*at];
            let key = PartitionKey { column: column.id, transform: Transform::Identity };
            let place = table.partitioning.keys.iter().position(|other| *other == key);
            let text =
                if value.is_null() { Some(None) } else { constant::encode(&column.ty, value).map(Some) };
            match (place, text) {
                (Some(place), Some(text)) => named.push((place, text)),
                _ => return Err(Error::internal(format!("'{value}' is no value of a partition key"))),
            }
        }
        Ok(Self::Named(named))
    }

    fn written(table: &TableDef, written: &[NewFile]) -> Result<Self> {
        let tuples: Option<HashSet<Texts>> =
            written.iter().map(|file| texts(table, &file.partition)).collect();
        match tuples {
            Some(tuples) if tuples.is_empty() => Ok(Self::None),
            Some(tuples) => Ok(Self::Tuples(tuples)),
            None => Err(Error::internal("a file was written to no partition of its table")),
        }
    }

    fn has(&self, texts: &Texts) -> bool {
        match self {
            Self::None => false,
            Self::Named(named) => named.iter().all(|(at, text)| texts.get(*at) == Some(text)),
            Self::Tuples(tuples) => tuples.contains(texts),
        }
    }

    /// Whether a row of the table, which is called `name` and has `schema`, is in one of the partitions.
    fn condition(&self, table: &TableDef, name: &TableReference, schema: &DFSchema) -> Result<Expr> {
        let keys = &table.partitioning.keys;
        let is = |at: usize, text: &Option<String>| equal(table, &keys[at], text.as_deref(), name, schema);
        let together = |exprs: Vec<Expr>| exprs.into_iter().reduce(Expr::and).unwrap_or_else(|| lit(true));
        match self {
            Self::None => Ok(lit(false)),
            Self::Named(named) => {
                let exprs: Result<Vec<Expr>> = named.iter().map(|(at, text)| is(*at, text)).collect();
                Ok(together(exprs?))
            }
            Self::Tuples(tuples) => {
                let one = |texts: &Texts| -> Result<Expr> {
                    let exprs: Result<Vec<Expr>> =
                        texts.iter().enumerate().map(|(at, text)| is(at, text)).collect();
                    Ok(together(exprs?))
                };
                Ok(any(tuples.iter().map(one).collect::<Result<Vec<_>>>()?))
            }
        }
    }
}

/// One of `exprs`, as a tree that is not deep.
fn any(mut exprs: Vec<Expr>) -> Expr {
    while exprs.len() > 1 {
        let mut pairs = Vec::with_capacity(exprs.len().div_ceil(2));
        let mut rest = exprs.into_iter();
        while let Some(left) = rest.next() {
            pairs.push(match rest.next() {
                Some(right) => left.or(right),
                None => left,
            });
        }
        exprs = pairs;
    }
    exprs.pop().unwrap_or_else(|| lit(false))
}

/// Whether `key` has the value that `text` stands for.
fn equal(
    table: &TableDef,
    key: &PartitionKey,
    text: Option<&str>,
    name: &TableReference,
    schema: &DFSchema,
) -> Result<Expr> {
    let broken = || Error::internal("a partition value does not read");
    let column = table.columns.iter().find(|column| column.id == key.column).ok_or_else(broken)?;
    let value = Expr::Column(Qualified::new(Some(name.clone()), &column.name));
    let Some(text) = text else { return Ok(value.is_null()) };
    if key.transform != Transform::Identity {
        let number: i32 = text.parse().map_err(|_| broken())?;
        return Ok(functions::partition_of(value, key.transform).eq(lit(number)));
    }
    let field = schema.field_with_unqualified_name(&column.name).map_err(error::from_datafusion)?;
    Ok(value.eq(Expr::Literal(scalar(column, text, field.data_type()).ok_or_else(broken)?, None)))
}

/// The value of `column` that `text` stands for, as a `ty`.
fn scalar(column: &Column, text: &str, ty: &DataType) -> Option<ScalarValue> {
    let array = text::array(&column.ty, [Some(text::decode(&column.ty, text)?)])?;
    ScalarValue::try_from_array(&array, 0).ok()?.cast_to(ty).ok().filter(|value| !value.is_null())
}

/// The partition of `table` that all rows of `file` are in. `None` if that is not known.
fn partition_of(table: &TableDef, file: &DataFile) -> Option<Texts> {
    let of_today = file.is_ours() && file.partition_id == table.partitioning.id;
    if of_today { texts(table, &file.partition) } else { None }
}

/// The values of a partition of `table`, written as they are today: the type of a column may be another by now.
fn texts(table: &TableDef, partition: &[Option<String>]) -> Option<Texts> {
    let keys = &table.partitioning.keys;
    let today = |(key, text): (&PartitionKey, &Option<String>)| {
        let Some(text) = text else { return Some(None) };
        if key.transform != Transform::Identity {
            return Some(Some(text.clone()));
        }
        let ty = &table.columns.iter().find(|column| column.id == key.column)?.ty;
        text::encode(ty, &text::decode(ty, text)?).map(Some)
    };
    if keys.len() != partition.len() {
        return None;
    }
    keys.iter().zip(partition).map(today).collect()
}
