//! Which column of a file is which column of the table, where files differ.
//!
//! ```text
//! table      files of before    since the column was added    other engines' files after a rename
//! price  <-  its default        price                         cost
//!               0                 1                             2        <- a number that goes with each file
//! ```
//!
//! A column that is the same in all files is read by its name. For any other the scan reads every name that it has in
//! some file, and a number that goes with the file as a partition value chooses among them.
//!
//! # Invariants
//! - One scan reads all files; nothing in it needs more than the codec of plans carries.
//! - A column never reads the values of another.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{BinaryExpr, CaseExpr, Column as PhysicalColumn, Literal};
use skep_catalog::{Column, DataFile, LakeType, TableDef, leaves, text};
use skep_common::{Error, Result};

use crate::error;
use crate::functions::shape;

/// The files' columns under the table's.
#[derive(Debug)]
pub(crate) struct Layout {
    /// What is read from files: the columns of the table under their names in files, and other names after them.
    pub(crate) file_schema: SchemaRef,
    /// By place in the table; only those that are not the same in all files.
    chosen: BTreeMap<usize, Chosen>,
}

#[derive(Debug)]
struct Chosen {
    /// Places in the file schema. A file whose number is the place in this list plus one has that name; 0: none.
    sources: Vec<usize>,
    /// The names at those places.
    names: Vec<String>,
    /// What files without the column have.
    default: ScalarValue,
    /// The name of the number.
    number: String,
}

impl Layout {
    /// How `files` of `def` are read. `read`: its columns under their physical names.
    ///
    /// # Errors
    /// [`Kind::Unsupported`](skep_common::Kind::Unsupported) if one name stands for columns of different types.
    pub(crate) fn new(def: &TableDef, files: &[Arc<DataFile>], read: &SchemaRef) -> Result<Self> {
        let mut fields: Vec<FieldRef> = read.fields().iter().cloned().collect();
        let mut chosen = BTreeMap::new();
        let known = |file: &DataFile| file.id >= 0 && file.names.get().is_none();
        let first = files.iter().map(|file| if known(file) { file.begin } else { i64::MIN }).min();
        for (at, column) in def.columns.iter().enumerate() {
            whole_maps(def, column, files)?;
            if first.is_none_or(|first| def.steady(column, first)) {
                continue;
            }
            if files.iter().any(|file| def.forgot_name(column, file)) {
                return Err(forgotten(def, column));
            }
            let (names, absent) = names(def, column, files);
            if absent || !names.is_empty() {
                fields[at] = Arc::new(fields[at].as_ref().clone().with_nullable(true));
            }
            let only = names.iter().all(|name| *name == column.physical);
            // A file without the column may have another under its name, of a column that is gone.
            if only && !absent {
                continue;
            }
            chosen.insert(at, (names, absent));
        }
        let mut layout = Self { file_schema: Arc::clone(read), chosen: BTreeMap::new() };
        for (at, (mut names, _)) in chosen {
            let column = &def.columns[at];
            if names.is_empty() {
                names.push(&column.physical);
            }
            let mut sources = Vec::new();
            for name in &names {
                let known = fields.iter().position(|field| field.name() == name);
                sources.push(match known {
                    Some(known) if fields[known].data_type() == fields[at].data_type() => known,
                    Some(_) => return Err(ambiguous(def, name)),
                    None => {
                        fields
                            .push(Arc::new(fields[at].as_ref().clone().with_name(*name).with_nullable(true)));
                        fields.len() - 1
                    }
                });
            }
            let default = default(column, fields[at].data_type())?;
            let names = names.into_iter().map(ToOwned::to_owned).collect();
            let number = format!("_skep_{}", column.id);
            layout.chosen.insert(at, Chosen { sources, names, default, number });
        }
        // Another column may have the name in some file: then it is not there for all.
        for source in layout.chosen.values().flat_map(|chosen| &chosen.sources) {
            fields[*source] = Arc::new(fields[*source].as_ref().clone().with_nullable(true));
        }
        layout.file_schema = Arc::new(Schema::new(fields));
        Ok(layout)
    }

    /// Whether rows of some file have no value of their own for the column at `at`, or another name for it.
    pub(crate) fn varies(&self, at: usize) -> bool {
        self.file_schema.field(at).is_nullable()
    }

    /// Whether the column at `at` is read as it is.
    pub(crate) fn plain(&self, at: usize) -> bool {
        !self.chosen.contains_key(&at)
    }

    /// The numbers that go with files, for a scan of the columns at `used`.
    pub(crate) fn numbers(&self, used: &[usize]) -> Vec<FieldRef> {
        let chosen = used.iter().filter_map(|at| self.chosen.get(at));
        chosen.map(|chosen| Arc::new(Field::new(&chosen.number, DataType::Int32, false))).collect()
    }

    /// The values of [`Layout::numbers`] for `file`.
    pub(crate) fn values(&self, def: &TableDef, file: &DataFile, used: &[usize]) -> Vec<ScalarValue> {
        let number = |at: &usize| {
            let chosen = self.chosen.get(at)?;
            let name = def.name_in(&def.columns[*at], file);
            let place = name.and_then(|name| chosen.names.iter().position(|other| other == name));
            let number = place.map_or(0, |place| i32::try_from(place + 1).unwrap_or(i32::MAX));
            Some(ScalarValue::Int32(Some(number)))
        };
        used.iter().filter_map(number).collect()
    }

