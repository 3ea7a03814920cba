//! The SQL around a model's query: how its rows get into its table, and what its tests ask.
//!
//! Pure.
//!
//! # Not here
//! Running it (`run::stage`, `run::test`).

use arrow::datatypes::Schema;
use skep_engine::names::quote;
use skep_engine::types::sql_name;

use crate::interval::{Span, text};
use crate::project::{Load, Model, Name, Rule};

/// The columns of a snapshot's table beside those of its query.
pub(crate) const VALID_FROM: &str = "valid_from";
pub(crate) const VALID_TO: &str = "valid_to";
pub(crate) const CURRENT: &str = "is_current";

/// `"schema"."name"`
pub(crate) fn table(name: &Name) -> String {
    format!("{}.{}", quote(&name.schema), quote(&name.name))
}

/// A time as a literal.
pub(crate) fn time(time: chrono::NaiveDateTime) -> String {
    format!("TIMESTAMP '{}'", text(time))
}

/// A moment as a literal, as exact as tables keep it.
pub(crate) fn moment(time: chrono::DateTime<chrono::Utc>) -> String {
    format!("TIMESTAMP '{}'", time.naive_utc().format("%Y-%m-%d %H:%M:%S%.6f"))
}

fn list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(quote).collect::<Vec<_>>().join(", ")
}

fn names(schema: &Schema) -> Vec<&str> {
    schema.fields().iter().map(|field| field.name().as_str()).collect()
}

/// `CREATE OR REPLACE TABLE`, without rows.
pub(crate) fn create(name: &Name, model: &Model, columns: &Schema) -> String {
    let columns = match &model.header.columns {
        Some(written) => written.trim().to_owned(),
        None => {
            let column = |field: &arrow::datatypes::FieldRef| {
                format!("{} {}", quote(field.name()), sql_name(field.data_type()))
            };
            columns.fields().iter().map(column).collect::<Vec<_>>().join(", ")
        }
    };
    let clause = |words: &str, keys: &[String]| {
        if keys.is_empty() { String::new() } else { format!(" {words} ({})", keys.join(", ")) }
    };
    format!(
        "CREATE OR REPLACE TABLE {} ({columns}){}{}",
        table(name),
        clause("PARTITIONED BY", &model.header.partition),
        clause("SORTED BY", &model.header.sort)
    )
}

/// All rows, in the place of those before.
pub(crate) fn overwrite(name: &Name, columns: &Schema, query: &str) -> String {
    let columns = list(names(columns));
    format!("INSERT OVERWRITE {} ({columns}) SELECT {columns} FROM (\n{query}\n) AS model", table(name))
}

/// The rows of `source`, all of its columns.
pub(crate) fn copy(name: &Name, columns: &Schema, source: &str) -> String {
    let columns = list(names(columns));
    format!("INSERT INTO {} ({columns}) SELECT {columns} FROM {source}", table(name))
}

/// The rows of a span go.
pub(crate) fn clear(name: &Name, column: &str, span: Span) -> String {
    let column = quote(column);
    format!(
        "DELETE FROM {} WHERE {column} >= {} AND {column} < {}",
        table(name),
        time(span.start),
        time(span.end)
    )
}

/// The rows of a span are added, and none beside them, whatever the query gives.
pub(crate) fn fill(name: &Name, columns: &Schema, query: &str, column: &str, span: Span) -> String {
    let (all, column) = (list(names(columns)), quote(column));
    format!(
        "INSERT INTO {} ({all}) SELECT {all} FROM (\n{query}\n) AS model WHERE {column} >= {} AND {column} < {}",
        table(name),
        time(span.start),
        time(span.end)
    )
}

/// The rows of a query that a span has.
pub(crate) fn inside(query: &str, column: &str, span: Span) -> String {
    let column = quote(column);
    format!(
        "SELECT * FROM (\n{query}\n) AS model WHERE {column} >= {} AND {column} < {}",
        time(span.start),
        time(span.end)
    )
}

/// Each partition that the query has rows for, in the place of what it was.
pub(crate) fn partitions(name: &Name, keys: &[String], columns: &Schema, query: &str) -> String {
    let is_key = |name: &str| keys.iter().any(|key| key == name);
    // Keys of partitions come last.
    let all = names(columns);
    let rest = all.iter().copied().filter(|name| !is_key(name));
    let columns = list(rest.chain(all.iter().copied().filter(|name| is_key(name))));
    format!(
        "INSERT OVERWRITE {} PARTITION ({}) SELECT {columns} FROM (\n{query}\n) AS model",
        table(name),
        list(keys.iter().map(String::as_str))
    )
}

