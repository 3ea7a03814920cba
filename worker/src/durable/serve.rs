//! Serves outputs of tasks, as they lie on disk.

use std::path::{Path, PathBuf};

use ballista_core::execution_plans::create_shuffle_path;
use ballista_core::execution_plans::sort_shuffle::{ShuffleIndex, get_index_path};
use bytes::{Bytes, BytesMut};
use futures::stream::{BoxStream, StreamExt};
use skep_cluster::proto::durable::outputs_server::Outputs;
use skep_cluster::proto::durable::read_reply::Kind;
use skep_cluster::proto::durable::{ReadReply, ReadRequest};
use skep_common::{Error, Result};
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tonic::{Request, Response, Status};

/// Bytes of one message.
const CHUNK: usize = 1 << 20;

/// One partition of the output of one run of a task.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) job: String,
    pub(super) stage: usize,
    pub(super) partition: usize,
    pub(super) file: u64,
    pub(super) sorted: bool,
}

/// The bytes of `place` under `scratch`.
///
/// # Errors
/// [`Kind::NotFound`](skep_common::Kind::NotFound) if there is no such output.
pub(super) async fn read(scratch: &Path, place: &Place) -> Result<BoxStream<'static, Result<Bytes>>> {
    let Place { job, stage, partition, file, sorted } = place;
    // A name of a folder, nothing that leads elsewhere.
    if job.is_empty() || !job.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_') {
        return Err(Error::invalid(format!("'{job}' is not the name of a job")));
    }
    let missing = |e: std::io::Error| {
        let what = format!("partition {partition} of stage {stage} of job {job} is not here");
        if e.kind() == std::io::ErrorKind::NotFound {
            Error::not_found(what)
        } else {
            Error::unavailable(what)
        }
        .source(e)
    };
    let path = create_shuffle_path(scratch, &job.as_str().into(), *stage, *partition, Some(*file), *sorted)
        .map_err(|e| Error::internal("an output has no path").source(e))?;
    let mut data = tokio::fs::File::open(&path).await.map_err(missing)?;
    let (start, end) =
        if *sorted { range(&path, *partition)? } else { (0, data.metadata().await.map_err(missing)?.len()) };
    data.seek(std::io::SeekFrom::Start(start)).await.map_err(missing)?;
    let chunks = futures::stream::try_unfold((data, end - start), move |(mut data, left)| async move {
        if left == 0 {
            return Ok(None);
        }
        let want = usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK));
        let mut chunk = BytesMut::with_capacity(want);
        let mut part = (&mut data).take(want as u64);
        let failed = |e| Error::unavailable("the output of a task cannot be read").source(e);
        while chunk.len() < want {
            if part.read_buf(&mut chunk).await.map_err(failed)? == 0 {
                return Err(Error::corrupt("the output of a task is shorter than its index says"));
            }
        }
        let left = left - chunk.len() as u64;
        Ok(Some((chunk.freeze(), (data, left))))
    });
    Ok(chunks.boxed())
}

/// Where a partition lies in a file of all partitions.
fn range(path: &Path, partition: usize) -> Result<(u64, u64)> {
    let torn = || Error::corrupt(format!("the index of the output '{}' cannot be read", path.display()));
    let index = ShuffleIndex::read_from_file(&get_index_path(path)).map_err(|e| torn().source(e))?;
    if partition >= index.partition_count() {
        return Err(torn());
    }
    let (start, end) = index.get_partition_range(partition);
    let (start, end) = (u64::try_from(start).map_err(|_| torn())?, u64::try_from(end).map_err(|_| torn())?);
    if end < start { Err(torn()) } else { Ok((start, end)) }
}

/// The outputs of one worker.
pub(super) struct Served {
    pub(super) scratch: PathBuf,
    pub(super) life: String,
}

#[tonic::async_trait]
impl Outputs for Served {
    type ReadStream = BoxStream<'static, std::result::Result<ReadReply, Status>>;

    async fn read(
        &self,
        request: Request<ReadRequest>,
    ) -> std::result::Result<Response<Self::ReadStream>, Status> {
        let request = request.into_inner();
        if request.life != self.life {
            let error = Error::not_found("the outputs of an earlier life of this worker are gone");
            return Err(error.to_status());
        }
        let number =
            |n: u64| usize::try_from(n).map_err(|_| Error::invalid("a number is too large").to_status());
        let place = Place {
            stage: number(request.stage)?,
            partition: number(request.partition)?,
            job: request.job,
            file: request.file,
            sorted: request.sorted,
        };
        let chunks = read(&self.scratch, &place).await.map_err(|e| e.to_status())?;
        let replies =
            futures::stream::try_unfold((chunks, 0u64, false), |(mut chunks, sent, ended)| async move {
                if ended {
                    return Ok(None);
                }
                match chunks.next().await {
                    Some(chunk) => {
                        let chunk = chunk.map_err(|e| e.to_status())?;
                        let sent = sent + chunk.len() as u64;
                        Ok(Some((ReadReply { kind: Some(Kind::Data(chunk)) }, (chunks, sent, false))))
                    }
                    None => Ok(Some((ReadReply { kind: Some(Kind::End(sent)) }, (chunks, sent, true)))),
                }
            });
        Ok(Response::new(replies.boxed()))
    }
}
