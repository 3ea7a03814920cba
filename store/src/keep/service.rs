//! Carries out what `state` decides.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use skep_common::clock::Clock;
use skep_common::task::{self, Task};
use skep_common::{NodeId, Result};

use super::nodes::NodeState;
use super::state::{Command, Copy, Limits, Reason, State, View};
use crate::block::BlockId;
use crate::namespace::Namespace;
use crate::nodes::Peer;
use crate::remote::{NamespaceClient, Peers};
use crate::server::fault_of;

/// Blocks looked at in one round, of each kind.
const BLOCKS_MAX: u32 = 1000;
/// Blocks looked at for moves in one round.
const PAGE: u32 = 1000;
/// Blocks deleted in one call.
const DELETES_MAX: u32 = 5000;
/// How often copies that wait for bandwidth are looked at.
const TURN: Duration = Duration::from_millis(100);

/// The loop that repairs, moves and collects. One runs, on the coordinator.
#[derive(Debug)]
pub struct Keeper {
    hands: Hands,
    state: State,
}

/// What carries commands out.
#[derive(Debug, Clone)]
struct Hands {
    namespace: Namespace,
    peers: Arc<dyn Peers>,
    clock: Arc<dyn Clock>,
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
    /// Commands that failed; a later round tries again.
    pub failed: usize,
}

/// A copy that ended: its block, where it is durable, and whether that is everywhere.
type Ended = (Copy, Vec<NodeId>);
type Running = FuturesUnordered<BoxFuture<'static, Ended>>;

impl Keeper {
    /// Over a namespace and the nodes' blocks.
    pub fn new(namespace: Namespace, peers: Arc<dyn Peers>, clock: Arc<dyn Clock>) -> Self {
        let config = namespace.config();
        let limits = Limits {
            parallel: config.repair_parallel as usize,
            per_node: config.repair_per_node as usize,
            bandwidth: config.repair_bandwidth.map(|bytes| bytes.0),
            reserve: config.reserve.0,
            spread: namespace.spread(),
            rest: config.keep_interval,
        };
        let state = State::new(limits, clock.instant());
        Self { hands: Hands { namespace, peers, clock }, state }
    }

    /// Runs until the task is dropped. Copies go on while the next round is decided on.
    pub fn start(mut self) -> Task<()> {
        task::spawn("keep-blocks", async move {
            let interval = self.hands.namespace.config().keep_interval;
            let mut ticks = tokio::time::interval(interval);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            let mut running = Running::new();
            let mut round = Round::default();
            loop {
                tokio::select! {
                    _ = ticks.tick() => {
                        if round != Round::default() {
                            tracing::info!(?round, "kept blocks");
                        }
                        round = Round::default();
                        if let Err(error) = self.look(&mut running, &mut round).await {
                            tracing::warn!(error = %error.report(), "could not keep blocks");
                        }
                    }
                    Some(ended) = running.next() => {
                        self.ended(ended, &mut round);
                        self.begin(&mut running);
                        if running.is_empty() && round.copied > 0 {
                            // There may be more to do than one look shows.
                            ticks.reset_after(interval.min(TURN));
                        }
                    }
                    () = tokio::time::sleep(TURN), if !self.state.waiting().is_empty() => {
                        self.begin(&mut running);
                    }
                }
                self.tell();
            }
        })
    }

    /// Gives up silent writes, deletes garbage, and does what one look at the blocks decides, until all of it is done.
    ///
    /// # Errors
    /// Those of the namespace's database. What fails on a node is counted, and tried again in a later round.
    pub async fn round(&mut self) -> Result<Round> {
        let mut round = Round::default();
        let mut running = Running::new();
        self.look(&mut running, &mut round).await?;
        loop {
            while let Some(ended) = running.next().await {
                self.ended(ended, &mut round);
                self.begin(&mut running);
            }
            if self.state.waiting().is_empty() {
                break;
            }
            tokio::time::sleep(TURN).await;
            self.begin(&mut running);
        }
        self.tell();
        Ok(round)
    }

