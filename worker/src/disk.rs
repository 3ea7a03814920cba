//! What a full disk of this worker means to a query, and which disk that is.

use std::io::{ErrorKind, Write};
use std::path::Path;

use ballista_core::error::BallistaError;
use datafusion::error::DataFusionError;
use skep_cluster::failure::{from_datafusion, to_datafusion};
use skep_common::{Error, Kind, NodeId};

/// Bytes that are written to see whether there is room for any.
const PROBE: usize = 64 << 10;
const HINT: &str = "make room there and run the statement again; nothing of it was left";

/// The folder in which a worker keeps outputs of stages, and what tasks spill.
pub(crate) struct Place<'a> {
    pub(crate) node: &'a NodeId,
    pub(crate) folder: &'a Path,
}

impl Place<'_> {
    /// Names this worker and its folder in an error of a full disk, unless the error names another place already.
    pub(crate) fn named(&self, error: DataFusionError) -> DataFusionError {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
        while let Some(inner) = cause {
            if inner.is::<Error>() {
                return error;
            }
            cause = inner.source();
        }
        let ours = from_datafusion(&error);
        if ours.kind() == Kind::NoSpace { to_datafusion(self.full().source(ours)) } else { error }
    }

    /// What it means that outputs of a task of `job`, a folder, could not be written. `run` is a number that no other task has.
    ///
    /// Ballista's writers make text of what they run into: whether there is room is seen by trying.
    pub(crate) fn unwritten(&self, error: DataFusionError, job: &Path, run: u32) -> DataFusionError {
        match error.find_root() {
            DataFusionError::IoError(e) if !is_full(e.kind()) => {}
            DataFusionError::Execution(_) | DataFusionError::ArrowError(..) => {}
            DataFusionError::External(inner) if inner.is::<BallistaError>() => {}
            _ => return self.named(error),
        }
        let failed = match probe(job, run) {
            Err(e) if is_full(e.kind()) => self.full(),
            _ => {
                let (node, folder) = (self.node, self.folder.display());
                Error::unavailable(format!(
                    "worker '{node}' cannot write the outputs of a task to '{folder}'"
                ))
            }
        };
        to_datafusion(failed.source(error.to_string()))
    }

    fn full(&self) -> Error {
        let (node, folder) = (self.node, self.folder.display());
        Error::no_space(format!("the disk of worker '{node}' is full: there is no room in '{folder}'"))
            .hint(HINT)
    }
}

fn is_full(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge)
}

/// Writes to a file in `folder` and takes it away again.
fn probe(folder: &Path, run: u32) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let path = folder.join(format!("probe-{run}"));
    let written = std::fs::File::create(&path).and_then(|mut file| file.write_all(&[0; PROBE]));
    let removed = std::fs::remove_file(&path);
    written.and(removed)
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use super::*;

    fn full() -> DataFusionError {
        DataFusionError::Shared(Arc::new(DataFusionError::IoError(io::Error::from(ErrorKind::StorageFull))))
    }

    #[test]
    fn a_full_disk_is_named_and_is_no_want_of_memory() {
        let (node, folder) = (NodeId::new("w7").unwrap(), Path::new("/somewhere"));
        let place = Place { node: &node, folder };
        let named = from_datafusion(&place.named(full()));
        assert_eq!(named.kind(), Kind::NoSpace);
        assert!(named.message().contains("'w7'") && named.message().contains("/somewhere"), "{named}");
        let memory = DataFusionError::ResourcesExhausted("pool".to_owned());
        assert_eq!(from_datafusion(&place.named(memory)).kind(), Kind::Exhausted);
        let elsewhere = to_datafusion(Error::no_space("cannot write 'skep://a'"));
        assert_eq!(from_datafusion(&place.named(elsewhere)).message(), "cannot write 'skep://a'");
    }

    #[test]
    fn a_writer_that_fails_is_the_workers_trouble_and_not_the_statements() {
        let folder = std::env::temp_dir().join(format!("skep-probe-{}", skep_common::QueryId::generate()));
        let (node, job) = (NodeId::new("w7").unwrap(), folder.join("job"));
        let place = Place { node: &node, folder: &folder };
        let text = DataFusionError::Execution("IoError(Os { code: 5 })".to_owned());
        let failed = from_datafusion(&place.unwritten(text, &job, 1));
        assert_eq!(failed.kind(), Kind::Unavailable, "there is room: {failed}");
        assert!(failed.message().contains("'w7'"));
        assert_eq!(std::fs::read_dir(&job).unwrap().count(), 0);
        assert_eq!(from_datafusion(&place.unwritten(full(), &job, 1)).kind(), Kind::NoSpace);
        let odd = DataFusionError::Internal("odd".to_owned());
        assert_eq!(from_datafusion(&place.unwritten(odd, &job, 1)).kind(), Kind::Internal);
        std::fs::remove_dir_all(folder).unwrap();
    }
}
