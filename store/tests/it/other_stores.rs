//! The contract, and what is particular, of S3 and HDFS.
//!
//! The names of these tests say which service they need. `cargo xtask services` starts them and says where they are:
//! `SKEP_S3_MOTO`, `SKEP_S3_CEPH`, `SKEP_S3_CARELESS` (endpoints), `SKEP_HDFS` (a URL).

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use skep_common::Kind;
use skep_store::probe::Race;
use skep_store::{Config, Stores};
use url::Url;

use crate::contract::{Ways, whole_suite};

const S3: Ways = Ways { part: 5 << 20, exclusive_uploads: true };
/// As `cargo xtask services` makes it in each service.
const BUCKET: &str = "skep-contract";

/// What a service's variable says; `None` where it is not there.
fn service(variable: &str) -> Option<String> {
    let value = std::env::var(variable).ok();
    if value.is_none() {
        let required = std::env::var_os("SKEP_REQUIRE_SERVICES").is_some();
        assert!(!required, "{variable} is not set, which 'cargo xtask services' does");
        eprintln!("skipped: {variable} is not set; 'cargo xtask services' does");
    }
    value
}

fn s3(endpoint: &str) -> Config {
    let mut config = Config::default();
    config.s3.endpoint = Some(endpoint.parse().unwrap());
    config.s3.access_key_id = Some("skepaccess".to_owned());
    config.s3.secret_access_key = Some("skepsecret".to_owned().into());
    config.s3.retries = 2;
    config.s3.retry_timeout = Duration::from_secs(5);
    config
}

fn url(root: &str) -> Url {
    root.parse().unwrap()
}

/// A folder of its own in the store of `root`.
fn folder(stores: &Stores, root: &str) -> Arc<dyn ObjectStore> {
    below(stores, root, &format!("contract-{}", uuid::Uuid::now_v7()))
}

fn below(stores: &Stores, root: &str, folder: &str) -> Arc<dyn ObjectStore> {
    Arc::new(PrefixStore::new(stores.store(&url(root)).unwrap(), folder))
}

async fn contract(config: Config, root: &str, ways: Ways) {
    let cache = tempfile::tempdir().unwrap();
    let stores = Stores::with_config(config, Some(cache.path().to_owned()));
    whole_suite(folder(&stores, root), ways).await;
    let at = stores.resolve(&url(&format!("{root}/managed/"))).unwrap();
    stores.check_managed(&at.root, &at.path, Race::default()).await.unwrap();
    let stats = stores.cache_stats();
    assert!(stats.hits > 0 && stats.failures == 0, "{stats:?}");
}

async fn told(config: Config, root: &str) -> skep_common::Error {
    let stores = Stores::with_config(config, None);
    stores
        .check_managed(&url(root), &Path::from("managed"), Race::default())
        .await
        .expect_err("it cannot be used")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_moto_keeps_the_contract() {
    let Some(endpoint) = service("SKEP_S3_MOTO") else { return };
    contract(s3(&endpoint), &format!("s3://{BUCKET}"), S3).await;
}

/// It does not look at the condition with which an upload ends; see docs/decisions/0022.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_ceph_keeps_the_contract() {
    let Some(endpoint) = service("SKEP_S3_CEPH") else { return };
    let ways = Ways { exclusive_uploads: false, ..S3 };
    contract(s3(&endpoint), &format!("s3://{BUCKET}"), ways).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_ceph_says_what_is_wrong() {
    let Some(endpoint) = service("SKEP_S3_CEPH") else { return };
    let missing = told(s3(&endpoint), "s3://no-such-bucket/").await;
    assert_eq!(missing.kind(), Kind::NotFound, "{}", missing.report());
    assert!(missing.report().contains("bucket 'no-such-bucket' does not exist"), "{}", missing.report());
    let mut wrong = s3(&endpoint);
    wrong.s3.secret_access_key = Some("geheim".to_owned().into());
    let denied = told(wrong, &format!("s3://{BUCKET}/")).await;
    assert_eq!(denied.kind(), Kind::Denied, "{}", denied.report());
    assert!(denied.hint_text().unwrap().contains("secret_access_key"), "{denied:?}");
    assert!(!format!("{denied:?} {}", denied.report()).contains("geheim"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_moto_careless_is_refused() {
    let Some(endpoint) = service("SKEP_S3_CARELESS") else { return };
    let refused = told(s3(&endpoint), &format!("s3://{BUCKET}/")).await;
    assert_eq!(refused.kind(), Kind::Unsupported, "{}", refused.report());
    assert!(refused.report().contains("cannot hold managed tables"), "{}", refused.report());
    assert!(refused.hint_text().unwrap().contains("If-None-Match"), "{refused:?}");
}

/// Nobody listens.
#[tokio::test]
async fn services_that_are_away_are_unavailable() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let mut config = s3(&format!("http://{address}"));
    config.hdfs.retries = 1;
    for root in ["s3://bucket/", &format!("hdfs://{address}/")] {
        let away = told(config.clone(), root).await;
        assert_eq!(away.kind(), Kind::Unavailable, "{}", away.report());
        assert!(away.hint_text().is_some(), "{}", away.report());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hdfs_keeps_the_contract() {
    let Some(root) = service("SKEP_HDFS") else { return };
    contract(Config::default(), &root, Ways { part: 100_000, exclusive_uploads: true }).await;
}

/// The losers of a race leave nothing, and what others left is not listed; ours is taken away when it is old.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hdfs_shows_nothing_unfinished() {
    let Some(root) = service("SKEP_HDFS") else { return };
    let own = format!("unfinished-{}", uuid::Uuid::now_v7());
    let store = below(&Stores::with_config(Config::default(), None), &root, &own);
    let path = Path::from("race/file");
    let writers = (0..16).map(|writer: u8| {
        let (store, path) = (Arc::clone(&store), path.clone());
        async move {
            let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
            store.put_opts(&path, vec![writer; 10_000].into(), options).await
        }
    });
    let won = join_all(writers).await.into_iter().filter(Result::is_ok).count();
    assert_eq!(won, 1);
    let theirs = Path::from("race/.file.tmp.7");
    let ours = Path::from(format!("race/.skep-{}.tmp", uuid::Uuid::now_v7()));
    for unfinished in [&theirs, &ours] {
        store.put(unfinished, "half".into()).await.unwrap();
    }
    let listed: Vec<String> =
        store.list(None).map_ok(|meta| meta.location.to_string()).try_collect().await.unwrap();
    assert_eq!(listed, ["race/file"]);
    let folder = store.list_with_delimiter(Some(&Path::from("race"))).await.unwrap();
    assert_eq!(folder.objects.len(), 1);
    // Named, they are there: nothing was taken away that is young.
    assert!(store.head(&theirs).await.is_ok() && store.head(&ours).await.is_ok());
    let mut config = Config::default();
    config.hdfs.unfinished_age = Duration::ZERO;
    let sweeping = below(&Stores::with_config(config, None), &root, &own);
    let patience = tokio::time::timeout(Duration::from_secs(30), async {
        while store.head(&ours).await.is_ok() {
            sweeping.list(None).try_collect::<Vec<_>>().await.unwrap();
        }
    });
    patience.await.expect("what is unfinished and old goes");
    assert!(store.head(&theirs).await.is_ok(), "what others left is theirs");
    let all = [path, theirs].map(Ok);
    store.delete_stream(futures::stream::iter(all).boxed()).try_collect::<Vec<_>>().await.unwrap();
}
