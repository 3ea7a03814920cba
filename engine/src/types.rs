//! SQL types to Arrow types and back.
//!
//! Timestamps are microseconds, as in DuckDB and in the catalog; DataFusion's own default is nanoseconds, which end in
//! the year 2262. Columns hold plain Arrow types; inside a query strings may be views (see [`viewed`]).

use std::sync::Arc;

use datafusion::arrow::datatypes::{
    DataType, Field, FieldRef, Fields, IntervalUnit, Schema, SchemaRef, TimeUnit,
};
use datafusion::common::datatype::DataTypeExt;
use datafusion::logical_expr::planner::TypePlanner;
use datafusion::sql::sqlparser::ast::{
    ArrayElemTypeDef, DataType as SqlType, ExactNumberInfo, ObjectName, StructField, TimezoneInfo,
};
use skep_common::{Error, Result};

use crate::sql::parse_type;
use crate::{error, names};

/// Digits of a DECIMAL that does not say how many.
const DECIMAL_DEFAULT: (u8, i8) = (38, 10);

/// The Arrow type of a SQL type, without view types.
///
/// # Errors
/// [`Kind::Unsupported`](skep_common::Kind::Unsupported) for a type that Skep does not have,
/// [`Kind::Invalid`](skep_common::Kind::Invalid) for one it does, with digits it cannot have.
pub fn arrow_type(ty: &SqlType) -> Result<DataType> {
    Ok(match ty {
        SqlType::Boolean | SqlType::Bool => DataType::Boolean,
        SqlType::TinyInt(_) => DataType::Int8,
        SqlType::SmallInt(_) | SqlType::Int2(_) | SqlType::Int16 => DataType::Int16,
        SqlType::Int(_) | SqlType::Integer(_) | SqlType::Int4(_) | SqlType::MediumInt(_) | SqlType::Int32 => {
            DataType::Int32
        }
        SqlType::BigInt(_) | SqlType::Int8(_) | SqlType::Int64 => DataType::Int64,
        SqlType::TinyIntUnsigned(_) | SqlType::UTinyInt | SqlType::UInt8 => DataType::UInt8,
        SqlType::SmallIntUnsigned(_) | SqlType::Int2Unsigned(_) | SqlType::USmallInt | SqlType::UInt16 => {
            DataType::UInt16
        }
        SqlType::IntUnsigned(_)
        | SqlType::IntegerUnsigned(_)
        | SqlType::Int4Unsigned(_)
        | SqlType::UInt32 => DataType::UInt32,
        SqlType::BigIntUnsigned(_) | SqlType::Int8Unsigned(_) | SqlType::UBigInt | SqlType::UInt64 => {
            DataType::UInt64
        }
        SqlType::Real | SqlType::Float4 | SqlType::Float(_) | SqlType::Float32 => DataType::Float32,
        SqlType::Double(_) | SqlType::DoublePrecision | SqlType::Float8 | SqlType::Float64 => {
            DataType::Float64
        }
        SqlType::Numeric(digits) | SqlType::Decimal(digits) | SqlType::Dec(digits) => decimal(ty, digits)?,
        SqlType::Varchar(_)
        | SqlType::Char(_)
        | SqlType::Character(_)
        | SqlType::CharacterVarying(_)
        | SqlType::CharVarying(_)
        | SqlType::Nvarchar(_)
        | SqlType::Text
        | SqlType::String(_)
        | SqlType::Clob(_)
        | SqlType::JSON => DataType::Utf8,
        SqlType::Bytea
        | SqlType::Binary(_)
        | SqlType::Varbinary(_)
        | SqlType::Blob(_)
        | SqlType::Bytes(_) => DataType::Binary,
        SqlType::Date => DataType::Date32,
        SqlType::Time(_, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => {
            DataType::Time64(TimeUnit::Microsecond)
        }
        SqlType::Timestamp(precision, zone) => {
            let zoned = matches!(zone, TimezoneInfo::Tz | TimezoneInfo::WithTimeZone);
            timestamp(ty, *precision, zoned)?
        }
        SqlType::Datetime(precision) => timestamp(ty, *precision, false)?,
        SqlType::Interval { fields: None, precision: None } => DataType::Interval(IntervalUnit::MonthDayNano),
        SqlType::Array(
            ArrayElemTypeDef::AngleBracket(item)
            | ArrayElemTypeDef::SquareBracket(item, None)
            | ArrayElemTypeDef::Parenthesis(item),
        ) => DataType::List(Arc::new(Field::new_list_field(arrow_type(item)?, true))),
        SqlType::Struct(fields, _) => DataType::Struct(struct_fields(fields)?),
        SqlType::Map(key, value) => map(key, value)?,
        SqlType::Custom(name, arguments) => custom(name, arguments).ok_or_else(|| unsupported(ty))?,
        _ => return Err(unsupported(ty)),
    })
}

fn unsupported(ty: &SqlType) -> Error {
    Error::unsupported(format!("type '{ty}' is not supported")).hint(
        "types are BOOLEAN, TINYINT, SMALLINT, INTEGER, BIGINT (and UNSIGNED), REAL, DOUBLE, DECIMAL(p, s), VARCHAR, BINARY, \
         DATE, TIME, TIMESTAMP, TIMESTAMP WITH TIME ZONE, type[], STRUCT<name type>, MAP(key, value)",
    )
}

/// Names that other engines use and the parser does not know.
fn custom(name: &ObjectName, arguments: &[String]) -> Option<DataType> {
    if !arguments.is_empty() {
        return None;
    }
    Some(match name.to_string().to_ascii_lowercase().as_str() {
        "uint" | "uinteger" => DataType::UInt32,
        "utinyint" => DataType::UInt8,
        "usmallint" => DataType::UInt16,
        "ubigint" => DataType::UInt64,
        "timestamp_s" | "timestamp_ms" => DataType::Timestamp(TimeUnit::Millisecond, None),
        "timestamp_ns" => DataType::Timestamp(TimeUnit::Nanosecond, None),
        _ => return None,
    })
}

fn decimal(ty: &SqlType, digits: &ExactNumberInfo) -> Result<DataType> {
    let (precision, scale) = match *digits {
        ExactNumberInfo::None => return Ok(DataType::Decimal128(DECIMAL_DEFAULT.0, DECIMAL_DEFAULT.1)),
        ExactNumberInfo::Precision(precision) => (precision, 0),
        ExactNumberInfo::PrecisionAndScale(precision, scale) => (precision, scale),
    };
    match (u8::try_from(precision), i8::try_from(scale)) {
        (Ok(p @ 1..=38), Ok(s)) if s >= 0 && i64::from(s) <= i64::from(p) => Ok(DataType::Decimal128(p, s)),
        _ => Err(Error::invalid(format!("'{ty}' is not a type"))
            .hint("DECIMAL(p, s) has 1 to 38 digits p, and 0 to p of them after the point")),
    }
}

fn timestamp(ty: &SqlType, precision: Option<u64>, zoned: bool) -> Result<DataType> {
    let unit = match precision {
        None | Some(6) => TimeUnit::Microsecond,
        Some(0..=3) => TimeUnit::Millisecond,
        Some(4..=5) => TimeUnit::Microsecond,
        Some(7..=9) => TimeUnit::Nanosecond,
        Some(_) => {
            return Err(Error::invalid(format!("'{ty}' is not a type"))
                .hint("TIMESTAMP(p) has 0 to 9 digits after the second"));
        }
    };
    let zone = zoned.then(|| Arc::from("UTC"));
    Ok(DataType::Timestamp(if zoned { TimeUnit::Microsecond } else { unit }, zone))
}

fn struct_fields(fields: &[StructField]) -> Result<Fields> {
    let field = |(at, field): (usize, &StructField)| {
        let name = field.field_name.as_ref().map_or_else(|| format!("c{at}"), names::normalise);
        Ok(Field::new(name, arrow_type(&field.field_type)?, true))
    };
    Ok(fields.iter().enumerate().map(field).collect::<Result<Vec<_>>>()?.into())
}

fn map(key: &SqlType, value: &SqlType) -> Result<DataType> {
    let entries =
        vec![Field::new("key", arrow_type(key)?, false), Field::new("value", arrow_type(value)?, true)];
    let entries = Field::new("entries", DataType::Struct(entries.into()), false);
    Ok(DataType::Map(Arc::new(entries), false))
}

/// How SQL writes an Arrow type: what SHOW COLUMNS prints, and CREATE TABLE reads back where tables can hold it.
pub fn sql_name(ty: &DataType) -> String {
    match ty {
        DataType::Null => "NULL".to_owned(),
        DataType::Boolean => "BOOLEAN".to_owned(),
        DataType::Int8 => "TINYINT".to_owned(),
        DataType::Int16 => "SMALLINT".to_owned(),
        DataType::Int32 => "INTEGER".to_owned(),
        DataType::Int64 => "BIGINT".to_owned(),
        DataType::UInt8 => "TINYINT UNSIGNED".to_owned(),
        DataType::UInt16 => "SMALLINT UNSIGNED".to_owned(),
        DataType::UInt32 => "INTEGER UNSIGNED".to_owned(),
        DataType::UInt64 => "BIGINT UNSIGNED".to_owned(),
        DataType::Float16 | DataType::Float32 => "REAL".to_owned(),
        DataType::Float64 => "DOUBLE".to_owned(),
        DataType::Decimal32(p, s)
        | DataType::Decimal64(p, s)
        | DataType::Decimal128(p, s)
        | DataType::Decimal256(p, s) => format!("DECIMAL({p}, {s})"),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "VARCHAR".to_owned(),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            "BINARY".to_owned()
        }
        DataType::Date32 | DataType::Date64 => "DATE".to_owned(),
        DataType::Time32(_) | DataType::Time64(_) => "TIME".to_owned(),
        DataType::Timestamp(_, Some(_)) => "TIMESTAMP WITH TIME ZONE".to_owned(),
        DataType::Timestamp(TimeUnit::Microsecond, None) => "TIMESTAMP".to_owned(),
        DataType::Timestamp(TimeUnit::Second, None) => "TIMESTAMP(0)".to_owned(),
        DataType::Timestamp(TimeUnit::Millisecond, None) => "TIMESTAMP(3)".to_owned(),
        DataType::Timestamp(TimeUnit::Nanosecond, None) => "TIMESTAMP(9)".to_owned(),
        DataType::Interval(_) | DataType::Duration(_) => "INTERVAL".to_owned(),
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _) => format!("{}[]", sql_name(item.data_type())),
        DataType::Struct(fields) => {
            let fields: Vec<String> = fields
                .iter()
                .map(|f| format!("{} {}", names::quote(f.name()), sql_name(f.data_type())))
                .collect();
            format!("STRUCT<{}>", fields.join(", "))
        }
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(pair) if pair.len() == 2 => {
                format!("MAP({}, {})", sql_name(pair[0].data_type()), sql_name(pair[1].data_type()))
            }
            _ => "MAP".to_owned(),
        },
        DataType::Dictionary(_, value) => sql_name(value),
        DataType::RunEndEncoded(_, value) => sql_name(value.data_type()),
        DataType::Union(..) => "UNION".to_owned(),
    }
}

