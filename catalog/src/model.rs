//! What a snapshot holds: schemas, tables, views, files. Plain data, cheap to share.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, OnceLock};

use arrow::datatypes::SchemaRef;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use skep_common::{Error, Result};
use uuid::Uuid;

use crate::column::{self, Column};
use crate::layout::{Check, Partitioning, Past, SortKey};
use crate::overlay::Overlay;
use crate::sketch::ColumnSketch;
use crate::text::{self, Bound};
use crate::types::LakeType;

/// The state of the whole catalog after one commit, or what a transaction made of it so far. Two readers of one
/// snapshot see the same for ever.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Grows by one with every commit. That of the base for what a transaction made.
    pub id: i64,
    /// Grows with every commit that changes a name or a column.
    pub schema_version: i64,
    /// When the commit was made.
    pub time: DateTime<Utc>,
    pub(crate) schemas: BTreeMap<String, SchemaDef>,
    pub(crate) tables: BTreeMap<(String, String), Arc<TableDef>>,
    pub(crate) views: BTreeMap<(String, String), ViewDef>,
    pub(crate) by_id: HashMap<i64, Arc<TableDef>>,
    /// Set for what a transaction reads: changes of its own on a snapshot.
    pub(crate) overlay: Option<Arc<Overlay>>,
}

impl Snapshot {
    /// All schemas, by name.
    pub fn schemas(&self) -> impl Iterator<Item = &SchemaDef> {
        self.schemas.values()
    }

    /// The schema of that exact name.
    pub fn schema(&self, name: &str) -> Option<&SchemaDef> {
        self.schemas.get(name)
    }

    /// The tables of a schema by name, external ones among them.
    pub fn tables(&self, schema: &str) -> impl Iterator<Item = &Arc<TableDef>> {
        of_schema(&self.tables, schema)
    }

    /// Whether it is what a transaction reads that changed something.
    pub fn has_changes(&self) -> bool {
        self.overlay.is_some()
    }

    /// The tables whose files are not under the data path.
    pub fn located(&self) -> impl Iterator<Item = &Arc<TableDef>> {
        self.by_id.values().filter(|table| table.located)
    }

    /// The table of that exact name, external or not.
    pub fn table(&self, schema: &str, name: &str) -> Option<&Arc<TableDef>> {
        self.tables.get(&(schema.to_owned(), name.to_owned()))
    }

    /// The table of that id, external or not.
    pub fn table_by_id(&self, id: i64) -> Option<&Arc<TableDef>> {
        self.by_id.get(&id)
    }

    /// The views of a schema by name.
    pub fn views(&self, schema: &str) -> impl Iterator<Item = &ViewDef> {
        of_schema(&self.views, schema)
    }

    /// The view of that exact name.
    pub fn view(&self, schema: &str, name: &str) -> Option<&ViewDef> {
        self.views.get(&(schema.to_owned(), name.to_owned()))
    }

    /// Where the files of a table that does not exist yet will lie, relative to the data path, ending in `/`.
    ///
    /// The answer depends on the two names alone, so that a writer can start before the table is committed;
    /// file names must be unique by themselves. The schema may be one that the same transaction creates.
    pub fn path_of_new_table(&self, schema: &str, name: &str) -> String {
        let parent = self.schemas.get(schema).map_or_else(|| directory(schema), |s| s.path.clone());
        parent + &directory(name)
    }
}

fn of_schema<'a, V>(
    map: &'a BTreeMap<(String, String), V>,
    schema: &str,
) -> impl Iterator<Item = &'a V> + use<'a, V> {
    let schema = schema.to_owned();
    map.range((schema.clone(), String::new())..).take_while(move |((s, _), _)| *s == schema).map(|(_, v)| v)
}

