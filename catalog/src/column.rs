//! Columns: field ids, names on disk, and Arrow schemas in both directions.
//!
//! ```text
//! Arrow schema --columns_from_arrow--> [Column] --logical_schema--> what queries see
//!                                         |-----physical_schema--> what files hold
//! ```
//!
//! # Invariants
//! - An id is given once in a table's life, to children after their parent (pre-order).
//! - A column keeps the name it has in files when it is renamed.
//! - Two columns of a level differ in more than case: DuckDB reads the same catalog and ignores case.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema};
use parquet::arrow::PARQUET_FIELD_ID_META_KEY;
use serde::{Deserialize, Serialize};
use skep_common::{Error, Result};

use crate::types::LakeType;

/// A column, or a field inside one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Unique in the table, nested fields included, for ever.
    pub id: i64,
    /// The name in SQL.
    pub name: String,
    /// The name in files.
    pub physical: String,
    /// The type.
    pub ty: LakeType,
    /// Whether it may hold NULL.
    pub nullable: bool,
    /// The value, in its text form, that rows have which were written before the column was added.
    pub initial_default: Option<String>,
    /// The value, in its text form, of rows that are inserted without one.
    pub default: Option<String>,
    /// What people say about it.
    #[serde(default)]
    pub comment: Option<String>,
    /// `element` of a list, `key` and `value` of a map, the fields of a struct.
    pub children: Vec<Column>,
}

/// The child of a list.
pub const ELEMENT: &str = "element";
/// The first child of a map.
pub const KEY: &str = "key";
/// The second child of a map.
pub const VALUE: &str = "value";
/// The column of files, not of tables, in which rows that were moved from another file keep their row ids.
pub const ROW_ID_COLUMN: &str = "_ducklake_internal_row_id";
/// The snapshot that added a row, or deleted it, in files whose rows are of several snapshots.
pub const SNAPSHOT_COLUMN: &str = "_ducklake_internal_snapshot_id";
/// The field id of [`ROW_ID_COLUMN`], which the specification gives.
const ROW_ID_FIELD: i32 = 2_147_483_540;
/// The Arrow extension type of 16 bytes that are a uuid.
const UUID_EXTENSION: &str = "arrow.uuid";
/// The level between a map and its children, in files.
pub(crate) const ENTRIES: &str = "key_value";

/// Columns for a new table with the fields of `schema`: ids from 1 in pre-order, types normalised.
///
/// What is inside a column may be NULL, but for keys of maps. View, large and dictionary types become plain ones; `Null` becomes varchar; timestamps in seconds become
/// milliseconds; times become microseconds, and so do timestamps with a time zone, which are kept in UTC.
///
/// # Errors
/// [`Kind::Unsupported`](skep_common::Kind::Unsupported) for a type that DuckLake or this program lacks,
/// [`Kind::Invalid`](skep_common::Kind::Invalid) for an empty schema or names that differ only by case.
pub fn columns_from_arrow(schema: &Schema) -> Result<Vec<Column>> {
    if schema.fields().is_empty() {
        return Err(Error::invalid("a table needs at least one column"));
    }
    let mut next = 1;
    let columns = schema
        .fields()
        .iter()
        .map(|field| from_field(field, field.name(), &mut next))
        .collect::<Result<Vec<_>>>()?;
    check_names(&columns)?;
    Ok(columns)
}

/// The least id greater than all of `columns`.
pub fn next_column_id(columns: &[Column]) -> i64 {
    columns.iter().map(|c| (c.id + 1).max(next_column_id(&c.children))).max().unwrap_or(1)
}

/// [`ROW_ID_COLUMN`] as it stands in files, behind the columns of the table.
pub fn row_id_field() -> Field {
    let id = HashMap::from([(PARQUET_FIELD_ID_META_KEY.to_owned(), ROW_ID_FIELD.to_string())]);
    Field::new(ROW_ID_COLUMN, DataType::Int64, true).with_metadata(id)
}

