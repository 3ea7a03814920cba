//! The memory of a process, and of each statement in it: counted, bounded, and compared with what is really allocated.
//!
//! ```text
//! operators --> QueryPool --its share, fairly between those that can spill--> the pool of the process
//!                   \--> what the whole process has allocated, pools or not
//! ```
//!
//! # Guarantees
//! - All tasks of a statement in one process share one [`QueryPool`], in whatever lane they run.
//! - The statement that wants more than its share fails, or spills, and no other.
//! - A process that has allocated more than its limit makes operators spill that can. Above its last limit it ends the
//!   statement that holds the most, with an error that says so.
//!
//! # Not guaranteed
//! Nobody knows which statement allocated what no pool counts: the one that is ended is the one whose operators hold the
//! most, and the latest of those that hold the same.
//!
//! # Not here
//! Who may run at all, and with which share (`skep-coordinator`'s admission); counting allocations (the binary).

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use datafusion::error::DataFusionError;
use datafusion::execution::memory_pool::{
    FairSpillPool, MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation, TrackConsumersPool,
    UnboundedMemoryPool,
};
use parking_lot::Mutex;
use skep_common::task;
use skep_common::{ByteSize, Error};
use tokio_util::sync::CancellationToken;

/// Consumers that an error about spent memory names.
const NAMED_CONSUMERS: std::num::NonZeroUsize = std::num::NonZeroUsize::MIN.saturating_add(2);
/// What an operator that can spill may have however much is allocated: with nothing it could not even spill.
const LITTLE: usize = 4 << 20;
/// How often what is allocated is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long a statement that was ended may take to give its memory back before another is ended.
const GRACE: Duration = Duration::from_secs(2);

/// What a process has really allocated, and how much that may be.
#[derive(Debug, Clone, Copy)]
pub struct Allocations {
    /// Bytes allocated now.
    pub now: fn() -> usize,
    /// From here on operators that can spill do.
    pub limit: ByteSize,
}

impl Allocations {
    /// From here on statements are ended: an eighth above the limit.
    fn last(&self) -> usize {
        let limit = self.limit.as_usize();
        limit.saturating_add(limit / 8)
    }
}

/// What a statement may take of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// Its resource group, as errors name it.
    pub group: String,
    /// Percent of the budget. 1 to 100.
    pub percent: u8,
}

/// The memory of one process. Cheap to clone.
#[derive(Clone)]
pub struct Memory(Arc<Process>);

struct Process {
    pool: Arc<dyn MemoryPool>,
    allocations: Option<Allocations>,
    /// By the id of the statement.
    queries: Mutex<HashMap<String, Weak<QueryPool>>>,
    begun: AtomicU64,
}

impl Memory {
    /// A budget that the operators of every lane in the process share: those that can spill get fair shares of it.
    pub fn new(budget: ByteSize, allocations: Option<Allocations>) -> Self {
        let pool = TrackConsumersPool::new(FairSpillPool::new(budget.as_usize()), NAMED_CONSUMERS);
        Self::over(Arc::new(pool), allocations)
    }

    /// As [`Memory::new`], with a pool that is there.
    pub fn over(pool: Arc<dyn MemoryPool>, allocations: Option<Allocations>) -> Self {
        Self(Arc::new(Process { pool, allocations, queries: Mutex::default(), begun: AtomicU64::new(0) }))
    }

    /// What all statements share.
    pub fn pool(&self) -> Arc<dyn MemoryPool> {
        Arc::clone(&self.0.pool)
    }

    /// The budget of all statements together, if there is one.
    pub fn budget(&self) -> Option<u64> {
        match self.0.pool.memory_limit() {
            MemoryLimit::Finite(bytes) => Some(bytes as u64),
            _ => None,
        }
    }

    /// The memory of the statement `id`. It is there as long as somebody holds it; who asks first says what it may take.
    pub fn query(&self, id: &str, share: &Share) -> Arc<QueryPool> {
        let mut queries = self.0.queries.lock();
        if let Some(pool) = queries.get(id).and_then(Weak::upgrade) {
            return pool;
        }
        queries.retain(|_, pool| pool.strong_count() > 0);
        let number = self.0.begun.fetch_add(1, Ordering::Relaxed);
        let pool = Arc::new(QueryPool::new(&self.0, share, number));
        queries.insert(id.to_owned(), Arc::downgrade(&pool));
        pool
    }

