use std::sync::Arc;
use std::time::Duration;

use arrow_flight::HandshakeRequest;
use futures::stream;
use skep_common::{Kind, Result};
use skep_server::flight::Config;

use crate::support::{Client, Moved, Server};

async fn handshake(client: &mut Client, authorization: &str) -> Result<String> {
    let mut request = client.request(stream::iter(Vec::<HandshakeRequest>::new()));
    request.metadata_mut().insert("authorization", authorization.parse().unwrap());
    let response = client.flight.handshake(request).await?;
    Ok(response.metadata().get("authorization").unwrap().to_str().unwrap().to_owned())
}

async fn schema(client: &mut Client) -> Result<String> {
    let rows = client.query("SHOW skep.schema").await?;
    Ok(arrow::util::pretty::pretty_format_batches(&rows).unwrap().to_string())
}

#[tokio::test]
async fn f1_the_token_is_in_the_headers_and_names_the_session() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let basic = handshake(&mut client, "Basic YWRhOnB3").await.unwrap();
    let other = handshake(&mut client, "Basic YWRhOnB3").await.unwrap();
    assert!(basic.starts_with("Bearer ") && basic != other);
    // A token shown again names the same session; so does one from another connection.
    assert_eq!(handshake(&mut client, &basic).await.unwrap(), basic);
    client.headers.insert("authorization", basic.parse().unwrap());
    client.update("SET skep.schema = 'lake'").await.unwrap();
    let mut elsewhere = server.connect().await;
    elsewhere.headers.insert("authorization", basic.parse().unwrap());
    assert!(schema(&mut elsewhere).await.unwrap().contains("lake"));
    elsewhere.headers.insert("authorization", other.parse().unwrap());
    assert!(schema(&mut elsewhere).await.unwrap().contains("main"));
    assert_eq!(handshake(&mut client, "Digest x").await.unwrap_err().kind(), Kind::Denied);
}

#[tokio::test]
async fn f18_without_token_and_cookie_a_connection_is_a_session() {
    let server = Server::start().await;
    let (mut one, mut two) = (server.connect().await, server.connect().await);
    one.update("SET skep.schema = 'lake'").await.unwrap();
    assert!(schema(&mut one).await.unwrap().contains("lake"));
    assert!(schema(&mut two).await.unwrap().contains("main"));

    // It ends with the connection: a ticket of it is worth nothing afterwards.
    let info = one.info("SELECT 1").await.unwrap();
    two.redeem(&info).await.unwrap();
    drop(one);
    let deadline = tokio::time::sleep(Duration::from_secs(20));
    tokio::pin!(deadline);
    loop {
        match two.redeem(&info).await {
            Err(error) => {
                assert_eq!(error.kind(), Kind::NotFound, "{error:?}");
                break;
            }
            Ok(_) => tokio::select! {
                () = &mut deadline => panic!("the session outlives its connection"),
                () = tokio::task::yield_now() => {}
            },
        }
    }
}

#[tokio::test]
async fn a_cookie_finds_its_session_from_any_connection() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let response = client.flight.list_actions(arrow_flight::Empty {}).await;
    assert!(response.is_ok());
    let request = client.request(arrow_flight::Action::new("GetSessionOptions", Vec::new()));
    let response = client.flight.do_action(request).await.unwrap();
    let cookie = response.metadata().get("set-cookie").unwrap().clone();
    client.headers.insert("cookie", cookie.clone());
    client.update("SET skep.schema = 'mart'").await.unwrap();
    let mut elsewhere = server.connect().await;
    elsewhere.headers.insert("cookie", cookie);
    assert!(schema(&mut elsewhere).await.unwrap().contains("mart"));
    drop(client);
    assert!(schema(&mut elsewhere).await.unwrap().contains("mart"));
}

