//! What a pass over the tables does. Pure: no I/O, no clock.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::Config;

/// A table as maintenance sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TableState {
    /// As statements name it.
    pub(crate) name: String,
    /// Files that OPTIMIZE would put together.
    pub(crate) together: u64,
    /// When rows were added or changed last.
    pub(crate) changed: DateTime<Utc>,
    /// Whether its properties leave it out.
    pub(crate) off: bool,
    /// How long its property keeps snapshots.
    pub(crate) retention: Option<Duration>,
    /// Whether it has files that OPTIMIZE does not read.
    pub(crate) foreign: bool,
}

/// The catalog as maintenance sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct CatalogState {
    pub(crate) tables: Vec<TableState>,
    /// When the second snapshot was made: the first can go when it is old enough. Absent: there is one.
    pub(crate) oldest: Option<DateTime<Utc>>,
    /// Whether files wait to be deleted, and no query can read them any more.
    pub(crate) deletable: bool,
}

/// What others are doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Activity {
    /// Statements that run, and transactions that are open.
    pub(crate) running: usize,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Put small files of a table together.
    Optimize(String),
    /// Forget snapshots older than a time.
    Expire(DateTime<Utc>),
    /// Delete files that nobody can read.
    Vacuum,
}

impl Action {
    /// The statement.
    pub(crate) fn sql(&self) -> String {
        match self {
            Self::Optimize(table) => format!("OPTIMIZE {table}"),
            Self::Expire(time) => {
                format!(
                    "EXPIRE SNAPSHOTS OLDER THAN TIMESTAMP WITH TIME ZONE '{}'",
                    time.format("%Y-%m-%d %H:%M:%S%.6fZ")
                )
            }
            Self::Vacuum => "VACUUM".to_owned(),
        }
    }
}

/// What to do now, the most urgent first. Nothing while others are at work.
pub(crate) fn decide(
    state: &CatalogState,
    activity: Activity,
    config: &Config,
    now: DateTime<Utc>,
) -> Vec<Action> {
    if !config.enabled || activity.running > 0 {
        return Vec::new();
    }
    let quiet = |table: &&TableState| {
        let since = (now - table.changed).to_std().unwrap_or_default();
        !table.off && !table.foreign && table.together >= config.small_files && since >= config.idle
    };
    let mut tables: Vec<&TableState> = state.tables.iter().filter(quiet).collect();
    tables.sort_by_key(|table| (std::cmp::Reverse(table.together), &table.name));
    let mut actions: Vec<Action> =
        tables.into_iter().map(|table| Action::Optimize(table.name.clone())).collect();
    if let Some(retention) = retention(state, config)
        && let Some(until) = now.checked_sub_signed(chrono::Duration::from_std(retention).unwrap_or_default())
        && state.oldest.is_some_and(|oldest| oldest < until)
    {
        actions.push(Action::Expire(until));
    }
    if state.deletable {
        actions.push(Action::Vacuum);
    }
    actions
}

/// How long snapshots stay: all tables share them, so the longest of all. `None`: one of the tables keeps them for ever.
fn retention(state: &CatalogState, config: &Config) -> Option<Duration> {
    let each = state.tables.iter().map(|table| table.retention.or(config.snapshot_retention));
    let longest = each.collect::<Option<Vec<Duration>>>()?.into_iter().max();
    longest.or(config.snapshot_retention)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    fn at(hour: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + chrono::Duration::hours(hour)
    }

    fn table(name: &str, together: u64) -> TableState {
        let (off, retention, foreign) = (false, None, false);
        TableState { name: name.to_owned(), together, changed: at(0), off, retention, foreign }
    }

    fn shown(state: &CatalogState, running: usize, config: &Config, hour: i64) -> Vec<String> {
        decide(state, Activity { running }, config, at(hour)).iter().map(Action::sql).collect()
    }

    #[test]
    fn tables_that_are_quiet_are_put_in_order() {
        let config = Config::default();
        let state = CatalogState {
            tables: vec![
                table("few", config.small_files - 1),
                table("many", 20),
                table("most", 30),
                TableState { off: true, ..table("off", 99) },
                TableState { foreign: true, ..table("foreign", 99) },
                TableState { changed: at(100), ..table("busy", 99) },
            ],
            ..CatalogState::default()
        };
        assert_eq!(shown(&state, 0, &config, 100), ["OPTIMIZE most", "OPTIMIZE many"]);
        assert!(shown(&state, 1, &config, 100).is_empty(), "somebody is at work");
        assert!(shown(&state, 0, &Config { enabled: false, ..config }, 100).is_empty());
        assert!(shown(&state, 0, &Config::default(), 0).is_empty(), "they were all changed just now");
    }

    #[test]
    fn snapshots_stay_as_long_as_any_table_says() {
        let kept = |days: u32| TableState { retention: Some(DAY * days), ..table("t", 0) };
        let state = |tables| CatalogState { tables, oldest: Some(at(0)), deletable: false };
        let config = Config::default();
        let mixed = state(vec![kept(1), table("says nothing", 0)]);
        assert!(shown(&mixed, 0, &config, 24 * 99).is_empty(), "one of them keeps all");
        let both = state(vec![kept(1), kept(3)]);
        assert!(shown(&both, 0, &config, 24 * 3).is_empty());
        let expire = ["EXPIRE SNAPSHOTS OLDER THAN TIMESTAMP WITH TIME ZONE '1970-01-02 00:00:00.000000Z'"];
        assert_eq!(shown(&both, 0, &config, 24 * 4), expire);
        let set = Config { snapshot_retention: Some(DAY * 3), ..Config::default() };
        assert_eq!(shown(&mixed, 0, &set, 24 * 4), expire);
        let young = CatalogState { oldest: None, ..both };
        assert!(shown(&young, 0, &config, 24 * 99).is_empty(), "there is one snapshot");
    }

    #[test]
    fn files_that_wait_are_deleted_last() {
        let state = CatalogState { tables: vec![table("t", 10)], oldest: None, deletable: true };
        assert_eq!(shown(&state, 0, &Config::default(), 9), ["OPTIMIZE t", "VACUUM"]);
    }
}