    /// The statements that hold memory or held some, with the most at a time.
    pub fn held(&self) -> Vec<(String, u64)> {
        let queries = self.0.queries.lock();
        let alive = queries.iter().filter_map(|(id, pool)| Some((id.clone(), pool.upgrade()?.most() as u64)));
        alive.filter(|(_, most)| *most > 0).collect()
    }

    /// Looks at what is allocated, as long as somebody holds this. Call it once in a process.
    pub fn watch(&self) {
        let Some(allocations) = self.0.allocations else { return };
        let process = Arc::downgrade(&self.0);
        let looking = task::spawn("watch allocations", async move {
            loop {
                tokio::time::sleep(LOOK_EVERY).await;
                let Some(process) = process.upgrade() else { return };
                if Memory(process).relieve(allocations) {
                    tokio::time::sleep(GRACE).await;
                }
            }
        });
        looking.detach();
    }

    /// Ends the statement that holds the most if the process is over its last limit.
    fn relieve(&self, allocations: Allocations) -> bool {
        let now = (allocations.now)();
        if now <= allocations.last() {
            return false;
        }
        let alive: Vec<_> = self.0.queries.lock().values().filter_map(Weak::upgrade).collect();
        let going = alive.into_iter().filter(|pool| !pool.ended.is_cancelled());
        let Some(largest) = going.max_by_key(|pool| (pool.reserved(), pool.number)) else { return false };
        let size = |bytes: usize| ByteSize(bytes as u64);
        let error = Error::exhausted(format!(
            "the process has allocated {}, more than the {} that it may; this statement was ended because its operators hold \
             the most, {}",
            size(now),
            allocations.limit,
            size(largest.reserved())
        ))
        .hint(
            "lower skep.batch_size or skep.partitions, let fewer statements run at once, or start the node with more \
             --memory-limit (in a configuration file: memory_limit)",
        );
        tracing::warn!(error = error.message(), group = largest.group, "a statement is ended");
        largest.end(error);
        true
    }
}

impl Default for Memory {
    /// Without a bound.
    fn default() -> Self {
        Self::over(Arc::new(UnboundedMemoryPool::default()), None)
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").field("budget", &self.budget()).finish_non_exhaustive()
    }
}

/// The pool of one statement.
#[derive(Debug)]
pub struct QueryPool {
    shared: Arc<dyn MemoryPool>,
    allocations: Option<Allocations>,
    part: Option<Part>,
    held: AtomicUsize,
    most: AtomicUsize,
    group: String,
    /// Statements begun in the process before this one.
    number: u64,
    ended: CancellationToken,
    why: OnceLock<Error>,
}

#[derive(Debug)]
struct Part {
    pool: FairSpillPool,
    limit: usize,
    percent: u8,
    of: usize,
}

impl QueryPool {
    /// A pool without a limit has no shares.
    fn new(process: &Process, share: &Share, number: u64) -> Self {
        let percent = share.percent;
        let part = match process.pool.memory_limit() {
            MemoryLimit::Finite(of) if percent < 100 => {
                let limit = usize::try_from(of as u128 * u128::from(percent) / 100).unwrap_or(of);
                Some(Part { pool: FairSpillPool::new(limit), limit, percent, of })
            }
            _ => None,
        };
        Self {
            shared: Arc::clone(&process.pool),
            allocations: process.allocations,
            part,
            held: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            group: share.group.clone(),
            number,
            ended: CancellationToken::new(),
            why: OnceLock::new(),
        }
    }

    /// Most memory that its operators held at a time.
    pub fn most(&self) -> usize {
        self.most.load(Ordering::Relaxed)
    }

    fn end(&self, error: Error) {
        // The first reason counts.
        let _ = self.why.set(error);
        self.ended.cancel();
    }

    /// Waits until the statement has to end because of its memory, and says why.
    pub async fn ended(&self) -> Error {
        self.ended.cancelled().await;
        self.why.get().cloned().unwrap_or_else(|| Error::exhausted("the process ran out of memory"))
    }

    fn took(&self, bytes: usize) {
        let held = self.held.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.most.fetch_max(held, Ordering::Relaxed);
    }

    /// What the operator has and wants.
    fn wants(reservation: &MemoryReservation, bytes: usize) -> String {
        let size = |bytes: usize| ByteSize(bytes as u64);
        let name = reservation.consumer().name();
        format!("operator '{name}' holds {} and needs {} more", size(reservation.size()), size(bytes))
    }

