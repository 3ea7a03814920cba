//! Settings of the replicated store, and of the other stores.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use skep_common::{ByteSize, Error, Result};

use crate::other::config as other;

/// How blocks are written, read and kept. Table `[store]` of the config file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Largest block; a file is cut into blocks of this size. 64 KiB to 4 GiB. A writer on a node without a block
    /// folder keeps up to this much in memory for each open file.
    pub block_size: ByteSize,
    /// Replicas of a block, or one on each node when there are fewer. 1 to 16.
    pub replication: u32,
    /// Durable replicas a block needs before its file may appear, or all nodes when there are fewer. 1 to
    /// `replication`.
    pub min_replicas: u32,
    /// Bytes under one checksum; a read checks whole chunks. 4 KiB to 1 MiB.
    pub checksum_chunk: ByteSize,
    /// Bytes per message between nodes. 16 KiB to 4 MiB.
    pub message: ByteSize,
    /// Space a node must keep free to be given another block.
    pub reserve: ByteSize,
    /// Silence of the next node in a chain of writers after which it is dropped; a node further up the chain waits
    /// this much longer for each node below it. 100 ms to 10 min.
    #[serde(with = "skep_common::unit::duration")]
    pub write_timeout: Duration,
    /// Wait for a block to be durable after its last byte, per node in the chain. 1 s to 30 min.
    #[serde(with = "skep_common::unit::duration")]
    pub sync_timeout: Duration,
    /// Silence of a replica after which a read goes on with the next one. 100 ms to 5 min.
    #[serde(with = "skep_common::unit::duration")]
    pub read_timeout: Duration,
    /// How long a replica is waited for before the next one is asked as well, and the first answer taken. Waits are longer
    /// where reads usually take longer than a third of it. 1 ms to 5 min.
    #[serde(with = "skep_common::unit::duration")]
    pub hedge_delay: Duration,
    /// How long reads and writes wait for nodes that are away to come back before they fail. 0 ms to 5 min.
    #[serde(with = "skep_common::unit::duration")]
    pub node_wait: Duration,
    /// Longest call of the namespace. 100 ms to 10 min.
    #[serde(with = "skep_common::unit::duration")]
    pub namespace_timeout: Duration,
    /// How often an idle writer says that it lives; less than `write_timeout`. 50 ms to 5 min.
    #[serde(with = "skep_common::unit::duration")]
    pub write_heartbeat: Duration,
    /// Age after which what the namespace said of a path is asked again. 0 ms to 1 min. Another node's overwrite of
    /// a path is seen at the latest after this time.
    #[serde(with = "skep_common::unit::duration")]
    pub metadata_ttl: Duration,
    /// Files whose metadata is kept in memory. 1 to 10 million.
    pub metadata_entries: u64,
    /// How long a node that failed a read is tried last. 0 ms to 1 h.
    #[serde(with = "skep_common::unit::duration")]
    pub suspect: Duration,
    /// Silence of a writer after which its write is given up and its blocks collected. 1 s to 7 d.
    #[serde(with = "skep_common::unit::duration")]
    pub write_lease: Duration,
    /// How long the blocks of a deleted or replaced file stay, for readers that have begun. 0 ms to 7 d.
    #[serde(with = "skep_common::unit::duration")]
    pub delete_grace: Duration,
    /// How often a worker reports every block it holds, besides whenever it joins. 1 s to 7 d.
    #[serde(with = "skep_common::unit::duration")]
    pub report_interval: Duration,
    /// How long ago every block's checksums were read at most: each worker reads its blocks again, those first that were
    /// not checked for longest. 1 s to 3650 d.
    #[serde(with = "skep_common::unit::duration")]
    pub scrub_interval: Duration,
    /// Bytes per second that a worker reads for that. At least 64 KiB.
    pub scrub_rate: ByteSize,
    /// Bytes of damaged blocks that a worker keeps aside, for people to look at, after they were replaced.
    pub quarantine_max: ByteSize,
    /// Bytes of blocks that a worker takes at most. Absent: what its file system has room for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity: Option<ByteSize>,
    /// How often the coordinator looks for blocks to repair and to collect. 50 ms to 1 h.
    #[serde(with = "skep_common::unit::duration")]
    pub keep_interval: Duration,
    /// How long a node may be away before its replicas are made anew elsewhere. 0 ms to 1 d.
    #[serde(with = "skep_common::unit::duration")]
    pub repair_delay: Duration,
    /// Copies made at the same time to restore replicas and to move them. 1 to 1024.
    pub repair_parallel: u32,
    /// Of those, copies that one node sends, and that it takes. 1 to 64.
    pub repair_per_node: u32,
    /// Bytes per second that all copies may take together; blocks of which one replica is left do not wait for it. At
    /// least 64 KiB. Absent: as fast as they go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repair_bandwidth: Option<ByteSize>,
    /// How many percent of its room fuller than another a node may be before blocks are moved, where zones allow it. 1 to
    /// 100; with 100 none are.
    pub balance_percent: u32,
    /// How long a block must have been there that the namespace forgot, before it is deleted. 1 s to 365 d.
    #[serde(with = "skep_common::unit::duration")]
    pub orphan_grace: Duration,
    /// How `s3://` is reached.
    pub s3: other::S3,
    /// How `hdfs://` is reached.
    pub hdfs: other::Hdfs,
    /// What is kept of what was read there.
    pub cache: other::Cache,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            block_size: ByteSize::mib(128),
            replication: 3,
            min_replicas: 2,
            checksum_chunk: ByteSize(64 << 10),
            message: ByteSize::mib(1),
            reserve: ByteSize::mib(256),
            write_timeout: Duration::from_secs(20),
            sync_timeout: Duration::from_secs(60),
            read_timeout: Duration::from_secs(10),
            hedge_delay: Duration::from_millis(300),
            node_wait: Duration::from_secs(10),
            namespace_timeout: Duration::from_secs(30),
            write_heartbeat: Duration::from_secs(5),
            metadata_ttl: Duration::from_secs(1),
            metadata_entries: 100_000,
            suspect: Duration::from_secs(30),
            write_lease: Duration::from_secs(3600),
            delete_grace: Duration::from_secs(60),
            report_interval: Duration::from_secs(3600),
            scrub_interval: Duration::from_secs(14 * 24 * 3600),
            scrub_rate: ByteSize::mib(16),
            quarantine_max: ByteSize::gib(1),
            capacity: None,
            keep_interval: Duration::from_secs(5),
            repair_delay: Duration::from_secs(30),
            repair_parallel: 8,
            repair_per_node: 2,
            repair_bandwidth: None,
            balance_percent: 10,
            orphan_grace: Duration::from_secs(24 * 3600),
            s3: other::S3::default(),
            hdfs: other::Hdfs::default(),
            cache: other::Cache::default(),
        }
    }
}

