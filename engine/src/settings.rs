//! The settings of a session: names, values that are checked when they are set, and what they mean.
//!
//! Our own begin with `skep.`, which may be left out; `datafusion.execution.*`, `datafusion.optimizer.*` and
//! `datafusion.explain.*` reach DataFusion as they are, for people who know it. Workers get them with each plan.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::array::timezone::Tz;
use datafusion::config::{ConfigNonZeroUsize, ConfigOptions};
use datafusion::prelude::SessionConfig;
use skep_common::{ByteSize, Error, Result, unit};

use crate::names;

/// Name of the setting that chooses the lane.
pub const EXECUTION: &str = "skep.execution";
/// Name of the setting that names the schema of unqualified names. Setting it does not check that the schema exists.
pub const SCHEMA: &str = "skep.schema";
/// Name of the setting with the folder that relative file paths start at. Empty: the coordinator's own.
pub const DIRECTORY: &str = "skep.directory";
/// Name of the setting that chooses the resource group. Setting it does not check that there is one of that name.
pub const GROUP: &str = "skep.group";
const TIME_ZONE: &str = "skep.time_zone";
const BATCH_SIZE: &str = "skep.batch_size";
const PARTITIONS: &str = "skep.partitions";
pub(crate) const FILE_SIZE: &str = "skep.file_size";
const RETRIES: &str = "skep.retries";
const TIMEOUT: &str = "skep.statement_timeout";
const VIEW_TYPES: &str = "skep.view_types";

/// Prefixes of DataFusion's options that may be set.
const FOREIGN: [&str; 3] = ["datafusion.execution.", "datafusion.optimizer.", "datafusion.explain."];

/// Where a statement runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Execution {
    /// The coordinator chooses by the plan.
    Auto,
    /// In the coordinator.
    Local,
    /// On the workers, all stages at once.
    Pipelined,
    /// On the workers, stage by stage, with outputs on disk.
    Durable,
}

/// How often a statement is run again when workers are lost: what `skep.retries` says, for those who run plans.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retries(pub usize);

/// One of our settings: its name, its default and what it is for.
struct Spec {
    name: &'static str,
    default: &'static str,
    about: &'static str,
    check: fn(&str) -> Result<String>,
}

const SPECS: [Spec; 11] = [
    Spec {
        name: BATCH_SIZE,
        default: "8192",
        about: "rows in a batch, 1 to 1048576; fewer need less memory, more need less time",
        check: |value| number(value, 1, 1 << 20),
    },
    Spec {
        name: DIRECTORY,
        default: "",
        about: "folder that relative file paths start at; empty: where the coordinator was started",
        check: |value| Ok(value.to_owned()),
    },
    Spec {
        name: EXECUTION,
        default: "auto",
        about: "where statements run: auto, local (the coordinator), pipelined (the workers, all stages at once) or durable (the workers, stage by stage, what is lost is made again)",
        check: execution,
    },
    Spec {
        name: FILE_SIZE,
        default: "128MiB",
        about: "size at which a writer begins the next file, 1MiB to 4GiB",
        check: file_size,
    },
    Spec {
        name: GROUP,
        default: "default",
        about: "resource group that statements run in; system.groups shows those there are",
        check: |value| match value {
            "" => Err(Error::invalid("the name of a resource group is empty")),
            name => Ok(name.to_owned()),
        },
    },
    Spec {
        name: PARTITIONS,
        default: "auto",
        about: "parallel parts of a plan on one node, 1 to 1024; auto: its cores",
        check: |value| {
            if value.eq_ignore_ascii_case("auto") { Ok("auto".to_owned()) } else { number(value, 1, 1024) }
        },
    },
    Spec {
        name: RETRIES,
        default: "2",
        about: "how often a statement is run again when workers are lost before its first row left, 0 to 100; the pipelined lane runs it on the durable one after that",
        check: |value| number(value, 0, 100),
    },
    Spec {
        name: SCHEMA,
        default: names::DEFAULT_SCHEMA,
        about: "schema of names without one",
        check: |value| match value {
            "" => Err(Error::invalid("the name of a schema is empty")),
            name => Ok(name.to_owned()),
        },
    },
    Spec {
        name: TIMEOUT,
        default: "none",
        about: "time after which a statement is cancelled, its rows read or not, as in 30s or 5min; none: never",
        check: timeout,
    },
    Spec {
        name: TIME_ZONE,
        default: "UTC",
        about: "time zone of timestamps with a zone, as in +02:00 or Europe/Vienna",
        check: time_zone,
    },
    Spec {
        name: VIEW_TYPES,
        default: "true",
        about: "read strings as views inside queries, which is faster; results are plain strings either way",
        check: boolean,
    },
];

