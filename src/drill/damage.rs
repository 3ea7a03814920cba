//! Damages a block on a worker's disk, as a bad disk does: the file stays, some of its bytes are others.

use std::fs::OpenOptions;
use std::io::Result;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A byte is changed in every part of this many, so that whoever reads of the block meets one: reads check whole chunks.
const EVERY: u64 = 64 << 10;

/// Damages the block of `folder` that `pick` draws, larger ones more likely. Gives its id and how many bytes were changed;
/// `None` if there is no block.
///
/// # Errors
/// Those of the file system.
pub(crate) fn damage(folder: &Path, pick: u64) -> Result<Option<(String, u64)>> {
    let blocks = blocks(folder)?;
    let total: u64 = blocks.iter().map(|(_, length)| length).sum();
    if total == 0 {
        return Ok(None);
    }
    let mut at = pick % total;
    for (path, length) in blocks {
        if at >= length {
            at -= length;
            continue;
        }
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        let parts = length.div_ceil(EVERY);
        for part in 0..parts {
            let start = part * EVERY;
            let place = start + pick.rotate_left(part as u32) % EVERY.min(length - start);
            let mut byte = [0];
            file.read_exact_at(&mut byte, place)?;
            file.write_all_at(&[!byte[0]], place)?;
        }
        let id = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        return Ok(Some((id, parts)));
    }
    Ok(None)
}

/// The blocks below `folder` and their lengths, by name.
fn blocks(folder: &Path) -> Result<Vec<(PathBuf, u64)>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            let path = entry.path();
            if entry.file_type()?.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "block") {
                found.push((path, entry.metadata()?.len()));
            }
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_one_block_is_changed() {
        let folder = std::env::temp_dir().join(format!("skep-damage-{}", skep_common::QueryId::generate()));
        let blocks = folder.join("blocks").join("ab");
        std::fs::create_dir_all(&blocks).unwrap();
        assert_eq!(damage(&folder, 5).unwrap(), None);
        let (small, large) = (vec![1_u8; 10], vec![2_u8; 150_000]);
        std::fs::write(blocks.join("aa.block"), &small).unwrap();
        std::fs::write(blocks.join("bb.block"), &large).unwrap();
        std::fs::write(blocks.join("bb.sum"), b"sum").unwrap();
        assert_eq!(damage(&folder, 100_000).unwrap(), Some(("bb".to_owned(), 3)));
        assert_eq!(std::fs::read(blocks.join("aa.block")).unwrap(), small);
        let damaged = std::fs::read(blocks.join("bb.block")).unwrap();
        assert_eq!(damaged.len(), large.len());
        for part in damaged.chunks(64 << 10) {
            assert_eq!(part.iter().filter(|&&byte| byte != 2).count(), 1);
        }
        std::fs::remove_dir_all(folder).unwrap();
    }
}
