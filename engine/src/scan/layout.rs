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
//! Fields inside a column have one name in all files. Those that a file lacks are NULL, or have their defaults, which are
//! then part of what the number chooses.
//!
//! # Invariants
//! - One scan reads all files; nothing in it needs more than the codecs of plans carry.
//! - A column never reads the values of another.

use std::collections::{BTreeMap, BTreeSet, HashSet};
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
use crate::functions::{Defaults, fill, shape};

/// The files' columns under the table's.
#[derive(Debug)]
pub(crate) struct Layout {
    /// What is read from files: the columns of the table under their names in files, and other names after them.
    pub(crate) file_schema: SchemaRef,
    /// By place in the table; only those that are not the same in all files.
    chosen: BTreeMap<usize, Chosen>,
    /// Places in the table of columns with maps that in some file have other fields inside.
    by_name: BTreeSet<usize>,
}

#[derive(Debug)]
struct Chosen {
    /// What files have for the column: one has that at the place in this list which is its number less one; 0: nothing.
    variants: Vec<Variant>,
    /// Fields inside the column that have defaults.
    given: Vec<Column>,
    /// What files without the column have.
    default: ScalarValue,
    /// The name of the number.
    number: String,
}

/// What some files have for a column.
#[derive(Debug)]
struct Variant {
    /// Its name in them.
    name: String,
    /// The place of that name in the file schema.
    source: usize,
    /// The ids of the fields inside it that they lack and that have a default.
    lacking: Vec<i64>,
    /// The defaults of those.
    defaults: Option<Defaults>,
}

/// The name of a column in some files, and those of the fields inside it with a default that they lack.
type Kind<'a> = (&'a str, Vec<i64>);

/// A field inside a column, and the places of children that lead to it.
type Inside<'a> = (Vec<usize>, &'a Column);

impl Layout {
    /// How `files` of `def` are read. `read`: its columns under their physical names.
    ///
    /// # Errors
    /// [`Kind::Unsupported`](skep_common::Kind::Unsupported) if one name stands for columns of different types.
    pub(crate) fn new(def: &TableDef, files: &[Arc<DataFile>], read: &SchemaRef) -> Result<Self> {
        let mut fields: Vec<FieldRef> = read.fields().iter().cloned().collect();
        let mut layout =
            Self { file_schema: Arc::clone(read), chosen: BTreeMap::new(), by_name: BTreeSet::new() };
        let mut found = Vec::new();
        let known = |file: &DataFile| file.id >= 0 && file.names.get().is_none();
        let first = files.iter().map(|file| if known(file) { file.begin } else { i64::MIN }).min();
        for (at, column) in def.columns.iter().enumerate() {
            if differs_in_maps(def, column, files) {
                layout.by_name.insert(at);
            }
            let mut inside = Vec::new();
            with_default(column, &mut Vec::new(), &mut inside);
            if inside.is_empty() && first.is_none_or(|first| def.steady(column, first)) {
                continue;
            }
            if files.iter().any(|file| def.forgot_name(column, file)) {
                return Err(forgotten(def, column));
            }
            let (kinds, absent) = kinds(def, column, &inside, files);
            let only = kinds.iter().all(|(name, _)| *name == column.physical);
            if absent || !only {
                fields[at] = Arc::new(fields[at].as_ref().clone().with_nullable(true));
            }
            // A file without the column may have another under its name, of a column that is gone.
            if !only || absent || kinds.iter().any(|(_, lacking)| !lacking.is_empty()) {
                found.push((at, inside, kinds, !only || absent));
            }
        }
        for (at, inside, kinds, apart) in found {
            layout.chosen.insert(at, chosen(def, at, inside, kinds, apart, &mut fields)?);
        }
        layout.file_schema = Arc::new(Schema::new(fields));
        Ok(layout)
    }

