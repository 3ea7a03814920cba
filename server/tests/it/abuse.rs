//! Callers who do not play by the rules: the door stays open for others.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Int64Array, NullArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::ipc::CompressionType;
use arrow::ipc::writer::IpcWriteOptions;
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::sql::{
    ActionCreatePreparedStatementRequest, ActionCreatePreparedStatementResult, Any, Command,
    CommandGetTables, CommandPreparedStatementQuery, CommandStatementIngest, CommandStatementQuery,
    ProstMessageExt, TableDefinitionOptions, TableExistsOption, TableNotExistOption, TicketStatementQuery,
};
use arrow_flight::{Action, FlightData, FlightDescriptor, Ticket};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use prost::Message;
use skep_common::{Error, Kind};
use skep_server::flight::Config;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Client, Server, descriptor};

const PATIENCE: Duration = Duration::from_secs(60);

/// Numbers that are the same for the same seed (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }

    /// `bytes` with a few changes: bits turned, pieces left out, doubled or made of nothing.
    fn damage(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len());
            match self.below(5) {
                0 if !bytes.is_empty() => bytes[at] ^= 1 << self.below(8),
                1 => bytes.truncate(at),
                2 if !bytes.is_empty() => bytes[at] = [0, 0x7f, 0x80, 0xff][self.below(4)],
                3 => {
                    let more = self.bytes(8);
                    bytes.splice(at..at, more);
                }
                _ if bytes.len() > 8 => {
                    let word = [0, 1, -1, i64::MAX, i64::MIN, 1 << 40][self.below(6)].to_le_bytes();
                    let at = self.below(bytes.len() - 8);
                    bytes[at..at + 8].copy_from_slice(&word);
                }
                _ => {}
            }
        }
        bytes
    }
}

/// The seed: of the environment, so that a failure can be had again, or a fixed one; and how many cases.
fn seed() -> (u64, usize) {
    let read = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    (read("SKEP_SEED").unwrap_or(20_130_131), read("SKEP_CASES").unwrap_or(400) as usize)
}

async fn still_serves(server: &Server) {
    let mut client = server.connect().await;
    assert_eq!(client.numbers("SELECT 1").await.unwrap(), [1]);
}

/// A refusal that says what the caller did wrong: not one that comes of a panic or a bug.
fn refused(error: &Error, what: &str) {
    assert!(!matches!(error.kind(), Kind::Internal | Kind::Unavailable), "{what}: {error:?}");
}

#[tokio::test]
async fn bytes_that_are_not_http2_do_no_harm() {
    let server = Server::start().await;
    let address = server.address.trim_start_matches("http://").to_owned();
    let (seed, cases) = seed();
    let mut random = Random(seed);
    for case in 0..cases {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        let mut bytes = Vec::new();
        if case % 2 == 0 {
            bytes.extend_from_slice(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
            // Frames: a length, a type, flags, a stream, and what is in them.
            for _ in 0..random.below(6) {
                let payload = random.below(64);
                bytes.extend_from_slice(&(payload as u32).to_be_bytes()[1..]);
                bytes.push(random.below(12) as u8);
                bytes.push(random.next() as u8);
                bytes.extend_from_slice(&(random.below(8) as u32).to_be_bytes());
                bytes.extend(random.bytes(payload));
            }
        } else {
            let count = random.below(300);
            bytes.extend(random.bytes(count));
        }
        // The server may close its side at any time.
        let _ = stream.write_all(&bytes).await;
    }
    still_serves(&server).await;
}

#[tokio::test]
async fn damaged_requests_are_refused() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let (seed, cases) = seed();
    let mut random = Random(seed);
    let info = client.info("SELECT 1").await.unwrap();
    let ticket = info.endpoint[0].ticket.clone().unwrap().ticket;
    let statement = CommandStatementQuery { query: "SELECT 1 AS a".to_owned(), transaction_id: None };
    let tables = CommandGetTables { include_schema: true, ..Default::default() };
    let create = ActionCreatePreparedStatementRequest { query: "SELECT $1".to_owned(), transaction_id: None };
    let sound: [Bytes; 4] = [
        statement.as_any().encode_to_vec().into(),
        tables.as_any().encode_to_vec().into(),
        create.as_any().encode_to_vec().into(),
        ticket,
    ];
    let actions = [
        "CreatePreparedStatement",
        "ClosePreparedStatement",
        "CancelFlightInfo",
        "CancelQuery",
        "SetSessionOptions",
        "GetSessionOptions",
        "EndTransaction",
    ];
    for case in 0..cases {
        let which = random.below(sound.len());
        let bytes = random.damage(&sound[which]);
        let what = format!("SKEP_SEED={seed}, case {case}: {bytes:?}");
        let answered = match case % 5 {
            0 => client.flight.get_flight_info(FlightDescriptor::new_cmd(bytes)).await.map(drop),
            1 => client.flight.get_schema(FlightDescriptor::new_cmd(bytes)).await.map(drop),
            2 => client.flight.poll_flight_info(FlightDescriptor::new_cmd(bytes)).await.map(drop),
            3 => {
                let action = Action::new(actions[random.below(actions.len())], bytes);
                client.flight.do_action(action).await.map(drop)
            }
            _ => client.flight.do_get(Ticket::new(bytes)).await.map(drop),
        };
        if let Err(status) = answered {
            refused(&Error::from_status(&status), &what);
        }
    }
    still_serves(&server).await;
}