/// One line of SHOW SETTINGS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingInfo {
    /// Its full name.
    pub name: String,
    /// Its value now.
    pub value: String,
    /// Its value unless it is set.
    pub default: String,
    /// What it is for.
    pub about: String,
}

/// What was set, checked. Cheap to clone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    own: BTreeMap<&'static str, String>,
    foreign: BTreeMap<String, String>,
}

impl Settings {
    /// Sets `name`, or takes it back to its default for `None`.
    ///
    /// # Errors
    /// [`Kind::NotFound`](skep_common::Kind::NotFound) for an unknown name, with the nearest;
    /// [`Kind::Invalid`](skep_common::Kind::Invalid) for a value it does not take;
    /// [`Kind::Unsupported`](skep_common::Kind::Unsupported) for one that this version does not have yet.
    pub fn set(&mut self, name: &str, value: Option<&str>) -> Result<()> {
        let name = name.to_ascii_lowercase();
        if let Some(spec) = find(&name) {
            match value {
                Some(value) => self.own.insert(spec.name, (spec.check)(value.trim())?),
                None => self.own.remove(spec.name),
            };
            return Ok(());
        }
        if !foreign_names().contains(&name) {
            return Err(unknown(&name));
        }
        match value {
            Some(value) => {
                ConfigOptions::new().set(&name, value).map_err(|_| {
                    Error::invalid(format!("'{value}' is not a value of the setting '{name}'"))
                })?;
                self.foreign.insert(name, value.to_owned());
            }
            None => {
                self.foreign.remove(&name);
            }
        }
        Ok(())
    }

    /// The value of `name` as text.
    ///
    /// # Errors
    /// [`Kind::NotFound`](skep_common::Kind::NotFound) for an unknown name, with the nearest.
    pub fn get(&self, name: &str) -> Result<String> {
        let name = name.to_ascii_lowercase();
        if let Some(spec) = find(&name) {
            return Ok(self.own(spec.name).to_owned());
        }
        let info = self.foreign_list().into_iter().find(|info| info.name == name);
        info.map(|info| info.value).ok_or_else(|| unknown(&name))
    }

    /// Every setting: ours, then DataFusion's, by name.
    pub fn list(&self) -> Vec<SettingInfo> {
        let own = SPECS.iter().map(|spec| SettingInfo {
            name: spec.name.to_owned(),
            value: self.own(spec.name).to_owned(),
            default: spec.default.to_owned(),
            about: spec.about.to_owned(),
        });
        own.chain(self.foreign_list()).collect()
    }

    /// The lane that was asked for.
    pub fn execution(&self) -> Execution {
        match self.own(EXECUTION) {
            "local" => Execution::Local,
            "pipelined" => Execution::Pipelined,
            "durable" => Execution::Durable,
            _ => Execution::Auto,
        }
    }

    /// The resource group that statements run in.
    pub fn group(&self) -> &str {
        self.own(GROUP)
    }

    /// The schema of names without one.
    pub fn schema(&self) -> &str {
        self.own(SCHEMA)
    }

    /// The folder that relative file paths start at, if one was set.
    pub fn directory(&self) -> Option<&str> {
        Some(self.own(DIRECTORY)).filter(|folder| !folder.is_empty())
    }

    /// How often a statement is run again when workers are lost.
    pub fn retries(&self) -> usize {
        self.own(RETRIES).parse().unwrap_or_default()
    }

    /// The time zone of timestamps with a zone.
    pub fn time_zone(&self) -> &str {
        self.own(TIME_ZONE)
    }

    /// Rows in a batch.
    pub fn batch_size(&self) -> usize {
        self.own(BATCH_SIZE).parse().unwrap_or(8192)
    }

    /// Parallel parts of a plan on one node, if it was set.
    pub fn partitions(&self) -> Option<NonZeroUsize> {
        self.own(PARTITIONS).parse().ok()
    }

