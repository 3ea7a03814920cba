//! What a write says it did, and whether that is all of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StringArray, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt64Type};
use arrow::record_batch::RecordBatch;
use skep_catalog::NewFile;
use skep_common::{Error, Result};

/// The columns of the report: which part wrote it, its rows, the file, NULL for the completion of a partition, and in that
/// how many of its rows the statement changed, and how many came from where, as JSON.
pub fn report_schema() -> SchemaRef {
    let number = |name| Field::new(name, DataType::UInt64, false);
    Arc::new(Schema::new(vec![
        number("task"),
        number("tasks"),
        number("partition"),
        number("partitions"),
        number("rows"),
        Field::new("file", DataType::Utf8, true),
        number("changed"),
        Field::new("sources", DataType::Utf8, true),
    ]))
}

/// The part of a write that one report speaks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) task: usize,
    pub(super) tasks: usize,
    pub(super) partition: usize,
    pub(super) partitions: usize,
}

/// One row for each file, then the completion.
pub(super) fn report(
    part: Part,
    files: &[NewFile],
    changed: u64,
    sources: &BTreeMap<String, u64>,
) -> Result<RecordBatch> {
    let repeat =
        |value: usize| -> ArrayRef { Arc::new(UInt64Array::from(vec![value as u64; files.len() + 1])) };
    let total: u64 = files.iter().map(|file| file.rows).sum();
    let rows: Vec<u64> = files.iter().map(|file| file.rows).chain([total]).collect();
    let mut texts = Vec::with_capacity(files.len() + 1);
    for file in files {
        let text = serde_json::to_string(file);
        texts.push(Some(text.map_err(|e| Error::internal("a file cannot be reported").source(e))?));
    }
    texts.push(None);
    let sources = (!sources.is_empty()).then(|| serde_json::to_string(sources)).transpose();
    let sources = sources.map_err(|e| Error::internal("sources of rows cannot be reported").source(e))?;
    let columns = vec![
        repeat(part.task),
        repeat(part.tasks),
        repeat(part.partition),
        repeat(part.partitions),
        Arc::new(UInt64Array::from(rows)) as ArrayRef,
        Arc::new(StringArray::from(texts)),
        Arc::new(UInt64Array::from_iter_values(files.iter().map(|_| 0).chain([changed]))),
        Arc::new(StringArray::from_iter(files.iter().map(|_| None).chain([sources]))),
    ];
    RecordBatch::try_new(report_schema(), columns)
        .map_err(|e| Error::internal("a report does not fit its schema").source(e))
}

/// The rows that the statement changed, of those that the write of `batches` moved.
pub fn changed_rows(batches: &[RecordBatch]) -> u64 {
    let counts =
        batches.iter().filter_map(|batch| batch.column_by_name("changed")?.as_primitive_opt::<UInt64Type>());
    counts.flat_map(|counts| counts.values().iter()).sum()
}

/// The rows of the write of `batches` by where they came from.
///
/// # Errors
/// [`Kind::Internal`](skep_common::Kind::Internal) for a report that does not read.
pub fn source_rows(batches: &[RecordBatch]) -> Result<BTreeMap<String, u64>> {
    let mut all: BTreeMap<String, u64> = BTreeMap::new();
    let columns = batches.iter().filter_map(|batch| batch.column_by_name("sources")?.as_string_opt::<i32>());
    for text in columns.flat_map(|texts| texts.iter().flatten()) {
        let counts: BTreeMap<String, u64> = serde_json::from_str(text)
            .map_err(|e| Error::internal("the sources of a write do not read").source(e))?;
        for (source, rows) in counts {
            *all.entry(source).or_default() += rows;
        }
    }
    Ok(all)
}

#[derive(Default)]
struct Seen {
    files: u64,
    completion: Option<u64>,
}

