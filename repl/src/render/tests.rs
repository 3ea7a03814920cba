use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Decimal128Array, Float64Array, Int64Array, ListArray, StringArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};

use super::*;

fn sample() -> RecordBatch {
    let names: ArrayRef =
        Arc::new(StringArray::from(vec![Some("a,\"b\""), Some(""), None, Some("x\ty\nz|\\")]));
    let counts: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), Some(-20), None, Some(300)]));
    let prices = Decimal128Array::from(vec![Some(150), None, Some(0), Some(-1)]);
    let prices: ArrayRef = Arc::new(prices.with_precision_and_scale(10, 2).unwrap());
    let schema = Schema::new(vec![
        Field::new("name", DataType::Utf8, true),
        Field::new("n", DataType::Int64, true),
        Field::new("price", DataType::Decimal128(10, 2), true),
    ]);
    RecordBatch::try_new(Arc::new(schema), vec![names, counts, prices]).unwrap()
}

fn write(batches: &[RecordBatch], format: Format, columns: Option<usize>) -> (String, Remarks) {
    let mut out = Vec::new();
    let mut rows = rows(&batches[0].schema(), Style { format, header: true, columns }).unwrap();
    for batch in batches {
        rows.batch(batch, &mut out).unwrap();
    }
    let remarks = rows.end(&mut out).unwrap();
    (String::from_utf8(out).unwrap(), remarks)
}

fn lines(batch: RecordBatch, format: Format) -> Vec<String> {
    write(&[batch], format, None).0.lines().map(str::to_owned).collect()
}

#[test]
fn tables_align_numbers_and_show_null() {
    let expected = [
        "+-----------+------+-------+",
        "| name      | n    | price |",
        "+-----------+------+-------+",
        "| a,\"b\"     |    1 |  1.50 |",
        "|           |  -20 |  NULL |",
        "| NULL      | NULL |  0.00 |",
        "| x\\ty\\nz|\\ |  300 | -0.01 |",
        "+-----------+------+-------+",
    ];
    assert_eq!(lines(sample(), Format::Table), expected);
}

#[test]
fn csv_follows_rfc_4180() {
    let found = write(&[sample()], Format::Csv, None).0;
    assert_eq!(found, "name,n,price\n\"a,\"\"b\"\"\",1,1.50\n\"\",-20,\n,,0.00\n\"x\ty\nz|\\\",300,-0.01\n");
}

#[test]
fn tsv_keeps_one_line_per_row() {
    let found = lines(sample(), Format::Tsv);
    assert_eq!(
        found,
        ["name\tn\tprice", "a,\"b\"\t1\t1.50", "\t-20\t\\N", "\\N\t\\N\t0.00", "x\\ty\\nz|\\\\\t300\t-0.01"]
    );
}