/// `ty` as the parser has types, for statements that are built and not read.
///
/// # Errors
/// [`Kind::Unsupported`](skep_common::Kind::Unsupported) for a type without a name in SQL.
pub(crate) fn sql_type(ty: &DataType) -> Result<SqlType> {
    // A parameter that is NULL takes any type.
    let name = if ty.is_null() { "VARCHAR".to_owned() } else { sql_name(ty) };
    let unknown = || Error::unsupported(format!("values of the type {ty} cannot be parameters"));
    parse_type(&name).map_err(|_| unknown())
}

/// The plain Arrow type of `ty`: no views, no dictionaries, no large offsets, no narrow decimals, at any depth.
pub fn plain(ty: &DataType) -> DataType {
    match ty {
        DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        DataType::BinaryView | DataType::LargeBinary => DataType::Binary,
        DataType::Decimal32(p, s) | DataType::Decimal64(p, s) => DataType::Decimal128(*p, *s),
        DataType::Dictionary(_, value) => plain(value),
        DataType::RunEndEncoded(_, value) => plain(value.data_type()),
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item) => DataType::List(plain_field(item)),
        DataType::FixedSizeList(item, length) => DataType::FixedSizeList(plain_field(item), *length),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(plain_field).collect()),
        DataType::Map(entries, sorted) => DataType::Map(plain_field(entries), *sorted),
        other => other.clone(),
    }
}

