use std::time::Duration;

use parking_lot::Mutex;
use skep_common::{ByteSize, Kind, clock};

use super::*;
use crate::remote::BlockOnDisk;

#[derive(Debug, Default)]
struct Fixed(Mutex<Vec<NodeInfo>>);

impl Nodes for Fixed {
    fn live(&self) -> Vec<NodeInfo> {
        self.0.lock().clone()
    }
}

struct Fixture {
    namespace: Namespace,
    nodes: Arc<Fixed>,
    folder: tempfile::TempDir,
    config: Config,
}

fn node(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

impl Fixture {
    async fn new(config: Config) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let nodes = Arc::new(Fixed::default());
        let namespace = open(&folder, &config, &nodes).await;
        let fixture = Self { namespace, nodes, folder, config };
        for name in ["a", "b", "c"] {
            fixture.join(name).await;
        }
        fixture
    }

    async fn join(&self, name: &str) {
        let url = "http://127.0.0.1:1".parse().unwrap();
        self.nodes.0.lock().push(NodeInfo { id: node(name), zone: None, url, free: 1 << 40 });
        self.report(name, &[]).await.unwrap();
    }

    async fn report(&self, name: &str, blocks: &[(BlockId, u64)]) -> Result<ReportAnswer> {
        let blocks = blocks.iter().map(|(id, length)| BlockOnDisk { id: *id, length: *length }).collect();
        let report = BlockReport { node: node(name), store: None, blocks, bad: Vec::new() };
        self.namespace.report_blocks(report).await
    }

    async fn put(&self, path: &str, mode: &WriteMode, length: u64) -> Result<(FileMeta, BlockId)> {
        let write = WriteId::generate();
        let placed = self.namespace.begin_write(write, path, mode, None).await?;
        let replicas = placed.targets.iter().map(|peer| peer.id.clone()).collect();
        let written = WrittenBlock { id: placed.block, length, replicas };
        let meta = self.namespace.commit_write(write, &[written]).await?;
        Ok((meta, placed.block))
    }

    async fn garbage(&self) -> usize {
        let nodes = self.namespace.node_states().await.unwrap();
        self.namespace.garbage(&nodes, 1000).await.unwrap().len()
    }

    async fn map(&self, path: &str) -> Option<FileMap> {
        self.namespace.lookup(&[path.to_owned()]).await.unwrap().remove(0)
    }
}

/// A schema of the server that `SKEP_POSTGRES` names, or else a file.
fn location(folder: &std::path::Path) -> skep_metadb::Location {
    let Ok(server) = std::env::var("SKEP_POSTGRES") else { return folder.join("blocks.sqlite").into() };
    let name = folder.file_name().unwrap().to_string_lossy().replace('.', "skep_").to_lowercase();
    format!("{server}?options=-csearch_path%3D{name}").parse().unwrap()
}

async fn open(folder: &tempfile::TempDir, config: &Config, nodes: &Arc<Fixed>) -> Namespace {
    let path = location(folder.path());
    Namespace::open(path, config.clone(), Arc::clone(nodes) as _, clock::system()).await.unwrap()
}

fn config() -> Config {
    Config { delete_grace: Duration::ZERO, ..Config::default() }
}

#[tokio::test]
async fn a_file_appears_when_it_is_committed_and_survives_a_restart() {
    let mut f = Fixture::new(config()).await;
    let write = WriteId::generate();
    let placed = f.namespace.begin_write(write, "t/x", &WriteMode::Create, Some(&node("b"))).await.unwrap();
    assert_eq!(placed.targets.len(), 3);
    assert_eq!((placed.targets[0].id.as_str(), placed.min_replicas), ("b", 2));
    assert!(f.map("t/x").await.is_none());

    let few = WrittenBlock { id: placed.block, length: 5, replicas: vec![node("b")] };
    let error = f.namespace.commit_write(write, &[few]).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    let enough = WrittenBlock { id: placed.block, length: 5, replicas: vec![node("a"), node("b")] };
    let meta = f.namespace.commit_write(write, std::slice::from_ref(&enough)).await.unwrap();
    // A repeated commit finds its own work.
    assert_eq!(f.namespace.commit_write(write, &[enough]).await.unwrap(), meta);
    assert_eq!(f.garbage().await, 1);

    let before = f.map("t/x").await.unwrap();
    assert_eq!(before.blocks[0].replicas.len(), 2);
    let store = f.namespace.store().to_owned();
    f.namespace = open(&f.folder, &f.config, &f.nodes).await;
    assert_eq!(f.map("t/x").await.unwrap(), before);
    assert_eq!(f.namespace.store(), store);
    assert_eq!(f.namespace.replication(), Replication { wanted: 3, required: 2 });
}

