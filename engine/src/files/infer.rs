//! The columns of files, from a look into them.

use std::collections::BTreeSet;
use std::io::BufReader;
use std::sync::Arc;

use datafusion::arrow::csv::reader::Format as CsvInfer;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef, TimeUnit};
use datafusion::arrow::json::reader::infer_json_schema;
use datafusion::datasource::physical_plan::parquet::metadata::DFParquetMetadata;
use datafusion::execution::object_store::ObjectStoreUrl;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::{ObjectMeta, ObjectStore};
use skep_common::{Error, Result};

use super::{FileOptions, Kind, shown};
use crate::text::{Csv, Format, Layout, sample};
use crate::{error, types};

/// Files that are looked into at once.
const CONCURRENCY: usize = 16;
/// Files of text whose rows are looked at; of the others only the header.
const FILES_SAMPLED_MAX: usize = 8;
/// Bytes of a text file that are looked at.
const SAMPLE_BYTES: usize = 4 << 20;
/// Bytes of a text file in which its header must end.
const HEADER_BYTES: usize = 64 << 10;

/// What some programs put before the first character of a text.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// The columns that all of `files` have together.
///
/// # Errors
/// [`Kind::Invalid`](skep_common::Kind::Invalid) if they differ in a way that no type covers, or one cannot be understood.
pub(super) async fn schema(
    url: &ObjectStoreUrl,
    store: &Arc<dyn ObjectStore>,
    files: &[ObjectMeta],
    options: &FileOptions,
) -> Result<SchemaRef> {
    let read = files.iter().enumerate().map(|(at, meta)| async move {
        match options.kind {
            Kind::Parquet => parquet(url, store, meta).await,
            Kind::Csv | Kind::Json => text(url, store, meta, options, at < FILES_SAMPLED_MAX).await,
        }
    });
    // Collected first: a closure over references inside a stream hides from the compiler that its future is Send.
    let read: Vec<_> = read.collect();
    let schemas: Vec<Schema> = stream::iter(read).buffered(CONCURRENCY).try_collect().await?;
    let by_position = options.kind == Kind::Csv;
    let mut merged = Merged::new(by_position);
    for (schema, meta) in schemas.into_iter().zip(files) {
        merged.add(schema, shown(url, &meta.location))?;
    }
    merged.finish()
}

/// The names in the headers of CSV files, which must all be the same.
///
/// # Errors
/// As [`schema`].
pub(super) async fn headers(
    url: &ObjectStoreUrl,
    store: &Arc<dyn ObjectStore>,
    files: &[ObjectMeta],
    options: &FileOptions,
) -> Result<Vec<String>> {
    let read: Vec<_> = files.iter().map(|meta| text(url, store, meta, options, false)).collect();
    let headers: Vec<Schema> = stream::iter(read).buffered(CONCURRENCY).try_collect().await?;
    let mut merged = Merged::new(true);
    for (header, meta) in headers.into_iter().zip(files) {
        merged.add(header, shown(url, &meta.location))?;
    }
    Ok(merged.finish()?.fields().iter().map(|field| field.name().clone()).collect())
}

async fn parquet(url: &ObjectStoreUrl, store: &Arc<dyn ObjectStore>, meta: &ObjectMeta) -> Result<Schema> {
    let schema = DFParquetMetadata::new(store.as_ref(), meta).fetch_schema().await.map_err(|e| {
        error::from_datafusion(e)
            .context(format!("'{}' cannot be read as Parquet", shown(url, &meta.location)))
    })?;
    let fields: Vec<Field> = schema
        .fields()
        .iter()
        .map(|field| Field::new(field.name(), types::plain(field.data_type()), field.is_nullable()))
        .collect();
    Ok(Schema::new(fields))
}

