//! What a statement can be, after parsing and before anything is looked up.

use std::fmt;
use std::time::Duration;

use datafusion::sql::sqlparser::ast;
use skep_common::{Error, Position, Result};

use super::alteration::{AlterTable, AlterView, CheckSpec, Clauses, PartitionSpec};
use crate::names;

/// One statement of a script, with where it stood.
#[derive(Debug, Clone)]
pub struct Parsed {
    /// What it asks for.
    pub statement: Statement,
    /// Its text, without the `;`.
    pub text: String,
    /// Where its first word stands in the script. Positions inside [`Statement`] count from the script's start.
    pub at: Position,
}

/// The name of a table or view as written: identifiers not in quotes are lower-cased.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// The schema, if it was written.
    pub schema: Option<String>,
    /// The name inside the schema.
    pub name: String,
    /// Where it stands.
    pub at: Option<Position>,
}

impl Name {
    /// The schema, or `default` where none was written.
    pub fn schema_or<'a>(&'a self, default: &'a str) -> &'a str {
        self.schema.as_deref().unwrap_or(default)
    }

    /// From the parser's name, which may begin with the catalog.
    ///
    /// # Errors
    /// [`Kind::Invalid`](skep_common::Kind::Invalid) for more than three parts or another catalog.
    pub fn from_ast(name: &ast::ObjectName) -> Result<Self> {
        let at = names::position(name);
        let wrong = |text: String| match at {
            Some(at) => Error::invalid(text).at(at),
            None => Error::invalid(text),
        };
        let parts: Option<Vec<String>> =
            name.0.iter().map(|part| part.as_ident().map(names::normalise)).collect();
        let parts = parts.ok_or_else(|| wrong(format!("'{name}' is not a name")))?;
        match parts.as_slice() {
            [table] => Ok(Self { schema: None, name: table.clone(), at }),
            [schema, table] => Ok(Self { schema: Some(schema.clone()), name: table.clone(), at }),
            [catalog, schema, table] if catalog == names::CATALOG => {
                Ok(Self { schema: Some(schema.clone()), name: table.clone(), at })
            }
            [catalog, _, _] => {
                Err(wrong(format!("catalog '{catalog}' does not exist, or can only be read in FROM"))
                    .hint(format!("the catalog is named '{}'", names::CATALOG)))
            }
            _ => Err(wrong(format!("'{name}' has too many parts")).hint("write schema.table")),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.schema {
            Some(schema) => write!(f, "{}.{}", names::quote(schema), names::quote(&self.name)),
            None => f.write_str(&names::quote(&self.name)),
        }
    }
}

/// A column as CREATE TABLE writes it.
#[derive(Debug, Clone)]
pub struct ColumnSpec {
    /// Its name, normalised.
    pub name: String,
    /// Its type; [`ast::DataType::Unspecified`] where the statement lets another decide it.
    pub ty: ast::DataType,
    /// Whether NULL is allowed.
    pub nullable: bool,
    /// The expression for rows that do not give a value.
    pub default: Option<ast::Expr>,
    /// What people say about it.
    pub comment: Option<String>,
    /// What its values fulfil.
    pub checks: Vec<CheckSpec>,
    /// Where it stands.
    pub at: Option<Position>,
}

impl ColumnSpec {
    /// A column that may hold NULL and has no default.
    pub fn new(name: String, ty: ast::DataType, at: Option<Position>) -> Self {
        Self { name, ty, nullable: true, default: None, comment: None, checks: Vec::new(), at }
    }
}

/// `NAME value` pairs in parentheses. Names are lower-case; a name without a value has `true`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options(pub Vec<(String, String)>);

impl Options {
    /// The value of `name`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// Where COPY takes rows from.
#[derive(Debug, Clone)]
pub enum CopySource {
    /// `COPY (query) TO`
    Query(Box<ast::Query>),
    /// `COPY table TO`
    Table(Name),
}

/// What to describe.
#[derive(Debug, Clone)]
pub enum Described {
    /// A table or view.
    Table(Name),
    /// The rows of a query, file or table function.
    Query(Box<ast::Query>),
}

/// `CREATE TABLE name (columns)`
#[derive(Debug, Clone)]
pub struct CreateTable {
    /// Its name.
    pub name: Name,
    /// Do nothing if it exists.
    pub if_not_exists: bool,
    /// Replace it if it exists.
    pub or_replace: bool,
    /// Its columns.
    pub columns: Vec<ColumnSpec>,
    /// Its comment.
    pub comment: Option<String>,
    /// Its constraints, layout and properties.
    pub clauses: Clauses,
}

/// `CREATE TABLE name AS query`
#[derive(Debug, Clone)]
pub struct CreateTableAs {
    /// Its name.
    pub name: Name,
    /// Do nothing if it exists.
    pub if_not_exists: bool,
    /// Replace it if it exists.
    pub or_replace: bool,
    /// Names, and types where given, of its columns; empty: those of the query.
    pub columns: Vec<ColumnSpec>,
    /// Its comment.
    pub comment: Option<String>,
    /// Its constraints, layout and properties.
    pub clauses: Clauses,
    /// Its rows.
    pub query: Box<ast::Query>,
}

/// `CREATE EXTERNAL TABLE name (columns) STORED AS format LOCATION '...'`
#[derive(Debug, Clone)]
pub struct CreateExternal {
    /// Its name.
    pub name: Name,
    /// Do nothing if it exists.
    pub if_not_exists: bool,
    /// Replace it if it exists.
    pub or_replace: bool,
    /// Its columns; empty: read from the files.
    pub columns: Vec<ColumnSpec>,
    /// `csv`, `json` or `parquet`; absent: by the file names.
    pub format: Option<String>,
    /// The folder or pattern.
    pub location: String,
    /// The `name=value` folders, outermost first. A type is optional.
    pub partitions: Vec<ColumnSpec>,
    /// How to read the files.
    pub options: Options,
    /// Its comment.
    pub comment: Option<String>,
}

/// `CREATE VIEW name AS query`
#[derive(Debug, Clone)]
pub struct CreateView {
    /// Its name.
    pub name: Name,
    /// Do nothing if it exists.
    pub if_not_exists: bool,
    /// Replace it if it exists.
    pub or_replace: bool,
    /// New names of its columns, all of them or none.
    pub columns: Vec<String>,
    /// Its rows.
    pub query: Box<ast::Query>,
    /// Its comment.
    pub comment: Option<String>,
}

/// A partition key in INSERT.
#[derive(Debug, Clone)]
pub struct PartitionValue {
    /// The key, as PARTITIONED BY writes it.
    pub key: PartitionSpec,
    /// What it is in every row; absent: what the source gives.
    pub value: Option<ast::Expr>,
}

/// `INSERT INTO table (columns) query`
#[derive(Debug, Clone)]
pub struct Insert {
    /// The table.
    pub table: Name,
    /// Whether the rows take the place of those that are there (`INSERT OVERWRITE`).
    pub overwrite: bool,
    /// `PARTITION (a = 1, b)`
    pub partition: Option<Vec<PartitionValue>>,
    /// The columns that the source gives, in its order; absent: all of the table.
    pub columns: Option<Vec<ast::Ident>>,
    /// The rows; absent: `DEFAULT VALUES`.
    pub source: Option<Box<ast::Query>>,
}

/// A table whose rows a statement changes.
#[derive(Debug, Clone)]
pub struct Target {
    /// The table.
    pub table: Name,
    /// What the statement calls it; absent: its name.
    pub alias: Option<ast::Ident>,
}

impl Target {
    /// What stands before its columns in the statement.
    pub fn name(&self) -> String {
        self.alias.as_ref().map_or_else(|| self.table.name.clone(), names::normalise)
    }
}

/// `column = value`
#[derive(Debug, Clone)]
pub struct Assignment {
    /// The column.
    pub column: ast::Ident,
    /// Its value; absent: `DEFAULT`.
    pub value: Option<ast::Expr>,
}

/// `UPDATE table SET column = value FROM ... WHERE ...`
#[derive(Debug, Clone)]
pub struct Update {
    /// The table.
    pub target: Target,
    /// What changes.
    pub set: Vec<Assignment>,
    /// What the table is joined with.
    pub from: Vec<ast::TableWithJoins>,
    /// Which rows; absent: all.
    pub selection: Option<ast::Expr>,
}

/// `DELETE FROM table USING ... WHERE ...`
#[derive(Debug, Clone)]
pub struct Delete {
    /// The table.
    pub target: Target,
    /// What the table is joined with.
    pub using: Vec<ast::TableWithJoins>,
    /// Which rows; absent: all.
    pub selection: Option<ast::Expr>,
}

/// `OPTIMIZE table WHERE ... ORDER BY ...`
#[derive(Debug, Clone)]
pub struct Optimize {
    /// The table.
    pub table: Name,
    /// Only files with rows for which this holds; absent: all.
    pub selection: Option<ast::Expr>,
    /// How the rows are sorted; empty: not at all.
    pub order_by: Vec<ast::OrderByExpr>,
}

/// `MERGE INTO table USING source ON ... WHEN ...`
#[derive(Debug, Clone)]
pub struct Merge {
    /// The table.
    pub target: Target,
    /// The rows it is compared with.
    pub source: ast::TableFactor,
    /// Which rows match.
    pub on: ast::Expr,
    /// What happens to them. Of the clauses of one kind the first that applies counts.
    pub clauses: Vec<When>,
}

/// Which rows a clause of MERGE speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Matched {
    /// A row of the table and one of the source.
    Both,
    /// A row of the source alone.
    NotByTarget,
    /// A row of the table alone.
    NotBySource,
}

/// What a clause of MERGE does.
#[derive(Debug, Clone)]
pub enum Action {
    /// `UPDATE SET column = value`; absent: `UPDATE SET *`, every column from that of its name.
    Update(Option<Vec<Assignment>>),
    /// `DELETE`
    Delete,
    /// `INSERT (columns) VALUES (values)`; a value that is absent is `DEFAULT`.
    Insert {
        /// The columns; absent: all.
        columns: Option<Vec<ast::Ident>>,
        /// Their values; absent: `INSERT *`, every column from that of its name.
        values: Option<Vec<Option<ast::Expr>>>,
    },
    /// `DO NOTHING`
    Nothing,
}

/// `WHEN MATCHED AND condition THEN action`
#[derive(Debug, Clone)]
pub struct When {
    /// Which rows.
    pub matched: Matched,
    /// Which of them; absent: all.
    pub condition: Option<ast::Expr>,
    /// What happens to them.
    pub action: Action,
    /// Where the clause stands.
    pub at: Position,
}

/// `COPY INTO table (columns) FROM 'pattern' (options) FORCE ON_ERROR = CONTINUE REJECTED DATA AS TABLE name`
#[derive(Debug, Clone)]
pub struct CopyInto {
    /// The table.
    pub table: Name,
    /// The columns that the files give, in their order; absent: by name or position.
    pub columns: Option<Vec<ast::Ident>>,
    /// The file, folder or pattern.
    pub pattern: String,
    /// How to read the files.
    pub options: Options,
    /// Load files that were loaded already.
    pub force: bool,
    /// Where rows go that the table does not take; absent: one of them fails the statement.
    pub rejects: Option<Name>,
    /// Where the pattern stands.
    pub at: Option<Position>,
}

/// `COPY source TO 'path' (options)`
#[derive(Debug, Clone)]
pub struct CopyTo {
    /// The rows.
    pub source: CopySource,
    /// The file.
    pub path: String,
    /// How to write it.
    pub options: Options,
}

/// One statement.
#[derive(Debug, Clone)]
pub enum Statement {
    /// Returns the rows of a query.
    Query(Box<ast::Query>),
    /// Shows how a statement would run, or ran.
    Explain {
        /// Runs it and shows what happened.
        analyze: bool,
        /// Shows every step.
        verbose: bool,
        /// The statement.
        inner: Box<Statement>,
    },
    /// `CREATE SCHEMA`
    CreateSchema {
        /// Its name.
        name: String,
        /// Do nothing if it exists.
        if_not_exists: bool,
    },
    /// `DROP SCHEMA`
    DropSchema {
        /// Its name.
        name: String,
        /// Do nothing if it does not exist.
        if_exists: bool,
        /// Also drop what is in it.
        cascade: bool,
    },
    /// `CREATE TABLE name (columns)`
    CreateTable(CreateTable),
    /// `CREATE TABLE name AS query`
    CreateTableAs(CreateTableAs),
    /// `CREATE EXTERNAL TABLE`
    CreateExternal(CreateExternal),
    /// `CREATE VIEW`
    CreateView(CreateView),
    /// `CREATE TABLE name LIKE other`
    CreateTableLike {
        /// Its name.
        name: Name,
        /// Do nothing if it exists.
        if_not_exists: bool,
        /// Replace it if it exists.
        or_replace: bool,
        /// The table whose shape it gets.
        like: Name,
    },
    /// `ALTER TABLE`
    AlterTable(AlterTable),
    /// `ALTER VIEW`, `COMMENT ON VIEW`
    AlterView(AlterView),
    /// `COMMENT ON TABLE` or `COLUMN`
    Comment(AlterTable),
    /// `MSCK REPAIR TABLE`, of an external table.
    Repair {
        /// The table.
        table: Name,
    },
    /// `DROP TABLE`
    DropTable {
        /// Their names.
        names: Vec<Name>,
        /// Skip what does not exist.
        if_exists: bool,
    },
    /// `DROP VIEW`
    DropView {
        /// Their names.
        names: Vec<Name>,
        /// Skip what does not exist.
        if_exists: bool,
    },
    /// `INSERT INTO` or `INSERT OVERWRITE`
    Insert(Insert),
    /// `UPDATE`
    Update(Box<Update>),
    /// `DELETE FROM`
    Delete(Box<Delete>),
    /// `MERGE INTO`
    Merge(Box<Merge>),
    /// `TRUNCATE TABLE`
    Truncate(Name),
    /// `COPY INTO table FROM`
    CopyInto(CopyInto),
    /// `COPY ... TO`
    CopyTo(CopyTo),
    /// `SHOW SCHEMAS`
    ShowSchemas {
        /// A LIKE pattern.
        like: Option<String>,
    },
    /// `SHOW TABLES`
    ShowTables {
        /// Only this schema; absent: all.
        schema: Option<String>,
        /// A LIKE pattern.
        like: Option<String>,
    },
    /// `SHOW COLUMNS FROM table`
    ShowColumns {
        /// The table.
        table: Name,
        /// A LIKE pattern.
        like: Option<String>,
    },
    /// `SHOW CREATE TABLE` or `VIEW`
    ShowCreate {
        /// The table or view.
        name: Name,
    },
    /// `SHOW PARTITIONS table`
    ShowPartitions {
        /// The table.
        table: Name,
    },
    /// `SHOW TBLPROPERTIES table`
    ShowProperties {
        /// The table.
        table: Name,
        /// Only this one.
        key: Option<String>,
    },
    /// `SHOW name`, `SHOW SETTINGS`
    ShowSettings {
        /// One of them; absent: all.
        name: Option<String>,
    },
    /// `SHOW SNAPSHOTS`
    ShowSnapshots,
    /// `SHOW TAGS`
    ShowTags,
    /// `CREATE TAG name`
    CreateTag {
        /// The name.
        name: String,
        /// Take it from another snapshot.
        or_replace: bool,
        /// The snapshot; absent: the latest.
        version: Option<Box<ast::TableVersion>>,
    },
    /// `DROP TAG name`
    DropTag {
        /// The name.
        name: String,
        /// Do nothing if it does not exist.
        if_exists: bool,
    },
    /// `OPTIMIZE`
    Optimize(Optimize),
    /// `ANALYZE TABLE table COMPUTE STATISTICS FOR COLUMNS (columns)`
    Analyze {
        /// The table.
        table: Name,
        /// The columns; absent: all that are not nested.
        columns: Option<Vec<ast::Ident>>,
    },
    /// `RESTORE TABLE name TO VERSION AS OF n`
    Restore {
        /// The table.
        table: Name,
        /// The snapshot.
        version: Box<ast::TableVersion>,
    },
    /// `EXPIRE SNAPSHOTS`
    Expire {
        /// Only those that are older than this time.
        older_than: Box<ast::Expr>,
        /// The latest so many stay.
        retain: u64,
    },
    /// `VACUUM`
    Vacuum {
        /// Files that were not needed for so long.
        retain_hours: Option<u64>,
    },
    /// `DESCRIBE`
    Describe(Described),
    /// `BEGIN`, `START TRANSACTION`
    Begin {
        /// Refuse changes.
        read_only: bool,
    },
    /// `COMMIT`
    Commit,
    /// `ROLLBACK`
    Rollback,
    /// `KILL QUERY 'id'`
    Kill {
        /// Its id.
        query: String,
    },
    /// `SHOW BLOCKS FOR TABLE t`
    ShowBlocks {
        /// The table.
        table: Name,
    },
    /// `SYSTEM ...`: what an operator asks of the nodes that hold blocks.
    System(SystemAction),
    /// `SET name = value`, `USE schema`
    Set {
        /// The setting.
        name: String,
        /// Its value as text; absent: the default again (`RESET`).
        value: Option<String>,
        /// Where the name stands, and where the value does, or would.
        at: (Position, Position),
    },
}

/// What an operator asks of a node, or of all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SystemAction {
    /// `SYSTEM DRAIN NODE 'n'`: have its blocks copied elsewhere.
    Drain {
        /// The node.
        node: String,
    },
    /// `SYSTEM UNDRAIN NODE 'n'`: it is to stay.
    Undrain {
        /// The node.
        node: String,
    },
    /// `SYSTEM MAINTAIN NODE 'n' FOR '2h'`: it may be away for so long.
    Maintain {
        /// The node.
        node: String,
        /// For how long.
        time: Duration,
    },
    /// `SYSTEM RESUME NODE 'n'`: it may not be away any more.
    Resume {
        /// The node.
        node: String,
    },
    /// `SYSTEM REMOVE NODE 'n'`: it never comes back.
    Remove {
        /// The node.
        node: String,
    },
    /// `SYSTEM BALANCE [TO n PERCENT]`
    Balance {
        /// How far a node's fullness may be from that of all.
        percent: Option<u32>,
    },
}

