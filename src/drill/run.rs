//! Runs the script under the faults of a plan, statement by statement.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{DataType, UInt64Type};
use skep_common::{Error, Result, task};
use skep_repl::{Answer, Session, Statement};
use tokio::sync::mpsc::Receiver;
use tokio::time::Instant;

use super::actions::{Entry, action, cut, tail};
use super::compare;
use super::damage::damage;
use super::faults::Plan;
use super::nodes::{Line, Nodes};
use super::script;
use super::stages::{Stages, planned};

/// How often faults look whether their moment has come.
const LOOK: Duration = Duration::from_millis(3);
/// How long lost workers may take to be back after a statement.
const WHOLE: Duration = Duration::from_secs(60);
/// How much is shown of a line that came more than once.
const AGAIN: usize = 80;
/// How long the last automatic actions may take to show.
const LAST: Duration = Duration::from_secs(2);

/// The answer of one node to a statement.
#[derive(Debug, Clone)]
pub(crate) struct Right {
    pub(crate) answer: Answer,
    pub(crate) took: Duration,
}

/// How a statement under faults compares.
enum Verdict {
    Equal,
    /// Why not.
    Wrong(String),
}

/// What came of a drill.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) statements: usize,
    pub(crate) faults: usize,
    pub(crate) actions: usize,
    /// The statement that ended it, and why.
    pub(crate) wrong: Option<(usize, String)>,
    /// Faults that never happened, with the reason.
    pub(crate) missed: Vec<String>,
}

/// A drill under way.
pub(crate) struct Drill<'a> {
    pub(crate) nodes: Nodes,
    pub(crate) lines: Receiver<Line>,
    pub(crate) session: Session,
    /// Looks at system tables, and never waits for the other.
    pub(crate) watcher: Session,
    pub(crate) plan: &'a Plan,
    pub(crate) pipelined: bool,
    pub(crate) timeout: Duration,
    pub(crate) outcome: Outcome,
    /// Which of the plan's faults have happened at least once.
    happened: Happened,
}

#[derive(Default)]
struct Happened {
    kills: BTreeSet<usize>,
    pauses: BTreeSet<usize>,
    corrupts: BTreeSet<usize>,
}

/// What goes on while one statement runs.
struct Round {
    number: usize,
    begun: Instant,
    stages: Stages,
    planned: Vec<(usize, u64)>,
    /// The pipelined lane has given its stages to workers.
    given: bool,
    kills: BTreeSet<usize>,
    /// Pauses under way: which, and since when.
    paused: BTreeMap<usize, Instant>,
    /// Whether a worker may not count as alive.
    hurt: bool,
    /// Lines about actions, with how often each came.
    told: BTreeMap<String, usize>,
}

impl<'a> Drill<'a> {
    /// Over processes that serve.
    ///
    /// # Errors
    /// Those of opening sessions.
    pub(crate) async fn new(
        nodes: Nodes,
        lines: Receiver<Line>,
        plan: &'a Plan,
        lane: &str,
        timeout: Duration,
    ) -> Result<Self> {
        let mut session = Session::connect(nodes.flight()).await?;
        session.run(&format!("SET skep.execution = {lane}")).await?;
        let mut watcher = Session::connect(nodes.flight()).await?;
        watcher.run("SET skep.execution = local").await?;
        let pipelined = lane == "pipelined";
        let (outcome, happened) = (Outcome::default(), Happened::default());
        Ok(Self { nodes, lines, session, watcher, plan, pipelined, timeout, outcome, happened })
    }

    /// Runs every statement, up to the first that is wrong.
    ///
    /// # Errors
    /// Those of the drill itself, such as a worker that does not start again.
    pub(crate) async fn run(mut self, script: &[Statement], right: &[Right]) -> Result<Outcome> {
        for ((statement, right), number) in script.iter().zip(right).zip(1..) {
            println!("{number} (line {}) {}", statement.line, script::title(&statement.text));
            let ended = self.statement(number, statement, right).await?;
            self.outcome.statements = number;
            if let Verdict::Wrong(why) = ended {
                println!("    WRONG: {why}");
                self.outcome.wrong = Some((number, why));
                break;
            }
        }
        if !self.happened.corrupts.is_empty() {
            println!("afterwards:");
            let mut round = self.round(0).await;
            let _ = tokio::time::timeout(LAST, async {
                while let Some(line) = self.lines.recv().await {
                    self.tell(&mut round, &line);
                }
            })
            .await;
            if round.told.is_empty() {
                println!("    nothing was left to do");
            }
        }
        self.missed();
        let Self { nodes, outcome, .. } = self;
        nodes.end().await;
        Ok(outcome)
    }

