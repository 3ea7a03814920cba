//! Reads a snapshot out of the database.
//!
//! Rows of a snapshot never change while it lives, so the queries need no transaction around them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use skep_common::{Error, Result};
use skep_metadb::{MetaDb, database_error};
use sqlx::any::AnyRow;
use sqlx::{Any, FromRow, QueryBuilder, Row};
use uuid::Uuid;

use crate::calendar;
use crate::column::Column;
use crate::layout::Past;
use crate::model::{External, SchemaDef, Snapshot, TableDef, ViewDef};
use crate::properties;
use crate::types::LakeType;

/// Loads snapshot `id`. The definitions are shared with `near` if no definition changed between the two.
pub(crate) async fn snapshot(db: &MetaDb, id: i64, near: Option<&Snapshot>) -> Result<Snapshot> {
    let doing = || format!("cannot read snapshot {id}");
    let head: Option<(String, i64)> = sqlx::query_as(
        "SELECT CAST(snapshot_time AS TEXT), schema_version FROM ducklake_snapshot WHERE snapshot_id = ?",
    )
    .bind(id)
    .fetch_optional(db.reader())
    .await
    .map_err(|e| database_error(doing(), e))?;
    let Some((time, schema_version)) = head else {
        return Err(no_snapshot(id));
    };
    let time = parse_time(&time).ok_or_else(|| {
        Error::corrupt(format!("snapshot {id} has the time '{time}'"))
            .hint("restore the latest backup of the catalog")
    })?;
    let sizes = sizes(db, id).await.map_err(|e| database_error(doing(), e))?;
    let loaded = match near.filter(|near| near.schema_version == schema_version) {
        Some(near) => Definitions {
            schemas: near.schemas.clone(),
            tables: near.tables.clone(),
            views: near.views.clone(),
        },
        None => definitions(db, id, near.filter(|near| near.id < id)).await?,
    };
    let mut tables = loaded.tables;
    for table in tables.values_mut() {
        let (rows, bytes) = sizes.get(&table.id).copied().unwrap_or_default();
        if table.record_count != rows || table.bytes != bytes {
            *table = Arc::new(TableDef { record_count: rows, bytes, ..TableDef::clone(table) });
        }
    }
    let by_id = tables.values().map(|table| (table.id, Arc::clone(table))).collect();
    Ok(Snapshot {
        id,
        schema_version,
        time,
        schemas: loaded.schemas,
        tables,
        views: loaded.views,
        by_id,
        overlay: None,
    })
}

/// The error of a snapshot that is not there.
pub(crate) fn no_snapshot(id: i64) -> Error {
    Error::not_found(format!("snapshot {id} does not exist"))
        .hint("it was never made, or it was expired: SHOW SNAPSHOTS lists those that are there")
}

/// As DuckDB writes it. Later times have greater texts.
pub(crate) fn time_text(time: DateTime<Utc>) -> String {
    calendar::timestamp_text(time.timestamp_micros(), 6, true)
}

/// The reverse of [`time_text`].
pub(crate) fn parse_time(text: &str) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp_micros(calendar::parse_timestamp(text, 6)?)
}

type ByName<V> = BTreeMap<(String, String), V>;

struct Definitions {
    schemas: BTreeMap<String, SchemaDef>,
    tables: ByName<Arc<TableDef>>,
    views: ByName<ViewDef>,
}

