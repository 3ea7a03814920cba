//! Columns of every type: into the catalog and back, into files and back.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array, Int8Array,
    Int32Array, Int32Builder, Int64Array, ListBuilder, MapBuilder, RecordBatch, StringArray, StringBuilder,
    StructArray, Time64MicrosecondArray, TimestampMicrosecondArray, TimestampMillisecondArray,
    TimestampNanosecondArray, TimestampSecondArray, UInt8Array, UInt16Array, UInt32Array, UInt64Array,
};
use arrow::datatypes::{DataType, Field, IntervalUnit, Schema, TimeUnit};
use skep_catalog::{ColumnStats, LakeType, columns_from_arrow, leaves, next_column_id};
use skep_common::Kind;

use crate::lake::{Lake, batch};

/// Two rows and a row of NULLs, of every type a table can have.
pub(crate) fn every_type() -> RecordBatch {
    let mut list = ListBuilder::new(StringBuilder::new());
    list.append_value([Some("x"), None]);
    list.append_value([Some("y")]);
    list.append_null();
    let mut map = MapBuilder::new(None, StringBuilder::new(), Int32Builder::new());
    map.keys().append_value("k");
    map.values().append_value(7);
    map.append(true).unwrap();
    map.append(true).unwrap();
    map.append(false).unwrap();
    let fields = vec![
        (
            Arc::new(Field::new("a", DataType::Int32, true)),
            Arc::new(Int32Array::from(vec![Some(1), Some(2), None])) as ArrayRef,
        ),
        (
            Arc::new(Field::new("f", DataType::Float64, true)),
            Arc::new(Float64Array::from(vec![Some(f64::NAN), Some(2.5), None])) as ArrayRef,
        ),
    ];
    let micros = 1_700_000_000_123_456i64;
    batch([
        ("b", Arc::new(BooleanArray::from(vec![Some(true), Some(false), None])) as ArrayRef),
        ("i8", Arc::new(Int8Array::from(vec![Some(-128), Some(127), None]))),
        ("i64", Arc::new(Int64Array::from(vec![Some(i64::MIN), Some(i64::MAX), None]))),
        ("u8", Arc::new(UInt8Array::from(vec![Some(0), Some(255), None]))),
        ("u16", Arc::new(UInt16Array::from(vec![Some(0), Some(u16::MAX), None]))),
        ("u32", Arc::new(UInt32Array::from(vec![Some(1), Some(u32::MAX), None]))),
        ("u64", Arc::new(UInt64Array::from(vec![Some(1), Some(u64::MAX), None]))),
        ("f32", Arc::new(Float32Array::from(vec![Some(-0.1), Some(f32::INFINITY), None]))),
        ("f64", Arc::new(Float64Array::from(vec![Some(1e300), Some(-1e-300), None]))),
        ("d9", decimal(&[Some(-5), Some(123), None], 9, 2)),
        ("d38", decimal(&[Some(-(10i128.pow(38) - 1)), Some(10i128.pow(38) - 1), None], 38, 10)),
        ("day", Arc::new(Date32Array::from(vec![Some(-719_163), Some(2_932_897), None]))),
        ("time", Arc::new(Time64MicrosecondArray::from(vec![Some(0), Some(45_000_500_000), None]))),
        ("ts_s", Arc::new(TimestampSecondArray::from(vec![Some(0), Some(1_700_000_000), None]))),
        ("ts_ms", Arc::new(TimestampMillisecondArray::from(vec![Some(-1), Some(1_700_000_000_123), None]))),
        ("ts", Arc::new(TimestampMicrosecondArray::from(vec![Some(-1), Some(micros), None]))),
        (
            "ts_ns",
            Arc::new(TimestampNanosecondArray::from(vec![Some(-1), Some(1_700_000_000_123_456_789), None])),
        ),
        (
            "tz",
            Arc::new(
                TimestampMicrosecondArray::from(vec![Some(-1), Some(micros), None]).with_timezone("UTC"),
            ),
        ),
        ("text", Arc::new(StringArray::from(vec![Some("it's \u{fc}"), Some(""), None]))),
        ("blob", Arc::new(BinaryArray::from_opt_vec(vec![Some(b"\x00\xff"), Some(b""), None]))),
        ("list", Arc::new(list.finish())),
        ("struct", Arc::new(StructArray::from(fields))),
        ("map", Arc::new(map.finish())),
    ])
}

fn decimal(values: &[Option<i128>], precision: u8, scale: i8) -> ArrayRef {
    let array = Decimal128Array::from(values.to_vec());
    Arc::new(array.with_precision_and_scale(precision, scale).unwrap())
}

#[tokio::test]
async fn columns_come_back_as_they_were_created() {
    let lake = Lake::new().await;
    let batch = every_type();
    lake.create("lake", "t", &batch).await;
    let lake = lake.reopen().await;
    let table = lake.table("lake", "t").await;
    assert_eq!(table.columns, columns_from_arrow(&batch.schema()).unwrap());
    assert_eq!(table.next_column_id, next_column_id(&table.columns));
    assert_eq!(
        table.arrow_schema(),
        table.read_schema(),
        "types differ only by names, and nothing was renamed"
    );
}

#[tokio::test]
async fn ids_run_through_nested_fields_before_the_next_column() {
    let columns = columns_from_arrow(&every_type().schema()).unwrap();
    let mut ids = Vec::new();
    fn walk(columns: &[skep_catalog::Column], ids: &mut Vec<i64>) {
        for column in columns {
            ids.push(column.id);
            walk(&column.children, ids);
        }
    }
    walk(&columns, &mut ids);
    assert_eq!(ids, (1..=i64::try_from(ids.len()).unwrap()).collect::<Vec<_>>());
    let list = columns.iter().find(|c| c.name == "list").unwrap();
    assert_eq!((list.ty.clone(), list.children[0].name.as_str()), (LakeType::List, "element"));
}