/// All columns without children, in pre-order: those that have statistics.
pub fn leaves(columns: &[Column]) -> Vec<&Column> {
    let mut out = Vec::new();
    for column in columns {
        if column.ty.is_nested() {
            out.extend(leaves(&column.children));
        } else {
            out.push(column);
        }
    }
    out
}

/// All columns and the fields inside them, in pre-order.
pub(crate) fn all(columns: &[Column]) -> Vec<&Column> {
    columns.iter().flat_map(|column| std::iter::once(column).chain(all(&column.children))).collect()
}

/// Refuses names that are empty or equal but for case, at every level.
pub(crate) fn check_names(columns: &[Column]) -> Result<()> {
    let mut seen = HashSet::new();
    for column in columns {
        if column.name.is_empty() {
            return Err(Error::invalid("a column name is empty").hint("give the expression an alias with AS"));
        }
        if !seen.insert(column.name.to_lowercase()) {
            return Err(Error::invalid(format!("the column name '{}' occurs twice", column.name))
                .hint("names must differ in more than case: give one of them an alias with AS"));
        }
        check_names(&column.children)?;
    }
    Ok(())
}

/// Refuses columns that no table can have: wrong names, ids that are not unique, leaves with children.
pub(crate) fn check_ids(columns: &[Column]) -> Result<()> {
    if columns.is_empty() {
        return Err(Error::invalid("a table needs at least one column"));
    }
    check_names(columns)?;
    let mut seen = HashSet::new();
    let mut open: Vec<&Column> = columns.iter().collect();
    while let Some(column) = open.pop() {
        let children = match column.ty {
            LakeType::List => column.children.len() == 1,
            LakeType::Map => column.children.len() == 2,
            LakeType::Struct => !column.children.is_empty(),
            _ => column.children.is_empty(),
        };
        if column.id < 1 || !seen.insert(column.id) || !children {
            return Err(Error::internal(format!("column '{}' is not well formed", column.name)));
        }
        open.extend(&column.children);
    }
    Ok(())
}

fn from_field(field: &Field, name: &str, next: &mut i64) -> Result<Column> {
    let id = *next;
    *next += 1;
    let (ty, children) = from_type(field, name, next)?;
    Ok(Column {
        id,
        name: name.to_owned(),
        physical: name.to_owned(),
        ty,
        nullable: field.is_nullable(),
        initial_default: None,
        default: None,
        comment: None,
        children,
    })
}

/// A column inside another: NOT NULL is for columns alone.
fn inside(field: &Field, name: &str, next: &mut i64) -> Result<Column> {
    Ok(Column { nullable: true, ..from_field(field, name, next)? })
}

