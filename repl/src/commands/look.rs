//! Commands that look: tables, columns, views, the connection.
//!
//! # Not here
//! How rows are shown (`render`).

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use skep_common::{Error, nearest};

use crate::shell::{Ended, Shell};

/// `text` without quotes around it.
pub(crate) fn unquote(text: &str) -> String {
    let text = text.trim();
    for quote in ['\'', '"'] {
        if let Some(inner) = text.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote)) {
            return inner.replace(&format!("{quote}{quote}"), &quote.to_string());
        }
    }
    text.to_owned()
}

/// Splits `schema.table`, either of which may be quoted; unquoted names are lower-cased, as the server does.
pub(crate) fn table_name(text: &str) -> (Option<String>, String) {
    let mut parts: Vec<String> = Vec::new();
    let mut current = String::new();
    for token in crate::lex::tokens(text.trim()) {
        let piece = &text.trim()[token.start..token.end];
        match token.kind {
            crate::lex::Kind::Name => current.push_str(&unquote(&piece.replace('`', "\""))),
            _ if piece == "." => parts.push(std::mem::take(&mut current)),
            _ => current.push_str(&piece.to_lowercase()),
        }
    }
    (parts.pop().filter(|schema| !schema.is_empty()), current)
}

/// Lists tables and views; of `kind` only, if there is one.
pub(super) async fn tables(shell: &mut Shell, pattern: &str, kind: Option<&str>) -> Result<(), Ended> {
    let (schema, name) = table_name(pattern);
    let wild = |text: String| Some(text.replace('*', "%")).filter(|text| !text.is_empty());
    let (schema, name) = (schema.and_then(wild), wild(name));
    let mut found = shell.client.tables(schema.as_deref(), name.as_deref(), false).await?;
    if schema.is_none() {
        found.retain(|table| table.kind != "SYSTEM TABLE");
    }
    found.retain(|table| kind.is_none_or(|kind| table.kind == kind));
    let column = |value: fn(&crate::client::Table) -> &str| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(found.iter().map(value)))
    };
    let columns = vec![
        ("schema", column(|table| &table.schema)),
        ("name", column(|table| &table.name)),
        ("type", column(|table| &table.kind)),
    ];
    shell.show_batch(&batch(columns)?)
}

/// The table that an unqualified name means: that of the session's schema before others.
pub(crate) async fn find_table(
    shell: &mut Shell,
    schema: Option<&str>,
    name: &str,
) -> Result<crate::client::Table, Ended> {
    let escape = |text: &str| text.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
    let pattern = schema.map(escape);
    let mut found = shell.client.tables(pattern.as_deref(), Some(&escape(name)), true).await?;
    if found.len() > 1 {
        let current = shell.client.current_schema().await?.unwrap_or_else(|| "main".to_owned());
        found.sort_by_key(|table| table.schema != current);
    }
    let shown = schema.map_or_else(|| name.to_owned(), |schema| format!("{schema}.{name}"));
    match found.into_iter().next() {
        Some(table) => Ok(table),
        None => Err(missing(shell, schema, name, &shown).await.into()),
    }
}

/// The error of a table that there is not, with the nearest that there is.
async fn missing(shell: &mut Shell, schema: Option<&str>, name: &str, shown: &str) -> Error {
    let error = Error::not_found(format!("table '{shown}' does not exist"));
    let known = shell.client.tables(None, None, false).await.unwrap_or_default();
    let full: Vec<String> = known.iter().map(|table| format!("{}.{}", table.schema, table.name)).collect();
    let near = match schema {
        Some(_) => nearest(shown, full.iter().map(String::as_str)).map(str::to_owned),
        None => nearest(name, known.iter().map(|table| table.name.as_str())).map(|near| {
            let table = known.iter().find(|table| table.name == near);
            table.map_or_else(|| near.to_owned(), |table| format!("{}.{near}", table.schema))
        }),
    };
    match near {
        Some(near) => error.hint(format!("did you mean '{near}'?")),
        None => error.hint("\\dt lists the tables"),
    }
}

/// Shows what the session is connected to.
pub(super) async fn connection(shell: &mut Shell) -> Result<(), Ended> {
    let server = shell.client.server().await;
    let schema = shell.client.current_schema().await?;
    let rows: Vec<(&str, Option<String>)> = vec![
        ("address", Some(shell.login.server())),
        ("server", server),
        ("user", shell.login.user.clone()),
        ("profile", shell.login.profile.clone()),
        ("schema", schema),
    ];
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("what", Arc::new(StringArray::from_iter_values(rows.iter().map(|(name, _)| *name)))),
        ("value", Arc::new(StringArray::from_iter(rows.iter().map(|(_, value)| value.as_deref())))),
    ];
    shell.show_batch(&batch(columns)?)
}

pub(super) async fn describe(shell: &mut Shell, name: &str) -> Result<(), Ended> {
    let (schema, name) = table_name(name);
    let table = find_table(shell, schema.as_deref(), &name).await?;
    let fields = table.columns.map(|columns| columns.fields().clone()).unwrap_or_default();
    let text = |value: fn(&Field) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(fields.iter().map(|field| value(field))))
    };
    let metadata = |field: &Field, key: &str| field.metadata().get(key).cloned();
    let types = fields.iter().map(|field| {
        metadata(field, "ARROW:FLIGHT:SQL:TYPE_NAME").unwrap_or_else(|| field.data_type().to_string())
    });
    let remarks = fields.iter().map(|field| metadata(field, "ARROW:FLIGHT:SQL:REMARKS"));
    let columns = vec![
        ("column", text(|field| field.name().clone())),
        ("type", Arc::new(StringArray::from_iter_values(types)) as ArrayRef),
        ("nullable", text(|field| if field.is_nullable() { "yes" } else { "no" }.to_owned())),
        ("comment", Arc::new(StringArray::from_iter(remarks)) as ArrayRef),
    ];
    shell.say(&format!("{} {}.{}", table.kind.to_lowercase(), table.schema, table.name));
    shell.show_batch(&batch(columns)?)
}

pub(super) fn batch(columns: Vec<(&str, ArrayRef)>) -> Result<RecordBatch, Error> {
    let fields: Vec<Field> =
        columns.iter().map(|(name, _)| Field::new(*name, DataType::Utf8, true)).collect();
    let arrays = columns.into_iter().map(|(_, array)| array).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)
        .map_err(|e| Error::internal("cannot build the rows").source(e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_the_server_reads_them() {
        assert_eq!(table_name("Lake.Flights"), (Some("lake".into()), "flights".into()));
        assert_eq!(table_name("t"), (None, "t".into()));
        assert_eq!(table_name("\"My.Schema\".\"T\"\"x\""), (Some("My.Schema".into()), "T\"x".into()));
        assert_eq!(table_name("`a b`"), (None, "a b".into()));
    }

    #[test]
    fn quotes_come_off_once() {
        assert_eq!(unquote(" 'it''s' "), "it's");
        assert_eq!(unquote("plain"), "plain");
        assert_eq!(unquote("'"), "'");
    }
}
