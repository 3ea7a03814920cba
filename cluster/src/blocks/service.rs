//! The namespace over gRPC, from the coordinator's side.

use std::sync::Arc;

use skep_common::{Error, NodeId, Result};
use skep_store::remote::{BlockOnDisk, BlockReport, Fault};
use skep_store::{BlockId, NamespaceClient, WriteId};
use tonic::{Request, Response, Status, Streaming};

use super::NAMESPACE_MESSAGE_MAX;
use super::convert::{
    id_out, ids_in, maps_out, meta_out, mode_in, nodes_in, peers_out, placement_out, written_in,
};
use crate::proto::blocks as wire;
use crate::proto::blocks::namespace_server::{Namespace, NamespaceServer};

/// Blocks of one node that a report may name: 10 million blocks are a petabyte.
const REPORT_MAX: usize = 10_000_000;
/// Paths in one call.
const PATHS_MAX: usize = 10_000;

/// Serves a namespace to workers and stores.
#[derive(Debug, Clone)]
pub struct NamespaceService(Arc<dyn NamespaceClient>);

impl NamespaceService {
    /// The tonic service over `namespace`. The server checks the secret, before every call.
    pub fn server(namespace: Arc<dyn NamespaceClient>) -> NamespaceServer<Self> {
        NamespaceServer::new(Self(namespace))
            .max_decoding_message_size(NAMESPACE_MESSAGE_MAX)
            .max_encoding_message_size(NAMESPACE_MESSAGE_MAX)
    }
}

type Answer<T> = std::result::Result<Response<T>, Status>;

fn done(result: Result<()>) -> Answer<wire::Done> {
    result?;
    Ok(Response::new(wire::Done {}))
}

fn bounded(paths: &[String]) -> Result<()> {
    if paths.len() > PATHS_MAX {
        return Err(Error::invalid(format!("{} paths in one call, {PATHS_MAX} are allowed", paths.len())));
    }
    Ok(())
}

fn writer(writer: Option<String>) -> Result<Option<NodeId>> {
    writer.map(NodeId::new).transpose()
}

#[tonic::async_trait]
impl Namespace for NamespaceService {
    async fn begin_write(&self, request: Request<wire::BeginWriteRequest>) -> Answer<wire::Placement> {
        let request = request.into_inner();
        let (write, mode) = (WriteId::from_slice(&request.write)?, mode_in(request.mode)?);
        let writer = writer(request.writer)?;
        let placement = self.0.begin_write(write, &request.path, &mode, writer.as_ref()).await?;
        Ok(Response::new(placement_out(&placement)))
    }

    async fn add_block(&self, request: Request<wire::AddBlockRequest>) -> Answer<wire::Placement> {
        let request = request.into_inner();
        let (writer, exclude) = (writer(request.writer)?, nodes_in(request.exclude)?);
        let write = WriteId::from_slice(&request.write)?;
        let placement = self.0.add_block(write, writer.as_ref(), &exclude).await?;
        Ok(Response::new(placement_out(&placement)))
    }

    async fn more_targets(
        &self,
        request: Request<wire::MoreTargetsRequest>,
    ) -> Answer<wire::MoreTargetsReply> {
        let request = request.into_inner();
        let (write, block) = (WriteId::from_slice(&request.write)?, BlockId::from_slice(&request.block)?);
        let (have, exclude) = (nodes_in(request.have)?, nodes_in(request.exclude)?);
        let targets = self.0.more_targets(write, block, &have, &exclude).await?;
        Ok(Response::new(wire::MoreTargetsReply { targets: peers_out(&targets) }))
    }

    async fn renew_write(&self, request: Request<wire::WriteId>) -> Answer<wire::Done> {
        done(self.0.renew_write(WriteId::from_slice(&request.into_inner().write)?).await)
    }

    async fn commit_write(&self, request: Request<wire::CommitWriteRequest>) -> Answer<wire::FileMeta> {
        let request = request.into_inner();
        let write = WriteId::from_slice(&request.write)?;
        let blocks = request.blocks.into_iter().map(written_in).collect::<Result<Vec<_>>>()?;
        Ok(Response::new(meta_out(&self.0.commit_write(write, &blocks).await?)))
    }

