//! Plans as text: stages, tasks, workers, operators.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::physical_plan::{ExecutionPlan, SendableRecordBatchStream, displayable, execute_stream};
use datafusion_distributed::{
    DistributedExec, DistributedLeafExec, DistributedMetricsFormat, NetworkBoundaryExt,
};
use futures::TryStreamExt;
use skep_cluster::failure::from_datafusion;
use skep_common::Result;
use skep_engine::guard::guard;
use skep_store::NodeInfo;

use super::durable::{Durable, Shaped, stages as durable_stages};
use super::leaf::file_scan;
use super::plan::{Planned, Staging, choose, durable_plan, staged, whole};
use super::route::{Place, places};
use super::{Job, Lane, Lanes, Ran};

pub(super) async fn explain(lanes: &Lanes, job: &Job) -> Result<String> {
    Ok(plan(lanes, job, &Ran::default(), false).await?.render())
}

/// A plan and where it would run.
enum Placed {
    /// On one node, and why not on the workers; or in stages on the workers, all at once.
    Here(Planned, Vec<NodeInfo>, Option<String>),
    /// Stage by stage.
    Durable(Box<Durable>, Option<String>),
}

impl Placed {
    fn render(&self) -> String {
        match self {
            Placed::Here(planned, workers, reason) => render(&planned.plan, workers, reason.as_deref()),
            Placed::Durable(durable, why) => render_durable(durable, why.as_deref()),
        }
    }
}

/// The plan `job` would run now, and where.
async fn plan(lanes: &Lanes, job: &Job, ran: &Ran, metrics: bool) -> Result<Placed> {
    let inner = &lanes.0;
    let workers = inner.nodes.live();
    let mut reason = None;
    let (lane, why) = match job.lane {
        Some(lane) => (lane, None),
        None => {
            let (lane, why) = choose(inner, &whole(job).await?.plan, job.write.is_some(), &workers);
            (lane, Some(format!("auto: {why}")))
        }
    };
    if lane == Lane::Local {
        reason.clone_from(&why);
    }
    match lane {
        Lane::Local => {}
        Lane::Pipelined => {
            ran.begin(lane, None);
            match staged(inner, job, workers.clone(), ran, metrics).await? {
                Staging::Staged(planned) => return Ok(Placed::Here(planned, workers, why)),
                Staging::Whole(why) => reason = Some(why),
            }
        }
        Lane::Durable => match durable_plan(lanes, job, &workers).await? {
            Shaped::Durable(durable) => return Ok(Placed::Durable(durable, why)),
            Shaped::Whole(why) => reason = Some(why),
        },
    }
    ran.local(reason.clone());
    Ok(Placed::Here(whole(job).await?, Vec::new(), reason))
}

/// The first line: the lane, what more is to say of it, and why it is this one.
fn lane_line(text: &mut String, lane: &str, why: Option<&str>) {
    match why {
        Some(why) => line(text, 0, &format!("lane: {lane} ({why})")),
        None => line(text, 0, &format!("lane: {lane}")),
    }
}

fn render_durable(durable: &Durable, why: Option<&str>) -> String {
    let mut text = String::new();
    lane_line(&mut text, "durable", why);
    match durable_stages(durable) {
        Ok(stages) => {
            for stage in stages.into_iter().rev() {
                let word = if stage.tasks == 1 { "task" } else { "tasks" };
                line(&mut text, 0, &format!("stage {}: {} {word}", stage.number, stage.tasks));
                for below in stage.plan.children() {
                    operators(&mut text, below, 1);
                }
            }
        }
        Err(error) => line(&mut text, 1, &error.report()),
    }
    text
}

fn render(plan: &Arc<dyn ExecutionPlan>, workers: &[NodeInfo], reason: Option<&str>) -> String {
    let mut text = String::new();
    let Some(staged) = plan.downcast_ref::<DistributedExec>() else {
        lane_line(&mut text, "local", reason);
        text.push_str(&displayable(plan.as_ref()).indent(false).to_string());
        return text;
    };
    lane_line(&mut text, &format!("pipelined, {} workers", workers.len()), reason);
    line(&mut text, 0, "coordinator");
    for child in staged.children() {
        operators(&mut text, child, 1);
    }
    for (number, (head, tasks)) in stages(plan).into_iter().rev() {
        let mut names: Vec<&str> = Vec::with_capacity(tasks);
        for place in places(&head, tasks, workers, number) {
            match place {
                Place::Worker(position) => names.push(workers[position].id.as_str()),
                Place::Coordinator => names.push("the coordinator"),
            }
        }
        let word = if tasks == 1 { "task" } else { "tasks" };
        line(&mut text, 0, &format!("stage {number}: {tasks} {word} on {}", names.join(", ")));
        operators(&mut text, &head, 1);
    }
    text
}