    /// Whether files are to be read by the names of what is inside of maps, for a scan of the columns at `used`.
    pub(crate) fn by_name(&self, used: &[usize]) -> bool {
        used.iter().any(|at| self.by_name.contains(at))
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
            let lacking = lacking(def, &chosen.given, file);
            let place = name.and_then(|name| {
                chosen.variants.iter().position(|other| other.name == name && other.lacking == lacking)
            });
            let number = place.map_or(0, |place| i32::try_from(place + 1).unwrap_or(i32::MAX));
            Some(ScalarValue::Int32(Some(number)))
        };
        used.iter().filter_map(number).collect()
    }

    /// The places in the file schema that a scan reads for the columns at `used`.
    pub(crate) fn places(&self, used: &[usize]) -> Vec<usize> {
        let mut places: Vec<usize> = Vec::new();
        for at in used {
            let sources = match self.chosen.get(at) {
                None => vec![*at],
                Some(chosen) => chosen.variants.iter().map(|variant| variant.source).collect(),
            };
            for source in sources {
                if !places.contains(&source) {
                    places.push(source);
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
                for (place, variant) in chosen.variants.iter().enumerate() {
                    let wanted = ScalarValue::Int32(i32::try_from(place + 1).ok());
                    let is =
                        BinaryExpr::new(Arc::clone(&number), Operator::Eq, Arc::new(Literal::new(wanted)));
                    let mut value = column(&variant.name)?;
                    if let Some(defaults) = &variant.defaults {
                        value = fill(value, &self.file_schema.fields()[variant.source], defaults);
                    }
                    cases.push((Arc::new(is) as Arc<dyn PhysicalExpr>, value));
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

/// How the column at `at` is read from files of which some have `kinds` of it. What they have under other names goes behind
/// `fields`. `apart`: some file has it under another name, or not at all.
fn chosen<'a>(
    def: &'a TableDef,
    at: usize,
    inside: Vec<Inside<'_>>,
    mut kinds: Vec<Kind<'a>>,
    apart: bool,
    fields: &mut Vec<FieldRef>,
) -> Result<Chosen> {
    let column = &def.columns[at];
    if kinds.is_empty() {
        kinds.push((&column.physical, Vec::new()));
    }
    let mut variants = Vec::new();
    for (name, lacking) in kinds {
        let known = fields.iter().position(|field| field.name() == name);
        let source = match known {
            Some(known) if fields[known].data_type() == fields[at].data_type() => known,
            Some(_) => return Err(ambiguous(def, name)),
            None => {
                fields.push(Arc::new(fields[at].as_ref().clone().with_name(name).with_nullable(true)));
                fields.len() - 1
            }
        };
        // Another column may have the name in some file: then it is not there for all.
        if apart {
            fields[source] = Arc::new(fields[source].as_ref().clone().with_nullable(true));
        }
        let defaults = defaults(&inside, &lacking, fields[at].data_type())?;
        variants.push(Variant { name: name.to_owned(), source, lacking, defaults });
    }
    let default = default(column, fields[at].data_type())?;
    let number = format!("_skep_{}", column.id);
    let given = inside.into_iter().map(|(_, field)| field.clone()).collect();
    Ok(Chosen { variants, given, default, number })
}

fn ambiguous(def: &TableDef, name: &str) -> Error {
    Error::unsupported(format!(
        "table '{}.{}' has files of another engine in which '{name}' is a column of another type",
        def.schema_name, def.name
    ))
    .hint("have that engine rewrite the table, for example with CREATE OR REPLACE TABLE ... AS SELECT")
}

/// Whether a map in `column` has other fields inside in some of `files` than in the table: a cast between maps goes by
/// position.
fn differs_in_maps(def: &TableDef, column: &Column, files: &[Arc<DataFile>]) -> bool {
    let inside = inside_maps(column, false);
    if inside.is_empty() {
        return false;
    }
    let known: HashSet<i64> = leaves(&def.columns).into_iter().map(|leaf| leaf.id).collect();
    let mut having = files.iter().filter(|file| def.name_in(column, file).is_some());
    having.any(|file| {
        // What is dropped stays in files. It may be of another column: then reading by name does no harm.
        inside.iter().any(|leaf| def.lacks(leaf, file)) || file.stats.keys().any(|id| !known.contains(id))
    })
}

/// The leaves of `column`, which is `within` a map or not, that are in a struct in a map.
fn inside_maps(column: &Column, within: bool) -> Vec<&Column> {
    match &column.ty {
        LakeType::Struct if within => leaves(std::slice::from_ref(column)),
        ty => {
            let within = within || *ty == LakeType::Map;
            column.children.iter().flat_map(|child| inside_maps(child, within)).collect()
        }
    }
}

/// Adds the fields inside `column` that rows from before them have a default for, each with the places of children
/// that lead to it; `path` leads to `column`.
fn with_default<'a>(column: &'a Column, path: &mut Vec<usize>, found: &mut Vec<Inside<'a>>) {
    for (at, child) in column.children.iter().enumerate() {
        path.push(at);
        if child.initial_default.is_some() && !child.ty.is_nested() {
            found.push((path.clone(), child));
        }
        with_default(child, path, found);
        path.pop();
    }
}

/// The ids of those of `fields` that `file` lacks.
fn lacking<'a>(def: &TableDef, fields: impl IntoIterator<Item = &'a Column>, file: &DataFile) -> Vec<i64> {
    fields.into_iter().filter(|field| def.lacks(field, file)).map(|field| field.id).collect()
}

/// What the fields `lacking` have, of those `inside` a column of type `ty`. `None` if there are none.
fn defaults(inside: &[Inside<'_>], lacking: &[i64], ty: &DataType) -> Result<Option<Defaults>> {
    let mut values = Vec::new();
    for (path, field) in inside.iter().filter(|(_, field)| lacking.contains(&field.id)) {
        let leaf = path.iter().try_fold(ty, |ty, at| match ty {
            DataType::Struct(fields) => fields.get(*at).map(|field| field.data_type()),
            DataType::List(element) => Some(element.data_type()),
            DataType::Map(entries, _) => match entries.data_type() {
                DataType::Struct(pair) => pair.get(*at).map(|field| field.data_type()),
                _ => None,
            },
            _ => None,
        });
        let leaf =
            leaf.ok_or_else(|| Error::internal(format!("field '{}' is not in its column", field.name)))?;
        values.push((path.clone(), default(field, leaf)?));
    }
    if values.is_empty() {
        return Ok(None);
    }
    Defaults::new(&values).map(Some).map_err(error::from_datafusion)
}

fn forgotten(def: &TableDef, column: &Column) -> Error {
    Error::unsupported(format!(
        "table '{}.{}' has files of another engine from before its snapshots were expired: what they call column '{}' is \
         not known",
        def.schema_name, def.name, column.name
    ))
    .hint("have that engine rewrite the table, for example with CREATE OR REPLACE TABLE ... AS SELECT")
}

/// The names that `column` has in `files`, each with the fields `inside` it that files lack, and whether some file lacks
/// all of it.
fn kinds<'a>(
    def: &'a TableDef,
    column: &'a Column,
    inside: &[Inside<'_>],
    files: &'a [Arc<DataFile>],
) -> (Vec<Kind<'a>>, bool) {
    let (mut kinds, mut absent): (Vec<Kind<'_>>, bool) = (Vec::new(), false);
    for file in files {
        let Some(name) = def.name_in(column, file) else {
            absent = true;
            continue;
        };
        let kind = (name, lacking(def, inside.iter().map(|(_, field)| *field), file));
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    (kinds, absent)
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
