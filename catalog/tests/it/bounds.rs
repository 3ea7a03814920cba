//! Statistics of random values of every type: DuckDB writes the same ones, or ours cover more, as said here.
//!
//! | where they differ | ours | DuckDB's |
//! |---|---|---|
//! | a float column of a file with NaN | no bounds ([0007](../../../docs/decisions/0007-no-bounds-over-nan.md)) | those of the numbers |
//! | one inside lists and structs | both counts are those of all values | those of each |
//! | a float32 | its fewest digits | at times more digits of the same number |
//! | zeros | the sign is kept: `-0.0` below `0.0` | `0.0` |
//! | a text of more than 256 bytes | cut, the greatest rounded up | cut, so that the greatest may be above its bound |
//! | a binary value of more than 256 bytes | the same | the same |
//! | a text with NUL | cut there, likewise | whole; readers of the catalog see it cut |
//! | a table-wide bound of which a file knows nothing | none | that of the other files |
//!
//! Whatever is written, no value is outside of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Date32Array, Decimal128Array, FixedSizeBinaryArray,
    Float32Array, Float64Array, Int8Array, Int16Array, Int32Array, Int64Array, ListArray, MapArray,
    RecordBatch, StringArray, StructArray, Time64MicrosecondArray, TimestampMicrosecondArray,
    TimestampMillisecondArray, TimestampNanosecondArray, UInt8Array, UInt16Array, UInt32Array, UInt64Array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::{cast, is_not_null};
use arrow::datatypes::{DataType, Field, Fields, Float32Type, Float64Type, Schema};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use skep_catalog::{Column, LakeType, UTC, columns_from_arrow, leaves, text};

use crate::duckdb::DuckDb;
use crate::lake::Lake;

/// Rows of a file.
const ROWS: usize = 6;

/// Files of the table of one case.
const FILES: usize = 2;

type Values<T> = Vec<Option<T>>;

/// Values for one column of one file: some NULLs, or nothing else.
fn values<T: Clone + std::fmt::Debug + 'static>(
    value: impl Strategy<Value = T> + 'static,
) -> impl Strategy<Value = Values<T>> {
    prop_oneof![6 => vec(option::weighted(0.8, value), ROWS), 1 => Just(vec![None; ROWS])]
}

/// A column with its name, and how DuckDB declares it.
type Made = (&'static str, &'static str, ArrayRef);

fn column<T: Clone + std::fmt::Debug + 'static>(
    name: &'static str,
    declared: &'static str,
    value: impl Strategy<Value = T> + 'static,
    array: impl Fn(Values<T>) -> ArrayRef + 'static,
) -> BoxedStrategy<Made> {
    values(value).prop_map(move |values| (name, declared, array(values))).boxed()
}

macro_rules! plain {
    ($name:literal, $declared:literal, $value:expr, $array:ty) => {
        column($name, $declared, $value, |values| Arc::new(<$array>::from(values)) as ArrayRef)
    };
}

fn decimals(precision: u8, scale: i8, name: &'static str, declared: &'static str) -> BoxedStrategy<Made> {
    let end = 10i128.pow(u32::from(precision)) - 1;
    let value = prop_oneof![4 => -end..=end, 2 => -1000i128.min(end)..=1000i128.min(end), 1 => Just(end), 1 => Just(-end)];
    column(name, declared, value, move |values| {
        let array = Decimal128Array::from(values).with_precision_and_scale(precision, scale);
        Arc::new(array.unwrap()) as ArrayRef
    })
}

fn texts() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "\\PC{0,8}",
        2 => "[a-c]{250,262}",
        1 => "[\u{d7fe}-\u{e001}\u{10fffe}-\u{10ffff}]{60,90}",
        1 => "[a\\x00-\\x02]{0,4}",
        1 => Just(String::new()),
    ]
}

fn doubles() -> impl Strategy<Value = f64> {
    use proptest::num::f64::{INFINITE, NEGATIVE, NORMAL, POSITIVE, SUBNORMAL, ZERO};
    prop_oneof![
        8 => POSITIVE | NEGATIVE | NORMAL | SUBNORMAL | ZERO | INFINITE,
        2 => prop_oneof![Just(0.0), Just(-0.0), Just(1e16), Just(0.1)],
        1 => Just(f64::NAN),
    ]
}

