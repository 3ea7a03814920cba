//! Files of text: CSV and JSON lines.
//!
//! ```text
//! bytes --input--> bytes of whole rows --decode--> batches
//!                                         | error
//!                                         +--locate--> the same rows again, one by one --> file and line
//! ```
//!
//! DataFusion's own sources lose the compression, the NULL text and the shape of the file when a plan travels, and its
//! errors name neither file nor line; so these scans have a [`TextSource`] of ours, which carries all of it. It stands in a
//! `DataSourceExec` like any other, and both engines of the lanes split it by files.
//!
//! # Invariants
//! - A row is read once: parts of a file begin and end at line ends, and only files whose lines are rows are split.
//! - An error in a row names the file and the line on which the row begins.

mod decode;
mod input;
mod locate;
mod records;
mod source;
mod travel;

pub use source::TextSource;
pub use travel::{decode as decode_scan, encode as encode_scan};

pub(crate) use decode::{Rows, null_pattern};
pub(crate) use input::sample;
pub(crate) use locate::row_error;
pub(crate) use records::{LINE, RAW, UTF8, schema as record_schema};

use datafusion::common::parsers::CompressionTypeVariant;
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use serde::{Deserialize, Serialize};

/// How the bytes of a file are packed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// `.gz`
    Gzip,
    /// `.zst`
    Zstd,
    /// `.bz2`
    Bzip2,
    /// `.xz`
    Xz,
}

impl Compression {
    /// By the end of a file's name.
    pub fn of(path: &str) -> Self {
        match path.rsplit_once('.').map(|(_, end)| end.to_ascii_lowercase()).as_deref() {
            Some("gz" | "gzip") => Self::Gzip,
            Some("zst" | "zstd") => Self::Zstd,
            Some("bz2") => Self::Bzip2,
            Some("xz") => Self::Xz,
            _ => Self::None,
        }
    }

    pub(crate) fn decoder(self) -> FileCompressionType {
        FileCompressionType::from(match self {
            Self::None => CompressionTypeVariant::UNCOMPRESSED,
            Self::Gzip => CompressionTypeVariant::GZIP,
            Self::Zstd => CompressionTypeVariant::ZSTD,
            Self::Bzip2 => CompressionTypeVariant::BZIP2,
            Self::Xz => CompressionTypeVariant::XZ,
        })
    }
}

/// How a CSV file is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Csv {
    /// Whether the first line holds the names of the columns.
    pub header: bool,
    /// What stands between fields.
    pub delimiter: u8,
    /// What stands around fields that hold a delimiter.
    pub quote: u8,
    /// What stands before a quote inside a field; absent: quotes are doubled.
    pub escape: Option<u8>,
    /// What begins a line that is no row.
    pub comment: Option<u8>,
    /// The text of NULL, beside the empty field.
    pub null: Option<String>,
    /// Whether fields in quotes may hold line ends. Such files are not split.
    pub multiline: bool,
}

impl Default for Csv {
    fn default() -> Self {
        Self {
            header: true,
            delimiter: b',',
            quote: b'"',
            escape: None,
            comment: None,
            null: None,
            multiline: true,
        }
    }
}

/// What the rows of a text file look like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// Fields by position.
    Csv(Csv),
    /// One object on each line, fields by name.
    Json,
}

/// How a text file is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Format {
    /// Its rows.
    pub layout: Layout,
    /// Its packing.
    pub compression: Compression,
    /// Whether rows are read as they stand in the file, not decoded: the columns are those of [`record_schema`].
    #[serde(default)]
    pub records: bool,
}

impl Format {
    /// Whether parts of a file can be read by themselves.
    pub(crate) fn splits(&self) -> bool {
        let lines_are_rows = match &self.layout {
            Layout::Csv(csv) => !csv.multiline,
            Layout::Json => true,
        };
        // Lines are counted from the start of a file.
        lines_are_rows && self.compression == Compression::None && !self.records
    }
}