    fn over_share(&self, share: &Part, reservation: &MemoryReservation, bytes: usize) -> DataFusionError {
        let size = |bytes: usize| ByteSize(bytes as u64);
        let (wants, group) = (Self::wants(reservation, bytes), &self.group);
        let held = self.held.load(Ordering::Relaxed);
        exhausted(
            &Error::exhausted(format!(
                "{wants}, and the statement holds {} of the {} that one of group '{group}' may take",
                size(held),
                size(share.limit)
            ))
            .hint(format!(
                "raise memory_percent of [coordinator.groups.{group}] (now {} % of {}), SET skep.group to another, or lower \
                 skep.partitions",
                share.percent,
                size(share.of)
            )),
        )
    }

    fn over_all(
        &self,
        reservation: &MemoryReservation,
        bytes: usize,
        cause: &DataFusionError,
    ) -> DataFusionError {
        let size = |bytes: usize| ByteSize(bytes as u64);
        let of = match self.shared.memory_limit() {
            MemoryLimit::Finite(of) => format!(" of {}", size(of)),
            _ => String::new(),
        };
        let (wants, held) = (Self::wants(reservation, bytes), self.held.load(Ordering::Relaxed));
        let all = self.shared.reserved();
        exhausted(
            &Error::exhausted(format!(
                "{wants}, and the node's statements hold {}{of}, this one {}",
                size(all),
                size(held)
            ))
            .hint(format!(
                "start the node with more --memory (in a configuration file: memory), lower skep.partitions, or let fewer run \
                 at once: concurrency of [coordinator.groups.{}]",
                self.group
            ))
            .source(cause.strip_backtrace()),
        )
    }

    /// Too much is allocated, whoever counts it.
    fn over_allocations(reservation: &MemoryReservation, bytes: usize, limit: ByteSize) -> DataFusionError {
        let wants = Self::wants(reservation, bytes);
        exhausted(
            &Error::exhausted(format!(
                "{wants}, and the process has allocated more than the {limit} that it may"
            ))
            .hint("let fewer statements run at once, or start the node with more --memory-limit"),
        )
    }
}

/// As operators want to see it, some of which spill then.
fn exhausted(error: &Error) -> DataFusionError {
    DataFusionError::ResourcesExhausted(error.encode())
}

impl MemoryPool for QueryPool {
    fn name(&self) -> &str {
        "query"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.shared.register(consumer);
        if let Some(share) = &self.part {
            share.pool.register(consumer);
        }
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.shared.unregister(consumer);
        if let Some(share) = &self.part {
            share.pool.unregister(consumer);
        }
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.shared.grow(reservation, additional);
        if let Some(share) = &self.part {
            share.pool.grow(reservation, additional);
        }
        self.took(additional);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.held.fetch_sub(shrink, Ordering::Relaxed);
        if let Some(share) = &self.part {
            share.pool.shrink(reservation, shrink);
        }
        self.shared.shrink(reservation, shrink);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<(), DataFusionError> {
        if let Some(allocations) = &self.allocations
            && reservation.consumer().can_spill()
            && reservation.size() >= LITTLE
            && (allocations.now)().saturating_add(additional) > allocations.limit.as_usize()
        {
            return Err(Self::over_allocations(reservation, additional, allocations.limit));
        }
        if let Some(share) = &self.part
            && share.pool.try_grow(reservation, additional).is_err()
        {
            return Err(self.over_share(share, reservation, additional));
        }
        if let Err(error) = self.shared.try_grow(reservation, additional) {
            if let Some(share) = &self.part {
                share.pool.shrink(reservation, additional);
            }
            return Err(self.over_all(reservation, additional, &error));
        }
        self.took(additional);
        Ok(())
    }

    fn reserved(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    fn memory_limit(&self) -> MemoryLimit {
        match &self.part {
            Some(share) => MemoryLimit::Finite(share.limit),
            None => self.shared.memory_limit(),
        }
    }
}

impl fmt::Display for QueryPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "query of group '{}' in {}", self.group, self.shared)
    }
}

#[cfg(test)]
mod tests {
    use skep_common::Kind;

    use super::*;
    use crate::error::from_datafusion;

    const MIB: usize = 1 << 20;

    fn memory(bytes: usize) -> Memory {
        Memory::over(Arc::new(FairSpillPool::new(bytes)), None)
    }

    fn share(percent: u8) -> Share {
        Share { group: "etl".to_owned(), percent }
    }

    fn register(pool: &Arc<QueryPool>, name: &str, spills: bool) -> MemoryReservation {
        let pool: Arc<dyn MemoryPool> = Arc::clone(pool) as _;
        MemoryConsumer::new(name).with_can_spill(spills).register(&pool)
    }

