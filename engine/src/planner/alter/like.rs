//! CREATE TABLE ... LIKE: the columns and clauses of another table.

use skep_catalog::{Column, columns_from_arrow};
use skep_common::Result;

use super::path::renumber;
use crate::planner::{Noted, Planner};
use crate::sql::Name;

impl Planner {
    /// The columns, clauses and comment of a table like `name`. A view or an external table gives its columns.
    ///
    /// # Errors
    /// [`Kind::NotFound`](skep_common::Kind::NotFound) for the name.
    pub async fn like(&self, name: &Name) -> Result<(Vec<Column>, Noted, Option<String>)> {
        let schema = name.schema_or(self.settings.schema());
        let Some(table) = self.snapshot.table(schema, &name.name) else {
            let provider = self.provider(name).await?;
            let columns = columns_from_arrow(&crate::boundary::plain_schema(&provider.schema()))?;
            return Ok((columns, Noted::default(), None));
        };
        let mut columns = table.columns.clone();
        columns.iter_mut().fold(1, |next, column| renumber(column, next));
        columns.iter_mut().for_each(forget_past);
        let same = |id: i64| {
            let at = table.columns.iter().position(|column| column.id == id);
            at.map_or(0, |at| columns[at].id)
        };
        let mut noted = Noted::of(table);
        noted.partitions.iter_mut().for_each(|key| key.column = same(key.column));
        noted.sorting.iter_mut().for_each(|key| key.column = same(key.column));
        Ok((columns, noted, table.comment.clone()))
    }
}

/// A column of a table without files.
fn forget_past(column: &mut Column) {
    column.physical.clone_from(&column.name);
    column.initial_default = None;
    column.children.iter_mut().for_each(forget_past);
}