async fn text(
    url: &ObjectStoreUrl,
    store: &Arc<dyn ObjectStore>,
    meta: &ObjectMeta,
    options: &FileOptions,
    rows: bool,
) -> Result<Schema> {
    let (path, name) = (&meta.location, shown(url, &meta.location));
    let Some(format) = options.text(path.as_ref()) else {
        return Err(Error::internal("a Parquet file was taken for text"));
    };
    let limit = if rows { SAMPLE_BYTES } else { HEADER_BYTES };
    let rows = if rows { options.sample } else { 0 };
    let unreadable =
        |e| error::from_datafusion(e).context(format!("'{name}' cannot be read as {}", options.kind));
    let (bytes, _) = sample(store, path, format.compression, limit).await.map_err(unreadable)?;
    match &format.layout {
        Layout::Csv(csv) => infer_csv(&bytes, csv, rows),
        Layout::Json if rows == 0 => Ok(Schema::empty()),
        Layout::Json => infer_json(&bytes, &format, rows),
    }
    .map_err(|e| {
        let error = Error::invalid(format!("the columns of '{name}' cannot be found: {}", e.message()));
        match e.hint_text() {
            Some(hint) => error.hint(hint),
            None => error.hint("check the format and its options, such as DELIMITER and HEADER"),
        }
    })
}

fn infer_csv(bytes: &[u8], csv: &Csv, rows: usize) -> Result<Schema> {
    let mut format = CsvInfer::default()
        .with_header(csv.header)
        .with_delimiter(csv.delimiter)
        .with_quote(csv.quote)
        // A bad row is found, and named, by the scan.
        .with_truncated_rows(true);
    if let Some(escape) = csv.escape {
        format = format.with_escape(escape);
    }
    if let Some(comment) = csv.comment {
        format = format.with_comment(comment);
    }
    if let Some(null) = crate::text::null_pattern(csv) {
        format = format.with_null_regex(null);
    }
    let (schema, seen) = format
        .infer_schema(BufReader::new(bytes), Some(rows))
        .map_err(|e| error::from_datafusion(e.into()))?;
    let fields = schema.fields().iter().enumerate().map(|(at, field)| {
        let name = if csv.header {
            field.name().trim_start_matches(BYTE_ORDER_MARK).trim().to_owned()
        } else {
            format!("column_{}", at + 1)
        };
        let ty = if seen == 0 { DataType::Null } else { settled(field.data_type()) };
        Field::new(name, ty, true)
    });
    Ok(Schema::new(fields.collect::<Vec<_>>()))
}

fn infer_json(bytes: &[u8], format: &Format, rows: usize) -> Result<Schema> {
    debug_assert_eq!(format.layout, Layout::Json);
    if bytes.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'[') {
        return Err(Error::invalid("the file is one JSON array")
            .hint("write one object on each line, as in jq -c '.[]' file.json"));
    }
    let (schema, _) = infer_json_schema(BufReader::new(bytes), Some(rows))
        .map_err(|e| error::from_datafusion(e.into()).hint("every line must be one JSON object"))?;
    let fields: Vec<Field> =
        schema.fields().iter().map(|f| Field::new(f.name(), settled(f.data_type()), true)).collect();
    Ok(Schema::new(fields))
}

/// A guessed type as a table would have it.
fn settled(ty: &DataType) -> DataType {
    match ty {
        DataType::Timestamp(_, zone) => DataType::Timestamp(TimeUnit::Microsecond, zone.clone()),
        DataType::Date64 => DataType::Timestamp(TimeUnit::Microsecond, None),
        DataType::List(item) => {
            DataType::List(Arc::new(Field::new(item.name(), settled(item.data_type()), true)))
        }
        DataType::Struct(fields) => DataType::Struct(
            fields.iter().map(|f| Field::new(f.name(), settled(f.data_type()), true)).collect::<Fields>(),
        ),
        other => types::plain(other),
    }
}

/// Columns of several files, as one.
struct Merged {
    by_position: bool,
    fields: Vec<FieldRef>,
    /// The file that the fields came from first.
    first: Option<String>,
}

impl Merged {
    fn new(by_position: bool) -> Self {
        Self { by_position, fields: Vec::new(), first: None }
    }