#[tokio::test]
async fn modes_hold_at_the_start_and_at_the_end() {
    let f = Fixture::new(config()).await;
    let late = WriteId::generate();
    let placed = f.namespace.begin_write(late, "x", &WriteMode::Create, None).await.unwrap();
    let (first, _) = f.put("x", &WriteMode::Create, 3).await.unwrap();
    assert_eq!(f.put("x", &WriteMode::Create, 3).await.unwrap_err().kind(), Kind::AlreadyExists);
    let replicas = placed.targets.iter().map(|peer| peer.id.clone()).collect();
    let written = WrittenBlock { id: placed.block, length: 9, replicas };
    let error = f.namespace.commit_write(late, &[written]).await.unwrap_err();
    assert_eq!(error.kind(), Kind::AlreadyExists);
    assert_eq!(f.garbage().await, 3, "the loser's replicas are collected");

    let update = |version: &str| WriteMode::Update(version.to_owned());
    assert_eq!(f.put("x", &update("other"), 4).await.unwrap_err().kind(), Kind::Conflict);
    assert_eq!(f.put("y", &update(&first.version), 4).await.unwrap_err().kind(), Kind::Conflict);
    let (second, _) = f.put("x", &update(&first.version), 4).await.unwrap();
    assert_ne!(first.version, second.version);
    assert_eq!(f.put("x", &WriteMode::Overwrite, 5).await.unwrap().0.size, 5);
}

#[tokio::test]
async fn shared_blocks_are_collected_with_their_last_file() {
    let f = Fixture::new(config()).await;
    f.put("x", &WriteMode::Overwrite, 3).await.unwrap();
    f.namespace.copy("x", "y", true).await.unwrap();
    assert_eq!(f.namespace.copy("x", "y", true).await.unwrap_err().kind(), Kind::AlreadyExists);
    assert_eq!(f.namespace.copy("none", "z", false).await.unwrap_err().kind(), Kind::NotFound);
    f.namespace.rename("x", "z", true).await.unwrap();
    assert!(f.map("x").await.is_none());
    assert_eq!(f.map("z").await.unwrap().blocks, f.map("y").await.unwrap().blocks);
    let deleted = f.namespace.delete(&["z".to_owned(), "none".to_owned()]).await.unwrap();
    assert_eq!((deleted, f.garbage().await), (vec![true, false], 0));
    f.namespace.delete(&["y".to_owned()]).await.unwrap();
    assert_eq!(f.garbage().await, 3);
}

#[tokio::test]
async fn what_failed_writes_leave_is_collected() {
    let f = Fixture::new(Config { write_lease: Duration::from_secs(1), ..config() }).await;
    let write = WriteId::generate();
    f.namespace.begin_write(write, "x", &WriteMode::Create, None).await.unwrap();
    let second = f.namespace.add_block(write, None, &[node("a")]).await.unwrap();
    assert_eq!(second.targets.len(), 2);
    f.namespace.abort_write(write).await.unwrap();
    f.namespace.abort_write(write).await.unwrap();
    assert_eq!(f.garbage().await, 5);
    assert_eq!(f.namespace.renew_write(write).await.unwrap_err().kind(), Kind::Conflict);
    assert_eq!(f.namespace.commit_write(write, &[]).await.unwrap_err().kind(), Kind::Conflict);

    let silent = WriteId::generate();
    f.namespace.begin_write(silent, "y", &WriteMode::Create, None).await.unwrap();
    assert_eq!(f.namespace.expire_writes().await.unwrap(), 0);
    let past = "UPDATE skep_write SET touched_us = touched_us - 2000000";
    let mut tx = f.namespace.begin().await.unwrap();
    sqlx::query(past).execute(tx.conn()).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(f.namespace.expire_writes().await.unwrap(), 1);
    assert_eq!(f.garbage().await, 8);
}

