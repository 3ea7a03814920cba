//! Commands of the shell itself: `\d`, `.tables`, `\copy`, ...

use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use clap::ValueEnum;
use skep_common::Error;

use crate::args::Format;
use crate::copy;
use crate::shell::{Ended, Shell, Stop};

/// Names and help of the commands; a command has several spellings.
const COMMANDS: &[(&[&str], &str, &str)] = &[
    (&["?", "help"], "", "this list"),
    (&["q", "quit", "exit"], "", "leave"),
    (&["d", "describe"], "[SCHEMA.]TABLE", "columns of a table; without a name the tables"),
    (&["dt", "tables"], "[PATTERN]", "tables and views, by name or SCHEMA.NAME, with % and _"),
    (&["dn", "schemas"], "", "schemas"),
    (&["x", "expanded"], "", "rows on end, on or off"),
    (&["timing", "timer"], "", "times, on or off"),
    (&["format", "mode"], "[FORMAT]", "table, box, vertical, csv, tsv, json, ndjson or markdown"),
    (&["i", "read"], "FILE", "run the statements of a file"),
    (&["o", "output"], "[FILE]", "rows into a file; without a name back to the terminal"),
    (
        &["copy"],
        "TABLE FROM 'FILE' [(FORMAT csv, HEADER true, ...)]",
        "stream a file of this machine into a table",
    ),
];

/// How statements end, for the help.
const ENDINGS: &str =
    "Statements end in ; or \\g, and in \\G to see rows on end. Ctrl-c cancels a running one.";

/// Completions for a command being typed.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    COMMANDS.iter().flat_map(|(names, ..)| names.iter().copied())
}

/// Runs one command, written without its backslash or dot.
pub(crate) async fn run(shell: &mut Shell, command: &str) -> Result<(), Ended> {
    let (name, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
    let rest = rest.trim();
    let known = COMMANDS.iter().find(|(names, ..)| names.contains(&name)).map(|(names, ..)| names[0]);
    match known {
        Some("?") => help(shell),
        Some("q") => return Err(Ended::Quit),
        Some("d") if !rest.is_empty() => describe(shell, rest).await?,
        Some("d" | "dt") => tables(shell, rest).await?,
        Some("dn") => shell.statement("SHOW SCHEMAS", shell.effective_format()).await?,
        Some("x") => {
            shell.expanded = switch(shell.expanded, rest)?;
            shell.say(if shell.expanded { "rows on end" } else { "rows in columns" });
        }
        Some("timing") => {
            shell.timing = switch(shell.timing, rest)?;
            shell.say(if shell.timing { "timing on" } else { "timing off" });
        }
        Some("format") => format(shell, rest)?,
        Some("i") => file(shell, rest).await?,
        Some("o") => shell.redirect((!rest.is_empty()).then(|| PathBuf::from(unquote(rest))))?,
        Some("copy") => copy::run(shell, rest).await?,
        _ => {
            return Err(Error::invalid(format!("unknown command '\\{name}'"))
                .hint("\\? lists the commands")
                .into());
        }
    }
    Ok(())
}

fn help(shell: &Shell) {
    for (names, arguments, about) in COMMANDS {
        let spelled = names.iter().map(|name| format!("\\{name}")).collect::<Vec<_>>().join(" ");
        let left = if arguments.is_empty() { spelled } else { format!("{spelled} {arguments}") };
        shell.say(&format!("  {left:<28} {about}"));
    }
    shell.say(ENDINGS);
}

fn switch(now: bool, to: &str) -> Result<bool, Error> {
    match to {
        "" => Ok(!now),
        "on" => Ok(true),
        "off" => Ok(false),
        other => Err(Error::invalid(format!("'{other}' is neither on nor off"))),
    }
}

fn format(shell: &mut Shell, name: &str) -> Result<(), Error> {
    if !name.is_empty() {
        shell.format = Format::from_str(name, true).map_err(|_| {
            let all = Format::value_variants().iter().filter_map(|f| f.to_possible_value());
            let all: Vec<String> = all.map(|value| value.get_name().to_owned()).collect();
            Error::invalid(format!("unknown format '{name}'"))
                .hint(format!("choose one of {}", all.join(", ")))
        })?;
    }
    let name = shell.format.to_possible_value().map(|value| value.get_name().to_owned());
    shell.say(&format!("format {}", name.unwrap_or_default()));
    Ok(())
}

async fn file(shell: &mut Shell, path: &str) -> Result<(), Ended> {
    let path = unquote(path);
    if path.is_empty() {
        return Err(Error::invalid("which file?").hint("\\i FILE").into());
    }
    let text = tokio::fs::read_to_string(&path)
        .await
        .map_err(|e| Error::not_found(format!("cannot read '{path}'")).source(e))?;
    match shell.run(&text, Some(&path)).await {
        Ok(()) => Ok(()),
        Err(Stop::Quit) => Err(Ended::Quit),
        Err(stop) => Err(Ended::Stop(stop)),
    }
}

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

async fn tables(shell: &mut Shell, pattern: &str) -> Result<(), Ended> {
    let (schema, name) = table_name(pattern);
    let wild = |text: String| Some(text.replace('*', "%")).filter(|text| !text.is_empty());
    let (schema, name) = (schema.and_then(wild), wild(name));
    let mut found = shell.client.tables(schema.as_deref(), name.as_deref(), false).await?;
    if schema.is_none() {
        found.retain(|table| table.kind != "SYSTEM TABLE");
    }
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
        let current = shell.client.current_schema().await.unwrap_or_else(|| "main".to_owned());
        found.sort_by_key(|table| table.schema != current);
    }
    let shown = schema.map_or_else(|| name.to_owned(), |schema| format!("{schema}.{name}"));
    let missing =
        || Error::not_found(format!("table '{shown}' does not exist")).hint("\\dt lists the tables");
    found.into_iter().next().ok_or_else(|| missing().into())
}

async fn describe(shell: &mut Shell, name: &str) -> Result<(), Ended> {
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

fn batch(columns: Vec<(&str, ArrayRef)>) -> Result<RecordBatch, Error> {
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

    #[test]
    fn switches_switch() {
        assert!(switch(false, "").unwrap());
        assert!(!switch(true, "off").unwrap());
        assert!(switch(true, "maybe").is_err());
    }
}
