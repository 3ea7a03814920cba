//! Which files may hold rows that a filter lets through.

use std::collections::HashSet;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, BooleanArray, Int32Array, UInt64Array};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::Session;
use datafusion::common::pruning::PruningStatistics;
use datafusion::common::{Column, DFSchema, ScalarValue};
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::utils::conjunction;
use datafusion::physical_optimizer::pruning::PruningPredicateBuilder;
use skep_catalog::Transform;

use super::derive::Derived;

/// What is known about some files, one entry for each in every array.
pub(crate) trait FileFacts {
    /// How many files.
    fn files(&self) -> usize;
    /// Values that none of the file's values is less than. NULL where it is not known.
    fn min(&self, column: &str) -> Option<ArrayRef>;
    /// Values that none of the file's values is greater than. NULL where it is not known.
    fn max(&self, column: &str) -> Option<ArrayRef>;
    /// NULLs in the column. NULL where it is not known.
    fn nulls(&self, column: &str) -> Option<UInt64Array>;
    /// Rows.
    fn rows(&self) -> Option<UInt64Array>;
    /// False where none of the file's values is one of `values`. NULL where it is not known.
    fn contained(&self, _column: &str, _values: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        None
    }
    /// The value of the partition key that `transform` makes of the column, where all of the file's rows have it. NULL where
    /// it is not known.
    fn made(&self, _column: &str, _transform: Transform) -> Option<Int32Array> {
        None
    }
}

/// For each file, whether it may hold a row of `schema` that passes all of `filters`.
pub(crate) fn keep(
    session: &dyn Session,
    schema: &SchemaRef,
    filters: &[Expr],
    facts: &dyn FileFacts,
) -> Vec<bool> {
    let all = || vec![true; facts.files()];
    let derived = Derived::new(session, schema, filters, facts);
    let (schema, filters) = (&derived.schema, &derived.filters);
    let Ok(columns) = DFSchema::try_from(Arc::clone(schema)) else { return all() };
    // A filter that cannot be compiled alone, such as one with a subquery, proves nothing.
    let usable =
        filters.iter().filter(|filter| session.create_physical_expr((*filter).clone(), &columns).is_ok());
    let Some(filter) = conjunction(usable.cloned()) else { return all() };
    let predicate = session
        .create_physical_expr(filter, &columns)
        .and_then(|expr| PruningPredicateBuilder::new().with_file_schema(Arc::clone(schema)).try_build(expr));
    let Ok(predicate) = predicate else { return all() };
    predicate.prune(&Statistics(&derived)).unwrap_or_else(|e| {
        tracing::debug!(error = %e, "files are not pruned");
        all()
    })
}

struct Statistics<'a>(&'a dyn FileFacts);

impl PruningStatistics for Statistics<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.0.min(&column.name)
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.0.max(&column.name)
    }

    fn num_containers(&self) -> usize {
        self.0.files()
    }

    fn null_counts(&self, column: &Column) -> Option<ArrayRef> {
        self.0.nulls(&column.name).map(|counts| Arc::new(counts) as _)
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        self.0.rows().map(|counts| Arc::new(counts) as _)
    }

    fn contained(&self, column: &Column, values: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        self.0.contained(&column.name, values)
    }
}
