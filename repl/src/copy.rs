//! `\copy`: a file of this machine, streamed into a table of the server, and rows of the server into a file.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use clap::ValueEnum;
use flate2::read::MultiGzDecoder;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use skep_common::{Error, Result};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::args::Format;
use crate::commands::{find_table, table_name, unquote};
use crate::lex::{Kind, Token, tokens};
use crate::output::{Output, RowFile};
use crate::shell::{Ended, Shell};

/// Rows of a batch that is sent.
const BATCH_ROWS: usize = 8192;
/// Batches read ahead of the network.
const AHEAD: usize = 4;

/// What `\copy` was told.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Request {
    schema: Option<String>,
    table: String,
    path: PathBuf,
    format: FileFormat,
    gzip: bool,
    header: bool,
    delimiter: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FileFormat {
    Csv,
    Json,
    Parquet,
}

/// Rows that are to be written to a file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Export {
    sql: String,
    path: PathBuf,
    format: Format,
    gzip: Option<bool>,
    header: bool,
}

/// Runs `\copy TABLE FROM 'FILE' [(options)]`, `\copy TABLE TO 'FILE'` or `\copy (QUERY) TO 'FILE'`.
///
/// # Errors
/// A request that does not read, a file that does not, and those of the server.
pub(crate) async fn run(shell: &mut Shell, text: &str) -> Result<(), Ended> {
    let text = &shell.variables.expand(text);
    match export(text)? {
        Some(wanted) => write(shell, wanted).await,
        None => read(shell, text).await,
    }
}

/// Writes the rows of a query to a file. After an error there is none.
async fn write(shell: &mut Shell, wanted: Export) -> Result<(), Ended> {
    let Export { sql, path, format, gzip, header } = wanted;
    let mut file = RowFile::create(&path, gzip)?;
    file.format = Some(format);
    let before = std::mem::replace(&mut shell.out, Output::File(Box::new(file)));
    let header_before = std::mem::replace(&mut shell.header, header);
    let ran = shell.statement_as(&sql, format, Some("COPY")).await;
    shell.header = header_before;
    let closed = match std::mem::replace(&mut shell.out, before) {
        Output::File(file) => file.close(),
        Output::Stdout => Ok(()),
    };
    let ran = ran.and_then(|()| closed.map_err(Ended::from));
    if ran.is_err() {
        // It holds some of the rows, which nobody could tell from all of them.
        let _ = std::fs::remove_file(&path);
    }
    ran
}

/// The solid tokens of `text`.
fn words(text: &str) -> Vec<Token> {
    tokens(text).filter(|token| !matches!(token.kind, Kind::Space | Kind::Comment)).collect()
}

/// What is to be written, if `text` has a TO outside of parentheses.
fn export(text: &str) -> Result<Option<Export>> {
    let wrong = |what: String| {
        Error::invalid(format!("\\copy: {what}"))
            .hint("\\copy TABLE TO 'FILE', or \\copy (QUERY) TO 'FILE' [(FORMAT csv)]")
    };
    let words = words(text);
    let word = |at: usize| words.get(at).map(|token| &text[token.start..token.end]);
    let mut depth = 0usize;
    let mut to = None;
    for at in 0..words.len() {
        match word(at).unwrap_or_default() {
            "(" => depth += 1,
            ")" => depth = depth.saturating_sub(1),
            "from" | "FROM" | "From" if depth == 0 => return Ok(None),
            other if depth == 0 && other.eq_ignore_ascii_case("to") => {
                to = Some(at);
                break;
            }
            _ => {}
        }
    }
    let Some(to) = to else { return Ok(None) };
    let source = text[..words[to].start].trim();
    let sql = match source.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')) {
        Some(query) => query.trim().to_owned(),
        None if source.is_empty() => return Err(wrong("the table is missing".to_owned())),
        None => format!("SELECT * FROM {source}"),
    };
    let Some(name) = words.get(to + 1).filter(|token| token.kind == Kind::Text) else {
        return Err(wrong("the file is not a quoted text".to_owned()));
    };
    let path = PathBuf::from(unquote(&text[name.start..name.end]));
    let format = Format::of_file(&path).0.unwrap_or(Format::Csv);
    let mut wanted = Export { sql, path, format, gzip: None, header: true };
    let rest: Vec<(Kind, &str)> =
        words[to + 2..].iter().map(|token| (token.kind, &text[token.start..token.end])).collect();
    for (name, value) in pairs(&rest).map_err(wrong)? {
        match (name.as_str(), value.to_lowercase().as_str()) {
            ("format", value) => {
                wanted.format = Format::from_str(value, true).map_err(|_| {
                    wrong(format!("unknown format '{value}', it is one of {}", Format::names().join(", ")))
                })?;
            }
            ("header", "true") => wanted.header = true,
            ("header", "false") => wanted.header = false,
            ("compression", "gzip") if !wanted.format.binary() => wanted.gzip = Some(true),
            ("compression", "none") => wanted.gzip = Some(false),
            _ => return Err(wrong(format!("unknown option '{name} {value}'"))),
        }
    }
    Ok(Some(wanted))
}