fn plain_field(field: &FieldRef) -> FieldRef {
    Arc::new(Field::new(field.name(), plain(field.data_type()), field.is_nullable()))
}

/// `schema` as queries read it: top-level strings and binaries are views, which Parquet fills without copying.
pub fn viewed(schema: &Schema) -> SchemaRef {
    let field = |field: &FieldRef| {
        let ty = match field.data_type() {
            DataType::Utf8 => DataType::Utf8View,
            DataType::Binary => DataType::BinaryView,
            other => other.clone(),
        };
        Field::new(field.name(), ty, field.is_nullable())
    };
    Arc::new(Schema::new(schema.fields().iter().map(field).collect::<Vec<_>>()))
}

/// Makes CAST in queries use the types of tables.
#[derive(Debug)]
pub(crate) struct Types {
    /// Whether strings become views.
    pub(crate) views: bool,
}

impl TypePlanner for Types {
    fn plan_type_field(&self, ty: &SqlType) -> datafusion::error::Result<Option<FieldRef>> {
        let ty = match arrow_type(ty).map_err(error::to_datafusion)? {
            DataType::Utf8 if self.views => DataType::Utf8View,
            DataType::Binary if self.views => DataType::BinaryView,
            other => other,
        };
        Ok(Some(ty.into_nullable_field_ref()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::{Statement, parse_one};

    fn read(ty: &str) -> Result<DataType> {
        match parse_one(&format!("CREATE TABLE t (a {ty})"))?.statement {
            Statement::CreateTable(table) => arrow_type(&table.columns[0].ty),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn names_read_back() {
        for name in [
            "BOOLEAN",
            "TINYINT",
            "SMALLINT",
            "INTEGER",
            "BIGINT",
            "BIGINT UNSIGNED",
            "REAL",
            "DOUBLE",
            "DECIMAL(12, 3)",
            "VARCHAR",
            "BINARY",
            "DATE",
            "TIME",
            "TIMESTAMP",
            "TIMESTAMP(3)",
            "TIMESTAMP(9)",
            "TIMESTAMP WITH TIME ZONE",
            "VARCHAR[]",
            "STRUCT<a INTEGER, b VARCHAR[]>",
            "MAP(VARCHAR, BIGINT)",
        ] {
            assert_eq!(read(name).map(|ty| sql_name(&ty)).ok().as_deref(), Some(name));
        }
    }

    #[test]
    fn other_engines_names_are_understood() {
        for (name, shown) in [
            ("INT", "INTEGER"),
            ("STRING", "VARCHAR"),
            ("VARCHAR(10)", "VARCHAR"),
            ("NUMERIC(5)", "DECIMAL(5, 0)"),
            ("DATETIME", "TIMESTAMP"),
            ("TIMESTAMPTZ", "TIMESTAMP WITH TIME ZONE"),
            ("ARRAY<INT>", "INTEGER[]"),
            ("FLOAT8", "DOUBLE"),
            ("UBIGINT", "BIGINT UNSIGNED"),
        ] {
            assert_eq!(read(name).map(|ty| sql_name(&ty)).ok().as_deref(), Some(shown), "{name}");
        }
        for name in ["DECIMAL(39, 2)", "DECIMAL(2, 3)", "TIMESTAMP(12)", "UUID", "GEOMETRY"] {
            assert!(read(name).is_err(), "{name}");
        }
    }
}
