//! Files appear, change places and go.

use std::collections::BTreeSet;

use skep_common::{Error, NodeId, Result};
use skep_metadb::Conn;
use sqlx::Row;

use super::{Namespace, collect, db_error, json, time};
use crate::block::{BlockId, WriteId};
use crate::nodes::Peer;
use crate::placement::{self, Request};
use crate::remote::{FileMeta, Placement, WriteMode, WrittenBlock};

/// Longest path, in bytes.
const PATH_MAX: usize = 4096;

pub(super) async fn begin(
    namespace: &Namespace,
    write: WriteId,
    path: &str,
    mode: &WriteMode,
    writer: Option<&NodeId>,
) -> Result<Placement> {
    check_path(path)?;
    let mut tx = namespace.begin().await?;
    check_mode(tx.conn(), path, mode).await?;
    let text =
        serde_json::to_string(mode).map_err(|e| Error::internal("cannot store a write mode").source(e))?;
    sqlx::query(
        "INSERT INTO skep_write (id, path, mode, touched_us) VALUES (?, ?, ?, ?) ON CONFLICT (id) DO UPDATE \
         SET path = excluded.path, mode = excluded.mode, touched_us = excluded.touched_us",
    )
    .bind(write.to_string())
    .bind(path)
    .bind(text)
    .bind(namespace.now_us())
    .execute(tx.conn())
    .await
    .map_err(db_error)?;
    let placement = place(namespace, tx.conn(), write, writer, &[]).await?;
    tx.commit().await?;
    Ok(placement)
}

pub(super) async fn add_block(
    namespace: &Namespace,
    write: WriteId,
    writer: Option<&NodeId>,
    exclude: &[NodeId],
) -> Result<Placement> {
    let mut tx = namespace.begin().await?;
    touch(namespace, tx.conn(), write).await?;
    let placement = place(namespace, tx.conn(), write, writer, exclude).await?;
    tx.commit().await?;
    Ok(placement)
}

pub(super) async fn more_targets(
    namespace: &Namespace,
    write: WriteId,
    block: BlockId,
    have: &[NodeId],
    exclude: &[NodeId],
) -> Result<Vec<Peer>> {
    let mut tx = namespace.begin().await?;
    touch(namespace, tx.conn(), write).await?;
    let wanted = namespace.replication().wanted as usize;
    let request = Request {
        block,
        count: wanted.saturating_sub(have.len()),
        writer: None,
        have,
        exclude,
        space: space(namespace),
    };
    let targets = placement::place(&request, &namespace.takers());
    insert_placed(tx.conn(), block, targets.iter().map(|node| &node.id)).await?;
    tx.commit().await?;
    Ok(targets.iter().map(|node| node.peer()).collect())
}

/// Refuses a write that was given up, and says that others live.
pub(super) async fn touch(namespace: &Namespace, conn: &mut Conn, write: WriteId) -> Result<()> {
    let done = sqlx::query("UPDATE skep_write SET touched_us = ? WHERE id = ?")
        .bind(namespace.now_us())
        .bind(write.to_string())
        .execute(conn)
        .await
        .map_err(db_error)?;
    if done.rows_affected() == 0 {
        return Err(given_up());
    }
    Ok(())
}

fn given_up() -> Error {
    Error::conflict("the write was given up because its writer was silent for longer than its lease")
        .hint("write the file again; raise [store] write_lease if writers pause that long")
}

fn space(namespace: &Namespace) -> u64 {
    namespace.0.config.reserve.0.saturating_add(namespace.0.config.block_size.0)
}

