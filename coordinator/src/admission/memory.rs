//! The memory of one statement: counted, and at most its group's share of what its node has.
//!
//! ```text
//! operators --> QueryPool --its share, fairly between those that can spill--> the pool of the process
//! ```
//!
//! The statement that wants more than its share fails, or spills, and no other.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use datafusion::error::DataFusionError;
use datafusion::execution::memory_pool::{
    FairSpillPool, MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation,
};
use skep_common::{ByteSize, Error};

use crate::queries::Meter;

/// The pool of one statement.
#[derive(Debug)]
pub(crate) struct QueryPool {
    shared: Arc<dyn MemoryPool>,
    share: Option<Share>,
    meter: Arc<Meter>,
    held: AtomicUsize,
    group: String,
}

#[derive(Debug)]
struct Share {
    pool: FairSpillPool,
    limit: usize,
    percent: u8,
    of: usize,
}

impl QueryPool {
    /// A pool of `percent` of `shared`, whose most is noted in `meter`. A pool without a limit has no shares.
    pub(crate) fn new(shared: Arc<dyn MemoryPool>, group: &str, percent: u8, meter: Arc<Meter>) -> Self {
        let share = match shared.memory_limit() {
            MemoryLimit::Finite(of) if percent < 100 => {
                let limit = usize::try_from(of as u128 * u128::from(percent) / 100).unwrap_or(of);
                Some(Share { pool: FairSpillPool::new(limit), limit, percent, of })
            }
            _ => None,
        };
        Self { shared, share, meter, held: AtomicUsize::new(0), group: group.to_owned() }
    }

    fn took(&self, bytes: usize) {
        let held = self.held.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.meter.held(held);
    }

    /// What the operator has and wants.
    fn wants(reservation: &MemoryReservation, bytes: usize) -> String {
        let size = |bytes: usize| ByteSize(bytes as u64);
        let name = reservation.consumer().name();
        format!("operator '{name}' holds {} and needs {} more", size(reservation.size()), size(bytes))
    }

    fn over_share(&self, share: &Share, reservation: &MemoryReservation, bytes: usize) -> DataFusionError {
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
        if let Some(share) = &self.share {
            share.pool.register(consumer);
        }
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.shared.unregister(consumer);
        if let Some(share) = &self.share {
            share.pool.unregister(consumer);
        }
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.shared.grow(reservation, additional);
        if let Some(share) = &self.share {
            share.pool.grow(reservation, additional);
        }
        self.took(additional);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.held.fetch_sub(shrink, Ordering::Relaxed);
        if let Some(share) = &self.share {
            share.pool.shrink(reservation, shrink);
        }
        self.shared.shrink(reservation, shrink);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<(), DataFusionError> {
        if let Some(share) = &self.share
            && share.pool.try_grow(reservation, additional).is_err()
        {
            return Err(self.over_share(share, reservation, additional));
        }
        if let Err(error) = self.shared.try_grow(reservation, additional) {
            if let Some(share) = &self.share {
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
        match &self.share {
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
    use skep_engine::error::from_datafusion;

    use super::*;

    const MIB: usize = 1 << 20;

    fn pool(shared: &Arc<dyn MemoryPool>, percent: u8) -> (Arc<dyn MemoryPool>, Arc<Meter>) {
        let meter = Arc::<Meter>::default();
        let pool = QueryPool::new(Arc::clone(shared), "etl", percent, Arc::clone(&meter));
        (Arc::new(pool), meter)
    }

    fn shared(bytes: usize) -> Arc<dyn MemoryPool> {
        Arc::new(FairSpillPool::new(bytes))
    }

    #[test]
    fn a_query_over_its_share_fails_and_others_live() {
        let shared = shared(100 * MIB);
        let ((one, meter), (two, _)) = (pool(&shared, 20), pool(&shared, 20));
        let join = MemoryConsumer::new("HashJoinInput").register(&one);
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
        MemoryConsumer::new("HashJoinInput").register(&two).try_grow(20 * MIB).unwrap();
        drop(join);
        assert_eq!((one.reserved(), shared.reserved()), (0, 0));
        assert_eq!(meter.most(), Some(15 * MIB as u64));
    }

    #[test]
    fn what_is_spent_by_all_names_the_operator_too() {
        let shared = shared(10 * MIB);
        let ((one, _), (two, _)) = (pool(&shared, 100), pool(&shared, 90));
        let held = MemoryConsumer::new("a").register(&one);
        held.try_grow(8 * MIB).unwrap();
        let join = MemoryConsumer::new("HashJoinInput").register(&two);
        let error = from_datafusion(join.try_grow(6 * MIB).unwrap_err());
        assert!(error.message().contains("operator 'HashJoinInput'"), "{error:?}");
        assert!(error.message().contains("hold 8 MiB of 10 MiB, this one 0 B"), "{error:?}");
        // What was refused is not taken from its share.
        held.free();
        join.try_grow(9 * MIB).unwrap();
    }

    #[test]
    fn operators_that_spill_share_fairly() {
        let shared = shared(100 * MIB);
        let (pool, _) = pool(&shared, 10);
        let sort = |name: &str| MemoryConsumer::new(name).with_can_spill(true).register(&pool);
        let (one, two) = (sort("one"), sort("two"));
        one.try_grow(5 * MIB).unwrap();
        assert!(one.try_grow(MIB).is_err());
        two.try_grow(5 * MIB).unwrap();
    }
}