/// By key: rows that differ change, those that are not there are added.
pub(crate) fn merge(name: &Name, keys: &[String], columns: &Schema, query: &str) -> String {
    let all = names(columns);
    let on: Vec<String> =
        keys.iter().map(|key| format!("(t.{0} IS NOT DISTINCT FROM s.{0})", quote(key))).collect();
    let rest: Vec<&str> = all.iter().copied().filter(|name| !keys.iter().any(|key| key == name)).collect();
    let differ: Vec<String> =
        rest.iter().map(|name| format!("(t.{0} IS DISTINCT FROM s.{0})", quote(name))).collect();
    let set: Vec<String> = rest.iter().map(|name| format!("{0} = s.{0}", quote(name))).collect();
    let matched = if rest.is_empty() {
        String::new()
    } else {
        format!("WHEN MATCHED AND ({}) THEN UPDATE SET {} ", differ.join(" OR "), set.join(", "))
    };
    let values: Vec<String> = all.iter().map(|name| format!("s.{}", quote(name))).collect();
    format!(
        "MERGE INTO {} AS t USING (\n{query}\n) AS s ON {} {matched}WHEN NOT MATCHED THEN INSERT ({}) VALUES ({})",
        table(name),
        on.join(" AND "),
        list(all.iter().copied()),
        values.join(", ")
    )
}

/// The columns of a snapshot's table.
pub(crate) fn snapshot_columns(columns: &Schema) -> Schema {
    use arrow::datatypes::{DataType, Field, TimeUnit};
    let stamp = DataType::Timestamp(TimeUnit::Microsecond, None);
    let own = [
        Field::new(VALID_FROM, stamp.clone(), true),
        Field::new(VALID_TO, stamp, true),
        Field::new(CURRENT, DataType::Boolean, true),
    ];
    let all = columns.fields().iter().map(|field| field.as_ref().clone()).chain(own);
    Schema::new(all.collect::<Vec<_>>())
}

/// Closes the rows whose state changed or went, then adds the states that are new: two statements.
pub(crate) fn snapshot(
    name: &Name,
    keys: &[String],
    check: &[String],
    columns: &Schema,
    query: &str,
    now: &str,
) -> [String; 2] {
    let all = names(columns);
    let on: Vec<String> =
        keys.iter().map(|key| format!("(t.{0} IS NOT DISTINCT FROM s.{0})", quote(key))).collect();
    let on = on.join(" AND ");
    let watched: Vec<&str> = if check.is_empty() {
        all.iter().copied().filter(|name| !keys.iter().any(|key| key == name)).collect()
    } else {
        check.iter().map(String::as_str).collect()
    };
    let differ: Vec<String> =
        watched.iter().map(|name| format!("(t.{0} IS DISTINCT FROM s.{0})", quote(name))).collect();
    let differ = if differ.is_empty() { "false".to_owned() } else { differ.join(" OR ") };
    let (from, to, current) = (quote(VALID_FROM), quote(VALID_TO), quote(CURRENT));
    let close = format!(
        "MERGE INTO {0} AS t USING (\n{query}\n) AS s ON {on} AND t.{current} \
         WHEN MATCHED AND ({differ}) THEN UPDATE SET {to} = {now}, {current} = false \
         WHEN NOT MATCHED BY SOURCE AND t.{current} THEN UPDATE SET {to} = {now}, {current} = false",
        table(name)
    );
    let columns = list(all.iter().copied());
    let values: Vec<String> = all.iter().map(|name| format!("s.{}", quote(name))).collect();
    let open = format!(
        "INSERT INTO {0} ({columns}, {from}, {to}, {current}) SELECT {1}, {now}, CAST(NULL AS TIMESTAMP), true \
         FROM (\n{query}\n) AS s WHERE NOT EXISTS (SELECT 1 FROM {0} AS t WHERE {on} AND t.{current})",
        table(name),
        values.join(", ")
    );
    [close, open]
}