    async fn abort_write(&self, request: Request<wire::WriteId>) -> Answer<wire::Done> {
        done(self.0.abort_write(WriteId::from_slice(&request.into_inner().write)?).await)
    }

    async fn lookup(&self, request: Request<wire::LookupRequest>) -> Answer<wire::LookupReply> {
        let paths = request.into_inner().paths;
        bounded(&paths)?;
        Ok(Response::new(maps_out(&self.0.lookup(&paths).await?)))
    }

    async fn list(&self, request: Request<wire::ListRequest>) -> Answer<wire::ListReply> {
        let request = request.into_inner();
        let files = self.0.list(&request.prefix, request.from.as_deref(), request.limit).await?;
        let files = files.iter().map(meta_out).collect();
        Ok(Response::new(wire::ListReply { files, folders: Vec::new(), next: None }))
    }

    async fn list_directory(&self, request: Request<wire::ListRequest>) -> Answer<wire::ListReply> {
        let request = request.into_inner();
        let page = self.0.list_directory(&request.prefix, request.from.as_deref(), request.limit).await?;
        let files = page.files.iter().map(meta_out).collect();
        Ok(Response::new(wire::ListReply { files, folders: page.folders, next: page.next }))
    }

    async fn delete(&self, request: Request<wire::DeleteFilesRequest>) -> Answer<wire::DeleteFilesReply> {
        let paths = request.into_inner().paths;
        bounded(&paths)?;
        Ok(Response::new(wire::DeleteFilesReply { found: self.0.delete(&paths).await? }))
    }

    async fn copy(&self, request: Request<wire::MoveRequest>) -> Answer<wire::Done> {
        let request = request.into_inner();
        done(self.0.copy(&request.from, &request.to, request.create).await)
    }

    async fn rename(&self, request: Request<wire::MoveRequest>) -> Answer<wire::Done> {
        let request = request.into_inner();
        done(self.0.rename(&request.from, &request.to, request.create).await)
    }

    async fn report_fault(&self, request: Request<wire::FaultRequest>) -> Answer<wire::Done> {
        let request = request.into_inner();
        let fault = match request.fault() {
            wire::FaultKind::FaultCorrupt => Fault::Corrupt,
            wire::FaultKind::FaultMissing => Fault::Missing,
            wire::FaultKind::FaultUnknown => return Err(Error::invalid("a fault of no kind").to_status()),
        };
        let block = BlockId::from_slice(&request.block)?;
        done(self.0.report_fault(block, &NodeId::new(request.node)?, fault).await)
    }

    async fn report_blocks(
        &self,
        request: Request<Streaming<wire::BlockReportPart>>,
    ) -> Answer<wire::BlockReportReply> {
        let report = collect(request.into_inner()).await?;
        let answer = self.0.report_blocks(report).await?;
        Ok(Response::new(wire::BlockReportReply {
            store: answer.store,
            known: answer.known,
            unknown: answer.unknown,
            missing: answer.missing.into_iter().map(id_out).collect(),
        }))
    }
}

async fn collect(mut parts: Streaming<wire::BlockReportPart>) -> Result<BlockReport> {
    let mut report: Option<BlockReport> = None;
    while let Some(part) = parts.message().await? {
        let report = match &mut report {
            Some(report) => report,
            None => report.insert(BlockReport {
                node: NodeId::new(part.node)?,
                store: part.store,
                blocks: Vec::new(),
                bad: Vec::new(),
            }),
        };
        if part.blocks.len() != part.lengths.len() {
            return Err(Error::invalid("a report with blocks without lengths"));
        }
        let blocks = ids_in(&part.blocks)?.into_iter().zip(part.lengths);
        report.blocks.extend(blocks.map(|(id, length)| BlockOnDisk { id, length }));
        report.bad.extend(ids_in(&part.bad)?);
        if report.blocks.len() + report.bad.len() > REPORT_MAX {
            return Err(Error::invalid(format!("a report with more than {REPORT_MAX} blocks")));
        }
        if part.last {
            return Ok(report.clone());
        }
    }
    // Half a report would make the other half look missing.
    Err(Error::unavailable("a report of blocks ended in the middle"))
}
