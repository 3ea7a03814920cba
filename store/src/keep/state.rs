//! Decides what to copy and what to discard.

use skep_common::NodeId;

use crate::block::BlockId;
use crate::namespace::Replica;
use crate::nodes::NodeInfo;
use crate::placement::{self, Request};

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

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Have one of `from` send the block to `to`.
    Copy {
        /// The block.
        block: BlockId,
        /// Live nodes with a good replica, best first.
        from: Vec<NodeId>,
        /// Where it goes.
        to: Vec<NodeId>,
    },
    /// Forget the replica and delete what is left of it.
    Discard {
        /// The block.
        block: BlockId,
        /// Where.
        node: NodeId,
    },
}

/// What brings `blocks` to `wanted` good replicas, given the live nodes.
///
/// `grace` are nodes that left a short while ago and may come back: their replicas still count towards `wanted`, as
/// long as one on a live node remains.
///
/// # Invariants
/// - Pure, and idempotent once the commands are done: a block with `wanted` good replicas gives none.
/// - A discarded good replica leaves `wanted` good ones on live nodes.
pub fn plan(
    blocks: &[BlockState],
    live: &[NodeInfo],
    grace: &[NodeId],
    wanted: usize,
    reserve: u64,
) -> Vec<Command> {
    let mut commands = Vec::new();
    for block in blocks {
        let good_on = |node: &&NodeInfo| block.replicas.contains(&(node.id.clone(), Replica::Good));
        let good: Vec<&NodeInfo> = live.iter().filter(good_on).collect();
        if good.is_empty() {
            continue;
        }
        let away =
            grace.iter().filter(|node| block.replicas.contains(&((*node).clone(), Replica::Good))).count();
        let short = wanted.saturating_sub(good.len() + away);
        if short > 0 {
            commands.extend(copy(block, &good, live, short, reserve));
        }
        if good.len() >= wanted {
            discard(block, &good, wanted, &mut commands);
        }
    }
    commands
}

fn copy(
    block: &BlockState,
    good: &[&NodeInfo],
    live: &[NodeInfo],
    short: usize,
    reserve: u64,
) -> Option<Command> {
    let have: Vec<NodeId> = good.iter().map(|node| node.id.clone()).collect();
    let request = Request {
        block: block.id,
        count: short,
        writer: None,
        have: &have,
        exclude: &[],
        space: reserve.saturating_add(block.length),
    };
    let to: Vec<NodeId> = placement::place(&request, live).into_iter().map(|node| node.id).collect();
    (!to.is_empty()).then_some(Command::Copy { block: block.id, from: have, to })
}

