//! `[[schedule]]` and `[[notify]]` of pipeline.toml.
//!
//! # Not here
//! What is done by them (`core`, `crate::notify`).

use std::ops::Range;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use skep_common::unit::parse_duration;
use skep_common::{Error, Result};
use toml::Spanned;
use url::Url;

use super::cron::{self, Times};

/// More attempts than these are no help.
const RETRIES_MAX: u32 = 100;
const RETRY_DELAY: Duration = Duration::from_secs(60);
const ZONE: &str = "UTC";

/// What becomes of nominal times that came while nothing could run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum CatchUp {
    /// A run for each, one after the other.
    All,
    /// A run for the last; the others are left out.
    Latest,
    /// One run for all of them.
    #[default]
    Collapse,
}

/// What becomes of a nominal time that comes while the run of an earlier one goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Overlap {
    /// It is left out.
    Skip,
    /// It waits; several that wait are caught up as those that were missed.
    #[default]
    Queue,
}

/// A schedule whose values are in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Spec {
    pub(crate) name: String,
    pub(crate) cron: String,
    pub(crate) time_zone: String,
    pub(crate) select: Vec<String>,
    pub(crate) exclude: Vec<String>,
    pub(crate) catch_up: CatchUp,
    pub(crate) overlap: Overlap,
    pub(crate) retries: u32,
    pub(crate) retry_delay: Duration,
    pub(crate) timeout: Option<Duration>,
    pub(crate) late_after: Option<Duration>,
}

/// What is told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum On {
    /// A run failed, and is not tried again.
    Failure,
    /// A run ended well after one that failed.
    Recovery,
    /// A run did not end in time.
    Late,
}

impl On {
    /// As tables show it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Failure => "failure",
            Self::Recovery => "recovery",
            Self::Late => "late",
        }
    }
}

/// Who is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Target {
    /// By a POST.
    Webhook(Url),
    /// By a program of the coordinator's machine.
    Command(Vec<String>),
}

impl Target {
    /// For people; addresses of webhooks are secrets.
    pub(crate) fn shown(&self) -> String {
        match self {
            Self::Webhook(url) => format!("webhook {}", url.host_str().unwrap_or_default()),
            Self::Command(words) => format!("command {}", words.first().map_or("", String::as_str)),
        }
    }
}

/// A notification whose values are in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Notify {
    pub(crate) on: Vec<On>,
    pub(crate) target: Target,
}

/// `[[schedule]]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawSchedule {
    name: Spanned<String>,
    cron: Spanned<String>,
    time_zone: Option<Spanned<String>>,
    #[serde(default)]
    pub(crate) select: Vec<Spanned<String>>,
    #[serde(default)]
    pub(crate) exclude: Vec<Spanned<String>>,
    #[serde(default)]
    catch_up: CatchUp,
    #[serde(default)]
    overlap: Overlap,
    retries: Option<Spanned<u32>>,
    retry_delay: Option<Spanned<String>>,
    timeout: Option<Spanned<String>>,
    late_after: Option<Spanned<String>>,
}

/// `[[notify]]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawNotify {
    on: Spanned<Vec<On>>,
    webhook: Option<Spanned<String>>,
    command: Option<Spanned<Vec<String>>>,
}

/// What is wrong, and where in the text.
pub(crate) type Wrong = (Range<usize>, Error);

fn placed<T>(span: Range<usize>, read: Result<T>) -> Result<T, Wrong> {
    read.map_err(|error| (span, error))
}

fn time(written: &Option<Spanned<String>>) -> Result<Option<Duration>, Wrong> {
    let Some(written) = written else { return Ok(None) };
    let read = parse_duration(written.as_ref()).and_then(|time| match time {
        Duration::ZERO => Err(Error::invalid("it must be longer than nothing").hint("as in \"30min\"")),
        time => Ok(time),
    });
    placed(written.span(), read).map(Some)
}

