//! A program on a pseudo-terminal, and what a person would see there.
//!
//! Keys go in, bytes come out and are drawn by an emulated terminal; tests wait for what it shows.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread::JoinHandle;

use expectrl::process::unix::{UnixProcess, WaitStatus};
use expectrl::process::{Healthcheck, Process};
use skep_common::clock;
use skep_testkit::process::PATIENCE;

pub(crate) const ENTER: &str = "\r";
pub(crate) const UP: &str = "\x1b[A";
pub(crate) const TAB: &str = "\t";
pub(crate) const CTRL_C: &str = "\x03";
pub(crate) const CTRL_D: &str = "\x04";
const CTRL_L: &str = "\x0c";

const ROWS: u16 = 40;
const COLUMNS: u16 = 100;

/// A running program and its screen. Dropping it ends the program.
pub(crate) struct Terminal {
    process: UnixProcess,
    input: File,
    screen: vt100::Parser,
    bytes: Receiver<Vec<u8>>,
    _reader: JoinHandle<()>,
}

impl Terminal {
    pub(crate) fn start(mut command: Command) -> Self {
        // The terminal's, which it is given before it begins.
        command.stdin(Stdio::inherit());
        let mut process = UnixProcess::spawn_command(command).unwrap();
        process.set_window_size(COLUMNS, ROWS).unwrap();
        let input = process.get_raw_handle().unwrap();
        let mut output = process.get_raw_handle().unwrap();
        let (send, bytes) = sync_channel(64);
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // A terminal whose program has ended gives an error.
            while let Ok(read @ 1..) = output.read(&mut buffer) {
                if send.send(buffer[..read].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self { process, input, screen: vt100::Parser::new(ROWS, COLUMNS, 0), bytes, _reader: reader }
    }

    pub(crate) fn keys(&mut self, keys: &str) {
        self.input.write_all(keys.as_bytes()).unwrap();
    }

    /// What is on the screen, without what is empty at its end.
    pub(crate) fn text(&self) -> String {
        let contents = self.screen.screen().contents();
        contents.lines().map(str::trim_end).collect::<Vec<_>>().join("\n").trim_end().to_owned()
    }

    /// The first cell of the screen where `text` stands.
    pub(crate) fn cell(&self, text: &str) -> vt100::Cell {
        let screen = self.screen.screen();
        let found = screen.rows(0, COLUMNS).enumerate().find_map(|(row, line)| Some((row, line.find(text)?)));
        let (row, column) = found.unwrap_or_else(|| panic!("no '{text}' on\n{}", self.text()));
        screen.cell(u16::try_from(row).unwrap(), u16::try_from(column).unwrap()).unwrap().clone()
    }

    /// Waits until the screen is as wanted; false if the program ended before.
    fn until(&mut self, what: &str, wanted: impl Fn(&Self) -> bool) -> bool {
        let clock = clock::system();
        let start = clock.instant();
        while !wanted(self) {
            let left = PATIENCE.saturating_sub(clock.instant() - start);
            match self.bytes.recv_timeout(left) {
                Ok(bytes) => self.screen.process(&bytes),
                Err(RecvTimeoutError::Disconnected) => return wanted(self),
                Err(RecvTimeoutError::Timeout) => panic!("{what} does not come:\n{}", self.text()),
            }
        }
        true
    }

    /// Waits for `text` anywhere on the screen.
    pub(crate) fn sees(&mut self, text: &str) {
        let seen = self.until(text, |terminal| terminal.text().contains(text));
        assert!(seen, "the program ended without '{text}':\n{}", self.text());
    }

    /// Waits for the last line to be `line`, with the cursor behind it.
    pub(crate) fn waits_at(&mut self, line: &str) {
        let at = |terminal: &Self| {
            let text = terminal.text();
            text.lines().last().is_some_and(|last| last == line.trim_end())
        };
        let seen = self.until(line, at);
        assert!(seen, "the program ended without '{line}':\n{}", self.text());
    }

    /// Types `line`, and waits until it stands on the screen.
    pub(crate) fn types(&mut self, line: &str) {
        self.keys(line);
        // The editor breaks lines that are longer than the terminal.
        let bare = |text: &str| text.replace(['\n', ' '], "");
        let seen = self.until(line, |terminal| bare(&terminal.text()).ends_with(&bare(line)));
        assert!(seen, "the program ended while '{line}' was typed:\n{}", self.text());
    }

    /// Runs `line` on an empty screen; what stands there between it and the next prompt.
    pub(crate) fn run_at(&mut self, prompt: &str, line: &str, next: &str) -> String {
        self.keys(CTRL_L);
        let empty = self.until("an empty screen", |terminal| terminal.text() == prompt.trim_end());
        assert!(empty, "the program ended:\n{}", self.text());
        self.types(line);
        let typed = self.text();
        self.keys(ENTER);
        self.waits_at(next);
        let text = self.text();
        // Of what is longer than the screen its beginning is gone.
        let answer = text.strip_prefix(&typed).unwrap_or(&text);
        answer.strip_suffix(next.trim_end()).unwrap_or(answer).trim_matches('\n').to_owned()
    }

    /// As [`Terminal::run_at`], at the usual prompt.
    pub(crate) fn run(&mut self, line: &str) -> String {
        self.run_at(PROMPT, line, PROMPT)
    }

    /// Waits for the program to end by itself; its exit code.
    pub(crate) fn end(mut self) -> i32 {
        self.until("the end", |_| false);
        match self.process.wait().unwrap() {
            WaitStatus::Exited(_, code) => code,
            other => panic!("{other:?}"),
        }
    }

    /// Whether the program still runs.
    pub(crate) fn runs(&self) -> bool {
        self.process.is_alive().unwrap_or(false)
    }
}

/// Where a shell waits.
pub(crate) const PROMPT: &str = "skep:main> ";

/// `text` without what differs from run to run: times, ids, ports.
pub(crate) fn steady(text: &str) -> String {
    let mut text = text.to_owned();
    for (pattern, put) in [
        (r"\d+\.\d{3} s", "T s"),
        (r"query [0-9a-f-]{36}", "query ID"),
        (r"127\.0\.0\.1:\d+", "HOST:PORT"),
        (r" +$", ""),
        // What is cut ends in this; sources are ASCII.
        ("\u{2026}", "~"),
    ] {
        text = regex::Regex::new(&format!("(?m){pattern}")).unwrap().replace_all(&text, put).into_owned();
    }
    text
}