async fn place(
    namespace: &Namespace,
    conn: &mut Conn,
    write: WriteId,
    writer: Option<&NodeId>,
    exclude: &[NodeId],
) -> Result<Placement> {
    let block = BlockId::generate();
    let replication = namespace.replication();
    let live = namespace.takers();
    let count = replication.wanted as usize;
    let request = Request { block, count, writer, have: &[], exclude, space: space(namespace) };
    let targets = placement::place(&request, &live);
    if targets.len() < replication.required as usize {
        return Err(too_few(namespace, live.len(), targets.len(), replication.required, exclude));
    }
    super::orphans::live_on(namespace, conn).await?;
    sqlx::query("INSERT INTO skep_block (id, write) VALUES (?, ?)")
        .bind(block.to_string())
        .bind(write.to_string())
        .execute(&mut *conn)
        .await
        .map_err(db_error)?;
    insert_placed(conn, block, targets.iter().map(|node| &node.id)).await?;
    Ok(Placement {
        block,
        targets: targets.iter().map(|node| node.peer()).collect(),
        min_replicas: replication.required,
    })
}

fn too_few(namespace: &Namespace, live: usize, fit: usize, required: u32, exclude: &[NodeId]) -> Error {
    let usable = namespace.takers().iter().filter(|node| !exclude.contains(&node.id)).count();
    if usable >= required as usize {
        return Error::no_space(format!(
            "no space: a block needs {required} nodes with {} free, and {fit} have it",
            skep_common::ByteSize(space(namespace))
        ))
        .hint("free space on the nodes or add one; or lower [store] reserve or block_size");
    }
    Error::unavailable(format!(
        "too few nodes: a block needs {required} replicas, {live} nodes are alive and {} of them failed this write",
        live - usable
    ))
    .hint("start more workers, or lower [store] min_replicas")
}

async fn insert_placed(conn: &mut Conn, block: BlockId, nodes: impl Iterator<Item = &NodeId>) -> Result<()> {
    sqlx::query(
        "INSERT INTO skep_replica (block, node, state) SELECT ?, value, 'placed' FROM json_each(?) WHERE true \
         ON CONFLICT DO NOTHING",
    )
    .bind(block.to_string())
    .bind(json(nodes))
    .execute(conn)
    .await
    .map_err(db_error)?;
    Ok(())
}

pub(super) async fn commit(
    namespace: &Namespace,
    write: WriteId,
    blocks: &[WrittenBlock],
) -> Result<FileMeta> {
    let mut tx = namespace.begin().await?;
    let row = sqlx::query("SELECT path, mode FROM skep_write WHERE id = ?")
        .bind(write.to_string())
        .fetch_optional(tx.conn())
        .await
        .map_err(db_error)?;
    let Some(row) = row else { return committed_before(tx.conn(), write).await };
    let path: String = row.get(0);
    let mode: WriteMode = serde_json::from_str(row.get(1))
        .map_err(|e| Error::corrupt(format!("the write of '{path}' has no readable mode")).source(e))?;
    if let Err(refused) = check_mode(tx.conn(), &path, &mode).await {
        give_up(namespace, tx.conn(), write).await?;
        tx.commit().await?;
        return Err(refused);
    }

    let now = namespace.now_us();
    let replaced = remove_file(tx.conn(), &path).await?.unwrap_or_default();
    let size: u64 = blocks.iter().map(|block| block.length).sum();
    let file = insert_file(tx.conn(), &path, size, &write.to_string(), now).await?;
    for (position, block) in blocks.iter().enumerate() {
        seal(namespace, tx.conn(), write, &path, block).await?;
        sqlx::query("INSERT INTO skep_file_block (file, position, block) VALUES (?, ?, ?)")
            .bind(file)
            .bind(position as i64)
            .bind(block.id.to_string())
            .execute(tx.conn())
            .await
            .map_err(db_error)?;
    }
    // What the write placed and does not name, and what the file had before.
    give_up(namespace, tx.conn(), write).await?;
    collect(tx.conn(), &replaced, now).await?;
    tx.commit().await?;
    Ok(FileMeta { path, size, version: write.to_string(), created: time(now) })
}

/// A commit that is repeated because its answer was lost finds the file.
async fn committed_before(conn: &mut Conn, write: WriteId) -> Result<FileMeta> {
    let row = sqlx::query("SELECT path, size, version, created_us FROM skep_file WHERE version = ?")
        .bind(write.to_string())
        .fetch_optional(conn)
        .await
        .map_err(db_error)?;
    row.map(|row| super::read::meta(&row)).ok_or_else(given_up)
}

