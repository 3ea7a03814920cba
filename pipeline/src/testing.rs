//! A coordinator of a folder, and a clock that goes on when a test says so.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use skep_catalog::{Catalog, OpenOptions};
use skep_cluster::exchange::Channels;
use skep_cluster::membership::Members;
use skep_common::clock::{self, Clock};
use skep_coordinator::Coordinator;
use skep_coordinator::lanes::Lanes;
use skep_engine::codec::Codec;
use skep_engine::{Environment, Nowhere};

/// A clock that goes on when a test says so.
#[derive(Debug)]
pub(crate) struct Moved {
    start: (DateTime<Utc>, Instant),
    by: Mutex<Duration>,
}

impl Moved {
    /// One that shows `start`.
    pub(crate) fn at(start: &str) -> Arc<Self> {
        let start = (start.parse().unwrap(), clock::system().instant());
        Arc::new(Self { start, by: Mutex::default() })
    }

    pub(crate) fn advance(&self, by: Duration) {
        *self.by.lock() += by;
    }

    /// Goes on to a time.
    pub(crate) fn set(&self, to: &str) {
        let to: DateTime<Utc> = to.parse().unwrap();
        self.advance((to - self.now()).to_std().unwrap());
    }
}

impl Clock for Moved {
    fn now(&self) -> DateTime<Utc> {
        self.start.0 + *self.by.lock()
    }

    fn instant(&self) -> Instant {
        self.start.1 + *self.by.lock()
    }
}

/// A coordinator whose catalog and files are in `folder`.
pub(crate) async fn coordinator(folder: &Path) -> Coordinator {
    let data = folder.join("data");
    std::fs::create_dir_all(&data).unwrap();
    let data_path = format!("{}/", data.display());
    let catalog = Catalog::open(&folder.join("catalog.sqlite"), OpenOptions::new(data_path)).await.unwrap();
    let environment = Environment {
        catalog,
        runtime: Arc::default(),
        stores: skep_store::Stores::new(),
        memory: skep_engine::memory::Memory::default(),
        shared_paths: vec![data],
        locate: Arc::new(Nowhere),
        facts: Arc::default(),
        partitions: NonZeroUsize::new(2).unwrap(),
    };
    let members = Members::new(skep_cluster::membership::Config::default(), clock::system());
    let channels = Channels::new(skep_cluster::Secret::none(), skep_cluster::ChannelConfig::default());
    let nodes = Arc::new(members.clone());
    let lanes = Lanes::new(skep_coordinator::lanes::Config::default(), nodes, None, channels, Codec::new());
    let config =
        skep_coordinator::Config { environment, lanes, members, groups: Default::default(), blocks: None };
    Coordinator::new(config).unwrap()
}

/// Runs a test on threads whose stacks are those of the program.
pub(crate) fn run(test: impl Future<Output = ()> + Send + 'static) {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.enable_all().worker_threads(2).thread_stack_size(64 << 20).build().unwrap();
    let ended = runtime.block_on(async { skep_common::task::spawn("test", test).join().await });
    runtime.shutdown_background();
    ended.unwrap();
}
