//! Settings that travel with a plan from the coordinator to the workers.
//!
//! A worker starts every task from default settings. What a session changed and what an operator reads while it runs
//! (`datafusion.execution.*`: batch size, time zone, spilling, ...) is packed into one header, and put back there.

use std::collections::BTreeMap;
use std::fmt::Write;

use datafusion::common::extensions_options;
use datafusion::config::{ConfigExtension, ConfigOptions};
use skep_common::{Error, Result};

extensions_options! {
    /// What travels, as datafusion-distributed wants it: a set of named texts that fit HTTP headers.
    pub struct Travel {
        /// See [`pack`].
        pub options: String, default = String::new()
        /// The id of the query, for logs.
        pub query: String, default = String::new()
    }
}

impl ConfigExtension for Travel {
    const PREFIX: &'static str = "skep_travel";
}

/// The name that [`Travel::options`] travels under.
pub const TRAVEL_OPTIONS: &str = "skep_travel.options";

const PREFIX: &str = "datafusion.execution.";

/// The execution settings of `config` that differ from the defaults, as ASCII text.
pub fn pack(config: &ConfigOptions) -> String {
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
}
