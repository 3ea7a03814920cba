//! Writes one block.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use skep_common::Result;

use super::sidecar::Summer;
use super::{Disk, io_error, sync_folder};
use crate::block::BlockId;

/// A block being written. Dropped before [`BlockWriter::finish`], it leaves nothing.
#[derive(Debug)]
pub struct BlockWriter {
    disk: Disk,
    block: BlockId,
    file: File,
    temporary: Temporary,
    summer: Summer,
}

/// A file that goes away unless it was renamed.
#[derive(Debug)]
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // Gone already when it was renamed; otherwise the next start removes it too.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl BlockWriter {
    pub(super) fn create(disk: Disk, block: BlockId, temporary: PathBuf, chunk: u32) -> Result<Self> {
        let file = File::create_new(&temporary)
            .map_err(|e| io_error(e, format!("cannot create '{}'", temporary.display())))?;
        Ok(Self { disk, block, file, temporary: Temporary(temporary), summer: Summer::new(chunk) })
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// Those of the file system; `Exhausted` when it is full. The block cannot be finished then.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|e| {
            io_error(e, format!("cannot write block {} on node {}", self.block, self.disk.node()))
        })?;
        self.summer.update(bytes);
        Ok(())
    }

    /// Makes the block durable and visible, and returns its length.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn finish(self) -> Result<u64> {
        let Self { disk, block, file, temporary, summer } = self;
        let wrong = |e| io_error(e, format!("cannot make block {block} durable on node {}", disk.node()));
        let sidecar = summer.finish(block);
        let sums = Temporary(temporary.0.with_extension("sum"));
        file.sync_all().map_err(wrong)?;
        drop(file);
        write_durable(&sums.0, &sidecar.encode()).map_err(wrong)?;

        let shard = disk.shard(block);
        if !shard.try_exists().map_err(wrong)? {
            std::fs::create_dir_all(&shard).map_err(wrong)?;
            sync_folder(&disk.0.folder.join("blocks"))?;
        }
        disk.0.sidecars.invalidate(&block);
        let replaced = std::fs::metadata(disk.block_path(block)).map_or(0, |meta| meta.len());
        // Checksums first: bytes under their name always have them.
        std::fs::rename(&sums.0, disk.sidecar_path(block)).map_err(wrong)?;
        std::fs::rename(&temporary.0, disk.block_path(block)).map_err(wrong)?;
        disk.account(replaced, sidecar.length);
        sync_folder(&shard)?;
        Ok(sidecar.length)
    }
}

fn write_durable(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = File::create_new(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}
