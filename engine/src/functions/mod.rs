//! Functions of our own. Every session that plans or runs our plans knows them, by name.

mod assign;

use std::sync::Arc;

use datafusion::execution::SessionStateBuilder;
use datafusion::logical_expr::ScalarUDF;

pub(crate) use assign::assign;

/// All of them, to register.
pub fn all() -> Vec<Arc<ScalarUDF>> {
    vec![assign::function()]
}

/// Adds all of them to a session that is being built.
pub fn register(mut builder: SessionStateBuilder) -> SessionStateBuilder {
    builder.scalar_functions().get_or_insert_default().extend(all());
    builder
}

/// The one of that name, for plans that come over the wire.
pub fn find(name: &str) -> Option<Arc<ScalarUDF>> {
    all().into_iter().find(|function| function.name() == name)
}
