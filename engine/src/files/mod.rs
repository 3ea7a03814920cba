//! Tables over files that somebody else keeps: external tables, files in FROM, the files of COPY INTO.
//!
//! ```text
//! 'data/*.csv' --place--> store and pattern --list--> files --infer--> columns --FileTable--> scan
//! ```
//!
//! The files are listed when a statement is planned, and read when it runs; a file that is gone by then is an error.

mod infer;
mod list;
mod options;
mod partitions;
mod place;
mod table;

pub(crate) use list::store;
pub use options::FileOptions;
pub use place::data_path;
pub(crate) use place::{Place, below, folder, folder_shown, shown};
pub use table::Folder;
pub(crate) use table::{Declared, FileTable, SOURCE, declared};

use std::fmt;

use skep_common::{Error, Result};

use crate::names;

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Fields by position.
    Csv,
    /// One object on each line.
    Json,
    /// Columns.
    Parquet,
}

impl Kind {
    /// By its name.
    ///
    /// # Errors
    /// [`Kind::Invalid`](skep_common::Kind::Invalid) for another.
    pub fn parse(name: &str) -> Result<Self> {
        match name.to_ascii_lowercase().as_str() {
            "csv" | "tsv" => Ok(Self::Csv),
            "json" | "jsonl" | "ndjson" => Ok(Self::Json),
            "parquet" => Ok(Self::Parquet),
            other => {
                let error = Error::invalid(format!("format '{other}' does not exist"));
                Err(match names::nearest(other, ["csv", "json", "parquet"]) {
                    Some(near) => error.hint(format!("did you mean '{near}'?")),
                    None => error.hint("formats are csv, json and parquet"),
                })
            }
        }
    }

    /// By the end of a file's name.
    pub fn of(path: &str) -> Option<Self> {
        let (_, end) = stem(path).rsplit_once('.')?;
        Self::parse(end).ok()
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Csv => "csv",
            Self::Json => "json",
            Self::Parquet => "parquet",
        })
    }
}

/// `path` without the end that names a compression.
fn stem(path: &str) -> &str {
    match path.rsplit_once('.') {
        Some((stem, end))
            if ["gz", "gzip", "zst", "zstd", "bz2", "xz"].contains(&end.to_ascii_lowercase().as_str()) =>
        {
            stem
        }
        _ => path,
    }
}