    #[test]
    fn a_query_over_its_share_fails_and_others_live() {
        let memory = memory(100 * MIB);
        let (one, two) = (memory.query("one", &share(20)), memory.query("two", &share(20)));
        let join = register(&one, "HashJoinInput", false);
        join.try_grow(15 * MIB).unwrap();
        let error = from_datafusion(join.try_grow(6 * MIB).unwrap_err());
        assert_eq!(error.kind(), Kind::Exhausted);
        assert_eq!(
            error.message(),
            "operator 'HashJoinInput' holds 15 MiB and needs 6 MiB more, and the statement holds 15 MiB of the 20 MiB that one \
             of group 'etl' may take"
        );
        assert!(
            error
                .hint_text()
                .unwrap()
                .contains("memory_percent of [coordinator.groups.etl] (now 20 % of 100 MiB)")
        );
        register(&two, "HashJoinInput", false).try_grow(20 * MIB).unwrap();
        drop(join);
        assert_eq!((one.reserved(), memory.pool().reserved()), (0, 0));
        assert_eq!(one.most(), 15 * MIB);
    }

    #[test]
    fn all_tasks_of_a_statement_share_one_pool() {
        let memory = memory(100 * MIB);
        let first = memory.query("one", &share(20));
        let held = register(&first, "task 1", false);
        held.try_grow(15 * MIB).unwrap();
        let second = memory.query("one", &share(20));
        assert!(Arc::ptr_eq(&first, &second));
        assert!(register(&second, "task 2", false).try_grow(6 * MIB).is_err());
        drop((first, second, held));
        // Nobody holds it: it is another one.
        assert_eq!(memory.query("one", &share(50)).most(), 0);
    }

    #[test]
    fn what_is_spent_by_all_names_the_operator_too() {
        let memory = memory(10 * MIB);
        let (one, two) = (memory.query("one", &share(100)), memory.query("two", &share(90)));
        let held = register(&one, "a", false);
        held.try_grow(8 * MIB).unwrap();
        let join = register(&two, "HashJoinInput", false);
        let error = from_datafusion(join.try_grow(6 * MIB).unwrap_err());
        assert!(error.message().contains("operator 'HashJoinInput'"), "{error:?}");
        assert!(error.message().contains("hold 8 MiB of 10 MiB, this one 0 B"), "{error:?}");
        // What was refused is not taken from its share.
        held.free();
        join.try_grow(9 * MIB).unwrap();
    }

    #[test]
    fn operators_that_spill_share_fairly() {
        let pool = memory(100 * MIB).query("one", &share(10));
        let (one, two) = (register(&pool, "one", true), register(&pool, "two", true));
        one.try_grow(5 * MIB).unwrap();
        assert!(one.try_grow(MIB).is_err());
        two.try_grow(5 * MIB).unwrap();
    }

    /// As a process that has allocated 95 MiB of the 90 MiB that it may.
    fn crowded(limit: u64) -> (Memory, Allocations) {
        let allocations = Allocations { now: || 95 * MIB, limit: ByteSize::mib(limit) };
        (Memory::over(Arc::new(FairSpillPool::new(1000 * MIB)), Some(allocations)), allocations)
    }

    #[test]
    fn what_no_pool_counts_makes_operators_spill() {
        let (memory, allocations) = crowded(90);
        let pool = memory.query("one", &share(100));
        let (sort, join) = (register(&pool, "sort", true), register(&pool, "join", false));
        sort.try_grow(LITTLE).unwrap();
        let error = from_datafusion(sort.try_grow(MIB).unwrap_err());
        assert!(error.message().contains("allocated more than the 90 MiB"), "{error:?}");
        join.try_grow(50 * MIB).unwrap();
        assert!(!memory.relieve(allocations), "not yet the last limit");
    }

    #[tokio::test]
    async fn over_its_last_limit_a_process_ends_the_largest_statement() {
        let (memory, allocations) = crowded(80);
        let (small, large) = (memory.query("small", &share(100)), memory.query("large", &share(100)));
        let (_a, b) = (register(&small, "a", false), register(&large, "b", false));
        b.try_grow(7 * MIB).unwrap();
        assert!(memory.relieve(allocations));
        let error = large.ended().await;
        assert_eq!(error.kind(), Kind::Exhausted);
        assert!(error.message().contains("has allocated 95 MiB, more than the 80 MiB"), "{error:?}");
        assert!(error.message().contains("hold the most, 7 MiB"), "{error:?}");
        assert!(!small.ended.is_cancelled());
        // The next one.
        assert!(memory.relieve(allocations));
        assert!(small.ended.is_cancelled() && !memory.relieve(allocations));
    }
}