/// Turns a placed block into one a file may name: enough good replicas, the rest garbage.
async fn seal(
    namespace: &Namespace,
    conn: &mut Conn,
    write: WriteId,
    path: &str,
    block: &WrittenBlock,
) -> Result<()> {
    let required = namespace.replication().required as usize;
    let durable: BTreeSet<&NodeId> = block.replicas.iter().collect();
    if durable.len() < required {
        return Err(Error::unavailable(format!(
            "block {} of '{path}' is durable on {} of {required} required nodes",
            block.id,
            durable.len()
        )));
    }
    if block.length == 0 {
        return Err(Error::internal(format!("block {} of '{path}' is empty", block.id)));
    }
    let id = block.id.to_string();
    let sealed = sqlx::query("UPDATE skep_block SET length = ?, write = NULL WHERE id = ? AND write = ?")
        .bind(block.length as i64)
        .bind(&id)
        .bind(write.to_string())
        .execute(&mut *conn)
        .await
        .map_err(db_error)?;
    if sealed.rows_affected() != 1 {
        return Err(Error::internal(format!("block {id} was not placed for the write of '{path}'")));
    }
    let nodes = json(durable);
    sqlx::query(
        "INSERT INTO skep_garbage (node, block, since_us)
         SELECT node, block, ?3 FROM skep_replica
         WHERE block = ?1 AND node NOT IN (SELECT value FROM json_each(?2))
         ON CONFLICT DO NOTHING",
    )
    .bind(&id)
    .bind(&nodes)
    .bind(namespace.now_us())
    .execute(&mut *conn)
    .await
    .map_err(db_error)?;
    sqlx::query("DELETE FROM skep_replica WHERE block = ?")
        .bind(&id)
        .execute(&mut *conn)
        .await
        .map_err(db_error)?;
    sqlx::query("INSERT INTO skep_replica (block, node, state) SELECT ?, value, 'good' FROM json_each(?)")
        .bind(&id)
        .bind(&nodes)
        .execute(conn)
        .await
        .map_err(db_error)?;
    Ok(())
}

/// Ends a write and collects the blocks that are still its own.
pub(super) async fn give_up(namespace: &Namespace, conn: &mut Conn, write: WriteId) -> Result<()> {
    let write = write.to_string();
    let blocks: Vec<String> = sqlx::query_scalar("SELECT id FROM skep_block WHERE write = ?")
        .bind(&write)
        .fetch_all(&mut *conn)
        .await
        .map_err(db_error)?;
    for statement in
        ["UPDATE skep_block SET write = NULL WHERE write = ?", "DELETE FROM skep_write WHERE id = ?"]
    {
        sqlx::query(statement).bind(&write).execute(&mut *conn).await.map_err(db_error)?;
    }
    collect(conn, &blocks, namespace.now_us()).await
}

pub(super) async fn delete(namespace: &Namespace, paths: &[String]) -> Result<Vec<bool>> {
    let mut tx = namespace.begin().await?;
    let mut found = Vec::with_capacity(paths.len());
    let mut orphans = Vec::new();
    for path in paths {
        let blocks = remove_file(tx.conn(), path).await?;
        found.push(blocks.is_some());
        orphans.extend(blocks.unwrap_or_default());
    }
    collect(tx.conn(), &orphans, namespace.now_us()).await?;
    tx.commit().await?;
    Ok(found)
}

pub(super) async fn copy(namespace: &Namespace, from: &str, to: &str, create: bool) -> Result<()> {
    check_path(to)?;
    let mut tx = namespace.begin().await?;
    let (file, size) = existing(tx.conn(), from).await?.ok_or_else(|| not_found(from))?;
    if create {
        check_mode(tx.conn(), to, &WriteMode::Create).await?;
    }
    if from == to {
        return Ok(());
    }
    let replaced = remove_file(tx.conn(), to).await?.unwrap_or_default();
    let now = namespace.now_us();
    let copy = insert_file(tx.conn(), to, size, &WriteId::generate().to_string(), now).await?;
    sqlx::query(
        "INSERT INTO skep_file_block (file, position, block)
         SELECT ?, position, block FROM skep_file_block WHERE file = ?",
    )
    .bind(copy)
    .bind(file)
    .execute(tx.conn())
    .await
    .map_err(db_error)?;
    collect(tx.conn(), &replaced, now).await?;
    tx.commit().await
}

