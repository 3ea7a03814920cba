"""The shell as a person uses it: on a terminal, key by key.

    python shell.py grpc://127.0.0.1:8815 path/to/skep

Needs nothing but the standard library. Prints one line per check and exits 1 if one fails. Each check has a shell of its own;
all share one file of history.
"""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import sys
import tempfile
import termios
import time
import traceback

URL, SKEP = sys.argv[1], sys.argv[2]
PATIENCE = 60
ENTER, UP, CTRL_C, CTRL_D, TAB = "\r", "\x1b[A", "\x03", "\x04", "\t"
PROMPT = "skep:main> "
# What moves the cursor and colours the text, and the returns to the start of a line.
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[=>]|\r")
CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


class Shell:
    """A shell on a terminal of 100 columns. `seen` is what it wrote since the last expectation, without escapes."""

    def __init__(self, history):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("SKEP")}
        environment.update(TERM="xterm", SKEP_HISTORY=history)
        environment.pop("NO_COLOR", None)
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
            os.execve(SKEP, [SKEP, "sql", "--url", URL], environment)
        self.raw = ""
        self.expect(PROMPT)

    @property
    def seen(self):
        return ESCAPES.sub("", self.raw)

    def read(self, deadline):
        """More output; False at the end of it."""
        ready, _, _ = select.select([self.terminal], [], [], max(0, deadline - time.monotonic()))
        if not ready:
            raise AssertionError(f"nothing more comes after {self.seen!r}")
        try:
            data = os.read(self.terminal, 65536)
        except OSError:
            data = b""
        self.raw += data.decode("utf-8", "replace")
        return bool(data)

    def expect(self, text):
        """Waits for `text`; what came up to its end, without escapes."""
        deadline = time.monotonic() + PATIENCE
        while text not in self.seen:
            if not self.read(deadline):
                raise AssertionError(f"the shell ended without {text!r}: {self.seen!r}")
        seen = self.seen
        at = seen.index(text) + len(text)
        self.raw = seen[at:]
        return seen[:at]

    def keys(self, text):
        os.write(self.terminal, text.encode())

    def run(self, line, prompt=PROMPT):
        """Types a line; what the shell wrote until its next prompt, without the line itself."""
        self.keys(line + ENTER)
        # The editor draws the line anew with each key. What follows the last drawing begins on a line of its own.
        self.expect(line)
        return self.expect("\n" + prompt)

    def end(self):
        """The exit code, once the shell has ended by itself."""
        deadline = time.monotonic() + PATIENCE
        while self.read(deadline):
            pass
        _, status = os.waitpid(self.pid, 0)
        self.pid = None
        return os.waitstatus_to_exitcode(status)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.terminal)


@check
def the_prompt_names_the_schema(history):
    with Shell(history) as shell:
        shell.run("USE lake;", prompt="skep:lake> ")
        shell.run("USE main;")


@check
def a_statement_goes_on_until_its_semicolon(history):
    with Shell(history) as shell:
        for part in ["SELECT 6 * 7", "AS answer, 'a;b'"]:
            shell.keys(part + ENTER)
            shell.expect(part)
        answer = shell.run("AS text;")
        assert "answer" in answer and "42" in answer and "a;b" in answer, answer
        assert "1 row (" in answer, answer
        two = shell.run("SELECT 1 AS one; SELECT 2 AS two;")
        assert "one" in two and "two" in two, two


@check
def an_error_shows_its_place_and_the_shell_goes_on(history):
    with Shell(history) as shell:
        error = shell.run("SELECT 1 FRM nowhere;")
        lines = error.split("\n")
        at = next(i for i, line in enumerate(lines) if line.startswith("1 | SELECT 1 FRM"))
        # Under the word that cannot be there, as the line above shows it.
        assert lines[at + 1].rstrip().endswith("^"), lines
        assert lines[at][lines[at + 1].index("^"):].startswith(("FRM", "nowhere")), lines
        assert "error:" in error, error
        missing = shell.run("SELECT * FROM no_such_table;")
        assert "no_such_table" in missing and "error:" in missing, missing
        assert "5" in shell.run("SELECT 2 + 3 AS five;")


@check
def the_arrow_brings_back_what_was_typed(history):
    statement = "SELECT 20 + 22 AS recalled;"
    with Shell(history) as shell:
        assert "42" in shell.run(statement)
        shell.keys(UP)
        shell.expect(statement)
        shell.keys(ENTER)
        assert "42" in shell.expect("\n" + PROMPT)
        shell.keys(CTRL_D)
        assert shell.end() == 0
    # Another shell, the same person.
    with Shell(history) as shell:
        shell.keys(UP)
        shell.expect(statement)
        shell.keys(ENTER)
        assert "42" in shell.expect("\n" + PROMPT)


@check
def commands_are_for_the_shell(history):
    with Shell(history) as shell:
        shell.run("CREATE SCHEMA IF NOT EXISTS terminal;")
        shell.run("CREATE OR REPLACE TABLE terminal.t AS SELECT 1 AS id, 'x' AS name;")
        tables = shell.run("\\dt terminal.*")
        assert "terminal" in tables and "TABLE" in tables, tables
        columns = shell.run("\\d terminal.t")
        assert "id" in columns and "name" in columns, columns
        assert "\\copy" in shell.run("\\?")
        assert "rows on end" in shell.run("\\x on")
        assert "unknown command" in shell.run("\\nonsense")
        shell.run("DROP SCHEMA terminal CASCADE;")


@check
def a_name_is_completed(history):
    with Shell(history) as shell:
        shell.keys("SELECT count(*) AS n FROM information_schema.schem" + TAB)
        shell.expect("information_schema.schemata")
        shell.keys(";" + ENTER)
        assert "1 row (" in shell.expect("\n" + PROMPT)


@check
def ctrl_c_drops_the_line(history):
    with Shell(history) as shell:
        shell.keys("SELECT nonsense FROM nothing")
        shell.expect("nothing")
        shell.keys(CTRL_C)
        shell.expect("\n" + PROMPT)
        answer = shell.run("SELECT 'still here' AS state;")
        assert "error" not in answer and "still here" in answer, answer


@check
def ctrl_c_ends_the_statement_and_not_the_shell(history):
    with Shell(history) as shell:
        shell.keys("SELECT count(*) AS n FROM generate_series(1, 100000000000000);" + ENTER)
        shell.expect("(ctrl-c cancels)")
        shell.keys(CTRL_C)
        ended = shell.expect("\n" + PROMPT)
        assert "cancelled" in ended, ended
        assert "7" in shell.run("SELECT 3 + 4 AS seven;")


@check
def ctrl_d_leaves(history):
    with Shell(history) as shell:
        shell.keys(CTRL_D)
        assert shell.end() == 0
    with Shell(history) as shell:
        shell.keys("\\q" + ENTER)
        assert shell.end() == 0


def main():
    failed = []
    wanted = sys.argv[3:]
    with tempfile.TemporaryDirectory() as folder:
        for function in CHECKS:
            if wanted and function.__name__ not in wanted:
                continue
            try:
                function(os.path.join(folder, "history"))
                print(f"ok      {function.__name__}", flush=True)
            except Exception:
                failed.append(function.__name__)
                print(f"FAILED  {function.__name__}", flush=True)
                traceback.print_exc()
    print(f"{len(CHECKS) - len(failed)} of {len(CHECKS)} checks passed")
    sys.exit(1 if failed else 0)


main()
