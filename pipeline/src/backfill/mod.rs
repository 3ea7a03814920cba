//! Backfills: the intervals of a range are made again, chunk by chunk, each chunk a run of its own.
//!
//! ```text
//! request --begin--> chunks, written down (state) --next--> Runner for its span --commit, chunk made--> pause --> next
//!                                                    \-- another run goes on, or came in the way: wait, again
//! ```
//!
//! # Invariants
//! - A chunk is made once: the commit of its run says so.
//! - What was chosen stays chosen, and the text stays the text that it began with, also when it is gone on with.
//!
//! # Not here
//! What a run does (`run`).

mod state;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use skep_common::clock::Clock;
use skep_common::{Error, Kind, Result, task};
use skep_coordinator::Coordinator;
use tokio::sync::mpsc;

use crate::event::{Backfill, Event, Request, State};
use crate::interval::{self, Grain, Span};
use crate::ledger::Ledger;
use crate::project::Project;
use crate::run::Runner;

pub(crate) use state::{Backfills, Chunk, Made};

/// How often one says that it goes on.
const BEAT: Duration = Duration::from_secs(5);
/// Between two looks whether another run ended.
const LOOK: Duration = Duration::from_millis(250);

/// One backfill on its way.
pub(crate) struct Driver {
    pub(crate) coordinator: Coordinator,
    pub(crate) ledger: Ledger,
    pub(crate) backfills: Backfills,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) user: String,
    pub(crate) events: mpsc::Sender<Event>,
}

/// What is kept of a request, with the models that were chosen.
type Kept = Backfill;

