//! `skep admin`: the catalog of a folder is copied, brought back, checked.
//!
//! ```text
//! FOLDER/catalog.sqlite   the catalog as an SQLite database, wherever it came from
//! FOLDER/blocks.sqlite    the map of blocks, and which store the workers belong to
//! FOLDER/backup.json      what the two are, with their checksums; written last: without it the copy is not complete
//! ```
//!
//! The catalog is copied before the map of blocks: every file that the catalog names is in the map.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use skep_catalog::{Catalog, Head, OpenOptions};
use skep_common::{Error, Kind, Result, clock};
use skep_metadb::{Location, MetaDb, Options};
use skep_pipeline::Pipelines;
use skep_store::{Namespace, SKEP_URL};

use crate::cli::{AdminCommand, Backup, Check, Restore};
use crate::config::StoreKind;
use crate::folder::{self, Folder};

const FORMAT: u32 = 1;
const MANIFEST: &str = "backup.json";
const CATALOG: &str = "catalog.sqlite";
const BLOCKS: &str = "blocks.sqlite";

#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    format: u32,
    skep: String,
    taken_at: DateTime<Utc>,
    snapshot: i64,
    data_path: String,
    files: Vec<Copied>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Copied {
    name: String,
    bytes: u64,
    crc32c: u32,
}

pub(crate) async fn run(command: AdminCommand) -> Result<ExitCode> {
    match command {
        AdminCommand::Backup(args) => backup(args).await,
        AdminCommand::Restore(args) => restore(args).await,
        AdminCommand::Check(args) => check(args).await,
    }
}

async fn backup(args: Backup) -> Result<ExitCode> {
    let location = folder::catalog_of(&args.place.data, args.place.catalog)?;
    let to = new_folder(&args.to)?;
    let source = MetaDb::open(location.clone(), existing()).await?;
    let copy = to.join(CATALOG);
    match &location {
        Location::File(_) => source.copy_file(&copy).await?,
        Location::Postgres(_) => {
            // Brings the tables of an older version up to date, so that both sides have the same.
            let catalog = Catalog::open(location.clone(), OpenOptions::new("/nowhere/")).await?;
            let target = Catalog::open(&copy, OpenOptions::new(catalog.data_path())).await?;
            Pipelines::prepare(catalog.db()).await?;
            Pipelines::prepare(target.db()).await?;
            source.copy_into(target.db(), |table| !of_catalog(table)).await?;
            target.db().close().await;
        }
    }
    MetaDb::settle(&copy).await?;
    let Head { snapshot, data_path, time } = look(&copy).await?;
    let mut names = vec![CATALOG];
    let blocks = args.place.data.join(BLOCKS);
    let has_blocks = match &location {
        Location::File(_) => blocks.is_file(),
        Location::Postgres(_) => source.tables().await?.iter().any(|table| of_blocks(table)),
    };
    if !has_blocks && data_path.starts_with(SKEP_URL) {
        return Err(Error::not_found(format!("the map of blocks, '{}', is not there", blocks.display()))
            .hint("name the folder of the coordinator with --data"));
    }
    if has_blocks {
        let copy = to.join(BLOCKS);
        match &location {
            Location::File(_) => {
                let blocks = MetaDb::open(blocks, existing()).await?;
                blocks.copy_file(&copy).await?;
                blocks.close().await;
            }
            Location::Postgres(_) => {
                let target = MetaDb::open(&copy, Options::default()).await?;
                Namespace::prepare(&target).await?;
                source.copy_into(&target, |table| !of_blocks(table)).await?;
                target.close().await;
            }
        }
        MetaDb::settle(&copy).await?;
        names.push(BLOCKS);
    }
    source.close().await;
    let files = names.iter().map(|name| sum(&to, name)).collect::<Result<_>>()?;
    let skep = env!("CARGO_PKG_VERSION").to_owned();
    let manifest =
        Manifest { format: FORMAT, skep, taken_at: clock::system().now(), snapshot, data_path, files };
    let text = serde_json::to_string_pretty(&manifest)
        .map_err(|e| Error::internal("cannot describe the backup").source(e))?;
    folder::write_whole(&to.join(MANIFEST), &text)?;
    println!("backed up snapshot {snapshot} of {time} to '{}'", to.display());
    Ok(ExitCode::SUCCESS)
}