/// Reads all names, and the columns of those tables that changed since `past`.
async fn definitions(db: &MetaDb, id: i64, past: Option<&Snapshot>) -> Result<Definitions> {
    let doing = || format!("cannot read the names of snapshot {id}");
    let schemas = schemas(db, id).await.map_err(|e| database_error(doing(), e))?;
    let mut notes = properties::Notes::read(db, id).await.map_err(|e| database_error(doing(), e))?;
    let rows = table_rows(db, id).await.map_err(|e| database_error(doing(), e))?;
    let kept = match past {
        Some(past) => {
            let changed = changed_tables(db, past.id, id).await.map_err(|e| database_error(doing(), e))?;
            past.by_id.iter().filter(|(id, _)| !changed.contains(id)).map(|(id, t)| (*id, t)).collect()
        }
        None => HashMap::new(),
    };
    let missing: Vec<i64> = rows.iter().map(|row| row.id).filter(|id| !kept.contains_key(id)).collect();
    let only = past.map(|_| missing.as_slice());
    let mut columns = columns(db, id, only).await.map_err(|e| database_error(doing(), e))?;
    let mut tables = BTreeMap::new();
    for row in rows {
        let Some(schema) = schemas.get(&row.schema) else { continue };
        let found = match kept.get(&row.id) {
            Some(table) => TableColumns::of(table),
            None => columns.remove(&row.id).unwrap_or_default(),
        };
        let relative = row.relative && !schema.absolute;
        let mut table = TableDef {
            id: row.id,
            uuid: uuid(&row.uuid),
            schema: schema.id,
            schema_name: schema.name.clone(),
            name: row.name,
            path: if row.relative { format!("{}{}", schema.path, row.path) } else { row.path },
            absolute: !relative,
            located: !row.relative,
            columns: found.columns,
            next_column_id: found.next_id,
            misnamed: found.misnamed,
            past: found.past,
            taken: found.taken,
            ..TableDef::empty(row.id, schema, "")
        };
        notes.put(&mut table);
        tables.insert((table.schema_name.clone(), table.name.clone()), Arc::new(table));
    }
    for table in externals(db, id, &schemas).await? {
        tables.insert((table.schema_name.clone(), table.name.clone()), Arc::new(table));
    }
    let mut views = views(db, id, &schemas).await.map_err(|e| database_error(doing(), e))?;
    for view in views.values_mut() {
        view.comment = notes.comment(view.id);
    }
    let schemas = schemas.into_values().map(|schema| (schema.name.clone(), schema)).collect();
    Ok(Definitions { schemas, tables, views })
}

/// Texts of ids are for people; one that does not read is shown as zeros and not an error.
fn uuid(text: &str) -> Uuid {
    Uuid::parse_str(text).unwrap_or_default()
}

fn unsigned(value: Option<i64>) -> u64 {
    value.and_then(|value| u64::try_from(value).ok()).unwrap_or(0)
}

async fn sizes(db: &MetaDb, id: i64) -> Result<HashMap<i64, (u64, u64)>, sqlx::Error> {
    let rows: Vec<(i64, Option<i64>, Option<i64>)> = sqlx::query_as(
        "SELECT table_id, CAST(sum(record_count) AS BIGINT), CAST(sum(file_size_bytes) AS BIGINT) FROM ducklake_data_file \
         WHERE begin_snapshot <= ?1 AND (end_snapshot IS NULL OR end_snapshot > ?1) GROUP BY table_id",
    )
    .bind(id)
    .fetch_all(db.reader())
    .await?;
    Ok(rows.into_iter().map(|(table, rows, bytes)| (table, (unsigned(rows), unsigned(bytes)))).collect())
}

async fn schemas(db: &MetaDb, id: i64) -> Result<HashMap<i64, SchemaDef>, sqlx::Error> {
    let rows: Vec<(i64, String, Option<String>, Option<i64>)> = sqlx::query_as(
        "SELECT schema_id, schema_name, path, CAST(path_is_relative AS INTEGER) FROM ducklake_schema \
         WHERE begin_snapshot <= ?1 AND (end_snapshot IS NULL OR end_snapshot > ?1)",
    )
    .bind(id)
    .fetch_all(db.reader())
    .await?;
    let define = |(id, name, path, relative): (i64, String, Option<String>, Option<i64>)| {
        let path = with_slash(path.unwrap_or_default());
        (id, SchemaDef { id, name, path, absolute: relative == Some(0) })
    };
    Ok(rows.into_iter().map(define).collect())
}

