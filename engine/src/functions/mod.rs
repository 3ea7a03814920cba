//! Functions of our own. Every session that plans or runs our plans knows them, by name.

mod assign;

use std::sync::Arc;

use datafusion::logical_expr::ScalarUDF;

pub(crate) use assign::assign;

/// All of them, to register.
pub fn all() -> Vec<Arc<ScalarUDF>> {
    vec![assign::function()]
}

/// The one of that name, for plans that come over the wire.
pub fn find(name: &str) -> Option<Arc<ScalarUDF>> {
    all().into_iter().find(|function| function.name() == name)
}