/// The folder of a schema or table: its name, with every byte that some store or file system minds as `_xx`.
pub(crate) fn directory(name: &str) -> String {
    let mut path = String::with_capacity(name.len() + 1);
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-' {
            path.push(char::from(byte));
        } else {
            path.push_str(&format!("_{byte:02x}"));
        }
    }
    path.push('/');
    path
}

/// A schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaDef {
    /// For ever its own.
    pub id: i64,
    /// The name.
    pub name: String,
    /// Relative to the data path, ending in `/`.
    pub path: String,
    /// Whether `path` stands by itself instead. Only other engines make such schemas.
    pub absolute: bool,
}

/// A table, either DuckLake's or external.
#[derive(Debug, Clone, PartialEq)]
pub struct TableDef {
    /// For ever its own.
    pub id: i64,
    /// For ever its own, over all catalogs.
    pub uuid: Uuid,
    /// The id of its schema.
    pub schema: i64,
    /// The name of its schema.
    pub schema_name: String,
    /// The name.
    pub name: String,
    /// Where its files lie, relative to the data path, ending in `/`. Empty for external tables.
    pub path: String,
    /// Whether `path` stands by itself instead: the table has a location of its own, or another engine gave one to its schema.
    pub absolute: bool,
    /// Whether that location is the table's own.
    pub located: bool,
    /// In order.
    pub columns: Vec<Column>,
    /// The least id that no column of the table ever had.
    pub next_column_id: i64,
    /// What people say about it.
    pub comment: Option<String>,
    /// Rows in its files, rows that another engine deleted among them.
    pub record_count: u64,
    /// Bytes of its files.
    pub bytes: u64,
    /// Set for a table over files that somebody else keeps.
    pub external: Option<External>,
    /// How rows are divided over files.
    pub partitioning: Partitioning,
    /// The order of rows inside a file, of files that are written from here on.
    pub sorting: Vec<SortKey>,
    /// What no row may violate, by name.
    pub checks: Vec<Check>,
    /// What people and programs noted about it.
    pub properties: BTreeMap<String, String>,
    /// Spans of snapshots, first and end, in which a field inside a column had another name than in our files: what
    /// other engines added then has names that we would not find.
    pub(crate) misnamed: Vec<(i64, Option<i64>)>,
    /// The names that its columns and the fields inside them had in SQL, those of today among them: files of other
    /// engines have them.
    pub(crate) past: Vec<Past>,
    /// Every name that a column or field of it ever had in files.
    pub(crate) taken: BTreeSet<String>,
}

impl TableDef {
    /// A table without columns.
    pub(crate) fn empty(id: i64, schema: &SchemaDef, name: &str) -> Self {
        Self {
            id,
            uuid: Uuid::now_v7(),
            schema: schema.id,
            schema_name: schema.name.clone(),
            name: name.to_owned(),
            path: String::new(),
            absolute: false,
            located: false,
            columns: Vec::new(),
            next_column_id: 1,
            comment: None,
            record_count: 0,
            bytes: 0,
            external: None,
            partitioning: Partitioning::default(),
            sorting: Vec::new(),
            checks: Vec::new(),
            properties: BTreeMap::new(),
            misnamed: Vec::new(),
            past: Vec::new(),
            taken: BTreeSet::new(),
        }
    }

    /// What a table was before it was made.
    pub(crate) fn nothing() -> Self {
        let schema = SchemaDef { id: 0, name: String::new(), path: String::new(), absolute: false };
        Self::empty(0, &schema, "")
    }

    /// What queries see: logical names.
    pub fn arrow_schema(&self) -> SchemaRef {
        Arc::new(column::logical_schema(&self.columns))
    }

    /// What is written: physical names, and the field id of every field at every depth as `PARQUET:field_id`.
    pub fn physical_schema(&self) -> SchemaRef {
        Arc::new(column::physical_schema(&self.columns))
    }

    /// What is read: the physical schema without metadata, whose types equal those of [`Self::arrow_schema`] wherever
    /// nested fields keep their first names.
    pub fn read_schema(&self) -> SchemaRef {
        Arc::new(column::read_schema(&self.columns))
    }

