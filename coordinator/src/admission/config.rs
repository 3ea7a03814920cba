//! Resource groups as the config file has them.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use skep_common::{ByteSize, Error, Result};

use crate::maintenance::optional_duration;

/// The group of sessions that choose none. It is always there.
pub const DEFAULT: &str = "default";

/// What statements of a resource group may take. Table `[coordinator.groups.NAME]` of the config file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Group {
    /// Statements that run at a time; more wait.
    pub concurrency: NonZeroU32,
    /// Statements that wait at most; one more is refused.
    pub queue: u32,
    /// How long a statement waits for its turn before it is refused.
    #[serde(with = "skep_common::unit::duration")]
    pub queue_timeout: Duration,
    /// How long a statement may run, its rows read included, from its turn on. Absent: as long as it takes.
    #[serde(with = "optional_duration", skip_serializing_if = "Option::is_none")]
    pub run_timeout: Option<Duration>,
    /// Bytes that a plan may have to read, as planned. Absent: any number.
    pub scan_bytes_max: Option<ByteSize>,
    /// Percent of the memory budget of each node that one statement may take there. 1 to 100.
    pub memory_percent: u8,
}

impl Default for Group {
    fn default() -> Self {
        Self {
            concurrency: NonZeroU32::MIN.saturating_add(99),
            queue: 1_000,
            queue_timeout: Duration::from_secs(5 * 60),
            run_timeout: None,
            scan_bytes_max: None,
            memory_percent: 100,
        }
    }
}

/// The resource groups by name.
pub type Groups = BTreeMap<String, Group>;

/// The groups that there are: those of the file, and [`DEFAULT`].
///
/// # Errors
/// [`Kind::Invalid`](skep_common::Kind::Invalid), naming every key that is wrong.
pub(super) fn validated(mut groups: Groups) -> Result<Groups> {
    let mut wrong = Vec::new();
    for (name, group) in &groups {
        let letters = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(c);
        if name.is_empty() || !name.chars().all(letters) {
            wrong.push(format!("'{name}' is no name of a group (lower-case letters, digits, '-' and '_')"));
        }
        let key = |key: &str| format!("[coordinator.groups.{name}] {key}");
        if !(1..=100).contains(&group.memory_percent) {
            wrong.push(format!("{} is not 1 to 100", key("memory_percent")));
        }
        if group.run_timeout.is_some_and(|timeout| timeout.is_zero()) {
            wrong.push(format!("{} is zero; leave it out for none", key("run_timeout")));
        }
    }
    if !wrong.is_empty() {
        return Err(Error::invalid(wrong.join("; ")).hint("docs/operations.md lists the keys of groups"));
    }
    groups.entry(DEFAULT.to_owned()).or_default();
    Ok(groups)
}
