//! Serves one worker's blocks, and reports them.

use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use skep_cluster::blocks::{BLOCK_MESSAGE_MAX, pieces_in, pieces_out, report_out};
use skep_cluster::proto::blocks as wire;
use skep_cluster::proto::blocks::blocks_server::{Blocks as Wire, BlocksServer};
use skep_common::task::{self, Task};
use skep_common::{Error, Result};
use skep_store::{BlockServer, NamespaceClient};
use tonic::service::RoutesBuilder;
use tonic::{Request, Response, Status, Streaming};

/// The blocks of one worker. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Blocks {
    server: BlockServer,
}

impl Blocks {
    /// Over the worker's folder.
    pub fn new(server: BlockServer) -> Self {
        Self { server }
    }

    /// What a store on this node reads and writes without a network.
    pub fn server(&self) -> &BlockServer {
        &self.server
    }

    /// Adds the service to a server. The server checks the secret, before every call.
    pub fn register(&self, routes: &mut RoutesBuilder) {
        routes.add_service(self.service());
    }

    /// The service alone.
    pub fn service(&self) -> BlocksServer<Service> {
        BlocksServer::new(Service(self.server.clone()))
            .max_decoding_message_size(BLOCK_MESSAGE_MAX)
            .max_encoding_message_size(BLOCK_MESSAGE_MAX)
    }

    /// Tells the namespace everything that is here: to be called after every join, before blocks are placed here.
    ///
    /// # Errors
    /// `Invalid` if the folder belongs to another store; those of the disk or the network.
    pub async fn report(&self, namespace: &dyn NamespaceClient) -> Result<()> {
        let answer = self.server.report(namespace).await?;
        let (known, unknown) = (answer.known, answer.unknown);
        tracing::info!(node = %self.server.node(), known, unknown, "blocks reported");
        Ok(())
    }

    /// Reports again every `report_interval`, until the task is dropped.
    pub fn keep_reporting(&self, namespace: Arc<dyn NamespaceClient>) -> Task<()> {
        let blocks = self.clone();
        task::spawn("report-blocks", async move {
            loop {
                tokio::time::sleep(blocks.server.config().report_interval).await;
                if let Err(error) = blocks.report(&*namespace).await {
                    tracing::warn!(error = %error.report(), "could not report blocks");
                }
            }
        })
    }
}

/// The tonic side of [`Blocks`].
#[derive(Debug, Clone)]
pub struct Service(BlockServer);

type Answer<T> = std::result::Result<Response<T>, Status>;

#[tonic::async_trait]
impl Wire for Service {
    type ReadStream = Pin<Box<dyn Stream<Item = std::result::Result<wire::Piece, Status>> + Send>>;

    async fn write(&self, request: Request<Streaming<wire::WriteRequest>>) -> Answer<wire::WriteReply> {
        let mut messages = request.into_inner();
        let first = messages.message().await?.and_then(|message| message.kind);
        let Some(wire::write_request::Kind::Start(start)) = first else {
            return Err(Error::internal("a block came without its start").to_status());
        };
        let report = self.0.write(start.header()?, pieces_in(messages)).await?;
        Ok(Response::new(report_out(report)))
    }

    async fn read(&self, request: Request<wire::ReadRequest>) -> Answer<Self::ReadStream> {
        let request = request.into_inner();
        let data = self.0.read(request.id()?, request.start..request.end).await?;
        Ok(Response::new(Box::pin(pieces_out(data))))
    }

    async fn delete(&self, request: Request<wire::DeleteBlocksRequest>) -> Answer<wire::DeleteBlocksReply> {
        self.0.delete(request.into_inner().ids()?).await?;
        Ok(Response::new(wire::DeleteBlocksReply {}))
    }

    async fn replicate(&self, request: Request<wire::ReplicateRequest>) -> Answer<wire::WriteReply> {
        let (block, targets) = request.into_inner().parts()?;
        Ok(Response::new(report_out(self.0.replicate(block, &targets).await?)))
    }
}
