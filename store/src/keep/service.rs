//! Carries out what `state` decides.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use futures::{StreamExt, stream};
use skep_common::clock::Clock;
use skep_common::task::{self, Task};
use skep_common::{Kind, NodeId, Result};

use super::state::{Command, plan};
use crate::block::BlockId;
use crate::namespace::Namespace;
use crate::nodes::Peer;
use crate::remote::{Fault, NamespaceClient, Peers};

/// Blocks looked at in one round.
const BLOCKS_MAX: u32 = 1000;
/// Blocks deleted in one call.
const DELETES_MAX: u32 = 5000;

/// The loop that repairs and collects. One runs, on the coordinator.
#[derive(Debug)]
pub struct Keeper {
    namespace: Namespace,
    peers: Arc<dyn Peers>,
    clock: Arc<dyn Clock>,
    /// When a node was last seen alive. Every known node counts as seen at the start, so that a coordinator that
    /// restarts does not copy what is about to come back.
    seen: BTreeMap<NodeId, Instant>,
}

/// What one round did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Round {
    /// Writes given up.
    pub expired: usize,
    /// Blocks nodes were told to delete.
    pub deleted: usize,
    /// Replicas made.
    pub copied: usize,
    /// Replicas discarded.
    pub discarded: usize,
    /// Commands that failed; the next round tries again.
    pub failed: usize,
}

impl Keeper {
    /// Over a namespace and the nodes' blocks.
    pub fn new(namespace: Namespace, peers: Arc<dyn Peers>, clock: Arc<dyn Clock>) -> Self {
        let now = clock.instant();
        let seen = namespace.known().into_iter().map(|node| (node, now)).collect();
        Self { namespace, peers, clock, seen }
    }

    /// Runs rounds until the task is dropped.
    pub fn start(mut self) -> Task<()> {
        task::spawn("keep-blocks", async move {
            let mut ticks = tokio::time::interval(self.namespace.config().keep_interval);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                match self.round().await {
                    Ok(round) if round != Round::default() => tracing::info!(?round, "kept blocks"),
                    Ok(_) => {}
                    Err(error) => tracing::warn!(error = %error.report(), "could not keep blocks"),
                }
            }
        })
    }

    /// Gives up silent writes, deletes garbage, restores replicas.
    ///
    /// # Errors
    /// Those of the namespace's database. What fails on a node is counted, and tried again in the next round.
    pub async fn round(&mut self) -> Result<Round> {
        let expired = self.namespace.expire_writes().await?;
        let mut round = Round { expired, ..Round::default() };
        self.collect(&mut round).await?;
        self.repair(&mut round).await?;
        Ok(round)
    }

    async fn collect(&self, round: &mut Round) -> Result<()> {
        let live: BTreeMap<NodeId, Peer> =
            self.namespace.live().into_iter().map(|node| (node.id.clone(), node.peer())).collect();
        let nodes: Vec<NodeId> = live.keys().cloned().collect();
        let mut by_node: BTreeMap<NodeId, Vec<BlockId>> = BTreeMap::new();
        for garbage in self.namespace.garbage(&nodes, DELETES_MAX).await? {
            by_node.entry(garbage.node).or_default().push(garbage.block);
        }
        for (node, blocks) in by_node {
            let Some(peer) = live.get(&node) else { continue };
            match self.peers.delete(peer, &blocks).await {
                Ok(()) => {
                    self.namespace.garbage_asked(&node, &blocks).await?;
                    round.deleted += blocks.len();
                }
                Err(error) => {
                    tracing::debug!(%node, error = %error.report(), "could not delete blocks");
                    round.failed += 1;
                }
            }
        }
        Ok(())
    }

    async fn repair(&mut self, round: &mut Round) -> Result<()> {
        let live = self.namespace.live();
        let now = self.clock.instant();
        for node in &live {
            self.seen.insert(node.id.clone(), now);
        }
        let delay = self.namespace.config().repair_delay;
        self.seen.retain(|_, seen| now.saturating_duration_since(*seen) <= delay);
        let away: Vec<NodeId> =
            self.seen.keys().filter(|id| live.iter().all(|node| node.id != **id)).cloned().collect();

        let ids: Vec<NodeId> = live.iter().map(|node| node.id.clone()).collect();
        let wanted = self.namespace.replication().wanted;
        let blocks = self.namespace.imbalanced(&ids, wanted, BLOCKS_MAX).await?;
        let commands = plan(&blocks, &live, &away, wanted as usize, self.namespace.config().reserve.0);
        let peers: BTreeMap<NodeId, Peer> = live.iter().map(|node| (node.id.clone(), node.peer())).collect();
        let parallel = self.namespace.config().repair_parallel as usize;
        let this = &*self;
        let peers = &peers;
        let done: Vec<Round> = stream::iter(commands)
            .map(|command| async move { this.carry_out(command, peers).await })
            .buffer_unordered(parallel)
            .collect()
            .await;
        for part in done {
            round.copied += part.copied;
            round.discarded += part.discarded;
            round.failed += part.failed;
        }
        Ok(())
    }

    async fn carry_out(&self, command: Command, peers: &BTreeMap<NodeId, Peer>) -> Round {
        let mut round = Round::default();
        let result = match &command {
            Command::Discard { block, node } => self.namespace.discard(*block, node).await.map(|()| {
                round.discarded += 1;
            }),
            Command::Copy { block, from, to } => self.copy(*block, from, to, peers).await.map(|copied| {
                round.copied += copied;
            }),
        };
        if let Err(error) = result {
            tracing::warn!(?command, error = %error.report(), "could not repair a block");
            round.failed += 1;
        }
        round
    }

    async fn copy(
        &self,
        block: BlockId,
        from: &[NodeId],
        to: &[NodeId],
        peers: &BTreeMap<NodeId, Peer>,
    ) -> Result<usize> {
        let targets: Vec<Peer> = to.iter().filter_map(|id| peers.get(id).cloned()).collect();
        let mut last = None;
        for source in from.iter().filter_map(|id| peers.get(id)) {
            self.namespace.copy_started(block, to).await?;
            match self.peers.replicate(source, block, &targets).await {
                Ok(report) => {
                    self.namespace.copied(block, &report.durable).await?;
                    for (node, error) in &report.failed {
                        tracing::warn!(%block, %node, error = %error.report(), "a copy failed");
                    }
                    return Ok(report.durable.len());
                }
                Err(error) => {
                    let fault = match error.kind() {
                        Kind::Corrupt => Some(Fault::Corrupt),
                        Kind::NotFound => Some(Fault::Missing),
                        _ => None,
                    };
                    if let Some(fault) = fault {
                        self.namespace.report_fault(block, &source.id, fault).await?;
                    }
                    last = Some(error);
                }
            }
        }
        last.map_or(Ok(0), Err)
    }
}
