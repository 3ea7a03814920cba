//! Names: how they are written, compared and guessed.

use datafusion::sql::sqlparser::ast::{Ident, ObjectName};
use datafusion::sql::sqlparser::tokenizer::{Location, Span};
use skep_common::Position;
pub use skep_common::nearest;

/// The name of the catalog.
pub const CATALOG: &str = "skep";
/// The schema of names without one, unless the session says otherwise.
pub const DEFAULT_SCHEMA: &str = "main";
/// The schema of the standard's tables about tables.
pub const INFORMATION_SCHEMA: &str = "information_schema";

/// The schema of tables about the cluster as it is now.
pub const SYSTEM_SCHEMA: &str = "system";

/// The name that an identifier means: lower-case unless it stood in quotes.
pub fn normalise(ident: &Ident) -> String {
    match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_ascii_lowercase(),
    }
}

/// `name` as SQL that reads back as the same name.
pub fn quote(name: &str) -> String {
    let mut chars = name.chars();
    let plain = chars.next().is_some_and(|c| c.is_ascii_lowercase() || c == '_')
        && chars.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

/// Where `name` stands, unless it was made and not read.
pub fn position(name: &ObjectName) -> Option<Position> {
    name.0.first().and_then(|part| part.as_ident()).and_then(|ident| from_span(ident.span))
}

/// The start of `span`, unless it is empty.
pub fn from_span(span: Span) -> Option<Position> {
    from_location(span.start)
}

/// `location`, unless it is the parser's mark for "nowhere".
pub fn from_location(location: Location) -> Option<Position> {
    (location.line > 0).then_some(Position { line: location.line, column: location.column })
}

/// Whether `text` matches a LIKE pattern (`%` any text, `_` one character), ignoring case.
pub fn like(text: &str, pattern: &str) -> bool {
    let text: Vec<char> = text.to_lowercase().chars().collect();
    let pattern: Vec<char> = pattern.to_lowercase().chars().collect();
    // `reach[i]`: the pattern so far matches the first `i` characters.
    let mut reach = vec![false; text.len() + 1];
    reach[0] = true;
    for symbol in pattern {
        if symbol == '%' {
            let first = reach.iter().position(|&r| r).unwrap_or(reach.len());
            reach.iter_mut().skip(first).for_each(|r| *r = true);
        } else {
            for i in (1..reach.len()).rev() {
                reach[i] = reach[i - 1] && (symbol == '_' || symbol == text[i - 1]);
            }
            reach[0] = false;
        }
    }
    reach[text.len()]
}

/// Whether one of two folders, each ending in `/`, is the other or below it.
pub fn within(a: &str, b: &str) -> bool {
    a.starts_with(b) || b.starts_with(a)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_sql_does() {
        for (text, pattern, expected) in [
            ("flights", "fl%", true),
            ("flights", "%S", true),
            ("flights", "f_ights", true),
            ("flights", "ight", false),
            ("", "%", true),
            ("", "_", false),
            ("a%b", "a%b", true),
        ] {
            assert_eq!(like(text, pattern), expected, "{text} like {pattern}");
        }
    }

    #[test]
    fn quoting_reads_back() {
        assert_eq!(quote("flights"), "flights");
        assert_eq!(quote("Flights 2"), "\"Flights 2\"");
        assert_eq!(quote("a\"b"), "\"a\"\"b\"");
    }
}