    /// The column of that id, at any depth.
    pub fn column(&self, id: i64) -> Option<&Column> {
        column::all(&self.columns).into_iter().find(|column| column.id == id)
    }

    /// A name in files for a column that is added as `name` with `id`: one that no file has for another column.
    pub fn fresh_physical(&self, name: &str, id: i64) -> String {
        let used = |name: &str| {
            self.taken.contains(name)
                || column::all(&self.columns).iter().any(|column| column.physical == name)
        };
        if used(name) { format!("{name}__{id}") } else { name.to_owned() }
    }

    /// Whether `column` has its physical name in every file that began at snapshot `first` or later and was committed.
    pub fn steady(&self, column: &Column, first: i64) -> bool {
        let mut spans = self.past.iter().filter(|past| past.column == column.id);
        match (spans.next(), spans.next()) {
            (Some(only), None) => only.begin < first && only.name == column.physical,
            _ => false,
        }
    }

    /// Whether the name of `column` in `file` is forgotten: another engine wrote the file, and the snapshots of then were
    /// expired with the name that the column had.
    pub fn forgot_name(&self, column: &Column, file: &DataFile) -> bool {
        let mut spans = self.past.iter().filter(|past| past.column == column.id);
        let covers = |past: &Past| past.begin <= file.begin && past.end.is_none_or(|end| file.begin < end);
        file.names.get().is_none()
            && file.id >= 0
            && !file.is_ours()
            && self.name_in(column, file).is_some()
            && !spans.any(covers)
    }

    /// Whether the names of columns in `file` are not known before the file itself is asked, see [`DataFile::names`].
    ///
    /// An engine that rewrites files keeps the names that the files before it had, whatever the columns are called by then.
    pub fn asks_file(&self, file: &DataFile) -> bool {
        if file.id < 0 || file.is_ours() || file.row_id_start.is_some() || file.names.get().is_some() {
            return false;
        }
        let first = self.past.iter().map(|past| past.begin).min();
        self.columns.iter().any(|column| {
            let mut spans = self.past.iter().filter(|past| past.column == column.id);
            match (spans.next(), spans.next()) {
                (Some(only), None) => Some(only.begin) != first || only.name != column.physical,
                _ => true,
            }
        })
    }

    /// The name under which `file` has `column`, which is not inside another; `None` if the column came later.
    pub fn name_in<'a>(&'a self, column: &'a Column, file: &'a DataFile) -> Option<&'a str> {
        if let Some(names) = file.names.get() {
            return names.get(&column.id).map(String::as_str);
        }
        let spans = || self.past.iter().filter(|past| past.column == column.id);
        // Every file has statistics of its columns. The snapshot that adds a column may have files without it.
        let since = spans().map(|past| past.begin).min();
        let known =
            column::leaves(std::slice::from_ref(column)).iter().any(|l| file.stats.contains_key(&l.id));
        if !known && (file.id < 0 || since.is_none_or(|since| file.begin <= since)) {
            return None;
        }
        if file.id < 0 || file.is_ours() {
            return Some(&column.physical);
        }
        let then =
            spans().find(|past| past.begin <= file.begin && past.end.is_none_or(|end| file.begin < end));
        Some(then.map_or(column.physical.as_str(), |past| past.name.as_str()))
    }

    /// Whether `file` was written before `leaf`, which has no columns inside it, was added inside another column.
    pub fn lacks(&self, leaf: &Column, file: &DataFile) -> bool {
        // As in `name_in`; a file that another engine added without statistics still has the columns of its day.
        let since = || self.past.iter().filter(|past| past.column == leaf.id).map(|past| past.begin).min();
        !file.stats.contains_key(&leaf.id) && (file.id < 0 || since().is_none_or(|since| file.begin <= since))
    }

    /// Whether this program can read and write all columns.
    ///
    /// # Errors
    /// [`Kind::Unsupported`](skep_common::Kind::Unsupported) naming the first column it cannot.
    pub fn supported(&self) -> Result<()> {
        match column::leaves(&self.columns).into_iter().find(|leaf| leaf.ty.leaf_arrow().is_none()) {
            None => Ok(()),
            Some(leaf) => Err(Error::unsupported(format!(
                "column '{}' of table '{}.{}' has the type '{}', which skep does not read",
                leaf.name, self.schema_name, self.name, leaf.ty
            ))
            .hint("change the type of the column with the engine that made it")),
        }
    }
}

