//! Chooses the nodes of a block: rendezvous hashing weighted by free space, zones apart.
//!
//! # Invariants
//! - Pure: same block, same nodes, same choice, on every machine.
//! - A node that leaves moves only the blocks it held; a node that joins takes only its share.
//!
//! # Source
//! Thaler and Ravishankar, "Using Name-Based Mappings to Increase Hit Rates", IEEE/ACM Transactions on Networking 1998;
//! the weights as in Schindelhauer and Schomaker, "Weighted Distributed Hash Tables", SPAA 2005: with `u` uniform in
//! (0, 1) the least `-ln(u) / weight` falls on a node in proportion to its weight.

use std::collections::HashMap;

use skep_common::NodeId;

use crate::block::BlockId;
use crate::nodes::NodeInfo;

/// What a placement is for.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The block.
    pub block: BlockId,
    /// Replicas wanted besides those in `have`.
    pub count: usize,
    /// The node that writes, if it holds blocks: it takes the first replica.
    pub writer: Option<&'a NodeId>,
    /// Nodes that have a replica: not chosen, but their zones count as used.
    pub have: &'a [NodeId],
    /// Nodes not to use.
    pub exclude: &'a [NodeId],
    /// Bytes a node must have free.
    pub space: u64,
}

/// A node as far as placing goes.
pub trait Site {
    /// Its id.
    fn id(&self) -> &NodeId;
    /// Its failure domain.
    fn zone(&self) -> Option<&str>;
    /// Bytes free for blocks.
    fn free(&self) -> u64;
}

impl Site for NodeInfo {
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

/// Up to `request.count` nodes out of `nodes`, in the order of the chain. Fewer if fewer qualify.
///
/// The first is the writer where it can be; each further one has the best score among the zones used least so far. A
/// node without a zone is a zone by itself.
///
/// # Cost
/// `O(nodes * count)`.
pub fn place<N: Site + Clone>(request: &Request<'_>, nodes: &[N]) -> Vec<N> {
    let mut used: HashMap<Zone<'_>, usize> = HashMap::new();
    for node in nodes.iter().filter(|node| request.have.contains(node.id())) {
        *used.entry(zone(node)).or_default() += 1;
    }
    let eligible = |node: &&N| {
        node.free() >= request.space.max(1)
            && !request.have.contains(node.id())
            && !request.exclude.contains(node.id())
    };
    let mut left: Vec<(f64, &N)> =
        nodes.iter().filter(eligible).map(|node| (score(request.block, node), node)).collect();
    left.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.id().cmp(b.1.id())));

    let mut chosen = Vec::with_capacity(request.count);
    while chosen.len() < request.count && !left.is_empty() {
        let writer = request.writer.filter(|_| chosen.is_empty() && request.have.is_empty());
        let at =
            writer.and_then(|id| left.iter().position(|(_, node)| node.id() == id)).unwrap_or_else(|| {
                let crowd = |i: &usize| used.get(&zone(left[*i].1)).copied().unwrap_or(0);
                (0..left.len()).min_by_key(crowd).unwrap_or(0)
            });
        let (_, node) = left.remove(at);
        *used.entry(zone(node)).or_default() += 1;
        chosen.push(node.clone());
    }
    chosen
}

#[derive(PartialEq, Eq, Hash)]
enum Zone<'a> {
    Named(&'a str),
    Alone(&'a NodeId),
}

fn zone<N: Site>(node: &N) -> Zone<'_> {
    node.zone().map_or(Zone::Alone(node.id()), Zone::Named)
}

