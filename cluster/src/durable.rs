//! The durable lane between nodes: its codec, names of executors, and outputs of tasks as they are read.
//!
//! ```text
//! worker --Poll(ended tasks, free slots)--> coordinator        tasks come back; `skep_coordinator::lanes`
//! worker --Read(job, stage, partition)----> worker             outputs on disk, as they lie there
//! ```
//!
//! # Invariants
//! - An output is complete only if all its bytes came, and its rows are as many as its writer counted.
//! - A file is named by the life of the process that wrote it and by a number that no other run of a task has: it is never
//!   read while something writes it.
//!
//! # Not here
//! Where outputs lie on a disk (`skep-worker`), which of several outputs counts (`skep-coordinator`).

use std::sync::Arc;

use arrow::buffer::Buffer;
use arrow::datatypes::SchemaRef;
use arrow::ipc::reader::StreamDecoder;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use ballista_core::serde::BallistaPhysicalExtensionCodec;
use ballista_core::serde::protobuf::PartitionLocation;
use bytes::Bytes;
use datafusion_proto::physical_plan::{ComposedPhysicalExtensionCodec, PhysicalExtensionCodec};
use futures::stream::{BoxStream, StreamExt};
use skep_common::{Error, NodeId, Result};
use skep_engine::codec::Codec;
use url::Url;

use crate::Channels;
use crate::failure::from_call;
use crate::proto::durable::ReadRequest;
use crate::proto::durable::outputs_client::OutputsClient;
use crate::proto::durable::read_reply::Kind;

/// The codec of durable plans: our nodes and Ballista's. The same on every node.
pub fn codec(ours: Codec) -> Arc<dyn PhysicalExtensionCodec> {
    let theirs: Arc<dyn PhysicalExtensionCodec> = Arc::new(BallistaPhysicalExtensionCodec::default());
    Arc::new(ComposedPhysicalExtensionCodec::new(vec![Arc::new(ours), theirs]))
}

/// The name that Ballista knows one life of a worker by.
pub fn executor(node: &NodeId, life: &str) -> String {
    format!("{node}#{life}")
}

/// The worker of an executor's name.
pub fn node_of(executor: &str) -> &str {
    executor.split_once('#').map_or(executor, |(node, _)| node)
}

/// The port for calls of Ballista's that marks a worker whose outputs were given up: nobody calls it there.
pub const GIVEN_UP: u16 = 1;

fn life_of(executor: &str) -> &str {
    executor.split_once('#').map_or("", |(_, life)| life)
}

/// One partition of the output of one task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// The life of the worker that wrote it.
    pub executor: String,
    /// Where it is served.
    pub url: Url,
    /// The job.
    pub job: String,
    /// The stage that it is an output of.
    pub stage: usize,
    /// Which partition of the stage's output it is.
    pub partition: usize,
    /// The partition of the stage's input that it was made from.
    pub from: usize,
    /// Which run of a task wrote it.
    pub file: u64,
    /// Whether its file holds all partitions, with an index beside it.
    pub sorted: bool,
    /// Rows in it.
    pub rows: u64,
    /// Bytes of it on disk.
    pub bytes: u64,
    /// Whether the coordinator has given it up: there is no use in asking for it.
    pub given_up: bool,
}

impl TryFrom<PartitionLocation> for Output {
    type Error = Error;

    fn try_from(location: PartitionLocation) -> Result<Self> {
        let lacks = |what: &str| Error::internal(format!("the location of an output has no {what}"));
        let partition = location.partition_id.ok_or_else(|| lacks("partition"))?;
        let executor = location.executor_meta.ok_or_else(|| lacks("executor"))?;
        let stats = location.partition_stats.ok_or_else(|| lacks("statistics"))?;
        let url = format!("http://{}:{}", executor.host, executor.port);
        Ok(Self {
            url: url.parse().map_err(|e| Error::internal(format!("'{url}' is no address")).source(e))?,
            given_up: executor.grpc_port == u32::from(GIVEN_UP),
            executor: executor.id,
            job: partition.job_id,
            stage: partition.stage_id as usize,
            partition: partition.partition_id as usize,
            from: location.map_partition_id as usize,
            file: location.file_id.ok_or_else(|| lacks("file"))?,
            sorted: location.is_sort_shuffle,
            rows: u64::try_from(stats.num_rows).map_err(|_| lacks("count of rows"))?,
            bytes: u64::try_from(stats.num_bytes).unwrap_or(0),
        })
    }
}

