//! The tests that judge Skep by programs nobody here wrote, such as DuckDB and Python clients of Arrow Flight SQL.
//!
//! They are installed from the Python package index into a folder under the target directory. Tests find them by
//! `SKEP_DUCKDB` (the program), `SKEP_DUCKDB_EXTENSIONS` (the folder of its extensions) and `SKEP_PYTHON`, and a PostgreSQL
//! server of this machine by `SKEP_POSTGRES_BIN` (the folder of `initdb` and `postgres`). Tests are named after what they
//! need: `duckdb`, `adbc` or `postgres`. `SKEP_REQUIRE_SERVICES` makes a test that misses them fail.
//!
//! The tests of the crates that keep tables in the metadata database run once more, on PostgreSQL (`SKEP_POSTGRES`).
//!
//! Tests of other stores are in modules `other_stores`, and their names begin with what they need: `s3_moto` (a server of the Python
//! package index, `SKEP_MOTO`), `s3_ceph` (the gateway of Ceph, if this machine has its programs or may install them: `SKEP_CEPH`),
//! `hdfs` (Hadoop from the Maven repository, with the Java of this machine: `SKEP_HADOOP`).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::run::{Outcome, cargo, forget_caller, read, root, run, target};
use crate::suites;

/// The DuckDB packages are pinned to one another: an extension loads into exactly its own version.
const PACKAGES: [&str; 12] = [
    "duckdb-cli==1.5.5",
    "duckdb==1.5.5",
    "duckdb-extension-ducklake==1.5.5",
    "duckdb-extension-sqlite-scanner==1.5.5",
    "duckdb-extension-postgres-scanner==1.5.5",
    "adbc-driver-flightsql==1.13.0",
    "adbc-driver-manager==1.13.0",
    "pyarrow==26.0.1",
    "pandas==3.1.1",
    "polars==2.1.0",
    "flightsql-dbapi==0.2.2",
    "SQLAlchemy==1.4.54",
];
/// What the names of tests that need them contain.
const TESTS: [&str; 5] = ["duckdb", "adbc", "superset", "jdbc", "postgres"];
/// The Arrow Flight SQL driver of JDBC, with all that it needs inside.
const JDBC: (&str, &str, &str) = ("org.apache.arrow", "flight-sql-jdbc-driver", "18.3.0");
/// The crates whose tables are in the metadata database, by their folders.
const ON_POSTGRES: [&str; 3] = ["metadb", "catalog", "store"];

/// The S3 server, in an environment of its own: its dependencies are many.
const MOTO: &str = "moto[server]==5.2.5";
/// Spark, for measurements: in an environment of its own too.
const SPARK: &str = "pyspark==4.1.1";
/// The version of Hadoop.
const HADOOP: &str = "3.4.1";
/// The programs of Ceph, all in packages of Debian.
const CEPH: [&str; 4] = ["ceph-mon", "ceph-mgr", "ceph-osd", "radosgw"];
/// The modules of tests of other stores.
const OTHER_STORES: &str = "other_stores::";

/// Where the programs are.
pub(crate) struct Venv {
    folder: PathBuf,
}

impl Venv {
    /// Tells a program where they are.
    pub(crate) fn set(&self, command: &mut Command) {
        command
            .env("SKEP_DUCKDB", self.folder.join("bin/duckdb"))
            .env("SKEP_DUCKDB_EXTENSIONS", self.folder.join("extensions"))
            .env("SKEP_PYTHON", self.folder.join("bin/python"));
    }
}

