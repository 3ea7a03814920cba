//! Decides what to copy, in which order, and what to discard.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use skep_common::NodeId;

use super::nodes::{NodeState, Status};
use crate::block::BlockId;
use crate::namespace::{Replica, Replicas};
use crate::placement::{self, Request, Site};

/// How long after a copy the free space a node tells of may not know of it.
const FREE_IS_LATE: Duration = Duration::from_secs(10);
/// Longest pause before a copy that failed is tried again.
const REST_MAX: Duration = Duration::from_secs(120);

/// A block as the namespace counts it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockState {
    /// The block.
    pub id: BlockId,
    /// Its bytes.
    pub length: u64,
    /// Where it is, sorted by node.
    pub replicas: Vec<(NodeId, Replica)>,
}

/// Why a block is copied, the most urgent first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// It has too few replicas.
    Repair,
    /// A node that holds it is being emptied.
    Drain,
    /// Its replicas are in fewer zones than they could be.
    Zones,
    /// A node that holds it is fuller than others.
    Balance,
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Repair => "repair",
            Self::Drain => "drain",
            Self::Zones => "zones",
            Self::Balance => "balance",
        })
    }
}

/// Have one of `from` send the block to `to`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// The block.
    pub block: BlockId,
    /// Its bytes.
    pub length: u64,
    /// Nodes with a good replica that answer, best first.
    pub from: Vec<NodeId>,
    /// Where it goes.
    pub to: Vec<NodeId>,
    /// Why.
    pub reason: Reason,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// To be told of by [`State::done`] when it ended.
    Copy(Copy),
    /// Wait no longer for the copy of this block: who sends it or who takes it is away. [`State::done`] is to be told.
    Abandon(BlockId),
    /// Forget the replica and delete what is left of it.
    Discard {
        /// The block.
        block: BlockId,
        /// Where.
        node: NodeId,
    },
}

/// What the keeper may take.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Copies at a time.
    pub parallel: usize,
    /// Copies at a time that one node sends, and that it takes.
    pub per_node: usize,
    /// Bytes per second of all copies, except those of blocks of which one replica is left. `None`: as fast as they go.
    pub bandwidth: Option<u64>,
    /// Bytes a node keeps free.
    pub reserve: u64,
    /// How much fuller than another a node may be, 0 to 1. `None`: blocks are not moved for balance.
    pub spread: Option<f64>,
    /// Pause before a copy that failed is tried again; doubled each time.
    pub rest: Duration,
}

/// What is decided on.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// Every node that ever reported.
    pub nodes: &'a [NodeState],
    /// Replicas a block should have.
    pub wanted: usize,
    /// Replicas a block must have, whatever is waited for.
    pub required: usize,
    /// Blocks that may have too few or too many replicas, in the order of urgency. Others do no harm.
    pub blocks: &'a [BlockState],
    /// Blocks to look at for moves, by id, from [`State::cursor`] on.
    pub page: &'a [BlockState],
    /// Whether there may be blocks after the page.
    pub more: bool,
}

/// What the keeper is doing, and what it has done since it started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Activity {
    /// Copies under way.
    pub copying: Vec<Copy>,
    /// Copies decided on that wait for their turn.
    pub waiting: u64,
    /// Bytes of these.
    pub waiting_bytes: u64,
    /// Replicas made.
    pub copied: u64,
    /// Their bytes.
    pub copied_bytes: u64,
    /// Of those, replicas made to move a block.
    pub moved: u64,
    /// Replicas discarded.
    pub discarded: u64,
    /// Blocks that nodes were told to delete.
    pub deleted: u64,
    /// Copies and deletes that failed, and were tried again.
    pub failed: u64,
}

