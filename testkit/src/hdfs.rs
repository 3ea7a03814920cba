//! A cluster of HDFS for tests: one NameNode and three DataNodes, or two NameNodes of which one takes over.
//!
//! # Not here
//! Installing Hadoop (`cargo xtask services`).

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::service::{Service, listens, port, run};

/// DataNodes of a cluster.
const DATA_NODES: usize = 3;
/// What Hadoop calls a cluster with two NameNodes.
const NAME_SERVICE: &str = "skepns";

/// A running cluster. Dropping it stops it and forgets what it holds.
#[derive(Debug)]
pub struct Hdfs {
    data_nodes: Vec<Service>,
    name_nodes: Vec<Option<Service>>,
    journals: Vec<Service>,
    jars: PathBuf,
    folder: TempDir,
    ports: Vec<u16>,
    /// Where a NameNode that joins fetches what the other knows.
    pages: Vec<u16>,
}

impl Hdfs {
    /// Starts a cluster of one NameNode with the jars in the folder `SKEP_HADOOP`; `None` if that is not set.
    ///
    /// # Panics
    /// If it does not start; with what it said.
    pub fn start() -> Option<Self> {
        Self::start_with(1)
    }

    /// The same with two NameNodes, which share a log of three journals, and of which the first is active.
    ///
    /// # Panics
    /// If it does not start; with what it said.
    pub fn start_available() -> Option<Self> {
        Self::start_with(2)
    }

    fn start_with(name_nodes: usize) -> Option<Self> {
        let jars = PathBuf::from(std::env::var_os("SKEP_HADOOP")?);
        let folder = tempfile::tempdir().expect("a folder for HDFS");
        let free = || (0..name_nodes).map(|_| port()).collect::<Vec<u16>>();
        let (ports, pages) = (free(), free());
        let (data_nodes, name_nodes_running, journals) = (Vec::new(), Vec::new(), Vec::new());
        let mut hdfs =
            Self { data_nodes, name_nodes: name_nodes_running, journals, jars, folder, ports, pages };
        hdfs.write_config("conf", &[]);
        if name_nodes > 1 {
            hdfs.start_journals();
        }
        for number in 0..name_nodes {
            let format = match number {
                0 => ["-format", "-nonInteractive"],
                _ => ["-bootstrapStandby", "-nonInteractive"],
            };
            let mut command = hdfs.name_node(number);
            command.args(format);
            run(command);
            let started = hdfs.start_name_node(number);
            hdfs.name_nodes.push(Some(started));
        }
        if name_nodes > 1 {
            hdfs.activate(0);
        }
        for number in 1..=DATA_NODES {
            let own = [
                ("dfs.datanode.data.dir", format!("file://{}", hdfs.at(&format!("data-{number}")).display())),
                ("dfs.datanode.address", "127.0.0.1:0".to_owned()),
                ("dfs.datanode.ipc.address", "127.0.0.1:0".to_owned()),
                ("dfs.datanode.http.address", "127.0.0.1:0".to_owned()),
            ];
            let conf = format!("conf-data-{number}");
            hdfs.write_config(&conf, &own);
            let command = hdfs.java(&conf, "org.apache.hadoop.hdfs.server.datanode.DataNode");
            hdfs.data_nodes.push(Service::start(command, &hdfs.at(&format!("data-{number}.log"))));
        }
        let logs: Vec<PathBuf> =
            (0..name_nodes).map(|number| hdfs.at(&format!("name-{number}.log"))).collect();
        for (number, log) in logs.iter().enumerate() {
            let service = hdfs.name_nodes[number].as_mut().expect("it was started");
            service.wait("HDFS", |_| {
                let said = std::fs::read_to_string(log).unwrap_or_default();
                // Only then does the NameNode give blocks to all of them.
                said.matches("Processing first storage report").count() >= DATA_NODES
            });
        }
        Some(hdfs)
    }

