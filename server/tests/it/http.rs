use skep_common::task::spawn;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn health_is_told() {
    let (coordinator, _folder) = crate::support::coordinator().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let serving = spawn(
        "http",
        skep_server::http::serve(coordinator.clone(), listener, stop.clone().cancelled_owned()),
    );
    let get = async |path: &str| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer.split(' ').nth(1).unwrap().to_owned()
    };
    assert_eq!(
        (get("/livez").await, get("/readyz").await, get("/").await),
        ("200".into(), "200".into(), "200".into())
    );
    assert_eq!(get("/nothing").await, "404");
    coordinator.drain();
    assert_eq!((get("/livez").await, get("/readyz").await), ("200".into(), "503".into()));
    stop.cancel();
    serving.join().await.unwrap().unwrap();
}
