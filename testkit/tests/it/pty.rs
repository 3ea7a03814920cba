//! What a person sees who types into the shell: the checks of `testkit/python/shell.py`, on a pseudo-terminal.

use crate::python::checks;

#[test]
fn pty_shell() {
    checks("pty::pty_shell", "Python", "shell.py");
}
