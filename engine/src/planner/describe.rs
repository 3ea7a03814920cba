//! What a table is, as SQL that makes it again, and what its partitions and properties are.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::datatypes::Field;
use datafusion::execution::object_store::ObjectStoreUrl;
use object_store::path::Path;
use skep_catalog::{Column, External, SortKey, TableDef, Transform};
use skep_common::{Error, Result};

use super::{Planner, default_shown, tables};
use crate::files::Folder;
use crate::sql::Name;
use crate::table::SkepTable;
use crate::{names, types};

type Row = Vec<Option<String>>;

impl Planner {
    /// The table or view `name` as SQL that makes it again.
    pub(crate) fn create_statement(&self, name: &Name) -> Result<String> {
        let schema = name.schema_or(self.settings().schema());
        if let Some(view) = self.snapshot().view(schema, &name.name) {
            let columns: Vec<String> =
                view.column_aliases.iter().map(|column| names::quote(column)).collect();
            let columns =
                if columns.is_empty() { String::new() } else { format!(" ({})", columns.join(", ")) };
            let comment = view.comment.as_ref().map(|c| format!(" COMMENT {}", text(c))).unwrap_or_default();
            return Ok(format!(
                "CREATE VIEW {}.{}{columns}{comment} AS {}",
                names::quote(schema),
                names::quote(&name.name),
                view.sql
            ));
        }
        match self.snapshot().table(schema, &name.name) {
            Some(table) => Ok(create_table(table)),
            None => Err(self.missing_table(name)),
        }
    }

    /// Values, files, rows and bytes of each partition of a table.
    pub(crate) async fn partitions_of(&self, name: &Name) -> Result<Vec<Row>> {
        let table = self.table_named(name)?;
        if table.external.is_some() {
            let folders = self.folders(name).await?;
            let row = |folder: Folder| {
                vec![
                    Some(folder.values),
                    Some(folder.files.to_string()),
                    None,
                    Some(folder.bytes.to_string()),
                ]
            };
            return Ok(folders.into_iter().map(row).collect());
        }
        if table.partitioning.keys.is_empty() {
            let error = Error::invalid(format!("table '{}' is not partitioned", table.name))
                .hint("ALTER TABLE ... SET PARTITIONED BY divides the files that are written from then on");
            return Err(tables::placed(error, name.at));
        }
        let files = self.environment.catalog.files(self.snapshot(), table.id).await?;
        // Files from before are of no partition of today's, and come last.
        let mut found: BTreeMap<(bool, String), [u64; 3]> = BTreeMap::new();
        for file in files.iter() {
            let of_today = file.partition_id == table.partitioning.id
                && file.partition.len() == table.partitioning.keys.len();
            let values = if of_today { partition_text(table, &file.partition) } else { String::new() };
            let sums = found.entry((!of_today, values)).or_default();
            for (sum, more) in sums.iter_mut().zip([1, file.live().unwrap_or(file.rows), file.bytes]) {
                *sum += more;
            }
        }
        let row = |((old, values), sums): ((bool, String), [u64; 3])| {
            let mut row = vec![(!old).then_some(values)];
            row.extend(sums.map(|sum| Some(sum.to_string())));
            row
        };
        Ok(found.into_iter().map(row).collect())
    }

    /// The properties of a table.
    /// The store of a table and the files that it has there, in the order of the catalog.
    ///
    /// # Errors
    /// [`Kind::NotFound`](skep_common::Kind::NotFound) for the name; [`Kind::Unsupported`](skep_common::Kind::Unsupported) for a
    /// table whose files others keep.
    pub async fn paths_of(&self, name: &Name) -> Result<(ObjectStoreUrl, Vec<Path>)> {
        let table = self.table_named(name)?;
        if table.external.is_some() {
            let error = Error::unsupported(format!("table '{}' is over files that others keep", table.name));
            return Err(tables::placed(error, name.at));
        }
        let files = self.environment.catalog.files(self.snapshot(), table.id).await?;
        let scan =
            SkepTable::new(Arc::clone(table), Arc::clone(&files), Arc::clone(&self.environment), false)?;
        let paths = files.iter().map(|file| scan.place(file.absolute, &file.path)).collect::<Result<_>>()?;
        Ok((scan.store.clone(), paths))
    }

    pub(crate) fn properties_of(&self, name: &Name, key: Option<&str>) -> Result<Vec<Row>> {
        let table = self.table_named(name)?;
        let all = table.properties.iter().filter(|(name, _)| key.is_none_or(|key| key == *name));
        let rows: Vec<Row> = all.map(|(name, value)| vec![Some(name.clone()), Some(value.clone())]).collect();
        match key {
            Some(key) if rows.is_empty() => Err(tables::placed(
                Error::not_found(format!("table '{}' has no property '{key}'", table.name))
                    .hint("SHOW TBLPROPERTIES without a name lists those it has"),
                name.at,
            )),
            _ => Ok(rows),
        }
    }

    /// What `MSCK REPAIR TABLE` has to say: the folders that a scan of the table reads as they are now.
    pub(crate) async fn repair(&self, name: &Name) -> Result<Vec<Row>> {
        let table = self.table_named(name)?;
        if table.external.is_none() {
            let error = Error::invalid(format!("'{name}' is a table of the catalog, which knows its files"))
                .hint("MSCK REPAIR is for external tables");
            return Err(tables::placed(error, name.at));
        }
        let folders = self.folders(name).await?;
        let row = |folder: Folder| {
            vec![Some(folder.values), Some(folder.files.to_string()), Some("read".to_owned())]
        };
        Ok(folders.into_iter().map(row).collect())
    }

