//! The ports of real processes: callers who do not play by the rules, and results that are larger than memory.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::sql::client::FlightSqlServiceClient;
use futures::{StreamExt, TryStreamExt};
use skep_common::Kind;
use skep_common::clock;
use skep_testkit::client::Client;
use skep_testkit::process::{Cluster, Server};
use tonic::transport::Endpoint;

/// Bytes of memory of process `pid`: now, or the most it ever had.
fn memory(pid: u32, line: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|found| found.strip_prefix(line)).unwrap();
    line.trim_matches(|c: char| !c.is_ascii_digit()).parse::<u64>().unwrap() << 10
}

const NOW: &str = "VmRSS:";
const MOST: &str = "VmHWM:";
const MIB: u64 = 1 << 20;

fn up(folder: &std::path::Path) -> Server {
    let data = folder.join("data");
    let arguments =
        ["up", "--data", data.to_str().unwrap(), "--flight", "127.0.0.1:0", "--http", "127.0.0.1:0"];
    Server::start(&arguments).unwrap()
}

async fn still_serves(server: &Server) {
    let mut client = Client::connect(server.flight()).await.unwrap();
    assert_eq!(client.rows("SELECT 1").await.unwrap(), [["1"]]);
}

fn chain(of: &str, with: &str, count: usize) -> String {
    vec![of; count].join(with)
}

/// A statement of so many parts.
type Form = dyn Fn(usize) -> String;

/// Statements that are trees as deep as they are long: those within the limits run, the others are refused, the process lives.
#[tokio::test(flavor = "multi_thread")]
async fn long_statements_do_not_end_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let server = up(folder.path());
    let forms: [(&str, &Form, usize); 12] = [
        ("plus", &|n| format!("SELECT {}", chain("1", "+", n)), 400),
        ("and", &|n| format!("SELECT 1 WHERE {}", chain("1=1", " AND ", n / 2)), 2_000),
        (
            "or",
            &|n| format!("SELECT 1 FROM (VALUES (1)) AS t(a) WHERE {}", chain("a=1", " OR ", n / 2)),
            2_000,
        ),
        ("concat", &|n| format!("SELECT {}", chain("'a'", "||", n)), 400),
        ("cast", &|n| format!("SELECT 1{}", "::INT".repeat(n - 1)), 2_000),
        ("null", &|n| format!("SELECT 1{}", " IS NULL".repeat(n - 1)), 2_000),
        ("union", &|n| chain("SELECT 1", " UNION ALL ", n), 300),
        ("except", &|n| chain("SELECT 1", " EXCEPT ", n), 50),
        (
            "join",
            &|n| format!("SELECT 1 FROM (VALUES (1)) AS t(a){}", " JOIN (VALUES (1)) AS u ON TRUE".repeat(n)),
            1,
        ),
        ("minus", &|n| format!("SELECT {}1", "- ".repeat(n)), 50),
        ("paren", &|n| format!("SELECT {}1{}", "(".repeat(n), ")".repeat(n)), 30),
        ("case", &|n| format!("SELECT {}1{}", "CASE WHEN true THEN ".repeat(n), " END".repeat(n)), 20),
    ];
    for (name, form, within) in forms {
        let mut client = Client::connect(server.flight()).await.unwrap();
        client.rows(&form(within)).await.unwrap_or_else(|e| panic!("{name} {within}: {e:?}"));
        for n in [3_000, 100_000] {
            let error = client.rows(&form(n)).await.unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid, "{name} {n}: {error:?}");
        }
    }
    still_serves(&server).await;
}

/// A thousand connections that speak, and then nothing; and a thousand that never speak.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_idle_connections_cost_little() {
    let folder = tempfile::tempdir().unwrap();
    let server = up(folder.path());
    still_serves(&server).await;
    let before = memory(server.pid(), NOW);
    let address = server.flight().trim_start_matches("grpc://").to_owned();
    let mut open = Vec::new();
    for number in 0..2_000 {
        let mut stream = TcpStream::connect(&address).unwrap();
        if number % 2 == 0 {
            // The preface and empty settings.
            stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
        }
        open.push(stream);
    }
    still_serves(&server).await;
    let grown = memory(server.pid(), NOW).saturating_sub(before);
    assert!(grown < 100 * MIB, "{} MiB for {} connections", grown / MIB, open.len());
    drop(open);
    still_serves(&server).await;
}

/// Streams that nobody reads: the server makes what fits on the way, and no more.
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_never_read_cost_little() {
    let folder = tempfile::tempdir().unwrap();
    let server = up(folder.path());
    still_serves(&server).await;
    let before = memory(server.pid(), NOW);
    let mut streams = Vec::new();
    for _ in 0..16 {
        let endpoint = Endpoint::from_shared(server.flight().replace("grpc://", "http://")).unwrap();
        let mut client = FlightSqlServiceClient::new(endpoint.connect().await.unwrap());
        let info = client
            .execute("SELECT value FROM generate_series(1, 1000000000000)".to_owned(), None)
            .await
            .unwrap();
        let mut stream = client.do_get(info.endpoint[0].ticket.clone().unwrap()).await.unwrap();
        // It has begun.
        stream.next().await.unwrap().unwrap();
        streams.push((client, stream));
    }
    let busy = Client::connect(server.flight()).await.unwrap();
    let mut busy = busy;
    assert_eq!(busy.rows("SELECT sum(value) FROM generate_series(1, 3000000)").await.unwrap().len(), 1);
    let grown = memory(server.pid(), NOW).saturating_sub(before);
    assert!(grown < 400 * MIB, "{} MiB for {} streams", grown / MIB, streams.len());
    drop(streams);
    still_serves(&server).await;
}

