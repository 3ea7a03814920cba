//! What every store must do, run against the replicated store and the file system; `other_stores` runs it against the others.

use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, future};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    Error, GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, WriteMultipart,
};
use skep_store::DurableFiles;
use skep_store::probe::{Race, conditional_create};
use skep_store::skep::CreateExclusively;

use crate::cluster::{Cluster, bytes};

type Store = Arc<dyn ObjectStore>;

async fn names(store: &Store, prefix: Option<&str>) -> Vec<String> {
    let prefix = prefix.map(Path::from);
    let listed = store.list(prefix.as_ref()).map_ok(|meta| meta.location.to_string());
    let mut names: Vec<String> = listed.try_collect().await.unwrap();
    names.sort();
    names
}

async fn read(store: &Store, path: &Path) -> Bytes {
    store.get(path).await.unwrap().bytes().await.unwrap()
}

/// In what stores may differ.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ways {
    /// Bytes that a part of an upload has at least, the last one aside.
    pub(crate) part: usize,
    /// Whether uploads in parts are exclusive where that is asked for.
    pub(crate) exclusive_uploads: bool,
}

const OURS: Ways = Ways { part: 100_000, exclusive_uploads: true };

pub(crate) async fn whole_suite(store: Store, ways: Ways) {
    bytes_come_back(&store).await;
    ranges(&store).await;
    versions(&store).await;
    listing(&store).await;
    multipart(&store, ways.part).await;
    moving(&store).await;
    exclusive_creation(&store).await;
    exclusive_uploads(&store, ways).await;
    immutable_files(&store, ways.part).await;
    assert_eq!(names(&store, None).await, Vec::<String>::new());
}

async fn bytes_come_back(store: &Store) {
    for length in [0, 1, 4096, 262_143, 262_144, 262_145, 1_000_000] {
        let (path, data) = (Path::from(format!("b/{length}")), bytes(length));
        store.put(&path, data.clone().into()).await.unwrap();
        assert_eq!(store.head(&path).await.unwrap().size, length as u64);
        assert_eq!(read(store, &path).await, data);
        store.put(&path, PutPayload::from_static(b"short")).await.unwrap();
        assert_eq!(read(store, &path).await, &b"short"[..]);
        store.delete(&path).await.unwrap();
        assert!(matches!(store.get(&path).await, Err(Error::NotFound { .. })));
        assert!(matches!(store.head(&path).await, Err(Error::NotFound { .. })));
    }
    assert!(matches!(store.get(&Path::from("b")).await, Err(Error::NotFound { .. })));
    let odd = Path::parse("a b/%48/\u{1F980}.parquet").unwrap();
    store.put(&odd, "x".into()).await.unwrap();
    assert_eq!(names(store, Some("a b")).await.len(), 1);
    store.delete(&odd).await.unwrap();
}

async fn ranges(store: &Store) {
    let (path, data) = (Path::from("ranges"), bytes(700_000));
    store.put(&path, data.clone().into()).await.unwrap();
    let ranges =
        [0..1, 10..20, 262_140..262_150, 0..700_000, 524_287..524_289, 699_999..700_000, 300_000..300_001];
    let all = store.get_ranges(&path, &ranges).await.unwrap();
    for (range, got) in ranges.iter().zip(all) {
        let expected = data.slice(range.start as usize..range.end as usize);
        assert_eq!(got, expected, "{range:?}");
        assert_eq!(store.get_range(&path, range.clone()).await.unwrap(), expected, "{range:?}");
    }
    let get = async |range: GetRange| {
        let options = GetOptions::new().with_range(Some(range));
        let result = store.get_opts(&path, options).await?;
        let range = result.range.clone();
        Ok::<_, Error>((range, result.bytes().await?))
    };
    assert_eq!(get(GetRange::Suffix(5)).await.unwrap(), (699_995..700_000, data.slice(699_995..)));
    assert_eq!(get(GetRange::Offset(699_990)).await.unwrap(), (699_990..700_000, data.slice(699_990..)));
    assert_eq!(get(GetRange::Bounded(699_990..800_000)).await.unwrap().1, data.slice(699_990..));
    assert!(get(GetRange::Bounded(700_001..700_002)).await.is_err());
    assert!(get(GetRange::Offset(700_001)).await.is_err());
    store.delete(&path).await.unwrap();
}

async fn versions(store: &Store) {
    let path = Path::from("versions");
    let first = store.put(&path, "one".into()).await.unwrap().e_tag.unwrap();
    assert_eq!(store.head(&path).await.unwrap().e_tag.as_ref(), Some(&first));
    let second = store.put(&path, "second".into()).await.unwrap().e_tag.unwrap();
    assert_ne!(first, second);
    let with = |tag: &str| GetOptions::new().with_if_match(Some(tag.to_owned()));
    assert!(matches!(store.get_opts(&path, with(&first)).await, Err(Error::Precondition { .. })));
    assert!(store.get_opts(&path, with(&second)).await.is_ok());
    let unless = GetOptions::new().with_if_none_match(Some(second));
    assert!(matches!(store.get_opts(&path, unless).await, Err(Error::NotModified { .. })));
    store.delete(&path).await.unwrap();
}