/// Streams a file into a table.
async fn read(shell: &mut Shell, text: &str) -> Result<(), Ended> {
    let request = parse(text)?;
    let started = shell.instant();
    let table = find_table(shell, request.schema.as_deref(), &request.table).await?;
    let columns = table.columns.unwrap_or_else(|| Arc::new(Schema::empty()));
    let opening = {
        let request = request.clone();
        tokio::task::spawn_blocking(move || open(&request, &columns))
    };
    let (schema, batches) =
        opening.await.map_err(|e| Error::internal("reading the file panicked").source(e))??;
    let (send, receive) = mpsc::channel::<Result<RecordBatch>>(AHEAD);
    let name = request.path.display().to_string();
    let reading = tokio::task::spawn_blocking(move || {
        for batch in batches {
            let batch = batch.map_err(|e| Error::invalid(format!("cannot read '{name}'")).source(e));
            let failed = batch.is_err();
            // Nobody receives when the server refused the rows.
            if send.blocking_send(batch).is_err() || failed {
                return;
            }
        }
    });
    shell.interrupts.forget();
    let ingest = shell.client.ingest(Some(table.schema), table.name, schema, ReceiverStream::new(receive));
    let rows = tokio::select! {
        rows = ingest => rows?,
        () = shell.interrupts.next() => {
            return Err(Ended::Interrupted("nothing of the file is in the table".to_owned()));
        }
    };
    reading.await.map_err(|e| Error::internal("reading the file panicked").source(e))?;
    shell.say(&shell.timed(&format!("COPY {rows}"), started));
    Ok(())
}

fn parse(text: &str) -> Result<Request> {
    let wrong = |what: &str| {
        Error::invalid(format!("\\copy: {what}")).hint("\\copy TABLE FROM 'FILE' [(FORMAT csv, HEADER true)]")
    };
    let words: Vec<(Kind, &str)> =
        words(text).into_iter().map(|token| (token.kind, &text[token.start..token.end])).collect();
    let from = words.iter().position(|(kind, word)| *kind == Kind::Word && word.eq_ignore_ascii_case("from"));
    let from = from.ok_or_else(|| wrong("neither FROM nor TO is there"))?;
    let target: String = words[..from].iter().map(|(_, word)| *word).collect();
    let (schema, table) = table_name(&target);
    if table.is_empty() {
        return Err(wrong("the table is missing"));
    }
    let Some((Kind::Text, path)) = words.get(from + 1) else {
        return Err(wrong("the file is not a quoted text"));
    };
    let path = PathBuf::from(unquote(path));
    let mut request = guess(schema, table, path);
    options(&words[from + 2..], &mut request).map_err(|what| wrong(&what))?;
    Ok(request)
}

/// What the name of the file says.
fn guess(schema: Option<String>, table: String, path: PathBuf) -> Request {
    let name = path.to_string_lossy().to_lowercase();
    let gzip = name.ends_with(".gz");
    let bare = name.trim_end_matches(".gz");
    let extension = Path::new(bare).extension().and_then(|e| e.to_str()).unwrap_or_default().to_owned();
    let format = match extension.as_str() {
        "parquet" => FileFormat::Parquet,
        "json" | "jsonl" | "ndjson" => FileFormat::Json,
        _ => FileFormat::Csv,
    };
    let delimiter = if extension == "tsv" { b'\t' } else { b',' };
    Request { schema, table, path, format, gzip, header: true, delimiter }
}

