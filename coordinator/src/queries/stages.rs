//! `system.stages` and `system.tasks`: what the plans of queries in memory run where.
//!
//! Stage 0 is the part of a plan that runs in the coordinator, and returns the rows. What nobody measures is NULL.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use skep_common::Result;

use super::Queries;
use super::meter::Plan;
use super::state::{Entry, Query, State};
use crate::filled::{batch, filled};
use crate::lanes::Lane;
use crate::lanes::locality::Read;

/// One task, or several together.
#[derive(Debug, Clone, Default)]
pub(super) struct Line {
    query: String,
    pub(super) plan: u64,
    attempt: u64,
    pub(super) stage: u64,
    task: u64,
    pub(super) tasks: u64,
    lane: Option<String>,
    worker: Option<String>,
    pub(super) state: &'static str,
    pub(super) rows: Option<u64>,
    bytes: Option<u64>,
    read: Option<Read>,
    /// Of the tasks that scan data which lies on workers, those that run where it lies, and all.
    placed: Option<(u64, u64)>,
}

impl Line {
    /// What it reads that lies on its worker, and all that it reads: bytes, or tasks where these are not counted.
    pub(super) fn held(&self) -> Option<(f64, f64)> {
        let bytes = self.read.and_then(|read| read.near.map(|near| (near, read.bytes)));
        let (near, of) = bytes.or(self.placed)?;
        Some((near as f64, of as f64))
    }

    /// The share of what it reads that lies on its worker.
    fn locality(&self) -> Option<f64> {
        let (near, of) = self.held()?;
        (of > 0.0).then(|| near / of)
    }
}

/// The columns of `system.stages`.
pub(crate) fn stages_schema() -> SchemaRef {
    schema(&[("tasks", DataType::UInt64, false)])
}

/// The columns of `system.tasks`.
pub(crate) fn tasks_schema() -> SchemaRef {
    schema(&[("task", DataType::UInt64, false), ("worker", DataType::Utf8, false)])
}

fn schema(own: &[(&str, DataType, bool)]) -> SchemaRef {
    let count = |name: &str, null| Field::new(name, DataType::UInt64, null);
    let mut fields = vec![
        Field::new("query_id", DataType::Utf8, false),
        count("plan", false),
        count("attempt", false),
        count("stage", false),
    ];
    fields.extend(own.iter().map(|(name, ty, null)| Field::new(*name, ty.clone(), *null)));
    fields.extend([
        Field::new("lane", DataType::Utf8, true),
        Field::new("state", DataType::Utf8, false),
        count("rows", true),
        count("bytes", true),
        count("scan_bytes", true),
        Field::new("locality", DataType::Float64, true),
    ]);
    Arc::new(Schema::new(fields))
}

/// The table `system.tasks`.
///
/// # Errors
/// [`Kind::Internal`](skep_common::Kind::Internal) if it does not fit its schema.
pub(crate) fn tasks_table(queries: &Arc<Queries>) -> Result<Arc<dyn TableProvider>> {
    let queries = Arc::clone(queries);
    filled(tasks_schema(), move || {
        let lines = lines(&queries.entries());
        Box::pin(async move {
            let worker = |line: &Line| Some(line.worker.clone().unwrap_or_else(|| "coordinator".to_owned()));
            let own: Vec<ArrayRef> = vec![
                Arc::new(lines.iter().map(|line| Some(line.task)).collect::<UInt64Array>()),
                Arc::new(lines.iter().map(worker).collect::<StringArray>()),
            ];
            rows(&tasks_schema(), &lines, own)
        })
    })
}

/// The table `system.stages`.
///
/// # Errors
/// [`Kind::Internal`](skep_common::Kind::Internal) if it does not fit its schema.
pub(crate) fn stages_table(queries: &Arc<Queries>) -> Result<Arc<dyn TableProvider>> {
    let queries = Arc::clone(queries);
    filled(stages_schema(), move || {
        let lines = stages(&queries.entries());
        Box::pin(async move {
            let tasks = lines.iter().map(|line| Some(line.tasks)).collect::<UInt64Array>();
            rows(&stages_schema(), &lines, vec![Arc::new(tasks)])
        })
    })
}

fn rows(schema: &SchemaRef, lines: &[Line], own: Vec<ArrayRef>) -> Result<RecordBatch> {
    let text = |of: &dyn Fn(&Line) -> Option<String>| -> ArrayRef {
        Arc::new(lines.iter().map(of).collect::<StringArray>())
    };
    let count = |of: &dyn Fn(&Line) -> Option<u64>| -> ArrayRef {
        Arc::new(lines.iter().map(of).collect::<UInt64Array>())
    };
    let mut columns = vec![
        text(&|line| Some(line.query.clone())),
        count(&|line| Some(line.plan)),
        count(&|line| Some(line.attempt)),
        count(&|line| Some(line.stage)),
    ];
    columns.extend(own);
    columns.extend([
        text(&|line| line.lane.clone()),
        text(&|line| Some(line.state.to_owned())),
        count(&|line| line.rows),
        count(&|line| line.bytes),
        count(&|line| line.read.map(|read| read.bytes)),
        Arc::new(lines.iter().map(Line::locality).collect::<Float64Array>()),
    ]);
    batch(schema, columns)
}

