//! What a person sees who types into the shell: each of its features once, on a pseudo-terminal.

use std::path::Path;

use insta::assert_snapshot;
use skep_testkit::process::{Server, output, skep};

use crate::terminal::{CTRL_C, CTRL_D, ENTER, PROMPT, TAB, Terminal, UP, steady};

/// A server, and a folder for what shells write.
struct House {
    server: Server,
    folder: tempfile::TempDir,
}

impl House {
    fn open() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let place =
            ["up", "--data", data.to_str().unwrap(), "--flight", "127.0.0.1:0", "--http", "127.0.0.1:0"];
        Self { server: Server::start(&place).unwrap(), folder }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    /// A shell with `arguments` and variables of the environment beside the usual ones.
    fn command(&self, arguments: &[&str], variables: &[(&str, &str)]) -> std::process::Command {
        let mut all = vec!["sql"];
        all.extend(arguments);
        let mut command = skep(&all);
        command.env("TERM", "xterm").env("SKEP_HISTORY", self.path("history"));
        command.env("XDG_CONFIG_HOME", self.path("config")).env("PAGER", "sed 's/^/paged /'");
        command.envs(variables.iter().copied());
        command
    }

    fn shell(&self) -> Terminal {
        self.shell_with(&[])
    }

    fn shell_with(&self, variables: &[(&str, &str)]) -> Terminal {
        let mut shell = Terminal::start(self.command(&["--url", self.server.flight()], variables));
        shell.waits_at(PROMPT);
        shell
    }
}