/// The stages of a plan by number: what stands on top, and how many tasks.
fn stages(plan: &Arc<dyn ExecutionPlan>) -> BTreeMap<usize, (Arc<dyn ExecutionPlan>, usize)> {
    let mut found = BTreeMap::new();
    // The closure never fails.
    let _ = plan.apply(|node| {
        if let Some(boundary) = node.as_network_boundary()
            && let Some(head) = boundary.input_stage().local_plan()
        {
            let stage = boundary.input_stage();
            found.insert(stage.num(), (Arc::clone(head), stage.task_count()));
        }
        Ok(TreeNodeRecursion::Continue)
    });
    found
}

fn operators(text: &mut String, plan: &Arc<dyn ExecutionPlan>, depth: usize) {
    if let Some(boundary) = plan.as_network_boundary() {
        line(text, depth, &format!("{} <- stage {}", plan.name(), boundary.input_stage().num()));
        return;
    }
    if let Some(leaf) = plan.downcast_ref::<DistributedLeafExec>() {
        line(text, depth, displayable(leaf.original().as_ref()).one_line().to_string().trim_end());
        let shares: Vec<_> = leaf.variants().iter().map(share).collect();
        if shares.iter().any(|share| !share.is_empty()) {
            line(text, depth + 1, &format!("tasks read {}", shares.join("; ")));
        }
        return;
    }
    // They change nothing that a reader of plans wants to know.
    if ["GuardExec", "KnownExec"].contains(&plan.name()) {
        for child in plan.children() {
            operators(text, child, depth);
        }
        return;
    }
    line(text, depth, displayable(plan.as_ref()).one_line().to_string().trim_end());
    for child in plan.children() {
        operators(text, child, depth + 1);
    }
}

fn share(variant: &Arc<dyn ExecutionPlan>) -> String {
    let Some(scan) = file_scan(variant) else { return String::new() };
    let files = scan.file_groups.iter().flat_map(|group| group.files());
    let (count, bytes) =
        files.fold((0, 0), |(count, bytes), file| (count + 1, bytes + file.effective_size()));
    format!("{count} parts, {}", skep_common::ByteSize(bytes))
}

fn line(text: &mut String, depth: usize, what: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{:indent$}{what}", "", indent = depth * 2);
}

pub(super) async fn analyze(lanes: &Lanes, job: Job) -> Result<String> {
    let ran = Ran::default();
    let placed = plan(lanes, &job, &ran, true).await?;
    let (planned, workers, reason) = match placed {
        Placed::Here(planned, workers, reason) => (planned, workers, reason),
        Placed::Durable(durable, why) => return analyze_durable(lanes, job, &durable, why.as_deref()).await,
    };
    let plan = Arc::clone(&planned.plan);
    let stream = execute_stream(planned.plan, planned.context).map_err(|e| from_datafusion(&e))?;
    let rows = count(guard(stream)).await?;
    let measured =
        datafusion_distributed::explain_analyze(Arc::clone(&plan), DistributedMetricsFormat::Aggregated);
    let measured = match tokio::time::timeout(lanes.0.config.metrics_timeout, measured).await {
        Ok(text) => text.map_err(|e| from_datafusion(&e))?,
        // A task that was planned and never asked for rows has nothing to report, and never does.
        Err(_) => {
            let mut text = render(&plan, &workers, reason.as_deref());
            line(&mut text, 0, "(not every task reported what it measured)");
            text
        }
    };
    let mut text = String::new();
    line(&mut text, 0, &ran.summary());
    line(&mut text, 0, &format!("rows: {rows}"));
    text.push_str(&measured);
    Ok(text)
}

async fn analyze_durable(lanes: &Lanes, job: Job, durable: &Durable, why: Option<&str>) -> Result<String> {
    let running = lanes.run(job).await?;
    let rows = count(running.stream).await?;
    let mut text = String::new();
    line(&mut text, 0, &running.ran.summary());
    line(&mut text, 0, &format!("rows: {rows}"));
    for stage in running.ran.measured() {
        line(&mut text, 0, &stage.to_string());
    }
    text.push_str(&render_durable(durable, why));
    Ok(text)
}

async fn count(stream: SendableRecordBatchStream) -> Result<usize> {
    let rows = stream.try_fold(0usize, |rows, batch| async move { Ok(rows + batch.num_rows()) });
    rows.await.map_err(|e| from_datafusion(&e))
}