/// Installs the programs if they are not there yet, and runs the tests that need them; with `stores` those of other stores alone.
pub(crate) fn services(stores: bool) -> Outcome {
    if stores {
        suites::build()?;
        other_stores()?.iter().for_each(|what| println!("services: skipped {what}"));
        return Ok(());
    }
    let venv = install()?;
    suites::build()?;
    let mut command = cargo(&["test", "--workspace", "--no-fail-fast", "--"]);
    command.args(TESTS).env("SKEP_REQUIRE_SERVICES", "1");
    venv.set(&mut command);
    let postgres = postgres();
    match &postgres {
        Some(programs) => command.env("SKEP_POSTGRES_BIN", programs),
        None => command.args(["--skip", "postgres"]),
    };
    let jdbc = jdbc(&venv.folder);
    match &jdbc {
        Ok(jar) => command.env("SKEP_JDBC", jar),
        Err(_) => command.args(["--skip", "jdbc"]),
    };
    let reached = reached_folder()?;
    command.env("SKEP_REACHED", &reached);
    let outcome = run(command);
    print_reached(&reached)?;
    outcome?;
    println!("services: ran the tests named after {} with {}", TESTS.join(", "), PACKAGES.join(", "));
    let mut skipped = Vec::new();
    if let Err(why) = jdbc {
        skipped.push(format!("JDBC, the tests named after it: {why}"));
    }
    match postgres {
        Some(programs) => {
            on_postgres(&programs)?;
            println!("services: ran all tests of {} on PostgreSQL too", ON_POSTGRES.join(", "));
        }
        None => skipped.push(format!(
            "PostgreSQL, the tests named after it and those of {} on it: there is no initdb on the PATH or under \
             /usr/lib/postgresql",
            ON_POSTGRES.join(", ")
        )),
    }
    skipped.extend(other_stores()?);
    for what in &skipped {
        println!("services: skipped {what}");
    }
    if skipped.is_empty() {
        println!("services: nothing was skipped");
    }
    Ok(())
}

/// Runs the tests of S3 and HDFS with the services that can be had. Returns what was skipped, and why.
fn other_stores() -> Outcome<Vec<String>> {
    let folder = target()?.join("services");
    let mut command = Command::new(target()?.join("debug").join("with_stores"));
    command.env("SKEP_REQUIRE_SERVICES", "1").current_dir(root());
    forget_caller(&mut command);
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // One after the other: each starts a service of its own.
    command.arg(cargo).args([
        "test",
        "--workspace",
        "--no-fail-fast",
        "--",
        "--test-threads",
        "1",
        OTHER_STORES,
    ]);
    let (mut ran, mut skipped) = (Vec::new(), Vec::new());
    for (name, variable, found) in [
        ("s3_moto", "SKEP_MOTO", moto(&folder)),
        ("s3_ceph", "SKEP_CEPH", ceph()),
        ("hdfs", "SKEP_HADOOP", hadoop(&folder)),
    ] {
        match found {
            Ok(path) => {
                command.env(variable, path);
                ran.push(name);
            }
            Err(why) => {
                command.args(["--skip", &format!("{OTHER_STORES}{name}")]);
                skipped.push(format!("the tests of other stores named after {name}: {why}"));
            }
        }
    }
    run(command)?;
    println!("services: ran the tests of other stores named after {}", ran.join(", "));
    Ok(skipped)
}

/// An empty folder for what each client reached.
fn reached_folder() -> Outcome<PathBuf> {
    let folder = target()?.join("services-reached");
    let failed = |e: std::io::Error| format!("cannot use {folder:?}: {e}");
    if folder.is_dir() {
        fs::remove_dir_all(&folder).map_err(failed)?;
    }
    fs::create_dir_all(&folder).map_err(failed)?;
    Ok(folder)
}

/// Prints what each client of Flight SQL reached, from lines of its name, checks passed, all checks, and those that failed.
fn print_reached(folder: &Path) -> Outcome {
    let entries = fs::read_dir(folder).map_err(|e| format!("cannot read {folder:?}: {e}"))?;
    let mut lines: Vec<String> = entries
        .flatten()
        .filter_map(|entry| fs::read_to_string(entry.path()).ok())
        .flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    lines.sort();
    println!("services: clients of Flight SQL, and how many of their checks pass");
    for line in lines {
        let mut cells = line.split('\t');
        let (client, passed) = (cells.next().unwrap_or_default(), cells.next().unwrap_or_default());
        let (all, failed) = (cells.next().unwrap_or_default(), cells.next().unwrap_or_default());
        println!("  {client:<70} {passed:>3} of {all:>3}  {failed}");
    }
    Ok(())
}

/// The JDBC driver.
fn jdbc(folder: &Path) -> Outcome<PathBuf> {
    let own = folder.with_file_name("services-jdbc");
    let (group, name, version) = JDBC;
    let jar = own.join("jars").join(format!("{name}-{version}.jar"));
    // The program that uses it is compiled as it starts.
    works_with(Path::new("javac"), "-version")
        .map_err(|why| format!("{why}; this needs a Java development kit"))?;
    let project = format!(
        "<project xmlns=\"http://maven.apache.org/POM/4.0.0\"><modelVersion>4.0.0</modelVersion>\n\
         <groupId>skep</groupId><artifactId>services</artifactId><version>1</version><packaging>pom</packaging>\n\
         <dependencies><dependency><groupId>{group}</groupId><artifactId>{name}</artifactId>\
         <version>{version}</version></dependency></dependencies></project>\n"
    );
    copy_with_maven(&own, &project)?;
    if jar.is_file() { Ok(jar) } else { Err(format!("{jar:?} is not among what Maven copied")) }
}