/// What the keeper remembers between two looks. Pure: the same calls, the same commands.
///
/// # Invariants
/// - A discarded good replica leaves `wanted` good ones on live nodes.
/// - A block is copied once at a time.
#[derive(Debug, Clone)]
pub struct State {
    limits: Limits,
    queue: Vec<Copy>,
    flying: BTreeMap<BlockId, Copy>,
    /// Bytes that arrived at a node and that it may not have told of.
    late: Vec<(NodeId, u64, Instant)>,
    /// Copies that failed: when to try again, and how often they failed.
    resting: BTreeMap<BlockId, (Instant, u32)>,
    /// Bytes that may be copied; below zero while the last copy is paid for.
    budget: f64,
    paid: Instant,
    cursor: Option<BlockId>,
}

impl State {
    /// Nothing under way.
    pub fn new(limits: Limits, now: Instant) -> Self {
        Self {
            limits,
            queue: Vec::new(),
            flying: BTreeMap::new(),
            late: Vec::new(),
            resting: BTreeMap::new(),
            budget: 0.0,
            paid: now,
            cursor: None,
        }
    }

    /// Where the next page of [`View::page`] starts: after this block.
    pub fn cursor(&self) -> Option<BlockId> {
        self.cursor
    }

    /// How much fuller than another a node may be.
    pub fn set_spread(&mut self, spread: Option<f64>) {
        self.limits.spread = spread;
    }

    /// Copies under way, by block.
    pub fn flying(&self) -> impl Iterator<Item = &Copy> {
        self.flying.values()
    }

    /// Copies that wait for their turn.
    pub fn waiting(&self) -> &[Copy] {
        &self.queue
    }

    /// What to discard, and the copies that may begin. Copies decided on earlier and not begun are decided on anew.
    pub fn step(&mut self, view: &View<'_>, now: Instant) -> Vec<Command> {
        self.late.retain(|(_, _, until)| *until > now);
        self.resting.retain(|_, (until, _)| *until + REST_MAX > now);
        let mut plan = Plan::new(view, self, now);
        for copy in self.flying.values() {
            let gone = copy.to.iter().all(|node| plan.status(node) != Status::Live);
            if gone || !plan.status(&copy.from[0]).gives() {
                plan.commands.push(Command::Abandon(copy.block));
            }
        }
        for block in view.blocks.iter().filter(|block| !self.flying.contains_key(&block.id)) {
            plan.mend(block);
        }
        // Moves wait until nothing else is to be done; then a few are enough until the next look.
        let urgent = plan.copies.iter().any(|(_, copy)| copy.reason < Reason::Zones);
        if !urgent {
            let mut looked = None;
            for block in view.page {
                if plan.copies.len() >= self.limits.parallel * 8 {
                    break;
                }
                looked = Some(block.id);
                if !self.flying.contains_key(&block.id) {
                    plan.improve(block, self.limits.spread);
                }
            }
            let all = |last: &BlockId| view.page.last().is_some_and(|end| end.id == *last);
            self.cursor = looked.filter(|last| view.more || !all(last));
        }
        let Plan { mut copies, mut commands, .. } = plan;
        copies.sort_by_key(|(left, copy)| (copy.reason >= Reason::Zones, *left, copy.reason));
        self.queue = copies.into_iter().map(|(_, copy)| copy).collect();
        commands.extend(self.copies(now).into_iter().map(Command::Copy));
        commands
    }

