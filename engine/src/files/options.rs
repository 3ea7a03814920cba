//! What people say about files: the options of COPY, external tables and file queries.

use skep_common::{Error, Result};

use super::Kind;
use crate::names;
use crate::text::{Compression, Csv, Format, Layout};

/// Rows that the types of columns are guessed from, unless it is said.
const SAMPLE_DEFAULT: usize = 10_000;

/// How files are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileOptions {
    /// The kind of all of them.
    pub kind: Kind,
    /// Their packing; absent: by each name.
    pub compression: Option<Compression>,
    /// For CSV.
    pub csv: Csv,
    /// Rows that the types of columns are guessed from.
    pub sample: usize,
}

const NAMES: [&str; 12] = [
    "format",
    "compression",
    "header",
    "delimiter",
    "sep",
    "quote",
    "escape",
    "comment",
    "null",
    "multiline",
    "sample",
    "has_header",
];

impl FileOptions {
    /// From name and value pairs; what they leave out follows from `path`.
    ///
    /// # Errors
    /// [`Kind::Invalid`](skep_common::Kind::Invalid) for an unknown option or format, or a value that is none.
    pub fn parse<'a>(options: impl IntoIterator<Item = (&'a str, &'a str)>, path: &str) -> Result<Self> {
        let options: Vec<(&str, &str)> =
            options.into_iter().map(|(name, value)| (name.trim_start_matches("format."), value)).collect();
        let given = options.iter().find(|(name, _)| *name == "format").map(|(_, value)| *value);
        let kind = match given {
            Some(name) => Kind::parse(name)?,
            None => Kind::of(path).ok_or_else(|| unknown_kind(path))?,
        };
        let mut all = Self { kind, compression: None, csv: Csv::default(), sample: SAMPLE_DEFAULT };
        if tabs(path) {
            all.csv.delimiter = b'\t';
        }
        for (name, value) in options {
            all.set(name, value)?;
        }
        Ok(all)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<()> {
        let csv_only = !matches!(name, "format" | "compression" | "sample");
        if csv_only && self.kind != Kind::Csv && NAMES.contains(&name) {
            return Err(Error::invalid(format!(
                "option '{name}' is for CSV files, and these are {}",
                self.kind
            )));
        }
        match name {
            "format" => {}
            "compression" => self.compression = compression(value)?,
            "header" | "has_header" => self.csv.header = boolean(name, value)?,
            "delimiter" | "sep" => self.csv.delimiter = byte(name, value)?,
            "quote" => self.csv.quote = byte(name, value)?,
            "escape" => self.csv.escape = optional_byte(name, value)?,
            "comment" => self.csv.comment = optional_byte(name, value)?,
            "null" => self.csv.null = Some(value.to_owned()),
            "multiline" => self.csv.multiline = boolean(name, value)?,
            "sample" => {
                self.sample = value.parse().ok().filter(|rows| *rows > 0).ok_or_else(|| {
                    Error::invalid(format!("'{value}' is not a number of rows")).hint("as in SAMPLE 10000")
                })?;
            }
            _ => {
                let error = Error::invalid(format!("option '{name}' does not exist"));
                return Err(match names::nearest(name, NAMES) {
                    Some(near) => error.hint(format!("did you mean '{near}'?")),
                    None => error.hint(format!("options are {}", NAMES[..11].join(", "))),
                });
            }
        }
        Ok(())
    }

    /// How the text file at `path` is read. `None` for Parquet.
    pub(crate) fn text(&self, path: &str) -> Option<Format> {
        let layout = match self.kind {
            Kind::Csv => Layout::Csv(self.csv.clone()),
            Kind::Json => Layout::Json,
            Kind::Parquet => return None,
        };
        let compression = self.compression.unwrap_or_else(|| Compression::of(path));
        Some(Format { layout, compression, records: false })
    }
}

fn unknown_kind(path: &str) -> Error {
    Error::invalid(format!("the format of '{path}' is not known by its name"))
        .hint("names end in .parquet, .csv, .tsv, .json, .jsonl or .ndjson (and .gz, .zst, .bz2, .xz), or COPY and CREATE EXTERNAL TABLE name the format")
}

