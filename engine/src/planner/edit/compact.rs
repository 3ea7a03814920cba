//! OPTIMIZE: files that hold the same rows as others, in better shape.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, lit};
use datafusion::sql::sqlparser::ast;
use skep_catalog::{DataFile, SortKey, TableDef};
use skep_common::{Error, Result};

use super::{Edit, Rows, syntax};
use crate::planner::{Noted, Planner, tables};
use crate::sql::{Optimize, Target};
use crate::write::WriteTarget;
use crate::{error, names};

/// How full a file is, in hundredths, for it to be left as it is.
pub(crate) const FULL: u64 = 75;

/// What OPTIMIZE does to a table.
#[derive(Debug)]
pub struct Compaction {
    edit: Edit,
    order: Vec<datafusion::logical_expr::SortExpr>,
}

impl Compaction {
    /// The table.
    pub fn table(&self) -> &Arc<TableDef> {
        self.edit.table()
    }

    /// The files that are written again together, each group into files of `file_size` bytes; `among`: only these.
    ///
    /// Without an order, files that are not full are put together while they fit into one; with an order, all files of a
    /// partition are. A group that would not become fewer files, or be sorted, is none; files of which rows were deleted are
    /// written again in any case.
    pub fn groups(&self, file_size: u64, among: Option<&HashSet<i64>>) -> Vec<Vec<Arc<DataFile>>> {
        let files =
            self.edit.files().iter().filter(|file| among.is_none_or(|among| among.contains(&file.id)));
        let mut partitions: BTreeMap<&[Option<String>], Vec<Arc<DataFile>>> = BTreeMap::new();
        for file in files {
            partitions.entry(&file.partition).or_default().push(Arc::clone(file));
        }
        if !self.order.is_empty() {
            return partitions.into_values().collect();
        }
        partitions
            .into_values()
            .flat_map(|files| bins(files, |file| file.bytes, |file| file.hides(), file_size))
            .collect()
    }

    /// The rows of `group` that are there.
    ///
    /// # Errors
    /// As [`Edit::live`].
    pub fn live(&self, group: &[Arc<DataFile>]) -> Result<u64> {
        group.iter().map(|file| super::live(self.table(), file)).sum()
    }

    /// Tells the write how files are laid out: as the table says, but in the statement's order if it has one.
    ///
    /// # Errors
    /// As [`Noted::lay_out`].
    pub fn lay_out(&self, target: &mut WriteTarget) -> Result<()> {
        Noted::of(self.table()).lay_out(target)?;
        if !self.order.is_empty() {
            let key = |sort: &datafusion::logical_expr::SortExpr| {
                let Expr::Column(column) = &sort.expr else { return None };
                let column = self.table().columns.iter().find(|other| other.name == column.name)?;
                Some(SortKey { column: column.id, descending: !sort.asc, nulls_first: sort.nulls_first })
            };
            target.sorting = self.order.iter().filter_map(key).collect();
        }
        Ok(())
    }

    /// Every row of `files`, with the columns of the table, its row id, and that it did not change.
    ///
    /// # Errors
    /// [`Kind::Internal`](skep_common::Kind::Internal) if it cannot be planned.
    pub fn rows(&self, files: HashSet<i64>) -> Result<LogicalPlan> {
        let plan = self.edit.rewrite(files)?;
        if self.order.is_empty() {
            return Ok(plan);
        }
        LogicalPlanBuilder::from(plan)
            .sort(self.order.clone())
            .and_then(LogicalPlanBuilder::build)
            .map_err(error::from_datafusion)
    }
}

/// Files that are not full, or `must` be written again, put together in the order they were added while they fit into
/// `file_size`.
pub(crate) fn bins<T>(
    files: Vec<T>,
    size: impl Fn(&T) -> u64,
    must: impl Fn(&T) -> bool,
    file_size: u64,
) -> Vec<Vec<T>> {
    let (mut groups, mut group, mut bytes) = (Vec::new(), Vec::new(), 0);
    for file in files.into_iter().filter(|file| must(file) || size(file) < file_size / 100 * FULL) {
        if bytes + size(&file) > file_size {
            groups.push(std::mem::take(&mut group));
            bytes = 0;
        }
        bytes += size(&file);
        group.push(file);
    }
    groups.push(group);
    groups.retain(|group| group.len() > 1 || group.iter().any(&must));
    groups
}