    /// The copies that may begin, when others have ended or time has passed.
    pub fn copies(&mut self, now: Instant) -> Vec<Copy> {
        if let Some(bandwidth) = self.limits.bandwidth {
            let earned = now.saturating_duration_since(self.paid).as_secs_f64() * bandwidth as f64;
            self.budget = (self.budget + earned).min(bandwidth as f64);
        }
        self.paid = now;
        let (mut sends, mut takes) = (BTreeMap::new(), BTreeMap::new());
        for copy in self.flying.values() {
            *sends.entry(copy.from[0].clone()).or_insert(0) += 1;
            copy.to.iter().for_each(|node| *takes.entry(node.clone()).or_insert(0) += 1);
        }
        let busy = |counts: &BTreeMap<NodeId, usize>, node: &NodeId| {
            counts.get(node).is_some_and(|count| *count >= self.limits.per_node)
        };
        let mut begun = Vec::new();
        let mut queue = std::mem::take(&mut self.queue);
        queue.retain_mut(|copy| {
            let last = copy.from.len() == 1 && copy.reason == Reason::Repair;
            let room = self.flying.len() + begun.len() < self.limits.parallel;
            let paid = last || self.limits.bandwidth.is_none() || self.budget > 0.0;
            let source = copy.from.iter().position(|node| !busy(&sends, node));
            let (true, true, Some(source)) = (room, paid, source) else { return true };
            if copy.to.iter().any(|node| busy(&takes, node)) {
                return true;
            }
            copy.from.swap(0, source);
            *sends.entry(copy.from[0].clone()).or_insert(0) += 1;
            copy.to.iter().for_each(|node| *takes.entry(node.clone()).or_insert(0) += 1);
            self.budget -= copy.length.saturating_mul(copy.to.len() as u64) as f64;
            begun.push(copy.clone());
            false
        });
        self.queue = queue;
        self.flying.extend(begun.iter().map(|copy| (copy.block, copy.clone())));
        begun
    }

    /// The copy of `block` ended; `durable` are the targets that have it.
    pub fn done(&mut self, block: BlockId, durable: &[NodeId], now: Instant) {
        let Some(copy) = self.flying.remove(&block) else { return };
        self.late.extend(durable.iter().map(|node| (node.clone(), copy.length, now + FREE_IS_LATE)));
        if durable.len() == copy.to.len() {
            self.resting.remove(&block);
            return;
        }
        let failures = self.resting.get(&block).map_or(0, |(_, failures)| *failures);
        let rest = self.limits.rest.saturating_mul(1 << failures.min(10)).min(REST_MAX);
        self.resting.insert(block, (now + rest, failures + 1));
    }
}

impl Site for NodeState {
    fn id(&self) -> &NodeId {
        &self.id
    }

    fn zone(&self) -> Option<&str> {
        self.zone.as_deref()
    }

    fn free(&self) -> u64 {
        self.free
    }
}

/// What one look decides, while it decides.
struct Plan<'a> {
    view: &'a View<'a>,
    /// With free and used space as they will be.
    nodes: Vec<NodeState>,
    /// Used and free space together: it does not change while blocks move.
    room: BTreeMap<NodeId, f64>,
    status: BTreeMap<NodeId, Status>,
    closed: Vec<NodeId>,
    resting: BTreeSet<BlockId>,
    reserve: u64,
    /// With the number of replicas that can be copied.
    copies: Vec<(usize, Copy)>,
    commands: Vec<Command>,
}

impl<'a> Plan<'a> {
    fn new(view: &'a View<'a>, state: &State, now: Instant) -> Self {
        let mut nodes = view.nodes.to_vec();
        let room = |node: &NodeState| node.used.saturating_add(node.free).max(1) as f64;
        let room = nodes.iter().map(|node| (node.id.clone(), room(node))).collect();
        let flying = state
            .flying
            .values()
            .flat_map(|copy| copy.to.iter().map(|node| (node, copy.length, copy.length)));
        // What arrived is counted as used, and may not be missing in what the node says is free.
        let late = state.late.iter().map(|(node, bytes, _)| (node, *bytes, 0));
        for (node, taken, used) in flying.chain(late) {
            if let Some(node) = nodes.iter_mut().find(|other| other.id == *node) {
                node.free = node.free.saturating_sub(taken);
                node.used = node.used.saturating_add(used);
            }
        }
        Self {
            view,
            status: nodes.iter().map(|node| (node.id.clone(), node.status)).collect(),
            closed: nodes.iter().filter(|node| !node.takes()).map(|node| node.id.clone()).collect(),
            resting: state
                .resting
                .iter()
                .filter(|(_, (until, _))| *until > now)
                .map(|(block, _)| *block)
                .collect(),
            nodes,
            room,
            reserve: state.limits.reserve,
            copies: Vec::new(),
            commands: Vec::new(),
        }
    }