fn tabs(path: &str) -> bool {
    super::stem(path).to_ascii_lowercase().ends_with(".tsv")
}

fn boolean(name: &str, value: &str) -> Result<bool> {
    match value.to_ascii_lowercase().as_str() {
        "true" | "on" | "yes" | "1" => Ok(true),
        "false" | "off" | "no" | "0" => Ok(false),
        _ => Err(Error::invalid(format!("option '{name}' is true or false, not '{value}'"))),
    }
}

fn byte(name: &str, value: &str) -> Result<u8> {
    match (value, value.as_bytes()) {
        ("\\t" | "tab", _) => Ok(b'\t'),
        (_, [byte]) => Ok(*byte),
        _ => Err(Error::invalid(format!("option '{name}' is one ASCII character, not '{value}'"))),
    }
}

fn optional_byte(name: &str, value: &str) -> Result<Option<u8>> {
    match value {
        "" | "none" => Ok(None),
        _ => byte(name, value).map(Some),
    }
}

fn compression(value: &str) -> Result<Option<Compression>> {
    match value.to_ascii_lowercase().as_str() {
        "auto" => Ok(None),
        "none" | "uncompressed" => Ok(Some(Compression::None)),
        "gzip" | "gz" => Ok(Some(Compression::Gzip)),
        "zstd" | "zst" => Ok(Some(Compression::Zstd)),
        "bzip2" | "bz2" => Ok(Some(Compression::Bzip2)),
        "xz" => Ok(Some(Compression::Xz)),
        _ => Err(Error::invalid(format!("'{value}' is not a compression"))
            .hint("auto, none, gzip, zstd, bzip2 or xz")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[(&str, &str)], path: &str) -> Result<FileOptions> {
        FileOptions::parse(options.iter().copied(), path)
    }

    #[test]
    fn the_name_decides_what_is_not_said() {
        assert_eq!(parse(&[], "a/b.csv.gz").unwrap().kind, Kind::Csv);
        assert_eq!(parse(&[], "a/b.NDJSON").unwrap().kind, Kind::Json);
        assert_eq!(parse(&[], "d/*.parquet").unwrap().kind, Kind::Parquet);
        assert_eq!(parse(&[], "a.tsv").unwrap().csv.delimiter, b'\t');
        assert_eq!(parse(&[("format", "json")], "a.txt").unwrap().kind, Kind::Json);
        let csv = parse(&[("header", "false"), ("null", "NA"), ("sep", "|")], "a.csv").unwrap().csv;
        assert_eq!((csv.header, csv.null.as_deref(), csv.delimiter), (false, Some("NA"), b'|'));
    }

    #[test]
    fn wrong_options_say_what_is_right() {
        let errors = [
            parse(&[], "README.md"),
            parse(&[("format", "xml")], "a.csv"),
            parse(&[("colour", "red")], "a.csv"),
            parse(&[("haeder", "true")], "a.csv"),
            parse(&[("header", "true")], "a.json"),
            parse(&[("delimiter", "ab")], "a.csv"),
            parse(&[("compression", "rar")], "a.csv"),
        ]
        .map(|result| format!("{:?}", result.unwrap_err()));
        insta::assert_snapshot!(errors.join("\n"), @r#"
        invalid: the format of 'README.md' is not known by its name (hint: names end in .parquet, .csv, .tsv, .json, .jsonl or .ndjson (and .gz, .zst, .bz2, .xz), or COPY and CREATE EXTERNAL TABLE name the format)
        invalid: format 'xml' does not exist (hint: formats are csv, json and parquet)
        invalid: option 'colour' does not exist (hint: options are format, compression, header, delimiter, sep, quote, escape, comment, null, multiline, sample)
        invalid: option 'haeder' does not exist (hint: did you mean 'header'?)
        invalid: option 'header' is for CSV files, and these are json
        invalid: option 'delimiter' is one ASCII character, not 'ab'
        invalid: 'rar' is not a compression (hint: auto, none, gzip, zstd, bzip2 or xz)
        "#);
    }
}