/// Bad replicas go once enough good ones are there; surplus good ones go from the node that crowds its zone most, and
/// among those from the fullest.
fn discard(block: &BlockState, good: &[&NodeInfo], wanted: usize, commands: &mut Vec<Command>) {
    for (node, _) in block.replicas.iter().filter(|(_, state)| *state != Replica::Good) {
        commands.push(Command::Discard { block: block.id, node: node.clone() });
    }
    let mut kept = good.to_vec();
    while kept.len() > wanted {
        let crowd = |node: &NodeInfo| match &node.zone {
            Some(zone) => kept.iter().filter(|other| other.zone.as_ref() == Some(zone)).count(),
            None => 1,
        };
        let surplus = (0..kept.len())
            .max_by_key(|i| (crowd(kept[*i]), std::cmp::Reverse(kept[*i].free), &kept[*i].id))
            .unwrap_or(0);
        let node = kept.remove(surplus);
        commands.push(Command::Discard { block: block.id, node: node.id.clone() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write;

    fn nodes(text: &str) -> Vec<NodeInfo> {
        text.split_whitespace()
            .map(|word| {
                let (name, zone) =
                    word.split_once('/').map_or((word, None), |(n, z)| (n, Some(z.to_owned())));
                let url = "http://127.0.0.1:1".parse().unwrap();
                NodeInfo { id: NodeId::new(name).unwrap(), zone, url, free: 1 << 40 }
            })
            .collect()
    }

    fn block(number: u128, replicas: &str) -> BlockState {
        let replicas = replicas
            .split_whitespace()
            .map(|word| match word.split_at(word.len() - 1) {
                (name, "!") => (NodeId::new(name).unwrap(), Replica::Corrupt),
                (name, "?") => (NodeId::new(name).unwrap(), Replica::Missing),
                _ => (NodeId::new(word).unwrap(), Replica::Good),
            })
            .collect();
        BlockState { id: BlockId::from_slice(&number.to_be_bytes()).unwrap(), length: 10, replicas }
    }

    fn script(replicas: &str, live: &str, grace: &str) -> String {
        let grace: Vec<_> = nodes(grace).into_iter().map(|node| node.id).collect();
        let mut out = String::new();
        for command in plan(&[block(7, replicas)], &nodes(live), &grace, 3, 0) {
            let join = |ids: &[NodeId]| ids.iter().map(NodeId::as_str).collect::<Vec<_>>().join(",");
            match command {
                Command::Copy { from, to, .. } => write!(out, "copy {}>{} ", join(&from), join(&to)).unwrap(),
                Command::Discard { node, .. } => write!(out, "discard {node} ").unwrap(),
            }
        }
        out.trim_end().to_owned()
    }

    #[test]
    fn golden_scripts() {
        for (replicas, live, grace, expected) in [
            ("a b c", "a b c", "", ""),
            ("a b", "a b c", "", "copy a,b>c"),
            ("a b c", "a b d", "", "copy a,b>d"),
            ("a b c", "a b d", "c", ""),
            ("a b c!", "a b c", "", "copy a,b>c"),
            ("a b c! d", "a b c d", "", "discard c"),
            ("a b c?", "a b c", "", "copy a,b>c"),
            ("a b", "c d", "", ""),
            ("a! b! c!", "a b c", "", ""),
            ("a b c d", "a/x b/x c/y d/z", "", "discard b"),
            ("a b", "a/x b/x c/x d/y", "", "copy a,b>d"),
        ] {
            assert_eq!(script(replicas, live, grace), expected, "{replicas} | {live} | {grace}");
        }
    }

    /// Whatever happens, carrying out commands loses no block with a good live replica, and comes to an end.
    #[test]
    fn rounds_converge_and_lose_nothing() {
        let all = nodes("a/x b/x c/y d/y e/z");
        for seed in 0..500_u128 {
            let bits = |shift: u32| (seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> shift) as usize;
            let live: Vec<_> = all
                .iter()
                .enumerate()
                .filter(|(i, _)| bits(*i as u32) % 4 != 0)
                .map(|(_, n)| n.clone())
                .collect();
            let mut state = block(seed, "");
            for (i, node) in all.iter().enumerate() {
                match bits(10 + 2 * i as u32) % 4 {
                    0 => state.replicas.push((node.id.clone(), Replica::Good)),
                    1 => state.replicas.push((node.id.clone(), Replica::Corrupt)),
                    _ => {}
                }
            }
            let good = |state: &BlockState| {
                live.iter().filter(|n| state.replicas.contains(&(n.id.clone(), Replica::Good))).count()
            };
            let before = good(&state);
            for _ in 0..3 {
                for command in plan(std::slice::from_ref(&state), &live, &[], 3, 0) {
                    match command {
                        Command::Copy { to, .. } => {
                            state.replicas.retain(|(node, _)| !to.contains(node));
                            state.replicas.extend(to.into_iter().map(|node| (node, Replica::Good)));
                        }
                        Command::Discard { node, .. } => state.replicas.retain(|(other, _)| *other != node),
                    }
                    assert!(before == 0 || good(&state) > 0, "seed {seed}");
                }
            }
            assert!(before == 0 || good(&state) == live.len().min(3), "seed {seed}: {state:?}");
            if good(&state) == 3 {
                assert!(plan(&[state], &live, &[], 3, 0).is_empty(), "seed {seed}");
            }
        }
    }
}