#[test]
fn json_keeps_types_and_tells_names_apart() {
    let found = lines(sample(), Format::Ndjson);
    assert_eq!(found[0], r#"{"name":"a,\"b\"","n":1,"price":1.50}"#);
    assert_eq!(found[2], r#"{"name":null,"n":null,"price":0.00}"#);
    let twice =
        Schema::new(vec![Field::new("a", DataType::Int64, true), Field::new("a", DataType::Float64, true)]);
    let columns: Vec<ArrayRef> =
        vec![Arc::new(Int64Array::from(vec![1, 2])), Arc::new(Float64Array::from(vec![0.5, f64::NAN]))];
    let batch = RecordBatch::try_new(Arc::new(twice), columns).unwrap();
    let found = write(&[batch.clone(), batch.slice(0, 1)], Format::Json, None).0;
    assert_eq!(found, "[{\"a\":1,\"a:1\":0.5},\n {\"a\":2,\"a:1\":null},\n {\"a\":1,\"a:1\":0.5}]\n");
    assert_eq!(write(&[batch.slice(0, 0)], Format::Json, None).0, "[]\n");
}

#[test]
fn nested_values_are_json_in_csv() {
    let list = ListArray::from_iter_primitive::<Int64Type, _, _>([Some(vec![Some(1), None]), None]);
    let schema = Schema::new(vec![Field::new("l", list.data_type().clone(), true)]);
    let batch = RecordBatch::try_new(Arc::new(schema), vec![Arc::new(list)]).unwrap();
    assert_eq!(lines(batch.clone(), Format::Csv), ["l", "\"[1,null]\"", ""]);
    assert_eq!(lines(batch, Format::Vertical)[1], "l | [1, NULL]");
}

#[test]
fn markdown_escapes_what_would_end_a_cell() {
    let found = lines(sample(), Format::Markdown);
    assert_eq!(found[..2], ["| name | n | price |", "| --- | ---: | ---: |"]);
    assert_eq!(found[5], "| x\\ty<br>z\\|\\ | 300 | -0.01 |");
}

#[test]
fn empty_results_still_show_their_columns() {
    let empty = sample().slice(0, 0);
    assert_eq!(lines(empty.clone(), Format::Table).len(), 4);
    assert_eq!(lines(empty.clone(), Format::Csv), ["name,n,price"]);
    assert_eq!(lines(empty, Format::Markdown).len(), 2);
}

#[test]
fn narrow_terminals_cut_and_then_turn() {
    let wide: ArrayRef = Arc::new(StringArray::from(vec!["x".repeat(50)]));
    let fields: Vec<Field> = (0..3).map(|i| Field::new(format!("c{i}"), DataType::Utf8, true)).collect();
    let batch =
        RecordBatch::try_new(Arc::new(Schema::new(fields)), vec![Arc::clone(&wide), Arc::clone(&wide), wide])
            .unwrap();
    let (text, remarks) = write(std::slice::from_ref(&batch), Format::Box, Some(60));
    assert!(remarks.cut && !remarks.turned);
    assert!(text.lines().all(|line| line.chars().count() == 60), "{text}");
    let (text, remarks) = write(std::slice::from_ref(&batch), Format::Table, Some(20));
    assert!(remarks.turned);
    assert!(text.starts_with("-[ row 1 ]"), "{text}");
    let (text, remarks) = write(&[batch], Format::Table, None);
    assert_eq!(remarks, Remarks::default());
    assert!(text.contains(&"x".repeat(50)));
}

#[test]
fn wide_characters_keep_columns_straight() {
    let values: ArrayRef = Arc::new(StringArray::from(vec!["\u{4e00}\u{4e8c}", "ab", "e\u{301}"]));
    let schema = Schema::new(vec![Field::new("v", DataType::Utf8, true)]);
    let found = lines(RecordBatch::try_new(Arc::new(schema), vec![values]).unwrap(), Format::Table);
    assert_eq!(found[3], "| \u{4e00}\u{4e8c} |");
    assert_eq!(found[4], "| ab   |");
    assert_eq!(found[5], "| e\u{301}    |");
}

#[test]
fn files_for_other_programs_read_back() {
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    let batches = [sample(), sample().slice(1, 2)];
    let bytes = |format| {
        let mut out = Vec::new();
        let mut rows = rows(&sample().schema(), Style { format, header: true, columns: None }).unwrap();
        for batch in &batches {
            rows.batch(batch, &mut out).unwrap();
        }
        rows.end(&mut out).unwrap();
        out
    };
    let all = arrow::compute::concat_batches(&sample().schema(), &batches).unwrap();
    let parquet =
        ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(bytes(Format::Parquet))).unwrap();
    let found: Vec<RecordBatch> = parquet.build().unwrap().collect::<Result<_, _>>().unwrap();
    assert_eq!(arrow::compute::concat_batches(&sample().schema(), &found).unwrap(), all);
    let arrow =
        arrow::ipc::reader::FileReader::try_new(std::io::Cursor::new(bytes(Format::Arrow)), None).unwrap();
    let found: Vec<RecordBatch> = arrow.collect::<Result<_, _>>().unwrap();
    assert_eq!(arrow::compute::concat_batches(&sample().schema(), &found).unwrap(), all);
}
