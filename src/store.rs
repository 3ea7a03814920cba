//! `skep store`: the files of the replicated store, and the nodes that hold them.
//!
//! ```text
//! files     ls, cat, put, get, rm, mv, cp, du, stat      as a client of the store, with the cluster's secret
//! nodes     fsck, report, nodes, drain, balance, ...     as statements, through the door for people
//! ```
//!
//! # Not here
//! What is done about blocks (`skep_store::keep`); tables, whose files must not be touched by hand.

use std::path::Path as FilePath;
use std::process::ExitCode;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions, WriteMultipart};
use skep_cluster::Secret;
use skep_cluster::blocks::{RemoteNamespace, RemotePeers};
use skep_common::{ByteSize, Error, Result, clock};
use skep_repl::{Answer, Exit, Format, Input, Inputs, Session, Target};
use skep_store::{NamespaceClient, SkepStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use url::Url;

use crate::cli::{Files, Store, StoreCommand, StorePlace};
use crate::cluster::Cluster;
use crate::config::Config;
use crate::folder;
use crate::sql::{Found, open};

/// Bytes that are read of a local file at a time.
const PIECE: usize = 1 << 20;
/// Parts of a file that are written side by side.
const PARTS: usize = 4;

/// Runs one command.
pub(crate) async fn run(args: Store) -> Result<ExitCode> {
    let access = Access::open(&args.place).await?;
    let result = match &args.command {
        StoreCommand::Files(command) => files(&access, command).await.map(|()| ExitCode::SUCCESS),
        StoreCommand::Fsck { path, all } => access.fsck(path.as_deref(), *all).await,
        command => match statement(command) {
            Ok((sql, format)) => Ok(ExitCode::from(access.show(sql, format).await.code())),
            Err(error) => Err(error),
        },
    };
    access.close().await;
    result
}

/// How the store is reached.
struct Access {
    store: SkepStore,
    target: Target,
    /// A cluster of this process, on a folder that nobody serves, and what listens for its statements.
    own: Option<(Box<Cluster>, skep_server::flight::InMemory)>,
}

impl Access {
    async fn open(place: &StorePlace) -> Result<Self> {
        if let Some(path) = &place.config {
            let config = Config::read(path)?;
            let own = &config.coordinator;
            let secret = config.secret(&[("[coordinator] listen", own.listen)])?;
            let listen = match &config.worker.coordinator {
                Some(url) => url.clone(),
                None => address("http", own.listen)?,
            };
            let flight = address("grpc", own.flight)?.to_string();
            return Self::remote(&listen, secret, &config, flight);
        }
        let data = &place.data;
        if !data.join("skep.json").is_file() {
            return Err(Error::not_found(format!("'{}' is not a data folder", data.display()))
                .hint("name one with --data, or the config file of a node with --config"));
        }
        match open(data, None).await? {
            Found::Own(cluster) => {
                let store = cluster.store().clone();
                let (channel, door) = skep_server::flight::in_memory(cluster.coordinator().clone())?;
                Ok(Self { store, target: Target::Channel(channel), own: Some((cluster, door)) })
            }
            Found::Served(endpoint) => {
                let secret = match folder::secret(data) {
                    Some(path) => Secret::read(&path)?,
                    None => Secret::none(),
                };
                let listen = endpoint.listen.ok_or_else(|| {
                    Error::unavailable(format!(
                        "the server of '{}' does not say where nodes reach it",
                        data.display()
                    ))
                    .hint("an older skep serves it: restart it with this one")
                })?;
                Self::remote(&listen, secret, &Config::default(), endpoint.flight)
            }
        }
    }

    fn remote(coordinator: &Url, secret: Secret, config: &Config, flight: String) -> Result<Self> {
        let (channel, store) = (config.cluster.channel.clone(), config.store.clone());
        let namespace = RemoteNamespace::new(coordinator, &secret, &channel, store.namespace_timeout)?;
        let namespace: Arc<dyn NamespaceClient> = Arc::new(namespace);
        let peers = Arc::new(RemotePeers::new(secret, channel, store.clone()));
        let clock = clock::system();
        let parts = skep_store::skep::Parts { namespace, peers, own: None, zone: None, config: store, clock };
        Ok(Self { store: SkepStore::new(parts)?, target: Target::Url(flight), own: None })
    }

    async fn show(&self, sql: String, format: Format) -> Exit {
        let args = skep_repl::Args {
            inputs: Inputs(vec![Input::Command(sql)]),
            format: Some(format),
            no_rc: true,
            ..skep_repl::Args::default()
        };
        skep_repl::run(args, Some(self.target.clone())).await
    }

    /// Lists blocks, and says by the exit code whether all are healthy.
    async fn fsck(&self, path: Option<&str>, all: bool) -> Result<ExitCode> {
        let below = match path.map(|path| path.trim_matches('/')) {
            None | Some("") => "true".to_owned(),
            Some(path) => {
                format!("(path = {} OR starts_with(path, {}))", quoted(path), quoted(&format!("{path}/")))
            }
        };
        let wanted = if all { "true" } else { "health <> 'healthy'" };
        let shown = self.show(
            format!(
                "SELECT path, position, block_id, bytes, health, \
                 string_agg(node || ' ' || replica_state || ' ' || node_state, ', ' ORDER BY node) AS replicas \
                 FROM system.blocks WHERE {below} AND {wanted} \
                 GROUP BY path, position, block_id, bytes, health ORDER BY path, position"
            ),
            Format::Table,
        );
        let exit = shown.await;
        if exit != Exit::Done {
            return Ok(ExitCode::from(exit.code()));
        }
        let count = format!(
            "SELECT count(DISTINCT block_id), count(DISTINCT CASE WHEN health <> 'healthy' THEN block_id END) \
             FROM system.blocks WHERE {below}"
        );
        let Answer::Rows(_, batches) = Session::open(&self.target).await?.run(&count).await? else {
            return Err(Error::internal("a count gave no rows"));
        };
        let number = |at: usize| -> i64 {
            batches
                .iter()
                .map(|batch| batch.column(at).as_primitive::<Int64Type>().values().iter().sum::<i64>())
                .sum()
        };
        let (all, ill) = (number(0), number(1));
        eprintln!("{} of {all} blocks are healthy", all - ill);
        Ok(if ill == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    async fn close(self) {
        if let Some((cluster, door)) = self.own {
            drop((self.target, self.store));
            drop(door);
            cluster.stop().await;
        }
    }
}

fn address(scheme: &str, of: std::net::SocketAddr) -> Result<Url> {
    let url = format!("{scheme}://{of}");
    url.parse().map_err(|e| Error::invalid(format!("'{url}' is no address")).source(e))
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// The statement that a command stands for.
fn statement(command: &StoreCommand) -> Result<(String, Format)> {
    let sql = match command {
        StoreCommand::Report => {
            return Ok(("SELECT * FROM system.replication".to_owned(), Format::Vertical));
        }
        StoreCommand::Nodes => {
            "SELECT node, zone, state, drained, blocks_to_drain, maintenance_until, blocks, used_bytes, \
                                free_bytes, bad_replicas FROM system.nodes ORDER BY node"
                .to_owned()
        }
        StoreCommand::Balance { percent: Some(percent) } => format!("SYSTEM BALANCE TO {percent} PERCENT"),
        StoreCommand::Balance { percent: None } => "SYSTEM BALANCE".to_owned(),
        StoreCommand::Drain { node } => format!("SYSTEM DRAIN NODE {}", quoted(node)),
        StoreCommand::Undrain { node } => format!("SYSTEM UNDRAIN NODE {}", quoted(node)),
        StoreCommand::Maintain { node, time } => {
            format!("SYSTEM MAINTAIN NODE {} FOR {}", quoted(node), quoted(time))
        }
        StoreCommand::Resume { node } => format!("SYSTEM RESUME NODE {}", quoted(node)),
        StoreCommand::Remove { node } => format!("SYSTEM REMOVE NODE {}", quoted(node)),
        StoreCommand::Files(_) | StoreCommand::Fsck { .. } => {
            return Err(Error::internal("this command is more than a statement"));
        }
    };
    Ok((sql, Format::Table))
}

/// A path in the store: `/a/b`, `a/b` and `skep://blocks/a/b` are the same.
fn path(text: &str) -> Result<Path> {
    let text = text.strip_prefix(skep_store::SKEP_URL).unwrap_or(text);
    Path::parse(text.trim_matches('/'))
        .map_err(|e| Error::invalid(format!("'{text}' is not a path")).source(e))
}

async fn files(access: &Access, command: &Files) -> Result<()> {
    let store = &access.store;
    match command {
        Files::Ls { path: folder, recursive } => list(store, folder.as_deref(), *recursive).await,
        Files::Cat { path: file } => {
            let mut out = tokio::io::stdout();
            copy_out(store, file, &mut out).await
        }
        Files::Get { path: file, to } => get(store, file, to).await,
        Files::Put { from, path: to, replace } => put(store, from, to, *replace).await,
        Files::Rm { paths, recursive } => {
            for wanted in paths {
                remove(store, wanted, *recursive).await?;
            }
            Ok(())
        }
        Files::Mv { from, to } => {
            store.rename_if_not_exists(&path(from)?, &path(to)?).await.map_err(|e| failed("move", from, e))
        }
        Files::Cp { from, to } => {
            store.copy_if_not_exists(&path(from)?, &path(to)?).await.map_err(|e| failed("copy", from, e))
        }
        Files::Du { path: folder } => usage(store, folder.as_deref()).await,
        Files::Stat { path: file } => stat(store, file).await,
    }
}

/// What went wrong, as the store says it.
fn failed(what: &str, name: &str, error: object_store::Error) -> Error {
    let context = format!("cannot {what} '{name}'");
    match skep_store::skep::skep_error(&error) {
        Some(inner) => inner.clone().context(context),
        None => match error {
            object_store::Error::NotFound { .. } => Error::not_found(context).source(error),
            object_store::Error::AlreadyExists { .. } => Error::already_exists(context).source(error),
            error => Error::unavailable(context).source(error),
        },
    }
}

fn local(what: &str, file: &FilePath, error: std::io::Error) -> Error {
    Error::invalid(format!("cannot {what} '{}'", file.display())).source(error)
}

fn line(meta: &ObjectMeta) -> String {
    format!("{:>12}  {}  {}", meta.size, meta.last_modified.format("%Y-%m-%d %H:%M:%S"), meta.location)
}

async fn list(store: &SkepStore, folder: Option<&str>, recursive: bool) -> Result<()> {
    let (name, prefix) = (folder.unwrap_or("/"), path(folder.unwrap_or(""))?);
    let mut shown = 0_usize;
    if recursive {
        let mut files = store.list(Some(&prefix));
        while let Some(meta) = files.try_next().await.map_err(|e| failed("list", name, e))? {
            println!("{}", line(&meta));
            shown += 1;
        }
    } else {
        let all = store.list_with_delimiter(Some(&prefix)).await.map_err(|e| failed("list", name, e))?;
        all.common_prefixes.iter().for_each(|folder| println!("{:>12}  {:19}  {folder}/", "-", ""));
        all.objects.iter().for_each(|meta| println!("{}", line(meta)));
        shown = all.common_prefixes.len() + all.objects.len();
    }
    if shown == 0 && prefix != Path::default() {
        let meta = store.head(&prefix).await.map_err(|e| failed("list", name, e))?;
        println!("{}", line(&meta));
    }
    Ok(())
}

async fn copy_out(
    store: &SkepStore,
    file: &str,
    out: &mut (impl tokio::io::AsyncWrite + Unpin),
) -> Result<()> {
    let read = store.get(&path(file)?).await.map_err(|e| failed("read", file, e))?;
    let mut bytes = read.into_stream();
    while let Some(piece) = bytes.next().await {
        let piece = piece.map_err(|e| failed("read", file, e))?;
        out.write_all(&piece).await.map_err(|e| Error::invalid("cannot write what was read").source(e))?;
    }
    out.flush().await.map_err(|e| Error::invalid("cannot write what was read").source(e))
}

/// A file that is there is not replaced, and one that could not be read whole does not stay.
async fn get(store: &SkepStore, file: &str, to: &FilePath) -> Result<()> {
    let to = if to.is_dir() { to.join(file.rsplit('/').next().unwrap_or(file)) } else { to.to_owned() };
    let mut options = tokio::fs::OpenOptions::new();
    let mut out =
        options.write(true).create_new(true).open(&to).await.map_err(|e| local("create", &to, e))?;
    let copied = copy_out(store, file, &mut out).await;
    if copied.is_err() {
        // The error that matters is the first.
        let _ = tokio::fs::remove_file(&to).await;
    }
    copied
}

async fn put(store: &SkepStore, from: &FilePath, to: &str, replace: bool) -> Result<()> {
    let target = path(to)?;
    let mut file = tokio::fs::File::open(from).await.map_err(|e| local("read", from, e))?;
    let size = file.metadata().await.map_err(|e| local("read", from, e))?.len();
    let exists = || {
        Error::already_exists(format!("'{to}' is in the store already"))
            .hint("--replace puts the new file in its place")
    };
    if size <= PIECE as u64 {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).await.map_err(|e| local("read", from, e))?;
        let mode = if replace { PutMode::Overwrite } else { PutMode::Create };
        let options = PutOptions { mode, ..PutOptions::default() };
        return match store.put_opts(&target, bytes.into(), options).await {
            Ok(_) => Ok(()),
            Err(object_store::Error::AlreadyExists { .. }) => Err(exists()),
            Err(e) => Err(failed("write", to, e)),
        };
    }
    if !replace && store.head(&target).await.is_ok() {
        return Err(exists());
    }
    let upload = store.put_multipart(&target).await.map_err(|e| failed("write", to, e))?;
    let mut upload = WriteMultipart::new(upload);
    let mut piece = vec![0; PIECE];
    loop {
        let got = match file.read(&mut piece).await {
            Ok(0) => break,
            Ok(got) => got,
            Err(e) => {
                // The error that matters is the first.
                let _ = upload.abort().await;
                return Err(local("read", from, e));
            }
        };
        upload.wait_for_capacity(PARTS).await.map_err(|e| failed("write", to, e))?;
        upload.write(&piece[..got]);
    }
    upload.finish().await.map(drop).map_err(|e| failed("write", to, e))
}

async fn remove(store: &SkepStore, wanted: &str, recursive: bool) -> Result<()> {
    let target = path(wanted)?;
    if !recursive {
        return store.delete(&target).await.map_err(|e| failed("remove", wanted, e));
    }
    let found: Vec<Path> = store
        .list(Some(&target))
        .map_ok(|meta| meta.location)
        .try_collect()
        .await
        .map_err(|e| failed("list", wanted, e))?;
    if found.is_empty() {
        return store.delete(&target).await.map_err(|e| failed("remove", wanted, e));
    }
    let locations = futures::stream::iter(found.into_iter().map(Ok)).boxed();
    let mut deleted = store.delete_stream(locations);
    while let Some(done) = deleted.next().await {
        match done {
            // Another took it away.
            Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
            Err(e) => return Err(failed("remove", wanted, e)),
        }
    }
    Ok(())
}

async fn usage(store: &SkepStore, folder: Option<&str>) -> Result<()> {
    let (name, prefix) = (folder.unwrap_or("/"), path(folder.unwrap_or(""))?);
    let mut below: std::collections::BTreeMap<String, (u64, u64)> = std::collections::BTreeMap::new();
    let mut files = store.list(Some(&prefix));
    let (mut count, mut bytes) = (0_u64, 0_u64);
    while let Some(meta) = files.try_next().await.map_err(|e| failed("list", name, e))? {
        let mut parts = meta.location.prefix_match(&prefix).into_iter().flatten();
        let first = parts.next().map(|part| part.as_ref().to_owned()).unwrap_or_default();
        let entry = below.entry(first).or_default();
        *entry = (entry.0 + meta.size, entry.1 + 1);
        (bytes, count) = (bytes + meta.size, count + 1);
    }
    for (entry, (size, files)) in &below {
        println!("{size:>14}  {files:>8}  {entry}");
    }
    println!("{bytes:>14}  {count:>8}  {name} ({})", ByteSize(bytes));
    Ok(())
}

async fn stat(store: &SkepStore, file: &str) -> Result<()> {
    let wanted = path(file)?;
    let found = store.namespace().lookup(&[wanted.to_string()]).await?.into_iter().next().flatten();
    let found = found.ok_or_else(|| Error::not_found(format!("no file '{wanted}' in the store")))?;
    println!("path     {}", found.meta.path);
    println!("bytes    {} ({})", found.meta.size, ByteSize(found.meta.size));
    println!("created  {}", found.meta.created.format("%Y-%m-%d %H:%M:%S%.3f UTC"));
    println!("version  {}", found.meta.version);
    println!("blocks   {}", found.blocks.len());
    for block in &found.blocks {
        let nodes: Vec<&str> = block.replicas.iter().map(|peer| peer.id.as_str()).collect();
        let silent: Vec<String> = block.silent.iter().map(|peer| format!("{} (silent)", peer.id)).collect();
        let lost: Vec<String> = block.lost.iter().map(|node| format!("{node} (lost)")).collect();
        let all: Vec<&str> =
            nodes.into_iter().chain(silent.iter().chain(&lost).map(String::as_str)).collect();
        println!("  {}  {:>12}  {}", block.id, block.length, all.join(", "));
    }
    Ok(())
}
