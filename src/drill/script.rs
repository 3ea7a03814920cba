//! The script of a drill.

use std::path::Path;

use skep_common::{Error, Result};
use skep_repl::{Statement, statements};

use super::actions::cut;
use super::faults::Outline;

/// Reads the script, without the statements that choose a lane: the drill does.
///
/// # Errors
/// [`Kind::Invalid`](skep_common::Kind::Invalid) if it cannot be read, has commands of the shell in it, or no statement.
pub(crate) fn read(path: &Path) -> Result<Vec<Statement>> {
    let text = std::fs::read_to_string(path)
        .map_err(|e| Error::invalid(format!("cannot read '{}'", path.display())).source(e))?;
    let mut found = statements(&text).map_err(|e| e.context(format!("in '{}'", path.display())))?;
    found.retain(|statement| !chooses_a_lane(&statement.text));
    if found.is_empty() {
        return Err(Error::invalid(format!("'{}' has no statement", path.display())));
    }
    Ok(found)
}

/// What faults need to know of the statements.
pub(crate) fn outline(statements: &[Statement]) -> Outline {
    let mut outline = Outline { statements: statements.len(), ..Outline::default() };
    let mut written = false;
    for (statement, number) in statements.iter().zip(1..) {
        if reads(&statement.text) {
            outline.reading.push(number);
            if written {
                outline.after_writes.push(number);
            }
        }
        written |= writes(&statement.text);
    }
    outline
}

/// The words of a statement outside of comments, in lower case.
fn words(sql: &str) -> impl Iterator<Item = String> {
    let mut rest = sql;
    let mut code = String::new();
    while let Some(at) = [rest.find("--"), rest.find("/*")].into_iter().flatten().min() {
        code.push_str(&rest[..at]);
        code.push(' ');
        let end = if rest[at..].starts_with("--") { "\n" } else { "*/" };
        rest = rest[at..].find(end).map_or("", |length| &rest[at + length + end.len()..]);
    }
    code.push_str(rest);
    let split = |c: char| !(c.is_alphanumeric() || c == '_' || c == '.');
    code.split(split).filter(|word| !word.is_empty()).map(str::to_lowercase).collect::<Vec<_>>().into_iter()
}

fn chooses_a_lane(sql: &str) -> bool {
    let mut words = words(sql);
    words.next().as_deref() == Some("set") && words.any(|word| word == "skep.execution")
}

/// Whether it reads tables or files when it runs.
pub(crate) fn reads(sql: &str) -> bool {
    let first = words(sql).next().unwrap_or_default();
    let runs = ["select", "with", "from", "insert", "create", "merge", "update", "delete"];
    let view = words(sql).take(4).any(|word| word == "view");
    let source = words(sql).any(|word| ["from", "using", "update"].contains(&word.as_str()));
    runs.contains(&first.as_str()) && source && !view
}

fn writes(sql: &str) -> bool {
    let first = words(sql).next().unwrap_or_default();
    let view = words(sql).take(4).any(|word| word == "view");
    ["insert", "create", "merge", "copy"].contains(&first.as_str())
        && !view
        && (first != "create" || words(sql).any(|word| ["select", "from", "values"].contains(&word.as_str())))
}

/// The first words of a statement, for a line.
pub(crate) fn title(sql: &str) -> String {
    const LONGEST: usize = 70;
    let code = sql.lines().filter(|line| !line.trim_start().starts_with("--"));
    let text = code.flat_map(str::split_whitespace).collect::<Vec<_>>().join(" ");
    cut(&text, LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_are_told_apart_by_what_they_do() {
        let script = "SET skep.partitions = 4;
            CREATE SCHEMA s; -- from nothing
            CREATE TABLE t AS SELECT * FROM 'a.parquet';
            CREATE VIEW v AS SELECT * FROM t;
            /* first */ WITH x AS (SELECT 1) SELECT * FROM x;
            SELECT 1;
            MERGE INTO t USING u ON t.id = u.id WHEN MATCHED THEN DELETE;";
        let outline = outline(&statements(script).unwrap());
        assert_eq!(outline.statements, 7);
        assert_eq!(outline.reading, [3, 5, 7]);
        assert_eq!(outline.after_writes, [5, 7]);
    }

    #[test]
    fn the_drill_chooses_the_lane() {
        assert!(chooses_a_lane("-- here\nSET skep.execution = local"));
        assert!(!chooses_a_lane("SET skep.partitions = 4"));
        assert!(!chooses_a_lane("SELECT 'set skep.execution'"));
    }

    #[test]
    fn titles_are_short() {
        assert_eq!(title("-- why\nSELECT\n  1"), "SELECT 1");
        assert_eq!(title(&"x ".repeat(100)).len(), 73);
    }
}