impl Statement {
    /// What its outcome is called, as in `INSERT 2`; `None` for statements that return rows.
    pub fn tag(&self) -> Option<&'static str> {
        match self {
            Self::Query(_)
            | Self::Explain { .. }
            | Self::ShowSchemas { .. }
            | Self::ShowTables { .. }
            | Self::ShowColumns { .. }
            | Self::ShowCreate { .. }
            | Self::ShowPartitions { .. }
            | Self::ShowProperties { .. }
            | Self::Repair { .. }
            | Self::ShowSettings { .. }
            | Self::ShowSnapshots
            | Self::ShowTags
            | Self::ShowBlocks { .. }
            | Self::Describe(_) => None,
            Self::System(_) => Some("SYSTEM"),
            Self::CreateSchema { .. } => Some("CREATE SCHEMA"),
            Self::DropSchema { .. } => Some("DROP SCHEMA"),
            Self::CreateTable(_) | Self::CreateTableAs(_) | Self::CreateTableLike { .. } => {
                Some("CREATE TABLE")
            }
            Self::AlterTable(_) => Some("ALTER TABLE"),
            Self::AlterView(_) => Some("ALTER VIEW"),
            Self::Comment(_) => Some("COMMENT"),
            Self::CreateExternal(_) => Some("CREATE EXTERNAL TABLE"),
            Self::CreateView(_) => Some("CREATE VIEW"),
            Self::DropTable { .. } => Some("DROP TABLE"),
            Self::DropView { .. } => Some("DROP VIEW"),
            Self::Insert(_) => Some("INSERT"),
            Self::Update(_) => Some("UPDATE"),
            Self::Delete(_) => Some("DELETE"),
            Self::Merge(_) => Some("MERGE"),
            Self::Truncate(_) => Some("TRUNCATE"),
            Self::CopyInto(_) | Self::CopyTo(_) => Some("COPY"),
            Self::Optimize(_) => Some("OPTIMIZE"),
            Self::Analyze { .. } => Some("ANALYZE"),
            Self::Restore { .. } => Some("RESTORE TABLE"),
            Self::Expire { .. } => Some("EXPIRE SNAPSHOTS"),
            Self::Vacuum { .. } => Some("VACUUM"),
            Self::CreateTag { .. } => Some("CREATE TAG"),
            Self::DropTag { .. } => Some("DROP TAG"),
            Self::Kill { .. } => Some("KILL QUERY"),
            Self::Set { .. } => Some("SET"),
            Self::Begin { .. } => Some("BEGIN"),
            Self::Commit => Some("COMMIT"),
            Self::Rollback => Some("ROLLBACK"),
        }
    }

    /// Whether it changes the catalog.
    pub fn writes(&self) -> bool {
        match self {
            Self::Set { .. }
            | Self::Kill { .. }
            | Self::System(_)
            | Self::Begin { .. }
            | Self::Commit
            | Self::Rollback
            | Self::CopyTo(_) => false,
            other => other.tag().is_some(),
        }
    }
}
