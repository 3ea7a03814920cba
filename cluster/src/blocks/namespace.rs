//! The namespace over gRPC, from the side of those who ask.

use std::future::Future;
use std::time::Duration;

use async_trait::async_trait;
use skep_common::{Error, Kind, NodeId, Result};
use skep_store::remote::{
    BlockReport, Directory, Fault, FileMap, FileMeta, Placement, ReportAnswer, WriteMode, WrittenBlock,
};
use skep_store::{BlockId, NamespaceClient, Peer, WriteId};
use tonic::{Response, Status};
use url::Url;

use super::NAMESPACE_MESSAGE_MAX;
use super::convert::{
    id_out, ids_in, maps_in, meta_in, mode_out, nodes_out, peers_in, placement_in, write_out, written_out,
};
use crate::failure::from_coordinator;
use crate::proto::blocks as wire;
use crate::proto::blocks::namespace_client;
use crate::{AuthChannel, ChannelConfig, Secret, connect};

/// Blocks in one message of a report.
const REPORT_PART: usize = 10_000;
/// Times a question is asked while the coordinator cannot be reached.
const TRIES_MAX: u32 = 4;

type Client = namespace_client::NamespaceClient<AuthChannel>;

/// Asks the coordinator. Cheap to clone.
#[derive(Debug, Clone)]
pub struct RemoteNamespace {
    client: Client,
    coordinator: Url,
    timeout: Duration,
}

impl RemoteNamespace {
    /// Connects when first used; `timeout` bounds each call (`[store] namespace_timeout`).
    ///
    /// # Errors
    /// `Invalid` for an address that is none.
    pub fn new(
        coordinator: &Url,
        secret: &Secret,
        channel: &ChannelConfig,
        timeout: Duration,
    ) -> Result<Self> {
        let client = Client::new(connect(coordinator, secret, channel)?)
            .max_decoding_message_size(NAMESPACE_MESSAGE_MAX)
            .max_encoding_message_size(NAMESPACE_MESSAGE_MAX);
        Ok(Self { client, coordinator: coordinator.clone(), timeout })
    }

    async fn call<T, F>(&self, ask: impl FnOnce(Client) -> F) -> Result<T>
    where
        F: Future<Output = std::result::Result<Response<T>, Status>>,
    {
        match tokio::time::timeout(self.timeout, ask(self.client.clone())).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(from_coordinator(&self.coordinator, &status)),
            Err(_) => {
                let late = Status::deadline_exceeded(format!("no answer in {:?}", self.timeout));
                Err(from_coordinator(&self.coordinator, &late))
            }
        }
    }

    /// For questions that change nothing: asked again when the coordinator restarts.
    async fn ask<T, F>(&self, ask: impl Fn(Client) -> F) -> Result<T>
    where
        F: Future<Output = std::result::Result<Response<T>, Status>>,
    {
        let mut tries = 1;
        loop {
            match self.call(&ask).await {
                Err(error) if error.kind() == Kind::Unavailable && tries < TRIES_MAX => {
                    tokio::time::sleep(Duration::from_millis(50) * tries * tries).await;
                    tries += 1;
                }
                result => return result,
            }
        }
    }
}

#[async_trait]
impl NamespaceClient for RemoteNamespace {
    async fn begin_write(
        &self,
        write: WriteId,
        path: &str,
        mode: &WriteMode,
        writer: Option<&NodeId>,
    ) -> Result<Placement> {
        let request = wire::BeginWriteRequest {
            write: write_out(write),
            path: path.to_owned(),
            mode: Some(mode_out(mode)),
            writer: writer.map(ToString::to_string),
        };
        placement_in(self.call(|mut client| async move { client.begin_write(request).await }).await?)
    }

    async fn add_block(
        &self,
        write: WriteId,
        writer: Option<&NodeId>,
        exclude: &[NodeId],
    ) -> Result<Placement> {
        let request = wire::AddBlockRequest {
            write: write_out(write),
            writer: writer.map(ToString::to_string),
            exclude: nodes_out(exclude),
        };
        placement_in(self.call(|mut client| async move { client.add_block(request).await }).await?)
    }

    async fn more_targets(
        &self,
        write: WriteId,
        block: BlockId,
        have: &[NodeId],
        exclude: &[NodeId],
    ) -> Result<Vec<Peer>> {
        let request = wire::MoreTargetsRequest {
            write: write_out(write),
            block: id_out(block),
            have: nodes_out(have),
            exclude: nodes_out(exclude),
        };
        let reply = self.call(|mut client| async move { client.more_targets(request).await }).await?;
        peers_in(reply.targets)
    }

    async fn renew_write(&self, write: WriteId) -> Result<()> {
        let request = wire::WriteId { write: write_out(write) };
        self.call(|mut client| async move { client.renew_write(request).await }).await.map(drop)
    }

