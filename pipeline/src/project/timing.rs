//! The schedules and notifications of a project, with places for what is wrong with them.
//!
//! # Not here
//! What schedules do (`schedule`).

use std::collections::BTreeSet;

use skep_common::Error;

use super::{Config, Problem, Project, config};
use crate::bundle::SETTINGS;
use crate::schedule::{Notify, Spec};
use crate::select;

/// Those of `text`, which `config` was read from.
pub(super) fn read(config: &Config, text: &str, problems: &mut Vec<Problem>) -> (Vec<Spec>, Vec<Notify>) {
    let mut wrong = |(range, error): (std::ops::Range<usize>, Error)| {
        problems.push(Problem::new(SETTINGS, error.at(config::span(text, &range, 1))));
    };
    let mut names = BTreeSet::new();
    for (name, range) in config.schedule.iter().map(|raw| raw.name()) {
        if !names.insert(name) {
            let error = Error::already_exists(format!("there are two schedules '{name}'"));
            wrong((range, error.hint("rename one of them")));
        }
    }
    let specs = config.schedule.iter().filter_map(|raw| raw.spec().map_err(&mut wrong).ok()).collect();
    let notify = config.notify.iter().filter_map(|raw| raw.notify().map_err(&mut wrong).ok()).collect();
    (specs, notify)
}

/// What schedules select and no model is.
pub(super) fn unknown_models(project: &Project, text: &str) -> Vec<Problem> {
    let words = project.config.schedule.iter().flat_map(|raw| raw.select.iter().chain(&raw.exclude));
    let wrong = words.filter_map(|word| {
        let selection = [word.as_ref().clone()];
        let error = select::chosen(project, &selection, &[], &BTreeSet::new()).err()?;
        Some(Problem::new(SETTINGS, error.at(config::span(text, &word.span(), 1))))
    });
    wrong.collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use crate::Bundle;
    use crate::project::Project;

    /// What is wrong with a project of one model that has these settings as well: line, column and text.
    fn wrong(more: &str) -> Vec<(u64, u64, String)> {
        let settings = format!("[pipeline]\nname = \"t\"\n{more}");
        let files = [("pipeline.toml", settings.as_str()), ("models/mart/a.sql", "SELECT 1 AS n")];
        let files = files.map(|(name, text)| (name.to_owned(), text.to_owned())).into();
        let Err(problems) = Project::read(&Bundle { files }, &BTreeMap::new()) else { return Vec::new() };
        let line = |problem: &crate::Problem| {
            let place = problem.error.position().unwrap();
            (place.line, place.column, problem.error.report())
        };
        problems.iter().map(line).collect()
    }

    #[test]
    fn what_is_wrong_with_a_schedule_is_shown_where_it_stands() {
        let good = "[[schedule]]\nname = \"a\"\ncron = \"0 6 * * *\"\n";
        assert!(wrong(good).is_empty());
        let cases = [
            ("cron = \"0 25 * * *\"\nname = \"b\"", (7, 8), "no cron pattern"),
            ("cron = \"0 0 30 2 *\"\nname = \"b\"", (7, 8), "never comes"),
            ("cron = \"@daily\"\nname = \"b\"\ntime_zone = \"Europe/Berln\"", (9, 13), "no time zone"),
            ("cron = \"@daily\"\nname = \"b\"\ntimeout = \"1 fortnight\"", (9, 11), "fortnight"),
            ("cron = \"@daily\"\nname = \"b\"\nlate_after = \"0s\"", (9, 14), "longer than nothing"),
            ("cron = \"@daily\"\nname = \"b\"\nretries = 1000", (9, 11), "at most 100"),
            ("cron = \"@daily\"\nname = \"b\"\ncatch_up = \"some\"", (9, 12), "`latest`"),
            ("cron = \"@daily\"\nname = \"b\"\nselect = [\"nope\"]", (9, 11), "no model 'nope'"),
            ("cron = \"@daily\"\nname = \"a\"", (8, 8), "two schedules 'a'"),
            ("cron = \"@daily\"\nname = \"a b\"", (8, 8), "no name of a schedule"),
        ];
        for (text, place, says) in cases {
            let found = wrong(&format!("{good}[[schedule]]\n{text}\n"));
            assert_eq!(found.len(), 1, "{text}: {found:?}");
            assert_eq!((found[0].0, found[0].1), place, "{text}: {found:?}");
            assert!(found[0].2.contains(says), "{text}: {found:?}");
        }
        for (text, place, says) in [
            ("on = [\"failure\"]\nwebhook = \"ftp://x/y\"", (5, 11), "'ftp' is not http"),
            ("on = [\"failure\"]\nwebhook = \"nowhere\"", (5, 11), "no address"),
            ("on = [\"failure\"]", (4, 6), "who is told is missing"),
            ("on = []\ncommand = [\"x\"]", (4, 6), "names nothing"),
            ("on = [\"late\"]\ncommand = []", (5, 11), "the command is empty"),
        ] {
            let found = wrong(&format!("[[notify]]\n{text}\n"));
            assert_eq!(found.len(), 1, "{text}: {found:?}");
            assert_eq!((found[0].0, found[0].1), place, "{text}: {found:?}");
            assert!(found[0].2.contains(says), "{text}: {found:?}");
        }
    }
}
