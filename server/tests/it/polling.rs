use std::time::Duration;

use arrow_flight::sql::{CommandGetCatalogs, CommandStatementQuery};
use arrow_flight::{CancelFlightInfoRequest, CancelFlightInfoResult, CancelStatus, FlightInfo, PollInfo};
use prost::Message;
use skep_common::{Error, Kind, Result};
use skep_server::flight::Config;

use crate::support::{Client, Moved, Server, descriptor, numbers, schema};

async fn poll(client: &mut Client, sql: &str) -> Result<PollInfo> {
    let command = CommandStatementQuery { query: sql.to_owned(), transaction_id: None };
    let request = client.request(descriptor(&command));
    Ok(client.flight.poll_flight_info(request).await?.into_inner())
}

/// Polls until nothing is left to wait for.
async fn to_the_end(client: &mut Client, mut poll: PollInfo) -> Result<PollInfo> {
    while let Some(next) = poll.flight_descriptor.take() {
        let request = client.request(next);
        poll = client.flight.poll_flight_info(request).await?.into_inner();
    }
    Ok(poll)
}

async fn cancel(client: &mut Client, info: &FlightInfo) -> CancelStatus {
    let request = CancelFlightInfoRequest::new(info.clone()).encode_to_vec();
    let body = client.action("CancelFlightInfo", request).await.unwrap().unwrap();
    CancelFlightInfoResult::decode(body).unwrap().status()
}

/// Impatient, so that a slow statement is answered for before its end.
fn config() -> Config {
    Config { poll_wait: Duration::from_millis(1), ..Config::default() }
}

#[tokio::test]
async fn a_short_query_is_done_when_it_is_polled() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let first = poll(&mut client, "SELECT 7 AS n").await.unwrap();
    assert!(first.expiration_time.is_some());
    let last = to_the_end(&mut client, first).await.unwrap();
    assert_eq!(last.progress, Some(1.0));
    let info = last.info.unwrap();
    // Its rows are here; whoever fetches them again gets those of another execution.
    for _ in 0..2 {
        let (found, batches) = client.redeem(&info).await.unwrap();
        assert_eq!((numbers(&batches), &*found), (vec![7], &schema(&info.schema)));
    }
    assert_eq!(cancel(&mut client, &info).await, CancelStatus::NotCancellable);
    let request = client.request(descriptor(&CommandGetCatalogs {}));
    let listing = client.flight.poll_flight_info(request).await.unwrap().into_inner();
    assert_eq!((listing.flight_descriptor, listing.progress), (None, Some(1.0)));
}

/// Long enough to be polled more than once, and with a table that it scans, of whose bytes it tells the share.
const SLOW: &str = "SELECT sum(a.v % 7 + b.v) AS s FROM t AS a CROSS JOIN generate_series(1, 400) AS b(v)";

#[tokio::test]
async fn a_long_query_tells_how_far_it_is() {
    let server = Server::with(config()).await;
    let mut client = server.connect().await;
    client.update("CREATE TABLE t AS SELECT value AS v FROM generate_series(1, 200000)").await.unwrap();
    let mut poll = poll(&mut client, SLOW).await.unwrap();
    let (mut polls, mut progress) = (1, Vec::new());
    let info = poll.info.clone().unwrap();
    while let Some(next) = poll.flight_descriptor.take() {
        progress.extend(poll.progress);
        let request = client.request(next);
        poll = client.flight.poll_flight_info(request).await.unwrap().into_inner();
        polls += 1;
        assert_eq!(poll.info.as_ref(), Some(&info), "endpoints only ever come to it");
    }
    progress.extend(poll.progress);
    assert!(polls > 1, "it was done at once");
    assert!(progress.is_sorted() && progress.iter().all(|share| (0.0..=1.0).contains(share)), "{progress:?}");
    assert_eq!(progress.last(), Some(&1.0));
    let (_, batches) = client.redeem(&info).await.unwrap();
    assert_eq!(batches.iter().map(|batch| batch.num_rows()).sum::<usize>(), 1);
}