    fn add(&mut self, schema: Schema, file: String) -> Result<()> {
        let Some(first) = &self.first else {
            self.first = Some(file);
            self.fields = schema.fields().iter().cloned().collect();
            return Ok(());
        };
        let names = |fields: &[FieldRef]| fields.iter().map(|f| f.name().clone()).collect::<Vec<_>>();
        let theirs: Vec<FieldRef> = schema.fields().iter().cloned().collect();
        if self.by_position && names(&self.fields) != names(&theirs) {
            return Err(Error::invalid(format!(
                "files differ in their columns: '{first}' has {}, '{}' has {}",
                names(&self.fields).join(", "),
                file,
                names(&theirs).join(", ")
            ))
            .hint("read the files of each kind by a pattern of their own"));
        }
        for field in theirs {
            let Some(at) = self.fields.iter().position(|f| f.name() == field.name()) else {
                self.fields.push(Arc::new(field.as_ref().clone().with_nullable(true)));
                continue;
            };
            let ours = &self.fields[at];
            let Some(ty) = widest(ours.data_type(), field.data_type()) else {
                return Err(Error::invalid(format!(
                    "files differ in the type of column '{}': {} in '{first}', {} in '{}'",
                    field.name(),
                    types::sql_name(ours.data_type()),
                    types::sql_name(field.data_type()),
                    file
                ))
                .hint("create an external table with the types you want, or read the files apart"));
            };
            let nullable = ours.is_nullable() || field.is_nullable();
            self.fields[at] = Arc::new(Field::new(field.name(), ty, nullable));
        }
        Ok(())
    }

    fn finish(self) -> Result<SchemaRef> {
        let mut seen = BTreeSet::new();
        if let Some(twice) = self.fields.iter().find(|f| !seen.insert(f.name().clone())) {
            return Err(Error::invalid(format!(
                "column '{}' occurs twice in '{}'",
                twice.name(),
                self.first.unwrap_or_default()
            )));
        }
        // A column of which nothing was seen may hold anything.
        let fields: Vec<FieldRef> = self
            .fields
            .into_iter()
            .map(|f| match f.data_type() {
                DataType::Null => Arc::new(Field::new(f.name(), DataType::Utf8, true)),
                _ => f,
            })
            .collect();
        if fields.is_empty() {
            return Err(Error::invalid(format!("'{}' has no columns", self.first.unwrap_or_default()))
                .hint("an empty file has none"));
        }
        Ok(Arc::new(Schema::new(fields)))
    }
}

/// A type that holds the values of both without loss, if there is one.
fn widest(a: &DataType, b: &DataType) -> Option<DataType> {
    use DataType::{
        Boolean, Date32, Float32, Float64, Int8, Int16, Int32, Int64, List, Null, Struct, Timestamp, Utf8,
    };
    Some(match (a, b) {
        (a, b) if a == b => a.clone(),
        (Null, other) | (other, Null) => other.clone(),
        (Int8 | Int16 | Int32 | Int64, Int8 | Int16 | Int32 | Int64) => Int64,
        (Int8 | Int16 | Int32 | Int64 | Float32 | Float64, Float32 | Float64)
        | (Float32 | Float64, Int8 | Int16 | Int32 | Int64) => Float64,
        (Date32, Timestamp(unit, None)) | (Timestamp(unit, None), Date32) => Timestamp(*unit, None),
        (Timestamp(_, zone), Timestamp(_, other)) if zone == other => {
            Timestamp(TimeUnit::Microsecond, zone.clone())
        }
        (Utf8, Boolean | Int64 | Float64 | Date32 | Timestamp(..))
        | (Boolean | Int64 | Float64 | Date32 | Timestamp(..), Utf8)
        | (Boolean | Date32 | Timestamp(..), Int64 | Float64)
        | (Int64 | Float64, Boolean | Date32 | Timestamp(..)) => Utf8,
        (List(a), List(b)) => List(Arc::new(Field::new("item", widest(a.data_type(), b.data_type())?, true))),
        (Struct(a), Struct(b)) => {
            let mut fields: Vec<FieldRef> = a.iter().cloned().collect();
            for field in b {
                match fields.iter().position(|f| f.name() == field.name()) {
                    Some(at) => {
                        let ty = widest(fields[at].data_type(), field.data_type())?;
                        fields[at] = Arc::new(Field::new(field.name(), ty, true));
                    }
                    None => fields.push(Arc::clone(field)),
                }
            }
            Struct(fields.into())
        }
        _ => return None,
    })
}
