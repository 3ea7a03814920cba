//! Carries out what `state` decides.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use skep_common::clock::Clock;
use skep_common::task::{self, Task};
use skep_common::{NodeId, Result};
use tokio_util::sync::CancellationToken;

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
/// A look takes the database at most one part in so many of the time, while nothing is to be done.
const LOOKING: u32 = 5;
/// How often copies that wait for bandwidth are looked at.
const TURN: Duration = Duration::from_millis(100);

/// The loop that repairs, moves and collects. One runs, on the coordinator.
#[derive(Debug)]
pub struct Keeper {
    hands: Hands,
    state: State,
    /// Copies under way, to give up.
    copying: BTreeMap<BlockId, CancellationToken>,
    /// Nodes that were told to delete blocks and have not answered.
    deleting: BTreeSet<NodeId>,
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

/// What ended.
enum Ended {
    /// A copy, and where it is durable.
    Copy(Copy, Vec<NodeId>),
    /// A node deleted blocks, or did not; and whether the namespace knows.
    Delete(NodeId, Result<usize>),
}

/// Tasks of their own: one that holds the database's writer must go on while a look waits for it.
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
        let hands = Hands { namespace, peers, clock };
        Self { hands, state, copying: BTreeMap::new(), deleting: BTreeSet::new() }
    }

    /// Runs until the task is dropped. Copies go on while the next round is decided on.
    pub fn start(mut self) -> Task<()> {
        task::spawn("keep-blocks", async move {
            let interval = self.hands.namespace.config().keep_interval;
            let mut ticks = tokio::time::interval(interval);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            let mut running = Running::new();
            let mut round = Round::default();
            let mut pause = interval;
            loop {
                tokio::select! {
                    _ = ticks.tick() => {
                        said(&mut round);
                        let start = self.hands.clock.instant();
                        if let Err(error) = self.look(&mut running, &mut round).await {
                            tracing::warn!(error = %error.report(), "could not keep blocks");
                        }
                        let taken = self.hands.clock.instant().saturating_duration_since(start);
                        pause = interval.max(taken.saturating_mul(LOOKING));
                        ticks.reset_after(pause);
                    }
                    Some(ended) = running.next() => {
                        self.ended(ended, &mut round);
                        self.begin(&mut running);
                        if self.copying.is_empty() && round.copied > 0 {
                            // There may be more to do than one look shows.
                            ticks.reset_after(pause / LOOKING);
                            said(&mut round);
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
        self.collect(&nodes, running).await?;
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
        let (mut copies, mut discards) = (Vec::new(), Vec::new());
        for command in commands {
            match command {
                Command::Copy(copy) => copies.push(copy),
                Command::Abandon(block) => {
                    if let Some(copy) = self.copying.get(&block) {
                        copy.cancel();
                    }
                }
                Command::Discard { block, node } => discards.push((block, node)),
            }
        }
        self.run(copies, running);
        namespace.discard(&discards).await?;
        round.discarded += discards.len();
        namespace.set_activity(|activity| activity.discarded += discards.len() as u64);
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
            let (hands, live, what) = (self.hands.clone(), live.clone(), copy.clone());
            let task = task::spawn("copy-block", async move {
                hands.copy(&what, &live).await.unwrap_or_else(|error| {
                    tracing::warn!(block = %what.block, to = ?what.to, error = %error.report(), "could not copy a block");
                    Vec::new()
                })
            });
            let abandoned = CancellationToken::new();
            self.copying.insert(copy.block, abandoned.clone());
            running.push(Box::pin(async move {
                let durable = tokio::select! {
                    durable = task => durable.unwrap_or_default(),
                    () = abandoned.cancelled() => Vec::new(),
                };
                Ended::Copy(copy, durable)
            }));
        }
    }

    /// Tells nodes what to delete. One that has not answered yet is told nothing more, and holds up no other.
    async fn collect(&mut self, nodes: &[NodeState], running: &mut Running) -> Result<()> {
        let live = self.hands.live();
        let mut by_node: BTreeMap<NodeId, Vec<BlockId>> = BTreeMap::new();
        for garbage in self.hands.namespace.garbage(nodes, DELETES_MAX).await? {
            by_node.entry(garbage.node).or_default().push(garbage.block);
        }
        for (node, blocks) in by_node {
            let Some(peer) = live.get(&node).cloned() else { continue };
            if !self.deleting.insert(node.clone()) {
                continue;
            }
            self.hands.namespace.garbage_asking(&node, &blocks).await?;
            let hands = self.hands.clone();
            let name = node.clone();
            let task = task::spawn("delete-blocks", async move {
                hands.peers.delete(&peer, &blocks).await?;
                hands.namespace.garbage_asked(&name, &blocks).await?;
                Ok(blocks.len())
            });
            running.push(Box::pin(async move { Ended::Delete(node, task.await.and_then(|told| told)) }));
        }
        Ok(())
    }

    fn ended(&mut self, ended: Ended, round: &mut Round) {
        let namespace = &self.hands.namespace;
        match ended {
            Ended::Copy(copy, durable) => {
                self.copying.remove(&copy.block);
                self.state.done(copy.block, &durable, self.hands.clock.instant());
                let failed = usize::from(durable.len() < copy.to.len());
                round.copied += durable.len();
                round.failed += failed;
                namespace.set_activity(|activity| {
                    activity.copied += durable.len() as u64;
                    activity.copied_bytes += copy.length.saturating_mul(durable.len() as u64);
                    activity.failed += failed as u64;
                    if copy.reason >= Reason::Zones {
                        activity.moved += durable.len() as u64;
                    }
                });
            }
            Ended::Delete(node, told) => {
                self.deleting.remove(&node);
                match told {
                    Ok(blocks) => {
                        round.deleted += blocks;
                        namespace.set_activity(|activity| activity.deleted += blocks as u64);
                    }
                    Err(error) => {
                        tracing::debug!(%node, error = %error.report(), "could not delete blocks");
                        round.failed += 1;
                        namespace.set_activity(|activity| activity.failed += 1);
                    }
                }
            }
        }
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

/// Logs what was done, if anything was.
fn said(round: &mut Round) {
    let round = std::mem::take(round);
    if round != Round::default() {
        tracing::info!(?round, "kept blocks");
    }
}

impl Hands {
    fn live(&self) -> Arc<BTreeMap<NodeId, Peer>> {
        Arc::new(self.namespace.live().into_iter().map(|node| (node.id.clone(), node.peer())).collect())
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