fn floats() -> impl Strategy<Value = f32> {
    use proptest::num::f32::{INFINITE, NEGATIVE, NORMAL, POSITIVE, SUBNORMAL, ZERO};
    prop_oneof![
        8 => POSITIVE | NEGATIVE | NORMAL | SUBNORMAL | ZERO | INFINITE,
        2 => prop_oneof![Just(0.0), Just(-0.0), Just(16_777_217.0), Just(0.1)],
        1 => Just(f32::NAN),
    ]
}

/// Instants over years before 1 and after 9999, in units of which a day has `day`.
fn instants(day: i64) -> impl Strategy<Value = i64> {
    prop_oneof![
        4 => (-1_000_000 * day)..(4_000_000 * day),
        2 => -2 * day..2 * day,
        1 => (-1_000_000i64..4_000_000).prop_map(move |days| days * day),
    ]
}

fn nested() -> Vec<BoxedStrategy<Made>> {
    let pair = (option::weighted(0.8, any::<i32>()), option::weighted(0.8, texts()));
    let structs = column("s", "STRUCT(a INTEGER, t VARCHAR)", pair, |values| {
        let fields: Fields =
            vec![Field::new("a", DataType::Int32, true), Field::new("t", DataType::Utf8, true)].into();
        let a: Int32Array = values.iter().map(|pair| pair.as_ref().and_then(|(a, _)| *a)).collect();
        let t: StringArray = values.iter().map(|pair| pair.as_ref().and_then(|(_, t)| t.clone())).collect();
        let nulls: NullBuffer = values.iter().map(Option::is_some).collect();
        Arc::new(StructArray::new(fields, vec![Arc::new(a), Arc::new(t)], Some(nulls))) as ArrayRef
    });
    let lists = column("l", "DOUBLE[]", vec(option::weighted(0.8, doubles()), 0..4), |values| {
        let lengths = values.iter().map(|list| list.as_ref().map_or(0, Vec::len));
        let offsets = OffsetBuffer::from_lengths(lengths);
        let items: Float64Array = values.iter().flatten().flatten().copied().collect();
        let nulls: NullBuffer = values.iter().map(Option::is_some).collect();
        let field = Arc::new(Field::new("element", DataType::Float64, true));
        Arc::new(ListArray::new(field, offsets, Arc::new(items), Some(nulls))) as ArrayRef
    });
    let entries = proptest::collection::btree_map("[a-z]{0,3}", option::weighted(0.8, any::<i64>()), 0..3);
    let maps =
        column("m", "MAP(VARCHAR, BIGINT)", entries, |values: Values<BTreeMap<String, Option<i64>>>| {
            let lengths = values.iter().map(|map| map.as_ref().map_or(0, BTreeMap::len));
            let offsets = OffsetBuffer::from_lengths(lengths);
            let keys: StringArray = values.iter().flatten().flat_map(|map| map.keys().map(Some)).collect();
            let items: Int64Array = values.iter().flatten().flat_map(|map| map.values().copied()).collect();
            let nulls: NullBuffer = values.iter().map(Option::is_some).collect();
            let fields: Fields =
                vec![Field::new("key", DataType::Utf8, false), Field::new("value", DataType::Int64, true)]
                    .into();
            let entries = StructArray::new(fields.clone(), vec![Arc::new(keys), Arc::new(items)], None);
            let field = Arc::new(Field::new("entries", DataType::Struct(fields), false));
            Arc::new(MapArray::new(field, offsets, entries, Some(nulls), false)) as ArrayRef
        });
    vec![structs, lists, maps]
}

