//! Which models are meant: `name`, `+name`, `name+`, `tag:x`, `path:models/mart`, `state:modified`.
//!
//! Several are a union; parts of one with commas between are an intersection. Pure.
//!
//! # Not here
//! The graph itself (`graph`).

use std::collections::BTreeSet;

use skep_common::{Error, Kind, Result};

use crate::project::{Project, near};

/// The places of the models that `select` chooses, all if it is empty, without those of `exclude`. `modified` are those
/// whose text is another than when they were last published.
///
/// # Errors
/// [`Kind::NotFound`] for a name that no model has; [`Kind::Invalid`] for an unknown way to choose.
pub(crate) fn chosen(
    project: &Project,
    select: &[String],
    exclude: &[String],
    modified: &BTreeSet<usize>,
) -> Result<BTreeSet<usize>> {
    let union = |terms: &[String]| -> Result<BTreeSet<usize>> {
        let mut all = BTreeSet::new();
        for term in terms.iter().flat_map(|terms| terms.split_whitespace()) {
            let mut parts = term.split(',').map(|part| one(project, part, modified));
            let mut found = parts.next().unwrap_or_else(|| Ok(BTreeSet::new()))?;
            for part in parts {
                found = &found & &part?;
            }
            all.extend(found);
        }
        Ok(all)
    };
    let all = if select.is_empty() { (0..project.models.len()).collect() } else { union(select)? };
    Ok(&all - &union(exclude)?)
}

fn one(project: &Project, term: &str, modified: &BTreeSet<usize>) -> Result<BTreeSet<usize>> {
    let (above, rest) = term.strip_prefix('+').map_or((false, term), |rest| (true, rest));
    let (below, rest) = rest.strip_suffix('+').map_or((false, rest), |rest| (true, rest));
    let found = plain(project, rest, modified)?;
    let mut all = found.clone();
    for &at in &found {
        if above {
            all.extend(project.graph.with_above(at));
        }
        if below {
            all.extend(project.graph.with_below(at));
        }
    }
    Ok(all)
}

fn plain(project: &Project, term: &str, modified: &BTreeSet<usize>) -> Result<BTreeSet<usize>> {
    let models = || project.models.iter().enumerate();
    let nothing = |what: String| Error::new(Kind::NotFound, what);
    if let Some(tag) = term.strip_prefix("tag:") {
        let found: BTreeSet<usize> =
            models().filter(|(_, m)| m.header.tags.iter().any(|t| t == tag)).map(|(at, _)| at).collect();
        let tags = project.models.iter().flat_map(|model| &model.header.tags).map(String::as_str);
        return if found.is_empty() {
            Err(near(nothing(format!("no model has the tag '{tag}'")), tag, tags))
        } else {
            Ok(found)
        };
    }
    if let Some(state) = term.strip_prefix("state:") {
        return match state {
            "modified" => Ok(modified.clone()),
            other => {
                Err(Error::invalid(format!("'{other}' is no state of a model")).hint("state:modified is one"))
            }
        };
    }
    let path = term.strip_prefix("path:").or(Some(term).filter(|term| term.contains('/')));
    if let Some(path) = path {
        let path = path.trim_end_matches(['/', '*']);
        let found: BTreeSet<usize> = models()
            .filter(|(_, m)| m.file == path || m.file.starts_with(&format!("{path}/")))
            .map(|(at, _)| at)
            .collect();
        return if found.is_empty() {
            Err(nothing(format!("no model lies in '{path}'")).hint("as in path:models/mart"))
        } else {
            Ok(found)
        };
    }
    let found: BTreeSet<usize> = models()
        .filter(|(_, m)| m.name.to_string() == term || m.name.name == term || m.name.schema == term)
        .map(|(at, _)| at)
        .collect();
    if !found.is_empty() {
        return Ok(found);
    }
    let names: Vec<String> = project.models.iter().map(|model| model.name.to_string()).collect();
    let short = project.models.iter().map(|model| model.name.name.as_str());
    Err(near(
        nothing(format!("there is no model '{term}'")),
        term,
        names.iter().map(String::as_str).chain(short),
    ))
}
