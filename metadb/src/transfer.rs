//! Copies of a whole database: into a file, and from any database into any other.

use std::path::Path;

use futures::TryStreamExt;
use skep_common::{Error, Result};
use sqlx::any::{AnyConnectOptions, AnyRow};
use sqlx::{Any, AssertSqlSafe, ConnectOptions, Connection, Executor, QueryBuilder, Row};

use crate::{Conn, Dialect, Location, MetaDb, Options, database_error, tables_of};

/// Rows per statement: few enough for the placeholders of both databases.
const ROWS_MAX: usize = 400;

impl MetaDb {
    /// Copies an SQLite database into a new file, as of one moment, while others read and write.
    ///
    /// # Errors
    /// [`Kind::Invalid`](skep_common::Kind::Invalid) if the file cannot be written, is there already, or if the
    /// database is on a server: its tables go by [`MetaDb::copy_into`].
    pub async fn copy_file(&self, to: &Path) -> Result<()> {
        let shown = to.display();
        let doing = || format!("cannot copy the metadata database to '{shown}'");
        if self.dialect() != Dialect::Sqlite {
            return Err(Error::internal(format!("'{}' is not a file", self.location())));
        }
        let text = to.to_str().ok_or_else(|| Error::invalid(doing()).hint("name it in UTF-8"))?;
        sqlx::query("VACUUM INTO ?")
            .bind(text)
            .execute(&self.0.writer)
            .await
            .map_err(|e| database_error(doing(), e))?;
        Ok(())
    }

    /// Makes an SQLite file whole by itself, after all handles to it were closed: no log beside it, and none when it is
    /// read as [`Options::immutable`](crate::Options::immutable).
    ///
    /// # Errors
    /// Those of the database, and of forcing the file to the disk.
    pub async fn settle(path: &Path) -> Result<()> {
        let doing = || format!("cannot complete the file '{}'", path.display());
        let url = Location::from(path).driver_url(&Options { create: false, ..Options::default() })?;
        let settle = async {
            let mut connection = AnyConnectOptions::from_url(&url)?.connect().await?;
            sqlx::raw_sql(
                "PRAGMA busy_timeout = 10000; PRAGMA wal_checkpoint(TRUNCATE); PRAGMA journal_mode = DELETE",
            )
            .execute(&mut connection)
            .await?;
            connection.close().await
        };
        settle.await.map_err(|e| database_error(doing(), e))?;
        let sync = std::fs::File::open(path).and_then(|file| file.sync_all());
        sync.map_err(|e| Error::invalid(doing()).source(e))
    }

    /// Copies the rows of all tables, as of one moment, into the tables of the same names in `to`, whose own rows go.
    /// Tables that are only in `to` stay as they are. Returns how many rows that were.
    ///
    /// # Errors
    /// [`Kind::Unsupported`](skep_common::Kind::Unsupported) if a table or column of this database is not in `to`.
    pub async fn copy_into(&self, to: &MetaDb, skip: impl Fn(&str) -> bool) -> Result<u64> {
        let begin = match self.dialect() {
            Dialect::Sqlite => "BEGIN",
            Dialect::Postgres => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
        };
        let doing = "cannot read the metadata database as of one moment";
        let tx = self.0.readers.pool.begin_with(begin).await.map_err(|e| database_error(doing, e))?;
        let mut from = Conn { tx, dialect: self.dialect() };
        let tables: Vec<(String,)> = sqlx::query_as(tables_of(self.dialect()))
            .fetch_all(&mut from)
            .await
            .map_err(|e| database_error(doing, e))?;
        let mut tx = to.begin().await?;
        let mut rows = 0;
        for (table,) in tables.into_iter().filter(|(table,)| !skip(table)) {
            let source = columns(&mut from, &table).await?;
            let target = columns(tx.conn(), &table).await?;
            rows += copy(&mut from, tx.conn(), &table, &source, &target).await.map_err(|e| match e {
                Failed::Shape(error) => error,
                Failed::Database(e) => database_error(format!("cannot copy the table {table}"), e),
            })?;
        }
        tx.commit().await?;
        Ok(rows)
    }
}

/// What a column holds, and so how its values are read and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Number,
    Text,
    Bytes,
    /// A boolean of PostgreSQL, a number of SQLite.
    Boolean,
    Uuid,
    Time,
}

#[derive(Debug)]
struct Column {
    name: String,
    class: Class,
    /// Gives out numbers of its own.
    identity: bool,
}

impl Column {
    fn quoted(&self) -> String {
        format!("\"{}\"", self.name)
    }

    /// Reads it as a number, a text or bytes.
    fn read(&self) -> String {
        let name = self.quoted();
        match self.class {
            Class::Number | Class::Text | Class::Bytes => name,
            Class::Boolean => format!("CAST({name} AS INTEGER)"),
            Class::Uuid | Class::Time => format!("CAST({name} AS TEXT)"),
        }
    }