#[tokio::test]
async fn reports_settle_what_is_there() {
    let f = Fixture::new(config()).await;
    let (_, x) = f.put("x", &WriteMode::Overwrite, 3).await.unwrap();
    let (_, y) = f.put("y", &WriteMode::Overwrite, 4).await.unwrap();
    let stranger = BlockId::generate();
    let answer = f.report("a", &[(x, 3), (stranger, 7)]).await.unwrap();
    assert_eq!((answer.known, answer.unknown, answer.missing), (1, 1, vec![y]));

    // The node looked again and it is not there; then it comes back.
    f.namespace.report_fault(y, &node("a"), Fault::Missing).await.unwrap();
    assert_eq!(f.map("y").await.unwrap().blocks[0].lost, [node("a")]);
    assert_eq!(f.report("a", &[(x, 3), (y, 4)]).await.unwrap().known, 2);
    assert_eq!(f.map("y").await.unwrap().blocks[0].replicas.len(), 3);

    // A wrong length is corrupt, and so stays a replica that failed a check.
    f.report("b", &[(x, 2), (y, 4)]).await.unwrap();
    f.namespace.report_fault(y, &node("b"), Fault::Corrupt).await.unwrap();
    f.report("b", &[(x, 3), (y, 4)]).await.unwrap();
    assert_eq!(f.map("x").await.unwrap().blocks[0].lost, [node("b")]);
    assert_eq!(f.map("y").await.unwrap().blocks[0].lost, [node("b")]);

    let foreign = BlockReport { node: node("d"), store: Some("other".into()), blocks: vec![], bad: vec![] };
    assert_eq!(f.namespace.report_blocks(foreign).await.unwrap_err().kind(), Kind::Invalid);
}

#[tokio::test]
async fn garbage_is_forgotten_when_a_report_no_longer_names_it() {
    let f = Fixture::new(config()).await;
    let (_, x) = f.put("x", &WriteMode::Overwrite, 3).await.unwrap();
    f.namespace.delete(&["x".to_owned()]).await.unwrap();
    assert_eq!(f.garbage().await, 3);
    f.namespace.garbage_asked(&node("a"), &[x]).await.unwrap();
    assert_eq!(f.garbage().await, 2);
    assert_eq!(f.report("a", &[(x, 3)]).await.unwrap().unknown, 0);
    assert_eq!(f.garbage().await, 3, "still there: asked again");
    f.namespace.garbage_asked(&node("a"), &[x]).await.unwrap();
    f.report("a", &[]).await.unwrap();
    assert_eq!(f.garbage().await, 2);
}

#[tokio::test]
async fn too_few_nodes_and_too_little_space_are_told_apart() {
    let f = Fixture::new(config()).await;
    f.nodes.0.lock().truncate(1);
    let error = f.put("x", &WriteMode::Overwrite, 1).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    f.join("b").await;
    for node in f.nodes.0.lock().iter_mut() {
        node.free = ByteSize::mib(300).bytes();
    }
    let error = f.put("x", &WriteMode::Overwrite, 1).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NoSpace, "{error:?}");
}

#[tokio::test]
async fn listing_pages_and_steps_over_folders() {
    let f = Fixture::new(config()).await;
    for path in ["a", "a!", "a/b/c", "a/b/d", "a/b0", "a/x", "a0/y", "b/z"] {
        f.put(path, &WriteMode::Overwrite, 1).await.unwrap();
    }
    let names = |files: Vec<FileMeta>| files.into_iter().map(|file| file.path).collect::<Vec<_>>();
    let list = async |prefix, after, limit| names(f.namespace.list(prefix, after, limit).await.unwrap());
    assert_eq!(list("a", None, 10).await, ["a/b/c", "a/b/d", "a/b0", "a/x"]);
    assert_eq!(list("a", Some("a/b/d"), 1).await, ["a/b0"]);
    assert_eq!(list("a", Some("0"), 1).await, ["a/b/c"]);
    assert_eq!(list("", None, 100).await.len(), 8);
    assert_eq!(list("", Some("a/x"), 2).await, ["a0/y", "b/z"]);

    for limit in 1..10 {
        let (mut files, mut folders, mut from) = (Vec::new(), Vec::new(), None);
        loop {
            let page = f.namespace.list_directory("a", from.as_deref(), limit).await.unwrap();
            files.extend(names(page.files));
            folders.extend(page.folders);
            from = page.next;
            if from.is_none() {
                break;
            }
        }
        assert_eq!((files, folders), (vec!["a/b0".to_owned(), "a/x".into()], vec!["a/b".to_owned()]));
    }
    let root = f.namespace.list_directory("", None, 100).await.unwrap();
    assert_eq!(
        (names(root.files), root.folders),
        (vec!["a".to_owned(), "a!".into()], vec!["a".to_owned(), "a0".into(), "b".into()])
    );
}