    /// Where it is.
    pub fn url(&self) -> String {
        match self.ports.as_slice() {
            [port] => format!("hdfs://127.0.0.1:{port}"),
            _ => format!("hdfs://{NAME_SERVICE}"),
        }
    }

    /// The settings that lead to it.
    pub fn settings(&self) -> String {
        let nodes: Vec<String> = self.ports.iter().map(|port| format!("\"127.0.0.1:{port}\"")).collect();
        match nodes.len() {
            1 => "\n[store.hdfs]\ntimeout = \"30s\"\n".to_owned(),
            _ => format!(
                "\n[store.hdfs]\nretries = 10\n\n[store.hdfs.nameservices]\n{NAME_SERVICE} = [{}]\n",
                nodes.join(", ")
            ),
        }
    }

    /// The folder of Hadoop's settings for clients.
    pub fn conf(&self) -> PathBuf {
        self.at("conf")
    }

    /// Ends a NameNode as kill -9 does.
    pub fn kill_name_node(&mut self, number: usize) {
        drop(self.name_nodes[number].take());
    }

    /// Makes a NameNode the active one.
    ///
    /// # Panics
    /// If it refuses; with what it said.
    pub fn activate(&self, number: usize) {
        let mut command = self.java("conf", "org.apache.hadoop.hdfs.tools.DFSHAAdmin");
        command.args(["-ns", NAME_SERVICE, "-transitionToActive"]);
        if self.name_nodes.iter().any(Option::is_none) {
            // The dead one cannot be asked whether it is.
            command.arg("--forceactive");
        }
        command.arg(format!("nn{}", number + 1));
        run(command);
    }

    /// Ends a DataNode as kill -9 does.
    pub fn kill_data_node(&mut self) {
        drop(self.data_nodes.pop());
    }

    fn start_journals(&mut self) {
        let mut journals = Vec::new();
        for number in 1..=3 {
            let (rpc, http) = (port(), port());
            journals.push(rpc);
            let own = [
                ("dfs.journalnode.edits.dir", self.at(&format!("journal-{number}")).display().to_string()),
                ("dfs.journalnode.rpc-address", format!("127.0.0.1:{rpc}")),
                ("dfs.journalnode.http-address", format!("127.0.0.1:{http}")),
            ];
            let conf = format!("conf-journal-{number}");
            self.write_config(&conf, &own);
            let command = self.java(&conf, "org.apache.hadoop.hdfs.qjournal.server.JournalNode");
            let mut service = Service::start(command, &self.at(&format!("journal-{number}.log")));
            service.wait("a journal of HDFS", |_| listens(rpc));
            self.journals.push(service);
        }
        let nodes: Vec<String> = journals.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let shared = format!("qjournal://{}/{NAME_SERVICE}", nodes.join(";"));
        self.write_config("conf", &[("dfs.namenode.shared.edits.dir", shared)]);
    }

    fn name_node(&self, number: usize) -> Command {
        let own =
            [("dfs.namenode.name.dir", format!("file://{}", self.at(&format!("name-{number}")).display()))];
        let conf = format!("conf-name-{number}");
        let shared = std::fs::read_to_string(self.at("conf/hdfs-site.xml")).unwrap_or_default();
        let shared = shared
            .split_once("<name>dfs.namenode.shared.edits.dir</name><value>")
            .and_then(|(_, rest)| rest.split_once('<'))
            .map(|(value, _)| ("dfs.namenode.shared.edits.dir", value.to_owned()));
        let id = (self.ports.len() > 1).then(|| ("dfs.ha.namenode.id", format!("nn{}", number + 1)));
        let own: Vec<_> = own.into_iter().chain(shared).chain(id).collect();
        self.write_config(&conf, &own);
        self.java(&conf, "org.apache.hadoop.hdfs.server.namenode.NameNode")
    }