/// Where the rows of an external table come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct External {
    /// URL of a file or folder.
    pub location: String,
    /// `parquet`, `csv` or `json`.
    pub format: String,
    /// As the statement gave them, keys in lower case.
    pub options: BTreeMap<String, String>,
    /// Columns whose values are in the folder names, in order. They stand among the columns of the table too.
    pub partition_columns: Vec<String>,
}

/// A view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ViewDef {
    /// For ever its own.
    pub id: i64,
    /// For ever its own, over all catalogs.
    pub uuid: Uuid,
    /// The id of its schema.
    pub schema: i64,
    /// The name of its schema.
    pub schema_name: String,
    /// The name.
    pub name: String,
    /// Who can run `sql`: [`DIALECT`], or another engine's name.
    pub dialect: String,
    /// The query.
    pub sql: String,
    /// Names for the first columns of the query, where they are not the query's own.
    pub column_aliases: Vec<String>,
    /// What people say about it.
    pub comment: Option<String>,
}

/// How the names of files begin that this program writes. Their columns have physical names; those of other engines'
/// files have the names of the day.
pub const FILE_PREFIX: &str = "skep-";

/// The dialect of views that this program makes.
pub const DIALECT: &str = "skep";

/// A file that a writer finished and no snapshot names yet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NewFile {
    /// Relative to the path of the table.
    pub path: String,
    /// Rows in it, at least one.
    pub rows: u64,
    /// Its size.
    pub bytes: u64,
    /// Length of the Parquet footer without the 8 bytes after it, see [`footer_size`](crate::footer_size).
    pub footer: u64,
    /// One value for each partition key, in its text form.
    pub partition: Vec<Option<String>>,
    /// One for every leaf column of the table.
    pub stats: Vec<ColumnStats>,
    /// Whether its rows come from other files of the table and carry their row ids, in
    /// [`ROW_ID_COLUMN`](crate::ROW_ID_COLUMN).
    #[serde(default)]
    pub moved: bool,
    /// What its writer saw in this file and in those that it wrote before, for columns that are not nested.
    #[serde(default)]
    pub sketches: Vec<ColumnSketch>,
}

/// What is known about one leaf column in one file. Texts are those of [`crate::text`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ColumnStats {
    /// The id of the column.
    pub column: i64,
    /// Compressed bytes.
    pub bytes: u64,
    /// Values that are not NULL.
    pub values: u64,
    /// NULLs, those of absent parents among them.
    pub nulls: u64,
    /// No value is less. Absent if there are no values, or it is not known.
    pub min: Option<String>,
    /// No value is greater. Absent if there are no values, or it is not known.
    pub max: Option<String>,
    /// For floats: whether some value is not a number; absent if it is not known. Such values are outside the bounds.
    pub nan: Option<bool>,
}