/// A line for each task of every query in memory.
fn lines(entries: &[Entry]) -> Vec<Line> {
    let mut lines = Vec::new();
    for entry in entries {
        let query = entry.seen();
        let plans = entry.meter.plans();
        for (at, plan) in plans.iter().enumerate() {
            lines.extend(tasks(&query, plan, at + 1 == plans.len()));
        }
    }
    lines
}

/// The tasks of one plan, of which `last` says whether another came after it.
fn tasks(query: &Query, plan: &Plan, last: bool) -> Vec<Line> {
    let state = match query.state {
        _ if !last => State::Finished,
        State::Planning | State::Queued | State::Running => State::Running,
        // What was to be written is written.
        State::Finishing => State::Finished,
        ended => ended,
    };
    let common = Line {
        query: query.id.to_string(),
        plan: plan.number as u64,
        attempt: plan.ran.attempts() as u64,
        tasks: 1,
        lane: plan.ran.lane().map(|lane| lane.name().to_owned()),
        state: state.name(),
        ..Line::default()
    };
    // The rows of a query that writes are those of its report.
    let reads = query.bytes.is_some() && last;
    let head =
        Line { rows: query.rows.filter(|_| reads), bytes: query.bytes.filter(|_| reads), ..common.clone() };
    let (scanned, arrived) = (plan.ran.reads(), plan.sight.arrivals.counts());
    let mut lines = vec![head];
    if plan.ran.lane() == Some(Lane::Durable) {
        lines.extend(plan.ran.given().into_iter().map(|given| Line {
            stage: given.stage as u64,
            task: given.task as u64,
            attempt: given.attempt as u64,
            worker: given.worker.map(|worker| worker.to_string()),
            rows: Some(given.rows),
            state: match given.done {
                Some(true) => State::Finished.name(),
                Some(false) => State::Failed.name(),
                None => state.name(),
            },
            placed: given.near.map(|near| (near.into(), 1)),
            ..common.clone()
        }));
        return lines;
    }
    for (stage, workers) in plan.ran.stages() {
        for (task, worker) in workers.into_iter().enumerate() {
            let counted = arrived.get(&(stage as u64, task as u64));
            lines.push(Line {
                stage: stage as u64,
                task: task as u64,
                worker: worker.map(|worker| worker.to_string()),
                rows: counted.map(|(rows, _)| *rows),
                bytes: counted.map(|(_, bytes)| *bytes),
                read: scanned.get(&stage).and_then(|reads| reads.get(task)).copied().flatten(),
                ..common.clone()
            });
        }
    }
    lines
}

/// A line for each stage of every query in memory.
fn stages(entries: &[Entry]) -> Vec<Line> {
    entries.iter().flat_map(stages_of).collect()
}

/// A line for each stage of one query.
pub(super) fn stages_of(entry: &Entry) -> Vec<Line> {
    let mut lines = Vec::new();
    let query = entry.seen();
    let plans = entry.meter.plans();
    for (at, plan) in plans.iter().enumerate() {
        let mut stages = together(&tasks(&query, plan, at + 1 == plans.len()));
        for figures in plan.ran.measured() {
            let stage = figures.stage as u64;
            let Some(line) = stages.iter_mut().find(|line| line.stage == stage) else { continue };
            if figures.parts > 0 && figures.done == figures.parts {
                // What is there once, however often tasks ran.
                (line.rows, line.bytes) = (Some(figures.rows), Some(figures.bytes));
                line.state = State::Finished.name();
            }
        }
        lines.extend(stages);
    }
    lines
}

/// The tasks of each stage in one line. What is not known of one of them is not known of the stage.
fn together(tasks: &[Line]) -> Vec<Line> {
    let mut stages: BTreeMap<(&str, u64, u64), Line> = BTreeMap::new();
    for task in tasks {
        let key = (task.query.as_str(), task.plan, task.stage);
        let Some(stage) = stages.get_mut(&key) else {
            stages.insert(key, task.clone());
            continue;
        };
        let add = |a: Option<u64>, b: Option<u64>| a.zip(b).map(|(a, b)| a + b);
        stage.tasks += task.tasks;
        stage.attempt = stage.attempt.max(task.attempt);
        if task.state == State::Running.name() {
            stage.state = task.state;
        }
        stage.placed = match (stage.placed, task.placed) {
            (Some((near, of)), Some((other, more))) => Some((near + other, of + more)),
            (one, other) => one.or(other),
        };
        stage.rows = add(stage.rows, task.rows);
        stage.bytes = add(stage.bytes, task.bytes);
        stage.read = stage
            .read
            .zip(task.read)
            .map(|(a, b)| Read { bytes: a.bytes + b.bytes, near: add(a.near, b.near) });
    }
    stages.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(stage: u64, task: u64, rows: Option<u64>, near: Option<u64>) -> Line {
        let read = Some(Read { bytes: 100, near });
        Line { query: "q".to_owned(), plan: 1, stage, task, tasks: 1, rows, read, ..Line::default() }
    }

    #[test]
    fn what_one_task_does_not_know_its_stage_does_not_know() {
        let tasks = [
            line(1, 0, Some(3), Some(100)),
            line(1, 1, Some(4), Some(50)),
            line(2, 0, Some(5), None),
            line(2, 1, None, Some(100)),
        ];
        let stages = together(&tasks);
        let seen: Vec<_> =
            stages.iter().map(|line| (line.stage, line.tasks, line.rows, line.locality())).collect();
        assert_eq!(seen, [(1, 2, Some(7), Some(0.75)), (2, 2, None, None)]);
    }
}
