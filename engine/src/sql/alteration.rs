//! What ALTER and COMMENT can ask for, after parsing.

use std::fmt;

use datafusion::sql::sqlparser::ast;
use skep_catalog::Transform;
use skep_common::Position;

use super::statement::{ColumnSpec, Name};
use crate::names;

/// A column, or a field inside one: `address.zip`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnPath {
    /// Outermost first, normalised, never empty.
    pub parts: Vec<String>,
    /// Where it stands.
    pub at: Option<Position>,
}

impl fmt::Display for ColumnPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = self.parts.iter().map(|part| names::quote(part)).collect();
        f.write_str(&parts.join("."))
    }
}

/// `[CONSTRAINT name] CHECK (expr)`
#[derive(Debug, Clone)]
pub struct CheckSpec {
    /// Its name, if it was written.
    pub name: Option<String>,
    /// What every row fulfils.
    pub expr: ast::Expr,
    /// Where it stands.
    pub at: Option<Position>,
}

/// One key of PARTITIONED BY.
#[derive(Debug, Clone)]
pub struct PartitionSpec {
    /// Its column.
    pub column: ColumnPath,
    /// What is made of the value.
    pub transform: Transform,
}

/// One key of SORTED BY.
#[derive(Debug, Clone)]
pub struct SortSpec {
    /// Its column.
    pub column: ColumnPath,
    /// Greatest first.
    pub descending: bool,
    /// Where NULLs stand.
    pub nulls_first: bool,
}

/// What a table says beside its columns and comment.
#[derive(Debug, Clone, Default)]
pub struct Clauses {
    /// CHECK constraints, of the table and of its columns.
    pub checks: Vec<CheckSpec>,
    /// `PARTITIONED BY`
    pub partitions: Vec<PartitionSpec>,
    /// `SORTED BY`
    pub sorting: Vec<SortSpec>,
    /// `TBLPROPERTIES`
    pub properties: Vec<(String, String)>,
    /// `LOCATION`
    pub location: Option<Location>,
}

/// `LOCATION 'folder'`
#[derive(Debug, Clone)]
pub struct Location {
    /// A folder or URL, as it was written.
    pub text: String,
    /// Where it stands.
    pub at: Position,
}

/// `ALTER TABLE name action, ...`
#[derive(Debug, Clone)]
pub struct AlterTable {
    /// The table.
    pub name: Name,
    /// Do nothing if it does not exist.
    pub if_exists: bool,
    /// In order: each sees what those before it did.
    pub actions: Vec<AlterAction>,
}

/// `ALTER VIEW name action`
#[derive(Debug, Clone)]
pub struct AlterView {
    /// The view.
    pub name: Name,
    /// Do nothing if it does not exist.
    pub if_exists: bool,
    /// What becomes of it.
    pub action: ViewAction,
}

/// What becomes of a view.
#[derive(Debug, Clone)]
pub enum ViewAction {
    /// `RENAME TO`
    Rename(Name),
    /// `SET COMMENT`, `COMMENT ON VIEW`
    Comment(Option<String>),
}

/// One change of a table.
#[derive(Debug, Clone)]
pub enum AlterAction {
    /// `ADD COLUMN`
    AddColumn {
        /// Where it goes: the last part is its name.
        path: ColumnPath,
        /// Its type, default and so on.
        spec: Box<ColumnSpec>,
        /// Do nothing if it exists.
        if_not_exists: bool,
    },
    /// `DROP COLUMN`
    DropColumn {
        /// Which.
        path: ColumnPath,
        /// Do nothing if it does not exist.
        if_exists: bool,
    },
    /// `RENAME COLUMN a TO b`
    RenameColumn {
        /// Which.
        path: ColumnPath,
        /// Its name from here on.
        name: String,
    },
    /// `ALTER COLUMN c TYPE t`
    SetType {
        /// Which.
        path: ColumnPath,
        /// The wider type.
        ty: ast::DataType,
    },
    /// `ALTER COLUMN c SET NOT NULL` or `DROP NOT NULL`
    SetNullable {
        /// Which.
        path: ColumnPath,
        /// Whether NULL is allowed from here on.
        nullable: bool,
    },
    /// `ALTER COLUMN c SET DEFAULT` or `DROP DEFAULT`
    SetDefault {
        /// Which.
        path: ColumnPath,
        /// The expression; absent: none.
        default: Option<ast::Expr>,
    },
    /// `ALTER COLUMN c COMMENT 'text'`, `COMMENT ON COLUMN`
    CommentColumn {
        /// Which.
        path: ColumnPath,
        /// The text; absent: none.
        comment: Option<String>,
    },
    /// `RENAME TO`
    Rename(Name),
    /// `SET COMMENT 'text'`, `COMMENT ON TABLE`
    Comment(Option<String>),
    /// `ADD [CONSTRAINT name] CHECK (expr)`
    AddCheck(CheckSpec),
    /// `DROP CONSTRAINT`
    DropCheck {
        /// Its name.
        name: String,
        /// Do nothing if it does not exist.
        if_exists: bool,
        /// Where it stands.
        at: Option<Position>,
    },
    /// `SET TBLPROPERTIES`
    SetProperties(Vec<(String, String)>),
    /// `UNSET TBLPROPERTIES`
    UnsetProperties {
        /// Their names.
        keys: Vec<String>,
        /// Skip those that are not set.
        if_exists: bool,
    },
    /// `SET PARTITIONED BY`; without keys `RESET PARTITIONED BY`
    SetPartitions(Vec<PartitionSpec>),
    /// `SET SORTED BY`; without keys `RESET SORTED BY`
    SetSorting(Vec<SortSpec>),
    /// Hive's `ADD PARTITION (key = 'value')`, of external tables.
    AddPartition {
        /// Do nothing if it is there.
        if_not_exists: bool,
        /// Keys with their values.
        values: Vec<(String, String)>,
        /// Where it stands.
        at: Option<Position>,
    },
}
