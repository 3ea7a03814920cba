//! Random statements of several sessions, in transactions and out of them, against rows in memory: what each sees, which
//! commits conflict, and what is left when the coordinator is killed, between the upload of files, the snapshot and the
//! commit too.

use std::path::{Path, PathBuf};

use skep_catalog::{Catalog, OpenOptions};
use skep_common::{Kind, clock, task};
use skep_testkit::client::Client;
use skep_testkit::postgres::Postgres;
use skep_testkit::process::{PATIENCE, Server, skep};
use skep_testkit::{skip, slow};
use sqlx::any::AnyConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions};

const TABLES: usize = 2;
const SESSIONS: usize = 3;

/// Numbers that look random and repeat with their seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % sides
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    k: i64,
    v: i64,
    /// Written by the transaction that sees it.
    own: bool,
}

/// What a transaction did to a table.
#[derive(Debug, Clone, Copy, Default)]
struct Effect {
    /// Rows came to it that are still there.
    added: bool,
    /// Rows that were there before were changed or deleted.
    removed: bool,
    /// Rows of its own were changed or deleted: whether that is a deletion for others is not the model's to say.
    own_removed: bool,
}

type Tables = [Vec<Row>; TABLES];

#[derive(Debug, Clone)]
enum Change {
    Insert { table: usize, rows: Vec<(i64, i64)> },
    Update { table: usize, k: i64 },
    Delete { table: usize, k: i64 },
}

impl Change {
    fn random(dice: &mut Dice) -> Self {
        let (table, k) = (dice.roll(TABLES), dice.roll(5) as i64);
        match dice.roll(5) {
            0..=2 => {
                let rows = (0..=dice.roll(3)).map(|_| (dice.roll(5) as i64, dice.roll(100) as i64));
                Self::Insert { table, rows: rows.collect() }
            }
            3 => Self::Update { table, k },
            _ => Self::Delete { table, k },
        }
    }

    fn sql(&self) -> String {
        match self {
            Self::Insert { table, rows } => {
                let rows: Vec<String> = rows.iter().map(|(k, v)| format!("({k}, {v})")).collect();
                format!("INSERT INTO t{table} VALUES {}", rows.join(", "))
            }
            Self::Update { table, k } => format!("UPDATE t{table} SET v = v + 100 WHERE k = {k}"),
            Self::Delete { table, k } => format!("DELETE FROM t{table} WHERE k = {k} AND v % 2 = 0"),
        }
    }

    /// Changes the rows, and returns how many and of which kind they were.
    fn apply(&self, tables: &mut Tables, effects: &mut [Effect; TABLES]) -> u64 {
        let (table, touched): (usize, Vec<bool>) = match self {
            Self::Insert { table, rows } => {
                tables[*table].extend(rows.iter().map(|&(k, v)| Row { k, v, own: true }));
                return rows.len() as u64;
            }
            Self::Update { table, k } => {
                let rows = tables[*table].iter_mut().filter(|row| row.k == *k);
                let touched = rows.map(|row| {
                    row.v += 100;
                    row.own
                });
                (*table, touched.collect())
            }
            Self::Delete { table, k } => {
                let gone = |row: &Row| row.k == *k && row.v % 2 == 0;
                let touched = tables[*table].iter().filter(|row| gone(row)).map(|row| row.own).collect();
                tables[*table].retain(|row| !gone(row));
                (*table, touched)
            }
        };
        effects[table].removed |= touched.iter().any(|own| !own);
        effects[table].own_removed |= touched.iter().any(|own| *own);
        touched.len() as u64
    }
}

/// An open transaction as it should be.
struct Open {
    base: usize,
    tables: Tables,
    effects: [Effect; TABLES],
}

impl Open {
    fn effects(&self) -> [Effect; TABLES] {
        let mut effects = self.effects;
        for (effect, rows) in effects.iter_mut().zip(&self.tables) {
            effect.added = rows.iter().any(|row| row.own);
        }
        effects
    }
}