/// Reads `(NAME value, ...)`; a name alone is true.
fn pairs(words: &[(Kind, &str)]) -> std::result::Result<Vec<(String, String)>, String> {
    let Some(((_, first), rest)) = words.split_first() else { return Ok(Vec::new()) };
    let Some(((_, last), inner)) = rest.split_last() else { return Err(format!("unexpected '{first}'")) };
    if *first != "(" || *last != ")" {
        return Err(format!("unexpected '{first}'"));
    }
    let pair = |option: &[(Kind, &str)]| {
        let words: Vec<&str> = option.iter().map(|(_, word)| *word).filter(|word| *word != "=").collect();
        match words.as_slice() {
            [name] => Ok((name.to_lowercase(), "true".to_owned())),
            [name, value] => Ok((name.to_lowercase(), unquote(value))),
            _ => Err("an option is a name and a value".to_owned()),
        }
    };
    inner.split(|(_, word)| *word == ",").map(pair).collect()
}

fn options(words: &[(Kind, &str)], request: &mut Request) -> std::result::Result<(), String> {
    for (name, value) in pairs(words)? {
        match (name.as_str(), value.to_lowercase().as_str()) {
            ("format", "csv") => request.format = FileFormat::Csv,
            ("format", "json" | "ndjson" | "jsonl") => request.format = FileFormat::Json,
            ("format", "parquet") => request.format = FileFormat::Parquet,
            ("header", "true") => request.header = true,
            ("header", "false") => request.header = false,
            ("compression", "gzip") => request.gzip = true,
            ("compression", "none") => request.gzip = false,
            ("delimiter", "\\t") => request.delimiter = b'\t',
            ("delimiter", one) if one.len() == 1 => request.delimiter = one.as_bytes()[0],
            _ => return Err(format!("unknown option '{name} {value}'")),
        }
    }
    Ok(())
}

type Batches = Box<dyn Iterator<Item = std::result::Result<RecordBatch, ArrowError>> + Send>;

/// Opens the file as batches of the table's columns that it has.
fn open(request: &Request, table: &SchemaRef) -> Result<(SchemaRef, Batches)> {
    let shown = request.path.display();
    let wrong = |e: ArrowError| Error::invalid(format!("cannot read '{shown}'")).source(e);
    let file = File::open(&request.path)
        .map_err(|e| Error::not_found(format!("cannot open '{shown}'")).source(e))?;
    if request.format == FileFormat::Parquet {
        let reader = ParquetRecordBatchReaderBuilder::try_new(file)
            .and_then(|builder| builder.with_batch_size(BATCH_ROWS).build())
            .map_err(|e| Error::invalid(format!("cannot read '{shown}'")).source(e))?;
        let schema = arrow::array::RecordBatchReader::schema(&reader);
        return Ok((schema, Box::new(reader)));
    }
    let bytes: Box<dyn Read + Send> =
        if request.gzip { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };
    let bytes = BufReader::with_capacity(1 << 20, bytes);
    if request.format == FileFormat::Json {
        let schema = readable(table.fields().iter().map(|field| field.as_ref().clone()));
        let reader = arrow::json::ReaderBuilder::new(Arc::clone(&schema)).with_batch_size(BATCH_ROWS);
        return Ok((schema, Box::new(reader.build(bytes).map_err(wrong)?)));
    }
    csv(request, table, bytes)
}

fn csv(
    request: &Request,
    table: &SchemaRef,
    mut bytes: BufReader<Box<dyn Read + Send>>,
) -> Result<(SchemaRef, Batches)> {
    let shown = request.path.display();
    let schema = if request.header {
        let mut head = Vec::new();
        std::io::BufRead::read_until(&mut bytes, b'\n', &mut head)
            .map_err(|e| Error::invalid(format!("cannot read '{shown}'")).source(e))?;
        let names = header(&head, request.delimiter)
            .map_err(|e| Error::invalid(format!("cannot read the header of '{shown}'")).source(e))?;
        let field = |name: &String| {
            let exact = table.fields().iter().find(|field| field.name() == name);
            let any = || table.fields().iter().find(|field| field.name().eq_ignore_ascii_case(name));
            exact.or_else(any).map(|field| field.as_ref().clone()).ok_or_else(|| {
                let known: Vec<&str> = table.fields().iter().map(|field| field.name().as_str()).collect();
                Error::invalid(format!("'{shown}' has a column '{name}', the table has none of that name"))
                    .hint(format!("the table's columns are {}", known.join(", ")))
            })
        };
        readable(names.iter().map(field).collect::<Result<Vec<Field>>>()?)
    } else {
        readable(table.fields().iter().map(|field| field.as_ref().clone()))
    };
    let reader = arrow::csv::ReaderBuilder::new(Arc::clone(&schema))
        .with_delimiter(request.delimiter)
        .with_batch_size(BATCH_ROWS)
        .build_buffered(bytes)
        .map_err(|e| Error::invalid(format!("cannot read '{shown}'")).source(e))?;
    let header = usize::from(request.header);
    Ok((schema, Box::new(reader.map(move |batch| batch.map_err(|e| in_file(e, header))))))
}

