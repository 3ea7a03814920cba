//! Variables of the shell: `\set name value`, and `:name` in statements.
//!
//! ```text
//! :name     the value as it is        :'name'   as a text of SQL        :"name"   as a name of SQL
//! ```
//!
//! A `:name` that is not set stays as it is, and so does whatever stands in texts, names, comments and after `::`.
//!
//! # Not here
//! Settings of the session, which are the server's: `SET`.

use std::collections::BTreeMap;

use skep_common::{Error, Result};

use crate::lex::{Kind, Token, tokens};

/// The variables that are set.
#[derive(Debug, Clone, Default)]
pub(crate) struct Variables(BTreeMap<String, String>);

impl Variables {
    /// # Errors
    /// A name that could not be written after a colon.
    pub(crate) fn set(&mut self, name: &str, value: &str) -> Result<()> {
        let mut letters = name.chars();
        let good = letters.next().is_some_and(|c| c.is_alphabetic() || c == '_')
            && letters.all(|c| c.is_alphanumeric() || c == '_');
        if !good {
            return Err(Error::invalid(format!("'{name}' is not the name of a variable"))
                .hint("letters, digits and _, as in \\set month 7"));
        }
        self.0.insert(name.to_owned(), value.to_owned());
        Ok(())
    }

    /// Takes one away; whether it was set.
    pub(crate) fn unset(&mut self, name: &str) -> bool {
        self.0.remove(name).is_some()
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// `text` with the values in the place of the names.
    pub(crate) fn expand(&self, text: &str) -> String {
        if self.0.is_empty() || !text.contains(':') {
            return text.to_owned();
        }
        let found: Vec<Token> = tokens(text).collect();
        let piece = |token: &Token| &text[token.start..token.end];
        let mut out = String::with_capacity(text.len());
        let mut at = 0;
        while at < found.len() {
            let colon = piece(&found[at]) == ":";
            let cast = at > 0 && piece(&found[at - 1]) == ":";
            let value = found.get(at + 1).filter(|_| colon && !cast).and_then(|next| self.value(next, text));
            match value {
                Some(value) => {
                    out.push_str(&value);
                    at += 2;
                }
                None => {
                    out.push_str(piece(&found[at]));
                    at += 1;
                }
            }
        }
        out
    }

    fn value(&self, token: &Token, text: &str) -> Option<String> {
        let name = &text[token.start..token.end];
        match token.kind {
            Kind::Word => self.0.get(name).cloned(),
            Kind::Text => {
                let value = self.0.get(name.strip_prefix('\'')?.strip_suffix('\'')?)?;
                Some(format!("'{}'", value.replace('\'', "''")))
            }
            Kind::Name => {
                let value = self.0.get(name.strip_prefix('"')?.strip_suffix('"')?)?;
                Some(format!("\"{}\"", value.replace('"', "\"\"")))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_where_names_stand() {
        let mut variables = Variables::default();
        variables.set("month", "7").unwrap();
        variables.set("who", "O'Neil").unwrap();
        variables.set("Col", "a \"b\"").unwrap();
        for (text, expected) in [
            ("SELECT :month, :'who', :\"Col\"", "SELECT 7, 'O''Neil', \"a \"\"b\"\"\""),
            ("SELECT ':month', \":month\" -- :month", "SELECT ':month', \":month\" -- :month"),
            ("SELECT x::month, a[1:month], :other, : month", "SELECT x::month, a[17], :other, : month"),
            ("SELECT $$:month$$ /* :month */", "SELECT $$:month$$ /* :month */"),
            (":months", ":months"),
        ] {
            assert_eq!(variables.expand(text), expected, "{text}");
        }
        assert!(variables.unset("month") && !variables.unset("month"));
        assert_eq!(variables.expand(":month"), ":month");
    }

    #[test]
    fn names_are_words() {
        let mut variables = Variables::default();
        for name in ["", "1a", "a-b", "a b", "'a'"] {
            assert!(variables.set(name, "1").is_err(), "{name}");
        }
    }
}