    fn status(&self, node: &NodeId) -> Status {
        self.status.get(node).copied().unwrap_or(Status::Dead)
    }

    fn good(&self, block: &BlockState, counts: impl Fn(Status) -> bool) -> Vec<NodeId> {
        let good = block.replicas.iter().filter(|(_, state)| *state == Replica::Good);
        good.map(|(node, _)| node.clone()).filter(|node| counts(self.status(node))).collect()
    }

    fn node(&self, id: &NodeId) -> Option<&NodeState> {
        self.nodes.iter().find(|node| node.id == *id)
    }

    fn room(&self, node: &NodeState) -> f64 {
        self.room.get(&node.id).copied().unwrap_or(1.0)
    }

    fn fullness(&self, node: &NodeState) -> f64 {
        node.used as f64 / self.room(node)
    }

    /// Too few replicas, too many, or bad ones.
    fn mend(&mut self, block: &BlockState) {
        let replicas = block.replicas.iter().map(|(node, state)| (self.status(node), state));
        let counted = Replicas::count(replicas);
        if counted.live + counted.leaving == 0 {
            return;
        }
        let short = counted.short(self.view.wanted, self.view.required);
        if short > 0 && !self.resting.contains(&block.id) {
            self.replace(block, counted, short);
        }
        if counted.live >= self.view.wanted {
            self.discard(block);
        }
    }

    fn replace(&mut self, block: &BlockState, counted: Replicas, short: usize) {
        let from = self.good(block, Status::gives);
        let mut have = self.good(block, |status| status == Status::Live || status.waited_for());
        let bad = block.replicas.iter().filter(|(_, state)| *state != Replica::Good);
        let mut exclude: Vec<NodeId> = self.closed.iter().chain(bad.map(|(node, _)| node)).cloned().collect();
        let mut to = self.place(block, short, &have, &exclude);
        if to.len() < short {
            // In place of a bad one, where no other node will have it.
            exclude.truncate(self.closed.len());
            have.extend(to.iter().cloned());
            to.extend(self.place(block, short - to.len(), &have, &exclude));
        }
        if !to.is_empty() {
            let drain = counted.leaving > 0 && counted.live + counted.leaving >= self.view.wanted;
            let reason = if drain { Reason::Drain } else { Reason::Repair };
            self.queue(block, from, to, reason);
        }
    }

    fn place(&self, block: &BlockState, count: usize, have: &[NodeId], exclude: &[NodeId]) -> Vec<NodeId> {
        let space = self.reserve.saturating_add(block.length);
        let request = Request { block: block.id, count, writer: None, have, exclude, space };
        placement::place(&request, &self.nodes).into_iter().map(|node| node.id).collect()
    }

    fn queue(&mut self, block: &BlockState, from: Vec<NodeId>, to: Vec<NodeId>, reason: Reason) {
        for node in self.nodes.iter_mut().filter(|node| to.contains(&node.id)) {
            node.free = node.free.saturating_sub(block.length);
            node.used = node.used.saturating_add(block.length);
        }
        let copy = Copy { block: block.id, length: block.length, from, to, reason };
        self.copies.push((copy.from.len(), copy));
    }

    /// Bad replicas go once enough good ones are there, then those that are too many.
    fn discard(&mut self, block: &BlockState) {
        for (node, _) in block.replicas.iter().filter(|(_, state)| *state != Replica::Good) {
            self.commands.push(Command::Discard { block: block.id, node: node.clone() });
        }
        let mut kept = self.good(block, |status| status == Status::Live);
        while kept.len() > self.view.wanted {
            let Some(node) = self.surplus(&kept) else { break };
            kept.retain(|other| *other != node);
            if let Some(state) = self.nodes.iter_mut().find(|other| other.id == node) {
                state.used = state.used.saturating_sub(block.length);
            }
            self.commands.push(Command::Discard { block: block.id, node });
        }
    }

