//! `skep drill`: a script on processes that die, stop and lie, compared with its answers on one node.
//!
//! ```text
//! faults     what the options say, and the plan that a seed makes of it
//! script     its statements             compare    whether two answers are equal
//! nodes      processes of this binary   stages     sees that a stage has begun
//! run        each statement under its faults, with what the processes did about them (actions); damage: bad blocks
//! ```
//!
//! # Guarantees
//! - The end is 0 only if every answer is that of one node. A statement that does not end counts as wrong.
//! - However it ends, no process of it is left, and its folder is deleted unless it is kept.

mod actions;
mod compare;
mod damage;
mod faults;
mod nodes;
mod run;
mod script;
mod stages;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use skep_common::{ByteSize, Error, Result, clock};
use skep_repl::{Session, Statement};

use crate::cli::{self, DrillLane};
use crate::memory;
use crate::signal::Stop;

pub(crate) use faults::{CorruptWanted, Delay, KillWanted, PauseWanted};

use faults::{Plan, Wanted};
use nodes::{Nodes, Options};
use run::{Drill, Outcome, Right, count};

/// Every answer was equal, and a fault that was asked for never happened.
const PARTLY: u8 = 5;
/// How often, and how long apart, the folder is tried to be deleted while processes in it end.
const TRIES: u32 = 50;
const TRY_EVERY: Duration = Duration::from_millis(40);

pub(crate) async fn run(args: cli::Drill) -> Result<ExitCode> {
    let script = script::read(&args.script)?;
    let seed = args.seed.unwrap_or_else(|| {
        // Short, to be typed again.
        clock::system().now().timestamp_micros().unsigned_abs() % 1_000_000
    });
    let wanted = Wanted { kills: args.kill, pauses: args.pause, corrupts: args.corrupt, delay: args.delay };
    let asked = !wanted.is_empty();
    let plan = Plan::draw(seed, wanted, &script::outline(&script), usize::from(args.workers));
    let plan = plan.map_err(Error::invalid)?;
    let lane = match args.lane {
        DrillLane::Durable => "durable",
        DrillLane::Pipelined => "pipelined",
    };
    let replay = replay(&plan, lane, &args.script, args.workers, args.timeout);
    let folder = std::env::temp_dir().join(format!("skep-drill-{}-{seed}", std::process::id()));

    let mut stop = Stop::listen()?;
    print_plan(&plan, &args.script, &script, lane, args.workers);
    let drilled = async {
        let right = expected(&folder.join("one"), &script, args.timeout).await?;
        println!("under the faults:");
        let options = Options {
            folder: &folder.join("many"),
            workers: usize::from(args.workers),
            delay: plan.delay.as_ref(),
            seed,
            memory: share(usize::from(args.workers) + 1),
        };
        let (nodes, lines) = Nodes::start(options).await?;
        let drill = Drill::new(nodes, lines, &plan, lane, args.timeout).await?;
        drill.run(&script, &right).await
    };
    let ended = tokio::select! {
        ended = drilled => ended,
        () = stop.requested() => Err(Error::cancelled("the drill was interrupted")),
    };
    // Processes end with what held them, above.
    if args.keep {
        println!("kept: {}", folder.display());
    } else {
        delete(&folder).await;
    }
    let code = match &ended {
        Ok(outcome) => verdict(outcome, asked),
        Err(_) => 0,
    };
    println!("replay: {replay}");
    ended.map(|_| ExitCode::from(code))
}

fn print_plan(plan: &Plan, path: &Path, script: &[Statement], lane: &str, workers: u16) {
    println!(
        "seed {}, {lane} lane, a coordinator and {workers} workers, {} statements of {}",
        plan.seed,
        script.len(),
        path.display()
    );
    println!("the plan:");
    let each = plan.kills.iter().map(ToString::to_string);
    let each = each.chain(plan.pauses.iter().map(ToString::to_string));
    let each = each.chain(plan.corrupts.iter().map(ToString::to_string));
    for fault in each.chain(plan.delay.iter().map(ToString::to_string)) {
        println!("    {fault}");
    }
}

