//! The options of the shell that do not say where the server is.

use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, ValueEnum, value_parser};

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns drawn with ASCII lines
    Table,
    /// Columns drawn with box characters
    Box,
    /// One line per value, for wide rows
    Vertical,
    /// Comma-separated, with a header, quoted as RFC 4180 says; NULL is empty, an empty string is ""
    Csv,
    /// Tab-separated, with a header; tab, newline and backslash are escaped, NULL is \N
    Tsv,
    /// One JSON array of objects
    Json,
    /// One JSON object per line
    Ndjson,
    /// A Markdown table
    Markdown,
    /// A Parquet file, for --output or a redirection
    Parquet,
    /// An Arrow file, for --output or a redirection
    Arrow,
}

impl Format {
    /// Whether people read it, so that it is cut to fit a terminal and paged.
    pub(crate) fn for_people(self) -> bool {
        matches!(self, Format::Table | Format::Box | Format::Vertical | Format::Markdown)
    }

    /// Whether a result is a file of bytes.
    pub(crate) fn binary(self) -> bool {
        matches!(self, Format::Parquet | Format::Arrow)
    }

    /// As options and commands spell it.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// The names of all.
    pub(crate) fn names() -> Vec<String> {
        Self::value_variants().iter().map(|format| format.name()).collect()
    }

    /// What the name of a file says, and whether it says that the file is compressed with gzip.
    pub(crate) fn of_file(path: &std::path::Path) -> (Option<Self>, bool) {
        let name = path.to_string_lossy().to_lowercase();
        let gzip = name.ends_with(".gz");
        let bare = name.strip_suffix(".gz").unwrap_or(&name);
        let format = match bare.rsplit_once('.').map(|(_, extension)| extension) {
            Some("csv") => Some(Format::Csv),
            Some("tsv" | "tab") => Some(Format::Tsv),
            Some("json") => Some(Format::Json),
            Some("ndjson" | "jsonl") => Some(Format::Ndjson),
            Some("md" | "markdown") => Some(Format::Markdown),
            Some("parquet") => Some(Format::Parquet),
            Some("arrow" | "feather" | "ipc") => Some(Format::Arrow),
            Some("txt") => Some(Format::Table),
            _ => None,
        };
        (format, gzip)
    }
}

/// What to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// SQL from the command line.
    Command(String),
    /// A file of SQL; `-` is stdin.
    File(PathBuf),
}

// The options of `skep sql`, apart from the address.
#[derive(Debug, Clone, Default, clap::Args)]
#[expect(missing_docs, reason = "clap would put it in the place of the command's own help")]
pub struct Args {
    /// `-c` and `-f`, in the order given.
    #[command(flatten)]
    pub inputs: Inputs,
    /// How rows are written; unless said, as the name of the file of --output says, and otherwise a table
    #[arg(long, value_enum)]
    pub format: Option<Format>,
    /// Write rows to a file instead of stdout; .gz at the end of its name compresses it
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Set a variable: :NAME in statements is VALUE, :'NAME' a text, :"NAME" a name; may be repeated
    #[arg(long = "var", value_name = "NAME=VALUE", value_parser = variable)]
    pub variables: Vec<(String, String)>,
    /// The connection of that name in the shell's configuration, $XDG_CONFIG_HOME/skep/shell.toml
    #[arg(long, value_name = "NAME", env = "SKEP_PROFILE")]
    pub profile: Option<String>,
    /// Who connects; the URL may say it too
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// Ask for the password. The environment variable SKEP_PASSWORD may hold it
    #[arg(long, conflicts_with = "password_file")]
    pub password: bool,
    /// A file whose first line is the password
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// Another file of configuration than $XDG_CONFIG_HOME/skep/shell.toml
    #[arg(long, value_name = "FILE", conflicts_with = "no_rc")]
    pub rc: Option<PathBuf>,
    /// Read no file of configuration
    #[arg(long)]
    pub no_rc: bool,
    /// Go on with the next statement when one fails
    #[arg(long)]
    pub keep_going: bool,
    /// Leave out the header line of csv and tsv
    #[arg(long)]
    pub no_header: bool,
}

/// Reads NAME=VALUE.
fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    Ok((name.trim().to_owned(), value.to_owned()))
}

/// `-c` and `-f`, in the order given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inputs(pub Vec<Input>);

impl clap::Args for Inputs {
    fn augment_args(command: clap::Command) -> clap::Command {
        command
            .arg(
                Arg::new("command")
                    .short('c')
                    .long("command")
                    .value_name("SQL")
                    .action(ArgAction::Append)
                    .help("Run SQL, one or more statements, and exit; may be repeated, in one session"),
            )
            .arg(
                Arg::new("file")
                    .short('f')
                    .long("file")
                    .value_name("FILE")
                    .action(ArgAction::Append)
                    .value_parser(value_parser!(PathBuf))
                    .help("Run the statements of a file and exit; - is stdin; may be repeated"),
            )
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for Inputs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut inputs = Self::default();
        inputs.update_from_arg_matches(matches)?;
        Ok(inputs)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        let mut found: Vec<(usize, Input)> = Vec::new();
        if matches.value_source("command") == Some(ValueSource::CommandLine) {
            let indices = matches.indices_of("command").into_iter().flatten();
            let values = matches.get_many::<String>("command").into_iter().flatten();
            found.extend(indices.zip(values.map(|sql| Input::Command(sql.clone()))));
        }
        if matches.value_source("file") == Some(ValueSource::CommandLine) {
            let indices = matches.indices_of("file").into_iter().flatten();
            let values = matches.get_many::<PathBuf>("file").into_iter().flatten();
            found.extend(indices.zip(values.map(|path| Input::File(path.clone()))));
        }
        found.sort_by_key(|(index, _)| *index);
        self.0 = found.into_iter().map(|(_, input)| input).collect();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn commands_and_files_keep_their_order() {
        let cli = Cli::try_parse_from(["sql", "-c", "a", "-f", "b.sql", "--command", "c", "--format", "csv"])
            .unwrap();
        let expected = [Input::Command("a".into()), Input::File("b.sql".into()), Input::Command("c".into())];
        assert_eq!(cli.args.inputs.0, expected);
        assert_eq!(cli.args.format, Some(Format::Csv));
        assert!(Cli::try_parse_from(["sql"]).unwrap().args.inputs.0.is_empty());
        assert!(Cli::try_parse_from(["sql", "--format", "xml"]).is_err());
    }

    #[test]
    fn variables_are_names_and_values() {
        let cli = Cli::try_parse_from(["sql", "--var", "a=b=c", "--var", "x="]).unwrap();
        assert_eq!(cli.args.variables, [("a".into(), "b=c".into()), ("x".into(), String::new())]);
        assert!(Cli::try_parse_from(["sql", "--var", "a"]).is_err());
    }

    #[test]
    fn names_of_files_say_how_rows_are_written() {
        let of = |name: &str| Format::of_file(std::path::Path::new(name));
        assert_eq!(of("a/b.CSV.gz"), (Some(Format::Csv), true));
        assert_eq!(of("x.parquet"), (Some(Format::Parquet), false));
        assert_eq!(of("x.jsonl"), (Some(Format::Ndjson), false));
        assert_eq!(of("csv"), (None, false));
    }
}
