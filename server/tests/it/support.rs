//! A coordinator with an open door, and a client that sees everything that goes over the wire.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arrow::array::{Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{Schema, SchemaRef};
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::sql::{
    Any, CommandStatementQuery, CommandStatementUpdate, DoPutUpdateResult, ProstMessageExt,
};
use arrow_flight::{Action, FlightData, FlightDescriptor, FlightInfo, IpcMessage, Ticket};
use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt, stream};
use prost::Message;
use skep_catalog::{Catalog, OpenOptions};
use skep_cluster::exchange::Channels;
use skep_cluster::membership::Members;
use skep_common::clock::{self, Clock};
use skep_common::task::{Task, spawn};
use skep_common::{Error, Result};
use skep_coordinator::Coordinator;
use skep_coordinator::lanes::Lanes;
use skep_engine::codec::Codec;
use skep_engine::{Environment, Nowhere};
use skep_server::flight::{Config, Door};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::Request;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};

/// A clock that goes on when a test says so.
#[derive(Debug)]
pub(crate) struct Moved {
    start: (DateTime<Utc>, Instant),
    by: Mutex<Duration>,
}

impl Moved {
    pub(crate) fn new() -> Arc<Self> {
        let clock = clock::system();
        Arc::new(Self { start: (clock.now(), clock.instant()), by: Mutex::default() })
    }

    pub(crate) fn advance(&self, by: Duration) {
        *self.by.lock().unwrap() += by;
    }
}

impl Clock for Moved {
    fn now(&self) -> DateTime<Utc> {
        self.start.0 + *self.by.lock().unwrap()
    }

    fn instant(&self) -> Instant {
        self.start.1 + *self.by.lock().unwrap()
    }
}

pub(crate) struct Server {
    pub(crate) address: String,
    stop: CancellationToken,
    serving: Option<Task<Result<()>>>,
    _folder: TempDir,
}

pub(crate) async fn coordinator() -> (Coordinator, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let data_path = format!("{}/", data.display());
    let catalog =
        Catalog::open(&folder.path().join("catalog.sqlite"), OpenOptions::new(data_path)).await.unwrap();
    let environment = Environment {
        catalog,
        runtime: Arc::default(),
        stores: skep_store::Stores::new(),
        memory: skep_engine::memory::Memory::default(),
        shared_paths: vec![data],
        locate: Arc::new(Nowhere),
        facts: Arc::default(),
        partitions: NonZeroUsize::new(2).unwrap(),
    };
    let members = Members::new(skep_cluster::membership::Config::default(), clock::system());
    let channels = Channels::new(skep_cluster::Secret::none(), skep_cluster::ChannelConfig::default());
    let nodes = Arc::new(members.clone());
    let lanes = Lanes::new(skep_coordinator::lanes::Config::default(), nodes, None, channels, Codec::new());
    let config =
        skep_coordinator::Config { environment, lanes, members, groups: Default::default(), blocks: None };
    (Coordinator::new(config).unwrap(), folder)
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::with(Config::default()).await
    }

    pub(crate) async fn with(config: Config) -> Self {
        Self::at(config, clock::system()).await
    }

    /// With sessions that live by `clock`.
    pub(crate) async fn at(config: Config, clock: Arc<dyn Clock>) -> Self {
        let (coordinator, folder) = coordinator().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let stop = CancellationToken::new();
        let door = Door::new(coordinator).config(config).clock(clock);
        let serving = spawn("door", door.serve(listener, stop.clone().cancelled_owned()));
        Self { address, stop, serving: Some(serving), _folder: folder }
    }

    /// A connection of its own.
    pub(crate) async fn connect(&self) -> Client {
        let channel = Endpoint::from_shared(self.address.clone()).unwrap().connect().await.unwrap();
        Client::over(channel)
    }

    /// Closes the door and waits until it is closed.
    pub(crate) async fn stop(mut self) -> Result<()> {
        self.stop.cancel();
        self.serving.take().unwrap().join().await.unwrap()
    }
}

#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) flight: FlightServiceClient<Channel>,
    /// Sent with every call.
    pub(crate) headers: MetadataMap,
}