    async fn commit_write(&self, write: WriteId, blocks: &[WrittenBlock]) -> Result<FileMeta> {
        let request = wire::CommitWriteRequest {
            write: write_out(write),
            blocks: blocks.iter().map(written_out).collect(),
        };
        meta_in(self.call(|mut client| async move { client.commit_write(request).await }).await?)
    }

    async fn abort_write(&self, write: WriteId) -> Result<()> {
        let request = wire::WriteId { write: write_out(write) };
        self.call(|mut client| async move { client.abort_write(request).await }).await.map(drop)
    }

    async fn lookup(&self, paths: &[String]) -> Result<Vec<Option<FileMap>>> {
        let request = wire::LookupRequest { paths: paths.to_vec() };
        let reply = self
            .ask(|mut client| {
                let request = request.clone();
                async move { client.lookup(request).await }
            })
            .await?;
        let maps = maps_in(reply)?;
        if maps.len() != paths.len() {
            return Err(Error::internal(format!(
                "the namespace answered for {} of {} paths",
                maps.len(),
                paths.len()
            )));
        }
        Ok(maps)
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: u32) -> Result<Vec<FileMeta>> {
        let request = wire::ListRequest { prefix: prefix.to_owned(), from: after.map(str::to_owned), limit };
        let reply = self
            .ask(|mut client| {
                let request = request.clone();
                async move { client.list(request).await }
            })
            .await?;
        reply.files.into_iter().map(meta_in).collect()
    }

    async fn list_directory(&self, prefix: &str, from: Option<&str>, limit: u32) -> Result<Directory> {
        let request = wire::ListRequest { prefix: prefix.to_owned(), from: from.map(str::to_owned), limit };
        let reply = self
            .ask(|mut client| {
                let request = request.clone();
                async move { client.list_directory(request).await }
            })
            .await?;
        Ok(Directory {
            files: reply.files.into_iter().map(meta_in).collect::<Result<_>>()?,
            folders: reply.folders,
            next: reply.next,
        })
    }

    async fn delete(&self, paths: &[String]) -> Result<Vec<bool>> {
        let request = wire::DeleteFilesRequest { paths: paths.to_vec() };
        let reply = self.call(|mut client| async move { client.delete(request).await }).await?;
        Ok(reply.found)
    }

    async fn copy(&self, from: &str, to: &str, create: bool) -> Result<()> {
        let request = wire::MoveRequest { from: from.to_owned(), to: to.to_owned(), create };
        self.call(|mut client| async move { client.copy(request).await }).await.map(drop)
    }

    async fn rename(&self, from: &str, to: &str, create: bool) -> Result<()> {
        let request = wire::MoveRequest { from: from.to_owned(), to: to.to_owned(), create };
        self.call(|mut client| async move { client.rename(request).await }).await.map(drop)
    }

    async fn report_fault(&self, block: BlockId, node: &NodeId, fault: Fault) -> Result<()> {
        let fault = match fault {
            Fault::Corrupt => wire::FaultKind::FaultCorrupt,
            Fault::Missing => wire::FaultKind::FaultMissing,
        };
        let request =
            wire::FaultRequest { block: id_out(block), node: node.to_string(), fault: fault.into() };
        self.call(|mut client| async move { client.report_fault(request).await }).await.map(drop)
    }

    async fn report_blocks(&self, report: BlockReport) -> Result<ReportAnswer> {
        let parts = futures::stream::iter(report_parts(report));
        let reply = self.call(|mut client| async move { client.report_blocks(parts).await }).await?;
        Ok(ReportAnswer {
            store: reply.store,
            known: reply.known,
            unknown: reply.unknown,
            missing: ids_in(&reply.missing)?,
        })
    }
}

fn report_parts(report: BlockReport) -> Vec<wire::BlockReportPart> {
    let mut parts: Vec<wire::BlockReportPart> = report
        .blocks
        .chunks(REPORT_PART)
        .map(|blocks| wire::BlockReportPart {
            blocks: blocks.iter().map(|block| id_out(block.id)).collect(),
            lengths: blocks.iter().map(|block| block.length).collect(),
            ..wire::BlockReportPart::default()
        })
        .collect();
    parts.extend(report.bad.chunks(REPORT_PART).map(|bad| wire::BlockReportPart {
        bad: bad.iter().map(|id| id_out(*id)).collect(),
        ..wire::BlockReportPart::default()
    }));
    parts.push(wire::BlockReportPart { last: true, ..wire::BlockReportPart::default() });
    if let Some(first) = parts.first_mut() {
        first.node = report.node.to_string();
        first.store = report.store;
    }
    parts
}