async fn restore(args: Restore) -> Result<ExitCode> {
    let manifest = verify(&args.from)?;
    let Head { snapshot, time, .. } = look(&args.from.join(CATALOG)).await?;
    let has_blocks = manifest.files.iter().any(|file| file.name == BLOCKS);
    let store = if manifest.data_path.starts_with(SKEP_URL) { StoreKind::Skep } else { StoreKind::File };
    let folder = Folder::open(&args.place.data, Some(store), args.place.catalog)?;
    let location = folder.catalog();
    match &location {
        Location::File(path) => {
            let mut files = vec![(args.from.join(CATALOG), path.clone())];
            if has_blocks {
                files.push((args.from.join(BLOCKS), folder.path().join(BLOCKS)));
            }
            if !args.force {
                files.iter().try_for_each(|(_, to)| is_free(to))?;
            }
            for (from, to) in files {
                put_aside(&to)?;
                bring(&from, &to)?;
            }
        }
        Location::Postgres(_) => into_server(&args.from, &location, &manifest).await?,
    }
    let catalog = Catalog::open(location, OpenOptions::new(manifest.data_path)).await?;
    let broken = catalog.check().await?;
    if let Some(first) = broken.first() {
        return Err(Error::corrupt(format!(
            "the restored catalog is broken in {} places: {first}",
            broken.len()
        ))
        .hint("restore an older backup; 'skep admin check' lists every place"));
    }
    catalog.db().close().await;
    println!(
        "restored snapshot {snapshot} of {time} from '{}'; what was committed later is not in it",
        args.from.display()
    );
    Ok(ExitCode::SUCCESS)
}

async fn check(args: Check) -> Result<ExitCode> {
    let location = folder::catalog_of(&args.place.data, args.place.catalog)?;
    drop(MetaDb::open(location.clone(), existing()).await?);
    let catalog = Catalog::open(location, OpenOptions::new("/nowhere/")).await?;
    let broken = catalog.check().await?;
    for line in &broken {
        println!("{line}");
    }
    let snapshot = catalog.snapshot().await?.id;
    catalog.db().close().await;
    match broken.len() {
        0 => {
            println!("the catalog is in order at snapshot {snapshot}");
            Ok(ExitCode::SUCCESS)
        }
        places => Err(Error::corrupt(format!("the catalog is broken in {places} places"))
            .hint("restore the latest backup whose check finds nothing")),
    }
}

/// A database that is there is read, none is made.
fn existing() -> Options {
    Options { create: false, ..Options::default() }
}

/// Tables of the migrations, of leases and of past queries belong to a database, not to what it holds.
fn of_catalog(table: &str) -> bool {
    let own = [skep_metadb::MIGRATIONS, skep_metadb::LEASES, skep_coordinator::queries::TABLE];
    !of_blocks(table) && !own.contains(&table)
}

fn of_blocks(table: &str) -> bool {
    Namespace::tables().any(|name| name == table)
}

/// What a backup of a catalog holds.
async fn look(path: &Path) -> Result<Head> {
    let copy = MetaDb::open(path, untouched()).await?;
    let head = Catalog::head(&copy).await?;
    copy.close().await;
    Ok(head)
}

/// How the files of a backup are read.
fn untouched() -> Options {
    Options { immutable: true, ..Options::default() }
}

async fn into_server(from: &Path, location: &Location, manifest: &Manifest) -> Result<()> {
    let target = MetaDb::open(location.clone(), Options::default()).await?;
    if target.tables().await?.contains("ducklake_metadata") {
        return Err(Error::already_exists(format!("'{location}' holds a catalog already")).hint(
            "name an empty database, or another schema with ?options=-csearch_path%3DNAME; nothing was changed",
        ));
    }
    let made = Catalog::open(location.clone(), OpenOptions::new(manifest.data_path.clone())).await?;
    Pipelines::prepare(made.db()).await?;
    let source = MetaDb::open(from.join(CATALOG), untouched()).await?;
    source.copy_into(made.db(), |table| !of_catalog(table)).await?;
    if manifest.files.iter().any(|file| file.name == BLOCKS) {
        Namespace::prepare(&target).await?;
        let blocks = MetaDb::open(from.join(BLOCKS), untouched()).await?;
        blocks.copy_into(&target, |table| !of_blocks(table)).await?;
    }
    made.db().close().await;
    target.close().await;
    Ok(())
}

