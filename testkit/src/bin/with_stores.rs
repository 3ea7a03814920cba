//! Runs a command while services of S3 and a cluster of HDFS run: `with_stores COMMAND ARGUMENTS...`
//!
//! It starts those whose programs `SKEP_MOTO`, `SKEP_CEPH` and `SKEP_HADOOP` name, and tells the command where they are.
//!
//! # Not here
//! Installing them (`cargo xtask services`).

use std::process::{Command, ExitCode};

use skep_testkit::hdfs::Hdfs;
use skep_testkit::s3::{S3, careless};

/// The bucket that the tests of the store use.
const BUCKET: &str = "skep-contract";

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let Some((program, arguments)) = arguments.split_first() else {
        eprintln!("with_stores: name a command");
        return ExitCode::from(2);
    };
    let mut command = Command::new(program);
    command.args(arguments);
    // At the same time: each takes a while.
    let (moto, ceph, hdfs) = std::thread::scope(|scope| {
        let (ceph, hdfs) = (scope.spawn(S3::ceph), scope.spawn(Hdfs::start));
        (S3::moto(), ceph.join().expect("Ceph starts"), hdfs.join().expect("HDFS starts"))
    });
    if let Some(moto) = &moto {
        moto.create_bucket(BUCKET);
        command.env("SKEP_S3_MOTO", moto.endpoint()).env("SKEP_S3_CARELESS", careless(moto));
    }
    if let Some(ceph) = &ceph {
        ceph.create_bucket(BUCKET);
        command.env("SKEP_S3_CEPH", ceph.endpoint());
    }
    if let Some(hdfs) = &hdfs {
        command.env("SKEP_HDFS", hdfs.url());
    }
    match command.status() {
        Ok(status) => ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)),
        Err(e) => {
            eprintln!("with_stores: cannot start {}: {e}", program.display());
            ExitCode::from(2)
        }
    }
}