fn rows() -> RecordBatch {
    let fields = vec![
        Field::new("id", DataType::Int64, true),
        Field::new("s", DataType::Utf8, true),
        Field::new("d", DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8)), true),
    ];
    let words: Vec<String> = (0..200).map(|i| format!("word {}", i % 7)).collect();
    let texts = Arc::new(StringArray::from(words));
    let codes = arrow::compute::cast(texts.as_ref(), fields[2].data_type()).unwrap();
    RecordBatch::try_new(
        Arc::new(Schema::new(fields)),
        vec![Arc::new(Int64Array::from_iter_values(0..200)), texts, codes],
    )
    .unwrap()
}

fn ingest(table: &str) -> FlightDescriptor {
    descriptor(&CommandStatementIngest {
        table_definition_options: Some(TableDefinitionOptions {
            if_not_exist: TableNotExistOption::Create.into(),
            if_exists: TableExistsOption::Replace.into(),
        }),
        table: table.to_owned(),
        ..CommandStatementIngest::default()
    })
}

async fn messages(
    to: FlightDescriptor,
    batch: RecordBatch,
    compression: Option<CompressionType>,
) -> Vec<FlightData> {
    let options = IpcWriteOptions::default().try_with_compression(compression).unwrap();
    FlightDataEncoderBuilder::new()
        .with_flight_descriptor(Some(to))
        .with_options(options)
        .with_dictionary_handling(arrow_flight::encode::DictionaryHandling::Resend)
        .build(stream::iter([Ok(batch)]))
        .try_collect()
        .await
        .unwrap()
}

#[tokio::test]
async fn damaged_rows_are_refused() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let (seed, cases) = seed();
    let mut random = Random(seed);
    let (mut taken, mut failed) = (0, 0);
    for case in 0..cases {
        let compression = [None, Some(CompressionType::LZ4_FRAME), Some(CompressionType::ZSTD)][case % 3];
        let mut sent = messages(ingest("t"), rows(), compression).await;
        let which = random.below(sent.len());
        let damaged = &mut sent[which];
        if random.below(3) == 0 {
            damaged.data_body = random.damage(&damaged.data_body).into();
        } else {
            damaged.data_header = random.damage(&damaged.data_header).into();
        }
        let request = client.request(stream::iter(sent));
        let answered = async { client.flight.do_put(request).await?.into_inner().message().await };
        match tokio::time::timeout(PATIENCE, answered).await.unwrap() {
            Ok(_) => taken += 1,
            Err(status) => {
                failed += 1;
                refused(&Error::from_status(&status), &format!("SKEP_SEED={seed}, case {case}, {which}"));
            }
        }
    }
    assert!(failed > 0 && taken + failed == cases, "{taken} taken, {failed} refused");
    still_serves(&server).await;
}

