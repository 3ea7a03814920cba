//! Connections that take SQL in the one way of [`Dialect`].

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use sqlx::any::{AnyArguments, AnyQueryResult, AnyRow, AnyStatement, AnyTypeInfo};
use sqlx::{Any, AnyPool, AssertSqlSafe, Either, Execute, Executor, SqlSafeStr, SqlStr, Transaction};

use crate::dialect::Dialect;

/// A connection inside a write transaction: `sqlx::query(...).execute(conn)`.
#[derive(Debug)]
pub struct Conn {
    pub(crate) tx: Transaction<'static, Any>,
    pub(crate) dialect: Dialect,
}

/// Connections that can only read: `sqlx::query(...).fetch_all(reader)`.
#[derive(Debug)]
pub struct Reader {
    pub(crate) pool: AnyPool,
    pub(crate) dialect: Dialect,
}

impl Conn {
    /// What kind of database it is.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }
}

impl Reader {
    /// What kind of database it is.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }
}

type Translated = (SqlStr, Option<AnyArguments>);

/// Scripts without arguments run as they are: their comments and functions are not statements of ours.
fn translate<'q>(dialect: Dialect, mut query: impl Execute<'q, Any>) -> Result<Translated, sqlx::Error> {
    let arguments = query.take_arguments().map_err(sqlx::Error::Encode)?;
    let sql = query.sql();
    if arguments.is_none() {
        return Ok((sql, None));
    }
    let sql = match dialect.statement(sql.as_str()) {
        std::borrow::Cow::Borrowed(_) => sql,
        std::borrow::Cow::Owned(text) => AssertSqlSafe(text).into_sql_str(),
    };
    Ok((sql, arguments))
}

macro_rules! executor {
    ($type:ty, $self:ident => $inner:expr) => {
        impl<'c> Executor<'c> for $type {
            type Database = Any;

            fn fetch_many<'e, 'q: 'e, E>(
                $self,
                query: E,
            ) -> BoxStream<'e, Result<Either<AnyQueryResult, AnyRow>, sqlx::Error>>
            where
                'c: 'e,
                E: 'q + Execute<'q, Any>,
            {
                match translate($self.dialect, query) {
                    Ok(query) => $inner.fetch_many(query),
                    Err(error) => Box::pin(futures::stream::once(async { Err(error) })),
                }
            }

            fn fetch_optional<'e, 'q: 'e, E>(
                $self,
                query: E,
            ) -> BoxFuture<'e, Result<Option<AnyRow>, sqlx::Error>>
            where
                'c: 'e,
                E: 'q + Execute<'q, Any>,
            {
                match translate($self.dialect, query) {
                    Ok(query) => $inner.fetch_optional(query),
                    Err(error) => Box::pin(async { Err(error) }),
                }
            }

            fn prepare_with<'e>(
                $self,
                sql: SqlStr,
                parameters: &'e [AnyTypeInfo],
            ) -> BoxFuture<'e, Result<AnyStatement, sqlx::Error>>
            where
                'c: 'e,
            {
                let sql = AssertSqlSafe($self.dialect.statement(sql.as_str()).into_owned()).into_sql_str();
                $inner.prepare_with(sql, parameters)
            }
        }
    };
}

executor!(&'c mut Conn, self => (&mut *self.tx));
executor!(&'c Reader, self => (&self.pool));