    /// Size at which a writer begins the next file.
    pub fn file_size(&self) -> ByteSize {
        self.own(FILE_SIZE).parse().unwrap_or(ByteSize::mib(128))
    }

    /// Time after which a statement is cancelled.
    pub fn statement_timeout(&self) -> Option<Duration> {
        unit::parse_duration(self.own(TIMEOUT)).ok()
    }

    /// Whether strings are views inside queries.
    pub fn view_types(&self) -> bool {
        self.own(VIEW_TYPES) == "true"
    }

    /// Writes what concerns execution into `config`.
    #[must_use]
    pub fn apply(&self, mut config: SessionConfig) -> SessionConfig {
        let options = config.options_mut();
        options.execution.time_zone = Some(self.time_zone().to_owned());
        // The exchange within a node can wait for ever on a spill file that is still written to (apache/datafusion 24883): let
        // each hold one batch, so that none is open when it is read. Nothing else asks for this size.
        if let Ok(one) = ConfigNonZeroUsize::try_new(1) {
            options.execution.max_spill_file_size_bytes = one;
        }
        for (name, value) in &self.foreign {
            // Checked when it was set.
            let _ = options.set(name, value);
        }
        config.with_batch_size(self.batch_size()).with_extension(Arc::new(Retries(self.retries())))
    }

    fn own(&self, name: &'static str) -> &str {
        let set = self.own.get(name).map(String::as_str);
        set.unwrap_or_else(|| find(name).map_or("", |spec| spec.default))
    }

    fn foreign_list(&self) -> Vec<SettingInfo> {
        let entries = ConfigOptions::new().entries().into_iter();
        let mut list: Vec<SettingInfo> = entries
            .filter(|entry| FOREIGN.iter().any(|prefix| entry.key.starts_with(prefix)))
            .map(|entry| {
                let default = entry.value.unwrap_or_default();
                let value = self.foreign.get(&entry.key).cloned().unwrap_or_else(|| default.clone());
                SettingInfo { name: entry.key, value, default, about: entry.description.to_owned() }
            })
            .collect();
        list.sort_by(|a, b| a.name.cmp(&b.name));
        list
    }
}

/// One of ours by its full name, its name without `skep.`, or a name it has elsewhere.
fn find(name: &str) -> Option<&'static Spec> {
    let name = match name {
        "timezone" => TIME_ZONE,
        "search_path" | "current_schema" => SCHEMA,
        "target_partitions" => PARTITIONS,
        other => other,
    };
    SPECS.iter().find(|spec| spec.name == name || spec.name.strip_prefix("skep.") == Some(name))
}

fn foreign_names() -> Vec<String> {
    let entries = ConfigOptions::new().entries().into_iter().map(|entry| entry.key);
    entries.filter(|key| FOREIGN.iter().any(|prefix| key.starts_with(prefix))).collect()
}

fn unknown(name: &str) -> Error {
    let error = Error::not_found(format!("setting '{name}' does not exist"));
    let foreign = foreign_names();
    // Long common beginnings make all of DataFusion's names alike: only their ends count.
    if let Some((group, end)) = name.rsplit_once('.')
        && FOREIGN.iter().any(|prefix| name.starts_with(prefix))
    {
        let ends =
            foreign.iter().filter_map(|known| known.rsplit_once('.')).filter(|(other, _)| *other == group);
        return match names::nearest(end, ends.map(|(_, end)| end)) {
            Some(near) => error.hint(format!("did you mean '{group}.{near}'?")),
            None => error.hint("SHOW SETTINGS lists them"),
        };
    }
    let known = SPECS.iter().flat_map(|spec| [spec.name, spec.name.trim_start_matches("skep.")]);
    match names::nearest(name, known.chain(foreign.iter().map(String::as_str))) {
        Some(near) => error.hint(format!("did you mean '{near}'?")),
        None => error.hint("SHOW SETTINGS lists them"),
    }
}

fn number(value: &str, least: u64, most: u64) -> Result<String> {
    match value.parse::<u64>() {
        Ok(n) if (least..=most).contains(&n) => Ok(n.to_string()),
        _ => Err(Error::invalid(format!("'{value}' is not a whole number from {least} to {most}"))),
    }
}

