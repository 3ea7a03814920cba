//! Little memory: what does not fit is spilled, and the query ends.

use std::sync::Arc;
use std::time::Duration;

use datafusion::common::Result;
use datafusion::execution::memory_pool::{GreedyMemoryPool, MemoryPool, MemoryReservation};
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion::prelude::{SessionConfig, SessionContext};
use skep_engine::memory::Memory;
use skep_engine::runtime;
use skep_engine::settings::Settings;
use skep_store::Stores;

const ATTEMPTS: usize = 8;
const PATIENCE: Duration = Duration::from_secs(60);

/// One budget for whoever comes first, except that small claims are always granted: a grouping that has just spilled cannot go
/// on without the little it starts again with, and DataFusion fails it when a neighbour took the rest.
#[derive(Debug)]
struct FirstCome(GreedyMemoryPool);

const SMALL: usize = 64 << 10;

impl std::fmt::Display for FirstCome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "first come: {}", self.0)
    }
}

impl MemoryPool for FirstCome {
    fn name(&self) -> &str {
        "first_come"
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.0.grow(reservation, additional);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.0.shrink(reservation, shrink);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        self.0.try_grow(reservation, additional).or_else(|refused| {
            let exchange = reservation.consumer().name().starts_with("RepartitionExec");
            if exchange || reservation.size() + additional > SMALL {
                return Err(refused);
            }
            self.0.grow(reservation, additional);
            Ok(())
        })
    }

    fn reserved(&self) -> usize {
        self.0.reserved()
    }
}

/// How often the exchanges within `plan` spilled.
fn spills(plan: &Arc<dyn ExecutionPlan>) -> usize {
    let own = if plan.is::<RepartitionExec>() { plan.metrics().and_then(|m| m.spill_count()) } else { None };
    own.unwrap_or(0) + plan.children().into_iter().map(spills).sum::<usize>()
}

/// DataFusion's exchange within a node waits for ever when two of its inputs have spilled into files that are still open and
/// the older one has no more to read (apache/datafusion 24883). Files of one batch are never open when they are read.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_grouping_with_little_memory_ends() {
    let folder = tempfile::tempdir().unwrap();
    let mut spilled = 0;
    for attempt in 0..ATTEMPTS {
        let memory = Memory::over(Arc::new(FirstCome(GreedyMemoryPool::new(4 << 20))), None);
        let runtime = runtime::build(&memory, &folder.path().join("spill"), &Stores::new()).unwrap();
        let mut settings = Settings::default();
        settings.set("skep.batch_size", Some("64")).unwrap();
        let config = settings.apply(SessionConfig::new().with_target_partitions(2));
        let context = SessionContext::new_with_config_rt(config, runtime);
        let make = "CREATE TABLE visits AS SELECT v % 11 AS place, sha256(CAST(v % 4001 AS VARCHAR)) AS who \
                    FROM generate_series(1, 400000) AS s(v)";
        context.sql(make).await.unwrap().collect().await.unwrap();
        let sql = "SELECT place, count(DISTINCT who) AS n FROM visits GROUP BY place";
        let plan = context.sql(sql).await.unwrap().create_physical_plan().await.unwrap();
        let rows = tokio::time::timeout(PATIENCE, collect(Arc::clone(&plan), context.task_ctx())).await;
        let rows = rows.unwrap_or_else(|_| panic!("attempt {attempt} does not end"));
        let rows: usize = rows.unwrap().iter().map(|batch| batch.num_rows()).sum();
        assert_eq!(rows, 11);
        spilled += spills(&plan);
    }
    assert!(spilled > 0, "nothing was spilled: the test shows nothing");
}
