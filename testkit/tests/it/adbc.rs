//! What Python programs do through Flight SQL: the checks of `testkit/python/adbc.py` and `superset.py`.

use crate::python::checks;

#[test]
fn adbc_conformance() {
    checks("adbc::adbc_conformance", "Python with adbc-driver-flightsql", "adbc.py");
}

#[test]
fn superset_conformance() {
    checks("adbc::superset_conformance", "Python with flightsql-dbapi", "superset.py");
}