    async fn statement(&mut self, number: usize, statement: &Statement, right: &Right) -> Result<Verdict> {
        self.corrupt(number)?;
        let planned =
            if script::reads(&statement.text) { self.explain(&statement.text).await } else { Vec::new() };
        let mut round = Round { planned, ..self.round(number).await };
        let mut answer = self.disturbed(&mut round, &statement.text, right).await?;
        let mut took = round.begun.elapsed();
        if answer.is_some() {
            self.mend(&mut round).await?;
        }
        if let Some(Err(error)) = &answer
            && self.pipelined
            && error.kind().retryable()
        {
            println!("    one clear error, as the lane may give: {}", error.report());
            println!("    the statement is sent again, as its client would");
            let mut again = self.round(number).await;
            // Its faults have happened.
            again.number = 0;
            answer = self.disturbed(&mut again, &statement.text, right).await?;
            took += again.begun.elapsed();
        }
        let answer = match answer {
            None => {
                let waited = self.timeout.as_secs_f64();
                return Ok(Verdict::Wrong(format!("it hangs: no end after {waited} s (--timeout)")));
            }
            Some(Err(error)) => return Ok(Verdict::Wrong(format!("it failed: {}", error.report()))),
            Some(Ok(answer)) => answer,
        };
        let ran = self.ran(&mut round).await;
        for (text, count) in std::mem::take(&mut round.told).into_iter().filter(|(_, count)| *count > 1) {
            println!("    x{count:<8}  {}", cut(&text, AGAIN));
        }
        if let Some(difference) = compare::difference(&statement.text, &right.answer, &answer)? {
            return Ok(Verdict::Wrong(format!("the answer differs from that of one node: {difference}")));
        }
        println!(
            "    equal: {} in {:.2} s{ran}, on one node {:.2} s",
            compare::size(&answer),
            took.as_secs_f64(),
            right.took.as_secs_f64()
        );
        Ok(Verdict::Equal)
    }

    async fn round(&mut self, number: usize) -> Round {
        Round {
            number,
            begun: Instant::now(),
            stages: Stages::watch(self.nodes.scratches()),
            planned: Vec::new(),
            given: false,
            kills: BTreeSet::new(),
            paused: BTreeMap::new(),
            hurt: false,
            told: BTreeMap::new(),
        }
    }

    /// The stages that a statement will have, if it can be explained.
    async fn explain(&mut self, sql: &str) -> Vec<(usize, u64)> {
        let explained = self.session.run(&format!("EXPLAIN {sql}")).await;
        let Ok(Answer::Rows(_, batches)) = explained else { return Vec::new() };
        planned(&texts(&batches).concat().join("\n"))
    }

    /// Damages the blocks whose turn is before statement `number`.
    fn corrupt(&mut self, number: usize) -> Result<()> {
        for (index, fault) in self.plan.corrupts.iter().enumerate().filter(|(_, f)| f.statement == number) {
            // Where blocks lie is not drawn: with few of them a worker may hold none.
            let workers = self.nodes.workers();
            let others = (0..workers).map(|step| (fault.worker - 1 + step) % workers + 1);
            let mut done = None;
            for worker in others {
                let folder = self.nodes.worker_folder(worker);
                let damaged = damage(&folder, fault.pick).map_err(|e| {
                    Error::internal(format!("cannot damage a block below '{}'", folder.display())).source(e)
                })?;
                if let Some((block, bytes)) = damaged {
                    done = Some((worker, block, bytes));
                    break;
                }
            }
            let Some((worker, block, bytes)) = done else {
                println!("    no worker has a block to damage");
                continue;
            };
            let instead =
                if worker == fault.worker { String::new() } else { format!(" (w{} has none)", fault.worker) };
            let (block, bytes) = (tail(&block), count(bytes, "byte"));
            println!("  ! fault     block {block} of w{worker} is damaged in {bytes}{instead}");
            self.happened.corrupts.insert(index);
            self.outcome.faults += 1;
        }
        Ok(())
    }