fn from_type(field: &Field, name: &str, next: &mut i64) -> Result<(LakeType, Vec<Column>)> {
    use arrow::datatypes::TimeUnit::{Microsecond, Millisecond, Nanosecond, Second};
    let refuse = |ty: &DataType, hint: &str| {
        Err(Error::unsupported(format!("column '{name}' has the type {ty}, which tables do not hold"))
            .hint(hint.to_owned()))
    };
    let ty = match field.data_type() {
        DataType::Null => LakeType::Varchar,
        DataType::Boolean => LakeType::Boolean,
        DataType::Int8 => LakeType::Int8,
        DataType::Int16 => LakeType::Int16,
        DataType::Int32 => LakeType::Int32,
        DataType::Int64 => LakeType::Int64,
        DataType::UInt8 => LakeType::UInt8,
        DataType::UInt16 => LakeType::UInt16,
        DataType::UInt32 => LakeType::UInt32,
        DataType::UInt64 => LakeType::UInt64,
        DataType::Float16 | DataType::Float32 => LakeType::Float32,
        DataType::Float64 => LakeType::Float64,
        ty @ (DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
        | DataType::Decimal256(precision, scale)) => {
            let digits = u8::try_from(*scale).ok().filter(|scale| *precision <= 38 && scale <= precision);
            match digits {
                Some(scale) => LakeType::Decimal { precision: *precision, scale },
                None => {
                    return refuse(ty, "cast it to DECIMAL(p, s) with p at most 38 and s between 0 and p");
                }
            }
        }
        DataType::Date32 | DataType::Date64 => LakeType::Date,
        DataType::Time32(_) | DataType::Time64(_) => LakeType::Time,
        DataType::Timestamp(_, Some(_)) => LakeType::TimestampTz,
        DataType::Timestamp(Second | Millisecond, None) => LakeType::TimestampMs,
        DataType::Timestamp(Microsecond, None) => LakeType::Timestamp,
        DataType::Timestamp(Nanosecond, None) => LakeType::TimestampNs,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => LakeType::Varchar,
        DataType::FixedSizeBinary(16) if field.extension_type_name() == Some(UUID_EXTENSION) => {
            LakeType::Uuid
        }
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            LakeType::Blob
        }
        DataType::Dictionary(_, value) => {
            let plain = Field::new(name, value.as_ref().clone(), field.is_nullable());
            return from_type(&plain, name, next);
        }
        DataType::RunEndEncoded(_, value) => return from_type(value, name, next),
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::FixedSizeList(item, _)
        | DataType::ListView(item)
        | DataType::LargeListView(item) => {
            return Ok((LakeType::List, vec![inside(item, ELEMENT, next)?]));
        }
        DataType::Struct(fields) if !fields.is_empty() => {
            let children = fields.iter().map(|f| inside(f, f.name(), next)).collect::<Result<_>>()?;
            return Ok((LakeType::Struct, children));
        }
        ty @ DataType::Map(entries, _) => {
            let DataType::Struct(pair) = entries.data_type() else {
                return refuse(ty, "rebuild the map with map(keys, values)");
            };
            let [key, value] = pair.as_ref() else {
                return refuse(ty, "rebuild the map with map(keys, values)");
            };
            let key = inside(key, KEY, next)?;
            return Ok((LakeType::Map, vec![Column { nullable: false, ..key }, inside(value, VALUE, next)?]));
        }
        ty @ (DataType::Interval(_) | DataType::Duration(_)) => {
            return refuse(ty, "store a number of seconds, for example extract(epoch from x)");
        }
        ty => return refuse(ty, "cast it to another type"),
    };
    Ok((ty, Vec::new()))
}

/// Logical names, no metadata.
pub fn logical_schema(columns: &[Column]) -> Schema {
    Schema::new(fields(columns, Naming::Logical))
}

/// Physical names, no metadata.
pub fn read_schema(columns: &[Column]) -> Schema {
    Schema::new(fields(columns, Naming::Read))
}

/// Physical names, field ids as metadata.
pub fn physical_schema(columns: &[Column]) -> Schema {
    Schema::new(fields(columns, Naming::Physical))
}

#[derive(Clone, Copy, PartialEq)]
enum Naming {
    Logical,
    Read,
    Physical,
}

fn fields(columns: &[Column], naming: Naming) -> Fields {
    columns.iter().map(|column| field(column, naming)).collect()
}

fn field(column: &Column, naming: Naming) -> FieldRef {
    let name = if naming == Naming::Logical { &column.name } else { &column.physical };
    let ty = match &column.ty {
        LakeType::Struct => DataType::Struct(fields(&column.children, naming)),
        LakeType::List => {
            column.children.first().map_or(DataType::Null, |c| DataType::List(field(c, naming)))
        }
        LakeType::Map => {
            // Keys are never NULL, whatever the engine that made the table says.
            let mut children = column.children.clone();
            if let Some(key) = children.first_mut() {
                key.nullable = false;
            }
            let entries = DataType::Struct(fields(&children, naming));
            DataType::Map(Arc::new(Field::new(ENTRIES, entries, false)), false)
        }
        leaf => leaf.leaf_arrow().unwrap_or(DataType::Null),
    };
    let field = Field::new(name, ty, column.nullable);
    if naming == Naming::Physical {
        let id = (PARQUET_FIELD_ID_META_KEY.to_owned(), column.id.to_string());
        Arc::new(field.with_metadata(HashMap::from([id])))
    } else {
        Arc::new(field)
    }
}
