//! What is seen of one plan while it runs: its scans in the coordinator, and what arrives from tasks on workers.
//!
//! The plan is made inside a lane, and made again where the lane changes. A rule at the end of the physical optimizer sees
//! each, and the last one is the one that runs.

use std::sync::Arc;

use datafusion::config::ConfigOptions;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use parking_lot::Mutex;
use skep_cluster::exchange::Arrivals;
use skep_engine::progress::{Scan, scans};

/// What is seen of one plan.
#[derive(Debug, Default)]
pub(crate) struct Sight {
    scans: Mutex<Vec<Scan>>,
    pub(crate) arrivals: Arc<Arrivals>,
}

impl Sight {
    /// The share of the scans that was read, by their bytes. `None` if the plan that runs here has none.
    pub(crate) fn scanned(&self) -> Option<f64> {
        self.share(self.read())
    }

    /// Bytes of its scans that were read.
    pub(crate) fn read(&self) -> f64 {
        self.scans.lock().iter().map(Scan::read).sum()
    }

    /// Bytes that its scans have to read.
    pub(crate) fn bytes(&self) -> u64 {
        self.scans.lock().iter().map(Scan::bytes).sum()
    }

    /// Which share of the plan's scans `read` bytes are. `None` if it has none.
    pub(crate) fn share(&self, read: f64) -> Option<f64> {
        let all = self.bytes();
        (all > 0).then(|| (read / all as f64).clamp(0.0, 1.0))
    }
}

/// Notes the scans of each plan that is made.
#[derive(Debug)]
pub(crate) struct Observe(pub(crate) Arc<Sight>);

impl PhysicalOptimizerRule for Observe {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _: &ConfigOptions,
    ) -> datafusion::error::Result<Arc<dyn ExecutionPlan>> {
        *self.0.scans.lock() = scans(&plan)?;
        Ok(plan)
    }

    fn name(&self) -> &str {
        "observe"
    }

    fn schema_check(&self) -> bool {
        true
    }
}
