//! Any sequence of operations leaves the store as a plain map would be, and no block unaccounted for.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions};

use crate::cluster::{Cluster, bytes};

/// SplitMix64: the same seed, the same run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ (mixed >> 27)) % bound
    }

    fn path(&mut self) -> Path {
        ["a", "a/b", "a/c", "a/c/d", "b"][self.below(5) as usize].into()
    }
}

type Model = BTreeMap<Path, Bytes>;

async fn step(store: &impl ObjectStore, model: &mut Model, random: &mut Random) {
    let (from, to) = (random.path(), random.path());
    let data = bytes([0, 10, 300_000][random.below(3) as usize]).slice(..);
    let found = model.get(&from).cloned();
    match random.below(6) {
        0 => {
            store.put(&to, data.clone().into()).await.unwrap();
            model.insert(to, data);
        }
        1 => {
            let create = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
            match store.put_opts(&to, data.clone().into(), create).await {
                Ok(_) => assert_eq!(model.insert(to, data), None),
                Err(Error::AlreadyExists { .. }) => assert!(model.contains_key(&to)),
                Err(error) => panic!("{error}"),
            }
        }
        2 => {
            let deleted = store.delete(&from).await;
            assert_eq!(deleted.is_ok(), model.remove(&from).is_some());
        }
        3 => match (store.copy(&from, &to).await, found) {
            (Ok(()), Some(data)) => drop(model.insert(to, data)),
            (result, found) => assert!(result.is_err() && found.is_none()),
        },
        4 => match (store.rename(&from, &to).await, found) {
            (Ok(()), Some(data)) => {
                model.remove(&from);
                model.insert(to, data);
            }
            (result, found) => assert!(result.is_err() && found.is_none()),
        },
        _ => {
            let mut upload = store.put_multipart(&to).await.unwrap();
            upload.put_part(data.into()).await.unwrap();
            upload.abort().await.unwrap();
        }
    }
}

#[tokio::test]
async fn the_store_is_a_map_and_forgets_no_block() {
    let seeds = if std::env::var_os("SKEP_SLOW").is_some() { 60 } else { 6 };
    for seed in 0..seeds {
        let cluster = Cluster::start(3).await;
        let store = cluster.store(Some((seed % 3) as usize));
        let (mut model, mut random) = (Model::new(), Random(seed));
        for _ in 0..40 {
            step(&store, &mut model, &mut random).await;
        }
        let listed: Vec<_> =
            store.list(None).map_ok(|meta| (meta.location, meta.size)).try_collect().await.unwrap();
        let expected: Vec<_> = model.iter().map(|(path, data)| (path.clone(), data.len() as u64)).collect();
        assert_eq!(listed, expected, "seed {seed}");
        for (path, data) in &model {
            assert_eq!(store.get(path).await.unwrap().bytes().await.unwrap(), *data, "seed {seed}");
        }

        // Without files there are no blocks.
        for path in model.keys() {
            store.delete(path).await.unwrap();
        }
        cluster.keeper().round().await.unwrap();
        for i in 0..3 {
            assert_eq!(cluster.blocks(i), [], "seed {seed}, node {i}");
        }
    }
}