impl RawSchedule {
    /// The names of all schedules of a project, to tell that two have one.
    pub(crate) fn name(&self) -> (&str, Range<usize>) {
        (self.name.as_ref(), self.name.span())
    }

    /// # Errors
    /// The first value that is not in order.
    pub(crate) fn spec(&self) -> Result<Spec, Wrong> {
        let name = self.name.as_ref();
        let plain = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
        if name.is_empty() || !name.chars().all(plain) {
            let error = Error::invalid(format!("'{name}' is no name of a schedule"));
            return Err((self.name.span(), error.hint("letters, digits, _ and -")));
        }
        placed(self.cron.span(), cron::pattern(self.cron.as_ref()))?;
        let zone = self.time_zone.as_ref().map_or(ZONE, |zone| zone.as_ref());
        if let Some(written) = &self.time_zone {
            placed(written.span(), cron::zone(zone))?;
        }
        let times = placed(self.cron.span(), Times::new(self.cron.as_ref(), zone))?;
        // Of the past: a schedule that came once and never again is wrong as well.
        if times.after(chrono::DateTime::UNIX_EPOCH).is_none() {
            let error = Error::invalid(format!("'{}' never comes", self.cron.as_ref()));
            return Err((self.cron.span(), error.hint("no year has such a day")));
        }
        if let Some(retries) = self.retries.as_ref().filter(|retries| *retries.as_ref() > RETRIES_MAX) {
            let error = Error::invalid(format!("retries is at most {RETRIES_MAX}"));
            return Err((retries.span(), error));
        }
        let words = |written: &[Spanned<String>]| written.iter().map(|word| word.as_ref().clone()).collect();
        Ok(Spec {
            name: name.to_owned(),
            cron: self.cron.as_ref().clone(),
            time_zone: zone.to_owned(),
            select: words(&self.select),
            exclude: words(&self.exclude),
            catch_up: self.catch_up,
            overlap: self.overlap,
            retries: self.retries.as_ref().map_or(0, |retries| *retries.as_ref()),
            retry_delay: time(&self.retry_delay)?.unwrap_or(RETRY_DELAY),
            timeout: time(&self.timeout)?,
            late_after: time(&self.late_after)?,
        })
    }
}

impl RawNotify {
    /// # Errors
    /// The first value that is not in order.
    pub(crate) fn notify(&self) -> Result<Notify, Wrong> {
        let on = self.on.as_ref().clone();
        if on.is_empty() {
            let error = Error::invalid("on names nothing").hint("on = [\"failure\", \"recovery\", \"late\"]");
            return Err((self.on.span(), error));
        }
        let target = match (&self.webhook, &self.command) {
            (Some(url), None) => Target::Webhook(placed(url.span(), webhook(url.as_ref()))?),
            (None, Some(words)) if words.as_ref().first().is_some_and(|word| !word.is_empty()) => {
                Target::Command(words.as_ref().clone())
            }
            (None, Some(words)) => {
                let error =
                    Error::invalid("the command is empty").hint("command = [\"program\", \"argument\"]");
                return Err((words.span(), error));
            }
            (Some(url), Some(_)) => {
                return Err((
                    url.span(),
                    Error::invalid("a notification has a webhook or a command, not both"),
                ));
            }
            (None, None) => {
                let error = Error::invalid("who is told is missing");
                return Err((
                    self.on.span(),
                    error.hint("webhook = \"https://...\" or command = [\"program\"]"),
                ));
            }
        };
        Ok(Notify { on, target })
    }
}

fn webhook(text: &str) -> Result<Url> {
    let wrong = |why: String| {
        Error::invalid(format!("the webhook is no address: {why}")).hint("https://HOST/PATH, or http://")
    };
    let url: Url = text.parse().map_err(|e: url::ParseError| wrong(e.to_string()))?;
    match url.scheme() {
        "http" | "https" => Ok(url),
        scheme => Err(wrong(format!("'{scheme}' is not http or https"))),
    }
}
