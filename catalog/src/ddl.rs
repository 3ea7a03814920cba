//! The 28 tables of DuckLake 1.0, and our own beside them.

use std::borrow::Cow;

use skep_metadb::Dialect;

/// The version of the specification that is written, and the only one that is read.
pub(crate) const VERSION: &str = "1.0";

/// The tables as DuckDB itself makes them: it looks columns up by name and trusts their types. Those of SQLite have
/// numbers for booleans and texts for everything that is neither.
pub(crate) fn tables(dialect: Dialect) -> Cow<'static, str> {
    if dialect == Dialect::Sqlite {
        return Cow::Borrowed(TABLES);
    }
    let mut tables = TABLES.to_owned();
    for (ty, columns) in TYPES_OF_POSTGRES {
        for column in *columns {
            for on_sqlite in ["BIGINT", "VARCHAR"] {
                tables = tables.replace(&format!(" {column} {on_sqlite}"), &format!(" {column} {ty}"));
            }
        }
    }
    Cow::Owned(tables)
}

const TYPES_OF_POSTGRES: &[(&str, &[&str])] = &[
    ("UUID", &["schema_uuid", "table_uuid", "view_uuid"]),
    ("TIMESTAMP WITH TIME ZONE", &["snapshot_time", "schedule_start"]),
    ("BOOLEAN", &["path_is_relative", "contains_null", "contains_nan", "nulls_allowed", "is_partition"]),
];