/// Less is better.
fn score<N: Site>(block: BlockId, node: &N) -> f64 {
    let hash = hash(block, node.id());
    // The upper 53 bits, moved off zero: uniform in (0, 1).
    let uniform = ((hash >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    -uniform.ln() / node.free().max(1) as f64
}

/// Orders nodes for a reader that could ask any: stable for one reader and block, spread over many.
pub(crate) fn affinity(block: BlockId, node: &NodeId) -> u64 {
    hash(block, node)
}

/// FNV-1a over the bytes, then the finaliser of SplitMix64, because FNV alone leaves the upper bits uneven.
fn hash(block: BlockId, node: &NodeId) -> u64 {
    let bytes = block.as_bytes().iter().chain(node.as_str().as_bytes());
    let fnv = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    });
    let mut mixed = fnv.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, zone: Option<&str>, free: u64) -> NodeInfo {
        NodeInfo {
            id: NodeId::new(name).unwrap(),
            zone: zone.map(str::to_owned),
            url: "http://127.0.0.1:1".parse().unwrap(),
            free,
        }
    }

    fn block(number: u128) -> BlockId {
        BlockId::from_slice(&number.to_be_bytes()).unwrap()
    }

    fn request(block: BlockId, count: usize) -> Request<'static> {
        Request { block, count, writer: None, have: &[], exclude: &[], space: 1 }
    }

    fn names(nodes: &[NodeInfo]) -> Vec<&str> {
        nodes.iter().map(|node| node.id.as_str()).collect()
    }

    #[test]
    fn the_writer_comes_first_and_nobody_twice() {
        let nodes: Vec<_> = (0..5).map(|i| node(&format!("n{i}"), None, 100)).collect();
        let writer = NodeId::new("n3").unwrap();
        for i in 0..50 {
            let chosen = place(&Request { writer: Some(&writer), ..request(block(i), 3) }, &nodes);
            assert_eq!(chosen[0].id, writer);
            let mut unique = names(&chosen);
            unique.sort_unstable();
            unique.dedup();
            assert_eq!(unique.len(), 3);
        }
    }

    #[test]
    fn shares_follow_free_space() {
        let nodes = [node("a", None, 100), node("b", None, 200), node("c", None, 700)];
        let mut count = HashMap::new();
        for i in 0..10_000 {
            *count.entry(place(&request(block(i), 1), &nodes)[0].id.clone()).or_insert(0) += 1;
        }
        let share = |name: &str| count[&NodeId::new(name).unwrap()];
        assert!((800..1200).contains(&share("a")), "{count:?}");
        assert!((1800..2200).contains(&share("b")), "{count:?}");
    }

    #[test]
    fn zones_are_spread_before_they_are_shared() {
        let nodes = [
            node("a1", Some("a"), 1000),
            node("a2", Some("a"), 1000),
            node("a3", Some("a"), 1000),
            node("b1", Some("b"), 1),
        ];
        let have = [NodeId::new("a1").unwrap()];
        for i in 0..50 {
            let chosen = place(&request(block(i), 2), &nodes);
            assert!(names(&chosen).contains(&"b1"), "{chosen:?}");
            let more = place(&Request { have: &have, ..request(block(i), 1) }, &nodes);
            assert_eq!(names(&more), ["b1"]);
        }
    }

    #[test]
    fn a_node_that_leaves_moves_only_its_blocks() {
        let nodes: Vec<_> = (0..6).map(|i| node(&format!("n{i}"), None, 100)).collect();
        for i in 0..500 {
            let before = place(&request(block(i), 2), &nodes);
            let after = place(&request(block(i), 2), &nodes[1..]);
            for kept in before.iter().filter(|node| node.id.as_str() != "n0") {
                assert!(after.contains(kept), "block {i}: {before:?} {after:?}");
            }
        }
    }

    #[test]
    fn full_and_excluded_nodes_are_passed_over() {
        let nodes = [node("a", None, 10), node("b", None, 100), node("c", None, 100)];
        let exclude = [NodeId::new("c").unwrap()];
        let full_writer = NodeId::new("a").unwrap();
        let chosen = place(
            &Request { space: 50, exclude: &exclude, writer: Some(&full_writer), ..request(block(1), 3) },
            &nodes,
        );
        assert_eq!(names(&chosen), ["b"]);
    }
}