/// The files of a whole write, in the order of its parts.
///
/// # Errors
/// [`Kind::Internal`](skep_common::Kind::Internal) if the report is not of one whole write: a completion is missing or
/// doubled, a part is unknown, or rows do not add up. Nothing of it may be committed then.
pub fn collect_report(batches: &[RecordBatch]) -> Result<Vec<NewFile>> {
    let refuse = |what: String| {
        Error::internal(format!("the write is not complete: {what}"))
            .hint("nothing was committed; run the statement again, and report this")
    };
    let mut shape = None;
    let mut parts: BTreeMap<(u64, u64), Seen> = BTreeMap::new();
    let mut files: BTreeMap<(u64, u64), Vec<NewFile>> = BTreeMap::new();
    for batch in batches {
        if batch.schema().fields() != report_schema().fields() {
            return Err(refuse("rows that are no report".to_owned()));
        }
        let number = |column: usize, row: usize| batch.column(column).as_primitive::<UInt64Type>().value(row);
        let texts = batch.column(5).as_string::<i32>();
        for row in 0..batch.num_rows() {
            let (task, tasks, partition, partitions) =
                (number(0, row), number(1, row), number(2, row), number(3, row));
            if *shape.get_or_insert((tasks, partitions)) != (tasks, partitions) {
                return Err(refuse("parts of different writes".to_owned()));
            }
            if task >= tasks || partition >= partitions {
                return Err(refuse(format!("part {partition} of task {task} is beyond its number")));
            }
            let key = (task, partition);
            let seen = parts.entry(key).or_default();
            if texts.is_null(row) {
                if seen.completion.replace(number(4, row)).is_some() {
                    return Err(refuse(format!("part {partition} of task {task} completed twice")));
                }
                continue;
            }
            let file: NewFile = serde_json::from_str(texts.value(row))
                .map_err(|e| refuse("a file is not readable".to_owned()).source(e))?;
            if file.rows != number(4, row) || file.rows == 0 {
                return Err(refuse(format!("file '{}' does not have the rows it says", file.path)));
            }
            seen.files += file.rows;
            files.entry(key).or_default().push(file);
        }
    }
    let Some((tasks, partitions)) = shape else { return Err(refuse("no part completed".to_owned())) };
    for task in 0..tasks {
        for partition in 0..partitions {
            let seen = parts.get(&(task, partition));
            let Some(Seen { files, completion: Some(rows) }) = seen else {
                return Err(refuse(format!("part {partition} of task {task} did not complete")));
            };
            if files != rows {
                return Err(refuse(format!(
                    "part {partition} of task {task} wrote {rows} rows, its files have {files}"
                )));
            }
        }
    }
    Ok(files.into_values().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_common::Kind;

    fn file(rows: u64) -> NewFile {
        let path = format!("skep-{rows}.parquet");
        let (partition, stats, sketches) = (Vec::new(), Vec::new(), Vec::new());
        NewFile { path, rows, bytes: 1, footer: 1, partition, stats, moved: false, sketches }
    }

    fn part(task: usize, partition: usize) -> Part {
        Part { task, tasks: 2, partition, partitions: 2 }
    }

    fn from(counts: &[(&str, u64)]) -> BTreeMap<String, u64> {
        counts.iter().map(|(source, rows)| ((*source).to_owned(), *rows)).collect()
    }

    fn whole() -> Vec<RecordBatch> {
        vec![
            report(part(0, 0), &[file(3), file(4)], 0, &from(&[("a", 5), ("b", 2)])).unwrap(),
            report(part(1, 1), &[], 0, &from(&[])).unwrap(),
            report(part(1, 0), &[file(5)], 2, &from(&[("b", 5)])).unwrap(),
            report(part(0, 1), &[], 1, &from(&[])).unwrap(),
        ]
    }

    #[test]
    fn a_whole_write_gives_its_files() {
        let files = collect_report(&whole()).unwrap();
        assert_eq!(files.iter().map(|f| f.rows).collect::<Vec<_>>(), [3, 4, 5]);
        assert_eq!(changed_rows(&whole()), 3);
        assert_eq!(source_rows(&whole()).unwrap(), from(&[("a", 5), ("b", 7)]));
    }

    #[test]
    fn anything_less_or_more_is_refused() {
        let refused = |batches: &[RecordBatch], what: &str| {
            let error = collect_report(batches).unwrap_err();
            assert_eq!(error.kind(), Kind::Internal);
            assert!(error.message().contains(what), "{error}: {what}");
        };
        refused(&[], "no part");
        for missing in 0..4 {
            let mut batches = whole();
            batches.remove(missing);
            refused(&batches, "did not complete");
        }
        let mut doubled = whole();
        doubled.push(doubled[1].clone());
        refused(&doubled, "twice");
        let mut cut = whole();
        cut[0] = cut[0].slice(1, 2);
        refused(&cut, "its files have 4");
        let mut stranger = whole();
        stranger.push(report(Part { tasks: 3, ..part(0, 0) }, &[], 0, &from(&[])).unwrap());
        refused(&stranger, "different writes");
    }
}
