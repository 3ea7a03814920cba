//! What a statement does while a person waits for it: on stderr, on a terminal, and only if it takes a while.
//!
//! ```text
//! / 3s running, durable on 3 workers, 1.2 GiB read (ctrl-c cancels)
//!     all     [########------------] 42 %, about 5 s left
//!     stage 1 [##########----------] 3/6 parts, 1200000 rows
//! ```
//!
//! # Cost
//! One small call to the server every [`POLL`] while the statement runs, from [`AFTER`] on.
//!
//! # Not here
//! The figures themselves: the server tells them.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use skep_common::ByteSize;
use skep_common::clock::{Clock, SystemClock};
use skep_common::task::{Task, spawn};

use crate::client::{Client, Stage, Work};
use crate::render::{fit, screen_columns};

/// Time after which a running statement shows that it runs.
const AFTER: Duration = Duration::from_millis(400);
/// How often the server is asked.
const POLL: Duration = Duration::from_millis(250);
/// How often the lines are drawn.
const TICK: Duration = Duration::from_millis(100);
const SPINNER: [char; 4] = ['|', '/', '-', '\\'];
/// Stages that are shown.
const STAGES_MAX: usize = 6;
/// Characters of a bar.
const BAR: u64 = 20;

/// The lines below the statement. Dropping it takes them away.
pub(crate) struct Progress {
    lines: Arc<Mutex<Lines>>,
    _draw: Task<()>,
    _poll: Task<()>,
}

/// What stands on the terminal. The cursor is below it, so that an echoed `^C` moves nothing.
#[derive(Debug, Default)]
struct Lines {
    shown: usize,
    over: bool,
    text: String,
}

impl Lines {
    /// Draws the next picture; false when there is none any more.
    fn frame(&mut self, turn: char, seconds: u64) -> bool {
        if !self.over {
            let frame = format!("{turn} {seconds}s {}\n", self.text);
            self.draw(&frame);
        }
        !self.over
    }

    /// Puts `text` in the place of what is there.
    fn draw(&mut self, text: &str) {
        let mut out = String::new();
        if self.shown > 0 {
            out.push_str(&format!("\r\x1b[{}A\x1b[J", self.shown));
        }
        out.push_str(text);
        self.shown = text.matches('\n').count();
        // Nobody sees it where stderr is gone.
        let _ = std::io::stderr().write_all(out.as_bytes());
    }
}

impl Progress {
    /// Begins to watch what `client` runs.
    pub(crate) fn start(mut client: Client) -> Self {
        let lines = Arc::new(Mutex::new(Lines { text: HOW_TO_CANCEL.to_owned(), ..Lines::default() }));
        let (known, drawn) = (Arc::clone(&lines), Arc::clone(&lines));
        let started = SystemClock.instant();
        let poll = spawn("progress", async move {
            tokio::time::sleep(AFTER).await;
            loop {
                if let Some(status) = client.status().await {
                    known.lock().text = text(&status, screen_columns());
                }
                tokio::time::sleep(POLL).await;
            }
        });
        let draw = spawn("progress lines", async move {
            tokio::time::sleep(AFTER).await;
            for turn in SPINNER.into_iter().cycle() {
                let took = SystemClock.instant().saturating_duration_since(started).as_secs();
                if !drawn.lock().frame(turn, took) {
                    return;
                }
                tokio::time::sleep(TICK).await;
            }
        });
        Self { lines, _draw: draw, _poll: poll }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        let mut lines = self.lines.lock();
        lines.over = true;
        lines.draw("");
    }
}

const HOW_TO_CANCEL: &str = "(ctrl-c cancels)";
/// What stands before the message on its first line.
const LEAD: usize = 8;