/// `error` with the line of the file: the reader counts values from 0 and fields from 1, both after the header.
fn in_file(error: ArrowError, header: usize) -> ArrowError {
    let text = error.to_string();
    for (before, first) in [(" at line ", 1), (" for line ", 0)] {
        let Some(at) = text.find(before).map(|at| at + before.len()) else { continue };
        let end = text[at..].find(|c: char| !c.is_ascii_digit()).map_or(text.len(), |n| at + n);
        if let Ok(line) = text[at..end].parse::<usize>() {
            let message = format!("{}{}{}", &text[..at], line + first + header, &text[end..]);
            let (_, message) = message.split_once(": ").unwrap_or(("", &message));
            return ArrowError::CsvError(message.to_owned());
        }
    }
    error
}

/// The names in a header line.
fn header(line: &[u8], delimiter: u8) -> std::result::Result<Vec<String>, ArrowError> {
    let line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
    let format = arrow::csv::reader::Format::default().with_header(true).with_delimiter(delimiter);
    let (schema, _) = format.infer_schema(line, Some(0))?;
    Ok(schema.fields().iter().map(|field| field.name().trim().to_owned()).collect())
}

/// Fields as the file readers take them: nullable, and text for what only the server can read.
fn readable(fields: impl IntoIterator<Item = Field>) -> SchemaRef {
    let readable = |field: Field| {
        let text = matches!(
            field.data_type(),
            DataType::Binary | DataType::LargeBinary | DataType::FixedSizeBinary(_) | DataType::Interval(_)
        );
        let ty = if text { DataType::Utf8 } else { field.data_type().clone() };
        Field::new(field.name(), ty, true)
    };
    Arc::new(Schema::new(fields.into_iter().map(readable).collect::<Vec<_>>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read() {
        let request = parse("Lake.Flights FROM 'a b.csv.gz' (HEADER false, DELIMITER ';')").unwrap();
        assert_eq!((request.schema.as_deref(), request.table.as_str()), (Some("lake"), "flights"));
        assert_eq!((request.format, request.gzip, request.header), (FileFormat::Csv, true, false));
        assert_eq!(request.delimiter, b';');
        let request = parse("t from 'x.dat' (format json)").unwrap();
        assert_eq!(request.format, FileFormat::Json);
        assert_eq!(parse("t from 'x.tsv'").unwrap().delimiter, b'\t');
        for bad in
            ["", "t", "t from x.csv", "from 'x'", "t from 'x' (format xml)", "t from 'x' y", "t from 'x' ("]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn csv_columns_match_the_table_by_name() {
        let dir = std::env::temp_dir().join(format!("skep-copy-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("t.csv");
        std::fs::write(&path, "\u{feff}B,\"a\"\nx,1\ny,\n").unwrap();
        let fields = vec![Field::new("a", DataType::Int64, false), Field::new("b", DataType::Utf8, true)];
        let table: SchemaRef = Arc::new(Schema::new(fields));
        let request = guess(None, "t".into(), path.clone());
        let (schema, batches) = open(&request, &table).unwrap();
        assert_eq!(schema.field(0).name(), "b");
        let rows: usize = batches.map(|batch| batch.unwrap().num_rows()).sum();
        assert_eq!(rows, 2);

        std::fs::write(&path, "a,zz\n1,2\n").unwrap();
        let error = open(&request, &table).err().unwrap();
        assert!(error.message().contains("a column 'zz'"), "{error}");
        std::fs::write(&path, "a,b\n1,x\noops,y\n").unwrap();
        let failed = open(&request, &table).unwrap().1.find_map(std::result::Result::err).unwrap();
        assert!(failed.to_string().contains("at line 3."), "{failed}");
        std::fs::write(&path, "a,b\n1,x\n2\n").unwrap();
        let failed = open(&request, &table).unwrap().1.find_map(std::result::Result::err).unwrap();
        assert!(failed.to_string().contains("for line 3,"), "{failed}");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