#[tokio::test]
async fn rows_that_nobody_fetches_wait_with_the_query() {
    let server = Server::with(Config { polled_bytes: "64 KiB".parse().unwrap(), ..config() }).await;
    let (mut client, mut other) = (server.connect().await, server.connect().await);
    let endless = poll(&mut client, "SELECT value FROM generate_series(1, 1000000000000)").await.unwrap();
    let full = to_the_end(&mut client, endless).await.unwrap();
    let info = full.info.unwrap();
    // All that is made beforehand has a bound, so the query stands still; reading makes it go on.
    assert_ne!(full.progress, Some(1.0));
    let request = client.request(info.endpoint[0].ticket.clone().unwrap());
    let mut stream = client.flight.do_get(request).await.unwrap().into_inner();
    let mut bytes = 0;
    while bytes < 4 << 20 {
        bytes += stream.message().await.unwrap().unwrap().data_body.len();
    }
    assert_eq!(cancel(&mut other, &info).await, CancelStatus::Cancelled);
    let end = loop {
        match stream.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("a cancelled query must not look complete"),
            Err(status) => break Error::from_status(&status),
        }
    };
    assert_eq!(end.kind(), Kind::Cancelled, "{end:?}");
}

#[tokio::test]
async fn an_update_that_is_polled_runs_once() {
    let server = Server::with(config()).await;
    let mut client = server.connect().await;
    client.update("CREATE TABLE t (v BIGINT)").await.unwrap();
    let sql = "INSERT INTO t SELECT value FROM generate_series(1, 100000)";
    let first = poll(&mut client, sql).await.unwrap();
    let last = to_the_end(&mut client, first).await.unwrap();
    let info = last.info.unwrap();
    for _ in 0..2 {
        let (found, batches) = client.redeem(&info).await.unwrap();
        assert_eq!((numbers(&batches), &*found), (vec![100_000], &schema(&info.schema)));
    }
    assert_eq!(client.numbers("SELECT count(*) FROM t").await.unwrap(), [100_000]);
}

#[tokio::test]
async fn errors_come_to_whoever_polls_or_fetches() {
    let server = Server::with(config()).await;
    let mut client = server.connect().await;
    assert_eq!(poll(&mut client, "SELEC 1").await.unwrap_err().kind(), Kind::Invalid);
    let late = "SELECT CAST(s AS BIGINT) AS n FROM (VALUES ('1'), ('x')) AS v(s)";
    let error = match poll(&mut client, late).await {
        Ok(first) => {
            let info = first.info.clone().unwrap();
            let polled = to_the_end(&mut client, first).await.unwrap_err();
            assert_eq!(client.redeem(&info).await.unwrap_err().kind(), Kind::Invalid);
            polled
        }
        Err(error) => error,
    };
    assert_eq!(error.kind(), Kind::Invalid, "{error:?}");
    let request = client.request(arrow_flight::FlightDescriptor::new_cmd(b"x".to_vec()));
    assert!(client.flight.poll_flight_info(request).await.is_err());
}

#[tokio::test]
async fn what_is_polled_ends_when_it_is_cancelled_or_forgotten() {
    let clock = Moved::new();
    let limits = Config { polled_max: 2, session_ttl: Duration::from_secs(3600), ..config() };
    let ttl = limits.ticket_ttl;
    let server = Server::at(limits, std::sync::Arc::<Moved>::clone(&clock)).await;
    let mut client = server.connect().await;
    let endless = "SELECT count(*) AS n FROM generate_series(1, 1000000000000)";
    let one = poll(&mut client, endless).await.unwrap();
    let two = poll(&mut client, endless).await.unwrap();
    assert!(one.flight_descriptor.is_some() && two.flight_descriptor.is_some());
    assert_eq!(poll(&mut client, endless).await.unwrap_err().kind(), Kind::Exhausted);
    assert_eq!(cancel(&mut client, one.info.as_ref().unwrap()).await, CancelStatus::Cancelled);
    let cancelled = to_the_end(&mut client, one).await.unwrap_err();
    assert_eq!(cancelled.kind(), Kind::Cancelled, "{cancelled:?}");
    clock.advance(ttl + Duration::from_millis(1));
    let late = to_the_end(&mut client, two).await.unwrap_err();
    assert_eq!(late.kind(), Kind::Invalid, "{late:?}");
}