    /// Runs the statement while its faults happen. `None`: it does not end.
    async fn disturbed(
        &mut self,
        round: &mut Round,
        sql: &str,
        right: &Right,
    ) -> Result<Option<Result<Answer>>> {
        let (mut session, sql) = (self.session.clone(), sql.to_owned());
        let running = task::spawn("drilled statement", async move { session.run(&sql).await });
        tokio::pin!(running);
        round.begun = Instant::now();
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let ended = loop {
            tokio::select! {
                ended = &mut running => break Some(ended?),
                Some(line) = self.lines.recv() => self.tell(round, &line),
                _ = look.tick() => {
                    self.kill(round).await;
                    self.pause(round, right.took).await;
                    if round.begun.elapsed() > self.timeout {
                        break None;
                    }
                }
            }
        };
        self.listen(round);
        Ok(ended)
    }

    /// Kills those workers whose stage has begun.
    async fn kill(&mut self, round: &mut Round) {
        let waits = |(index, kill): &(usize, &super::faults::Kill)| {
            kill.when.has(round.number, self.happened.kills.contains(index))
                && round.number > 0
                && !round.kills.contains(index)
        };
        let due: Vec<_> = self.plan.kills.iter().enumerate().filter(waits).collect();
        if due.is_empty() {
            return;
        }
        let begun: BTreeSet<usize> = if round.given {
            round.planned.iter().map(|(stage, _)| *stage).collect()
        } else {
            round.stages.begun()
        };
        for (index, kill) in due.into_iter().filter(|(_, kill)| begun.contains(&kill.stage)) {
            round.kills.insert(index);
            if self.nodes.kill(kill.worker).await {
                self.fault(round, &format!("kill -9 of w{}: stage {} has begun", kill.worker, kill.stage));
                self.happened.kills.insert(index);
            }
        }
    }

    /// Stops and continues those workers whose moment has come.
    async fn pause(&mut self, round: &mut Round, expected: Duration) {
        for (index, pause) in self.plan.pauses.iter().enumerate() {
            if let Some(since) = round.paused.get(&index) {
                if since.elapsed() >= pause.lasts {
                    round.paused.remove(&index);
                    self.nodes.signal(pause.worker, "CONT").await;
                    self.note(round, &format!("w{} goes on", pause.worker));
                }
                continue;
            }
            let due = pause.statement == round.number
                && !self.happened.pauses.contains(&index)
                && round.begun.elapsed() >= expected.mul_f64(pause.moment);
            if due && self.nodes.signal(pause.worker, "STOP").await {
                round.paused.insert(index, Instant::now());
                round.hurt = true;
                self.happened.pauses.insert(index);
                self.fault(
                    round,
                    &format!("w{} is stopped for {} s", pause.worker, pause.lasts.as_secs_f64()),
                );
            }
        }
    }