fn with_slash(mut path: String) -> String {
    if !path.is_empty() && !path.ends_with('/') {
        path.push('/');
    }
    path
}

type Path = Option<String>;

struct TableRow {
    id: i64,
    uuid: String,
    schema: i64,
    name: String,
    path: String,
    relative: bool,
}

async fn table_rows(db: &MetaDb, id: i64) -> Result<Vec<TableRow>, sqlx::Error> {
    let rows: Vec<(i64, String, i64, String, Path, Option<i64>)> = sqlx::query_as(
        "SELECT table_id, CAST(table_uuid AS TEXT), schema_id, table_name, path, CAST(path_is_relative AS INTEGER) \
         FROM ducklake_table \
         WHERE begin_snapshot <= ?1 AND (end_snapshot IS NULL OR end_snapshot > ?1)",
    )
    .bind(id)
    .fetch_all(db.reader())
    .await?;
    let define =
        |(id, uuid, schema, name, path, relative): (_, _, _, _, Option<String>, Option<i64>)| TableRow {
            id,
            uuid,
            schema,
            name,
            path: with_slash(path.unwrap_or_default()),
            relative: relative != Some(0),
        };
    Ok(rows.into_iter().map(define).collect())
}

/// Id, uuid, schema, name, dialect, query, aliases.
type ViewRow = (i64, String, i64, String, String, String, Option<String>);

async fn views(
    db: &MetaDb,
    id: i64,
    schemas: &HashMap<i64, SchemaDef>,
) -> Result<ByName<ViewDef>, sqlx::Error> {
    let rows: Vec<ViewRow> = sqlx::query_as(
        "SELECT view_id, CAST(view_uuid AS TEXT), schema_id, view_name, dialect, sql, column_aliases FROM ducklake_view \
         WHERE begin_snapshot <= ?1 AND (end_snapshot IS NULL OR end_snapshot > ?1)",
    )
    .bind(id)
    .fetch_all(db.reader())
    .await?;
    let define = |(id, view_uuid, schema, name, dialect, sql, aliases): ViewRow| {
        let schema: &SchemaDef = schemas.get(&schema)?;
        let view = ViewDef {
            id,
            uuid: uuid(&view_uuid),
            schema: schema.id,
            schema_name: schema.name.clone(),
            name,
            dialect,
            sql,
            column_aliases: parse_aliases(&aliases.unwrap_or_default()),
            comment: None,
        };
        Some(((view.schema_name.clone(), view.name.clone()), view))
    };
    Ok(rows.into_iter().filter_map(define).collect())
}

/// `"a","b"`, quotes inside doubled.
pub(crate) fn aliases_text(aliases: &[String]) -> String {
    let quoted = aliases.iter().map(|alias| format!("\"{}\"", alias.replace('"', "\"\"")));
    quoted.collect::<Vec<_>>().join(",")
}

fn parse_aliases(text: &str) -> Vec<String> {
    let mut aliases = Vec::new();
    let mut rest = text.trim();
    while let Some((alias, after)) = crate::changes::unquote(rest) {
        aliases.push(alias);
        rest = after.trim_start_matches([',', ' ']);
    }
    aliases
}

/// Id, uuid, schema, name, columns, definition, comment.
type ExternalRow = (i64, String, i64, String, String, String, Option<String>);

