//! Golden scripts: what the keeper decides, told as text.
//!
//! ```text
//! nodes a/x b/y:500          nodes that are live and reported, with zone and bytes free (1000 unless said)
//! block 1 a b! c?            a block of 10 bytes: good on a, corrupt on b, missing on c
//! leave a, return a, report a, drain a, stay a, maintain a, work a
//! at 5s                      the time, and a look; what follows as "  > ..." is what it decides
//! done 1, fail 1             the copy of block 1 ended, and what may begin then
//! ```
//!
//! # Not here
//! Faults in an order that nobody thought of (`simulation`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::time::{Duration, Instant};

use skep_common::NodeId;

use super::nodes::{NodeState, Orders, Watch};
use super::state::{BlockState, Command, Copy, Limits, State, View};
use crate::block::BlockId;
use crate::namespace::Replica;

struct Script {
    start: Instant,
    now: Duration,
    state: State,
    watch: Watch,
    live: BTreeSet<NodeId>,
    nodes: BTreeMap<NodeId, (Option<String>, u64, Orders)>,
    blocks: BTreeMap<BlockId, BlockState>,
    wanted: usize,
}

fn id(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

fn block(number: &str) -> BlockId {
    BlockId::from_slice(&number.parse::<u128>().unwrap().to_be_bytes()).unwrap()
}

fn number(block: BlockId) -> u128 {
    u128::from_be_bytes(*block.as_bytes())
}

fn limits() -> Limits {
    Limits {
        parallel: 10,
        per_node: 10,
        bandwidth: None,
        reserve: 0,
        spread: None,
        rest: Duration::from_secs(5),
    }
}

impl Script {
    #[expect(clippy::disallowed_methods, reason = "a start for a made-up time line")]
    fn new(limits: Limits, wanted: usize) -> Self {
        let start = Instant::now();
        Self {
            start,
            now: Duration::ZERO,
            state: State::new(limits, start),
            watch: Watch::new([], Duration::from_secs(30), start),
            live: BTreeSet::new(),
            nodes: BTreeMap::new(),
            blocks: BTreeMap::new(),
            wanted,
        }
    }

    fn instant(&self) -> Instant {
        self.start + self.now
    }

    fn line(&mut self, line: &str, out: &mut String) {
        let mut words = line.split_whitespace();
        let Some(verb) = words.next() else { return };
        let words: Vec<&str> = words.collect();
        match verb {
            "nodes" => words.iter().for_each(|word| self.join(word)),
            "block" => self.block(words[0], &words[1..]),
            "at" => {
                self.now = Duration::from_secs(words[0].trim_end_matches('s').parse().unwrap());
                let live = self.live.clone();
                self.watch.observe(&live, self.instant());
                let commands = self.look();
                self.tell(commands, out);
            }
            "done" | "fail" => {
                let (id, now) = (block(words[0]), self.instant());
                let copy = self.state.flying().find(|copy| copy.block == id).unwrap().clone();
                let durable = if verb == "done" { copy.to } else { Vec::new() };
                self.state.done(id, &durable, now);
                let block = self.blocks.get_mut(&id).unwrap();
                block.replicas.retain(|(node, _)| !durable.contains(node));
                block.replicas.extend(durable.into_iter().map(|node| (node, Replica::Good)));
                let copies = self.state.copies(now);
                self.tell(copies.into_iter().map(Command::Copy).collect(), out);
            }
            _ => {
                let (node, now) = (id(words[0]), self.instant());
                let orders = &mut self.nodes.get_mut(&node).unwrap().2;
                match verb {
                    "leave" => drop(self.live.remove(&node)),
                    "return" => drop(self.live.insert(node)),
                    "report" => self.watch.reported(&node, now),
                    "drain" => orders.drain = true,
                    "stay" => orders.drain = false,
                    "maintain" => orders.maintenance = true,
                    "work" => orders.maintenance = false,
                    _ => panic!("no verb '{verb}'"),
                }
            }
        }
    }

    fn join(&mut self, word: &str) {
        let (name, free) = word.split_once(':').unwrap_or((word, "1000"));
        let (name, zone) = name.split_once('/').map_or((name, None), |(n, z)| (n, Some(z.to_owned())));
        let now = self.instant();
        self.nodes.insert(id(name), (zone, free.parse().unwrap(), Orders::default()));
        self.live.insert(id(name));
        self.watch.reported(&id(name), now);
    }

    fn block(&mut self, name: &str, replicas: &[&str]) {
        let replica = |word: &&str| match word.split_at(word.len() - 1) {
            (name, "!") => (id(name), Replica::Corrupt),
            (name, "?") => (id(name), Replica::Missing),
            _ => (id(word), Replica::Good),
        };
        let replicas = replicas.iter().map(replica).collect();
        self.blocks.insert(block(name), BlockState { id: block(name), length: 10, replicas });
    }

    fn look(&mut self) -> Vec<Command> {
        let now = self.instant();
        let used = |node: &NodeId| {
            let good = (node.clone(), Replica::Good);
            self.blocks
                .values()
                .filter(|block| block.replicas.contains(&good))
                .map(|block| block.length)
                .sum()
        };
        let nodes: Vec<NodeState> = self
            .nodes
            .iter()
            .map(|(node, (zone, free, orders))| NodeState {
                id: node.clone(),
                zone: zone.clone(),
                status: self.watch.status(node, *orders, now),
                closed: *orders != Orders::default(),
                free: free.saturating_sub(used(node)),
                used: used(node),
            })
            .collect();
        let blocks: Vec<BlockState> = self.blocks.values().cloned().collect();
        let wanted = self.wanted.min(self.nodes.values().filter(|(_, _, orders)| !orders.drain).count());
        let view = View {
            nodes: &nodes,
            wanted,
            required: wanted.min(2),
            blocks: &blocks,
            page: &blocks,
            more: false,
        };
        self.state.step(&view, now)
    }

    fn tell(&mut self, commands: Vec<Command>, out: &mut String) {
        let join = |ids: &[NodeId]| ids.iter().map(NodeId::as_str).collect::<Vec<_>>().join(",");
        for command in commands {
            match command {
                Command::Abandon(block) => writeln!(out, "  > abandon {}", number(block)).unwrap(),
                Command::Copy(Copy { block, from, to, reason, .. }) => {
                    writeln!(out, "  > copy {} {}>{} {reason}", number(block), join(&from), join(&to))
                        .unwrap();
                }
                Command::Discard { block, node } => {
                    writeln!(out, "  > discard {} {node}", number(block)).unwrap();
                    let block = self.blocks.get_mut(&block).unwrap();
                    block.replicas.retain(|(other, _)| *other != node);
                }
            }
        }
    }
}

/// Runs the script, and compares what it decides with what the script says.
fn play(limits: Limits, wanted: usize, script: &str) {
    let mut state = Script::new(limits, wanted);
    let mut out = String::new();
    for line in script.lines().filter(|line| !line.trim_start().starts_with('>') && !line.trim().is_empty()) {
        writeln!(out, "{}", line.trim()).unwrap();
        state.line(line.trim(), &mut out);
    }
    let expected: Vec<String> = script
        .lines()
        .filter(|line| !line.trim().is_empty())
        .map(|line| {
            if line.trim_start().starts_with('>') {
                format!("  {}", line.trim())
            } else {
                line.trim().to_owned()
            }
        })
        .collect();
    assert_eq!(out.trim_end(), expected.join("\n"), "\n--- decided:\n{out}");
}

#[test]
fn replicas_are_counted_on_those_who_have_said_what_they_hold() {
    play(
        limits(),
        3,
        "
        nodes a b c d
        block 1 a b c
        at 1s
        leave c
        at 5s
        at 35s
          > copy 1 a,b>d repair
        done 1
        at 36s
        return c
        at 37s
        report c
        at 38s
          > discard 1 d
        ",
    );
}

#[test]
fn a_single_replica_that_answers_is_not_left_alone() {
    play(
        limits(),
        3,
        "
        nodes a b c d e
        block 1 a b c
        block 2 a b c
        at 1s
        leave b
        at 2s
        leave c
        at 3s
          > copy 1 a>e repair
          > copy 2 a>d repair
        done 1
        done 2
        at 4s
        return b
        return c
        report b
        report c
        at 5s
          > discard 1 c
          > discard 2 b
        ",
    );
}

#[test]
fn bad_replicas_go_when_good_ones_are_there() {
    play(
        limits(),
        3,
        "
        nodes a b c d
        block 1 a b c!
        block 2 a b!
        block 3 a b c? d
        block 4 a! b!
        at 1s
          > discard 3 c
          > copy 2 a>c,d repair
          > copy 1 a,b>d repair
        done 1
        done 2
        at 2s
          > discard 1 c
          > discard 2 b
        ",
    );
}

#[test]
fn a_drained_node_is_copied_from_and_keeps_what_it_has() {
    play(
        limits(),
        2,
        "
        nodes a b c
        block 1 a b
        block 2 b c
        drain b
        at 1s
          > copy 1 a,b>c drain
          > copy 2 b,c>a drain
        done 1
        done 2
        at 2s
        stay b
        at 3s
          > discard 1 c
          > discard 2 b
        ",
    );
}

#[test]
fn a_node_in_maintenance_is_waited_for_and_given_nothing() {
    play(
        limits(),
        3,
        "
        nodes a b c d
        block 1 a b c
        maintain c
        leave c
        at 100s
        at 1000s
        work c
        at 1001s
          > copy 1 a,b>d repair
        ",
    );
    play(
        limits(),
        2,
        "
        nodes a b c
        block 1 a b
        maintain c
        leave b
        at 100s
        work c
        at 101s
          > copy 1 a>c repair
        ",
    );
}

#[test]
fn few_replicas_come_first_and_nodes_are_not_overrun() {
    play(
        Limits { parallel: 3, per_node: 1, ..limits() },
        3,
        "
        nodes a b c d e f
        block 1 a b
        block 2 a
        block 3 c d
        block 4 d e
        at 1s
          > copy 2 a>c,d repair
          > copy 1 b,a>e repair
          > copy 3 c,d>f repair
        done 2
          > copy 4 d,e>a repair
        done 3
        at 2s
        ",
    );
}

#[test]
fn bandwidth_is_kept_to_and_the_last_replica_does_not_wait() {
    play(
        Limits { bandwidth: Some(10), ..limits() },
        2,
        "
        nodes a b c
        block 1 a b!
        block 2 a
        block 3 b
        at 1s
          > copy 1 a>c repair
          > copy 2 a>c repair
          > copy 3 b>a repair
        ",
    );
    play(
        Limits { bandwidth: Some(10), ..limits() },
        3,
        "
        nodes a b c
        block 1 a b
        block 2 a b
        block 3 a b
        at 1s
          > copy 1 a,b>c repair
        done 1
        at 2s
          > copy 2 a,b>c repair
        done 2
        at 3s
          > copy 3 a,b>c repair
        ",
    );
}

#[test]
fn what_failed_rests() {
    play(
        limits(),
        3,
        "
        nodes a b c
        block 1 a b
        at 1s
          > copy 1 a,b>c repair
        fail 1
        at 2s
        at 6s
          > copy 1 a,b>c repair
        fail 1
        at 12s
        at 16s
          > copy 1 a,b>c repair
        ",
    );
}

#[test]
fn a_copy_to_a_node_that_goes_away_is_made_elsewhere() {
    play(
        limits(),
        3,
        "
        nodes a b c
        block 1 a b
        at 1s
          > copy 1 a,b>c repair
        nodes d
        leave c
        at 2s
          > abandon 1
        fail 1
        at 3s
        at 8s
          > copy 1 a,b>d repair
        leave a
        at 9s
          > abandon 1
        ",
    );
}

#[test]
fn nodes_without_room_get_nothing() {
    play(
        Limits { reserve: 50, ..limits() },
        3,
        "
        nodes a b c:59
        block 1 a b
        at 1s
        nodes d:65
        block 2 a b
        at 2s
          > copy 1 a,b>d repair
        ",
    );
}

#[test]
fn zones_are_kept_apart() {
    play(
        limits(),
        3,
        "
        nodes a/x b/x c/x d/y
        block 1 a b
        block 2 a b c
        at 1s
          > copy 1 a,b>d repair
        done 1
        at 2s
          > copy 2 a,b,c>d zones
        done 2
        at 3s
          > discard 2 b
        at 4s
        ",
    );
}

#[test]
fn blocks_move_to_a_node_that_joins_until_it_is_as_full() {
    play(
        Limits { spread: Some(0.1), ..limits() },
        2,
        "
        nodes a:100 b:100
        block 1 a b
        block 2 a b
        block 3 a b
        block 4 a b
        block 5 a b
        block 6 a b
        at 1s
        nodes c:100
        at 2s
          > copy 1 a,b>c balance
          > copy 2 a,b>c balance
          > copy 3 a,b>c balance
        done 1
        done 2
        done 3
        at 3s
          > discard 1 b
          > discard 2 a
          > discard 3 b
        at 20s
        at 21s
        ",
    );
}

#[test]
fn repairs_go_before_moves() {
    play(
        Limits { spread: Some(0.1), ..limits() },
        2,
        "
        nodes a:100 b:100 c:100
        block 1 a b
        block 2 a b
        block 3 a b
        block 4 a b
        block 5 a b
        block 6 a
        at 1s
          > copy 6 a>c repair
        ",
    );
}