impl Client {
    pub(crate) fn over(channel: Channel) -> Self {
        let flight = FlightServiceClient::new(channel).max_decoding_message_size(usize::MAX);
        Self { flight, headers: MetadataMap::new() }
    }

    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        *request.metadata_mut() = self.headers.clone();
        request
    }

    pub(crate) async fn info_of(&mut self, command: &impl ProstMessageExt) -> Result<FlightInfo> {
        let request = self.request(descriptor(command));
        Ok(self.flight.get_flight_info(request).await?.into_inner())
    }

    pub(crate) async fn info(&mut self, sql: &str) -> Result<FlightInfo> {
        self.info_of(&CommandStatementQuery { query: sql.to_owned(), transaction_id: None }).await
    }

    pub(crate) async fn get(&mut self, ticket: Ticket) -> Result<(SchemaRef, Vec<RecordBatch>)> {
        let request = self.request(ticket);
        let data = self.flight.do_get(request).await?.into_inner();
        let data = data.map_err(|status| FlightError::Tonic(Box::new(status)));
        let mut stream = FlightRecordBatchStream::new_from_flight_data(data);
        let mut batches = Vec::new();
        while let Some(batch) = stream.next().await {
            batches.push(batch.map_err(|e| match e {
                FlightError::Tonic(status) => Error::from_status(&status),
                other => Error::internal("undecodable").source(other),
            })?);
        }
        Ok((stream.schema().cloned().unwrap(), batches))
    }

    pub(crate) async fn redeem(&mut self, info: &FlightInfo) -> Result<(SchemaRef, Vec<RecordBatch>)> {
        assert_eq!(info.endpoint.len(), 1, "one endpoint");
        assert!(info.endpoint[0].location.is_empty(), "no location");
        self.get(info.endpoint[0].ticket.clone().unwrap()).await
    }

    pub(crate) async fn query(&mut self, sql: &str) -> Result<Vec<RecordBatch>> {
        let info = self.info(sql).await?;
        self.redeem(&info).await.map(|(_, batches)| batches)
    }

    /// The first column as numbers.
    pub(crate) async fn numbers(&mut self, sql: &str) -> Result<Vec<i64>> {
        Ok(numbers(&self.query(sql).await?))
    }

    pub(crate) async fn put(&mut self, messages: Vec<FlightData>) -> Result<i64> {
        let request = self.request(stream::iter(messages));
        let mut answers = self.flight.do_put(request).await?.into_inner();
        let answer = answers.message().await?.unwrap();
        Ok(DoPutUpdateResult::decode(answer.app_metadata).unwrap().record_count)
    }

    pub(crate) async fn update(&mut self, sql: &str) -> Result<i64> {
        let command = CommandStatementUpdate { query: sql.to_owned(), transaction_id: None };
        self.put(vec![FlightData::new().with_descriptor(descriptor(&command))]).await
    }

    pub(crate) async fn action(&mut self, name: &str, body: Vec<u8>) -> Result<Option<bytes::Bytes>> {
        let request = self.request(Action::new(name, body));
        let results: Vec<_> = self.flight.do_action(request).await?.into_inner().try_collect().await?;
        assert!(results.len() <= 1);
        Ok(results.into_iter().next().map(|result| result.body))
    }
}

pub(crate) fn descriptor(command: &impl ProstMessageExt) -> FlightDescriptor {
    FlightDescriptor::new_cmd(Any::encode_to_vec(&command.as_any()))
}

pub(crate) fn schema(bytes: &bytes::Bytes) -> Schema {
    Schema::try_from(IpcMessage(bytes.clone())).unwrap()
}

pub(crate) fn numbers(batches: &[RecordBatch]) -> Vec<i64> {
    let columns =
        batches.iter().map(|batch| batch.column(0).as_any().downcast_ref::<Int64Array>().unwrap().clone());
    columns.flat_map(|column| column.iter().map(Option::unwrap_or_default).collect::<Vec<_>>()).collect()
}

pub(crate) fn texts(batches: &[RecordBatch], name: &str) -> Vec<String> {
    let column = |batch: &RecordBatch| {
        let column = batch.column_by_name(name).unwrap();
        let column = column.as_any().downcast_ref::<StringArray>().unwrap().clone();
        (0..column.len()).map(|i| column.value(i).to_owned()).collect::<Vec<_>>()
    };
    batches.iter().flat_map(column).collect()
}