    /// The partitions of an external table, as its folders are now.
    ///
    /// # Errors
    /// [`Kind::Invalid`](skep_common::Kind::Invalid) for a table without partitions, or a folder that is of none.
    pub async fn folders(&self, name: &Name) -> Result<Vec<Folder>> {
        let table = self.table_named(name)?;
        if table.external.as_ref().is_none_or(|external| external.partition_columns.is_empty()) {
            return Err(tables::placed(Error::invalid(format!("'{name}' has no partitions")), name.at));
        }
        Ok(tables::external(self, table).await?.folders())
    }

    fn table_named(&self, name: &Name) -> Result<&Arc<TableDef>> {
        let schema = name.schema_or(self.settings().schema());
        self.snapshot().table(schema, &name.name).ok_or_else(|| {
            match self.snapshot().view(schema, &name.name) {
                Some(_) => {
                    tables::placed(Error::invalid(format!("'{name}' is a view, which has none")), name.at)
                }
                None => self.missing_table(name),
            }
        })
    }
}

fn text(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// `region=EU/day=2024-01-31`
pub(crate) fn partition_text(table: &TableDef, values: &[Option<String>]) -> String {
    let level = |(key, value): (&skep_catalog::PartitionKey, &Option<String>)| {
        let name = table.column(key.column).map_or("?", |column| column.name.as_str());
        format!("{}={}", key.transform.folder(name), value.as_deref().unwrap_or("NULL"))
    };
    table.partitioning.keys.iter().zip(values).map(level).collect::<Vec<_>>().join("/")
}

fn create_table(table: &TableDef) -> String {
    let schema = table.arrow_schema();
    let in_folders = |name: &str| {
        table
            .external
            .as_ref()
            .is_some_and(|external| external.partition_columns.iter().any(|column| column == name))
    };
    let definition = |(field, column): (&Arc<Field>, &Column)| {
        let mut line = format!("{} {}", names::quote(field.name()), types::sql_name(field.data_type()));
        if !field.is_nullable() {
            line.push_str(" NOT NULL");
        }
        if let Some(default) = default_shown(column) {
            line.push_str(&format!(" DEFAULT {default}"));
        }
        if let Some(comment) = &column.comment {
            line.push_str(&format!(" COMMENT {}", text(comment)));
        }
        (in_folders(field.name()), line)
    };
    let all: Vec<(bool, String)> = schema.fields().iter().zip(&table.columns).map(definition).collect();
    let lines = |folders: bool| -> Vec<String> {
        all.iter().filter(|(f, _)| *f == folders).map(|(_, line)| line.clone()).collect()
    };
    let name = format!("{}.{}", names::quote(&table.schema_name), names::quote(&table.name));
    let comment = table.comment.as_ref().map(|c| format!("\nCOMMENT {}", text(c))).unwrap_or_default();
    match &table.external {
        Some(external) => create_external(&name, external, &lines(false), &lines(true)) + &comment,
        None => {
            let mut inside = lines(false);
            inside.extend(
                table
                    .checks
                    .iter()
                    .map(|c| format!("CONSTRAINT {} CHECK ({})", names::quote(&c.name), c.sql)),
            );
            format!("CREATE TABLE {name} (\n    {}\n){comment}{}", inside.join(",\n    "), clauses(table))
        }
    }
}

fn create_external(name: &str, external: &External, columns: &[String], folders: &[String]) -> String {
    let mut sql = format!("CREATE EXTERNAL TABLE {name} (\n    {}\n)", columns.join(",\n    "));
    sql.push_str(&format!("\nSTORED AS {}", external.format.to_uppercase()));
    if !external.partition_columns.is_empty() {
        sql.push_str(&format!("\nPARTITIONED BY ({})", folders.join(", ")));
    }
    sql.push_str(&format!("\nLOCATION {}", text(&external.location)));
    if !external.options.is_empty() {
        let options: Vec<String> =
            external.options.iter().map(|(name, value)| format!("{name} {}", text(value))).collect();
        sql.push_str(&format!("\nOPTIONS ({})", options.join(", ")));
    }
    sql
}

fn clauses(table: &TableDef) -> String {
    let column =
        |id: i64| table.column(id).map_or_else(|| "?".to_owned(), |column| names::quote(&column.name));
    let mut sql = String::new();
    if !table.partitioning.keys.is_empty() {
        let keys = table.partitioning.keys.iter().map(|key| match key.transform {
            Transform::Identity => column(key.column),
            Transform::Bucket(buckets) => format!("bucket({buckets}, {})", column(key.column)),
            other => format!("{other}({})", column(key.column)),
        });
        sql.push_str(&format!("\nPARTITIONED BY ({})", keys.collect::<Vec<_>>().join(", ")));
    }
    if !table.sorting.is_empty() {
        let key = |key: &SortKey| {
            let direction = if key.descending { " DESC" } else { "" };
            let nulls = if key.nulls_first { " NULLS FIRST" } else { "" };
            format!("{}{direction}{nulls}", column(key.column))
        };
        let keys: Vec<String> = table.sorting.iter().map(key).collect();
        sql.push_str(&format!("\nSORTED BY ({})", keys.join(", ")));
    }
    if table.located {
        sql.push_str(&format!("\nLOCATION {}", text(&table.path)));
    }
    if !table.properties.is_empty() {
        let pairs = table.properties.iter().map(|(key, value)| format!("{} = {}", text(key), text(value)));
        sql.push_str(&format!("\nTBLPROPERTIES ({})", pairs.collect::<Vec<_>>().join(", ")));
    }
    sql
}
