use std::time::Duration;

use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::error::FlightError;
use futures::{StreamExt, TryStreamExt};
use skep_common::{Error, Kind, clock};

use crate::support::{Client, Server};

/// Far more rows than anybody waits for.
const ENDLESS: &str = "SELECT value FROM generate_series(1, 1000000000000)";
const LIMIT: Duration = Duration::from_millis(500);

async fn rows(client: &mut Client, sql: &str) -> FlightRecordBatchStream {
    let info = client.info(sql).await.unwrap();
    let request = client.request(info.endpoint[0].ticket.clone().unwrap());
    let data = client.flight.do_get(request).await.unwrap().into_inner();
    FlightRecordBatchStream::new_from_flight_data(data.map_err(|status| FlightError::Tonic(Box::new(status))))
}

/// The error that ends `stream`.
async fn end(mut stream: FlightRecordBatchStream) -> Error {
    loop {
        match stream.next().await {
            Some(Ok(_)) => {}
            Some(Err(FlightError::Tonic(status))) => return Error::from_status(&status),
            Some(Err(other)) => panic!("{other}"),
            None => panic!("a statement past its deadline must not look complete"),
        }
    }
}

fn assert_late(error: &Error) {
    assert_eq!(error.kind(), Kind::Deadline, "{error:?}");
    assert!(error.message().contains("500ms"), "{error:?}");
    assert!(error.hint_text().unwrap().contains("skep.statement_timeout"), "{error:?}");
}

#[tokio::test]
async fn a_query_that_streams_past_its_deadline_fails() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    client.update("SET skep.statement_timeout = '500ms'").await.unwrap();
    // Read as fast as it comes.
    let stream = rows(&mut client, ENDLESS).await;
    assert_late(&end(stream).await);

    // Read slowly: one batch, and nothing more until the deadline has long passed.
    let mut slow = rows(&mut client, ENDLESS).await;
    slow.next().await.unwrap().unwrap();
    let (clock, mut other) = (clock::system(), server.connect().await);
    let start = clock.instant();
    while clock.instant() - start < LIMIT * 2 {
        assert_eq!(other.numbers("SELECT 1").await.unwrap(), [1]);
    }
    assert_late(&end(slow).await);

    // The session is as good as before, and without the limit nothing is cut.
    assert_eq!(client.numbers("SELECT 7").await.unwrap(), [7]);
    client.update("RESET skep.statement_timeout").await.unwrap();
    let mut unlimited = rows(&mut client, ENDLESS).await;
    let start = clock.instant();
    while clock.instant() - start < LIMIT * 2 {
        unlimited.next().await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_query_in_time_is_whole() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    client.update("SET skep.statement_timeout = '10m'").await.unwrap();
    let numbers = client.numbers("SELECT value FROM generate_series(1, 300000)").await.unwrap();
    assert_eq!((numbers.len(), numbers.last()), (300_000, Some(&300_000)));
}
