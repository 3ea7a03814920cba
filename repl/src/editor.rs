//! The shell that a person types into.

use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use rustyline::completion::FilenameCompleter;
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{CompletionType, Config, Editor};
use skep_common::Error;

use crate::Target;
use crate::complete::{Known, Names, SqlHelper};
use crate::shell::{Shell, Stop};

/// Lines of history that are kept.
const HISTORY_LINES: usize = 10_000;

type Sql = Editor<SqlHelper, FileHistory>;

/// Reads and runs until the person leaves.
pub(crate) async fn interact(shell: &mut Shell) -> Result<(), Stop> {
    let names: Names = Arc::new(Mutex::new(Known::default()));
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
    for line in shell.config.shell.start.clone() {
        match shell.run(&line, None).await {
            Ok(()) | Err(Stop::Cancelled) => {}
            Err(Stop::Quit) => return Ok(()),
            Err(stop) => return Err(stop),
        }
    }
    shell.names_changed = true;
    let mut interrupted = false;
    loop {
        refresh(shell, &names).await;
        if let Some(helper) = editor.helper_mut() {
            helper.prompt = shell.login.color;
        }
        let prompt = prompt(shell).await;
        let edited = shell.edited.take();
        let read = tokio::task::spawn_blocking(move || {
            let line = match edited {
                Some(text) => editor.readline_with_initial(&prompt, (&text, "")),
                None => editor.readline(&prompt),
            };
            (editor, line)
        });
        let Ok((back, line)) = read.await else { return Err(Stop::Usage) };
        editor = back;
        let line = match line {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => {
                if std::mem::replace(&mut interrupted, true) {
                    shell.say("\\q or ctrl-d leaves the shell");
                }
                continue;
            }
            Err(ReadlineError::Eof) => return Ok(()),
            Err(error) => {
                shell.report(&Error::unavailable("the terminal cannot be read").source(error), None);
                return Err(Stop::Usage);
            }
        };
        interrupted = false;
        if line.trim().is_empty() {
            continue;
        }
        remember(&mut editor, &line, history.as_ref());
        match shell.run(&line, None).await {
            Ok(()) => {}
            Err(Stop::Quit) => return Ok(()),
            Err(Stop::Cancelled) => {}
            // The next prompt asks for another session.
            Err(Stop::Refused) if matches!(shell.login.target, Target::Url(_)) => {}
            Err(stop) => return Err(stop),
        }
    }
}

/// Opens another session where the one there was is gone; its schema. Where that fails, the next prompt tries again.
async fn reconnect(shell: &mut Shell) -> Option<String> {
    match shell.connect(shell.login.clone()).await {
        Ok(()) => {
            shell.say("connected again: this is another session, without the settings of the one before");
            shell.client.current_schema().await.ok()?
        }
        // Why is on the screen.
        Err(_) => {
            shell.say("not connected: enter tries again, \\connect elsewhere, \\q leaves");
            Some("?".to_owned())
        }
    }
}

/// Brings the names for completion up to date.
async fn refresh(shell: &mut Shell, names: &Names) {
    if std::mem::take(&mut shell.names_changed)
        && let Ok(tables) = shell.client.tables(None, None, true).await
    {
        names.lock().tables = tables;
    }
    let mut names = names.lock();
    names.variables = shell.variables.names().map(str::to_owned).collect();
    names.profiles = shell.config.profiles.keys().cloned().collect();
}

/// The profile, or the program, and the schema.
async fn prompt(shell: &mut Shell) -> String {
    let schema = match shell.client.current_schema().await {
        Ok(schema) => schema,
        Err(_) => reconnect(shell).await,
    };
    let schema = schema.unwrap_or_else(|| "main".to_owned());
    format!("{}:{schema}> ", shell.login.profile.as_deref().unwrap_or("skep"))
}

fn open(names: Names, color: bool) -> rustyline::Result<Sql> {
    let config = Config::builder()
        .completion_type(CompletionType::List)
        .history_ignore_space(true)
        .max_history_size(HISTORY_LINES)?
        .auto_add_history(false)
        .build();
    let mut editor: Sql = Editor::with_config(config)?;
    editor.set_helper(Some(SqlHelper { names, color, prompt: None, files: FilenameCompleter::new() }));
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