#[test]
fn lines_are_edited_remembered_and_completed() {
    let house = House::open();
    let mut shell = house.shell();
    // A statement goes on until its semicolon.
    shell.types("SELECT 6 * 7");
    shell.keys(ENTER);
    shell.types("AS answer, 'a;b' AS text;");
    shell.keys(ENTER);
    shell.waits_at(PROMPT);
    assert_snapshot!(steady(&shell.text()), @r"
    Skep. Statements end in ;  \? lists the commands, \q leaves.
    skep:main> SELECT 6 * 7
    AS answer, 'a;b' AS text;
    +--------+------+
    | answer | text |
    +--------+------+
    |     42 | a;b  |
    +--------+------+
    1 row (T s, local, query ID)
    skep:main>
    ");
    let two = shell.run("SELECT 1 AS one; SELECT 2 AS two;");
    assert!(two.contains("one") && two.contains("two"), "{two}");
    shell.run("CREATE TABLE lake.flights AS SELECT 7 AS carrier_id;");
    // The names that a statement made are completed after it, columns by the table's other name.
    shell.keys("SELECT * FROM lake.fli");
    shell.keys(TAB);
    shell.sees("FROM lake.flights");
    shell.keys(" AS f WHERE f.carr");
    shell.keys(TAB);
    shell.sees("WHERE f.carrier_id");
    shell.keys(" = 7;");
    shell.keys(ENTER);
    shell.sees("1 row (");
    shell.waits_at(PROMPT);
    shell.keys("\\timi");
    shell.keys(TAB);
    shell.sees("\\timing");
    shell.keys(CTRL_C);
    shell.waits_at(PROMPT);
    shell.run("SELECT 20 + 22 AS recalled;");
    shell.keys(CTRL_D);
    assert_eq!(shell.end(), 0);
    // Another shell, the same person.
    let mut shell = house.shell();
    shell.keys(UP);
    shell.sees("SELECT 20 + 22 AS recalled;");
    shell.keys(ENTER);
    shell.sees("|       42 |");
}

#[test]
fn ctrl_c_drops_a_line_and_says_how_to_leave() {
    let house = House::open();
    let mut shell = house.shell();
    shell.types("SELECT nonsense FROM nothing");
    shell.keys(CTRL_C);
    shell.waits_at(PROMPT);
    shell.keys(CTRL_C);
    shell.sees("\\q or ctrl-d leaves the shell");
    assert!(shell.run("SELECT 'still here' AS state;").contains("still here"));
    assert!(shell.runs());
    shell.types("\\q");
    shell.keys(ENTER);
    assert_eq!(shell.end(), 0);
}

#[test]
fn colours_are_those_of_the_terminal_and_of_the_profile() {
    let house = House::open();
    let profile =
        format!("[profiles.prod]\nurl = \"{}\"\ncolor = \"red\"\nschema = \"lake\"\n", house.server.flight());
    house.write("config/skep/shell.toml", &profile);
    let mut shell = Terminal::start(house.command(&["--profile", "prod"], &[("NO_COLOR", "")]));
    shell.waits_at("prod:lake> ");
    shell.types("SELECT 'a' FROM nowhere;");
    assert_eq!(shell.cell("prod:lake").fgcolor(), vt100::Color::Idx(1));
    assert_eq!(shell.cell("SELECT").fgcolor(), vt100::Color::Idx(4));
    assert_eq!(shell.cell("'a'").fgcolor(), vt100::Color::Idx(2));
    shell.keys(ENTER);
    shell.waits_at("prod:lake> ");
    assert_ne!(shell.cell("^^^^").fgcolor(), vt100::Color::Default);
    // Who wants no colours has none.
    let mut plain = house.shell_with(&[("NO_COLOR", "1")]);
    plain.types("SELECT 1;");
    assert_eq!(plain.cell("SELECT").fgcolor(), vt100::Color::Default);
    // A terminal that can do nothing but print.
    let mut dumb = Terminal::start(house.command(&["--url", house.server.flight()], &[("TERM", "dumb")]));
    dumb.waits_at(PROMPT);
    dumb.keys("SELECT 41 + 1 AS answer;\n");
    dumb.sees("|     42 |");
    dumb.waits_at(PROMPT);
}

#[test]
fn errors_show_their_places_and_the_shell_goes_on() {
    let house = House::open();
    let mut shell = house.shell();
    shell.run("CREATE TABLE lake.flights AS SELECT 7 AS carrier;");
    let mut screens = Vec::new();
    for wrong in [
        "SELECT 1; SELECT 1 FRM nowhere;",
        "SELECT * FROM lake.flihgts;",
        "SELECT carrier FROM lake.flights UNION SELECT carrier, 1 FROM lake.flights;",
        "SELECT coalese(carrier) FROM lake.flights;",
        "SET skep.executon = 'local';",
        "SET skep.execution = 'lokal';",
        "USE lak;",
        "\\tabels",
        "\\d lake.flihgts",
    ] {
        screens.push(format!("{wrong}\n{}", shell.run(wrong)));
    }
    let script = house.write(
        "wrong.sql",
        "-- two lines before\n\nSELECT 1 AS x;\nSELECT y\nFROM lake.flights;\nSELECT 3;\n",
    );
    screens.push(shell.run(&format!("\\i {script}")).replace(&script, "wrong.sql"));
    assert_snapshot!(steady(&screens.join("\n\n")), @r"
    SELECT 1; SELECT 1 FRM nowhere;
    +----------+
    | Int64(1) |
    +----------+
    |        1 |
    +----------+
    1 row (T s, local, query ID)
    error: expected the end of the statement, found 'nowhere'
      |
    1 | SELECT 1; SELECT 1 FRM nowhere
      |                        ^^^^^^^

    SELECT * FROM lake.flihgts;
    error: table 'lake.flihgts' does not exist
      |
    1 | SELECT * FROM lake.flihgts
      |               ^^^^^^^^^^^^
      |
      = hint: did you mean 'lake.flights'?

    SELECT carrier FROM lake.flights UNION SELECT carrier, 1 FROM lake.flights;
    error: UNION queries have different number of columns
      |
    1 | SELECT carrier FROM lake.flights UNION SELECT carrier, 1 FROM lake.flights
      | --------------------------------^^^^^^^-----------------------------------
      | |                                      |
      | |                                      this side has 2 columns
      | this side has 1 column

    SELECT coalese(carrier) FROM lake.flights;
    error: function 'coalese' does not exist
      |
    1 | SELECT coalese(carrier) FROM lake.flights
      |        ^^^^^^^
      |
      = hint: did you mean 'coalesce'?

    SET skep.executon = 'local';
    error: setting 'skep.executon' does not exist
      |
    1 | SET skep.executon = 'local'
      |     ^^^^^^^^^^^^^
      |
      = hint: did you mean 'skep.execution'?

    SET skep.execution = 'lokal';
    error: 'lokal' is not a way to execute
      |
    1 | SET skep.execution = 'lokal'
      |                      ^^^^^^^
      |
      = hint: did you mean 'local'?

    USE lak;
    error: schema 'lak' does not exist
      |
    1 | USE lak
      |     ^^^
      |
      = hint: did you mean 'lake'? SHOW SCHEMAS lists all

    \tabels
    error: unknown command '\tabels'
     |
     = hint: did you mean '\tables'? \? lists the commands

    \d lake.flihgts
    error: table 'lake.flihgts' does not exist
     |
     = hint: did you mean 'lake.flights'?

    +---+
    | x |
    +---+
    | 1 |
    +---+
    1 row (T s, local, query ID)
    error: column 'y' does not exist
     --> wrong.sql:4:8
      |
    4 | SELECT y
      |        ^
      |
      = hint: columns are carrier
    the rest of 'wrong.sql' did not run
    ");
    assert!(shell.run("SELECT 2 + 3 AS five;").contains("5"));
}

#[test]
fn a_long_statement_shows_what_it_does_and_ends_when_told() {
    let house = House::open();
    let mut shell = house.shell();
    shell.run("SET skep.execution = 'durable';");
    shell.run("CREATE TABLE lake.t AS SELECT value AS a, value % 3 AS b FROM generate_series(1, 100000);");
    // What was typed behind it does not run either.
    shell.types(
        "SELECT count(*), sum(x.a * y.a) FROM lake.t x JOIN lake.t y ON x.b = y.b; SELECT 'be' || 'hind';",
    );
    shell.keys(ENTER);
    shell.sees("running, durable on ");
    shell.sees("(ctrl-c cancels)");
    shell.sees("stage 1 [####################]");
    shell.keys(CTRL_C);
    shell.waits_at(PROMPT);
    let text = shell.text();
    assert!(text.contains("cancelled: the statement was cancelled"), "{text}");
    assert!(!text.contains("(ctrl-c cancels)") && !text.contains("stage 1"), "the lines are gone: {text}");
    assert!(!text.contains("behind"), "{text}");
    // What it took is below the rows of those that end.
    shell.run("SET skep.execution = 'pipelined';");
    let ended = shell.run("SELECT b, count(*) AS n FROM lake.t GROUP BY b;");
    for part in ["3 rows (", " read, ", "% locally, pipelined on ", "query "] {
        assert!(ended.contains(part), "no {part} in {ended}");
    }
    // One that returns rows already.
    let endless = "SELECT value FROM generate_series(1, 1000000000000);";
    shell.run("\\rows 5");
    shell.types(endless);
    shell.keys(ENTER);
    shell.sees(" rows (ctrl-c cancels)");
    shell.keys(CTRL_C);
    shell.waits_at(PROMPT);
    let text = shell.text();
    assert!(text.contains("|     5 |") && text.contains("cancelled: the statement was cancelled"), "{text}");
    shell.run("\\pager off");
    shell.types(endless);
    shell.keys(ENTER);
    shell.sees("|     5 |");
    shell.sees(" rows (ctrl-c cancels)");
    shell.keys(CTRL_C);
    shell.sees("cancelled: the statement was cancelled");
    shell.waits_at(PROMPT);
}

#[test]
fn what_is_not_shown_is_said() {
    let house = House::open();
    let mut shell = house.shell();
    let mut screens = Vec::new();
    for line in [
        "SELECT repeat('wide ', 40) AS long, NULL AS nothing, 1.50 AS price;",
        "\\x",
        "SELECT 'a' AS long, NULL AS nothing;",
        "\\x off",
        "\\rows 3",
        "SELECT value FROM generate_series(1, 7);",
        "\\rows 0",
        "\\format json",
        "\\last",
        "\\format table",
        "\\width 30",
        "SELECT 'one' AS first_column, 'two' AS second_column, 'three' AS third;",
        "\\width 0",
        "\\timing off",
        "SELECT 1 AS one;",
    ] {
        screens.push(format!("{line}\n{}", shell.run(line)));
    }
    assert_snapshot!(steady(&screens.join("\n")), @r#"
    SELECT repeat('wide ', 40) AS long, NULL AS nothing, 1.50 AS price;
    +--------------------------------------------------------------------------------+---------+-------+
    | long                                                                           | nothing | price |
    +--------------------------------------------------------------------------------+---------+-------+
    | wide wide wide wide wide wide wide wide wide wide wide wide wide wide wide wi~ | NULL    |  1.50 |
    +--------------------------------------------------------------------------------+---------+-------+
    some values are cut to fit the terminal; \x or --format vertical shows them whole
    1 row (T s, local, query ID)
    \x
    rows on end
    SELECT 'a' AS long, NULL AS nothing;
    -[ row 1 ]------------------------------
    long    | a
    nothing | NULL
    1 row (T s, local, query ID)
    \x off
    rows in columns
    \rows 3
    rows 3
    SELECT value FROM generate_series(1, 7);
    +-------+
    | value |
    +-------+
    |     1 |
    |     2 |
    |     3 |
    +-------+
    the first 3 of 7 rows are shown; \rows 0 shows all, \o FILE writes them to a file
    7 rows, 3 shown (T s, local, query ID)
    \rows 0
    rows all
    \format json
    format json
    \last
    [{"value":1},
     {"value":2},
     {"value":3},
     {"value":4},
     {"value":5},
     {"value":6},
     {"value":7}]
    \format table
    format table
    \width 30
    width 30
    SELECT 'one' AS first_column, 'two' AS second_column, 'three' AS third;
    +----------+---------+-------+
    | first_c~ | second~ | third |
    +----------+---------+-------+
    | one      | two     | three |
    +----------+---------+-------+
    some values are cut to fit the terminal; \x or --format vertical shows them whole
    1 row (T s, local, query ID)
    \width 0
    width as the terminal says
    \timing off
    timing off
    SELECT 1 AS one;
    +-----+
    | one |
    +-----+
    |   1 |
    +-----+
    1 row
    "#);
}

#[test]
fn long_results_are_paged() {
    let house = House::open();
    let mut shell = house.shell();
    let paged = shell.run("SELECT value AS n FROM generate_series(1, 60);");
    assert!(paged.contains("paged | 60 |"), "{paged}");
    assert!(!shell.run("SELECT 1 AS n;").contains("paged"));
    shell.run("\\pager off");
    assert!(!shell.run("SELECT value AS n FROM generate_series(1, 60);").contains("paged"));
    assert!(shell.run("\\pager cat -n").contains("pager cat -n"));
}

#[test]
fn rows_go_to_files_and_come_from_them() {
    let house = House::open();
    let mut shell = house.shell();
    shell
        .run("CREATE TABLE lake.t AS SELECT value AS id, 'x' || value AS name FROM generate_series(1, 100);");
    for name in ["rows.parquet", "rows.arrow", "rows.csv", "rows.json", "rows.csv.gz"] {
        let said = shell.run(&format!("\\o {}", house.path(name)));
        assert!(said.contains("rows go to"), "{said}");
        shell.run("SELECT * FROM lake.t;");
        shell.run("\\o");
    }
    let csv = std::fs::read_to_string(house.path("rows.csv")).unwrap();
    assert!(csv.starts_with("id,name\n1,x1\n") && csv.lines().count() == 101, "{csv}");
    for name in ["rows.parquet", "rows.csv"] {
        let count = shell.run(&format!("SELECT count(*) AS n FROM '{}';", house.path(name)));
        assert!(count.contains("100"), "{count}");
    }
    let arrow = std::fs::read(house.path("rows.arrow")).unwrap();
    assert!(arrow.starts_with(b"ARROW1"));
    let copied =
        shell.run(&format!("\\copy (SELECT * FROM lake.t WHERE id < 6) TO '{}'", house.path("few.csv.gz")));
    assert!(copied.contains("COPY 5"), "{copied}");
    let copied = shell.run(&format!("\\copy lake.t FROM '{}'", house.path("few.csv.gz")));
    assert!(copied.contains("COPY 5"), "{copied}");
    assert!(shell.run("SELECT count(*) AS n FROM lake.t;").contains("105"));
    let refused = shell.run("\\format parquet") + &shell.run("SELECT 1;");
    assert!(refused.contains("parquet is not for a terminal"), "{refused}");
    let failed = shell.run(&format!("\\copy (SELECT nosuch) TO '{}'", house.path("none.csv")));
    assert!(failed.contains("column 'nosuch' does not exist"), "{failed}");
    assert!(!Path::new(&house.path("none.csv")).try_exists().unwrap());
}

#[test]
fn statements_are_run_again_edited_and_filled_in() {
    let house = House::open();
    let mut shell = house.shell_with(&[("EDITOR", "sed -i 's/1 AS before/2 AS after/'")]);
    shell.run("\\set who O'Neil");
    shell.run("\\set n 3");
    let filled = shell.run("SELECT :'who' AS who, :n + 1 AS more, ':n' AS text;");
    assert!(filled.contains("O'Neil") && filled.contains("4") && filled.contains(":n"), "{filled}");
    assert!(shell.run("\\set").contains("who = 'O''Neil'"));
    let watched = shell.run("SELECT 5 AS five \\watch 0.05 2");
    assert_eq!(watched.matches("| five |").count(), 3, "{watched}");
    assert!(watched.contains("again after 0.05 s"), "{watched}");
    shell.run("SELECT 1 AS before;");
    shell.types("\\edit");
    shell.keys(ENTER);
    shell.sees("skep:main> SELECT 2 AS after;");
    shell.keys(ENTER);
    shell.sees("| after |");
    shell.waits_at(PROMPT);
    assert_snapshot!(shell.run("\\?"), @r#"
      \? \help                             this list
      \q \quit \exit                       leave
      \d \describe [SCHEMA.]TABLE          columns of a table; without a name the tables
      \dt \tables [PATTERN]                tables and views, by name or SCHEMA.NAME, with % and _
      \dv \views [PATTERN]                 views
      \dn \schemas                         schemas
      \x \expanded [on|off]                rows on end
      \timing \timer [on|off]              what a statement took
      \format \mode [FORMAT]               table, box, vertical, csv, tsv, json, ndjson, markdown, ...
      \rows \maxrows [N]                   rows of a result that a terminal shows; 0: all
      \width [N]                           columns of the terminal; 0: as it says itself
      \pager [on|off|COMMAND]              shows results that are longer than the screen
      \o \output [FILE]                    rows into a file, as its name says; alone: back here
      \last                                the rows of the last statement, as \format and \o are now
      \i \read FILE                        run the statements of a file
      \e \edit [FILE]                      the last statement, or a file, in $VISUAL or $EDITOR
      \watch [SECONDS] [TIMES]             the last statement again and again, until ctrl-c
      \set [NAME VALUE]                    :NAME is VALUE, :'NAME' a text, :"NAME" a name; alone: all
      \unset NAME                          forget a variable
      \echo \print TEXT                    print a text
      \copy TABLE FROM 'FILE' ...          a file of this machine into a table; (FORMAT csv, ...)
      \copy TABLE|(QUERY) TO 'FILE'        rows into a file of this machine
      \connect \c \open [URL|PROFILE]      another server; alone: this one again
      \conninfo \connection                what the session is connected to
    A dot is as good as the backslash. Statements end in ; or \g, in \G to see rows on end, in \watch
    to see them again and again. Ctrl-c cancels a running one.
    "#);
}

#[test]
fn connections_have_names_and_passwords_are_not_arguments() {
    let house = House::open();
    let url = house.server.flight().to_owned();
    let secret = house.write("secret", "opensesame\n");
    let config = format!(
        "[shell]\nformat = \"box\"\nstart = [\"SET skep.execution = 'local';\"]\n[variables]\nyear = \"2013\"\n\
         [profiles.prod]\nurl = \"{url}\"\nuser = \"ada\"\npassword_file = \"{secret}\"\nschema = \"mart\"\n"
    );
    house.write("config/skep/shell.toml", &config);
    let mut shell = Terminal::start(house.command(&[], &[("SKEP_URL", &url)]));
    shell.waits_at(PROMPT);
    assert!(shell.run("SELECT :year AS year; SHOW skep.execution;").contains("2013"));
    let unknown = shell.run("\\connect prd");
    assert!(unknown.contains("did you mean 'prod'?"), "{unknown}");
    shell.run_at(PROMPT, "\\connect prod", "prod:mart> ");
    let connected = shell.run_at("prod:mart> ", "\\conninfo", "prod:mart> ");
    for part in ["\u{2502} user", "ada", "prod", "mart", "Skep ", &url] {
        assert!(connected.contains(part), "no {part} in {connected}");
    }
    // The password is asked for, and not shown.
    let mut asked = Terminal::start(house.command(&["--url", &url, "--user", "bob", "--password"], &[]));
    asked.sees("Password of bob:");
    asked.keys("opensesame");
    asked.keys(ENTER);
    asked.waits_at(PROMPT);
    assert!(!asked.text().contains("opensesame"), "{}", asked.text());
    let with_password = url.replace("grpc://", "grpc://ada:opensesame@");
    let refused = Terminal::start(house.command(&["--url", &with_password], &[]));
    assert_eq!(refused.end(), 2);
    house.write("config/skep/shell.toml", "[shell]\nfromat = \"box\"\n");
    let mut wrong = Terminal::start(house.command(&["--url", &url], &[]));
    wrong.sees("did you mean 'format'?");
    assert_eq!(wrong.end(), 2);
}

#[test]
fn a_server_that_starts_again_is_found_again() {
    let mut house = House::open();
    let mut shell = house.shell();
    shell.run_at(PROMPT, "USE lake;", "skep:lake> ");
    let address = house.server.flight().trim_start_matches("grpc://").to_owned();
    let data = house.path("data");
    drop(house.server);
    shell.types("SELECT 1;");
    shell.keys(ENTER);
    shell.waits_at("skep:?> ");
    shell.sees("the connection to the server was lost");
    shell.sees("not connected: enter tries again");
    house.server =
        Server::start(&["up", "--data", &data, "--flight", &address, "--http", "127.0.0.1:0"]).unwrap();
    shell.keys(ENTER);
    shell.sees("connected again");
    shell.waits_at(PROMPT);
    assert!(shell.run("SELECT 40 + 2 AS answer;").contains("42"));
}

#[test]
fn in_a_pipe_there_are_rows_and_errors_and_nothing_else() {
    let house = House::open();
    let url = house.server.flight();
    let run = |arguments: &[&str]| output(house.command(&[&["--url", url], arguments].concat(), &[]));
    let script = house.write(
        "script.sql",
        "-- it's a script\n\\set t 'VALUES (1), (2)'\nSELECT count(*) AS n FROM (:t);\nSELECT nosuch;\nSELECT :n AS n;\n",
    );
    let stopped = run(&["-f", &script, "--format", "csv"]);
    assert_eq!((stopped.code, stopped.stdout.as_str()), (Some(1), "n\n2\n"));
    assert_snapshot!(stopped.stderr.replace(&script, "script.sql"), @r"
    error: column 'nosuch' does not exist
     --> script.sql:4:8
      |
    4 | SELECT nosuch
      |        ^^^^^^
    ");
    let went_on = run(&["-f", &script, "--format", "csv", "--keep-going", "--var", "n=5"]);
    assert_eq!((went_on.code, went_on.stdout.as_str()), (Some(5), "n\n2\nn\n5\n"));
    let file = house.path("out.ndjson");
    let written = run(&["-c", "SELECT 1 AS a", "-c", "SELECT 2 AS a", "-o", &file]);
    assert_eq!((written.code, written.stdout.as_str(), written.stderr.as_str()), (Some(0), "", ""));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "{\"a\":1}\n{\"a\":2}\n");
    let twice = run(&["-c", "SELECT 1 AS a", "-c", "SELECT 2 AS a", "-o", &house.path("out.parquet")]);
    assert_eq!(twice.code, Some(1), "{}", twice.stderr);
    let unknown = run(&["--profile", "nosuch", "-c", "SELECT 1"]);
    assert_eq!(unknown.code, Some(2), "{}", unknown.stderr);
}