async fn externals(db: &MetaDb, id: i64, schemas: &HashMap<i64, SchemaDef>) -> Result<Vec<TableDef>> {
    let rows: Vec<ExternalRow> = sqlx::query_as(
        "SELECT table_id, table_uuid, schema_id, table_name, columns, external, comment FROM skep_external_table \
         WHERE begin_snapshot <= ?1 AND (end_snapshot IS NULL OR end_snapshot > ?1)",
    )
    .bind(id)
    .fetch_all(db.reader())
    .await
    .map_err(|e| database_error(format!("cannot read the external tables of snapshot {id}"), e))?;
    let mut tables = Vec::new();
    for (id, table_uuid, schema, name, columns, external, comment) in rows {
        // A schema that another engine dropped takes them with it.
        let Some(schema) = schemas.get(&schema) else { continue };
        let damaged = |e| {
            Error::corrupt(format!("the definition of external table '{}.{name}' does not read", schema.name))
                .hint("drop it and create it again")
                .source(e)
        };
        let columns: Vec<Column> = serde_json::from_str(&columns).map_err(damaged)?;
        let external: External = serde_json::from_str(&external).map_err(damaged)?;
        tables.push(TableDef {
            id,
            uuid: uuid(&table_uuid),
            schema: schema.id,
            schema_name: schema.name.clone(),
            next_column_id: crate::column::next_column_id(&columns),
            columns,
            comment,
            external: Some(external),
            ..TableDef::empty(id, schema, &name)
        });
    }
    Ok(tables)
}

struct ColumnRow {
    table_id: i64,
    column_id: i64,
    begin_snapshot: i64,
    end_snapshot: Option<i64>,
    column_order: i64,
    column_name: String,
    column_type: String,
    initial_default: Option<String>,
    default_value: Option<String>,
    nulls_allowed: Option<i64>,
    parent_column: Option<i64>,
}

/// In the order of the query: a look-up by name would cost more than the query.
impl<'r> FromRow<'r, AnyRow> for ColumnRow {
    fn from_row(row: &'r AnyRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            table_id: row.try_get(0)?,
            column_id: row.try_get(1)?,
            begin_snapshot: row.try_get(2)?,
            end_snapshot: row.try_get(3)?,
            column_order: row.try_get(4)?,
            column_name: row.try_get(5)?,
            column_type: row.try_get(6)?,
            initial_default: row.try_get(7)?,
            default_value: row.try_get(8)?,
            nulls_allowed: row.try_get(9)?,
            parent_column: row.try_get(10)?,
        })
    }
}

#[derive(Default)]
struct TableColumns {
    columns: Vec<Column>,
    next_id: i64,
    misnamed: Vec<(i64, Option<i64>)>,
    past: Vec<Past>,
    taken: BTreeSet<String>,
}

impl TableColumns {
    fn of(table: &TableDef) -> Self {
        Self {
            columns: table.columns.clone(),
            next_id: table.next_column_id,
            misnamed: table.misnamed.clone(),
            past: table.past.clone(),
            taken: table.taken.clone(),
        }
    }
}

/// Tables of which a column or its comment began or ended after snapshot `past` and up to `id`.
async fn changed_tables(db: &MetaDb, past: i64, id: i64) -> Result<HashSet<i64>, sqlx::Error> {
    let rows: Vec<(i64,)> = sqlx::query_as(
        "SELECT DISTINCT table_id FROM ducklake_column \
         WHERE (begin_snapshot > ?1 AND begin_snapshot <= ?2) OR (end_snapshot > ?1 AND end_snapshot <= ?2) \
         UNION SELECT table_id FROM ducklake_column_tag \
         WHERE (begin_snapshot > ?1 AND begin_snapshot <= ?2) OR (end_snapshot > ?1 AND end_snapshot <= ?2)",
    )
    .bind(past)
    .bind(id)
    .fetch_all(db.reader())
    .await?;
    Ok(rows.into_iter().map(|(id,)| id).collect())
}

