//! Ctrl-c while something runs.

/// The interrupts of the process.
#[derive(Debug)]
pub(crate) struct Interrupts {
    #[cfg(unix)]
    signal: Option<tokio::signal::unix::Signal>,
}

impl Interrupts {
    /// Takes over ctrl-c from here on.
    pub(crate) fn listen() -> Self {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            let signal = signal(SignalKind::interrupt());
            if let Err(error) = &signal {
                warn(error);
            }
            Self { signal: signal.ok() }
        }
        #[cfg(not(unix))]
        Self {}
    }

    /// The next one.
    pub(crate) async fn next(&mut self) {
        #[cfg(unix)]
        match &mut self.signal {
            Some(signal) => {
                signal.recv().await;
            }
            None => std::future::pending().await,
        }
        #[cfg(not(unix))]
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending().await
        }
    }

    /// Ignores those that came while nothing ran.
    pub(crate) fn forget(&mut self) {
        use futures::FutureExt;
        while self.next().now_or_never().is_some() {}
    }
}

/// Without the handler ctrl-c ends the process, which is what it did before.
#[cfg(unix)]
fn warn(error: &std::io::Error) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "warning: ctrl-c ends the shell instead of the statement: {error}");
}
