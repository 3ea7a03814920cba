//! The tree of joins that makes the fewest rows.
//!
//! The rows on the way are the cost of a tree: the sum of the sizes of all its joins. It is the measure "C_out" of Moerkotte and
//! Neumann; that it is what matters, and the estimates of sizes far more than the search, is the finding of Leis and others in
//! "How Good Are Query Optimizers, Really?" (2015). Up to twelve inputs every tree of connected parts is looked at, by dynamic
//! programming over sets of inputs (Selinger; the form over subsets is Vance and Maier's); above that, the two parts whose join
//! is smallest are joined first, again and again (Fegaras's greedy ordering).
//!
//! # Not here
//! What one input has (`estimate`).

use std::cell::RefCell;
use std::collections::HashMap;

use datafusion::logical_expr::Expr;

use super::estimate::{self, Estimate};
use super::graph::{Graph, Set};

/// Inputs up to which every tree is looked at.
const EVERY_MAX: usize = 12;

/// How inputs are joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Tree {
    Input(usize),
    Join(Box<Tree>, Box<Tree>),
}

impl Tree {
    /// The inputs in it.
    pub(super) fn set(&self) -> Set {
        match self {
            Self::Input(at) => 1 << at,
            Self::Join(left, right) => left.set() | right.set(),
        }
    }
}

/// How many rows any set of inputs has when it is joined.
pub(super) struct Sizes {
    rows: Vec<f64>,
    /// Equalities: their class, and for each side the inputs it speaks of and how many values it has.
    equal: Vec<(usize, [(Set, f64); 2])>,
    /// Other conditions: the inputs they speak of, and which share of rows passes.
    other: Vec<(Set, f64)>,
    known: RefCell<HashMap<Set, f64>>,
}

impl Sizes {
    pub(super) fn new(graph: &Graph<'_>, estimates: &[Estimate]) -> Self {
        let mut classes: Vec<Vec<&Expr>> = Vec::new();
        let (mut equal, mut other) = (Vec::new(), Vec::new());
        for condition in &graph.conditions {
            let Some([(a, of_a), (b, of_b)]) = &condition.equal else {
                if condition.needs.count_ones() > 1 {
                    other.push((condition.needs, estimate::share_of_pairs(&condition.expr)));
                }
                continue;
            };
            let values = |expr: &Expr, of: Set| {
                let only = (of.count_ones() == 1).then(|| of.trailing_zeros() as usize);
                only.map_or(f64::INFINITY, |at| estimates[at].distinct(expr))
            };
            let sides = [(*of_a, values(a, *of_a)), (*of_b, values(b, *of_b))];
            equal.push((class(&mut classes, a, b), sides));
        }
        // Classes that a later equality brought together keep the number of the first.
        let names: Vec<usize> = graph
            .conditions
            .iter()
            .filter_map(|condition| condition.equal.as_ref())
            .map(|[(a, _), _]| classes.iter().position(|class| class.contains(&a)).unwrap_or(0))
            .collect();
        for ((class, _), name) in equal.iter_mut().zip(names) {
            *class = name;
        }
        let rows = estimates.iter().map(|estimate| estimate.rows.max(1.0)).collect();
        Self { rows, equal, other, known: RefCell::default() }
    }

    fn inputs(&self) -> usize {
        self.rows.len()
    }

    /// Whether a condition joins `a` and `b`.
    fn joined(&self, a: Set, b: Set) -> bool {
        let across = |needs: Set| needs & a != 0 && needs & b != 0 && needs & !(a | b) == 0;
        self.equal.iter().any(|(_, [x, y])| across(x.0 | y.0))
            || self.other.iter().any(|(needs, _)| across(*needs))
    }

    fn connected(&self, set: Set) -> bool {
        let mut reached = set & set.wrapping_neg();
        loop {
            let more = (0..self.inputs())
                .map(|at| 1 << at)
                .find(|one: &Set| one & set != 0 && one & reached == 0 && self.touches(reached, *one));
            match more {
                Some(one) => reached |= one,
                None => return reached == set,
            }
        }
    }

    /// Whether a condition speaks of both, and perhaps of others.
    fn touches(&self, a: Set, b: Set) -> bool {
        let both = |needs: Set| needs & a != 0 && needs & b != 0;
        self.equal.iter().any(|(_, [x, y])| both(x.0 | y.0))
            || self.other.iter().any(|(needs, _)| both(*needs))
    }

    /// The rows of the inputs in `set`, joined. The same for every tree: it is counted by adding one input after the other.
    pub(super) fn of(&self, set: Set) -> f64 {
        if set.count_ones() == 1 {
            return self.rows[set.trailing_zeros() as usize];
        }
        if let Some(rows) = self.known.borrow().get(&set) {
            return *rows;
        }
        let mut ones = (0..self.inputs()).rev().map(|at| 1 << at).filter(|one: &Set| set & one != 0);
        let highest = ones.clone().next().unwrap_or(set);
        let last = ones.find(|one| self.touches(set & !one, *one) && self.connected(set & !one));
        let last = last.unwrap_or(highest);
        let rest = set & !last;
        let rows = (self.of(rest) * self.of(last) * self.passing(rest, last)).max(1.0);
        self.known.borrow_mut().insert(set, rows);
        rows
    }