#[tokio::test]
async fn closing_ends_the_session_and_may_be_repeated() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let token = handshake(&mut client, "Basic YWRhOnB3").await.unwrap();
    client.headers.insert("authorization", token.parse().unwrap());
    assert_eq!(client.numbers("SELECT 1").await.unwrap(), [1]);
    for _ in 0..2 {
        let closed = client.action("CloseSession", Vec::new()).await.unwrap().unwrap();
        assert_eq!(&closed[..], b"\x08\x01");
    }
    let ended = client.numbers("SELECT 1").await.unwrap_err();
    assert_eq!(ended.kind(), Kind::Denied);
}

#[tokio::test]
async fn idle_sessions_and_old_tickets_end() {
    let clock = Moved::new();
    let config = Config::default();
    let ttl = config.ticket_ttl;
    let server = Server::at(config, Arc::<Moved>::clone(&clock)).await;
    let mut client = server.connect().await;
    let info = client.info("SELECT 1").await.unwrap();
    assert!(client.redeem(&info).await.is_ok());
    clock.advance(ttl + Duration::from_millis(1));
    let expired = client.redeem(&info).await.unwrap_err();
    assert_eq!(expired.kind(), Kind::Invalid, "{expired:?}");

    let clock = Moved::new();
    let config = Config { session_ttl: Duration::from_millis(100), ..Config::default() };
    let server = Server::at(config, Arc::<Moved>::clone(&clock)).await;
    let mut client = server.connect().await;
    let token = handshake(&mut client, "Basic YWRhOnB3").await.unwrap();
    client.headers.insert("authorization", token.parse().unwrap());
    client.info("SELECT 1").await.unwrap();
    // Each call keeps the session: sooner or later it is found idle before the next one.
    let limit = Duration::from_secs(20);
    let ended = async {
        loop {
            clock.advance(Duration::from_secs(3600));
            if let Err(error) = client.info("SELECT 1").await {
                return error;
            }
        }
    };
    let ended = tokio::time::timeout(limit, ended).await.unwrap();
    assert_eq!(ended.kind(), Kind::Denied, "{ended:?}");
}

#[tokio::test]
async fn a_handle_is_of_use_to_its_user_only() {
    let server = Server::start().await;
    let (mut ada, mut bob) = (server.connect().await, server.connect().await);
    let token = handshake(&mut ada, "Basic YWRhOnB3").await.unwrap();
    ada.headers.insert("authorization", token.parse().unwrap());
    let token = handshake(&mut bob, "Basic Ym9iOnB3").await.unwrap();
    bob.headers.insert("authorization", token.parse().unwrap());
    let info = ada.info("SELECT 1").await.unwrap();
    assert_eq!(bob.redeem(&info).await.unwrap_err().kind(), Kind::Denied);
    assert!(ada.redeem(&info).await.is_ok());
}

#[tokio::test]
async fn too_many_sessions_are_turned_away() {
    let server = Server::with(Config { sessions_max: 2, ..Config::default() }).await;
    let mut client = server.connect().await;
    handshake(&mut client, "Basic YWRhOnB3").await.unwrap();
    handshake(&mut client, "Basic YWRhOnB3").await.unwrap();
    let full = handshake(&mut client, "Basic YWRhOnB3").await.unwrap_err();
    assert_eq!(full.kind(), Kind::Exhausted);
}

#[tokio::test]
async fn the_in_memory_door_is_a_door() {
    let (coordinator, _folder) = crate::support::coordinator().await;
    let (channel, door) = skep_server::flight::in_memory(coordinator).unwrap();
    let mut client = Client::over(channel);
    client.update("CREATE TABLE t AS SELECT 1 AS id").await.unwrap();
    assert_eq!(client.numbers("SELECT count(*) FROM t").await.unwrap(), [1]);
    drop(door);
    assert!(client.numbers("SELECT 1").await.is_err());
}

#[tokio::test]
async fn a_closing_door_lets_open_calls_finish() {
    let server = Server::with(Config { drain_timeout: Duration::from_secs(20), ..Config::default() }).await;
    let mut client = server.connect().await;
    assert_eq!(client.numbers("SELECT 1").await.unwrap(), [1]);
    drop(client);
    server.stop().await.unwrap();
}