#[tokio::test]
async fn every_leaf_has_statistics_with_its_own_bounds() {
    let lake = Lake::new().await;
    lake.create("lake", "t", &every_type()).await;
    let table = lake.table("lake", "t").await;
    let files = lake.catalog.files(lake.snapshot().await.as_ref(), table.id).await.unwrap();
    let file = &files[0];
    assert_eq!((files.len(), file.rows, file.row_id_start), (1, 3, Some(0)));
    assert_eq!(file.path, format!("lake/t/{}", file.path.rsplit('/').next().unwrap()));
    let stats = |name: &str| -> &ColumnStats {
        let leaf = leaves(&table.columns).into_iter().find(|leaf| leaf.name == name).unwrap();
        &file.stats[&leaf.id]
    };
    let bounds = |name: &str| (stats(name).min.clone().unwrap(), stats(name).max.clone().unwrap());
    let own = |(a, b): (&str, &str)| (a.to_owned(), b.to_owned());
    for (name, expected) in [
        ("b", ("0", "1")),
        ("i8", ("-128", "127")),
        ("u8", ("0", "255")),
        ("u32", ("1", "4294967295")),
        ("u64", ("1", "18446744073709551615")),
        ("f32", ("-0.1", "inf")),
        ("f64", ("-1e-300", "1e+300")),
        ("d9", ("-0.05", "1.23")),
        ("d38", ("-9999999999999999999999999999.9999999999", "9999999999999999999999999999.9999999999")),
        ("day", ("0001-12-31 (BC)", "10000-01-01")),
        ("time", ("00:00:00", "12:30:00.5")),
        ("ts_s", ("1970-01-01 00:00:00", "2023-11-14 22:13:20")),
        ("ts_ms", ("1969-12-31 23:59:59.999", "2023-11-14 22:13:20.123")),
        ("ts", ("1969-12-31 23:59:59.999999", "2023-11-14 22:13:20.123456")),
        ("ts_ns", ("1969-12-31 23:59:59.999999999", "2023-11-14 22:13:20.123456789")),
        ("tz", ("1969-12-31 23:59:59.999999+00", "2023-11-14 22:13:20.123456+00")),
        ("text", ("", "it's \u{fc}")),
        ("blob", ("", "00FF")),
        ("element", ("x", "y")),
        ("a", ("1", "2")),
        ("key", ("k", "k")),
        ("value", ("7", "7")),
    ] {
        assert_eq!(bounds(name), own(expected), "{name}");
    }
    assert_eq!((stats("f").nan, stats("f64").nan, stats("text").nan), (Some(true), Some(false), None));
    assert_eq!(
        (stats("f").min.clone(), stats("f").max.clone()),
        (None, None),
        "bounds leave out what is no number"
    );
    assert_eq!((stats("i8").values, stats("i8").nulls), (2, 1));
    assert_eq!(stats("element").values, 2);
    assert_eq!(file.stats.len(), leaves(&table.columns).len());
}

#[test]
fn types_of_other_shapes_become_plain_ones() {
    let item = |ty| Arc::new(Field::new("item", ty, true));
    for (from, to) in [
        (DataType::Utf8View, LakeType::Varchar),
        (DataType::LargeUtf8, LakeType::Varchar),
        (DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Utf8)), LakeType::Varchar),
        (DataType::Null, LakeType::Varchar),
        (DataType::BinaryView, LakeType::Blob),
        (DataType::FixedSizeBinary(3), LakeType::Blob),
        (DataType::Float16, LakeType::Float32),
        (DataType::Date64, LakeType::Date),
        (DataType::Time64(TimeUnit::Nanosecond), LakeType::Time),
        (DataType::Timestamp(TimeUnit::Second, None), LakeType::TimestampMs),
        (DataType::Timestamp(TimeUnit::Nanosecond, Some("+02:00".into())), LakeType::TimestampTz),
        (DataType::Decimal256(38, 5), LakeType::Decimal { precision: 38, scale: 5 }),
        (DataType::LargeList(item(DataType::Int8)), LakeType::List),
        (DataType::FixedSizeList(item(DataType::Int8), 3), LakeType::List),
    ] {
        let schema = Schema::new(vec![Field::new("x", from.clone(), true)]);
        assert_eq!(columns_from_arrow(&schema).unwrap()[0].ty, to, "{from}");
    }
}

#[test]
fn what_tables_cannot_hold_is_refused_with_a_way_out() {
    for ty in [
        DataType::Interval(IntervalUnit::MonthDayNano),
        DataType::Duration(TimeUnit::Second),
        DataType::Decimal256(76, 0),
        DataType::Decimal128(10, -2),
        DataType::Struct(Default::default()),
    ] {
        let schema = Schema::new(vec![Field::new("x", ty.clone(), true)]);
        let error = columns_from_arrow(&schema).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported, "{ty}");
        assert!(error.message().contains("'x'") && error.hint_text().is_some());
    }
    let twice =
        Schema::new(vec![Field::new("x", DataType::Int8, true), Field::new("X", DataType::Int8, true)]);
    assert_eq!(columns_from_arrow(&twice).unwrap_err().kind(), Kind::Invalid);
    assert_eq!(columns_from_arrow(&Schema::empty()).unwrap_err().kind(), Kind::Invalid);
}