    /// Which of `kept` can be done without: that which crowds its zone most, and among those the fullest.
    fn surplus(&self, kept: &[NodeId]) -> Option<NodeId> {
        let nodes: Vec<&NodeState> = kept.iter().filter_map(|id| self.node(id)).collect();
        let crowd = |node: &NodeState| match &node.zone {
            Some(zone) => nodes.iter().filter(|other| other.zone.as_ref() == Some(zone)).count(),
            None => 1,
        };
        let fuller = |a: &&&NodeState, b: &&&NodeState| {
            crowd(a)
                .cmp(&crowd(b))
                .then_with(|| self.fullness(a).total_cmp(&self.fullness(b)))
                .then_with(|| a.id.cmp(&b.id))
        };
        nodes.iter().max_by(fuller).map(|node| node.id.clone())
    }

    /// A move to another zone, or from a fuller node to an emptier one, for a block that has what it needs.
    fn improve(&mut self, block: &BlockState, spread: Option<f64>) {
        let live = self.good(block, |status| status == Status::Live);
        let waited = self.good(block, Status::waited_for);
        if live.len() != self.view.wanted || !waited.is_empty() || self.resting.contains(&block.id) {
            return;
        }
        let Some((to, reason)) = self
            .other_zone(block, &live)
            .map(|to| (to, Reason::Zones))
            .or_else(|| self.emptier(block, &live, spread?).map(|to| (to, Reason::Balance)))
        else {
            return;
        };
        // The one that will go once the copy is there; it is chosen again then.
        let with: Vec<NodeId> = live.iter().chain([&to]).cloned().collect();
        let leaves = self.surplus(&with);
        if let Some(node) = self.nodes.iter_mut().find(|node| Some(&node.id) == leaves.as_ref()) {
            node.used = node.used.saturating_sub(block.length);
        }
        self.queue(block, self.good(block, Status::gives), vec![to], reason);
    }

    /// A node in a zone without a replica, if two are in one zone.
    fn other_zone(&self, block: &BlockState, live: &[NodeId]) -> Option<NodeId> {
        let zones: Vec<&String> = live.iter().filter_map(|id| self.node(id)?.zone.as_ref()).collect();
        let distinct: BTreeSet<&String> = zones.iter().copied().collect();
        if zones.len() < live.len() || distinct.len() == zones.len() {
            return None;
        }
        let inside =
            self.nodes.iter().filter(|node| node.zone.as_ref().is_none_or(|zone| distinct.contains(zone)));
        let exclude: Vec<NodeId> =
            inside.map(|node| node.id.clone()).chain(self.closed.iter().cloned()).collect();
        self.place(block, 1, live, &exclude).pop()
    }

    /// A node that is emptier than one of `live` by more than `spread`, where the block is as well placed.
    fn emptier(&self, block: &BlockState, live: &[NodeId], spread: f64) -> Option<NodeId> {
        let after = |node: &NodeState| (node.used + block.length) as f64 / self.room(node);
        let fullness = |id: &NodeId| self.node(id).map_or(0.0, |node| self.fullness(node));
        let fullest = live.iter().map(fullness).fold(0.0, f64::max);
        let fits =
            |node: &&NodeState| node.takes() && after(node) + spread < fullest && !live.contains(&node.id);
        if !self.nodes.iter().any(|node| fits(&node)) {
            return None;
        }
        let mut exclude: Vec<NodeId> =
            self.nodes.iter().filter(|node| !fits(node)).map(|node| node.id.clone()).collect();
        // A move whose copy would itself be the one to go, or that takes from a node which is no fuller, changes nothing.
        while let Some(to) = self.place(block, 1, live, &exclude).pop() {
            let with: Vec<NodeId> = live.iter().chain([&to]).cloned().collect();
            let gives = self.surplus(&with).filter(|node| *node != to).map_or(0.0, |node| fullness(&node));
            if self.node(&to).is_some_and(|node| gives > after(node) + spread) {
                return Some(to);
            }
            exclude.push(to);
        }
        None
    }
}
