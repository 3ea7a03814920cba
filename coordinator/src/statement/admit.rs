//! What a plan has to pass before it runs: its group's limit of bytes, its turn, its memory.

use std::sync::Arc;

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::execution::SessionStateBuilder;
use datafusion::logical_expr::LogicalPlan;
use skep_common::{ByteSize, Error, Result};
use skep_engine::error::from_datafusion;
use skep_engine::memory::Share;
use skep_engine::names::INFORMATION_SCHEMA;
use skep_engine::runtime;
use skep_engine::write::scanned_bytes;

use super::Run;
use crate::admission::Group;
use crate::coordinator::Shared;
use crate::lanes::Job;
use crate::queries::{Observe, Sight};
use crate::system;

impl Run {
    /// Waits for the statement's turn, unless it only looks. The plan with the memory that it may take, and what is seen of it
    /// while it runs.
    ///
    /// # Errors
    /// [`Kind::Exhausted`](skep_common::Kind::Exhausted) if it would scan too much, too many wait, or it waited too long;
    /// [`Kind::Cancelled`](skep_common::Kind::Cancelled) if it was killed in line.
    pub(super) async fn admit(&self, mut job: Job) -> Result<(Job, Arc<Sight>)> {
        let name = self.settings.group();
        let group = self.shared.admission.group(name)?;
        if !self.looks(&job) {
            if let Some(most) = group.scan_bytes_max {
                check_scan(&job, name, most).await?;
            }
            self.watch.turn(&self.shared.admission, name, &group).await?;
        }
        let all = &self.shared.environment.runtime;
        let memory = &self.shared.environment.memory;
        let share = Share { group: name.to_owned(), percent: group.memory_percent };
        let (runtime, pool) = runtime::of_statement(all, memory, &self.query.to_string(), &share);
        self.watch.memory(&pool);
        let sight = Arc::<Sight>::default();
        let mut builder = SessionStateBuilder::new_from_existing(job.state).with_runtime_env(runtime);
        let config = builder.config().get_or_insert_default();
        config.set_extension(Arc::clone(&sight.arrivals));
        // The workers keep to it too.
        config.set_extension(Arc::new(share));
        job.state = builder.with_physical_optimizer_rule(Arc::new(Observe(Arc::clone(&sight)))).build();
        Ok((job, sight))
    }

    /// For EXPLAIN: the group in which a statement would run. `job` is its plan, absent for one that changes rows.
    pub(super) fn shown_group(&self, job: Option<&Job>) -> Result<String> {
        if job.is_some_and(|job| self.looks(job)) {
            return Ok("none: it reads no table, and never waits".to_owned());
        }
        let name = self.settings.group();
        let Group { concurrency, queue, queue_timeout, run_timeout, scan_bytes_max, memory_percent } =
            self.shared.admission.group(name)?;
        let mut text = format!(
            "{name}: {concurrency} run at a time, {queue} wait up to {queue_timeout:?}, memory {memory_percent} %"
        );
        if let Some(most) = run_timeout {
            text += &format!(", at most {most:?}");
        }
        if let Some(most) = scan_bytes_max {
            text += &format!(", at most {most} read");
        }
        Ok(text)
    }

    /// Whether a plan reads nothing but what the coordinator knows.
    fn looks(&self, job: &Job) -> bool {
        job.write.is_none() && looks(&self.shared, &job.logical, self.settings.schema())
    }
}

fn looks(shared: &Shared, plan: &LogicalPlan, default: &str) -> bool {
    let mut only = true;
    let visited = plan.apply_with_subqueries(|node| {
        only &= match node {
            LogicalPlan::TableScan(scan) => match scan.table_name.schema() {
                Some(schema) => [system::SCHEMA, INFORMATION_SCHEMA].contains(&schema),
                None if default == system::SCHEMA => {
                    system::schemas(shared).iter().any(|(name, _)| *name == scan.table_name.table())
                }
                None => false,
            },
            // They may make rows out of nothing.
            LogicalPlan::Unnest(_) | LogicalPlan::RecursiveQuery(_) | LogicalPlan::Extension(_) => false,
            _ => true,
        };
        Ok(if only { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
    });
    only && visited.is_ok()
}

/// Refuses a plan that would read more than `most`.
async fn check_scan(job: &Job, group: &str, most: ByteSize) -> Result<()> {
    let plan = job.state.create_physical_plan(&job.logical).await.map_err(from_datafusion)?;
    let bytes = ByteSize(scanned_bytes(&plan));
    if bytes <= most {
        return Ok(());
    }
    Err(Error::exhausted(format!("the statement would read {bytes}, and group '{group}' may read {most}")).hint(
        format!(
            "read less: name fewer partitions, or filter by a column that tables are ordered by; or SET skep.group to another, \
             or raise scan_bytes_max of [coordinator.groups.{group}]"
        ),
    ))
}