impl Config {
    /// Every setting that is out of range, in one error.
    ///
    /// # Errors
    /// [`Kind::Invalid`](skep_common::Kind::Invalid) naming the settings.
    pub fn validate(&self) -> Result<()> {
        let mut wrong: Vec<String> = Vec::new();
        let mut size = |name: &str, value: ByteSize, min: u64, max: u64| {
            if !(min..=max).contains(&value.0) {
                wrong.push(format!(
                    "{name} = {value} is not between {} and {}",
                    ByteSize(min),
                    ByteSize(max)
                ));
            }
        };
        size("block_size", self.block_size, 64 << 10, 4 << 30);
        size("checksum_chunk", self.checksum_chunk, 4 << 10, 1 << 20);
        size("message", self.message, 16 << 10, 4 << 20);
        let mut count = |name: &str, value: u64, min: u64, max: u64| {
            if !(min..=max).contains(&value) {
                wrong.push(format!("{name} = {value} is not between {min} and {max}"));
            }
        };
        count("replication", u64::from(self.replication), 1, 16);
        count("min_replicas", u64::from(self.min_replicas), 1, u64::from(self.replication.max(1)));
        count("metadata_entries", self.metadata_entries, 1, 10_000_000);
        count("repair_parallel", u64::from(self.repair_parallel), 1, 1024);
        count("repair_per_node", u64::from(self.repair_per_node), 1, 64);
        count("balance_percent", u64::from(self.balance_percent), 1, 100);
        if self.scrub_rate.0 < 64 << 10 {
            wrong.push("scrub_rate is less than 64 KiB".to_owned());
        }
        if self.repair_bandwidth.is_some_and(|bytes| bytes.0 < 64 << 10) {
            wrong.push("repair_bandwidth is less than 64 KiB".to_owned());
        }
        if self.write_heartbeat >= self.write_timeout {
            wrong.push("write_heartbeat is not less than write_timeout".to_owned());
        }
        for (name, value, min) in [
            ("write_timeout", self.write_timeout, 100),
            ("sync_timeout", self.sync_timeout, 1000),
            ("read_timeout", self.read_timeout, 100),
            ("namespace_timeout", self.namespace_timeout, 100),
            ("write_heartbeat", self.write_heartbeat, 50),
            ("write_lease", self.write_lease, 1000),
            ("report_interval", self.report_interval, 1000),
            ("hedge_delay", self.hedge_delay, 1),
            ("scrub_interval", self.scrub_interval, 1000),
            ("keep_interval", self.keep_interval, 50),
            ("orphan_grace", self.orphan_grace, 1000),
        ] {
            if value < Duration::from_millis(min) {
                wrong.push(format!("{name} is less than {min}ms"));
            }
        }
        wrong.extend(other::problems(&self.s3, &self.hdfs, &self.cache));
        if wrong.is_empty() {
            return Ok(());
        }
        Err(Error::invalid(format!("[store] settings out of range: {}", wrong.join("; "))))
    }
}