/// The columns of every table, or of some, as of snapshot `id`, from their whole history: a name on disk is decided
/// by the first.
async fn columns(
    db: &MetaDb,
    id: i64,
    only: Option<&[i64]>,
) -> Result<HashMap<i64, TableColumns>, sqlx::Error> {
    let mut query: QueryBuilder<Any> = QueryBuilder::new(
        "SELECT table_id, column_id, begin_snapshot, end_snapshot, column_order, column_name, column_type, \
         initial_default, default_value, CAST(nulls_allowed AS INTEGER), parent_column FROM ducklake_column",
    );
    filter(&mut query, only);
    query.push(" ORDER BY table_id, begin_snapshot, column_id");
    let rows: Vec<ColumnRow> = query.build_query_as().fetch_all(db.reader()).await?;
    let mut query: QueryBuilder<Any> =
        QueryBuilder::new("SELECT table_id, column_id, physical FROM skep_column");
    filter(&mut query, only);
    let ours: Vec<(i64, i64, String)> = query.build_query_as().fetch_all(db.reader()).await?;
    // Those of columns that are gone too, whose snapshots may be expired.
    let mut taken: HashMap<i64, Vec<(i64, String)>> = HashMap::new();
    for (table, column, name) in &ours {
        taken.entry(*table).or_default().push((*column, name.clone()));
    }
    let ours: HashMap<_, _> = ours.into_iter().map(|(table, column, name)| ((table, column), name)).collect();
    let comments = properties::ColumnComments::read(db, id).await?;
    let mut tables = HashMap::new();
    for history in rows.chunk_by(|a, b| a.table_id == b.table_id) {
        let mut found = table_columns(history, &ours, id);
        comments.put(history[0].table_id, &mut found.columns);
        // Columns that came after this snapshot are not its own.
        let later: HashSet<i64> =
            history.iter().filter(|row| row.begin_snapshot > id).map(|row| row.column_id).collect();
        let gone = taken.remove(&history[0].table_id).unwrap_or_default();
        found
            .taken
            .extend(gone.into_iter().filter(|(column, _)| !later.contains(column)).map(|(_, name)| name));
        tables.insert(history[0].table_id, found);
    }
    Ok(tables)
}

fn filter(query: &mut QueryBuilder<Any>, only: Option<&[i64]>) {
    let Some(ids) = only else { return };
    // A list of numbers as one value: SQLite bounds the number of values, not their length.
    let list = serde_json::Value::from(ids).to_string();
    query.push(" WHERE table_id IN (SELECT CAST(value AS BIGINT) FROM json_each(").push_bind(list).push("))");
}

fn table_columns(history: &[ColumnRow], ours: &HashMap<(i64, i64), String>, id: i64) -> TableColumns {
    let physical = physical_names(history, ours);
    let name_of = |row: &ColumnRow| physical.get(&row.column_id).cloned().unwrap_or_default();
    let misnamed = history
        .iter()
        .filter(|row| row.parent_column.is_some())
        .filter(|row| row.begin_snapshot <= id && row.column_name != name_of(row))
        .map(|row| (row.begin_snapshot, row.end_snapshot))
        .collect();
    let known = || history.iter().filter(|row| row.begin_snapshot <= id);
    let mut taken: BTreeSet<String> = known().map(&name_of).collect();
    taken.extend(known().map(|row| row.column_name.clone()));
    let mut live: Vec<&ColumnRow> = history
        .iter()
        .filter(|row| row.begin_snapshot <= id && row.end_snapshot.is_none_or(|end| end > id))
        .collect();
    live.sort_by_key(|row| row.column_order);
    let alive: HashSet<i64> = live.iter().map(|row| row.column_id).collect();
    let past = history
        .iter()
        .filter(|row| row.begin_snapshot <= id && alive.contains(&row.column_id))
        .map(|row| Past {
            column: row.column_id,
            begin: row.begin_snapshot,
            // What came later is not this snapshot's.
            end: row.end_snapshot.filter(|end| *end <= id),
            name: row.column_name.clone(),
        })
        .collect();
    TableColumns {
        columns: children(None, &live, &name_of),
        next_id: history.iter().map(|row| row.column_id + 1).max().unwrap_or(1),
        misnamed,
        past,
        taken,
    }
}