/// `status` in lines that fit `columns`.
fn text(status: &Work, columns: Option<usize>) -> String {
    let mut parts = vec![match &status.lane {
        Some(lane) if status.workers > 0 => {
            format!("{}, {lane} on {}", status.state, workers(status.workers))
        }
        Some(lane) => format!("{}, {lane}", status.state),
        None => status.state.clone(),
    }];
    parts.extend(status.scan_bytes.map(|bytes| format!("{} read", ByteSize(bytes))));
    parts.extend(status.rows.filter(|rows| *rows > 0).map(|rows| format!("{rows} rows")));
    let mut lines = vec![format!("{} {HOW_TO_CANCEL}", parts.join(", "))];
    lines.extend(status.progress.map(|share| {
        let left = status.remaining_ms.map(|left| format!(", about {} left", time(left))).unwrap_or_default();
        let done = (share.clamp(0.0, 1.0) * BAR as f64) as u64;
        format!("    all     {} {:.0} %{left}", bar(done, BAR), share * 100.0)
    }));
    // Those that are done say least.
    let ended = |stage: &&Stage| stage.state != "running";
    let spare = status.stages.len().saturating_sub(STAGES_MAX);
    let mut left_out =
        status.stages.iter().filter(ended).take(spare).map(|stage| stage.stage).collect::<Vec<_>>();
    left_out.truncate(spare);
    let shown = status.stages.iter().filter(|stage| !left_out.contains(&stage.stage)).take(STAGES_MAX);
    lines.extend(shown.map(stage));
    let fitted = lines.iter().enumerate().map(|(at, line)| {
        let lead = if at == 0 { LEAD } else { 0 };
        columns.map_or_else(|| line.clone(), |columns| fit(line, columns.saturating_sub(lead).max(1)).0)
    });
    fitted.collect::<Vec<_>>().join("\n")
}

fn stage(stage: &Stage) -> String {
    let mut line = format!("    stage {} ", stage.stage);
    match stage.done {
        Some((done, parts)) => {
            line.push_str(&format!("{} {done}/{parts} parts", bar(done, parts)));
        }
        None => {
            let tasks = if stage.tasks == 1 { "1 task".to_owned() } else { format!("{} tasks", stage.tasks) };
            line.push_str(&format!("{tasks}, {}", stage.state));
        }
    }
    if let Some(rows) = stage.rows.filter(|rows| *rows > 0) {
        line.push_str(&format!(", {rows} rows"));
    }
    line
}

/// A bar of which `done` of `of` is full.
fn bar(done: u64, of: u64) -> String {
    let full = (done * BAR).checked_div(of).unwrap_or(0).min(BAR);
    format!("[{}{}]", "#".repeat(full as usize), "-".repeat((BAR - full) as usize))
}

/// How many workers, in words.
pub(crate) fn workers(count: u64) -> String {
    if count == 1 { "1 worker".to_owned() } else { format!("{count} workers") }
}

fn time(ms: u64) -> String {
    match ms.div_ceil(1000) {
        seconds if seconds < 120 => format!("{seconds} s"),
        seconds => format!("{} min", seconds.div_ceil(60)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> Work {
        let stage = |stage, done, state: &str| Stage {
            stage,
            state: state.into(),
            tasks: 6,
            done,
            rows: Some(stage * 100),
        };
        Work {
            state: "running".into(),
            lane: Some("durable".into()),
            progress: Some(0.416),
            remaining_ms: Some(4_200),
            scan_bytes: Some(3 << 20),
            workers: 3,
            stages: vec![
                stage(1, Some((6, 6)), "finished"),
                stage(2, Some((2, 6)), "running"),
                stage(3, None, "running"),
            ],
            ..Work::default()
        }
    }

    #[test]
    fn what_is_known_is_shown_and_nothing_else() {
        insta::assert_snapshot!(text(&status(), None), @r"
        running, durable on 3 workers, 3 MiB read (ctrl-c cancels)
            all     [########------------] 42 %, about 5 s left
            stage 1 [####################] 6/6 parts, 100 rows
            stage 2 [######--------------] 2/6 parts, 200 rows
            stage 3 6 tasks, running, 300 rows
        ");
        assert_eq!(
            text(&Work { state: "planning".into(), ..Work::default() }, None),
            "planning (ctrl-c cancels)"
        );
    }

    #[test]
    fn lines_fit_the_terminal_and_are_few() {
        let mut status = status();
        let more = (4..30).map(|stage| Stage { stage, state: "running".into(), ..Stage::default() });
        status.stages.extend(more);
        let text = text(&status, Some(40));
        assert!(text.lines().all(|line| line.chars().count() <= 40), "{text}");
        assert_eq!(text.lines().count(), 2 + STAGES_MAX);
        assert!(!text.contains("stage 1 "), "what is done makes room: {text}");
    }

    #[test]
    fn long_times_are_minutes() {
        assert_eq!((time(400), time(119_000), time(121_000)), ("1 s".into(), "119 s".into(), "3 min".into()));
    }
}
