//! The config file of `skep coordinator` and `skep worker`: TOML, overridden by `SKEP__SECTION__KEY`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use skep_cluster::{ChannelConfig, Secret};
use skep_common::{ByteSize, Error, Result};
use url::Url;

/// The whole file. A node reads the tables of its role and `[cluster]`; unknown keys are errors.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) coordinator: Coordinator,
    pub(crate) worker: Worker,
    pub(crate) cluster: Cluster,
    pub(crate) store: skep_store::Config,
    pub(crate) maintenance: skep_coordinator::maintenance::Config,
    pub(crate) flight: skep_server::flight::Config,
    pub(crate) pipelines: skep_pipeline::Config,
}

/// Table `[coordinator]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Coordinator {
    /// The catalog database: `postgres://USER@HOST/DATABASE`, or an SQLite file, as a path or `sqlite:PATH`. Absent:
    /// `catalog.sqlite` in the data folder.
    pub(crate) catalog: Option<String>,
    /// The coordinator's folder (a path), or where tables keep their files (`skep://blocks/`, `file:///folder/`); with
    /// a URL, the folder is that of the catalog.
    pub(crate) data: String,
    /// Where tables keep their files, when `data` is a path: `skep` (replicated blocks on the workers) or `file`
    /// (the folder `files` beside the catalog, which every node must see at the same path).
    pub(crate) store: StoreKind,
    /// Where Flight SQL listens.
    pub(crate) flight: SocketAddr,
    /// Where HTTP listens.
    pub(crate) http: SocketAddr,
    /// Where other nodes reach the coordinator.
    pub(crate) listen: SocketAddr,
    /// Host name or address that other nodes use for `listen`, when it is not the address itself.
    pub(crate) advertise: Option<String>,
    /// Folders that every node sees at the same path: scans of files there are spread over the workers.
    pub(crate) shared_paths: Vec<PathBuf>,
    /// Memory for queries in this process. Absent: 60 % of the machine's.
    pub(crate) memory: Option<ByteSize>,
    /// Bytes that the process may allocate in all. Absent: a third more than its memory for queries, at least 512 MiB more.
    pub(crate) memory_limit: Option<ByteSize>,
    /// Where statements run.
    pub(crate) lanes: skep_coordinator::lanes::Config,
    /// What is remembered of queries.
    pub(crate) queries: skep_coordinator::queries::Config,
    /// Who may run how much at a time, by the name of the resource group.
    pub(crate) groups: skep_coordinator::admission::Groups,
}

/// Table `[worker]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Worker {
    /// The coordinator's `listen` address, `http://HOST:PORT`.
    pub(crate) coordinator: Option<Url>,
    /// Where other nodes reach this worker; port 0 picks a free one.
    pub(crate) listen: SocketAddr,
    /// Host name or address that other nodes use for `listen`, when it is not the address itself.
    pub(crate) advertise: Option<String>,
    /// This worker's folder: its id, its blocks, its spill files.
    pub(crate) data: Option<PathBuf>,
    /// The failure domain, such as a rack. Replicas of a block go to different ones.
    pub(crate) zone: Option<String>,
    /// Memory for tasks in this process. Absent: 60 % of the machine's.
    pub(crate) memory: Option<ByteSize>,
    /// Bytes that the process may allocate in all. Absent: a third more than its memory for tasks, at least 512 MiB more.
    pub(crate) memory_limit: Option<ByteSize>,
    /// Tasks of the durable lane.
    pub(crate) durable: skep_worker::DurableConfig,
}

/// Table `[cluster]`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Cluster {
    /// A file with the token that every call between nodes carries. Required off loopback.
    pub(crate) secret_file: Option<PathBuf>,
    /// How nodes connect.
    pub(crate) channel: ChannelConfig,
    /// When a silent worker counts as dead.
    pub(crate) membership: skep_cluster::membership::Config,
}

/// Where managed tables keep their files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum StoreKind {
    /// Replicated blocks on the workers' disks
    #[default]
    Skep,
    /// Plain files in the folder `files`, which DuckDB and others can read in place
    File,
}

/// The default port of Flight SQL, which `skep sql` tries.
pub(crate) const FLIGHT_PORT: u16 = 8815;
/// The default port of HTTP.
pub(crate) const HTTP_PORT: u16 = 8816;
/// The default port between nodes.
pub(crate) const NODE_PORT: u16 = 8817;

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), port)
}

impl Default for Coordinator {
    fn default() -> Self {
        Self {
            catalog: None,
            data: "skep-data".to_owned(),
            store: StoreKind::default(),
            flight: loopback(FLIGHT_PORT),
            http: loopback(HTTP_PORT),
            listen: loopback(NODE_PORT),
            advertise: None,
            shared_paths: Vec::new(),
            memory: None,
            memory_limit: None,
            lanes: skep_coordinator::lanes::Config::default(),
            queries: skep_coordinator::queries::Config::default(),
            groups: skep_coordinator::admission::Groups::default(),
        }
    }
}