/// Copies the jars that `project` asks for into the folder `jars` of `own`, unless it did so before.
fn copy_with_maven(own: &Path, project: &str) -> Outcome {
    let (jars, mark) = (own.join("jars"), own.join("installed"));
    if fs::read_to_string(&mark).is_ok_and(|list| list == project) {
        return Ok(());
    }
    let failed = |e: std::io::Error| format!("cannot use {own:?}: {e}");
    if own.is_dir() {
        fs::remove_dir_all(own).map_err(failed)?;
    }
    fs::create_dir_all(own).map_err(failed)?;
    fs::write(own.join("pom.xml"), project).map_err(failed)?;
    let mut copy = Command::new("mvn");
    copy.args(["-q", "-B", "dependency:copy-dependencies", "-DincludeScope=runtime"]);
    copy.arg(format!("-DoutputDirectory={}", jars.display())).current_dir(own);
    run(copy)?;
    fs::write(&mark, project).map_err(failed)
}

/// A Python that has the S3 server.
fn moto(folder: &Path) -> Outcome<PathBuf> {
    python_with(MOTO, &folder.with_file_name("services-moto"))
}

/// A Python that has Spark, which needs the Java of this machine.
pub(crate) fn spark() -> Outcome<PathBuf> {
    works_with(Path::new("java"), "-version").map_err(|why| format!("{why}; Spark needs Java"))?;
    python_with(SPARK, &target()?.join("services-spark"))
}

/// A Python in the folder `own` that has `package`.
fn python_with(package: &str, own: &Path) -> Outcome<PathBuf> {
    let (python, mark) = (own.join("bin/python"), own.join("installed"));
    if fs::read_to_string(&mark).is_ok_and(|list| list == package) {
        return Ok(python);
    }
    let mut create = Command::new("python3");
    create.args(["-m", "venv", "--clear"]).arg(own);
    run(create)?;
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", package]);
    run(pip)?;
    fs::write(&mark, package).map_err(|e| format!("cannot write {mark:?}: {e}"))?;
    Ok(python)
}

/// The folder of Ceph's programs. They are installed if this is a system that may.
fn ceph() -> Outcome<PathBuf> {
    let found = || {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let complete = |folder: &PathBuf| CEPH.iter().all(|name| folder.join(name).is_file());
        std::env::split_paths(&path).find(complete)
    };
    if let Some(folder) = found() {
        return Ok(folder);
    }
    let mut install = Command::new("apt-get");
    install.args(["install", "-qy", "--no-install-recommends", "ceph-common"]).args(CEPH);
    let why =
        |problem: String| format!("its programs are not on the PATH and cannot be installed: {problem}");
    run(install).map_err(why)?;
    found().ok_or_else(|| "its packages do not have its programs".to_owned())
}

/// The folder of Hadoop's jars, if an earlier run installed them.
pub(crate) fn installed_hadoop() -> Outcome<Option<PathBuf>> {
    let own = target()?.join("services-hadoop");
    let complete = fs::read_to_string(own.join("installed")).is_ok_and(|list| list == hadoop_project());
    Ok(complete.then(|| own.join("jars")))
}

/// What Maven is asked for. Of a library that several of them want Maven takes the version of the first, and only that of
/// `hadoop-hdfs` is new enough for all.
fn hadoop_project() -> String {
    let dependency = |name: &str| {
        format!(
            "<dependency><groupId>org.apache.hadoop</groupId><artifactId>{name}</artifactId>\
             <version>{HADOOP}</version></dependency>\n"
        )
    };
    let wanted: String = ["hadoop-hdfs", "hadoop-common", "hadoop-hdfs-client"].map(dependency).concat();
    format!(
        "<project xmlns=\"http://maven.apache.org/POM/4.0.0\"><modelVersion>4.0.0</modelVersion>\n\
         <groupId>skep</groupId><artifactId>services</artifactId><version>1</version><packaging>pom</packaging>\n\
         <dependencies>\n{wanted}</dependencies></project>\n"
    )
}

/// The folder of Hadoop's jars.
fn hadoop(folder: &Path) -> Outcome<PathBuf> {
    let own = folder.with_file_name("services-hadoop");
    works_with(Path::new("java"), "-version")?;
    copy_with_maven(&own, &hadoop_project())?;
    Ok(own.join("jars"))
}