/// The columns of one file.
fn file() -> impl Strategy<Value = Vec<Made>> {
    const SECONDS: i64 = 86_400;
    let mut columns = vec![
        plain!("bo", "BOOLEAN", any::<bool>(), BooleanArray),
        plain!("i8", "TINYINT", any::<i8>(), Int8Array),
        plain!("i16", "SMALLINT", any::<i16>(), Int16Array),
        plain!("i32", "INTEGER", any::<i32>(), Int32Array),
        plain!("i64", "BIGINT", any::<i64>(), Int64Array),
        plain!("u8", "UTINYINT", any::<u8>(), UInt8Array),
        plain!("u16", "USMALLINT", any::<u16>(), UInt16Array),
        plain!("u32", "UINTEGER", any::<u32>(), UInt32Array),
        plain!("u64", "UBIGINT", any::<u64>(), UInt64Array),
        plain!("f32", "FLOAT", floats(), Float32Array),
        plain!("f64", "DOUBLE", doubles(), Float64Array),
        decimals(4, 2, "d4", "DECIMAL(4, 2)"),
        decimals(9, 0, "d9", "DECIMAL(9, 0)"),
        decimals(18, 18, "d18", "DECIMAL(18, 18)"),
        decimals(38, 10, "d38", "DECIMAL(38, 10)"),
        plain!("da", "DATE", instants(1).prop_map(|days| i32::try_from(days).unwrap()), Date32Array),
        plain!("ti", "TIME", 0..SECONDS * 1_000_000, Time64MicrosecondArray),
        plain!("ms", "TIMESTAMP_MS", instants(SECONDS * 1000), TimestampMillisecondArray),
        plain!("us", "TIMESTAMP", instants(SECONDS * 1_000_000), TimestampMicrosecondArray),
        plain!("ns", "TIMESTAMP_NS", -(1i64 << 62)..(1i64 << 62), TimestampNanosecondArray),
        column("tz", "TIMESTAMPTZ", instants(SECONDS * 1_000_000), |values| {
            Arc::new(TimestampMicrosecondArray::from(values).with_timezone(UTC)) as ArrayRef
        }),
        plain!("t", "VARCHAR", texts(), StringArray),
        column("b", "BLOB", prop_oneof![vec(any::<u8>(), 0..5), vec(254u8.., 250..260)], |values| {
            Arc::new(BinaryArray::from_iter(values)) as ArrayRef
        }),
        column("u", "UUID", any::<[u8; 16]>(), |values| {
            let array = FixedSizeBinaryArray::try_from_sparse_iter_with_size(values.into_iter(), 16);
            Arc::new(array.unwrap()) as ArrayRef
        }),
    ];
    columns.extend(nested());
    columns
}

fn batch_of(made: &[Made]) -> RecordBatch {
    let fields = made.iter().map(|(name, _, array)| {
        let field = Field::new(*name, array.data_type().clone(), true);
        if *name == "u" {
            return field
                .with_metadata([("ARROW:extension:name".to_owned(), "arrow.uuid".to_owned())].into());
        }
        field
    });
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    RecordBatch::try_new(schema, made.iter().map(|(.., array)| Arc::clone(array)).collect()).unwrap()
}

/// The values of each leaf, those of absent parents left out, in the order of the columns.
fn leaf_values(array: &ArrayRef) -> Vec<ArrayRef> {
    match array.data_type() {
        DataType::Struct(_) => array.as_struct().columns().iter().flat_map(leaf_values).collect(),
        DataType::List(_) => leaf_values(array.as_list::<i32>().values()),
        DataType::Map(..) => array.as_map().entries().columns().iter().flat_map(leaf_values).collect(),
        _ => vec![Arc::clone(array)],
    }
}

fn has_nan(array: &ArrayRef) -> bool {
    match array.data_type() {
        DataType::Float32 => array.as_primitive::<Float32Type>().iter().flatten().any(f32::is_nan),
        DataType::Float64 => array.as_primitive::<Float64Type>().iter().flatten().any(f64::is_nan),
        _ => false,
    }
}

/// What one engine says of a column, in a file or in the whole table.
#[derive(Debug, Clone, PartialEq)]
struct Said {
    /// Values and NULLs; of a table, whether there are NULLs.
    counts: String,
    min: Option<String>,
    max: Option<String>,
    nan: String,
}

fn said(row: &[String]) -> Said {
    let text = |hex: &String| {
        let digits: Vec<u8> = hex.bytes().collect();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        (hex != "NULL").then(|| String::from_utf8(digits.chunks(2).map(byte).collect()).unwrap())
    };
    Said { counts: row[0].clone(), min: text(&row[1]), max: text(&row[2]), nan: row[3].clone() }
}

/// No value is outside of the bounds that are there.
fn covers(ty: &LakeType, said: &Said, values: &ArrayRef) {
    let there = arrow::compute::filter(values, &is_not_null(values).unwrap()).unwrap();
    for (bound, upper) in [(&said.min, false), (&said.max, true)] {
        let Some(bound) = bound else { continue };
        assert!(!has_nan(&there), "{ty}: a bound over NaN");
        let decoded = text::decode(ty, bound).unwrap_or_else(|| panic!("{ty}: '{bound}' does not read"));
        let bound_array = text::array(ty, vec![Some(decoded); there.len()]).unwrap();
        let bound_array = cast(&bound_array, there.data_type()).unwrap();
        let outside = if upper {
            arrow::compute::kernels::cmp::gt(&there, &bound_array)
        } else {
            arrow::compute::kernels::cmp::lt(&there, &bound_array)
        };
        assert_eq!(outside.unwrap().true_count(), 0, "{ty}: '{bound}' of {there:?}");
    }
}