impl Driver {
    /// Makes all of it. Whatever happens is told as events; the last one says how it ended.
    pub(crate) fn run(self, request: Backfill) -> BoxFuture<'static, ()> {
        async move {
            let started = self.clock.instant();
            let (state, message) = match self.begin(request).await {
                Err(error) => (State::Failed, shown(&error)),
                Ok((backfill, kept)) => self.to_end(backfill, &kept).await,
            };
            let took_ms = u64::try_from((self.clock.instant() - started).as_millis()).unwrap_or(u64::MAX);
            self.tell(Event::Over { run: None, state, snapshot: None, took_ms, message }).await;
        }
        .boxed()
    }

    async fn tell(&self, event: Event) {
        // Whoever does not listen any more misses it.
        let _ = self.events.send(event).await;
    }

    async fn to_end(&self, backfill: i64, kept: &Kept) -> (State, String) {
        let beating = self.beat(backfill);
        let ended = self.chunks(backfill, kept).await;
        drop(beating);
        let (word, error) = match &ended {
            Ok(_) => ("done", None),
            Err(error) if error.kind() == Kind::Cancelled => ("interrupted", Some(shown(error))),
            Err(error) => ("failed", Some(shown(error))),
        };
        if let Err(e) = self.backfills.end(backfill, word, error.as_deref(), self.clock.now()).await {
            tracing::warn!(backfill, error = e.report(), "the end of a backfill was not written down");
        }
        match ended {
            Ok(chunks) => (State::Done, format!("backfill {backfill} made {chunks} {}", chunks_word(chunks))),
            Err(error) => (
                State::Failed,
                format!("{}; skep pipeline backfill --resume {backfill} goes on with it", shown(&error)),
            ),
        }
    }

    /// Sleeps, unless nobody listens any more. A run that goes on sees that by itself.
    async fn pause(&self, time: Duration) -> Result<()> {
        tokio::select! {
            () = tokio::time::sleep(time) => Ok(()),
            () = self.events.closed() => Err(Error::new(Kind::Cancelled, "whoever asked for the backfill went away")),
        }
    }

    /// Says that it goes on, until it is dropped.
    fn beat(&self, backfill: i64) -> task::Task<()> {
        let (backfills, clock) = (self.backfills.clone(), Arc::clone(&self.clock));
        task::spawn("backfill heartbeat", async move {
            loop {
                tokio::time::sleep(BEAT).await;
                if let Err(error) = backfills.beat(backfill, clock.now()).await {
                    tracing::warn!(
                        backfill,
                        error = error.report(),
                        "a backfill could not say that it goes on"
                    );
                }
            }
        })
    }

    /// Writes it down, or takes up one that was.
    async fn begin(&self, asked: Backfill) -> Result<(i64, Kept)> {
        if let Some(wanted) = asked.resume {
            let (backfill, text) = self.backfills.take_up(wanted, self.clock.now()).await?;
            let kept: Kept = serde_json::from_str(&text).map_err(|e| {
                Error::corrupt(format!("what backfill {backfill} was asked for does not read"))
                    .hint("begin another")
                    .source(e)
            })?;
            let pause_ms = asked.pause_ms.or(kept.pause_ms);
            return Ok((backfill, Kept { pause_ms, wait_ms: asked.wait_ms, ..kept }));
        }
        let runner = self.runner(&asked.request).await?;
        let range = runner.range.ok_or_else(|| {
            Error::invalid("a backfill has a start and an end")
                .hint("as in --start 2024-01-01 --end 2024-02-01")
        })?;
        let end = range.end.min(runner.until()?);
        if range.start >= end {
            return Err(Error::invalid(format!("no interval is over between {range}"))
                .hint("intervals end now at most, or where [pipeline] says"));
        }
        let chosen = runner.chosen_models().filter(|model| model.in_intervals());
        let chosen: Vec<(String, Grain)> =
            chosen.filter_map(|model| Some((model.name.to_string(), model.intervals()?.1))).collect();
        let Some(coarsest) = chosen.iter().map(|(_, grain)| *grain).max() else {
            return Err(Error::invalid("none of the models has intervals")
                .hint("kinds interval and append have; the others are made by skep pipeline run"));
        };
        let range = Span { start: range.start, end };
        let mut chunks = cut(coarsest, range, asked.chunk.max(1))?;
        if !asked.oldest_first {
            chunks.reverse();
        }
        let select = chosen.iter().map(|(name, _)| name.clone()).collect();
        let request = Request { select, exclude: Vec::new(), ..asked.request };
        let kept = Kept { request, ..asked };
        let text = serde_json::to_string(&kept)
            .map_err(|e| Error::internal("what a backfill was asked for does not serialise").source(e))?;
        let now = self.clock.now();
        let backfill = self.backfills.begin(runner.of(), &text, range, &chunks, &self.user, now).await?;
        Ok((backfill, kept))
    }

    async fn runner(&self, request: &Request) -> Result<Runner> {
        let project = Project::read(&request.bundle, &request.vars).map_err(|problems| {
            let all: Vec<String> = problems
                .iter()
                .map(|problem| format!("{}: {}", problem.file, problem.error.report()))
                .collect();
            Error::invalid(format!("the project is wrong: {}", all.join("; ")))
                .hint("skep pipeline check shows where")
        })?;
        let session = self.coordinator.open_session(&self.user);
        let (ledger, clock) = (self.ledger.clone(), Arc::clone(&self.clock));
        Runner::new(session, ledger, project, request.clone(), self.events.clone(), clock).await
    }

    /// Makes every chunk that is not made. How many.
    async fn chunks(&self, backfill: i64, kept: &Kept) -> Result<u64> {
        let (mut made, started) = (0_u64, self.clock.instant());
        loop {
            let (next, all, done) = self.backfills.next(backfill).await?;
            let Some(chunk) = next else { return Ok(made) };
            if made == 0 {
                self.tell(Event::Backfill {
                    backfill,
                    chunks: all,
                    done,
                    start: kept.request.start.clone(),
                    end: kept.request.end.clone(),
                })
                .await;
            } else {
                self.pause(Duration::from_millis(kept.pause_ms.unwrap_or(0))).await?;
            }
            let begun = self.clock.instant();
            let (run, message) = self.chunk(chunk, kept, done > 0).await?;
            made += 1;
            let now = self.clock.instant();
            let left = u32::try_from(all - done - 1).unwrap_or(u32::MAX);
            let left = (now - started).div_f64(made as f64).saturating_mul(left);
            let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
            self.tell(Event::Chunk {
                backfill,
                chunk: done + 1,
                chunks: all,
                range: chunk.span.to_string(),
                run,
                took_ms: millis(now - begun),
                left_ms: millis(left),
                message,
            })
            .await;
        }
    }

    /// Makes one, as soon as no other run goes on or comes in the way.
    async fn chunk(&self, chunk: Chunk, kept: &Kept, begun: bool) -> Result<(i64, String)> {
        let limit = Duration::from_millis(kept.wait_ms);
        let (started, mut told) = (self.clock.instant(), false);
        loop {
            let request = Request {
                start: Some(interval::text(chunk.span.start)),
                end: Some(interval::text(chunk.span.end)),
                ..kept.request.clone()
            };
            let mut runner = self.runner(&request).await?;
            if begun && let Some(model) = runner.published_otherwise() {
                return Err(Error::invalid(format!(
                    "'{model}' was published with another text in the meantime"
                ))
                .hint("begin another backfill with the text as it is now"));
            }
            runner.quiet = true;
            runner.chunk = Some((chunk, self.backfills.clone()));
            let end = runner.run_quietly(std::future::pending()).await;
            match end.error {
                None => return Ok((runner.number(), end.message)),
                Some(error) if error.kind() == Kind::Conflict && self.clock.instant() - started < limit => {
                    if !std::mem::replace(&mut told, true) {
                        let message = format!("{}: {}, waiting", chunk.span, error.report());
                        self.tell(Event::Warning { message }).await;
                    }
                    self.pause(LOOK).await?;
                }
                Some(error) => return Err(error.context(format!("{}", chunk.span))),
            }
        }
    }
}

