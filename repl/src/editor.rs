//! The shell that a person types into.

use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{CompletionType, Config, Editor};
use skep_common::Error;

use crate::complete::{Names, SqlHelper};
use crate::shell::{Shell, Stop};

/// Lines of history that are kept.
const HISTORY_LINES: usize = 10_000;

type Sql = Editor<SqlHelper, FileHistory>;

/// Reads and runs until the person leaves.
pub(crate) async fn interact(shell: &mut Shell) -> Result<(), Stop> {
    let names: Names = Arc::new(Mutex::new(Vec::new()));
    let mut editor = match open(Arc::clone(&names), shell.paint.0) {
        Ok(editor) => editor,
        Err(error) => {
            shell.report(&Error::unavailable("the terminal cannot be used").source(error), None);
            return Err(Stop::Usage);
        }
    };
    let history = history_path();
    if let Some(path) = &history {
        // There is none the first time.
        let _ = editor.load_history(path);
    }
    shell.say("Skep. Statements end in ;  \\? lists the commands, \\q leaves.");
    shell.names_changed = true;
    loop {
        if std::mem::take(&mut shell.names_changed)
            && let Ok(tables) = shell.client.tables(None, None, true).await
        {
            *names.lock() = tables;
        }
        let schema = shell.client.current_schema().await.unwrap_or_else(|| "main".to_owned());
        let prompt = format!("skep:{schema}> ");
        let read = tokio::task::spawn_blocking(move || {
            let line = editor.readline(&prompt);
            (editor, line)
        });
        let Ok((back, line)) = read.await else { return Err(Stop::Usage) };
        editor = back;
        let line = match line {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => return Ok(()),
            Err(error) => {
                shell.report(&Error::unavailable("the terminal cannot be read").source(error), None);
                return Err(Stop::Usage);
            }
        };
        if line.trim().is_empty() {
            continue;
        }
        remember(&mut editor, &line, history.as_ref());
        match shell.run(&line, None).await {
            Ok(()) => {}
            Err(Stop::Quit) => return Ok(()),
            Err(stop) => return Err(stop),
        }
    }
}

fn open(names: Names, color: bool) -> rustyline::Result<Sql> {
    let config = Config::builder()
        .completion_type(CompletionType::List)
        .history_ignore_space(true)
        .max_history_size(HISTORY_LINES)?
        .auto_add_history(false)
        .build();
    let mut editor: Sql = Editor::with_config(config)?;
    editor.set_helper(Some(SqlHelper { names, color }));
    Ok(editor)
}

fn remember(editor: &mut Sql, line: &str, path: Option<&PathBuf>) {
    // History is a convenience: a full disk must not stop the shell.
    let _ = editor.add_history_entry(line);
    if let Some(path) = path {
        if let Some(folder) = path.parent() {
            let _ = std::fs::create_dir_all(folder);
        }
        let _ = editor.append_history(path);
    }
}

/// `SKEP_HISTORY`, or `skep/history` in the folder for state.
fn history_path() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("SKEP_HISTORY") {
        return Some(PathBuf::from(path)).filter(|path| !path.as_os_str().is_empty());
    }
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state"));
    state.or_else(home).map(|folder| folder.join("skep").join("history"))
}