/// Claims of a few bytes to be very many, by which a process could be made to ask for more memory than there is.
#[tokio::test]
async fn small_messages_that_would_become_huge_are_refused() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    for compression in [CompressionType::LZ4_FRAME, CompressionType::ZSTD] {
        let plain = RecordBatch::try_from_iter([(
            "n",
            Arc::new(Int64Array::from_iter_values((0..10_000).map(|i| i % 3))) as _,
        )]);
        let mut sent = messages(ingest("t"), plain.unwrap(), Some(compression)).await;
        let bomb = sent.last_mut().unwrap();
        let size = 80_000i64.to_le_bytes();
        let at = bomb.data_body.windows(8).position(|bytes| bytes == size).unwrap();
        let mut body = bomb.data_body.to_vec();
        body[at..at + 8].copy_from_slice(&(1i64 << 46).to_le_bytes());
        bomb.data_body = body.into();
        let error = client.put(sent).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Exhausted, "{error:?}");
    }
    let nulls = RecordBatch::try_from_iter([("n", Arc::new(NullArray::new(1 << 40)) as _)]).unwrap();
    let error = client.put(messages(ingest("t"), nulls, None).await).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Exhausted, "{error:?}");

    let request =
        ActionCreatePreparedStatementRequest { query: "SELECT $1 AS n".to_owned(), transaction_id: None };
    let body = client.action("CreatePreparedStatement", request.as_any().encode_to_vec()).await.unwrap();
    let made: ActionCreatePreparedStatementResult =
        Any::decode(body.unwrap()).unwrap().unpack().unwrap().unwrap();
    let handle = made.prepared_statement_handle;
    let bind = descriptor(&CommandPreparedStatementQuery { prepared_statement_handle: handle });
    let nulls = RecordBatch::try_from_iter([("n", Arc::new(NullArray::new(10_000_000)) as _)]).unwrap();
    let request = client.request(stream::iter(messages(bind, nulls, None).await));
    let answered = client.flight.do_put(request).await.unwrap().into_inner().message().await;
    let error = Error::from_status(&answered.unwrap_err());
    assert_eq!(error.kind(), Kind::Exhausted, "{error:?}");
    still_serves(&server).await;
}

#[tokio::test]
async fn f16_messages_have_a_limit_far_above_that_of_grpc() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    // Five megabytes, where gRPC alone takes four.
    let long = "x".repeat(5 << 20);
    let found = client.query(&format!("SELECT length('{long}') AS n")).await.unwrap();
    assert_eq!(found.iter().map(RecordBatch::num_rows).sum::<usize>(), 1);
    let longer = "x".repeat(65 << 20);
    let error = client.info(&format!("SELECT length('{longer}') AS n")).await.unwrap_err();
    assert!(matches!(error.kind(), Kind::Invalid | Kind::Exhausted), "{error:?}");
    still_serves(&server).await;
}

#[tokio::test]
async fn whoever_says_nothing_is_shown_out() {
    let config = Config { greeting_timeout: Duration::from_millis(50), ..Config::default() };
    let server = Server::with(config).await;
    let address = server.address.trim_start_matches("http://").to_owned();
    let mut talking = server.connect().await;
    for said in [&b""[..], b"P", b"PRI * HTTP/2.0\r\n"] {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        stream.write_all(said).await.unwrap();
        let mut answer = Vec::new();
        // Closed, cleanly or not.
        let closed = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
        assert!(closed.is_ok(), "{said:?}");
    }
    assert_eq!(talking.numbers("SELECT 1").await.unwrap(), [1]);
}

