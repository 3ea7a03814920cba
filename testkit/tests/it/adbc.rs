//! What Python programs do through Flight SQL: the checks of `testkit/python/flightsql.py`.

use crate::python::checks;

#[test]
fn adbc_conformance() {
    checks("adbc::adbc_conformance", "Python with adbc-driver-flightsql", "flightsql.py");
}