async fn listing(store: &Store) {
    let files = ["t/a", "t/b/x", "t/b/y", "t/b.c", "t/c/d/e", "tt/z"];
    for file in files {
        store.put(&Path::from(file), "x".into()).await.unwrap();
    }
    assert_eq!(names(store, None).await.len(), 6);
    assert_eq!(names(store, Some("t")).await, ["t/a", "t/b.c", "t/b/x", "t/b/y", "t/c/d/e"]);
    assert_eq!(names(store, Some("t/b")).await, ["t/b/x", "t/b/y"]);
    assert_eq!(names(store, Some("none")).await, Vec::<String>::new());
    let later = store.list_with_offset(Some(&Path::from("t")), &Path::from("t/b/x"));
    let mut later: Vec<_> = later.map_ok(|meta| meta.location.to_string()).try_collect().await.unwrap();
    later.sort();
    assert_eq!(later, ["t/b/y", "t/c/d/e"]);
    let folder = store.list_with_delimiter(Some(&Path::from("t"))).await.unwrap();
    let mut objects: Vec<_> = folder.objects.iter().map(|meta| meta.location.to_string()).collect();
    objects.sort();
    assert_eq!(objects, ["t/a", "t/b.c"]);
    assert_eq!(folder.common_prefixes, [Path::from("t/b"), Path::from("t/c")]);
    let root = store.list_with_delimiter(None).await.unwrap();
    // A file system may show empty folders besides.
    assert!([Path::from("t"), Path::from("tt")].iter().all(|folder| root.common_prefixes.contains(folder)));
    let all = files.into_iter().map(|file| Ok(Path::from(file)));
    let deleted = store.delete_stream(futures::stream::iter(all).boxed());
    assert_eq!(deleted.try_collect::<Vec<_>>().await.unwrap().len(), 6);
}

async fn multipart(store: &Store, part: usize) {
    let (path, data) = (Path::from("m/part"), bytes(part * 15 / 4));
    let mut upload = store.put_multipart(&path).await.unwrap();
    // Parts count in the order they are given, however they are awaited.
    let mut parts: Vec<_> =
        data.chunks(part).map(|part| upload.put_part(Bytes::copy_from_slice(part).into())).collect();
    parts.reverse();
    future::try_join_all(parts).await.unwrap();
    assert!(matches!(store.head(&path).await, Err(Error::NotFound { .. })));
    assert_eq!(names(store, Some("m")).await, Vec::<String>::new());
    upload.complete().await.unwrap();
    assert_eq!(read(store, &path).await, data);

    let mut writer = WriteMultipart::new_with_chunk_size(store.put_multipart(&path).await.unwrap(), part);
    for piece in data.chunks(part / 3) {
        writer.wait_for_capacity(2).await.unwrap();
        writer.write(piece);
    }
    writer.write(b"end");
    writer.finish().await.unwrap();
    assert_eq!(read(store, &path).await.len(), data.len() + 3);

    let mut aborted = store.put_multipart(&Path::from("m/aborted")).await.unwrap();
    aborted.put_part(data.into()).await.unwrap();
    aborted.abort().await.unwrap();
    assert_eq!(names(store, Some("m")).await, ["m/part"]);
    let mut empty = store.put_multipart(&path).await.unwrap();
    empty.complete().await.unwrap();
    assert_eq!(read(store, &path).await.len(), 0);
    store.delete(&path).await.unwrap();
}

/// Uploads that may not replace a file: the one that ends first makes it.
async fn exclusive_uploads(store: &Store, ways: Ways) {
    let path = Path::from("u/once");
    let mut uploads = Vec::new();
    for mark in [1, 2] {
        let mut upload = store.put_multipart_opts(&path, CreateExclusively::options()).await.unwrap();
        upload.put_part(vec![mark; ways.part].into()).await.unwrap();
        upload.put_part(vec![mark; 10].into()).await.unwrap();
        uploads.push(upload);
    }
    let mut second = uploads.pop().unwrap();
    second.complete().await.unwrap();
    let late = uploads.pop().unwrap().complete().await;
    if ways.exclusive_uploads {
        assert!(matches!(late, Err(Error::AlreadyExists { .. })), "{late:?}");
        assert_eq!(read(store, &path).await, vec![2; ways.part + 10]);
        // Whoever comes later is told when it begins, or when it ends.
        let later = match store.put_multipart_opts(&path, CreateExclusively::options()).await {
            Ok(mut upload) => upload.complete().await.map(drop),
            Err(error) => Err(error),
        };
        assert!(matches!(later, Err(Error::AlreadyExists { .. })), "{later:?}");
    }
    assert_eq!(names(store, Some("u")).await, ["u/once"]);
    store.delete(&path).await.unwrap();
}

