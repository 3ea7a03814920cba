//! The file of configuration: `$XDG_CONFIG_HOME/skep/shell.toml`.
//!
//! ```toml
//! [shell]                      # of the shell that a person types into; scripts are the same everywhere
//! format = "box"
//! rows = 500
//! pager = "less -S"
//! start = ["SET skep.execution = 'local';"]
//!
//! [variables]
//! month = "7"
//!
//! [profiles.prod]              # skep sql --profile prod, \connect prod
//! url = "grpc://warehouse:8815"
//! user = "ada"
//! password_file = "~/.skep-password"
//! schema = "mart"
//! color = "red"
//! ```
//!
//! # Not here
//! Connecting (`connect`), and what the settings do (`shell`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use skep_common::{Error, Position, Result};

use crate::args::Format;

/// The file.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) shell: Settings,
    pub(crate) variables: BTreeMap<String, String>,
    pub(crate) profiles: BTreeMap<String, Profile>,
}

/// How the shell begins.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Settings {
    /// As `\format`.
    pub(crate) format: Option<Name>,
    /// As `\x`.
    pub(crate) expanded: bool,
    /// As `\timing`.
    pub(crate) timing: Option<bool>,
    /// As `\rows`: 0 shows all.
    pub(crate) rows: Option<usize>,
    /// As `\width`: columns of a line, for terminals that do not say.
    pub(crate) width: Option<usize>,
    /// As `\pager`.
    pub(crate) pager: Option<PagerSetting>,
    /// Statements and commands that run first.
    pub(crate) start: Vec<String>,
}

/// The name of a format.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Name(pub(crate) Format);

impl TryFrom<String> for Name {
    type Error = String;

    fn try_from(name: String) -> std::result::Result<Self, String> {
        use clap::ValueEnum;
        Format::from_str(&name, true)
            .map(Name)
            .map_err(|_| format!("unknown format '{name}', it is one of {}", Format::names().join(", ")))
    }
}

/// Whether results that are longer than the screen are paged, and by what.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub(crate) enum PagerSetting {
    Switch(bool),
    Command(String),
}

/// A connection with a name.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Profile {
    /// `grpc://HOST:PORT`.
    pub(crate) url: Option<String>,
    pub(crate) user: Option<String>,
    /// Whose first line is the password.
    pub(crate) password_file: Option<PathBuf>,
    /// The environment variable that holds the password.
    pub(crate) password_env: Option<String>,
    /// Whether to ask for the password.
    pub(crate) password_prompt: bool,
    /// The schema of names without one.
    pub(crate) schema: Option<String>,
    /// Of the prompt.
    pub(crate) color: Option<Color>,
}

/// A colour of the terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Color {
    Red,
    Green,
    Yellow,
    Blue,
    Magenta,
    Cyan,
}

impl Color {
    /// What makes text bold and of this colour.
    pub(crate) fn code(self) -> &'static str {
        match self {
            Color::Red => "1;31",
            Color::Green => "1;32",
            Color::Yellow => "1;33",
            Color::Blue => "1;34",
            Color::Magenta => "1;35",
            Color::Cyan => "1;36",
        }
    }
}

/// A file that does not read, with its text, so that the place can be shown.
#[derive(Debug)]
pub(crate) struct Wrong {
    pub(crate) path: PathBuf,
    pub(crate) text: String,
    pub(crate) error: Error,
}

/// The file at `path`, or else that of the person, who may have none.
///
/// # Errors
/// A file that cannot be read or has keys that there are not.
pub(crate) fn load(path: Option<&Path>) -> std::result::Result<Config, Wrong> {
    let Some(found) = path.map(Path::to_owned).or_else(default_path) else { return Ok(Config::default()) };
    match std::fs::read_to_string(&found) {
        Ok(text) => parse(&text).map_err(|error| Wrong { path: found, text, error }),
        Err(e) if path.is_none() && e.kind() == std::io::ErrorKind::NotFound => Ok(Config::default()),
        Err(e) => {
            let error = Error::invalid("the configuration of the shell cannot be read").source(e);
            Err(Wrong { path: found, text: String::new(), error })
        }
    }
}

fn default_path() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = set("XDG_CONFIG_HOME").or_else(|| set("HOME").map(|home| home.join(".config")));
    folder.map(|folder| folder.join("skep").join("shell.toml"))
}

fn parse(text: &str) -> Result<Config> {
    toml::from_str(text).map_err(|wrong| {
        let (message, hint) = reworded(wrong.message());
        let error = Error::invalid(message);
        let error = match wrong.span() {
            Some(at) => error.at(skep_common::Span {
                start: Position::of(text, at.start, 1),
                end: Position::of(text, at.end, 1),
            }),
            None => error,
        };
        match hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    })
}

/// The reader's message about a key or value that there is not, as an error of ours with the nearest that there is.
fn reworded(message: &str) -> (String, Option<String>) {
    for (begin, what) in [("unknown field `", "key"), ("unknown variant `", "value")] {
        let Some((name, rest)) = message.strip_prefix(begin).and_then(|rest| rest.split_once('`')) else {
            continue;
        };
        let known: Vec<&str> = rest.split('`').skip(1).step_by(2).collect();
        let hint = match skep_common::nearest(name, known.iter().copied()) {
            Some(near) => format!("did you mean '{near}'?"),
            None => format!("it is one of {}", known.join(", ")),
        };
        return (format!("unknown {what} '{name}'"), Some(hint));
    }
    (message.to_owned(), None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_header_reads() {
        let source = include_str!("config.rs");
        let example: String = source
            .lines()
            .skip_while(|line| !line.starts_with("//! ```toml"))
            .skip(1)
            .take_while(|line| !line.starts_with("//! ```"))
            .map(|line| format!("{}\n", line.trim_start_matches("//!").trim_start()))
            .collect();
        let config = parse(&example).unwrap();
        assert_eq!(config.shell.format, Some(Name(Format::Box)));
        assert_eq!(config.shell.pager, Some(PagerSetting::Command("less -S".into())));
        assert_eq!(config.variables["month"], "7");
        assert_eq!(config.profiles["prod"].color, Some(Color::Red));
    }

    #[test]
    fn what_is_not_known_comes_with_what_is() {
        let error = |text: &str| format!("{:?}", parse(text).unwrap_err());
        assert_eq!(
            error("[shell]\nfromat = \"csv\""),
            "invalid: unknown key 'fromat' (line 2, column 1) (hint: did you mean 'format'?)"
        );
        assert!(error("[shell]\nformat = \"xml\"").contains("unknown format 'xml', it is one of table, box"));
        assert!(error("[profiles.p]\ncolor = \"rad\"").contains("hint: did you mean 'red'?"));
        assert!(error("[profiles.p]\npassword = \"x\"").contains("unknown key 'password'"));
    }
}