    /// The places in the file schema that a scan reads for the columns at `used`.
    pub(crate) fn places(&self, used: &[usize]) -> Vec<usize> {
        let mut places: Vec<usize> = Vec::new();
        for at in used {
            let sources = self.chosen.get(at).map_or(std::slice::from_ref(at), |chosen| &chosen.sources);
            for source in sources {
                if !places.contains(source) {
                    places.push(*source);
                }
            }
        }
        places
    }

    /// The column at `at` under the names of SQL, from the rows of a scan with schema `scanned`.
    pub(crate) fn expr(
        &self,
        at: usize,
        scanned: &Schema,
        field: &FieldRef,
    ) -> Result<Arc<dyn PhysicalExpr>> {
        let column = |name: &str| -> Result<Arc<dyn PhysicalExpr>> {
            let place = scanned.index_of(name).map_err(|e| error::from_datafusion(e.into()))?;
            Ok(Arc::new(PhysicalColumn::new(name, place)))
        };
        let own = self.file_schema.field(at);
        let value = match self.chosen.get(&at) {
            None => column(own.name())?,
            Some(chosen) => {
                let number = column(&chosen.number)?;
                let mut cases = Vec::new();
                for (place, name) in chosen.names.iter().enumerate() {
                    let wanted = ScalarValue::Int32(i32::try_from(place + 1).ok());
                    let is =
                        BinaryExpr::new(Arc::clone(&number), Operator::Eq, Arc::new(Literal::new(wanted)));
                    cases.push((Arc::new(is) as Arc<dyn PhysicalExpr>, column(name)?));
                }
                let default: Arc<dyn PhysicalExpr> = Arc::new(Literal::new(chosen.default.clone()));
                Arc::new(CaseExpr::try_new(None, cases, Some(default)).map_err(error::from_datafusion)?)
            }
        };
        if own.data_type() == field.data_type() {
            return Ok(value);
        }
        shape(value, field).map_err(error::from_datafusion)
    }
}

fn ambiguous(def: &TableDef, name: &str) -> Error {
    Error::unsupported(format!(
        "table '{}.{}' has files of another engine in which '{name}' is a column of another type",
        def.schema_name, def.name
    ))
    .hint("have that engine rewrite the table, for example with CREATE OR REPLACE TABLE ... AS SELECT")
}

/// Refuses files in which a map lacks a field that it has by now: where others are filled up by name, what is inside of
/// maps goes by position.
fn whole_maps(def: &TableDef, column: &Column, files: &[Arc<DataFile>]) -> Result<()> {
    let inside = inside_maps(column);
    if inside.is_empty() {
        return Ok(());
    }
    for file in files.iter().filter(|file| def.name_in(column, file).is_some()) {
        if let Some(lacking) = inside.iter().find(|leaf| !file.stats.contains_key(&leaf.id)) {
            return Err(Error::unsupported(format!(
                "field '{}' was added inside a map of column '{}' of table '{}.{}', and files from before lack it",
                lacking.name, column.name, def.schema_name, def.name
            ))
            .hint("have the engine that added it rewrite the table, for example with CREATE OR REPLACE TABLE ... AS SELECT"));
        }
    }
    Ok(())
}

/// The leaves of `column` that are in a map.
fn inside_maps(column: &Column) -> Vec<&Column> {
    if column.ty == LakeType::Map {
        return leaves(std::slice::from_ref(column));
    }
    column.children.iter().flat_map(inside_maps).collect()
}

fn forgotten(def: &TableDef, column: &Column) -> Error {
    Error::unsupported(format!(
        "table '{}.{}' has files of another engine from before its snapshots were expired: what they call column '{}' is \
         not known",
        def.schema_name, def.name, column.name
    ))
    .hint("have that engine rewrite the table, for example with CREATE OR REPLACE TABLE ... AS SELECT")
}

/// The names that `column` has in `files` if it does not have its own in all, and whether some lack it.
fn names<'a>(def: &'a TableDef, column: &'a Column, files: &'a [Arc<DataFile>]) -> (Vec<&'a str>, bool) {
    let (mut names, mut absent): (Vec<&str>, bool) = (Vec::new(), false);
    for file in files {
        match def.name_in(column, file) {
            None => absent = true,
            Some(name) if names.contains(&name) => {}
            Some(name) => names.push(name),
        }
    }
    let same = names.iter().all(|name| *name == column.physical);
    (if same && !absent { Vec::new() } else { names }, absent)
}

/// What files without `column` have, in the type that is read.
fn default(column: &Column, ty: &DataType) -> Result<ScalarValue> {
    let Some(value) = &column.initial_default else {
        return ScalarValue::try_from(ty).map_err(error::from_datafusion);
    };
    let broken = || Error::corrupt(format!("the default of column '{}' cannot be read", column.name));
    let bound = text::decode(&column.ty, value).ok_or_else(broken)?;
    let array = text::array(&column.ty, [Some(bound)]).ok_or_else(broken)?;
    let array = cast(&array, ty).map_err(|_| broken())?;
    ScalarValue::try_from_array(&array, 0).map_err(error::from_datafusion)
}