/// Files as our writers name them, which caches may keep.
async fn immutable_files(store: &Store, part: usize) {
    let path = Path::from(format!("i/skep-{}.parquet", uuid::Uuid::now_v7()));
    let data = bytes(part * 2 + 7);
    let mut upload = store.put_multipart_opts(&path, CreateExclusively::options()).await.unwrap();
    for part in data.chunks(part) {
        upload.put_part(Bytes::copy_from_slice(part).into()).await.unwrap();
    }
    upload.complete().await.unwrap();
    let size = data.len() as u64;
    let ranges = [0..8, size - 8..size, 100..70_000, size / 2 - 5..size / 2 + 5];
    for _ in 0..2 {
        let all = store.get_ranges(&path, &ranges).await.unwrap();
        for (range, got) in ranges.iter().zip(all) {
            let expected = data.slice(range.start as usize..range.end as usize);
            assert_eq!(got, expected, "{range:?}");
            assert_eq!(store.get_range(&path, range.clone()).await.unwrap(), expected, "{range:?}");
        }
        let head = store.head(&path).await.unwrap();
        let part = store.get_opts(&path, GetOptions::new().with_range(Some(0..4))).await.unwrap();
        assert_eq!((part.meta.size, part.meta.e_tag.clone()), (head.size, head.e_tag));
        assert!(store.get_range(&path, size + 1..size + 2).await.is_err());
        assert_eq!(read(store, &path).await, data);
    }
    store.delete(&path).await.unwrap();
    assert!(matches!(store.head(&path).await, Err(Error::NotFound { .. })));
}

async fn moving(store: &Store) {
    let (a, b, c) = (Path::from("x/a"), Path::from("y/b"), Path::from("z/c"));
    let data = bytes(300_000);
    store.put(&a, data.clone().into()).await.unwrap();
    store.copy(&a, &b).await.unwrap();
    assert!(matches!(store.copy_if_not_exists(&a, &b).await, Err(Error::AlreadyExists { .. })));
    assert!(matches!(store.rename_if_not_exists(&a, &b).await, Err(Error::AlreadyExists { .. })));
    assert!(matches!(store.copy(&Path::from("none"), &b).await, Err(Error::NotFound { .. })));
    store.delete(&a).await.unwrap();
    assert_eq!(read(store, &b).await, data);
    store.put(&c, "old".into()).await.unwrap();
    store.rename(&b, &c).await.unwrap();
    assert_eq!(read(store, &c).await, data);
    assert!(matches!(store.head(&b).await, Err(Error::NotFound { .. })));
    store.delete(&c).await.unwrap();
}

async fn exclusive_creation(store: &Store) {
    conditional_create(store, &Path::from("probe"), Race { writers: 16, keys: 20 }).await.unwrap();
    let path = Path::from("once");
    let create = || PutOptions { mode: PutMode::Create, ..PutOptions::default() };
    store.put_opts(&path, "a".into(), create()).await.unwrap();
    let again = store.put_opts(&path, "b".into(), create()).await;
    assert!(matches!(again, Err(Error::AlreadyExists { .. })), "{again:?}");
    assert_eq!(read(store, &path).await, &b"a"[..]);
    store.delete(&path).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicated_store_on_a_node_with_blocks() {
    let cluster = Cluster::start(3).await;
    whole_suite(Arc::new(cluster.store(Some(1))), OURS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicated_store_from_outside() {
    let cluster = Cluster::start(3).await;
    whole_suite(Arc::new(cluster.store(None)), OURS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn file_system() {
    let folder = tempfile::tempdir().unwrap();
    let files = LocalFileSystem::new_with_prefix(folder.path()).unwrap();
    whole_suite(Arc::new(DurableFiles::new(files)), OURS).await;
}

/// Beyond what the file system can do.
#[tokio::test]
async fn updates_replace_one_version() {
    let cluster = Cluster::start(1).await;
    let store: Store = Arc::new(cluster.store(None));
    let path = Path::from("counter");
    store.put(&path, "0".into()).await.unwrap();
    let writers = (0..4).map(|_| async {
        for _ in 0..10 {
            loop {
                let now = store.get(&path).await.unwrap();
                let version = now.meta.e_tag.clone();
                let count: u32 = std::str::from_utf8(&now.bytes().await.unwrap()).unwrap().parse().unwrap();
                let mode = PutMode::Update(object_store::UpdateVersion { e_tag: version, version: None });
                let options = PutOptions { mode, ..PutOptions::default() };
                match store.put_opts(&path, (count + 1).to_string().into(), options).await {
                    Ok(_) => break,
                    Err(Error::Precondition { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
    });
    future::join_all(writers).await;
    assert_eq!(read(&store, &path).await, &b"40"[..]);
}