/// How ours differ from DuckDB's beyond what the table above says.
fn difference(ty: &LakeType, ours: &Said, theirs: &Said, values: &[ArrayRef]) -> Option<String> {
    if values.iter().any(has_nan) {
        let numbers = |said: &Said| -> Vec<u64> {
            said.counts.split(' ').map(|count| count.parse().unwrap()).collect()
        };
        let enough = numbers(ours).iter().zip(numbers(theirs)).all(|(ours, theirs)| *ours >= theirs);
        let none = ours.min.is_none() && ours.max.is_none();
        let fine = enough && none && (&*ours.nan, &*theirs.nan) == ("1", "1");
        return (!fine).then(|| format!("with NaN: ours {ours:?}, theirs {theirs:?}"));
    }
    if (&ours.counts, &ours.nan) != (&theirs.counts, &theirs.nan) {
        return Some(format!("counts and NaN: ours {ours:?}, theirs {theirs:?}"));
    }
    let unsigned = |bound: &Option<String>| match bound.as_deref() {
        // Minus zero plus zero is zero.
        Some(text) if *ty == LakeType::Float32 => Some((text.parse::<f32>().unwrap() + 0.0).to_string()),
        Some("-0.0") if ty.is_float() => Some("0.0".to_owned()),
        other => other.map(str::to_owned),
    };
    let cut = |value: &[u8]| value.len() > 256 || (*ty == LakeType::Varchar && value.contains(&0));
    let long = values.iter().any(|values| match ty {
        LakeType::Varchar => values.as_string::<i32>().iter().flatten().any(|text| cut(text.as_bytes())),
        LakeType::Blob => values.as_binary::<i32>().iter().flatten().any(cut),
        _ => false,
    });
    let same = (unsigned(&ours.min), unsigned(&ours.max)) == (unsigned(&theirs.min), unsigned(&theirs.max));
    (!long && !same).then(|| format!("bounds: ours {ours:?}, theirs {theirs:?}"))
}

/// The statistics of both catalogs, those of files by column and file, those of the table by column.
struct Both {
    files: [BTreeMap<(i64, i64), Said>; 2],
    tables: [BTreeMap<i64, Said>; 2],
}

/// Lets DuckDB write the rows of `paths`, and reads what both catalogs say of them.
fn statistics(duckdb: &DuckDb, lake: &Lake, made: &[Made], paths: &[String]) -> Both {
    const MARK: &str = "-- next --";
    let root = lake.dir.path().display();
    let declared: Vec<String> = made.iter().map(|(name, declared, _)| format!("{name} {declared}")).collect();
    let mut script = duckdb.attach(&lake.path(), true);
    script += &format!(
        "ATTACH 'ducklake:sqlite:{root}/duck.sqlite' AS duck (DATA_PATH '{root}/duck/');\n\
         CALL duck.set_option('data_inlining_row_limit', 0);\n\
         CREATE TABLE duck.t ({});\n",
        declared.join(", ")
    );
    for path in paths {
        script += &format!("INSERT INTO duck.t SELECT * FROM read_parquet('{path}');\n");
    }
    script += &format!("SELECT '{MARK}';\n");
    for name in ["skep", "duck"] {
        let meta = format!("__ducklake_metadata_{name}");
        script += &format!(
            "SELECT column_id, dense_rank() OVER (ORDER BY data_file_id), value_count || ' ' || null_count, \
             hex(min_value), hex(max_value), CAST(contains_nan AS INTEGER) \
             FROM {meta}.ducklake_file_column_stats ORDER BY 1, 2;\nSELECT '{MARK}';\n\
             SELECT column_id, CAST(contains_null AS INTEGER), hex(min_value), hex(max_value), \
             CAST(contains_nan AS INTEGER) FROM {meta}.ducklake_table_column_stats ORDER BY 1;\nSELECT '{MARK}';\n"
        );
    }
    let lines = duckdb.run(&script).unwrap();
    let mut parts = lines.split(|row| row[0] == MARK).skip(1);
    let mut next = || parts.next().unwrap();
    let number = |text: &String| text.parse::<i64>().unwrap();
    let files = |rows: &[Vec<String>]| {
        rows.iter().map(|row| ((number(&row[0]), number(&row[1])), said(&row[2..]))).collect()
    };
    let tables = |rows: &[Vec<String>]| rows.iter().map(|row| (number(&row[0]), said(&row[1..]))).collect();
    let (a, b, c, d) = (next(), next(), next(), next());
    Both { files: [files(a), files(c)], tables: [tables(b), tables(d)] }
}