    /// The share of the pairs of rows of `rest` and `last` that meets the conditions between them.
    fn passing(&self, rest: Set, last: Set) -> f64 {
        // One equality of each class counts: the others of the class follow from it. The sides have as many values as the
        // one with the fewest of those that are equal already.
        let mut classes: HashMap<usize, [f64; 2]> = HashMap::new();
        let all = rest | last;
        for (class, [a, b]) in &self.equal {
            if (a.0 | b.0) & !all != 0 {
                continue;
            }
            for (of, values) in [a, b] {
                let values_of = |at: usize| (at, *values);
                let side = if of & !rest == 0 {
                    values_of(0)
                } else if of & !last == 0 {
                    values_of(1)
                } else {
                    continue;
                };
                let entry = classes.entry(*class).or_insert([f64::INFINITY; 2]);
                entry[side.0] = entry[side.0].min(side.1);
            }
        }
        let mut values = [1.0, 1.0];
        let mut any = false;
        for [of_rest, of_last] in classes.into_values().filter(|[a, b]| a.is_finite() && b.is_finite()) {
            values = [values[0] * of_rest, values[1] * of_last];
            any = true;
        }
        let mut share = 1.0;
        if any {
            // Several columns together have no more values than there are rows.
            let most = values[0].min(self.of(rest)).max(values[1].min(self.of(last)));
            share /= most.max(1.0);
        }
        // An equality of which a side speaks of several inputs.
        for (_, [a, b]) in &self.equal {
            let needs = a.0 | b.0;
            let across = needs & rest != 0 && needs & last != 0 && needs & !all == 0;
            if across && (a.0.count_ones() > 1 || b.0.count_ones() > 1) {
                share *= estimate::EQUAL;
            }
        }
        for (needs, passing) in &self.other {
            if needs & rest != 0 && needs & last != 0 && needs & !all == 0 {
                share *= passing;
            }
        }
        share
    }
}

/// The number of the class of `a` and `b`, which are equal.
fn class<'a>(classes: &mut Vec<Vec<&'a Expr>>, a: &'a Expr, b: &'a Expr) -> usize {
    let find = |classes: &[Vec<&Expr>], expr: &Expr| classes.iter().position(|class| class.contains(&expr));
    match (find(classes, a), find(classes, b)) {
        (Some(of_a), Some(of_b)) if of_a != of_b => {
            let moved = std::mem::take(&mut classes[of_a.max(of_b)]);
            classes[of_a.min(of_b)].extend(moved);
            of_a.min(of_b)
        }
        (Some(of_a), Some(_)) => of_a,
        (Some(of_a), None) => {
            classes[of_a].push(b);
            of_a
        }
        (None, Some(of_b)) => {
            classes[of_b].push(a);
            of_b
        }
        (None, None) => {
            classes.push(vec![a, b]);
            classes.len() - 1
        }
    }
}

/// The rows that `tree` makes on the way, those of its inputs not counted.
pub(super) fn cost(sizes: &Sizes, tree: &Tree) -> f64 {
    match tree {
        Tree::Input(_) => 0.0,
        Tree::Join(left, right) => sizes.of(tree.set()) + cost(sizes, left) + cost(sizes, right),
    }
}

/// The best tree that was found. `None` if some inputs have no condition with the others.
pub(super) fn search(sizes: &Sizes) -> Option<Tree> {
    let all = Set::MAX >> (Set::BITS as usize - sizes.inputs());
    if !sizes.connected(all) {
        return None;
    }
    if sizes.inputs() <= EVERY_MAX { every(sizes, all) } else { greedy(sizes) }
}

fn every(sizes: &Sizes, all: Set) -> Option<Tree> {
    let mut best: HashMap<Set, (f64, Tree)> =
        (0..sizes.inputs()).map(|at| (1 << at, (0.0, Tree::Input(at)))).collect();
    // A set comes after all of its parts, which are smaller numbers.
    for set in 1..=all {
        if set.count_ones() < 2 {
            continue;
        }
        let mut found: Option<(f64, Set)> = None;
        // Each pair of parts once: the first has the lowest input.
        let lowest = set & set.wrapping_neg();
        let mut part = (set - 1) & set;
        while part != 0 {
            let other = set & !part;
            if part & lowest != 0
                && let (Some((a, _)), Some((b, _))) = (best.get(&part), best.get(&other))
                && sizes.joined(part, other)
            {
                let rows = a + b;
                if found.is_none_or(|(least, _)| rows < least) {
                    found = Some((rows, part));
                }
            }
            part = (part - 1) & set;
        }
        if let Some((below, part)) = found {
            let (a, b) = (best[&part].1.clone(), best[&(set & !part)].1.clone());
            let tree = pair(sizes, a, b);
            best.insert(set, (below + sizes.of(set), tree));
        }
    }
    best.remove(&all).map(|(_, tree)| tree)
}

fn greedy(sizes: &Sizes) -> Option<Tree> {
    let mut parts: Vec<Tree> = (0..sizes.inputs()).map(Tree::Input).collect();
    while parts.len() > 1 {
        let pairs = (0..parts.len()).flat_map(|a| (a + 1..parts.len()).map(move |b| (a, b)));
        let (a, b) = pairs
            .filter(|(a, b)| sizes.joined(parts[*a].set(), parts[*b].set()))
            .map(|(a, b)| (sizes.of(parts[a].set() | parts[b].set()), (a, b)))
            .min_by(|x, y| x.0.total_cmp(&y.0))?
            .1;
        let second = parts.swap_remove(b);
        let first = std::mem::replace(&mut parts[a], Tree::Input(0));
        parts[a] = pair(sizes, first, second);
    }
    parts.pop()
}

/// The join of both, the smaller first: it is the one that is kept in memory.
fn pair(sizes: &Sizes, a: Tree, b: Tree) -> Tree {
    let (a, b) = if sizes.of(b.set()) < sizes.of(a.set()) { (b, a) } else { (a, b) };
    Tree::Join(Box::new(a), Box::new(b))
}