/// The folder of a server's programs, if this machine has them.
fn postgres() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut installed: Vec<PathBuf> = versions.map(|version| version.path().join("bin")).collect();
    installed.sort();
    folders.extend(installed.into_iter().rev());
    let complete = |folder: &PathBuf| ["initdb", "postgres"].iter().all(|name| folder.join(name).is_file());
    // A link to initdb alone would not find what lies beside it.
    folders
        .into_iter()
        .find(complete)
        .and_then(|folder| folder.join("initdb").canonicalize().ok()?.parent().map(Path::to_path_buf))
}

/// Runs all tests of the crates that keep tables in the metadata database, on a server.
fn on_postgres(programs: &Path) -> Outcome {
    let listing = read(cargo(&["test", "--workspace", "--no-run", "--message-format", "json"]))?;
    let value = |line: &str, key: &str| {
        let key = format!("\"{key}\":\"");
        let start = line.find(&key)? + key.len();
        Some(line[start..].split('"').next()?.to_owned())
    };
    for line in listing.lines().filter(|line| line.contains("\"reason\":\"compiler-artifact\"")) {
        let (Some(package), Some(program)) = (value(line, "package_id"), value(line, "executable")) else {
            continue;
        };
        let name = package.rsplit_once('#').map_or("", |(path, _)| path.rsplit('/').next().unwrap_or(""));
        if !ON_POSTGRES.contains(&name) {
            continue;
        }
        let mut command = Command::new(target()?.join("debug").join("with_postgres"));
        command.arg(program).env("SKEP_POSTGRES_BIN", programs).current_dir(root().join(name));
        run(command)?;
    }
    Ok(())
}

/// The programs, if an earlier run installed them.
pub(crate) fn installed() -> Outcome<Option<Venv>> {
    let folder = target()?.join("services");
    let complete = fs::read_to_string(folder.join("installed")).is_ok_and(|list| list == PACKAGES.join("\n"));
    if complete { found(folder).map(Some) } else { Ok(None) }
}

pub(crate) fn install() -> Outcome<Venv> {
    if let Some(venv) = installed()? {
        return Ok(venv);
    }
    let folder = target()?.join("services");
    let why = |problem: String| {
        format!(
            "services: every test was skipped, since DuckDB and the Python clients could not be installed: {problem}; \
             this needs python3 with its venv module and a Python package index that pip can reach"
        )
    };
    let mut create = Command::new("python3");
    create.args(["-m", "venv", "--clear"]).arg(&folder);
    run(create).map_err(why)?;
    let mut pip = Command::new(folder.join("bin/python"));
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(PACKAGES);
    run(pip).map_err(why)?;
    gather_extensions(&folder)?;
    let venv = found(folder.clone())?;
    fs::write(folder.join("installed"), PACKAGES.join("\n"))
        .map_err(|e| format!("cannot write {folder:?}: {e}"))?;
    Ok(venv)
}

fn found(folder: PathBuf) -> Outcome<Venv> {
    works(&folder.join("bin/duckdb"))?;
    works(&folder.join("bin/python"))?;
    Ok(Venv { folder })
}

/// Collects the DuckDB extensions, each deep in a package of its own, into one folder.
fn gather_extensions(folder: &Path) -> Outcome {
    let to = folder.join("extensions");
    fs::create_dir_all(&to).map_err(|e| format!("cannot create '{}': {e}", to.display()))?;
    let mut open = vec![folder.join("lib")];
    while let Some(path) = open.pop() {
        let entries = fs::read_dir(&path).map_err(|e| format!("cannot read '{}': {e}", path.display()))?;
        for path in entries.flatten().map(|entry| entry.path()) {
            let Some(name) = path.file_name() else { continue };
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|e| e == "duckdb_extension") {
                fs::copy(&path, to.join(name))
                    .map_err(|e| format!("cannot copy '{}': {e}", path.display()))?;
            }
        }
    }
    Ok(())
}

fn works(program: &Path) -> Outcome {
    works_with(program, "--version")
}

fn works_with(program: &Path, argument: &str) -> Outcome {
    let mut command = Command::new(program);
    let status = command.arg(argument).stdout(Stdio::null()).stderr(Stdio::null()).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("'{}' does not run ({status})", program.display())),
        Err(e) => Err(format!("'{}' does not run: {e}", program.display())),
    }
}