struct World {
    data: PathBuf,
    catalog: Option<String>,
    server: Option<Server>,
    clients: Vec<Client>,
    open: Vec<Option<Open>>,
    committed: Tables,
    /// What each commit did.
    log: Vec<[Effect; TABLES]>,
    story: Vec<String>,
}

impl World {
    async fn start(folder: &Path, catalog: Option<String>) -> Self {
        let mut world = Self {
            data: folder.join("data"),
            catalog,
            server: None,
            clients: Vec::new(),
            open: (0..SESSIONS).map(|_| None).collect(),
            committed: Tables::default(),
            log: Vec::new(),
            story: Vec::new(),
        };
        world.resume().await;
        for table in 0..TABLES {
            world.clients[0].update(&format!("CREATE TABLE t{table} (k BIGINT, v BIGINT)")).await.unwrap();
        }
        world
    }

    async fn resume(&mut self) {
        let mut command = skep(&[
            "up",
            "--data",
            self.data.to_str().unwrap(),
            "--store=file",
            "--flight=127.0.0.1:0",
            "--http=127.0.0.1:0",
            "--workers=1",
        ]);
        if let Some(catalog) = &self.catalog {
            command.env("SKEP_CATALOG", catalog);
        }
        let server = Server::start_command(command).unwrap();
        self.clients.clear();
        for _ in 0..SESSIONS {
            self.clients.push(Client::connect(server.flight()).await.unwrap());
        }
        self.open.iter_mut().for_each(|open| *open = None);
        self.server = Some(server);
    }

    fn tell(&self) -> String {
        let from = self.story.len().saturating_sub(40);
        self.story[from..].join("\n")
    }

    async fn see(&mut self, session: usize) -> Tables {
        let mut seen = Tables::default();
        for (table, rows) in seen.iter_mut().enumerate() {
            let found = self.clients[session].rows(&format!("SELECT k, v FROM t{table} ORDER BY k, v")).await;
            let found = found.unwrap_or_else(|e| panic!("{e:?}\n{}", self.tell()));
            *rows = found
                .iter()
                .map(|row| Row { k: row[0].parse().unwrap(), v: row[1].parse().unwrap(), own: false })
                .collect();
        }
        seen
    }

    async fn check(&mut self, session: usize) {
        let expected = plain(self.open[session].as_ref().map_or(&self.committed, |open| &open.tables));
        let seen = self.see(session).await;
        assert_eq!(seen, expected, "session {session} sees other rows\n{}", self.tell());
    }

    async fn change(&mut self, session: usize, change: &Change) {
        self.story.push(format!("{session}: {}", change.sql()));
        let done = self.clients[session].update(&change.sql()).await;
        let done = done.unwrap_or_else(|e| panic!("{e:?}\n{}", self.tell()));
        let expected = match &mut self.open[session] {
            Some(open) => change.apply(&mut open.tables, &mut open.effects),
            None => {
                let mut open = self.begun();
                let rows = change.apply(&mut open.tables, &mut open.effects);
                self.land(open);
                rows
            }
        };
        assert_eq!(done, expected, "the number of rows\n{}", self.tell());
    }

    fn begun(&self) -> Open {
        Open { base: self.log.len(), tables: plain(&self.committed), effects: Default::default() }
    }

    fn land(&mut self, open: Open) {
        let effects = open.effects();
        for (table, effect) in effects.iter().enumerate() {
            if effect.removed {
                // Nobody else changed it since.
                self.committed[table] = open.tables[table].clone();
            } else {
                self.committed[table].extend(open.tables[table].iter().filter(|row| row.own));
            }
        }
        self.committed = plain(&self.committed);
        self.log.push(effects);
    }