impl Default for Worker {
    fn default() -> Self {
        Self {
            coordinator: None,
            listen: loopback(0),
            advertise: None,
            data: None,
            zone: None,
            memory: None,
            memory_limit: None,
            durable: skep_worker::DurableConfig::default(),
        }
    }
}

impl Config {
    /// Reads `path`, then the environment on top.
    ///
    /// # Errors
    /// [`Kind::Invalid`](skep_common::Kind::Invalid) for a missing file, wrong TOML, an unknown key or a value of the
    /// wrong kind.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        if !path.try_exists().unwrap_or(false) {
            return Err(Error::not_found(format!("config file '{}' does not exist", path.display())));
        }
        let environment =
            config::Environment::with_prefix("SKEP").prefix_separator("__").separator("__").try_parsing(true);
        let file = config::File::from(path).format(config::FileFormat::Toml);
        config::Config::builder()
            .add_source(file)
            .add_source(environment)
            .build()
            .and_then(config::Config::try_deserialize)
            .map_err(|e| {
                Error::invalid(format!("cannot use config file '{}'", path.display()))
                    .hint("docs/operations.md lists every key")
                    .source(e)
            })
    }

    /// The secret, which addresses off loopback require.
    ///
    /// # Errors
    /// [`Kind::Invalid`](skep_common::Kind::Invalid) if it cannot be read, or is missing although `listens` has an
    /// address off loopback.
    pub(crate) fn secret(&self, listens: &[(&str, SocketAddr)]) -> Result<Secret> {
        if let Some(path) = &self.cluster.secret_file {
            return Secret::read(path);
        }
        match listens.iter().find(|(_, address)| !address.ip().is_loopback()) {
            None => Ok(Secret::none()),
            Some((key, address)) => Err(Error::invalid(format!(
                "{key} = \"{address}\" is not loopback, and there is no cluster secret"
            ))
            .hint("a worker runs any plan it is sent: set [cluster] secret_file, the same on every node")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config> {
        let path =
            std::env::temp_dir().join(format!("skep-config-{}.toml", skep_common::QueryId::generate()));
        std::fs::write(&path, text).unwrap();
        let config = Config::read(&path);
        std::fs::remove_file(path).unwrap();
        config
    }

    #[test]
    fn keys_of_the_contract_are_read() {
        let config = read(
            "[coordinator]\ncatalog = \"c.sqlite\"\ndata = \"d\"\nflight = \"127.0.0.1:0\"\nhttp = \"127.0.0.1:0\"\n\
             listen = \"127.0.0.1:0\"\n[worker]\ncoordinator = \"http://127.0.0.1:1\"\nlisten = \"127.0.0.1:0\"\n\
             data = \"w\"\nzone = \"a\"\n[cluster]\nsecret_file = \"s\"\n",
        )
        .unwrap();
        assert_eq!(config.worker.zone.as_deref(), Some("a"));
        assert_eq!(config.coordinator.catalog.as_deref(), Some("c.sqlite"));
    }

    #[test]
    fn the_flight_door_has_settings_within_ranges() {
        let config = read("[flight]\nmessage_max = \"8MiB\"\npoll_wait = \"1s\"\n").unwrap();
        assert_eq!(config.flight.message_max, ByteSize::mib(8));
        config.flight.validate().unwrap();
        for text in
            ["sessions_max = 0", "poll_wait = \"2min\"", "message_max = \"1KiB\"", "ticket_ttl = \"2d\""]
        {
            let config = read(&format!("[flight]\n{text}\n")).unwrap();
            let error = config.flight.validate().unwrap_err();
            assert!(error.message().contains("[flight]"), "{text}: {error:?}");
        }
    }

    #[test]
    fn pipelines_have_settings_within_ranges() {
        let config = read("[pipelines]\nruns_max = 2\ncommands = true\n").unwrap();
        assert!(config.pipelines.commands && config.pipelines.validate().is_ok());
        assert!(!Config::default().pipelines.commands, "programs are run only where somebody asked for it");
        for text in ["runs_max = 0", "logs_kept = 0"] {
            let config = read(&format!("[pipelines]\n{text}\n")).unwrap();
            let error = config.pipelines.validate().unwrap_err();
            assert!(error.message().contains("[pipelines]"), "{text}: {error:?}");
        }
    }

    #[test]
    fn unknown_keys_are_errors_that_name_them() {
        let error = read("[worker]\nzonne = \"a\"\n").unwrap_err();
        assert!(error.report().contains("zonne"), "{}", error.report());
    }

    #[test]
    fn other_addresses_need_the_secret() {
        let config = Config::default();
        assert!(config.secret(&[("listen", "127.0.0.1:1".parse().unwrap())]).is_ok());
        assert!(config.secret(&[("listen", "0.0.0.0:1".parse().unwrap())]).is_err());
    }
}