/// Bytes that are the same in each run (SplitMix64).
fn noise(seed: u64, count: usize) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 32
    };
    (0..count).map(|_| next() as u8).collect()
}

/// Noise at every port of a coordinator and a worker, and calls of every service between nodes whose bodies are noise.
#[tokio::test(flavor = "multi_thread")]
async fn noise_at_every_port_does_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(folder.path(), 1);
    let bare = |url: &str| url.split_once("://").map_or(url, |(_, rest)| rest).to_owned();
    let (coordinator, worker) = (&cluster.coordinator, &cluster.workers[0]);
    let between = [coordinator.address("listen"), worker.address("listen")].map(bare);
    let mut ports = vec![bare(coordinator.flight()), bare(coordinator.address("http"))];
    ports.extend(between.clone());
    for (number, port) in ports.iter().enumerate() {
        for case in 0..100 {
            let mut stream = TcpStream::connect(port).unwrap();
            let mut bytes = match case % 3 {
                0 => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec(),
                1 => b"GET / HTTP/1.1\r\nHost: ".to_vec(),
                _ => Vec::new(),
            };
            bytes.extend(noise(number as u64 * 1_000 + case, 40 * case as usize));
            // It may be closed at any byte.
            let _ = stream.write_all(&bytes);
        }
    }
    let calls = [
        "/arrow.flight.protocol.FlightService/DoGet",
        "/arrow.flight.protocol.FlightService/DoAction",
        "/grpc.health.v1.Health/Check",
        "/skep.Nothing/Nothing",
    ];
    for port in &between {
        for (number, call) in calls.iter().enumerate() {
            let channel = Endpoint::from_shared(format!("http://{port}")).unwrap().connect().await.unwrap();
            let mut raw = tonic::client::Grpc::new(channel);
            raw.ready().await.unwrap();
            let path = http::uri::PathAndQuery::from_static(call);
            let body = arrow_flight::Ticket::new(noise(number as u64, 500));
            let codec = tonic_prost::ProstCodec::<_, arrow_flight::FlightData>::default();
            let answered = raw.server_streaming(tonic::Request::new(body), path, codec).await;
            let refused = match answered {
                Err(status) => status,
                Ok(answer) => answer.into_inner().message().await.unwrap_err(),
            };
            assert_ne!(refused.code(), tonic::Code::Unavailable, "{call}: {refused:?}");
        }
    }
    let mut client = Client::connect(coordinator.flight()).await.unwrap();
    assert_eq!(client.rows("SELECT worker FROM system.workers").await.unwrap().len(), 1);
    client.update("SET skep.execution = 'pipelined'").await.unwrap();
    client.update("CREATE TABLE t AS SELECT value AS v FROM generate_series(1, 1000)").await.unwrap();
    assert_eq!(client.rows("SELECT count(*) FROM t").await.unwrap(), [["1000"]]);
}

/// Ten million rows for a client that is slower than the cluster: they wait on the way, not in the coordinator.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_result_streams_through_the_coordinator() {
    const ROWS: usize = 10_000_000;
    const SLOWLY: usize = 100;
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(folder.path(), 2);
    let pid = cluster.coordinator.pid();
    let mut client = Client::connect(cluster.coordinator.flight()).await.unwrap();
    let sql = format!(
        "CREATE TABLE big AS SELECT value AS id, 'value ' || CAST(value AS VARCHAR) AS name, value * 0.5 AS half \
         FROM generate_series(1, {ROWS})"
    );
    client.update(&sql).await.unwrap();
    // What writing took is not asked about; the coordinator starts again to tell.
    let mut cluster = cluster;
    cluster.restart_coordinator();
    let pid = if cluster.coordinator.pid() == pid { pid } else { cluster.coordinator.pid() };
    let deadline = clock::system().instant() + Duration::from_secs(60);
    let mut client = loop {
        let mut client = Client::connect(cluster.coordinator.flight()).await.unwrap();
        if client.rows("SELECT worker FROM system.workers").await.unwrap().len() == 2 {
            break client;
        }
        assert!(clock::system().instant() < deadline, "the workers do not come back");
    };
    client.update("SET skep.execution = 'pipelined'").await.unwrap();
    let endpoint = Endpoint::from_shared(cluster.coordinator.flight().replace("grpc://", "http://")).unwrap();
    let flight =
        FlightServiceClient::new(endpoint.connect().await.unwrap()).max_decoding_message_size(usize::MAX);
    let mut sql = FlightSqlServiceClient::new_from_inner(flight);
    sql.execute_update("SET skep.execution = 'pipelined'".to_owned(), None).await.unwrap();
    let info = sql.execute("SELECT id, name, half FROM big".to_owned(), None).await.unwrap();
    let mut stream = sql.do_get(info.endpoint[0].ticket.clone().unwrap()).await.unwrap();
    let (mut rows, mut batches, mut most) = (0, 0usize, 0);
    while let Some(batch) = stream.try_next().await.unwrap() {
        rows += batch.num_rows();
        batches += 1;
        if batches.is_multiple_of(SLOWLY) {
            // Other work of the client, by its own clock.
            let until = clock::system().instant() + Duration::from_millis(50);
            while clock::system().instant() < until {
                std::hint::spin_loop();
            }
            most = most.max(memory(pid, NOW));
        }
    }
    assert_eq!(rows, ROWS);
    let most = most.max(memory(pid, MOST));
    eprintln!("the coordinator held at most {} MiB for {batches} batches", most / MIB);
    assert!(most < 300 * MIB, "the coordinator held {} MiB", most / MIB);
    let lane = "SELECT lane, state FROM system.queries WHERE statement LIKE 'SELECT id, name, half%'";
    assert_eq!(client.rows(lane).await.unwrap(), [["pipelined", "finished"]]);
}