    fn start_name_node(&self, number: usize) -> Service {
        let mut service = Service::start(self.name_node(number), &self.at(&format!("name-{number}.log")));
        let port = self.ports[number];
        service.wait("a NameNode", |_| listens(port));
        service
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn java(&self, conf: &str, class: &str) -> Command {
        let mut command = Command::new("java");
        command.args(["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]);
        for package in ["lang", "util", "io", "nio"] {
            command.arg(format!("--add-opens=java.base/java.{package}=ALL-UNNAMED"));
        }
        let path = format!("{}:{}/*", self.at(conf).display(), self.jars.display());
        command.arg("-cp").arg(path).arg(class).current_dir(self.folder.path()).env_remove("HADOOP_CONF_DIR");
        command
    }

    fn write_config(&self, conf: &str, own: &[(&str, String)]) {
        let folder = self.at(conf);
        for page in ["hdfs", "datanode", "journal", "secondary"] {
            // Nobody looks at them, but without their folders nothing starts.
            std::fs::create_dir_all(folder.join("webapps").join(page)).expect("the folder is ours");
        }
        let mut properties: Vec<(String, String)> = vec![
            ("dfs.replication".to_owned(), DATA_NODES.to_string()),
            ("dfs.permissions.enabled".to_owned(), "false".to_owned()),
            ("dfs.namenode.fs-limits.min-block-size".to_owned(), "1024".to_owned()),
            ("dfs.client.block.write.replace-datanode-on-failure.policy".to_owned(), "NEVER".to_owned()),
            ("dfs.namenode.safemode.extension".to_owned(), "0".to_owned()),
            ("dfs.ha.fencing.methods".to_owned(), "shell(/bin/true)".to_owned()),
            ("dfs.ha.tail-edits.period".to_owned(), "1s".to_owned()),
        ];
        match self.ports.as_slice() {
            [port] => {
                properties.push(("dfs.namenode.rpc-address".to_owned(), format!("127.0.0.1:{port}")));
                properties.push(("dfs.namenode.http-address".to_owned(), "127.0.0.1:0".to_owned()));
            }
            ports => {
                let ids: Vec<String> = (1..=ports.len()).map(|number| format!("nn{number}")).collect();
                properties.push(("dfs.nameservices".to_owned(), NAME_SERVICE.to_owned()));
                properties.push((format!("dfs.ha.namenodes.{NAME_SERVICE}"), ids.join(",")));
                for ((id, port), page) in ids.iter().zip(ports).zip(&self.pages) {
                    let of = |what: &str| format!("dfs.namenode.{what}-address.{NAME_SERVICE}.{id}");
                    properties.push((of("rpc"), format!("127.0.0.1:{port}")));
                    properties.push((of("http"), format!("127.0.0.1:{page}")));
                }
                let provider = "org.apache.hadoop.hdfs.server.namenode.ha.ConfiguredFailoverProxyProvider";
                properties.push((
                    format!("dfs.client.failover.proxy.provider.{NAME_SERVICE}"),
                    provider.to_owned(),
                ));
            }
        }
        properties.extend(own.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        let core = [
            ("fs.defaultFS".to_owned(), self.url()),
            ("hadoop.tmp.dir".to_owned(), self.at(&format!("{conf}.tmp")).display().to_string()),
        ];
        write(&folder.join("core-site.xml"), &core);
        write(&folder.join("hdfs-site.xml"), &properties);
        let log = "log4j.rootLogger=INFO,c\nlog4j.appender.c=org.apache.log4j.ConsoleAppender\n\
                   log4j.appender.c.target=System.err\nlog4j.appender.c.layout=org.apache.log4j.PatternLayout\n\
                   log4j.appender.c.layout.ConversionPattern=%d %p %c{1}: %m%n\n";
        std::fs::write(folder.join("log4j.properties"), log).expect("the config can be written");
    }
}

fn write(path: &Path, properties: &[(String, String)]) {
    let property = |(name, value): &(String, String)| {
        format!("<property><name>{name}</name><value>{value}</value></property>\n")
    };
    let text: String = properties.iter().map(property).collect();
    std::fs::write(path, format!("<configuration>\n{text}</configuration>\n"))
        .expect("the config can be written");
}