fn children(
    parent: Option<i64>,
    rows: &[&ColumnRow],
    name_of: &impl Fn(&ColumnRow) -> String,
) -> Vec<Column> {
    let own = rows.iter().filter(|row| row.parent_column == parent);
    let holder = rows.iter().find(|row| Some(row.column_id) == parent);
    let field = holder.is_some_and(|row| LakeType::from(row.column_type.as_str()) == LakeType::Struct);
    own.map(|row| Column {
        id: row.column_id,
        name: row.column_name.clone(),
        physical: name_of(row),
        ty: LakeType::from(row.column_type.as_str()),
        // DuckDB says of fields that it adds to structs that they are not, and writes NULL for them.
        nullable: field || row.nulls_allowed != Some(0),
        initial_default: row.initial_default.clone(),
        // The specification writes "no default" as this word.
        default: row.default_value.clone().filter(|text| text != "NULL"),
        comment: None,
        children: children(Some(row.column_id), rows, name_of),
    })
    .collect()
}

/// Ours are written down. A column that another engine made has its first name in files, unless a column before it
/// had that name: then it gets one that no file has, and reads as absent instead of as the other column.
fn physical_names(history: &[ColumnRow], ours: &HashMap<(i64, i64), String>) -> HashMap<i64, String> {
    let mut names: HashMap<i64, String> = HashMap::new();
    let mut owner: HashMap<(Option<i64>, &str), i64> = HashMap::new();
    for row in history {
        let first = *owner.entry((row.parent_column, row.column_name.as_str())).or_insert(row.column_id);
        names.entry(row.column_id).or_insert_with(|| match ours.get(&(row.table_id, row.column_id)) {
            Some(name) => name.clone(),
            None if first == row.column_id => row.column_name.clone(),
            None => format!("{}__{}", row.column_name, row.column_id),
        });
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(column_id: i64, begin: i64, end: Option<i64>, name: &str) -> ColumnRow {
        ColumnRow {
            table_id: 1,
            column_id,
            begin_snapshot: begin,
            end_snapshot: end,
            column_order: column_id,
            column_name: name.to_owned(),
            column_type: "int32".to_owned(),
            initial_default: None,
            default_value: Some("NULL".to_owned()),
            nulls_allowed: Some(1),
            parent_column: None,
        }
    }

    #[test]
    fn a_renamed_column_keeps_its_name_in_files() {
        let history = [row(1, 1, Some(3), "a"), row(1, 3, None, "b")];
        let table = table_columns(&history, &HashMap::new(), 5);
        assert_eq!((table.columns[0].name.as_str(), table.columns[0].physical.as_str()), ("b", "a"));
        let past: Vec<_> = table.past.iter().map(|past| (past.begin, past.end, past.name.as_str())).collect();
        assert_eq!(past, [(1, Some(3), "a"), (3, None, "b")]);
        assert!(table.misnamed.is_empty(), "only fields inside others are read by one name");
    }

    #[test]
    fn a_column_never_reads_the_values_of_another() {
        let history = [row(1, 1, Some(3), "a"), row(2, 4, None, "a")];
        let table = table_columns(&history, &HashMap::new(), 5);
        assert_eq!(table.columns.len(), 1);
        assert_eq!((table.columns[0].id, table.columns[0].physical.as_str()), (2, "a__2"));
        assert_eq!(table.next_id, 3);
    }

    #[test]
    fn times_sort_as_texts() {
        let at = |micros| time_text(DateTime::from_timestamp_micros(micros).unwrap());
        let times = [0, 1, 10, 100_000, 110_000, 999_999, 1_000_000].map(at);
        assert!(times.is_sorted(), "{times:?}");
        assert_eq!(times[4], "1970-01-01 00:00:00.11+00");
        assert_eq!(parse_time(&times[4]).unwrap().timestamp_micros(), 110_000);
    }

    #[test]
    fn aliases_round_trip() {
        for aliases in [vec![], vec!["a".to_owned()], vec!["a,b".to_owned(), "c\"d".to_owned()]] {
            assert_eq!(parse_aliases(&aliases_text(&aliases)), aliases);
        }
    }
}
