//! Settings that travel with a plan from the coordinator to the workers.
//!
//! A worker starts every task from default settings. What a session changed and what an operator reads while it runs
//! (`datafusion.execution.*`: batch size, time zone, spilling, ...) is packed into one header, and put back there.

use std::collections::BTreeMap;
use std::fmt::Write;

use datafusion::common::extensions_options;
use datafusion::config::{ConfigExtension, ConfigOptions, ExtensionOptions};
use datafusion::prelude::SessionConfig;
use skep_common::{Error, QueryId, Result};
use skep_engine::memory::Share;

extensions_options! {
    /// What travels, as datafusion-distributed wants it: a set of named texts that fit HTTP headers.
    pub struct Travel {
        /// See [`pack`].
        pub options: String, default = String::new()
        /// The id of the statement.
        pub query: String, default = String::new()
        /// Its resource group.
        pub group: String, default = String::new()
        /// Percent of a node's memory that it may take there.
        pub memory_percent: u64, default = 100
    }
}

impl ConfigExtension for Travel {
    const PREFIX: &'static str = "skep_travel";
}

impl Travel {
    /// What the plans of statement `query` take along from its session.
    pub fn of(config: &SessionConfig, query: QueryId) -> Self {
        let mut travel =
            Self { options: pack(config.options()), query: query.to_string(), ..Self::default() };
        if let Some(share) = config.get_extension::<Share>() {
            travel.group.clone_from(&share.group);
            travel.memory_percent = share.percent.into();
        }
        travel
    }

    /// What arrived among other pairs of names and values, as [`ConfigOptions::entries`] lists them: our names without a prefix.
    ///
    /// # Errors
    /// [`Kind::Internal`](skep_common::Kind::Internal) for values of another version.
    pub fn from_pairs<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Result<Self> {
        let mut travel = Self::default();
        let names = travel.entries();
        for (key, value) in pairs {
            if names.iter().any(|name| name.key == key) {
                ExtensionOptions::set(&mut travel, key, value).map_err(|e| {
                    Error::internal("the settings that came with the plan are not readable").source(e)
                })?;
            }
        }
        Ok(travel)
    }

    /// What the statement may take of a node's memory.
    pub fn share(&self) -> Share {
        let percent = u8::try_from(self.memory_percent).unwrap_or(100);
        Share { group: self.group.clone(), percent }
    }
}

const PREFIX: &str = "datafusion.execution.";

/// The execution settings of `config` that differ from the defaults, as ASCII text.
fn pack(config: &ConfigOptions) -> String {
    let entries = |config: &ConfigOptions| -> BTreeMap<String, Option<String>> {
        let all = config.entries().into_iter().filter(|entry| entry.key.starts_with(PREFIX));
        all.map(|entry| (entry.key, entry.value)).collect()
    };
    let defaults = entries(&ConfigOptions::default());
    let changed: BTreeMap<String, String> = entries(config)
        .into_iter()
        .filter(|(key, value)| defaults.get(key) != Some(value))
        .filter_map(|(key, value)| Some((key, value?)))
        .collect();
    if changed.is_empty() {
        return String::new();
    }
    // A map of strings always serialises.
    let json = serde_json::to_string(&changed).unwrap_or_default();
    json.chars().fold(String::with_capacity(json.len()), |mut text, c| {
        if c.is_ascii() {
            text.push(c);
        } else {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                // Writing to a string cannot fail.
                let _ = write!(text, "\\u{unit:04x}");
            }
        }
        text
    })
}

/// Puts what [`pack`] made into `config`.
///
/// # Errors
/// [`Kind::Internal`](skep_common::Kind::Internal) for a text that is not from [`pack`], or settings of another version.
pub fn unpack(text: &str, config: &mut ConfigOptions) -> Result<()> {
    if text.is_empty() {
        return Ok(());
    }
    let wrong =
        |e: String| Error::internal("the settings that came with the plan are not readable").source(e);
    let changed: BTreeMap<String, String> = serde_json::from_str(text).map_err(|e| wrong(e.to_string()))?;
    for (key, value) in changed.iter().filter(|(key, _)| key.starts_with(PREFIX)) {
        config.set(key, value).map_err(|e| wrong(e.to_string()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn changed_settings_arrive_and_others_stay_home() {
        let mut config = ConfigOptions::default();
        assert_eq!(pack(&config), "");
        config.set("datafusion.execution.batch_size", "17").unwrap();
        config.set("datafusion.execution.time_zone", "Europe/K\u{f8}benhavn").unwrap();
        config.set("datafusion.catalog.default_schema", "mart").unwrap();
        let text = pack(&config);
        assert!(text.is_ascii() && !text.contains("mart"));
        let mut there = ConfigOptions::default();
        unpack(&text, &mut there).unwrap();
        assert_eq!(there.execution.batch_size.get(), 17);
        assert_eq!(there.execution.time_zone.as_deref(), Some("Europe/K\u{f8}benhavn"));
        assert!(unpack("nonsense", &mut there).is_err());
    }

    #[test]
    fn what_travels_is_found_among_other_settings() {
        let mut config = SessionConfig::new().with_batch_size(17);
        config.set_extension(Arc::new(Share { group: "etl".to_owned(), percent: 7 }));
        let query = QueryId::generate();
        let config = SessionConfig::new().with_option_extension(Travel::of(&config, query));
        let entries = config.options().entries();
        let pairs = entries.iter().filter_map(|entry| Some((entry.key.as_str(), entry.value.as_deref()?)));
        let travel = Travel::from_pairs(pairs).unwrap();
        assert_eq!(travel.share(), Share { group: "etl".to_owned(), percent: 7 });
        assert_eq!(travel.query, query.to_string());
        let mut there = ConfigOptions::default();
        unpack(&travel.options, &mut there).unwrap();
        assert_eq!(there.execution.batch_size.get(), 17);
    }
}
