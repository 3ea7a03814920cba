//! Functions of our own. Every session that plans or runs our plans knows them, by name.

mod assign;
mod check;
mod decode;
mod differs;
mod fill;
mod part;
mod partition;
mod shape;
mod single;
mod sketch;

use std::sync::Arc;

use datafusion::execution::SessionStateBuilder;
use datafusion::logical_expr::{AggregateUDF, ScalarUDF};

pub(crate) use assign::assign;
pub(crate) use check::{check, shown};
pub(crate) use decode::{Decoded, REASON as DECODE_REASON, decode};
pub(crate) use differs::differs;
pub(crate) use fill::{Defaults, fill};
pub(crate) use partition::{partition, partition_of};
pub(crate) use shape::{fit, shape};
pub(crate) use single::single;
pub(crate) use sketch::sketch;

/// Those of single rows.
pub fn all() -> Vec<Arc<ScalarUDF>> {
    let own = [
        assign::function(),
        check::function(),
        decode::function(),
        differs::function(),
        fill::function(),
        partition::function(),
    ];
    own.into_iter().chain(shape::functions()).chain(part::functions()).collect()
}

fn aggregates() -> Vec<Arc<AggregateUDF>> {
    vec![single::function(), sketch::function()]
}

/// Adds all of them to a session that is being built.
pub fn register(mut builder: SessionStateBuilder) -> SessionStateBuilder {
    builder.scalar_functions().get_or_insert_default().extend(all());
    builder.aggregate_functions().get_or_insert_default().extend(aggregates());
    builder
}

/// The one of that name, for plans that come over the wire.
pub fn find(name: &str) -> Option<Arc<ScalarUDF>> {
    all().into_iter().find(|function| function.name() == name)
}

/// As [`find`], for aggregates.
pub fn find_aggregate(name: &str) -> Option<Arc<AggregateUDF>> {
    aggregates().into_iter().find(|function| function.name() == name)
}