impl ColumnStats {
    /// The bounds, typed, of a column of type `ty`: no value is less than the first or greater than the second.
    ///
    /// Floats among which may be NaN have none: it sorts after or before all numbers, by its sign.
    pub fn bounds(&self, ty: &LakeType) -> (Option<Bound>, Option<Bound>) {
        if ty.is_float() && self.nan != Some(false) {
            return (None, None);
        }
        let read = |text: &Option<String>| text.as_deref().and_then(|text| text::decode(ty, text));
        let (min, max) = (read(&self.min), read(&self.max));
        if *ty != LakeType::Float64 {
            return (min, max);
        }
        // The column may have been a float32 once: then the shortest digits of a float32 stand for a value beside them.
        let narrow = |text: &Option<String>| {
            let value = text.as_deref()?.parse::<f32>().ok().filter(|value| value.is_finite())?;
            Some(f64::from(value))
        };
        let wide = |bound: Option<Bound>, text: &Option<String>, pick: fn(f64, f64) -> f64| match bound {
            Some(Bound::Float(value)) => Some(Bound::Float(narrow(text).map_or(value, |n| pick(value, n)))),
            other => other,
        };
        (wide(min, &self.min, f64::min), wide(max, &self.max, f64::max))
    }

    /// Those of a file of `rows` rows that was written before `column` was added.
    pub fn absent(column: &Column, rows: u64) -> Self {
        let given = column.initial_default.clone();
        let (values, nulls) = if given.is_some() { (rows, 0) } else { (0, rows) };
        Self { column: column.id, bytes: 0, values, nulls, min: given.clone(), max: given, nan: Some(false) }
    }
}

/// A file that a snapshot names.
#[derive(Debug, Clone, PartialEq)]
pub struct DataFile {
    /// For ever its own.
    pub id: i64,
    /// Relative to the data path.
    pub path: String,
    /// Whether `path` stands by itself instead. Only other engines make such files.
    pub absolute: bool,
    /// Rows in it.
    pub rows: u64,
    /// Its size.
    pub bytes: u64,
    /// Length of the Parquet footer without the 8 bytes after it.
    pub footer: Option<u64>,
    /// The row id of its first row, unless rows carry their own. Absent for a file that only a transaction sees.
    pub row_id_start: Option<i64>,
    /// Whether rows are known to carry their row ids. Of files that are committed it is not known.
    pub moved: bool,
    /// The snapshot that added it.
    pub begin: i64,
    /// One value for each partition key, in its text form.
    pub partition: Vec<Option<String>>,
    /// The partitioning of the table that `partition` is of. Absent for files of no partition, and before the commit.
    pub partition_id: Option<i64>,
    /// By column id. A column that is absent from the map is not known at all, or came later. Rows that are not there any
    /// more, or not yet, count among the others.
    pub stats: HashMap<i64, ColumnStats>,
    /// Rows of it that are not there any more. Only other engines delete rows so.
    pub deletes: Option<DeleteFile>,
    /// The snapshot that added its last rows, if several snapshots added them: another engine put their files together.
    pub last: Option<i64>,
    /// Rows that were added after this snapshot are not there yet.
    pub until: Option<i64>,
    /// The names of columns in it by id, once somebody looked, see [`TableDef::asks_file`].
    pub names: Arc<OnceLock<HashMap<i64, String>>>,
}

/// The positions of the rows of one data file that were deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeleteFile {
    /// Relative to the data path.
    pub path: String,
    /// Whether `path` stands by itself instead.
    pub absolute: bool,
    /// Its size.
    pub bytes: u64,
    /// Positions in it.
    pub rows: u64,
    /// Rows that were deleted after this snapshot are still there.
    pub until: Option<i64>,
}

impl DataFile {
    /// Whether not all of its rows are there.
    pub fn hides(&self) -> bool {
        self.deletes.is_some() || self.until.is_some()
    }

    /// How many of its rows are there. `None` if that is not known before they are read.
    pub fn live(&self) -> Option<u64> {
        match &self.deletes {
            _ if self.until.is_some() => None,
            None => Some(self.rows),
            Some(deletes) if deletes.until.is_none() => self.rows.checked_sub(deletes.rows),
            Some(_) => None,
        }
    }

    /// Whether this program wrote it: columns have their physical names.
    pub fn is_ours(&self) -> bool {
        self.path.rsplit('/').next().unwrap_or_default().starts_with(FILE_PREFIX)
    }
}
