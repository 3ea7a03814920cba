//! What one query has measured so far.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::state::Query;
use crate::lanes::Ran;

/// Plans of one statement that are remembered, the latest. OPTIMIZE runs one for each group of files.
const PLANS_MAX: usize = 64;

/// What a query measures while it runs. Written by the query, read by whoever looks.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    /// Whether it returns rows.
    reads: AtomicBool,
    rows: AtomicU64,
    bytes: AtomicU64,
    /// Most memory held at a time.
    most: AtomicUsize,
    plans: Mutex<Plans>,
}

#[derive(Debug, Default)]
struct Plans {
    /// How many there were.
    count: usize,
    /// The latest.
    ran: Vec<Ran>,
}

impl Meter {
    /// Rows are about to leave.
    pub(crate) fn open(&self) {
        self.reads.store(true, Ordering::Relaxed);
    }

    /// Rows left.
    pub(crate) fn count(&self, rows: usize, bytes: usize) {
        self.rows.fetch_add(rows as u64, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Its operators hold so much memory.
    pub(crate) fn held(&self, bytes: usize) {
        self.most.fetch_max(bytes, Ordering::Relaxed);
    }

    /// Most memory that its operators held at a time, if they held any.
    pub(crate) fn most(&self) -> Option<u64> {
        Some(self.most.load(Ordering::Relaxed) as u64).filter(|most| *most > 0)
    }

    /// A plan of the statement started.
    pub(crate) fn ran(&self, ran: &Ran) {
        let mut plans = self.plans.lock();
        plans.count += 1;
        if plans.ran.len() == PLANS_MAX {
            plans.ran.remove(0);
        }
        plans.ran.push(ran.clone());
    }

    /// The plans, numbered from 1.
    pub(crate) fn plans(&self) -> Vec<(usize, Ran)> {
        let plans = self.plans.lock();
        let first = plans.count - plans.ran.len() + 1;
        plans.ran.iter().cloned().enumerate().map(|(at, ran)| (first + at, ran)).collect()
    }

    /// Writes what is known into `query`.
    pub(crate) fn read(&self, query: &mut Query) {
        if self.reads.load(Ordering::Relaxed) {
            query.rows = Some(self.rows.load(Ordering::Relaxed));
            query.bytes = Some(self.bytes.load(Ordering::Relaxed));
        }
        query.memory = self.most();
        let plans = self.plans();
        if let Some((_, last)) = plans.last() {
            query.lane = last.lane().map(|lane| lane.name().to_owned());
            query.attempts = plans.iter().map(|(_, ran)| ran.attempts() as u64).max();
        }
    }
}
