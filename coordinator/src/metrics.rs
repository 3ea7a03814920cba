//! What the coordinator counts, for Prometheus and what reads its format.
//!
//! # Not here
//! Serving it (`skep-server`, `GET /metrics`).

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::{Registry, Unit};
use skep_common::{Error, Result};
use skep_store::CacheStats;

use crate::coordinator::Coordinator;

type Labels = Vec<(&'static str, String)>;

/// A gauge with a value for each of several things.
fn family(registry: &mut Registry, name: &str, help: &str, values: impl IntoIterator<Item = (Labels, u64)>) {
    let family = Family::<Labels, Gauge>::default();
    for (labels, value) in values {
        family.get_or_create(&labels).set(signed(value));
    }
    registry.register(name, help, family);
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

impl Coordinator {
    /// Its figures in the OpenMetrics text format, as they are now.
    ///
    /// # Errors
    /// Those of the database with the blocks.
    pub async fn metrics(&self) -> Result<String> {
        let mut registry = Registry::with_prefix("skep");
        let shared = &self.0;
        let groups = shared.admission.lines();
        let of_group = |name: &str| vec![("group", name.to_owned())];
        let running = groups.iter().map(|group| (of_group(&group.name), group.running));
        family(&mut registry, "statements_running", "Statements that run, by resource group", running);
        let queued = groups.iter().map(|group| (of_group(&group.name), group.waiting));
        family(
            &mut registry,
            "statements_queued",
            "Statements that wait for their turn, by resource group",
            queued,
        );
        let tasks = Family::<Labels, Counter>::default();
        for (worker, count) in self.tasks() {
            tasks.get_or_create(&vec![("worker", worker.to_string())]).inc_by(count);
        }
        registry.register("tasks", "Tasks that workers were given", tasks);
        let live = ConstGauge::new(shared.members.all().len() as u64);
        registry.register("workers", "Workers that are heard of", live);
        of_caches(&mut registry, &shared.caches());
        if let Some(blocks) = &shared.blocks {
            of_blocks(&mut registry, blocks).await?;
        }
        let mut text = String::new();
        encode(&mut text, &registry).map_err(|e| Error::internal("cannot write metrics").source(e))?;
        Ok(text)
    }
}

fn of_caches(registry: &mut Registry, all: &[(String, CacheStats)]) {
    let mut counter = |name: &str, help: &str, of: &dyn Fn(&CacheStats) -> u64| {
        let family = Family::<Labels, Counter>::default();
        for (node, stats) in all {
            family.get_or_create(&vec![("node", node.clone())]).inc_by(of(stats));
        }
        registry.register(name, help, family);
    };
    counter("cache_hits", "Pieces of other stores' files that a node's cache had", &|stats| stats.hits);
    counter("cache_misses", "Pieces that had to be read from the store", &|stats| stats.misses);
    counter("cache_hit_bytes", "Bytes that a node's cache had", &|stats| stats.hit_bytes);
    counter("cache_miss_bytes", "Bytes that had to be read from the store", &|stats| stats.miss_bytes);
    counter("cache_failures", "Times that the disk of a node's cache failed", &|stats| stats.failures);
}

async fn of_blocks(registry: &mut Registry, blocks: &skep_store::Namespace) -> Result<()> {
    let report = blocks.replication_report().await?;
    let nodes = blocks.nodes().await?;
    let store = registry.sub_registry_with_prefix("store");
    store.register("files", "Files of the replicated store", ConstGauge::new(report.files));
    store.register_with_unit(
        "size",
        "Bytes of files, replicas not counted",
        Unit::Bytes,
        ConstGauge::new(report.bytes),
    );
    let healthy = report
        .blocks
        .saturating_sub(report.under_replicated)
        .saturating_sub(report.missing)
        .saturating_sub(report.corrupt);
    let health = [
        ("healthy", healthy),
        ("under-replicated", report.under_replicated),
        ("missing", report.missing),
        ("corrupt", report.corrupt),
    ];
    let health = health.map(|(name, count)| (vec![("health", name.to_owned())], count));
    family(store, "blocks", "Blocks, by how it is with them", health);
    store.register(
        "blocks_one_left",
        "Blocks with a single replica that can be read",
        ConstGauge::new(report.one_left),
    );
    let done = &report.activity;
    let copying = ConstGauge::new(done.copying.len() as u64);
    store.register("copies_running", "Copies of blocks under way", copying);
    store.register(
        "copies_waiting",
        "Copies of blocks that wait for their turn",
        ConstGauge::new(done.waiting),
    );
    store.register("copies", "Replicas made since the coordinator started", ConstCounter::new(done.copied));
    let copied = ConstCounter::new(done.copied_bytes);
    store.register_with_unit(
        "copied",
        "Bytes of replicas made since the coordinator started",
        Unit::Bytes,
        copied,
    );
    store.register(
        "failures",
        "Copies and deletes that failed and were tried again",
        ConstCounter::new(done.failed),
    );
    let labels = |node: &skep_store::namespace::NodeReport| {
        vec![("node", node.id.to_string()), ("state", node.status.to_string())]
    };
    let used = nodes.iter().map(|node| (labels(node), node.used));
    family(store, "node_used_bytes", "Bytes of replicas on a node", used);
    let free = nodes.iter().map(|node| (labels(node), node.free));
    family(store, "node_free_bytes", "Bytes free for blocks on a node", free);
    Ok(())
}