fn boolean(value: &str) -> Result<String> {
    match value.to_ascii_lowercase().as_str() {
        "true" | "on" | "yes" | "1" => Ok("true".to_owned()),
        "false" | "off" | "no" | "0" => Ok("false".to_owned()),
        _ => Err(Error::invalid(format!("'{value}' is neither true nor false"))),
    }
}

fn execution(value: &str) -> Result<String> {
    let value = value.to_ascii_lowercase();
    match value.as_str() {
        "auto" | "local" | "pipelined" | "durable" => Ok(value),
        _ => {
            let error = Error::invalid(format!("'{value}' is not a way to execute"));
            Err(match names::nearest(&value, ["auto", "local", "pipelined", "durable"]) {
                Some(near) => error.hint(format!("did you mean '{near}'?")),
                None => error.hint("use auto, local, pipelined or durable"),
            })
        }
    }
}

pub(crate) fn file_size(value: &str) -> Result<String> {
    let size: ByteSize = value.parse()?;
    if size < ByteSize::mib(1) || size > ByteSize::gib(4) {
        return Err(Error::invalid(format!("a file size of {size} is out of range")).hint("1MiB to 4GiB"));
    }
    Ok(value.to_owned())
}

fn timeout(value: &str) -> Result<String> {
    match value.to_ascii_lowercase().as_str() {
        "none" | "0" => Ok("none".to_owned()),
        text => unit::parse_duration(text).map(|_| text.to_owned()),
    }
}

fn time_zone(value: &str) -> Result<String> {
    match Tz::from_str(value) {
        Ok(_) => Ok(value.to_owned()),
        Err(_) => Err(Error::invalid(format!("'{value}' is not a time zone"))
            .hint("write an offset as in +02:00, or a name as in Europe/Vienna")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_checked_and_come_back() {
        let mut settings = Settings::default();
        assert_eq!((settings.execution(), settings.schema()), (Execution::Auto, "main"));
        for (name, value, shown) in [
            ("skep.execution", "LOCAL", "local"),
            ("batch_size", "1024", "1024"),
            ("timezone", "+02:00", "+02:00"),
            ("target_partitions", "3", "3"),
            ("skep.file_size", "64 MiB", "64 MiB"),
            ("datafusion.optimizer.prefer_hash_join", "false", "false"),
        ] {
            settings.set(name, Some(value)).unwrap();
            assert_eq!(settings.get(name).unwrap(), shown, "{name}");
        }
        assert_eq!(settings.execution(), Execution::Local);
        assert_eq!(settings.partitions().map(NonZeroUsize::get), Some(3));
        settings.set("execution", None).unwrap();
        assert_eq!(settings.execution(), Execution::Auto);
    }

    #[test]
    fn wrong_names_and_values_say_what_is_right() {
        let mut settings = Settings::default();
        let mut error =
            |name: &str, value: &str| format!("{:?}", settings.set(name, Some(value)).unwrap_err());
        let errors = [
            error("skep.exeuction", "auto"),
            error("skep.nosuch", "1"),
            error("skep.execution", "sideways"),
            error("batch_size", "0"),
            error("skep.time_zone", "Mars/Base"),
            error("datafusion.execution.nosuch", "1"),
            error("datafusion.optimizer.prefer_hash_join", "perhaps"),
            error("datafusion.catalog.location", "x"),
        ];
        insta::assert_snapshot!(errors.join("\n"), @r#"
        not_found: setting 'skep.exeuction' does not exist (hint: did you mean 'skep.execution'?)
        not_found: setting 'skep.nosuch' does not exist (hint: SHOW SETTINGS lists them)
        invalid: 'sideways' is not a way to execute (hint: use auto, local, pipelined or durable)
        invalid: '0' is not a whole number from 1 to 1048576
        invalid: 'Mars/Base' is not a time zone (hint: write an offset as in +02:00, or a name as in Europe/Vienna)
        not_found: setting 'datafusion.execution.nosuch' does not exist (hint: SHOW SETTINGS lists them)
        invalid: 'perhaps' is not a value of the setting 'datafusion.optimizer.prefer_hash_join'
        not_found: setting 'datafusion.catalog.location' does not exist (hint: SHOW SETTINGS lists them)
        "#);
    }
}