const TABLES: &str = r#"
    CREATE TABLE ducklake_metadata(
        "key" VARCHAR NOT NULL, "value" VARCHAR NOT NULL, "scope" VARCHAR, scope_id BIGINT);
    CREATE TABLE ducklake_snapshot(
        snapshot_id BIGINT PRIMARY KEY, snapshot_time VARCHAR, schema_version BIGINT,
        next_catalog_id BIGINT, next_file_id BIGINT);
    CREATE TABLE ducklake_snapshot_changes(
        snapshot_id BIGINT PRIMARY KEY, changes_made VARCHAR, author VARCHAR,
        commit_message VARCHAR, commit_extra_info VARCHAR);
    CREATE TABLE ducklake_schema(
        schema_id BIGINT PRIMARY KEY, schema_uuid VARCHAR, begin_snapshot BIGINT,
        end_snapshot BIGINT, schema_name VARCHAR, path VARCHAR, path_is_relative BIGINT);
    CREATE TABLE ducklake_table(
        table_id BIGINT, table_uuid VARCHAR, begin_snapshot BIGINT, end_snapshot BIGINT,
        schema_id BIGINT, table_name VARCHAR, path VARCHAR, path_is_relative BIGINT);
    CREATE TABLE ducklake_view(
        view_id BIGINT, view_uuid VARCHAR, begin_snapshot BIGINT, end_snapshot BIGINT,
        schema_id BIGINT, view_name VARCHAR, dialect VARCHAR, "sql" VARCHAR,
        column_aliases VARCHAR);
    CREATE TABLE ducklake_tag(
        object_id BIGINT, begin_snapshot BIGINT, end_snapshot BIGINT, "key" VARCHAR,
        "value" VARCHAR);
    CREATE TABLE ducklake_column_tag(
        table_id BIGINT, column_id BIGINT, begin_snapshot BIGINT, end_snapshot BIGINT,
        "key" VARCHAR, "value" VARCHAR);
    CREATE TABLE ducklake_data_file(
        data_file_id BIGINT PRIMARY KEY, table_id BIGINT, begin_snapshot BIGINT,
        end_snapshot BIGINT, file_order BIGINT, path VARCHAR, path_is_relative BIGINT,
        file_format VARCHAR, record_count BIGINT, file_size_bytes BIGINT, footer_size BIGINT,
        row_id_start BIGINT, partition_id BIGINT, encryption_key VARCHAR, mapping_id BIGINT,
        partial_max BIGINT);
    CREATE TABLE ducklake_file_column_stats(
        data_file_id BIGINT, table_id BIGINT, column_id BIGINT, column_size_bytes BIGINT,
        value_count BIGINT, null_count BIGINT, min_value VARCHAR, max_value VARCHAR,
        contains_nan BIGINT, extra_stats VARCHAR);
    CREATE TABLE ducklake_file_variant_stats(
        data_file_id BIGINT, table_id BIGINT, column_id BIGINT, variant_path VARCHAR,
        shredded_type VARCHAR, column_size_bytes BIGINT, value_count BIGINT, null_count BIGINT,
        min_value VARCHAR, max_value VARCHAR, contains_nan BIGINT, extra_stats VARCHAR);
    CREATE TABLE ducklake_delete_file(
        delete_file_id BIGINT PRIMARY KEY, table_id BIGINT, begin_snapshot BIGINT,
        end_snapshot BIGINT, data_file_id BIGINT, path VARCHAR, path_is_relative BIGINT,
        format VARCHAR, delete_count BIGINT, file_size_bytes BIGINT, footer_size BIGINT,
        encryption_key VARCHAR, partial_max BIGINT);
    CREATE TABLE ducklake_column(
        column_id BIGINT, begin_snapshot BIGINT, end_snapshot BIGINT, table_id BIGINT,
        column_order BIGINT, column_name VARCHAR, column_type VARCHAR, initial_default VARCHAR,
        default_value VARCHAR, nulls_allowed BIGINT, parent_column BIGINT,
        default_value_type VARCHAR, default_value_dialect VARCHAR);
    CREATE TABLE ducklake_table_stats(
        table_id BIGINT, record_count BIGINT, next_row_id BIGINT, file_size_bytes BIGINT);
    CREATE TABLE ducklake_table_column_stats(
        table_id BIGINT, column_id BIGINT, contains_null BIGINT, contains_nan BIGINT,
        min_value VARCHAR, max_value VARCHAR, extra_stats VARCHAR);
    CREATE TABLE ducklake_partition_info(
        partition_id BIGINT, table_id BIGINT, begin_snapshot BIGINT, end_snapshot BIGINT);
    CREATE TABLE ducklake_partition_column(
        partition_id BIGINT, table_id BIGINT, partition_key_index BIGINT, column_id BIGINT,
        "transform" VARCHAR);
    CREATE TABLE ducklake_file_partition_value(
        data_file_id BIGINT, table_id BIGINT, partition_key_index BIGINT, partition_value VARCHAR);
    CREATE TABLE ducklake_files_scheduled_for_deletion(
        data_file_id BIGINT, path VARCHAR, path_is_relative BIGINT, schedule_start VARCHAR);
    CREATE TABLE ducklake_inlined_data_tables(
        table_id BIGINT, table_name VARCHAR, schema_version BIGINT);
    CREATE TABLE ducklake_column_mapping(
        mapping_id BIGINT, table_id BIGINT, "type" VARCHAR);
    CREATE TABLE ducklake_name_mapping(
        mapping_id BIGINT, column_id BIGINT, source_name VARCHAR, target_field_id BIGINT,
        parent_column BIGINT, is_partition BIGINT);
    CREATE TABLE ducklake_schema_versions(
        begin_snapshot BIGINT, schema_version BIGINT, table_id BIGINT);
    CREATE TABLE ducklake_macro(
        schema_id BIGINT, macro_id BIGINT, macro_name VARCHAR, begin_snapshot BIGINT,
        end_snapshot BIGINT);
    CREATE TABLE ducklake_macro_impl(
        macro_id BIGINT, impl_id BIGINT, dialect VARCHAR, "sql" VARCHAR, "type" VARCHAR);
    CREATE TABLE ducklake_macro_parameters(
        macro_id BIGINT, impl_id BIGINT, column_id BIGINT, parameter_name VARCHAR,
        parameter_type VARCHAR, default_value VARCHAR, default_value_type VARCHAR);
    CREATE TABLE ducklake_sort_info(
        sort_id BIGINT, table_id BIGINT, begin_snapshot BIGINT, end_snapshot BIGINT);
    CREATE TABLE ducklake_sort_expression(
        sort_id BIGINT, table_id BIGINT, sort_key_index BIGINT, expression VARCHAR,
        dialect VARCHAR, sort_direction VARCHAR, null_order VARCHAR);
