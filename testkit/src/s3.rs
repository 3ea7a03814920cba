//! S3 for tests: moto, which is quick; a gateway of Ceph, which is real; and one that forgets a condition.
//!
//! # Not here
//! Installing them (`cargo xtask services`).

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::service::{Service, listens, port, run};

/// Who may do everything.
pub const ACCESS_KEY: &str = "skepaccess";
/// The proof of it.
pub const SECRET_KEY: &str = "skepsecret";

/// A running service. Dropping it stops it and forgets what it holds.
#[derive(Debug)]
pub struct S3 {
    /// Those that are stopped first come first.
    _services: Vec<Service>,
    _folder: TempDir,
    endpoint: String,
}

impl S3 {
    /// Starts moto with the Python in `SKEP_MOTO`; `None` if that is not set.
    ///
    /// # Panics
    /// If it does not start; with what it said.
    pub fn moto() -> Option<Self> {
        let python = std::env::var_os("SKEP_MOTO")?;
        let folder = tempfile::tempdir().expect("a folder for moto");
        let port = port();
        let mut command = Command::new(python);
        command
            .args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()])
            .current_dir(folder.path());
        let mut service = Service::start(command, &folder.path().join("log"));
        service.wait("moto", |_| listens(port));
        Some(Self { _services: vec![service], _folder: folder, endpoint: format!("http://127.0.0.1:{port}") })
    }

    /// Starts a gateway of Ceph with the programs in `SKEP_CEPH`, a monitor, a manager and a store in memory behind it; `None` if
    /// that is not set.
    ///
    /// # Panics
    /// If it does not start; with what it said.
    pub fn ceph() -> Option<Self> {
        let programs = PathBuf::from(std::env::var_os("SKEP_CEPH")?);
        let folder = tempfile::tempdir().expect("a folder for Ceph");
        let (monitor, gateway) = (port(), port());
        let path = folder.path().to_owned();
        let at = |name: &str| path.join(name);
        for name in ["mon", "mgr", "osd"] {
            std::fs::create_dir(at(name)).expect("the folder is ours");
        }
        let base = path.display();
        let id = uuid::Uuid::new_v4();
        let config = format!(
            "[global]\nfsid = {id}\nmon host = v1:127.0.0.1:{monitor}\nrun dir = {base}\nlog file = {base}/$name.log\n\
             admin socket = {base}/$name.asok\npid file = {base}/$name.pid\nkeyring = {base}/keyring\n\
             auth cluster required = cephx\nauth service required = cephx\nauth client required = cephx\n\
             public addr = 127.0.0.1\ncluster addr = 127.0.0.1\nosd pool default size = 1\n\
             osd pool default min size = 1\nosd pool default pg num = 4\nosd pool default pgp num = 4\n\
             osd crush chooseleaf type = 0\nmon allow pool size one = true\nmon max pg per osd = 1000\n\
             mon data avail warn = 1\nmon data avail crit = 1\nosd objectstore = memstore\n\
             memstore device bytes = 4294967296\nmon data = {base}/mon\nmgr data = {base}/mgr\nosd data = {base}/osd\n\
             rgw frontends = beast endpoint=127.0.0.1:{gateway}\n"
        );
        std::fs::write(at("ceph.conf"), config).expect("the config can be written");
        let command = |name: &str, arguments: &[&str]| {
            let mut command = Command::new(programs.join(name));
            command.args(arguments).current_dir(&path).env("CEPH_CONF", at("ceph.conf"));
            command
        };
        let key = |name: &str, caps: &[[&str; 2]]| {
            let mut key = command("ceph-authtool", &["keyring", "--gen-key", "-n", name]);
            if name == "mon." {
                key.arg("--create-keyring");
            }
            for [of, may] in caps {
                key.args(["--cap", of, may]);
            }
            run(key);
        };
        key("mon.", &[["mon", "allow *"]]);
        key("client.admin", &[["mon", "allow *"], ["osd", "allow *"], ["mgr", "allow *"]]);
        key("mgr.x", &[["mon", "allow profile mgr"], ["osd", "allow *"]]);
        key("osd.0", &[["mon", "allow profile osd"], ["osd", "allow *"], ["mgr", "allow profile osd"]]);
        key("client.rgw", &[["mon", "allow rw"], ["osd", "allow rwx"], ["mgr", "allow rw"]]);
        let (id, address) = (id.to_string(), format!("[v1:127.0.0.1:{monitor}]"));
        run(command("monmaptool", &["--create", "--addv", "a", &address, "--fsid", &id, "monmap"]));
        run(command("ceph-mon", &["--mkfs", "-i", "a", "--monmap", "monmap", "--keyring", "keyring"]));
        let mut monitor_runs = Service::start(command("ceph-mon", &["-i", "a", "-f"]), &at("mon.out"));
        monitor_runs.wait("the monitor of Ceph", |_| listens(monitor));
        let osd = uuid::Uuid::new_v4().to_string();
        run(command("ceph", &["osd", "new", &osd, "0"]));
        let manager = Service::start(command("ceph-mgr", &["-i", "x", "-f"]), &at("mgr.out"));
        run(command("ceph-osd", &["-i", "0", "--mkfs", "--osd-uuid", &osd]));
        let store = Service::start(command("ceph-osd", &["-i", "0", "-f"]), &at("osd.out"));
        let mut serving = Service::start(command("radosgw", &["-n", "client.rgw", "-f"]), &at("rgw.out"));
        serving.wait("the gateway of Ceph", |_| listens(gateway));
        let mut user =
            command("radosgw-admin", &["user", "create", "--uid", "skep", "--display-name", "skep"]);
        user.args(["--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY]);
        run(user);
        let endpoint = format!("http://127.0.0.1:{gateway}");
        let services = vec![serving, store, manager, monitor_runs];
        Some(Self { _services: services, _folder: folder, endpoint })
    }

    /// Where it listens.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The settings that lead to it, with the keys of who may do everything.
    pub fn settings(&self) -> String {
        settings(&self.endpoint)
    }

    /// Makes a bucket.
    ///
    /// # Panics
    /// If it cannot; with what the service said.
    pub fn create_bucket(&self, bucket: &str) {
        let code = "import sys, urllib.request, hmac, hashlib, base64, email.utils\n\
                    endpoint, bucket, key, secret = sys.argv[1:]\n\
                    date = email.utils.formatdate(usegmt=True)\n\
                    text = f'PUT\\n\\n\\n{date}\\n/{bucket}'\n\
                    sign = base64.b64encode(hmac.new(secret.encode(), text.encode(), hashlib.sha1).digest()).decode()\n\
                    ask = urllib.request.Request(f'{endpoint}/{bucket}', method='PUT')\n\
                    ask.add_header('Date', date)\n\
                    ask.add_header('Authorization', f'AWS {key}:{sign}')\n\
                    urllib.request.urlopen(ask).read()\n";
        let mut command = Command::new("python3");
        command.args(["-c", code, &self.endpoint, bucket, ACCESS_KEY, SECRET_KEY]);
        run(command);
    }
}

/// The settings that lead to a service at `endpoint`, with the keys of who may do everything.
pub fn settings(endpoint: &str) -> String {
    format!(
        "\n[store.s3]\nendpoint = {endpoint:?}\naccess_key_id = {ACCESS_KEY:?}\nsecret_access_key = {SECRET_KEY:?}\n\
         retries = 2\nretry_timeout = \"5s\"\n"
    )
}

/// Leads to `service` in a way that it never hears of `If-None-Match`: a store without conditional writes. Returns where.
///
/// # Panics
/// If nothing can listen on loopback.
pub fn careless(service: &S3) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a relay can listen");
    let endpoint = format!("http://{}", listener.local_addr().expect("it has an address"));
    let to = service.endpoint.trim_start_matches("http://").to_owned();
    // Until the process ends.
    std::thread::spawn(move || {
        for from in listener.incoming().map_while(Result::ok) {
            let Ok(to) = TcpStream::connect(&to) else { continue };
            let (Ok(from_back), Ok(to_back)) = (from.try_clone(), to.try_clone()) else { continue };
            std::thread::spawn(move || relay(from, to, forget));
            std::thread::spawn(move || relay(to_back, from_back, |_| ()));
        }
    });
    endpoint
}

fn relay(mut from: TcpStream, mut to: TcpStream, change: fn(&mut [u8])) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = match from.read(&mut buffer) {
            Ok(read) if read > 0 => read,
            _ => break,
        };
        change(&mut buffer[..read]);
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

/// Gives the condition a name that means nothing.
fn forget(request: &mut [u8]) {
    const CONDITION: &[u8] = b"if-none-match:";
    let found = request.windows(CONDITION.len()).position(|window| window.eq_ignore_ascii_case(CONDITION));
    if let Some(at) = found {
        request[at..at + CONDITION.len()].copy_from_slice(b"x-never-match:");
    }
}
