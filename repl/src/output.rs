//! Where rows go: the terminal, by way of a pager when they are longer than it; a pipe; a file.
//!
//! # Invariants
//! - A file of bytes (Parquet, Arrow) holds one result, and is never written to a terminal.
//!
//! # Not here
//! How rows look (`render`).

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use flate2::Compression;
use flate2::write::GzEncoder;
use skep_common::{Error, Result};

use crate::args::Format;

/// What is used where neither `SKEP_PAGER` nor `PAGER` says: it ends by itself on short results, takes colours, keeps what it
/// showed, and scrolls sideways.
const PAGER: &str = "less -SRFX";
/// What a bare `less` is told by its own variable.
const LESS: &str = "SRFX";

/// Where rows go.
#[derive(Default)]
pub(crate) enum Output {
    #[default]
    Stdout,
    File(Box<RowFile>),
}

/// A file of rows.
pub(crate) struct RowFile {
    pub(crate) path: PathBuf,
    /// As its name says; absent: as the shell is set.
    pub(crate) format: Option<Format>,
    results: usize,
    bytes: Bytes,
}

enum Bytes {
    Plain(BufWriter<File>),
    Gzip(Box<GzEncoder<BufWriter<File>>>),
}

impl RowFile {
    /// Creates it, or empties the one that is there. `gzip` says whether it is compressed, and otherwise its name.
    ///
    /// # Errors
    /// [`Kind::Invalid`](skep_common::Kind::Invalid) if it cannot be written.
    pub(crate) fn create(path: &Path, gzip: Option<bool>) -> Result<Self> {
        let (format, named) = Format::of_file(path);
        let file = BufWriter::new(File::create(path).map_err(|e| unwritten(path, e))?);
        let bytes = match gzip.unwrap_or(named && !format.is_some_and(Format::binary)) {
            true => Bytes::Gzip(Box::new(GzEncoder::new(file, Compression::default()))),
            false => Bytes::Plain(file),
        };
        Ok(Self { path: path.to_owned(), format, results: 0, bytes })
    }

    /// Another result follows.
    ///
    /// # Errors
    /// [`Kind::Invalid`](skep_common::Kind::Invalid) if it could not be read back.
    pub(crate) fn begin(&mut self, format: Format) -> Result<()> {
        if format.binary() && self.results > 0 {
            let shown = self.path.display();
            return Err(Error::invalid(format!(
                "'{shown}' has a result, and a file of {} holds one",
                format.name()
            ))
            .hint("\\o FILE begins another"));
        }
        self.results += 1;
        Ok(())
    }

    /// Writes its end.
    ///
    /// # Errors
    /// Those of the disk.
    pub(crate) fn close(self) -> Result<()> {
        let ended = match self.bytes {
            Bytes::Plain(mut file) => file.flush(),
            Bytes::Gzip(file) => file.finish().and_then(|mut file| file.flush()),
        };
        ended.map_err(|e| unwritten(&self.path, e))
    }
}

fn unwritten(path: &Path, error: io::Error) -> Error {
    Error::invalid(format!("'{}' cannot be written", path.display())).source(error)
}

impl Write for RowFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.bytes {
            Bytes::Plain(file) => file.write(bytes),
            Bytes::Gzip(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.bytes {
            Bytes::Plain(file) => file.flush(),
            Bytes::Gzip(file) => file.flush(),
        }
    }
}

/// Whether and by what long results are paged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Pager {
    Off,
    Command(String),
}

impl Pager {
    /// What the environment says.
    pub(crate) fn of_environment() -> Self {
        let set = |name| std::env::var(name).ok().filter(|value: &String| !value.trim().is_empty());
        Self::Command(set("SKEP_PAGER").or_else(|| set("PAGER")).unwrap_or_else(|| PAGER.to_owned()))
    }
}

/// The rows of one result on their way to stdout. With a pager they are held back until they are longer than the screen.
pub(crate) struct Screen {
    /// The pager, and the lines that it is not needed for.
    pager: Option<(String, usize)>,
    held: Vec<u8>,
    lines: usize,
    child: Option<Child>,
    /// Why there is no pager although there should be one.
    pub(crate) failed: Option<io::Error>,
}

impl Screen {
    /// `height` are the lines of the terminal.
    pub(crate) fn new(pager: &Pager, height: Option<usize>) -> Self {
        let pager = match (pager, height) {
            // The prompt and what is said of the rows stand below them.
            (Pager::Command(command), Some(height)) => {
                Some((command.clone(), height.saturating_sub(2).max(1)))
            }
            _ => None,
        };
        Self { pager, held: Vec::new(), lines: 0, child: None, failed: None }
    }

    /// Whether a person reads the rows in a pager.
    fn paged(&self) -> bool {
        self.child.is_some()
    }

    fn start(&mut self, command: &str) -> io::Result<()> {
        let mut shell = Command::new("sh");
        shell.args(["-c", command]).stdin(Stdio::piped());
        if std::env::var_os("LESS").is_none() {
            shell.env("LESS", LESS);
        }
        self.child = Some(shell.spawn()?);
        Ok(())
    }

    /// Shows what is held and waits until the person has read it.
    ///
    /// # Errors
    /// Those of writing.
    pub(crate) fn finish(mut self) -> io::Result<Option<io::Error>> {
        if let Some(mut child) = self.child.take() {
            drop(child.stdin.take());
            // However it ended, the terminal is free again.
            let _ = child.wait();
        } else {
            let held = std::mem::take(&mut self.held);
            let mut out = io::stdout().lock();
            out.write_all(&held)?;
            out.flush()?;
        }
        Ok(self.failed.take())
    }
}