/// The manifest of a copy whose files are as it says.
fn verify(from: &Path) -> Result<Manifest> {
    let path = from.join(MANIFEST);
    let text = std::fs::read_to_string(&path).map_err(|e| {
        Error::not_found(format!("'{}' is not a complete backup: it has no {MANIFEST}", from.display()))
            .hint("name the folder that 'skep admin backup --to' wrote")
            .source(e)
    })?;
    let manifest: Manifest = serde_json::from_str(&text)
        .map_err(|e| Error::corrupt(format!("'{}' does not read", path.display())).source(e))?;
    if manifest.format > FORMAT {
        return Err(Error::invalid(format!(
            "the backup has format {}, this skep knows up to {FORMAT}",
            manifest.format
        ))
        .hint(format!("skep {} wrote it: restore it with that version", manifest.skep)));
    }
    for file in &manifest.files {
        let found = sum(from, &file.name)?;
        if (found.bytes, found.crc32c) != (file.bytes, file.crc32c) {
            return Err(Error::corrupt(format!(
                "'{}' of the backup was changed after it was taken: {} bytes with checksum {:08x}, not {} with {:08x}",
                file.name, found.bytes, found.crc32c, file.bytes, file.crc32c
            ))
            .hint("restore another backup"));
        }
    }
    Ok(manifest)
}

fn sum(folder: &Path, name: &str) -> Result<Copied> {
    let path = folder.join(name);
    let failed = |e| Error::new(Kind::Unavailable, format!("cannot read '{}'", path.display())).source(e);
    let mut file = std::fs::File::open(&path).map_err(failed)?;
    let (mut bytes, mut crc32c, mut buffer) = (0, 0, vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer).map_err(failed)? {
            0 => return Ok(Copied { name: name.to_owned(), bytes, crc32c }),
            read => {
                crc32c = crc32c::crc32c_append(crc32c, &buffer[..read]);
                bytes += read as u64;
            }
        }
    }
}

fn new_folder(path: &Path) -> Result<PathBuf> {
    let unusable = |e: std::io::Error| {
        Error::invalid(format!("cannot write a backup to '{}'", path.display())).source(e)
    };
    std::fs::create_dir_all(path).map_err(unusable)?;
    if std::fs::read_dir(path).map_err(unusable)?.next().is_some() {
        return Err(Error::already_exists(format!("'{}' is not empty", path.display()))
            .hint("name a new folder: a backup never replaces another"));
    }
    path.canonicalize().map_err(unusable)
}

fn cannot_replace(path: &Path) -> impl Fn(std::io::Error) -> Error {
    move |e| Error::invalid(format!("cannot replace '{}'", path.display())).source(e)
}

fn is_free(path: &Path) -> Result<()> {
    if path.try_exists().map_err(cannot_replace(path))? {
        return Err(Error::already_exists(format!("'{}' is there already", path.display()))
            .hint("--force puts it aside; or name another --data; nothing was changed"));
    }
    Ok(())
}

/// Renames what is at `path`, with what SQLite keeps beside it.
fn put_aside(path: &Path) -> Result<()> {
    let beside = |end: &str| PathBuf::from(format!("{}{end}", path.display()));
    for end in ["-wal", "-shm", ""] {
        let from = beside(end);
        if from.try_exists().map_err(cannot_replace(path))? {
            std::fs::rename(&from, beside(&format!(".replaced{end}"))).map_err(cannot_replace(path))?;
        }
    }
    Ok(())
}

/// Copies a file so that it is there whole or not at all.
fn bring(from: &Path, to: &Path) -> Result<()> {
    let copy = || {
        let temporary = to.with_extension("tmp");
        std::fs::copy(from, &temporary)?;
        std::fs::File::open(&temporary)?.sync_all()?;
        std::fs::rename(&temporary, to)?;
        match to.parent() {
            Some(folder) => std::fs::File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    };
    copy().map_err(|e: std::io::Error| Error::invalid(format!("cannot write '{}'", to.display())).source(e))
}
