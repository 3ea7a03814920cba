//! Looks files up and lists them.

use std::collections::HashMap;

use skep_common::{Error, NodeId, Result};
use sqlx::Row;
use sqlx::any::AnyRow;

use super::{Namespace, db_error, json, time};
use crate::remote::{BlockMap, Directory, FileMap, FileMeta};

/// Rows fetched at once while listing.
const PAGE: u32 = 1000;

/// From `path, size, version, created_us`.
pub(super) fn meta(row: &AnyRow) -> FileMeta {
    FileMeta {
        path: row.get(0),
        size: row.get::<i64, _>(1) as u64,
        version: row.get(2),
        created: time(row.get(3)),
    }
}

/// The files at `paths` with their blocks and replicas, a row for each: path, size, version, time, block, its length, node, state.
/// One statement, so that all are of one moment.
pub(super) async fn replicas_of(namespace: &Namespace, paths: &[String]) -> Result<Vec<AnyRow>> {
    sqlx::query(
        "SELECT f.path, f.size, f.version, f.created_us, b.id, b.length, r.node, r.state
         FROM (SELECT DISTINCT value AS path FROM json_each(?)) AS p
         JOIN skep_file f ON f.path = p.path
         LEFT JOIN skep_file_block fb ON fb.file = f.id
         LEFT JOIN skep_block b ON b.id = fb.block
         LEFT JOIN skep_replica r ON r.block = b.id
         ORDER BY f.path, fb.position, r.node",
    )
    .bind(json(paths))
    .fetch_all(namespace.0.db.reader())
    .await
    .map_err(db_error)
}

pub(super) async fn lookup(namespace: &Namespace, paths: &[String]) -> Result<Vec<Option<FileMap>>> {
    let rows = replicas_of(namespace, paths).await?;
    let live = namespace.live_peers();
    let mut files: HashMap<String, FileMap> = HashMap::new();
    for row in &rows {
        let path: &str = row.get(0);
        if !files.contains_key(path) {
            files.insert(path.to_owned(), FileMap { meta: meta(row), blocks: Vec::new() });
        }
        let (Some(file), Some(block)) = (files.get_mut(path), row.get::<Option<String>, _>(4)) else {
            continue;
        };
        let id = block.parse()?;
        if file.blocks.last().is_none_or(|last| last.id != id) {
            let length = row.get::<Option<i64>, _>(5).ok_or_else(|| {
                Error::corrupt(format!("the namespace has no length for block {block} of '{path}'"))
            })? as u64;
            file.blocks.push(BlockMap {
                id,
                length,
                replicas: Vec::new(),
                silent: Vec::new(),
                lost: Vec::new(),
            });
        }
        let (Some(node), Some(block)) = (row.get::<Option<String>, _>(6), file.blocks.last_mut()) else {
            continue;
        };
        let node = NodeId::new(node)?;
        let good = row.get::<&str, _>(7) == "good";
        match (live.get(&node), namespace.last_address(&node)) {
            (Some(peer), _) if good => block.replicas.push(peer.clone()),
            (None, Some(peer)) if good => block.silent.push(peer),
            _ => block.lost.push(node),
        }
    }
    Ok(paths.iter().map(|path| files.get(path).cloned()).collect())
}

pub(super) async fn list(
    namespace: &Namespace,
    prefix: &str,
    after: Option<&str>,
    limit: u32,
) -> Result<Vec<FileMeta>> {
    page(namespace, prefix, after.map(just_after).as_deref(), limit).await
}

/// Steps over a folder as soon as one of its files was seen, so that the cost follows the entries of the page.
pub(super) async fn list_directory(
    namespace: &Namespace,
    prefix: &str,
    from: Option<&str>,
    limit: u32,
) -> Result<Directory> {
    let inside = if prefix.is_empty() { 0 } else { prefix.len() + 1 };
    let mut found = Directory { files: Vec::new(), folders: Vec::new(), next: None };
    let mut from = from.map(str::to_owned);
    loop {
        let files = page(namespace, prefix, from.as_deref(), PAGE).await?;
        let complete = files.len() < PAGE as usize;
        for file in files {
            if from.as_ref().is_some_and(|from| file.path < *from) {
                continue;
            }
            match file.path[inside..].find('/') {
                Some(length) => {
                    let folder = &file.path[..inside + length];
                    from = Some(past_folder(folder));
                    found.folders.push(folder.to_owned());
                }
                None => {
                    from = Some(just_after(&file.path));
                    found.files.push(file);
                }
            }
            if found.files.len() + found.folders.len() >= limit.clamp(1, PAGE) as usize {
                found.next = from;
                return Ok(found);
            }
        }
        if complete {
            return Ok(found);
        }
    }
}

/// Up to `limit` files in the folder `prefix`, from `from` on, which counts.
async fn page(namespace: &Namespace, prefix: &str, from: Option<&str>, limit: u32) -> Result<Vec<FileMeta>> {
    let (start, end) = match prefix {
        "" => (String::new(), LAST.to_owned()),
        folder => (format!("{folder}/"), past_folder(folder)),
    };
    let rows = sqlx::query(
        "SELECT path, size, version, created_us FROM skep_file
         WHERE path >= ?1 AND path < ?2 ORDER BY path LIMIT ?3",
    )
    .bind(from.map_or(start.as_str(), |from| from.max(start.as_str())))
    .bind(end)
    .bind(i64::from(limit.min(PAGE)))
    .fetch_all(namespace.0.db.reader())
    .await
    .map_err(db_error)?;
    Ok(rows.iter().map(meta).collect())
}

/// Greater than every path: the last character there is.
const LAST: &str = "\u{10FFFF}";

/// The least text after `path`, since no path has a NUL.
fn just_after(path: &str) -> String {
    format!("{path}\u{1}")
}

/// The least text after every path in `folder`: '0' is the character after '/'.
fn past_folder(folder: &str) -> String {
    format!("{folder}0")
}
