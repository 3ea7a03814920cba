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
#[derive(Debug, Clone, clap::Args)]
#[expect(missing_docs, reason = "clap would put it in the place of the command's own help")]
pub struct Args {
    /// `-c` and `-f`, in the order given.
    #[command(flatten)]
    pub inputs: Inputs,
    /// How rows are written
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
    /// Go on with the next statement when one fails
    #[arg(long)]
    pub keep_going: bool,
    /// Leave out the header line of csv and tsv
    #[arg(long)]
    pub no_header: bool,
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
        assert_eq!(cli.args.format, Format::Csv);
        assert!(Cli::try_parse_from(["sql"]).unwrap().args.inputs.0.is_empty());
        assert!(Cli::try_parse_from(["sql", "--format", "xml"]).is_err());
    }
}