/// Files that were not loaded yet.
pub(crate) fn load(name: &Name, load: &Load, rejects: Option<&Name>) -> String {
    let options: Vec<String> = load.options.iter().map(|(name, value)| format!("{name} {value}")).collect();
    let options = if options.is_empty() { String::new() } else { format!(" ({})", options.join(", ")) };
    let rejects = rejects
        .map(|name| format!(" ON_ERROR = CONTINUE REJECTED DATA AS TABLE {}", table(name)))
        .unwrap_or_default();
    format!("COPY INTO {} FROM {}{options}{rejects}", table(name), crate::project::quoted(&load.pattern))
}

/// The rows of `name` that do not fulfil `rule`, as what stands behind FROM and a condition; for rules about single rows.
pub(crate) fn failing_rows(name: &Name, rule: &Rule, to: impl Fn(&Name) -> Name) -> Option<String> {
    let condition = match rule {
        Rule::NotNull(column) => format!("m.{} IS NULL", quote(column)),
        Rule::Accepted { column, values } => {
            format!("m.{} NOT IN ({})", quote(column), values.join(", "))
        }
        Rule::Relationship { column, to: other, theirs } => format!(
            "m.{0} IS NOT NULL AND NOT EXISTS (SELECT 1 FROM {1} AS o WHERE o.{2} = m.{0})",
            quote(column),
            table(&to(other)),
            quote(theirs)
        ),
        // A condition that is NULL holds, as those of CHECK.
        Rule::Expression(condition) => format!("NOT coalesce(({condition}), true)"),
        Rule::Unique(_) | Rule::RowCount(_) | Rule::Freshness { .. } => return None,
    };
    Some(format!("{} AS m WHERE {condition}", table(name)))
}

/// All rows that do not fulfil `rule`, or what is counted of them; nothing where it asks about the table as a whole.
pub(crate) fn failing(name: &Name, rule: &Rule, to: impl Fn(&Name) -> Name) -> Option<String> {
    let few = examples(name, rule, to)?;
    Some(few.rsplit_once(" LIMIT ").map_or(few.clone(), |(all, _)| all.to_owned()))
}

/// What counts the failures of `rule`, as one row of one number.
pub(crate) fn count(name: &Name, rule: &Rule, now: &str, to: impl Fn(&Name) -> Name) -> String {
    if let Some(rows) = failing_rows(name, rule, to) {
        return format!("SELECT count(*) FROM {rows}");
    }
    let from = table(name);
    match rule {
        Rule::Unique(columns) => {
            let columns = list(columns.iter().map(String::as_str));
            format!(
                "SELECT count(*) FROM (SELECT {columns} FROM {from} GROUP BY {columns} HAVING count(*) > 1) AS d"
            )
        }
        Rule::RowCount(bounds) => {
            let low = bounds.min.map(|min| format!("count(*) < {min}"));
            let high = bounds.max.map(|max| format!("count(*) > {max}"));
            let out: Vec<String> = low.into_iter().chain(high).collect();
            let out = if out.is_empty() { "false".to_owned() } else { out.join(" OR ") };
            format!("SELECT CASE WHEN {out} THEN 1 ELSE 0 END FROM {from}")
        }
        Rule::Freshness { column, within } => format!(
            "SELECT CASE WHEN max({0}) >= {now} - INTERVAL {1} THEN 0 ELSE 1 END FROM {from}",
            quote(column),
            crate::project::quoted(within)
        ),
        _ => "SELECT 0".to_owned(),
    }
}

/// Some of the failures, to be shown.
pub(crate) fn examples(name: &Name, rule: &Rule, to: impl Fn(&Name) -> Name) -> Option<String> {
    const SHOWN: usize = 3;
    if let Some(rows) = failing_rows(name, rule, to) {
        return Some(format!("SELECT m.* FROM {rows} LIMIT {SHOWN}"));
    }
    match rule {
        Rule::Unique(columns) => {
            let columns = list(columns.iter().map(String::as_str));
            Some(format!(
                "SELECT {columns}, count(*) AS times FROM {} GROUP BY {columns} HAVING count(*) > 1 LIMIT {SHOWN}",
                table(name)
            ))
        }
        Rule::RowCount(_) => Some(format!("SELECT count(*) AS rows FROM {}", table(name))),
        Rule::Freshness { column, .. } => {
            Some(format!("SELECT max({}) AS newest FROM {}", quote(column), table(name)))
        }
        _ => None,
    }
}