    /// Brings every worker back after a statement.
    async fn mend(&mut self, round: &mut Round) -> Result<()> {
        let mut hurt = round.hurt;
        for index in std::mem::take(&mut round.paused).into_keys() {
            let worker = self.plan.pauses[index].worker;
            self.nodes.signal(worker, "CONT").await;
            self.listen(round);
            self.note(round, &format!("the statement has ended: w{worker} goes on"));
            hurt = true;
        }
        for number in self.nodes.dead() {
            self.nodes.start_worker(number).await?;
            self.listen(round);
            self.note(round, &format!("w{number} was started again"));
            hurt = true;
        }
        if !hurt {
            return Ok(());
        }
        let sql = "SELECT count(*) FROM system.workers WHERE silent_ms < 1000";
        let whole = async {
            loop {
                if let Ok(Answer::Rows(_, batches)) = self.watcher.run(sql).await
                    && texts(&batches)
                        .concat()
                        .first()
                        .is_some_and(|n| *n == self.nodes.workers().to_string())
                {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let late = |_| Error::unavailable("the workers are not back a minute after they were started again");
        tokio::time::timeout(WHOLE, whole).await.map_err(late)?;
        self.listen(round);
        Ok(())
    }

    /// Where the last statement ran; tells of tasks that ran again.
    async fn ran(&mut self, round: &mut Round) -> String {
        if round.planned.is_empty() {
            return String::new();
        }
        let sql = "SELECT stage, sum(tasks)::BIGINT UNSIGNED, max(lane) FROM system.stages WHERE stage > 0 AND query_id = (\
                   SELECT query_id FROM system.queries WHERE statement NOT LIKE '%system.%' \
                   ORDER BY created_at DESC LIMIT 1) GROUP BY stage ORDER BY stage";
        let Ok(Answer::Rows(_, batches)) = self.watcher.run(sql).await else { return String::new() };
        let (mut stages, mut all, mut lane) = (0, 0, String::new());
        for batch in &batches {
            let number = |column: usize| batch.column(column).as_primitive_opt::<UInt64Type>();
            let (Some(numbers), Some(tasks)) = (number(0), number(1)) else { return String::new() };
            let lanes = texts(std::slice::from_ref(batch)).pop().unwrap_or_default();
            for row in 0..batch.num_rows() {
                let (stage, tasks) = (numbers.value(row), tasks.value(row));
                stages += 1;
                all += tasks;
                lane = lanes.get(row).cloned().unwrap_or_default();
                let before = round.planned.iter().find(|(number, _)| *number as u64 == stage);
                let again = before.map_or(0, |(_, planned)| tasks.saturating_sub(*planned));
                if again > 0 && lane == "durable" {
                    self.outcome.actions += 1;
                    println!("  > action    {} of stage {stage} ran again", count(again, "task"));
                }
            }
        }
        if stages == 0 {
            String::new()
        } else {
            format!(" ({lane} lane, {} in {})", count(all, "task"), count(stages, "stage"))
        }
    }

    /// Tells what the logs have said so far.
    fn listen(&mut self, round: &mut Round) {
        while let Ok(line) = self.lines.try_recv() {
            self.tell(round, &line);
        }
    }

    /// Tells what a line of a log says, if it says something.
    fn tell(&mut self, round: &mut Round, line: &Line) {
        let Some(entry) = Entry::parse(&line.text) else { return };
        if entry.target.starts_with("skep_coordinator::lanes") && entry.says("runs on the workers") {
            round.given = true;
        }
        let Some(told) = action(&entry) else { return };
        let told = format!("{}: {}", line.from, self.nodes.named(&told));
        self.outcome.actions += 1;
        let count = round.told.entry(told.clone()).or_default();
        *count += 1;
        if *count == 1 {
            let at = line.at.saturating_duration_since(round.begun);
            println!("  > {:>6.2} s  {told}", at.as_secs_f64());
        }
    }

    fn fault(&mut self, round: &Round, text: &str) {
        self.outcome.faults += 1;
        println!("  ! {:>6.2} s  {text}", round.begun.elapsed().as_secs_f64());
    }

    fn note(&self, round: &Round, text: &str) {
        println!("    {:>6.2} s  {text}", round.begun.elapsed().as_secs_f64());
    }

    /// Writes down which faults never happened.
    fn missed(&mut self) {
        let (plan, happened) = (self.plan, &self.happened);
        let kills = plan.kills.iter().enumerate().filter(|(index, _)| !happened.kills.contains(index));
        let kills = kills.map(|(_, kill)| format!("{kill}: none had such a stage on the workers"));
        let pauses = plan.pauses.iter().enumerate().filter(|(index, _)| !happened.pauses.contains(index));
        let pauses =
            pauses.map(|(_, pause)| format!("{pause}: the statement had ended, or the worker was dead"));
        let corrupts =
            plan.corrupts.iter().enumerate().filter(|(index, _)| !happened.corrupts.contains(index));
        let corrupts = corrupts.map(|(_, corrupt)| format!("{corrupt}: no worker had one"));
        self.outcome.missed = kills.chain(pauses).chain(corrupts).collect();
    }
}

/// `1 task`, `2 tasks`.
pub(crate) fn count(number: u64, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

/// The texts of every batch, the last column of each.
fn texts(batches: &[RecordBatch]) -> Vec<Vec<String>> {
    let column = |batch: &RecordBatch| {
        let last = batch.columns().last()?;
        let last = arrow::compute::cast(last, &DataType::Utf8).ok()?;
        let texts = last.as_string_opt::<i32>()?;
        Some(texts.iter().map(|text| text.unwrap_or_default().to_owned()).collect())
    };
    batches.iter().filter_map(column).collect()
}