impl Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(stdin) = self.child.as_mut().and_then(|child| child.stdin.as_mut()) {
            return stdin.write(bytes);
        }
        let Some((command, height)) = self.pager.clone() else {
            return io::stdout().lock().write(bytes);
        };
        self.held.extend_from_slice(bytes);
        self.lines += bytes.iter().filter(|byte| **byte == b'\n').count();
        if self.lines > height {
            let held = std::mem::take(&mut self.held);
            match self.start(&command) {
                Ok(()) => self.write_all(&held)?,
                Err(error) => {
                    (self.failed, self.pager) = (Some(error), None);
                    io::stdout().lock().write_all(&held)?;
                }
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.child.as_mut().and_then(|child| child.stdin.as_mut()) {
            Some(stdin) => stdin.flush(),
            None => io::stdout().lock().flush(),
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.stdin.take());
            // However it ended, the terminal is free again.
            let _ = child.wait();
        }
    }
}

/// Where the rows of one result go.
pub(crate) enum Sink<'a> {
    Screen(Screen),
    File(&'a mut RowFile),
}

impl Sink<'_> {
    /// Whether a person sees what is written at once: not what is held back for a pager.
    pub(crate) fn shows(&self) -> bool {
        matches!(self, Sink::Screen(screen) if screen.paged() || screen.pager.is_none())
    }

    /// Whether a person reads the rows in a pager.
    pub(crate) fn paged(&self) -> bool {
        matches!(self, Sink::Screen(screen) if screen.paged())
    }

    /// Shows what is held and waits until the person has read it; why there was no pager although there should be one.
    ///
    /// # Errors
    /// Those of writing.
    pub(crate) fn close(self) -> io::Result<Option<io::Error>> {
        match self {
            Sink::Screen(screen) => screen.finish(),
            Sink::File(_) => Ok(None),
        }
    }
}

impl Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Sink::Screen(screen) => screen.write(bytes),
            Sink::File(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Sink::Screen(screen) => screen.flush(),
            Sink::File(file) => file.flush(),
        }
    }
}

impl Output {
    /// Whether a person sees the rows as they come.
    pub(crate) fn is_terminal(&self) -> bool {
        matches!(self, Output::Stdout) && io::stdout().is_terminal()
    }

    /// The format in which it takes rows: its own, or else `wanted`.
    pub(crate) fn format(&self, wanted: Format) -> Format {
        match self {
            Output::File(file) => file.format.unwrap_or(wanted),
            Output::Stdout => wanted,
        }
    }

    /// Where the next result goes.
    ///
    /// # Errors
    /// [`Kind::Invalid`](skep_common::Kind::Invalid) for bytes on a terminal, and as [`RowFile::begin`].
    pub(crate) fn begin(&mut self, format: Format, screen: Screen) -> Result<Sink<'_>> {
        if format.binary() && self.is_terminal() {
            return Err(Error::invalid(format!("{} is not for a terminal", format.name()))
                .hint("\\o FILE, --output FILE, or a redirection of stdout takes it"));
        }
        match self {
            Output::Stdout => Ok(Sink::Screen(screen)),
            Output::File(file) => {
                file.begin(format)?;
                Ok(Sink::File(file))
            }
        }
    }
}

/// Does what may wait for a person or a disk, without holding up the runtime's other work.
pub(crate) fn waiting<T>(work: impl FnOnce() -> T) -> T {
    let several = tokio::runtime::Handle::try_current()
        .is_ok_and(|runtime| runtime.runtime_flavor() == tokio::runtime::RuntimeFlavor::MultiThread);
    if several { tokio::task::block_in_place(work) } else { work() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_bytes_hold_one_result() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.parquet");
        let mut file = Output::File(Box::new(RowFile::create(&path, None).unwrap()));
        assert_eq!(file.format(Format::Table), Format::Parquet);
        let screen = || Screen::new(&Pager::Off, None);
        assert!(file.begin(Format::Parquet, screen()).is_ok());
        let error = file.begin(Format::Parquet, screen()).err().unwrap();
        assert!(error.message().ends_with("a file of parquet holds one"), "{error:?}");
        assert!(file.begin(Format::Csv, screen()).is_ok());
    }

    #[test]
    fn compressed_files_have_their_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.csv.gz");
        let mut file = RowFile::create(&path, None).unwrap();
        file.write_all(b"a,b\n").unwrap();
        file.close().unwrap();
        let mut text = String::new();
        let mut reader = flate2::read::GzDecoder::new(File::open(&path).unwrap());
        io::Read::read_to_string(&mut reader, &mut text).unwrap();
        assert_eq!(text, "a,b\n");
    }

    #[test]
    fn long_results_go_through_the_pager_and_short_ones_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("paged");
        let pager = Pager::Command(format!("cat > '{}'", path.display()));
        let mut screen = Screen::new(&pager, Some(5));
        screen.write_all(b"1\n2\n3\n").unwrap();
        assert!(!screen.paged());
        screen.write_all(b"4\n5\n").unwrap();
        assert!(screen.paged());
        assert!(screen.finish().unwrap().is_none());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "1\n2\n3\n4\n5\n");
    }
}