/// The answers of one node to every statement.
async fn expected(folder: &Path, script: &[Statement], timeout: Duration) -> Result<Vec<Right>> {
    let options = Options { folder, workers: 0, delay: None, seed: 0, memory: share(1) };
    let (nodes, mut lines) = Nodes::start(options).await?;
    // What it logs is of no interest, and is not to pile up.
    let unread = skep_common::task::spawn("read a log", async move { while lines.recv().await.is_some() {} });
    let mut session = Session::connect(nodes.flight()).await?;
    session.run("SET skep.execution = local").await?;
    let clock = clock::system();
    let mut right = Vec::with_capacity(script.len());
    for (statement, number) in script.iter().zip(1..) {
        let begun = clock.instant();
        let at =
            || format!("statement {number}, line {}, fails on one node without any fault", statement.line);
        let answer = tokio::time::timeout(timeout, session.run(&statement.text)).await;
        let answer = answer.map_err(|_| {
            Error::invalid(format!("{}: no end after {} s", at(), timeout.as_secs_f64()))
                .hint("give it more time with --timeout")
        })?;
        let answer = answer.map_err(|error| error.context(at()))?;
        right.push(Right { answer, took: clock.instant() - begun });
    }
    let all: Duration = right.iter().map(|right| right.took).sum();
    println!("on one node: {} statements in {:.2} s", right.len(), all.as_secs_f64());
    drop(unread);
    nodes.end().await;
    Ok(right)
}

/// The memory of each of `processes`, which share the machine.
fn share(processes: usize) -> ByteSize {
    ByteSize(memory::budget(None).bytes() / processes.max(1) as u64)
}

/// Says what came of it. Gives the exit code.
fn verdict(outcome: &Outcome, asked: bool) -> u8 {
    let Outcome { statements, faults, actions, wrong, missed } = outcome;
    for fault in missed {
        println!("never happened: {fault}");
    }
    if let Some((number, why)) = wrong {
        println!("WRONG: statement {number}: {why}");
        return 1;
    }
    println!(
        "every answer is equal: {}, {}, {}",
        count(*statements as u64, "statement"),
        count(*faults as u64, "fault"),
        count(*actions as u64, "automatic action")
    );
    if asked && !missed.is_empty() { PARTLY } else { 0 }
}

/// The command that does all of it again.
fn replay(plan: &Plan, lane: &str, script: &Path, workers: u16, timeout: Duration) -> String {
    let mut words = vec!["skep drill".to_owned()];
    words.extend(plan.options());
    words.push(format!("--lane {lane} --workers {workers} --timeout {}s", timeout.as_secs()));
    let path = script.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/._-+".contains(c);
    words.push(if path.chars().all(plain) { path } else { format!("'{}'", path.replace('\'', r"'\''")) });
    words.join(" ")
}

/// Deletes the folder. Processes that were killed a moment ago may still write a file.
async fn delete(folder: &PathBuf) {
    for _ in 0..TRIES {
        match std::fs::remove_dir_all(folder) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => tokio::time::sleep(TRY_EVERY).await,
            _ => return,
        }
    }
    eprintln!("warning: '{}' cannot be deleted", folder.display());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_0_only_if_all_is_equal_and_happened() {
        let outcome = Outcome { statements: 3, faults: 1, actions: 2, ..Outcome::default() };
        assert_eq!(verdict(&outcome, true), 0);
        let missed = Outcome { missed: vec!["x".to_owned()], ..Outcome::default() };
        assert_eq!(verdict(&missed, true), 5);
        // The seed drew it: nobody relies on it.
        assert_eq!(verdict(&missed, false), 0);
        let wrong =
            Outcome { wrong: Some((2, "differs".to_owned())), missed: missed.missed, ..Outcome::default() };
        assert_eq!(verdict(&wrong, true), 1);
        assert_eq!(verdict(&wrong, false), 1);
    }

    #[test]
    fn the_replay_can_be_pasted_into_a_shell() {
        let plan = Plan { seed: 7, ..Plan::default() };
        let line = replay(&plan, "durable", Path::new("it's.sql"), 3, Duration::from_secs(60));
        assert_eq!(line, r"skep drill --seed 7 --lane durable --workers 3 --timeout 60s 'it'\''s.sql'");
    }
}