pub(super) async fn rename(namespace: &Namespace, from: &str, to: &str, create: bool) -> Result<()> {
    check_path(to)?;
    let mut tx = namespace.begin().await?;
    let (file, _) = existing(tx.conn(), from).await?.ok_or_else(|| not_found(from))?;
    if create {
        check_mode(tx.conn(), to, &WriteMode::Create).await?;
    }
    if from == to {
        return Ok(());
    }
    let replaced = remove_file(tx.conn(), to).await?.unwrap_or_default();
    sqlx::query("UPDATE skep_file SET path = ? WHERE id = ?")
        .bind(to)
        .bind(file)
        .execute(tx.conn())
        .await
        .map_err(db_error)?;
    collect(tx.conn(), &replaced, namespace.now_us()).await?;
    tx.commit().await
}

fn not_found(path: &str) -> Error {
    Error::not_found(format!("no file '{path}' in the store"))
}

fn check_path(path: &str) -> Result<()> {
    if path.is_empty() || path.len() > PATH_MAX {
        return Err(Error::invalid(format!(
            "a path has 1 to {PATH_MAX} bytes, this one has {}: '{}'",
            path.len(),
            path.chars().take(80).collect::<String>()
        )));
    }
    Ok(())
}

async fn existing(conn: &mut Conn, path: &str) -> Result<Option<(i64, u64)>> {
    let row = sqlx::query("SELECT id, size FROM skep_file WHERE path = ?")
        .bind(path)
        .fetch_optional(conn)
        .await
        .map_err(db_error)?;
    Ok(row.map(|row| (row.get(0), row.get::<i64, _>(1) as u64)))
}

async fn insert_file(conn: &mut Conn, path: &str, size: u64, version: &str, now_us: i64) -> Result<i64> {
    sqlx::query_scalar(
        "INSERT INTO skep_file (path, size, version, created_us) VALUES (?, ?, ?, ?) RETURNING id",
    )
    .bind(path)
    .bind(size as i64)
    .bind(version)
    .bind(now_us)
    .fetch_one(conn)
    .await
    .map_err(db_error)
}

async fn check_mode(conn: &mut Conn, path: &str, mode: &WriteMode) -> Result<()> {
    if *mode == WriteMode::Overwrite {
        return Ok(());
    }
    let version: Option<String> = sqlx::query_scalar("SELECT version FROM skep_file WHERE path = ?")
        .bind(path)
        .fetch_optional(conn)
        .await
        .map_err(db_error)?;
    match (mode, version) {
        (WriteMode::Overwrite, _) | (WriteMode::Create, None) => Ok(()),
        (WriteMode::Create, Some(_)) => {
            Err(Error::already_exists(format!("the file '{path}' exists already")))
        }
        (WriteMode::Update(expected), Some(version)) if *expected == version => Ok(()),
        (WriteMode::Update(expected), version) => Err(Error::conflict(format!(
            "the file '{path}' is not at version '{expected}' but {}",
            version.map_or_else(|| "absent".to_owned(), |version| format!("at '{version}'"))
        ))),
    }
}

/// Takes a file out; returns its blocks, or nothing if there was none.
async fn remove_file(conn: &mut Conn, path: &str) -> Result<Option<Vec<String>>> {
    let Some((file, _)) = existing(conn, path).await? else { return Ok(None) };
    let blocks = sqlx::query_scalar("DELETE FROM skep_file_block WHERE file = ? RETURNING block")
        .bind(file)
        .fetch_all(&mut *conn)
        .await
        .map_err(db_error)?;
    sqlx::query("DELETE FROM skep_file WHERE id = ?").bind(file).execute(conn).await.map_err(db_error)?;
    Ok(Some(blocks))
}