    /// Whether a transaction must conflict with what was committed since it began, and whether it may.
    fn conflicts(&self, open: &Open) -> (bool, bool) {
        let (mut must, mut may) = (false, false);
        for theirs in &self.log[open.base..] {
            for (ours, theirs) in open.effects().iter().zip(theirs) {
                let changed = theirs.added || theirs.removed || theirs.own_removed;
                must |= ours.removed && (theirs.added || theirs.removed) || ours.added && theirs.removed;
                may |= (ours.removed || ours.own_removed) && changed || ours.added && theirs.own_removed;
            }
        }
        (must, must || may)
    }

    async fn commit(&mut self, session: usize) {
        let Some(open) = self.open[session].take() else { return };
        self.story.push(format!("{session}: COMMIT"));
        let said = self.clients[session].update("COMMIT").await;
        let (must, may) = self.conflicts(&open);
        match said {
            Ok(_) => {
                assert!(!must, "a commit that conflicts was made: {:?}\n{}", open.effects(), self.tell());
                self.land(open);
            }
            Err(error) => {
                assert_eq!(error.kind(), Kind::Conflict, "{error:?}\n{}", self.tell());
                assert!(
                    must || may,
                    "a commit that does not conflict was refused: {error:?}\n{}",
                    self.tell()
                );
                self.story.push("   conflict".to_owned());
            }
        }
    }

    /// Kills the coordinator while `session` commits or changes rows, when `moment` has come: the rows are as before.
    async fn kill_before_the_commit(&mut self, session: usize, dice: &mut Dice) {
        let statement = match self.open[session] {
            Some(_) => "COMMIT".to_owned(),
            None => Change::Insert { table: dice.roll(TABLES), rows: vec![(1, 1)] }.sql(),
        };
        // A transaction without changes has nothing to wait for, and one that conflicts writes nothing.
        if let Some(open) = &self.open[session]
            && (self.conflicts(open).1 || !open.effects().iter().any(|effect| effect.added || effect.removed))
        {
            return;
        }
        self.story.push(format!("{session}: {statement}, and a kill before the commit"));
        let mut client = self.clients[session].clone();
        match self.catalog.clone() {
            // The lock that a commit takes first is ours: the files are there, and nothing else.
            None => {
                let catalog = Catalog::open(self.data.join("catalog.sqlite"), OpenOptions::new("/nowhere/"));
                let catalog = catalog.await.unwrap();
                let lock = catalog.db().begin().await.unwrap();
                let before = files(&self.data);
                let upload = statement.starts_with("INSERT");
                let sent = task::spawn("statement", async move { client.update(&statement).await.is_ok() });
                until(|| !upload || files(&self.data) > before).await;
                self.server.take().unwrap().kill();
                drop(lock);
                catalog.db().close().await;
                assert!(!sent.join().await.unwrap(), "a commit was acknowledged that was not made");
            }
            // A table that is written after the snapshot is ours: the snapshot is written, and not committed.
            Some(url) => {
                sqlx::any::install_default_drivers();
                let url: url::Url = url.parse().unwrap();
                let mut lock = AnyConnectOptions::from_url(&url).unwrap().connect().await.unwrap();
                let hold = "BEGIN; LOCK TABLE skep_commit IN EXCLUSIVE MODE";
                sqlx::raw_sql(AssertSqlSafe(hold)).execute(&mut lock).await.unwrap();
                let sent = task::spawn("statement", async move { client.update(&statement).await.is_ok() });
                let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = \
                             CAST('skep_commit' AS regclass)";
                let end = clock::system().instant() + PATIENCE;
                loop {
                    let row: (i64,) = sqlx::query_as(waits).fetch_one(&mut lock).await.unwrap();
                    if row.0 > 0 {
                        break;
                    }
                    assert!(clock::system().instant() < end, "the commit does not come\n{}", self.tell());
                    tokio::task::yield_now().await;
                }
                self.server.take().unwrap().kill();
                assert!(!sent.join().await.unwrap(), "a commit was acknowledged that was not made");
                sqlx::raw_sql("ROLLBACK").execute(&mut lock).await.unwrap();
            }
        }
        self.resume().await;
        self.check(0).await;
    }