fn chunks_word(count: u64) -> &'static str {
    if count == 1 { "chunk" } else { "chunks" }
}

fn shown(error: &Error) -> String {
    let hint = error.hint_text().map(|hint| format!("; hint: {hint}")).unwrap_or_default();
    format!("{}{hint}", error.report())
}

/// Cuts a range where intervals of `grain` begin, every `count` of them, the oldest first. The ends stay what they are.
fn cut(grain: Grain, range: Span, count: u32) -> Result<Vec<Span>> {
    let starts = grain.starts(range.start, range.end)?;
    let step = usize::try_from(count).unwrap_or(usize::MAX);
    let mut places: BTreeSet<_> =
        starts.iter().step_by(step).copied().filter(|start| *start > range.start).collect();
    // Finer intervals behind the last coarse one that is over.
    places.extend(starts.last().map(|last| grain.step(*last, 1)).filter(|end| *end < range.end));
    let places: Vec<_> = std::iter::once(range.start).chain(places).chain([range.end]).collect();
    Ok(places.windows(2).map(|ends| Span { start: ends[0], end: ends[1] }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(grain: Grain, start: &str, end: &str, count: u32) -> Vec<String> {
        let range = Span { start: interval::parse(start).unwrap(), end: interval::parse(end).unwrap() };
        cut(grain, range, count).unwrap().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn chunks_begin_where_the_coarsest_intervals_do() {
        assert_eq!(
            shown(Grain::Day, "2024-02-28", "2024-03-02", 2),
            ["2024-02-28 to 2024-03-01", "2024-03-01 to 2024-03-02"]
        );
        assert_eq!(
            shown(Grain::Month, "2024-01-10", "2024-03-05", 1),
            ["2024-01-10 to 2024-02-01", "2024-02-01 to 2024-03-01", "2024-03-01 to 2024-03-05"]
        );
        assert_eq!(shown(Grain::Month, "2024-01-10", "2024-01-12", 1), ["2024-01-10 to 2024-01-12"]);
        assert_eq!(shown(Grain::Hour, "2024-01-01", "2024-01-02", 12).len(), 2);
    }
}
