//! Which models read which.
//!
//! Pure.
//!
//! # Not here
//! Choosing models by what they read (`select`), and when they run (`run`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use petgraph::algo::{tarjan_scc, toposort};
use petgraph::graphmap::DiGraphMap;
use skep_common::{Error, Result};

use crate::project::{Model, Name, Problem};

/// Models by their places in a list, and what each reads of the others.
#[derive(Debug, Clone, Default)]
pub(crate) struct Graph {
    /// The models that each reads.
    above: Vec<BTreeSet<usize>>,
    /// The models that read each.
    below: Vec<BTreeSet<usize>>,
    order: Vec<usize>,
}

impl Graph {
    /// # Errors
    /// A problem for each model of a cycle.
    pub(crate) fn new(models: &[Model]) -> Result<Self, Vec<Problem>> {
        let by_name: BTreeMap<&Name, usize> =
            models.iter().enumerate().map(|(at, model)| (&model.name, at)).collect();
        let mut above = vec![BTreeSet::new(); models.len()];
        let mut graph = DiGraphMap::<usize, ()>::new();
        for (at, model) in models.iter().enumerate() {
            graph.add_node(at);
            for table in &model.reads.tables {
                if let Some(&other) = by_name.get(&Name::of(table)) {
                    above[at].insert(other);
                    graph.add_edge(other, at, ());
                }
            }
            // What a test compares with must be there before.
            for test in &model.tests {
                if let crate::project::Rule::Relationship { to, .. } = &test.rule
                    && let Some(&other) = by_name.get(to)
                    && other != at
                {
                    above[at].insert(other);
                    graph.add_edge(other, at, ());
                }
            }
        }
        let Ok(order) = toposort(&graph, None) else { return Err(cycles(models, &above, &graph)) };
        let mut below = vec![BTreeSet::new(); models.len()];
        for (at, reads) in above.iter().enumerate() {
            for &other in reads {
                below[other].insert(at);
            }
        }
        Ok(Self { above, below, order })
    }

    /// Each after those that it reads.
    pub(crate) fn order(&self) -> &[usize] {
        &self.order
    }

    /// What a model reads of the others.
    pub(crate) fn above(&self, model: usize) -> &BTreeSet<usize> {
        &self.above[model]
    }

    /// A model and all that it reads, whatever the way.
    pub(crate) fn with_above(&self, model: usize) -> BTreeSet<usize> {
        Self::reach(&self.above, model)
    }

    /// A model and all that reads it, whatever the way.
    pub(crate) fn with_below(&self, model: usize) -> BTreeSet<usize> {
        Self::reach(&self.below, model)
    }

    fn reach(edges: &[BTreeSet<usize>], from: usize) -> BTreeSet<usize> {
        let (mut found, mut next) = (BTreeSet::from([from]), vec![from]);
        while let Some(at) = next.pop() {
            next.extend(edges[at].iter().filter(|&&other| found.insert(other)));
        }
        found
    }

    /// As text, as Mermaid, or as JSON.
    ///
    /// # Errors
    /// [`Kind::Invalid`](skep_common::Kind::Invalid) for another form.
    pub(crate) fn drawn(&self, models: &[Model], form: &str) -> Result<String> {
        let edges = || {
            self.above.iter().enumerate().flat_map(|(at, above)| above.iter().map(move |&other| (other, at)))
        };
        let mut text = String::new();
        match form {
            "text" => {
                for (at, model) in models.iter().enumerate() {
                    let names: Vec<String> =
                        self.above[at].iter().map(|&other| models[other].name.to_string()).collect();
                    let from =
                        if names.is_empty() { String::new() } else { format!(" <- {}", names.join(", ")) };
                    let _ = writeln!(text, "{} ({}){from}", model.name, model.kind.name());
                }
            }
            "mermaid" => {
                text.push_str("graph LR\n");
                for (at, model) in models.iter().enumerate() {
                    let _ = writeln!(text, "    m{at}[\"{}\"]", model.name);
                }
                for (from, to) in edges() {
                    let _ = writeln!(text, "    m{from} --> m{to}");
                }
            }
            "json" => {
                let nodes: Vec<_> = models
                    .iter()
                    .map(|model| {
                        serde_json::json!({
                            "name": model.name.to_string(), "kind": model.kind.name(), "file": model.file,
                            "tags": model.header.tags, "description": model.header.description,
                        })
                    })
                    .collect();
                let edges: Vec<_> = edges()
                    .map(|(from, to)| [models[from].name.to_string(), models[to].name.to_string()])
                    .collect();
                text = serde_json::to_string_pretty(&serde_json::json!({ "models": nodes, "reads": edges }))
                    .map_err(|e| Error::internal("a graph does not serialise").source(e))?;
                text.push('\n');
            }
            other => {
                return Err(Error::invalid(format!("'{other}' is no form of a graph"))
                    .hint("text, mermaid and json are"));
            }
        }
        Ok(text)
    }
}

fn cycles(models: &[Model], above: &[BTreeSet<usize>], graph: &DiGraphMap<usize, ()>) -> Vec<Problem> {
    let mut problems = Vec::new();
    for ring in tarjan_scc(graph) {
        let round = ring.len() > 1 || ring.iter().any(|&at| above[at].contains(&at));
        let Some(&first) = ring.iter().min().filter(|_| round) else { continue };
        let path = around(first, &ring, above);
        let names: Vec<String> = path.iter().map(|&at| models[at].name.to_string()).collect();
        let next = path.get(1).copied().unwrap_or(first);
        let mut error = Error::invalid(format!("models read each other in a circle: {}", names.join(" <- ")))
            .hint("one of them must do without the other");
        let place = models[first].reads.tables.iter().find(|table| Name::of(table) == models[next].name);
        if let Some(table) = place {
            error = error.at(table.span);
        }
        problems.push(Problem::new(&models[first].file, error));
    }
    problems
}

/// A way from `first` back to itself, by what each reads.
fn around(first: usize, ring: &[usize], above: &[BTreeSet<usize>]) -> Vec<usize> {
    let mut ways: BTreeMap<usize, Vec<usize>> = BTreeMap::from([(first, vec![first])]);
    let mut next = std::collections::VecDeque::from([first]);
    while let Some(at) = next.pop_front() {
        let way = ways[&at].clone();
        for &other in above[at].iter().filter(|other| ring.contains(other)) {
            let longer: Vec<usize> = way.iter().copied().chain([other]).collect();
            if other == first {
                return longer;
            }
            if let std::collections::btree_map::Entry::Vacant(free) = ways.entry(other) {
                free.insert(longer);
                next.push_back(other);
            }
        }
    }
    vec![first]
}