    async fn look(&mut self, running: &mut Running, round: &mut Round) -> Result<()> {
        let namespace = self.hands.namespace.clone();
        round.expired += namespace.expire_writes().await?;
        let nodes = namespace.node_states().await?;
        namespace.reclaim(&nodes).await?;
        self.hands.collect(&nodes, round).await?;
        let replication = namespace.replication();
        let blocks = namespace.attention(&nodes, BLOCKS_MAX).await?;
        let page = namespace.page_of_blocks(self.state.cursor(), PAGE).await?;
        self.state.set_spread(namespace.spread());
        let view = View {
            nodes: &nodes,
            wanted: replication.wanted as usize,
            required: replication.required as usize,
            blocks: &blocks,
            page: &page,
            more: page.len() >= PAGE as usize,
        };
        let commands = self.state.step(&view, self.hands.clock.instant());
        let mut copies = Vec::new();
        for command in commands {
            match command {
                Command::Copy(copy) => copies.push(copy),
                Command::Discard { block, node } => match namespace.discard(block, &node).await {
                    Ok(()) => round.discarded += 1,
                    Err(error) => {
                        tracing::warn!(%block, %node, error = %error.report(), "could not discard a replica");
                        round.failed += 1;
                    }
                },
            }
        }
        self.run(copies, running);
        let (deleted, discarded, failed) = (round.deleted, round.discarded, round.failed);
        namespace.set_activity(|activity| {
            activity.deleted += deleted as u64;
            activity.discarded += discarded as u64;
            activity.failed += failed as u64;
        });
        Ok(())
    }

    fn begin(&mut self, running: &mut Running) {
        let copies = self.state.copies(self.hands.clock.instant());
        self.run(copies, running);
    }

    fn run(&mut self, copies: Vec<Copy>, running: &mut Running) {
        if copies.is_empty() {
            return;
        }
        let live = self.hands.live();
        for copy in copies {
            let (hands, live) = (self.hands.clone(), live.clone());
            running.push(Box::pin(async move {
                let durable = match hands.copy(&copy, &live).await {
                    Ok(durable) => durable,
                    Err(error) => {
                        tracing::warn!(block = %copy.block, to = ?copy.to, error = %error.report(), "could not copy a block");
                        Vec::new()
                    }
                };
                (copy, durable)
            }));
        }
    }

    fn ended(&mut self, (copy, durable): Ended, round: &mut Round) {
        self.state.done(copy.block, &durable, self.hands.clock.instant());
        let failed = usize::from(durable.len() < copy.to.len());
        round.copied += durable.len();
        round.failed += failed;
        self.hands.namespace.set_activity(|activity| {
            activity.copied += durable.len() as u64;
            activity.copied_bytes += copy.length.saturating_mul(durable.len() as u64);
            activity.failed += failed as u64;
            if copy.reason >= Reason::Zones {
                activity.moved += durable.len() as u64;
            }
        });
    }

    /// Shows operators what is under way.
    fn tell(&self) {
        let waiting = self.state.waiting();
        self.hands.namespace.set_activity(|activity| {
            activity.copying = self.state.flying().cloned().collect();
            activity.waiting = waiting.len() as u64;
            activity.waiting_bytes = waiting.iter().map(|copy| copy.length).sum();
        });
    }
}

impl Hands {
    fn live(&self) -> Arc<BTreeMap<NodeId, Peer>> {
        Arc::new(self.namespace.live().into_iter().map(|node| (node.id.clone(), node.peer())).collect())
    }

    async fn collect(&self, nodes: &[NodeState], round: &mut Round) -> Result<()> {
        let live = self.live();
        let mut by_node: BTreeMap<NodeId, Vec<BlockId>> = BTreeMap::new();
        for garbage in self.namespace.garbage(nodes, DELETES_MAX).await? {
            by_node.entry(garbage.node).or_default().push(garbage.block);
        }
        for (node, blocks) in &by_node {
            self.namespace.garbage_asking(node, blocks).await?;
        }
        let deletes = by_node.into_iter().filter_map(|(node, blocks)| {
            let peer = live.get(&node)?;
            Some(async move { (self.peers.delete(peer, &blocks).await, node, blocks) })
        });
        // A node that does not answer holds up no other.
        let mut deletes: FuturesUnordered<_> = deletes.collect();
        while let Some((deleted, node, blocks)) = deletes.next().await {
            match deleted {
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

    /// Returns where the block is durable.
    async fn copy(&self, copy: &Copy, peers: &BTreeMap<NodeId, Peer>) -> Result<Vec<NodeId>> {
        let block = copy.block;
        let targets: Vec<Peer> = copy.to.iter().filter_map(|id| peers.get(id).cloned()).collect();
        if targets.is_empty() {
            return Ok(Vec::new());
        }
        let mut last = None;
        for source in copy.from.iter().filter_map(|id| peers.get(id)) {
            if !self.namespace.copy_started(block, &copy.to).await? {
                return Ok(Vec::new());
            }
            match self.peers.replicate(source, block, &targets).await {
                Ok(report) => {
                    self.namespace.copied(block, &report.durable).await?;
                    for (node, error) in &report.failed {
                        tracing::warn!(%block, %node, error = %error.report(), "a copy failed");
                    }
                    return Ok(report.durable);
                }
                Err(error) => {
                    if let Some(fault) = fault_of(&error) {
                        self.namespace.report_fault(block, &source.id, fault).await?;
                    }
                    last = Some(error);
                }
            }
        }
        last.map_or(Ok(Vec::new()), Err)
    }
}
