//! What the server can do, as GetSqlInfo answers it.
//!
//! Drivers cast each value to the type they expect and fail on another, so the type of each code is fixed by what the
//! JDBC, ODBC and ADBC drivers read, also where the protocol's own comment says otherwise.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use arrow_flight::sql::SqlInfo as I;
use arrow_flight::sql::metadata::{SqlInfoData, SqlInfoDataBuilder};
use datafusion::logical_expr::ScalarUDF;

/// Version of the Arrow format that is spoken.
const ARROW_VERSION: &str = "1.5";

/// Words that drivers quote when they are names, beyond those of SQL-92.
const KEYWORDS: &[&str] = &[
    "ANALYZE",
    "ANTI",
    "CLUSTER",
    "COPY",
    "DESCRIBE",
    "EXCLUDE",
    "EXPLAIN",
    "FILTER",
    "FORMAT",
    "GROUPING",
    "ILIKE",
    "LATERAL",
    "LIMIT",
    "OFFSET",
    "OVER",
    "PARTITION",
    "QUALIFY",
    "REPLACE",
    "RETURNING",
    "SEMI",
    "SHOW",
    "TABLESAMPLE",
    "TEMPORARY",
    "TRUNCATE",
    "UNNEST",
    "WINDOW",
];

static DATA: LazyLock<SqlInfoData> = LazyLock::new(|| {
    let mut info = SqlInfoDataBuilder::new();
    server(&mut info);
    language(&mut info);
    limits(&mut info);
    info.build().expect("values of constants build")
});

/// Every code and its value.
pub(crate) fn data() -> &'static SqlInfoData {
    &DATA
}

/// The bitmask of enum values.
fn bits(values: &[i32]) -> i32 {
    values.iter().fold(0, |mask, value| mask | (1 << value))
}

fn names(functions: &[Arc<ScalarUDF>]) -> Vec<String> {
    let mut names: Vec<String> = functions.iter().map(|function| function.name().to_owned()).collect();
    names.sort_unstable();
    names
}

fn server(info: &mut SqlInfoDataBuilder) {
    info.append(I::FlightSqlServerName, "Skep");
    info.append(I::FlightSqlServerVersion, env!("CARGO_PKG_VERSION"));
    info.append(I::FlightSqlServerArrowVersion, ARROW_VERSION);
    info.append(I::FlightSqlServerReadOnly, false);
    info.append(I::FlightSqlServerSql, true);
    info.append(I::FlightSqlServerSubstrait, false);
    // Transactions, without savepoints.
    info.append(I::FlightSqlServerTransaction, 1i32);
    info.append(I::FlightSqlServerCancel, true);
    info.append(I::FlightSqlServerBulkIngestion, true);
    info.append(I::FlightSqlServerIngestTransactionsSupported, true);
    info.append(I::FlightSqlServerStatementTimeout, 0i32);
    info.append(I::FlightSqlServerTransactionTimeout, 0i32);
}

fn language(info: &mut SqlInfoDataBuilder) {
    for code in [
        I::SqlDdlSchema,
        I::SqlDdlTable,
        I::SqlAllTablesAreSelectable,
        I::SqlSupportsColumnAliasing,
        I::SqlNullPlusNullIsNull,
        I::SqlSupportsTableCorrelationNames,
        I::SqlSupportsExpressionsInOrderBy,
        I::SqlSupportsOrderByUnrelated,
        I::SqlSupportsLikeEscapeClause,
        I::SqlSupportsNonNullableColumns,
        I::SqlCatalogAtStart,
        I::SqlCorrelatedSubqueriesSupported,
        I::SqlMaxRowSizeIncludesBlobs,
        I::SqlBatchUpdatesSupported,
    ] {
        info.append(code, true);
    }
    // SqlTransactionsSupported is what JDBC and ODBC drivers show as theirs, whose commit and rollback send nothing: a yes would
    // have tools offer a rollback that does not happen. That there are transactions, FlightSqlServerTransaction says.
    for code in [
        I::SqlDdlCatalog,
        I::SqlSupportsDifferentTableCorrelationNames,
        I::SqlSupportsIntegrityEnhancementFacility,
        I::SqlSelectForUpdateSupported,
        I::SqlStoredProceduresSupported,
        I::SqlTransactionsSupported,
        I::SqlDataDefinitionCausesTransactionCommit,
        I::SqlDataDefinitionsInTransactionsIgnored,
        I::SqlSavepointsSupported,
        I::SqlNamedParametersSupported,
        I::SqlLocatorsUpdateCopy,
        I::SqlStoredFunctionsUsingCallSyntaxSupported,
    ] {
        info.append(code, false);
    }
    for (code, text) in [
        (I::SqlIdentifierQuoteChar, "\""),
        (I::SqlSearchStringEscape, "\\"),
        (I::SqlExtraNameCharacters, ""),
        (I::SqlSchemaTerm, "schema"),
        (I::SqlProcedureTerm, "procedure"),
        (I::SqlCatalogTerm, "catalog"),
    ] {
        info.append(code, text);
    }
    // Unquoted names are lower-cased; quoted ones are kept as written, for which the protocol has no word.
    info.append(I::SqlIdentifierCase, 3i32);
    info.append(I::SqlQuotedIdentifierCase, 0i32);
    // NULL sorts above every value.
    info.append(I::SqlNullOrdering, 0i32);
    info.append(I::SqlSupportedGroupBy, bits(&[0, 1]));
    info.append(I::SqlSupportedGrammar, bits(&[0, 1]));
    info.append(I::SqlAnsi92SupportedLevel, bits(&[0]));
    info.append(I::SqlOuterJoinsSupportLevel, bits(&[1, 2]));
    info.append(I::SqlSchemasSupportedActions, 0i32);
    info.append(I::SqlCatalogsSupportedActions, 0i32);
    info.append(I::SqlSupportedPositionedCommands, 0i32);
    info.append(I::SqlSupportedSubqueries, bits(&[0, 1, 2]));
    info.append(I::SqlSupportedUnions, bits(&[0, 1]));
    info.append(I::SqlSupportedTransactionsIsolationLevels, bits(&[0]));
    info.append(I::SqlSupportedResultSetTypes, bits(&[1]));
    info.append(I::SqlSupportedConcurrenciesForResultSetUnspecified, 0i32);
    info.append(I::SqlSupportedConcurrenciesForResultSetForwardOnly, bits(&[1]));
    info.append(I::SqlSupportedConcurrenciesForResultSetScrollSensitive, 0i32);
    info.append(I::SqlSupportedConcurrenciesForResultSetScrollInsensitive, 0i32);
    info.append(I::SqlSupportsConvert, BTreeMap::<i32, Vec<i32>>::new());
    info.append(I::SqlKeywords, KEYWORDS);
    info.append(I::SqlNumericFunctions, names(&datafusion::functions::math::functions()));
    info.append(I::SqlStringFunctions, names(&datafusion::functions::string::functions()));
    info.append(I::SqlDatetimeFunctions, names(&datafusion::functions::datetime::functions()));
    info.append(I::SqlSystemFunctions, Vec::<String>::new());
}