impl Planner {
    /// What OPTIMIZE does.
    ///
    /// # Errors
    /// As [`Planner::writable`], and [`Kind::Invalid`](skep_common::Kind::Invalid) for an order by something else than columns.
    pub async fn optimize(&self, optimize: &Optimize) -> Result<Compaction> {
        let target = Target { table: optimize.table.clone(), alias: None };
        let open = self.open_target(&target).await?;
        let mut order = Vec::new();
        for key in &optimize.order_by {
            let ast::Expr::Identifier(ident) = &key.expr else {
                return Err(Error::unsupported("files are sorted by columns, not by expressions")
                    .hint("name columns, as in OPTIMIZE t ORDER BY a, b DESC"));
            };
            let name = names::normalise(ident);
            if !open.table.columns.iter().any(|column| column.name == name) {
                let known = open.table.columns.iter().map(|column| column.name.as_str());
                let missing = Error::invalid(format!("table '{}' has no column '{name}'", open.table.name));
                let missing = match names::nearest(&name, known) {
                    Some(near) => missing.hint(format!("did you mean '{near}'?")),
                    None => missing,
                };
                return Err(tables::placed(missing, names::from_span(ident.span)));
            }
            let ascending = key.options.asc.unwrap_or(true);
            order.push(super::own(&name).sort(ascending, key.options.nulls_first.unwrap_or(!ascending)));
        }
        let from = vec![syntax::alone(syntax::table(&open.target, &open.schema)?)];
        let query = syntax::select(open.place(), from, None)?;
        let plan = open.plan(self, query).await?;
        let LogicalPlan::Projection(projection) = plan else {
            return Err(Error::internal("the rows of a table are not planned as a projection"));
        };
        let input = Arc::unwrap_or_clone(projection.input);
        let name = open.name();
        let rows = Rows::Each { input, predicate: lit(false), name, set: Some(Vec::new()) };
        Ok(Compaction { edit: open.edit(rows, None), order })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn file(id: i64, bytes: u64) -> Arc<DataFile> {
        Arc::new(DataFile {
            id,
            path: id.to_string(),
            absolute: false,
            rows: 1,
            bytes,
            footer: None,
            row_id_start: Some(id),
            moved: false,
            begin: 0,
            partition: Vec::new(),
            partition_id: None,
            stats: HashMap::new(),
            deletes: None,
            last: None,
            until: None,
            names: Arc::default(),
        })
    }

    fn ids(sizes: &[u64]) -> Vec<Vec<i64>> {
        numbers((0..).zip(sizes).map(|(id, &bytes)| file(id, bytes)).collect())
    }

    fn numbers(files: Vec<Arc<DataFile>>) -> Vec<Vec<i64>> {
        bins(files, |file| file.bytes, |file| file.hides(), 1000)
            .into_iter()
            .map(|group| group.iter().map(|file| file.id).collect())
            .collect()
    }

    #[test]
    fn files_with_deleted_rows_are_written_again() {
        let path = "d".to_owned();
        let deletes = skep_catalog::DeleteFile { path, absolute: false, bytes: 1, rows: 1, until: None };
        let deleted = |id, bytes| {
            Arc::new(DataFile { deletes: Some(deletes.clone()), ..DataFile::clone(&file(id, bytes)) })
        };
        assert_eq!(numbers(vec![file(0, 900), deleted(1, 950), file(2, 100)]), [vec![1]]);
        assert_eq!(numbers(vec![deleted(0, 10)]), [vec![0]]);
    }

    #[test]
    fn files_are_put_together_while_they_fit() {
        assert_eq!(ids(&[100, 200, 300, 400, 500, 600]), [vec![0, 1, 2, 3]]);
        assert_eq!(ids(&[500, 500, 500, 500]), [vec![0, 1], vec![2, 3]]);
        assert!(ids(&[900, 800, 100]).is_empty(), "full files and a single small one stay");
        assert!(ids(&[700, 700]).is_empty(), "two that do not fit together stay");
        assert!(ids(&[]).is_empty());
    }
}
