use arrow_flight::sql::{ActionCancelQueryRequest, ActionCancelQueryResult, Any, ProstMessageExt};
use arrow_flight::{CancelFlightInfoRequest, CancelFlightInfoResult, CancelStatus, FlightInfo};
use prost::Message;
use skep_common::{Error, Kind};

use crate::support::{Client, Server};

/// Far more rows than anybody waits for.
const ENDLESS: &str = "SELECT value FROM generate_series(1, 1000000000000)";

async fn cancel_info(client: &mut Client, info: &FlightInfo) -> CancelStatus {
    let request = CancelFlightInfoRequest::new(info.clone()).encode_to_vec();
    let body = client.action("CancelFlightInfo", request).await.unwrap().unwrap();
    CancelFlightInfoResult::decode(body).unwrap().status()
}

async fn cancel_query(client: &mut Client, info: &FlightInfo) -> i32 {
    let request = ActionCancelQueryRequest { info: info.encode_to_vec().into() };
    let body = client.action("CancelQuery", request.as_any().encode_to_vec()).await.unwrap().unwrap();
    let any = Any::decode(body).unwrap();
    any.unpack::<ActionCancelQueryResult>().unwrap().unwrap().result
}

#[tokio::test]
async fn a_running_query_is_cancelled_by_its_info() {
    let server = Server::start().await;
    let (mut reader, mut other) = (server.connect().await, server.connect().await);
    for way in ["info", "query"] {
        let info = reader.info(ENDLESS).await.unwrap();
        assert_eq!(cancel_info(&mut other, &info).await, CancelStatus::NotCancellable);
        let ticket = info.endpoint[0].ticket.clone().unwrap();
        let request = reader.request(ticket);
        let mut stream = reader.flight.do_get(request).await.unwrap().into_inner();
        stream.message().await.unwrap().unwrap();
        match way {
            "info" => assert_eq!(cancel_info(&mut other, &info).await, CancelStatus::Cancelled),
            _ => assert_eq!(cancel_query(&mut other, &info).await, CancelStatus::Cancelled as i32),
        }
        let end = loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("a cancelled query must not look complete"),
                Err(status) => break Error::from_status(&status),
            }
        };
        assert_eq!(end.kind(), Kind::Cancelled, "{end:?}");
    }
}

/// A client that has not heard the id of a statement, because the call that runs it has not come back.
#[tokio::test]
async fn a_session_says_what_it_runs_and_cancels_it() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    assert!(client.action("skep.StatementStatus", Vec::new()).await.unwrap().is_none());
    let status = async |client: &mut Client| -> serde_json::Value {
        let body = client.action("skep.StatementStatus", Vec::new()).await.unwrap().unwrap();
        serde_json::from_slice(&body).unwrap()
    };
    let cancel = async |client: &mut Client| {
        let body = client.action("skep.CancelStatement", Vec::new()).await.unwrap().unwrap();
        CancelFlightInfoResult::decode(body).unwrap().status()
    };
    assert_eq!(cancel(&mut client).await, CancelStatus::NotCancellable);
    let info = client.info(ENDLESS).await.unwrap();
    let request = client.request(info.endpoint[0].ticket.clone().unwrap());
    let mut stream = client.flight.do_get(request).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    let running = status(&mut client).await;
    assert_eq!(
        (running["state"].as_str(), running["lane"].as_str()),
        (Some("running"), Some("local")),
        "{running}"
    );
    // Those of others are none of its business.
    let mut other = server.connect().await;
    assert!(other.action("skep.StatementStatus", Vec::new()).await.unwrap().is_none());
    assert_eq!(cancel(&mut other).await, CancelStatus::NotCancellable);
    assert_eq!(cancel(&mut client).await, CancelStatus::Cancelling);
    let end = loop {
        match stream.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("a cancelled query must not look complete"),
            Err(status) => break Error::from_status(&status),
        }
    };
    assert_eq!(end.kind(), Kind::Cancelled, "{end:?}");
    let ended = status(&mut client).await;
    assert_eq!((&ended["state"], &ended["query"]), (&"cancelled".into(), &running["query"]), "{ended}");
}

#[tokio::test]
async fn dropping_the_stream_frees_the_query() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let info = client.info(ENDLESS).await.unwrap();
    let request = client.request(info.endpoint[0].ticket.clone().unwrap());
    let mut stream = client.flight.do_get(request).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    drop(stream);
    // It leaves the list of running ones, which is all that cancelling can find.
    let gone = async {
        while cancel_info(&mut client, &info).await == CancelStatus::Cancelled {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), gone).await.unwrap();
    assert_eq!(client.numbers("SELECT 1").await.unwrap(), [1]);
}