fn limits(info: &mut SqlInfoDataBuilder) {
    // Zero means no limit, or one that is not known.
    for code in [
        I::SqlMaxBinaryLiteralLength,
        I::SqlMaxCharLiteralLength,
        I::SqlMaxColumnNameLength,
        I::SqlMaxColumnsInGroupBy,
        I::SqlMaxColumnsInIndex,
        I::SqlMaxColumnsInOrderBy,
        I::SqlMaxColumnsInSelect,
        I::SqlMaxColumnsInTable,
        I::SqlMaxConnections,
        I::SqlMaxCursorNameLength,
        I::SqlMaxIndexLength,
        I::SqlDbSchemaNameLength,
        I::SqlMaxProcedureNameLength,
        I::SqlMaxCatalogNameLength,
        I::SqlMaxRowSize,
        I::SqlMaxStatementLength,
        I::SqlMaxStatements,
        I::SqlMaxTableNameLength,
        I::SqlMaxTablesInSelect,
        I::SqlMaxUsernameLength,
        I::SqlDefaultTransactionIsolation,
    ] {
        info.append(code, 0i64);
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, UInt32Array, UnionArray};

    use super::*;

    const STRING: i8 = 0;
    const BOOL: i8 = 1;
    const BIGINT: i8 = 2;
    const INT: i8 = 3;
    const LIST: i8 = 4;
    const MAP: i8 = 5;

    /// The child of the value union that drivers cast the code's value to.
    fn expected(code: u32) -> i8 {
        match code {
            0..=2 | 504 | 513 | 514 | 529..=531 => STRING,
            3..=5
            | 9..=11
            | 500..=502
            | 506
            | 515
            | 516
            | 518..=521
            | 523
            | 524
            | 527
            | 532
            | 536
            | 537
            | 539 => BOOL,
            556 | 563 | 565 | 566 | 572..=576 => BOOL,
            8
            | 100
            | 101
            | 503
            | 505
            | 507
            | 522
            | 525
            | 526
            | 528
            | 533..=535
            | 538
            | 540
            | 564
            | 567..=571 => INT,
            508..=512 => LIST,
            517 => MAP,
            541..=562 => BIGINT,
            other => panic!("code {other} has no expected type"),
        }
    }

    #[test]
    fn f2_f3_every_code_is_there_with_the_type_that_drivers_cast_to() {
        let batch = data().record_batch(Vec::<u32>::new()).unwrap();
        let codes = batch.column(0).as_any().downcast_ref::<UInt32Array>().unwrap();
        let values = batch.column(1).as_any().downcast_ref::<UnionArray>().unwrap();
        for row in 0..batch.num_rows() {
            assert_eq!(values.type_id(row), expected(codes.value(row)), "code {}", codes.value(row));
        }
        let present: Vec<u32> = codes.values().to_vec();
        let substrait_versions = [6, 7];
        let all =
            (0..=11).chain(100..=101).chain(500..=576).filter(|code| !substrait_versions.contains(code));
        assert_eq!(present, all.collect::<Vec<u32>>());
    }

    #[test]
    fn only_what_is_asked_for_is_answered() {
        let batch = data().record_batch([8u32, 504]).unwrap();
        assert_eq!(batch.num_rows(), 2);
        assert!(!batch.column(1).is_empty());
    }
}