#[tokio::test]
async fn connections_have_a_limit() {
    let server = Server::with(Config { connections_max: 2, ..Config::default() }).await;
    let (mut one, mut two) = (server.connect().await, server.connect().await);
    assert_eq!(one.numbers("SELECT 1").await.unwrap(), [1]);
    assert_eq!(two.numbers("SELECT 1").await.unwrap(), [1]);
    let address = server.address.trim_start_matches("http://").to_owned();
    let mut third = TcpStream::connect(&address).await.unwrap();
    let mut answer = Vec::new();
    let closed = tokio::time::timeout(PATIENCE, third.read_to_end(&mut answer)).await.unwrap();
    assert!(closed.is_err() || answer.is_empty());
    drop(one);
    let free = async {
        loop {
            let endpoint = tonic::transport::Endpoint::from_shared(server.address.clone()).unwrap();
            let Ok(channel) = endpoint.connect().await else { continue };
            if Client::over(channel).numbers("SELECT 1").await.is_ok() {
                break;
            }
        }
    };
    tokio::time::timeout(PATIENCE, free).await.unwrap();
}

/// A ticket made by hand is worth no more than one made by the server.
#[tokio::test]
async fn tickets_of_others_are_worth_nothing() {
    let server = Server::start().await;
    let (mut ada, mut bob) = (server.connect().await, server.connect().await);
    ada.headers.insert("authorization", "Basic YWRhOnB3".parse().unwrap());
    bob.headers.insert("authorization", "Basic Ym9iOnB3".parse().unwrap());
    let info = ada.info("SELECT 1").await.unwrap();
    let ticket = info.endpoint[0].ticket.clone().unwrap();
    assert_eq!(bob.get(ticket.clone()).await.unwrap_err().kind(), Kind::Denied);
    let Command::TicketStatementQuery(ours) =
        Command::try_from(Any::decode(ticket.ticket.as_ref()).unwrap()).unwrap()
    else {
        panic!("a ticket")
    };
    // The session is named first, by sixteen bytes.
    let mut forged = ours.statement_handle.to_vec();
    forged[5] ^= 1;
    let forged = TicketStatementQuery { statement_handle: forged.into() };
    let error = ada.get(Ticket::new(forged.as_any().encode_to_vec())).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound, "{error:?}");
    ada.action("CloseSession", Vec::new()).await.unwrap();
    assert_eq!(ada.get(ticket.clone()).await.unwrap_err().kind(), Kind::NotFound);
    assert_eq!(bob.get(ticket).await.unwrap_err().kind(), Kind::NotFound);
}

#[tokio::test]
async fn the_http_port_shows_out_whoever_is_slow_or_confused() {
    let (coordinator, _folder) = crate::support::coordinator().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = tokio_util::sync::CancellationToken::new();
    let serving = skep_common::task::spawn(
        "http",
        skep_server::http::serve(coordinator, listener, stop.clone().cancelled_owned()),
    );
    let (seed, cases) = seed();
    let mut random = Random(seed);
    for _ in 0..cases {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let sound = b"GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello";
        let bytes = random.damage(sound);
        let _ = stream.write_all(&bytes).await;
    }
    // One that sends the head of a request a byte at a time, and one that sends nothing.
    let mut idle = TcpStream::connect(address).await.unwrap();
    let mut slow = TcpStream::connect(address).await.unwrap();
    slow.write_all(b"GET /livez HTT").await.unwrap();
    let mut health = TcpStream::connect(address).await.unwrap();
    health.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    health.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    for stream in [&mut idle, &mut slow] {
        let mut rest = Vec::new();
        let closed = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
        assert!(closed.is_ok(), "it is waited for without end");
    }
    stop.cancel();
    serving.join().await.unwrap().unwrap();
}

/// Endless rows for somebody who opens a stream and does not read: what is made for them has a bound, and they hold up nobody.
#[tokio::test]
async fn whoever_does_not_read_holds_up_nobody() {
    let server = Server::start().await;
    let mut clients = Vec::new();
    let mut streams = Vec::new();
    for _ in 0..8 {
        let mut client = server.connect().await;
        let info = client.info("SELECT value FROM generate_series(1, 1000000000000)").await.unwrap();
        let request = client.request(info.endpoint[0].ticket.clone().unwrap());
        streams.push(client.flight.do_get(request).await.unwrap().into_inner());
        clients.push(client);
    }
    still_serves(&server).await;
    // They are there when they are read at last.
    for stream in &mut streams {
        assert!(stream.next().await.unwrap().is_ok());
    }
}
