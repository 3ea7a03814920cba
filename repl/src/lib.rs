//! The interactive shell: a Flight SQL client and the rendering of its results

mod args;

pub use args::{Args, Format, Input, Inputs};
use tonic::transport::Channel;

/// Where `skep sql` connects when it is told nothing.
pub const DEFAULT_URL: &str = "grpc://127.0.0.1:8815";

/// The server to speak to.
#[derive(Debug, Clone)]
pub enum Target {
    /// `grpc://HOST:PORT`.
    Url(String),
    /// A channel, such as one inside the process.
    Channel(Channel),
}

/// What the process says when it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Every statement succeeded.
    Done = 0,
    /// A statement failed.
    Failed = 1,
    /// The options or a file named in them are wrong.
    Usage = 2,
    /// The server cannot be reached, or does not let the caller in.
    Refused = 3,
    /// The caller interrupted it.
    Cancelled = 4,
    /// With `--keep-going`: some statements failed, others succeeded.
    Partly = 5,
}

/// Runs what `args` say against `target`: rows to stdout, everything else to stderr.
///
/// Waits on stdin in a thread of the runtime that cannot be stopped: end the process with the returned code
/// rather than dropping the runtime.
pub async fn run(args: Args, target: Target) -> Exit {
    let _ = (args, target);
    Exit::Usage
}
