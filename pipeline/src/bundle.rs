//! The files of a project, as they travel to the coordinator and are stored there.
//!
//! # Not here
//! What the files mean (`project`).

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use skep_common::{ByteSize, Error, Result};

/// Its settings.
pub const SETTINGS: &str = "pipeline.toml";
/// Folders whose files belong to a project, and how their names end.
const FOLDERS: [(&str, &[&str]); 3] = [("models", &["sql"]), ("tests", &["sql"]), ("seeds", &["csv"])];
/// More is data, which is loaded and not sent.
const BYTES_MAX: ByteSize = ByteSize::mib(16);
/// Folders inside folders.
const DEPTH_MAX: usize = 16;
/// Characters of a version that people see.
const VERSION_CHARS: usize = 12;

/// The texts of a project by their paths in its folder, with `/` between folders.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bundle {
    /// The texts.
    pub files: BTreeMap<String, String>,
}

impl Bundle {
    /// Reads the folder of a project.
    ///
    /// # Errors
    /// [`Kind::NotFound`](skep_common::Kind::NotFound) without a `pipeline.toml`; [`Kind::Invalid`](skep_common::Kind::Invalid) for
    /// files that are no text, and more than 16 MiB of them.
    pub fn read(folder: &Path) -> Result<Self> {
        let mut bundle = Self::default();
        let settings = folder.join(SETTINGS);
        if !settings.is_file() {
            return Err(Error::not_found(format!("there is no {SETTINGS} in '{}'", folder.display()))
                .hint("name the folder of a project, or make one: skep pipeline init FOLDER"));
        }
        bundle.add(SETTINGS, &settings)?;
        for (name, endings) in FOLDERS {
            let below = folder.join(name);
            if below.is_dir() {
                bundle.walk(name, &below, endings, 0)?;
            }
        }
        let bytes: usize = bundle.files.values().map(String::len).sum();
        if bytes as u64 > BYTES_MAX.bytes() {
            return Err(Error::invalid(format!(
                "the files of the project have {bytes} bytes, more than {BYTES_MAX}"
            ))
            .hint("load large files by a model of kind \"load\" instead of a seed"));
        }
        Ok(bundle)
    }

    fn walk(&mut self, name: &str, folder: &Path, endings: &[&str], depth: usize) -> Result<()> {
        let failed = |e: std::io::Error| {
            Error::invalid(format!("cannot read the folder '{}'", folder.display())).source(e)
        };
        if depth > DEPTH_MAX {
            return Err(Error::invalid(format!("'{}' lies too deep", folder.display())));
        }
        let mut entries: Vec<_> =
            std::fs::read_dir(folder).map_err(failed)?.collect::<Result<_, _>>().map_err(failed)?;
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let file = entry.file_name().to_string_lossy().into_owned();
            if file.starts_with('.') {
                continue;
            }
            let (path, inside) = (entry.path(), format!("{name}/{file}"));
            if path.is_dir() {
                self.walk(&inside, &path, endings, depth + 1)?;
            } else if endings.iter().any(|ending| file.ends_with(&format!(".{ending}"))) {
                self.add(&inside, &path)?;
            }
        }
        Ok(())
    }

    fn add(&mut self, name: &str, path: &Path) -> Result<()> {
        let text = std::fs::read_to_string(path)
            .map_err(|e| Error::invalid(format!("cannot read '{}'", path.display())).source(e))?;
        self.files.insert(name.to_owned(), text);
        Ok(())
    }

    /// What tells these texts from all others.
    pub fn version(&self) -> String {
        let mut hash = Sha256::new();
        for (path, text) in &self.files {
            for part in [path, text] {
                hash.update((part.len() as u64).to_le_bytes());
                hash.update(part.as_bytes());
            }
        }
        shown(hash)
    }
}

/// What tells `parts` from all others.
pub(crate) fn fingerprint<'a>(parts: impl IntoIterator<Item = &'a str>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    shown(hash)
}

fn shown(hash: Sha256) -> String {
    let hex: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    hex.chars().take(VERSION_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_belongs_to_a_project_is_read() {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("pipeline.toml", "[pipeline]\nname = 'x'\n"),
            ("models/lake/deep/a.sql", "SELECT 1"),
            ("models/lake/.swp.sql", "no"),
            ("models/README.md", "no"),
            ("seeds/s.csv", "a\n1\n"),
            ("raw/data.csv", "no"),
        ] {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let bundle = Bundle::read(folder.path()).unwrap();
        let names: Vec<&str> = bundle.files.keys().map(String::as_str).collect();
        assert_eq!(names, ["models/lake/deep/a.sql", "pipeline.toml", "seeds/s.csv"]);
        let mut other = bundle.clone();
        assert_eq!(bundle.version(), other.version());
        other.files.insert("seeds/s.csv".to_owned(), "a\n2\n".to_owned());
        assert_ne!(bundle.version(), other.version());
        std::fs::write(folder.path().join("seeds/s.csv"), [0xff, 0xfe]).unwrap();
        assert!(Bundle::read(folder.path()).unwrap_err().report().contains("s.csv"));
    }
}