/// A block of the time `us`.
fn block_of(us: i64, number: u8) -> BlockId {
    let mut bytes = [number; 16];
    bytes[..6].copy_from_slice(&(us / 1000).to_be_bytes()[2..]);
    bytes[6] = 0x70;
    bytes[8] = 0x80;
    BlockId::from_slice(&bytes).unwrap()
}

#[tokio::test]
async fn orphans_go_when_the_namespace_knows_that_they_are_over() {
    let hour = 3_600_000_000;
    let f = Fixture::new(Config { orphan_grace: Duration::from_secs(2 * 3600), ..config() }).await;
    let now = f.namespace.now_us();
    assert_eq!(block_of(now, 1).made_us(), Some(now / 1000 * 1000));
    // The database was there from 10 to 5 hours ago; what was then until now it does not know.
    let mut tx = f.namespace.begin().await.unwrap();
    sqlx::query("INSERT INTO skep_life (start_us, end_us) VALUES (?, ?)")
        .bind(now - 10 * hour)
        .bind(now - 5 * hour)
        .execute(tx.conn())
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let (_, known) = f.put("x", &WriteMode::Overwrite, 3).await.unwrap();
    let [before, over, lost, fresh] =
        [11, 7, 4, 0].map(|hours| block_of(now - hours * hour, u8::try_from(hours).unwrap()));
    let answer = f.report("a", &[(known, 3), (before, 1), (over, 1), (lost, 1), (fresh, 1)]).await.unwrap();
    assert_eq!((answer.known, answer.unknown), (1, 3), "one of four is over");
    let nodes = f.namespace.node_states().await.unwrap();
    let garbage = f.namespace.garbage(&nodes, 10).await.unwrap();
    assert_eq!(garbage, [Garbage { node: node("a"), block: over }]);
    f.namespace.garbage_asked(&node("a"), &[over]).await.unwrap();
    f.report("a", &[(known, 3), (before, 1), (lost, 1), (fresh, 1)]).await.unwrap();
    assert_eq!(f.garbage().await, 0);
}

#[tokio::test]
async fn a_discarded_replica_counts_again_while_others_are_lost() {
    let f = Fixture::new(config()).await;
    let (_, x) = f.put("x", &WriteMode::Overwrite, 3).await.unwrap();
    let states = || f.namespace.node_states();
    f.namespace.discard(&[(x, node("a"))]).await.unwrap();
    f.namespace.report_fault(x, &node("b"), Fault::Corrupt).await.unwrap();
    f.namespace.discard(&[(x, node("b"))]).await.unwrap();
    // One of three is left, and two are needed: nothing is deleted, and what was good is good.
    assert_eq!(f.garbage().await, 0);
    assert_eq!(f.namespace.reclaim(&states().await.unwrap()).await.unwrap(), 1);
    let map = f.map("x").await.unwrap();
    let names: Vec<_> = map.blocks[0].replicas.iter().map(|peer| peer.id.as_str()).collect();
    assert_eq!(names, ["a", "c"]);
    assert_eq!(f.garbage().await, 1, "the bad one may go");
    // One that a node was asked to delete may be gone.
    f.namespace.discard(&[(x, node("a"))]).await.unwrap();
    f.namespace.garbage_asking(&node("a"), &[x]).await.unwrap();
    assert_eq!(f.namespace.reclaim(&states().await.unwrap()).await.unwrap(), 0);
}

#[tokio::test]
async fn a_database_of_before_is_brought_up() {
    let folder = tempfile::tempdir().unwrap();
    let db = MetaDb::open(location(folder.path()), skep_metadb::Options::default()).await.unwrap();
    db.migrate("blocks", &schema::STEPS[..1]).await.unwrap();
    let mut tx = db.begin().await.unwrap();
    for statement in [
        "INSERT INTO skep_node (id, reported_us) VALUES ('a', 1), ('b', 1), ('c', 1)",
        "INSERT INTO skep_garbage (node, block, since_us) VALUES ('a', '00000000000000000000000000000001', 0)",
    ] {
        sqlx::query(statement).execute(tx.conn()).await.unwrap();
    }
    tx.commit().await.unwrap();
    let nodes = Arc::new(Fixed::default());
    let namespace = open(&folder, &config(), &nodes).await;
    let known = namespace.nodes().await.unwrap();
    assert!(known.len() == 3 && known.iter().all(|node| !node.draining && node.maintenance.is_none()));
    namespace.drain(&node("a")).await.unwrap();
    assert_eq!(namespace.replication_report().await.unwrap().garbage, 1);
}