    /// Kills the coordinator just after a statement was sent: it was made or not, and not by halves.
    async fn kill_under_way(&mut self, session: usize, dice: &mut Dice) {
        let (statement, after) = match self.open[session].take() {
            Some(open) => ("COMMIT".to_owned(), Some(open)),
            None => {
                let change = Change::random(dice);
                let mut open = self.begun();
                change.apply(&mut open.tables, &mut open.effects);
                (change.sql(), Some(open))
            }
        };
        self.story.push(format!("{session}: {statement}, and a kill"));
        let mut client = self.clients[session].clone();
        let sent = task::spawn("statement", async move { client.update(&statement).await.is_ok() });
        for _ in 0..dice.roll(2000) {
            tokio::task::yield_now().await;
        }
        self.server.take().unwrap().kill();
        let acknowledged = sent.join().await.unwrap();
        self.resume().await;
        let seen = self.see(0).await;
        let before = plain(&self.committed);
        if seen != before || acknowledged {
            self.land(after.unwrap());
            assert_eq!(seen, plain(&self.committed), "neither before nor after\n{}", self.tell());
        }
    }
}

/// The rows in order, and nobody's own.
fn plain(tables: &Tables) -> Tables {
    let mut tables = tables.clone();
    for rows in &mut tables {
        rows.iter_mut().for_each(|row| row.own = false);
        rows.sort_unstable();
    }
    tables
}

/// Files of tables below a folder.
fn files(folder: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let count = |path: PathBuf| match path.is_dir() {
        true => files(&path),
        false => usize::from(path.extension().is_some_and(|e| e == "parquet")),
    };
    entries.flatten().map(|entry| count(entry.path())).sum()
}

async fn until(condition: impl Fn() -> bool) {
    let clock = clock::system();
    let end = clock.instant() + PATIENCE;
    while !condition() {
        assert!(clock.instant() < end, "what was waited for does not come");
        tokio::task::yield_now().await;
    }
}

async fn run(catalog: Option<String>, seed: u64, steps: usize) {
    let folder = tempfile::tempdir().unwrap();
    let mut world = World::start(folder.path(), catalog).await;
    world.story.push(format!("seed {seed}"));
    let mut dice = Dice(seed);
    for _ in 0..steps {
        let session = dice.roll(SESSIONS);
        match dice.roll(40) {
            0 => world.kill_before_the_commit(session, &mut dice).await,
            1 => world.kill_under_way(session, &mut dice).await,
            2..=7 if world.open[session].is_none() => {
                world.story.push(format!("{session}: BEGIN"));
                world.clients[session].update("BEGIN").await.unwrap();
                let open = world.begun();
                world.open[session] = Some(open);
            }
            2..=4 => world.commit(session).await,
            5 if world.open[session].is_some() => {
                world.story.push(format!("{session}: ROLLBACK"));
                world.clients[session].update("ROLLBACK").await.unwrap();
                world.open[session] = None;
            }
            _ => {
                let change = Change::random(&mut dice);
                world.change(session, &change).await;
            }
        }
        world.check(session).await;
        if world.open[session].is_none() {
            let other = dice.roll(SESSIONS);
            world.check(other).await;
        }
    }
}

/// Steps of a run, and the seed: fixed, or another one each time where tests may take long.
fn size() -> (u64, usize) {
    if slow() { (u64::from(std::process::id()), 1500) } else { (7, 110) }
}

#[tokio::test]
async fn they_agree_with_a_model() {
    let (seed, steps) = size();
    run(None, seed, steps).await;
}

#[tokio::test]
async fn they_agree_with_a_model_on_postgres() {
    let Some(server) = Postgres::start() else {
        return skip("sessions::they_agree_with_a_model_on_postgres", "PostgreSQL");
    };
    let (seed, steps) = size();
    run(Some(server.url()), seed, steps).await;
}