"#;

/// Our own tables, numbered; see [`MetaDb::migrate`](skep_metadb::MetaDb::migrate).
pub(crate) const MIGRATIONS: [&str; 5] = [
    r#"
    -- which snapshot a commit of some key made
    CREATE TABLE skep_commit (key TEXT PRIMARY KEY, snapshot_id INTEGER NOT NULL, committed_at TEXT NOT NULL);

    -- the names that columns have in files, where a table is ours
    CREATE TABLE skep_column (
        table_id INTEGER NOT NULL, column_id INTEGER NOT NULL, physical TEXT NOT NULL,
        PRIMARY KEY (table_id, column_id)) WITHOUT ROWID;

    -- tables over files that somebody else keeps; ids come from next_catalog_id, rows are versioned like DuckLake's
    CREATE TABLE skep_external_table (
        table_id INTEGER NOT NULL, table_uuid TEXT NOT NULL, begin_snapshot INTEGER NOT NULL, end_snapshot INTEGER,
        schema_id INTEGER NOT NULL, table_name TEXT NOT NULL, columns TEXT NOT NULL, external TEXT NOT NULL,
        comment TEXT);

    -- DuckDB keeps indexes that others made, and its own tables have none
    CREATE INDEX skep_data_file_by_table ON ducklake_data_file (table_id, begin_snapshot);
    CREATE INDEX skep_delete_file_by_table ON ducklake_delete_file (table_id);
    CREATE INDEX skep_file_stats_by_file ON ducklake_file_column_stats (table_id, data_file_id);
    CREATE INDEX skep_partition_value_by_file ON ducklake_file_partition_value (table_id, data_file_id);
    CREATE INDEX skep_column_by_table ON ducklake_column (table_id);
"#,
    r#"
    -- transactions that were written down before their commit
    CREATE TABLE skep_transaction (
        key TEXT PRIMARY KEY, base INTEGER NOT NULL, author TEXT, message TEXT, changes TEXT NOT NULL,
        saved_at TEXT NOT NULL);
"#,
    r#"
    -- names of snapshots, which keep them from being expired
    CREATE TABLE skep_tag (name TEXT PRIMARY KEY, snapshot_id INTEGER NOT NULL, created_at TEXT NOT NULL);
"#,
    r#"
    -- which files of others were loaded into which table
    CREATE TABLE skep_load (
        table_id BIGINT NOT NULL, path TEXT NOT NULL, size_bytes BIGINT NOT NULL, modified_at TEXT NOT NULL,
        etag TEXT, rows_loaded BIGINT NOT NULL, rows_rejected BIGINT NOT NULL, snapshot_id BIGINT NOT NULL,
        loaded_at TEXT NOT NULL, PRIMARY KEY (table_id, path));
"#,
    r#"
    -- how many different values columns have, as far as the files of a snapshot show
    CREATE TABLE skep_sketch (
        table_id BIGINT NOT NULL, column_id BIGINT NOT NULL, snapshot_id BIGINT NOT NULL, rows_seen BIGINT NOT NULL,
        analyzed BIGINT NOT NULL, distinct_count BIGINT NOT NULL, sketch BLOB NOT NULL,
        PRIMARY KEY (table_id, column_id));
"#,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_tables_of_the_specification_are_there() {
        assert_eq!(TABLES.matches("CREATE TABLE ducklake_").count(), 28);
    }

    #[test]
    fn postgres_has_types_of_its_own() {
        let tables = tables(Dialect::Postgres);
        assert_eq!(tables.matches(" UUID").count(), 3);
        assert_eq!(tables.matches(" TIMESTAMP WITH TIME ZONE").count(), 2);
        assert_eq!(tables.matches(" BOOLEAN").count(), 11);
    }
}