    /// What stands around a value.
    fn write(&self) -> (&'static str, &'static str) {
        match self.class {
            Class::Number | Class::Text | Class::Bytes => ("", ""),
            Class::Boolean => ("CAST(CAST(", " AS INTEGER) AS BOOLEAN)"),
            Class::Uuid => ("CAST(", " AS UUID)"),
            Class::Time => ("CAST(", " AS TIMESTAMPTZ)"),
        }
    }
}

enum Failed {
    Shape(Error),
    Database(sqlx::Error),
}

impl From<sqlx::Error> for Failed {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

async fn columns(conn: &mut Conn, table: &str) -> Result<Vec<Column>> {
    let sql = match conn.dialect {
        Dialect::Sqlite => "SELECT name, upper(type), 0 FROM pragma_table_info(?) ORDER BY cid",
        Dialect::Postgres => {
            "SELECT CAST(column_name AS TEXT), upper(CAST(data_type AS TEXT)), \
             CASE WHEN is_identity = 'YES' THEN 1 ELSE 0 END FROM information_schema.columns \
             WHERE table_schema = current_schema() AND table_name = ? ORDER BY ordinal_position"
        }
    };
    let rows: Vec<(String, String, i64)> = sqlx::query_as(sql)
        .bind(table)
        .fetch_all(conn)
        .await
        .map_err(|e| database_error(format!("cannot read the columns of {table}"), e))?;
    let column = |(name, ty, identity): (String, String, i64)| {
        let class = match ty.as_str() {
            "BOOLEAN" => Class::Boolean,
            "UUID" => Class::Uuid,
            "BYTEA" | "BLOB" => Class::Bytes,
            ty if ty.starts_with("TIMESTAMP") => Class::Time,
            ty if ty.contains("INT") => Class::Number,
            ty if ty.contains("CHAR") || ty == "TEXT" => Class::Text,
            ty => {
                return Err(Error::unsupported(format!("column {name} of {table} has the type {ty}"))
                    .hint("another program made that table: copy the database with its own means"));
            }
        };
        Ok(Column { name, class, identity: identity != 0 })
    };
    rows.into_iter().map(column).collect()
}

async fn copy(
    from: &mut Conn,
    to: &mut Conn,
    table: &str,
    source: &[Column],
    target: &[Column],
) -> Result<u64, Failed> {
    let mut places = Vec::with_capacity(source.len());
    for column in source {
        let place = target.iter().find(|other| other.name == column.name).ok_or_else(|| {
            Failed::Shape(
                Error::unsupported(format!("{table}.{} is not in the other database", column.name))
                    .hint("another program made it: copy the database with its own means"),
            )
        })?;
        places.push(place);
    }
    to.execute(AssertSqlSafe(format!("DELETE FROM \"{table}\""))).await?;
    let read: Vec<String> = source.iter().map(Column::read).collect();
    let sql = format!("SELECT {} FROM \"{table}\"", read.join(", "));
    let mut chunks = sqlx::query(AssertSqlSafe(sql)).fetch(from).try_ready_chunks(ROWS_MAX);
    let mut rows = 0;
    let names: Vec<String> = places.iter().map(|column| column.quoted()).collect();
    while let Some(chunk) = chunks.try_next().await.map_err(|e| e.1)? {
        rows += chunk.len();
        let mut query: QueryBuilder<Any> =
            QueryBuilder::new(format!("INSERT INTO \"{table}\" ({}) VALUES ", names.join(", ")));
        for (i, row) in chunk.iter().enumerate() {
            query.push(if i == 0 { "(" } else { ", (" });
            for (j, (column, place)) in source.iter().zip(&places).enumerate() {
                if j > 0 {
                    query.push(", ");
                }
                let (before, after) = place.write();
                query.push(before);
                bind(&mut query, row, j, column.class)?;
                query.push(after);
            }
            query.push(")");
        }
        query.build().execute(&mut *to).await?;
    }
    if to.dialect == Dialect::Postgres {
        for column in target.iter().filter(|column| column.identity) {
            let next = format!(
                "SELECT setval(pg_get_serial_sequence('{table}', '{0}'), coalesce(max({1}), 0) + 1, false) FROM \"{table}\"",
                column.name,
                column.quoted()
            );
            sqlx::query(AssertSqlSafe(next)).execute(&mut *to).await?;
        }
    }
    Ok(u64::try_from(rows).unwrap_or(u64::MAX))
}

fn bind(query: &mut QueryBuilder<Any>, row: &AnyRow, i: usize, class: Class) -> Result<(), sqlx::Error> {
    match class {
        Class::Number | Class::Boolean => query.push_bind(row.try_get::<Option<i64>, _>(i)?),
        Class::Text | Class::Uuid | Class::Time => query.push_bind(row.try_get::<Option<String>, _>(i)?),
        Class::Bytes => query.push_bind(row.try_get::<Option<Vec<u8>>, _>(i)?),
    };
    Ok(())
}