/// The bytes of `output`, from the worker that has it.
///
/// # Errors
/// Typed errors of that worker; [`Kind::Unavailable`](skep_common::Kind::Unavailable) if it cannot be reached. The stream fails
/// if it ends before its end mark.
pub async fn fetch(channels: &Channels, output: &Output) -> Result<BoxStream<'static, Result<Bytes>>> {
    let url = output.url.clone();
    let request = ReadRequest {
        life: life_of(&output.executor).to_owned(),
        job: output.job.clone(),
        stage: output.stage as u64,
        partition: output.partition as u64,
        file: output.file,
        sorted: output.sorted,
    };
    let mut client = OutputsClient::new(channels.channel(&url)?).max_decoding_message_size(usize::MAX);
    let replies = client.read(request).await.map_err(|status| from_call(&url, &status))?.into_inner();
    let state = (replies, 0u64, false);
    let chunks = futures::stream::try_unfold(state, move |(mut replies, mut got, ended)| {
        let url = url.clone();
        async move {
            if ended {
                return Ok(None);
            }
            let cut =
                || Error::unavailable(format!("an output of the worker at {url} ended before its end mark"));
            let reply = replies.message().await.map_err(|status| from_call(&url, &status))?;
            match reply.and_then(|reply| reply.kind) {
                Some(Kind::Data(data)) => {
                    got += data.len() as u64;
                    Ok(Some((data, (replies, got, false))))
                }
                Some(Kind::End(sent)) if sent == got => Ok(Some((Bytes::new(), (replies, got, true)))),
                Some(Kind::End(_)) | None => Err(cut()),
            }
        }
    });
    Ok(chunks.boxed())
}

/// The rows in `chunks`, which are Arrow IPC streams one after the other; an error unless they are as many as `expected`.
pub fn rows(
    chunks: BoxStream<'static, Result<Bytes>>,
    schema: SchemaRef,
    expected: u64,
) -> BoxStream<'static, Result<RecordBatch>> {
    let state = Decoding {
        chunks,
        schema,
        decoder: StreamDecoder::new(),
        left: Buffer::from(&[]),
        rows: 0,
        expected,
    };
    futures::stream::try_unfold(state, |mut state| async move {
        let batch = state.next().await?;
        Ok(batch.map(|batch| (batch, state)))
    })
    .boxed()
}

struct Decoding {
    chunks: BoxStream<'static, Result<Bytes>>,
    schema: SchemaRef,
    decoder: StreamDecoder,
    left: Buffer,
    rows: u64,
    expected: u64,
}

impl Decoding {
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        let torn = |e| Error::corrupt("the output of a task cannot be read").source(e);
        loop {
            match self.decoder.decode(&mut self.left) {
                Ok(Some(batch)) if batch.num_rows() == 0 => {}
                Ok(Some(batch)) => {
                    self.rows += batch.num_rows() as u64;
                    return self.shaped(&batch).map(Some);
                }
                // The next stream begins where this one ended.
                Err(_) if !self.left.is_empty() && self.decoder.finish().is_ok() => {
                    self.decoder = StreamDecoder::new();
                }
                Err(e) => return Err(torn(e)),
                Ok(None) => match self.chunks.next().await {
                    Some(chunk) => self.left = Buffer::from(chunk?),
                    None => {
                        self.decoder.finish().map_err(torn)?;
                        if self.rows != self.expected {
                            let (rows, expected) = (self.rows, self.expected);
                            return Err(Error::corrupt(format!(
                                "the output of a task has {rows} rows, {expected} were written"
                            )));
                        }
                        return Ok(None);
                    }
                },
            }
        }
    }

    /// The same rows under the schema of the plan: names and metadata may differ from those in the file.
    fn shaped(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), batch.columns().to_vec(), &options)
            .map_err(|e| {
                Error::internal("the output of a task does not have the columns of the plan").source(e)
            })
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::Int64Array;
    use arrow::datatypes::{DataType, Field, Schema};
    use arrow::ipc::writer::StreamWriter;
    use futures::TryStreamExt;

    use super::*;

    fn schema() -> SchemaRef {
        Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]))
    }

    fn streams(counts: &[usize]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for count in counts {
            let mut writer = StreamWriter::try_new(&mut bytes, &schema()).unwrap();
            let column = Int64Array::from_iter_values(0..*count as i64);
            let batch = RecordBatch::try_new(schema(), vec![Arc::new(column)]).unwrap();
            writer.write(&batch).unwrap();
            writer.finish().unwrap();
        }
        bytes
    }

    async fn read(bytes: &[u8], step: usize, expected: u64) -> Result<usize> {
        let chunks: Vec<_> = bytes.chunks(step).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
        let batches = rows(futures::stream::iter(chunks).boxed(), schema(), expected);
        let batches: Vec<_> = batches.try_collect().await?;
        Ok(batches.iter().map(RecordBatch::num_rows).sum())
    }

    #[tokio::test]
    async fn streams_one_after_the_other_are_read_however_they_are_cut() {
        let bytes = streams(&[3, 0, 70, 1]);
        for step in [1, 7, 64, 1000, bytes.len()] {
            assert_eq!(read(&bytes, step, 74).await.unwrap(), 74, "{step}");
        }
        assert_eq!(read(&[], 1, 0).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn what_is_short_or_torn_is_an_error() {
        let bytes = streams(&[3, 70]);
        assert_eq!(read(&bytes, 64, 74).await.unwrap_err().kind(), skep_common::Kind::Corrupt);
        assert!(read(&bytes[..bytes.len() - 40], 64, 73).await.is_err());
        assert!(read(&bytes[..bytes.len() / 4], 64, 3).await.is_err());
    }

    #[test]
    fn executors_are_lives_of_workers() {
        let name = executor(&NodeId::new("w1").unwrap(), "a7");
        assert_eq!((node_of(&name), life_of(&name)), ("w1", "a7"));
    }
}
