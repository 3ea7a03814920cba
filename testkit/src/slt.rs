//! SQL test files, run against a server.
//!
//! The format is that of sqllogictest. `${TESTDATA}` and `${SCRATCH}` are folders, in files that say
//! `control substitution on`. Values read as [`crate::rows::text`] writes them; an empty text is `(empty)`.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::DataType;
use sqllogictest::runner::update_record_with_output;
use sqllogictest::{
    AsyncDB, ColumnType, DBOutput, MakeConnection, Record, Runner, default_normalizer, default_validator,
    parse_file, strict_column_validator,
};
use tokio::sync::Mutex;

use crate::client::{Answer, Client};
use crate::rows;

/// Text, integer, or a number with a point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Column {
    /// `T`
    Text,
    /// `I`
    Integer,
    /// `R`
    Real,
}

impl ColumnType for Column {
    fn from_char(value: char) -> Option<Self> {
        match value {
            'T' => Some(Self::Text),
            'I' => Some(Self::Integer),
            'R' => Some(Self::Real),
            _ => None,
        }
    }

    fn to_char(&self) -> char {
        match self {
            Self::Text => 'T',
            Self::Integer => 'I',
            Self::Real => 'R',
        }
    }
}

impl From<&DataType> for Column {
    fn from(ty: &DataType) -> Self {
        match ty {
            ty if ty.is_integer() => Self::Integer,
            ty if ty.is_floating() => Self::Real,
            DataType::Decimal32(..)
            | DataType::Decimal64(..)
            | DataType::Decimal128(..)
            | DataType::Decimal256(..) => Self::Real,
            _ => Self::Text,
        }
    }
}

/// An error as sqllogictest wants it: everything that a pattern may ask for, on one line.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Failure(String);

impl From<skep_common::Error> for Failure {
    fn from(error: skep_common::Error) -> Self {
        Self(format!("{error:?}").replace('\n', " "))
    }
}

/// A session shared by the runner and whoever cleans up after it.
#[derive(Debug, Clone)]
pub struct Database(Arc<Mutex<Client>>);

#[async_trait::async_trait]
impl AsyncDB for Database {
    type Error = Failure;
    type ColumnType = Column;

    async fn run(&mut self, sql: &str) -> Result<DBOutput<Column>, Failure> {
        match self.0.lock().await.run(sql).await? {
            Answer::Done(count) => Ok(DBOutput::StatementComplete(count)),
            Answer::Rows(schema, batches) => {
                let types = schema.fields().iter().map(|field| Column::from(field.data_type())).collect();
                let mut rows = rows::text(&batches)?;
                for value in rows.iter_mut().flatten().filter(|value| value.is_empty()) {
                    "(empty)".clone_into(value);
                }
                Ok(DBOutput::Rows { types, rows })
            }
        }
    }

    async fn shutdown(&mut self) {}

    fn engine_name(&self) -> &str {
        "skep"
    }
}

/// Every test file, sorted. `SKEP_SLT` keeps those whose path contains it.
///
/// # Errors
/// Those of reading the folder.
pub fn files() -> std::io::Result<Vec<PathBuf>> {
    let mut folders = vec![crate::testdata().join("slt")];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "slt") {
                files.push(path);
            }
        }
    }
    let wanted = std::env::var("SKEP_SLT").unwrap_or_default();
    files.retain(|path| path.to_string_lossy().contains(&wanted));
    files.sort();
    Ok(files)
}

/// Runs one file in a session of its own in `lane`, and returns every failure in it.
///
/// `skipif` and `onlyif` know the lane's name. What the file created is dropped afterwards.
///
/// # Errors
/// If no session can be opened, or the file cannot be parsed.
pub async fn run_file(
    url: &str,
    path: &Path,
    lane: &str,
    scratch: &Path,
) -> skep_common::Result<Vec<String>> {
    let records = records(path)?;
    let mut runner = runner(url, lane, scratch);
    let mut failures = Vec::new();
    for record in records {
        if let Err(e) = runner.run_async(record).await {
            failures.push(e.display(false).to_string());
        }
    }
    drop(runner);
    clean(&mut connect(url, lane).await?).await?;
    Ok(failures)
}

/// Runs one file as [`run_file`] does, on one node, and rewrites what it expects where the answer is another. Returns whether
/// the file changed.
///
/// # Errors
/// As [`run_file`], and those of writing the file.
pub async fn bless_file(url: &str, path: &Path, scratch: &Path) -> skep_common::Result<bool> {
    let lane = "local";
    let mut runner = runner(url, lane, scratch);
    let mut text = String::new();
    for record in records(path)? {
        let output = runner.apply_record(record.clone()).await;
        let updated = update_record_with_output(
            &record,
            &output,
            "  ",
            default_validator,
            default_normalizer,
            strict_column_validator,
        );
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}", updated.unwrap_or(record));
    }
    drop(runner);
    clean(&mut connect(url, lane).await?).await?;
    let text = format!("{}\n", text.trim_end());
    let failed = |e: std::io::Error| {
        skep_common::Error::invalid(format!("cannot rewrite '{}'", path.display())).source(e)
    };
    let changed = std::fs::read_to_string(path).map_err(failed)? != text;
    if changed {
        std::fs::write(path, text).map_err(failed)?;
    }
    Ok(changed)
}

fn records(path: &Path) -> skep_common::Result<Vec<Record<Column>>> {
    parse_file(path).map_err(|e| {
        skep_common::Error::invalid(format!("cannot parse '{}'", path.display())).source(e.to_string())
    })
}

/// Runs records in sessions of `lane`: one, and one more for each `connection NAME`.
fn runner(
    url: &str,
    lane: &str,
    scratch: &Path,
) -> Runner<Database, impl MakeConnection<Conn = Database> + use<>> {
    let (address, name) = (url.to_owned(), lane.to_owned());
    let mut runner = Runner::new(move || {
        let (address, name) = (address.clone(), name.clone());
        async move { Ok(Database(Arc::new(Mutex::new(connect(&address, &name).await?)))) }
    });
    runner.set_var("TESTDATA".to_owned(), crate::testdata().display().to_string());
    runner.set_var("SCRATCH".to_owned(), scratch.display().to_string());
    runner.add_label(lane);
    runner.with_column_validator(strict_column_validator);
    runner
}

async fn connect(url: &str, lane: &str) -> skep_common::Result<Client> {
    let mut client = Client::connect(url).await?;
    client.run(&format!("SET skep.execution = '{lane}'")).await?;
    Ok(client)
}

/// Drops everything but the schemas that a new catalog has.
async fn clean(client: &mut Client) -> skep_common::Result<()> {
    let own = "NOT IN ('information_schema', 'system')";
    let tables = client
        .rows(&format!(
            "SELECT table_schema, table_name, table_type FROM information_schema.tables WHERE table_schema {own}"
        ))
        .await?;
    for table in &tables {
        let [schema, name, kind] = table.as_slice() else { continue };
        let kind = if kind == "VIEW" { "VIEW" } else { "TABLE" };
        client.run(&format!("DROP {kind} \"{schema}\".\"{name}\"")).await?;
    }
    let kept = "('main', 'lake', 'warehouse', 'mart', 'information_schema', 'system')";
    let schemas = client
        .rows(&format!("SELECT schema_name FROM information_schema.schemata WHERE schema_name NOT IN {kept}"))
        .await?;
    for schema in schemas.iter().flatten() {
        client.run(&format!("DROP SCHEMA \"{schema}\"")).await?;
    }
    Ok(())
}
