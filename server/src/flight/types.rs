//! What drivers read about types. Their names, which ODBC drivers ask for, are those of [`skep_engine::types::sql_name`].

use std::sync::{Arc, LazyLock};

use arrow::datatypes::{DataType, FieldRef, Schema, SchemaRef};
use arrow_flight::sql::metadata::{XdbcTypeInfo, XdbcTypeInfoData, XdbcTypeInfoDataBuilder};
use arrow_flight::sql::{Nullable, Searchable, XdbcDataType, XdbcDatetimeSubcode};

/// Precision and scale of the types that have them: decimal digits, or binary ones for floating point.
pub(crate) fn precision(ty: &DataType) -> Option<(i32, i32)> {
    Some(match ty {
        DataType::Int8 | DataType::UInt8 => (3, 0),
        DataType::Int16 | DataType::UInt16 => (5, 0),
        DataType::Int32 | DataType::UInt32 => (10, 0),
        DataType::Int64 => (19, 0),
        DataType::UInt64 => (20, 0),
        DataType::Float32 => (24, 0),
        DataType::Float64 => (53, 0),
        DataType::Decimal128(p, s) | DataType::Decimal256(p, s) => (i32::from(*p), i32::from(*s)),
        _ => return None,
    })
}

/// `schema` as clients are told it, with what drivers read of decimals from the metadata of a column.
pub(crate) fn told(schema: &SchemaRef) -> SchemaRef {
    if !schema.fields().iter().any(|field| decimal(field.data_type())) {
        return Arc::clone(schema);
    }
    let describe = |field: &FieldRef| match precision(field.data_type()) {
        Some((precision, scale)) if decimal(field.data_type()) => {
            let mut metadata = field.metadata().clone();
            metadata.insert(key("PRECISION"), precision.to_string());
            metadata.insert(key("SCALE"), scale.to_string());
            FieldRef::new(field.as_ref().clone().with_metadata(metadata))
        }
        _ => FieldRef::clone(field),
    };
    let fields = schema.fields().iter().map(describe).collect::<Vec<_>>();
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

fn decimal(ty: &DataType) -> bool {
    matches!(ty, DataType::Decimal128(..) | DataType::Decimal256(..))
}

/// The name of a column's metadata, as the protocol has it.
pub(crate) fn key(name: &str) -> String {
    format!("ARROW:FLIGHT:SQL:{name}")
}

struct Row {
    name: &'static str,
    ty: XdbcDataType,
    size: Option<i32>,
    quoted: bool,
    params: &'static [&'static str],
    scale: Option<(i32, i32)>,
    radix: Option<i32>,
    subcode: Option<XdbcDatetimeSubcode>,
}

impl Row {
    const fn new(name: &'static str, ty: XdbcDataType, size: i32) -> Self {
        Self {
            name,
            ty,
            size: Some(size),
            quoted: false,
            params: &[],
            scale: None,
            radix: None,
            subcode: None,
        }
    }

    const fn number(mut self, radix: i32) -> Self {
        self.radix = Some(radix);
        self.scale = Some((0, 0));
        self
    }

    const fn quoted(mut self) -> Self {
        self.quoted = true;
        self
    }

    const fn time(mut self, subcode: XdbcDatetimeSubcode) -> Self {
        self.subcode = Some(subcode);
        self.quoted = true;
        self
    }

    fn info(&self) -> XdbcTypeInfo {
        let quote = || self.quoted.then(|| "'".to_owned());
        XdbcTypeInfo {
            type_name: self.name.to_owned(),
            data_type: self.ty,
            column_size: self.size,
            literal_prefix: quote(),
            literal_suffix: quote(),
            create_params: (!self.params.is_empty())
                .then(|| self.params.iter().map(ToString::to_string).collect()),
            nullable: Nullable::NullabilityNullable,
            case_sensitive: self.ty == XdbcDataType::XdbcVarchar,
            searchable: Searchable::Full,
            unsigned_attribute: self.radix.map(|_| false),
            fixed_prec_scale: false,
            auto_increment: self.radix.map(|_| false),
            local_type_name: Some(self.name.to_owned()),
            minimum_scale: self.scale.map(|(low, _)| low),
            maximum_scale: self.scale.map(|(_, high)| high),
            sql_data_type: match self.subcode {
                Some(_) => XdbcDataType::XdbcDatetime,
                None => self.ty,
            },
            datetime_subcode: self.subcode,
            num_prec_radix: self.radix,
            interval_precision: None,
        }
    }
}

/// Longest text that a driver should make room for. Values have no limit of their own.
const TEXT_SIZE: i32 = 65_536;

static XDBC: LazyLock<XdbcTypeInfoData> = LazyLock::new(|| {
    use XdbcDataType as T;
    let decimal = Row {
        params: &["precision", "scale"],
        scale: Some((0, 38)),
        ..Row::new("DECIMAL", T::XdbcDecimal, 38).number(10)
    };
    let varchar = Row { params: &["length"], ..Row::new("VARCHAR", T::XdbcVarchar, TEXT_SIZE).quoted() };
    let rows = [
        Row::new("BOOLEAN", T::XdbcBit, 1),
        Row::new("TINYINT", T::XdbcTinyint, 3).number(10),
        Row::new("SMALLINT", T::XdbcSmallint, 5).number(10),
        Row::new("INTEGER", T::XdbcInteger, 10).number(10),
        Row::new("BIGINT", T::XdbcBigint, 19).number(10),
        Row::new("REAL", T::XdbcReal, 24).number(2),
        Row::new("DOUBLE", T::XdbcDouble, 53).number(2),
        decimal,
        varchar,
        Row::new("BINARY", T::XdbcVarbinary, TEXT_SIZE).quoted(),
        // Code 1 means date beside SQL_DATETIME, and year beside SQL_INTERVAL; arrow-flight has only the second name.
        Row::new("DATE", T::XdbcDate, 10).time(XdbcDatetimeSubcode::XdbcSubcodeYear),
        Row::new("TIME", T::XdbcTime, 15).time(XdbcDatetimeSubcode::XdbcSubcodeTime),
        Row::new("TIMESTAMP", T::XdbcTimestamp, 29).time(XdbcDatetimeSubcode::XdbcSubcodeTimestamp),
    ];
    let mut builder = XdbcTypeInfoDataBuilder::new();
    rows.iter().for_each(|row| builder.append(row.info()));
    builder.build().expect("rows of constants build")
});

/// What ODBC's SQLGetTypeInfo answers.
pub(crate) fn xdbc() -> &'static XdbcTypeInfoData {
    &XDBC
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::TimeUnit;
    use skep_engine::types::sql_name;

    use super::*;

    #[test]
    fn names_are_those_of_sql() {
        let all = xdbc().record_batch(None).unwrap();
        let names = all.column_by_name("type_name").unwrap().as_string::<i32>().clone();
        let shown = [
            DataType::Boolean,
            DataType::Int64,
            DataType::Float64,
            DataType::Utf8,
            DataType::Binary,
            DataType::Date32,
            DataType::Timestamp(TimeUnit::Microsecond, None),
        ]
        .map(|ty| sql_name(&ty));
        for name in shown {
            assert!(names.iter().flatten().any(|known| known == name), "{name} in {names:?}");
        }
    }

    #[test]
    fn type_info_builds_and_filters() {
        let all = xdbc().record_batch(None).unwrap();
        assert_eq!(all.num_rows(), 13);
        let one = xdbc().record_batch(Some(XdbcDataType::XdbcVarchar as i32)).unwrap();
        assert_eq!(one.num_rows(), 1);
    }
}