async fn run(duckdb: &DuckDb, made: &[Vec<Made>]) {
    let lake = Lake::new().await;
    let batches: Vec<RecordBatch> = made.iter().map(|made| batch_of(made)).collect();
    lake.create("lake", "t", &batches[0]).await;
    for batch in &batches[1..] {
        lake.append("lake", "t", batch).await;
    }
    let table = lake.table("lake", "t").await;
    let files = lake.catalog.files(&*lake.snapshot().await, table.id).await.unwrap();
    let paths: Vec<String> =
        files.iter().map(|file| lake.data().join(&file.path).display().to_string()).collect();
    let both = statistics(duckdb, &lake, &made[0], &paths);
    let [ours, theirs] = &both.files;
    assert!(ours.keys().eq(theirs.keys()), "{:?} and {:?}", ours.keys(), theirs.keys());

    let columns: Vec<Column> = columns_from_arrow(&batches[0].schema()).unwrap();
    let mut at_leaf: BTreeMap<i64, Vec<ArrayRef>> = BTreeMap::new();
    for batch in &batches {
        let values = batch.columns().iter().flat_map(leaf_values);
        for (leaf, values) in leaves(&columns).into_iter().zip(values) {
            at_leaf.entry(leaf.id).or_default().push(values);
        }
    }
    let mut differences = Vec::new();
    for leaf in leaves(&columns) {
        let values = &at_leaf[&leaf.id];
        let mut compare = |ours: &Said, theirs: &Said, values: &[ArrayRef], of: &str| {
            values.iter().for_each(|values| covers(&leaf.ty, ours, values));
            let found = difference(&leaf.ty, ours, theirs, values);
            differences.extend(found.map(|found| format!("{} {} of {of}: {found}", leaf.name, leaf.ty)));
        };
        for (values, file) in values.iter().zip(1..) {
            let key = (leaf.id, file);
            compare(&ours[&key], &theirs[&key], std::slice::from_ref(values), &format!("file {file}"));
        }
        compare(&both.tables[0][&leaf.id], &both.tables[1][&leaf.id], values, "the table");
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// Each is a catalog of its own, and a process: more of them in `cargo xtask slow`.
fn cases() -> u32 {
    if std::env::var_os("SKEP_SLOW").is_some() { 200 } else { 12 }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn duckdb_writes_the_same_bounds(made in vec(file(), FILES)) {
        let Some(duckdb) = DuckDb::find() else {
            assert!(std::env::var_os("SKEP_REQUIRE_SERVICES").is_none(), "DuckDB is required to judge");
            return Ok(());
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(&duckdb, &made));
    }
}

/// A table without rows has no statistics in either catalog.
#[tokio::test]
async fn duckdb_says_nothing_of_no_rows() {
    let Some(duckdb) = DuckDb::find() else {
        assert!(std::env::var_os("SKEP_REQUIRE_SERVICES").is_none(), "DuckDB is required to judge");
        return;
    };
    let lake = Lake::new().await;
    let batch = crate::lake::batch([("i32", Arc::new(Int32Array::from(vec![Some(1)])) as ArrayRef)]);
    lake.create("lake", "t", &batch).await;
    let table = lake.table("lake", "t").await;
    let change = skep_catalog::Change::CreateTable {
        id: -1,
        schema: "lake".to_owned(),
        name: "empty".to_owned(),
        columns: table.columns.clone(),
        comment: None,
    };
    lake.commit([change]).await.unwrap();
    let both = statistics(&duckdb, &lake, &[("i32", "INTEGER", Arc::clone(batch.column(0)))], &[]);
    assert_eq!((both.files[0].len(), both.files[1].len()), (1, 0));
    assert_eq!((both.tables[0].len(), both.tables[1].len()), (1, 0), "of the table with a row alone");
}
