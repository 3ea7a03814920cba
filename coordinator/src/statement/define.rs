//! CREATE and DROP without rows, and SET.

use std::collections::HashSet;
use std::sync::Arc;

use datafusion::sql::sqlparser::ast::TableVersion;
use futures::StreamExt;
use object_store::ObjectStore;
use skep_catalog::{Change, FILE_PREFIX, Snapshot, TableDef};
use skep_common::{Error, Kind, Position, Result};
use skep_engine::Statement;
use skep_engine::names::within;
use skep_engine::planner::Noted;
use skep_engine::sql::{CreateExternal, CreateTable, CreateView, Name};
use skep_store::SKEP_URL;
use skep_store::probe::Race;

use super::{Run, ddl};
use crate::commit::autocommit;
use crate::coordinator::DataRoot;
use crate::session::Outcome;

impl Run {
    /// A statement that changes names only.
    pub(super) async fn define(self, statement: Statement) -> Result<Outcome> {
        let tag = statement.tag().unwrap_or("OK");
        let catalog = &self.shared.environment.catalog;
        let (author, schema) = (self.author(), self.settings.schema());
        match statement {
            Statement::CreateSchema { name, if_not_exists } => {
                autocommit(catalog, &author, |base| ddl::create_schema(base, &name, if_not_exists)).await?;
            }
            Statement::DropSchema { name, if_exists, cascade } => {
                autocommit(catalog, &author, |base| ddl::drop_schema(base, &name, if_exists, cascade))
                    .await?;
            }
            Statement::DropTable { names, if_exists } => {
                autocommit(catalog, &author, |base| ddl::drop_named(base, schema, &names, if_exists, false))
                    .await?;
            }
            Statement::DropView { names, if_exists } => {
                autocommit(catalog, &author, |base| ddl::drop_named(base, schema, &names, if_exists, true))
                    .await?;
            }
            Statement::CreateTable(create) => self.create_table(&create).await?,
            Statement::CreateTableLike { name, if_not_exists, or_replace, like } => {
                self.create_like(&name, &like, if_not_exists, or_replace).await?;
            }
            Statement::AlterTable(alter) | Statement::Comment(alter) => self.alter_table(&alter).await?,
            Statement::AlterView(alter) => self.alter_view(&alter).await?,
            Statement::CreateView(create) => self.create_view(&create).await?,
            Statement::CreateExternal(create) => self.create_external(&create).await?,
            Statement::CreateTag { name, or_replace, version } => {
                self.create_tag(&name, or_replace, version.as_deref()).await?;
            }
            Statement::DropTag { name, if_exists } => {
                if !catalog.untag(&name).await? && !if_exists {
                    return Err(
                        Error::not_found(format!("tag '{name}' does not exist")).hint("SHOW TAGS lists them")
                    );
                }
            }
            other => return Err(Error::internal(format!("{other:?} does not define anything"))),
        }
        Ok(self.done(tag, None))
    }

    async fn create_table(&self, create: &CreateTable) -> Result<()> {
        let base = self.snapshot().await?;
        let planner = self.planner(Arc::clone(&base)).await?;
        let columns = planner.create_table(create).await?;
        let noted = planner.noted(&columns, &create.clauses)?;
        self.check_location(&noted, &base, &create.name).await?;
        let schema = create.name.schema_or(self.settings.schema());
        autocommit(&self.shared.environment.catalog, &self.author(), |base| {
            let room =
                ddl::make_room(base, schema, &create.name, create.if_not_exists, create.or_replace, false)?;
            Ok(room.map_or_else(Vec::new, |mut changes| {
                let id = base.fresh_id();
                changes.push(Change::CreateTable {
                    id,
                    schema: schema.to_owned(),
                    name: create.name.name.clone(),
                    columns: columns.clone(),
                    comment: create.comment.clone(),
                });
                changes.extend(noted.changes(id));
                changes
            }))
        })
        .await?;
        Ok(())
    }

    /// Refuses to keep table `name` where others cannot be kept out: in a store that does not create files exclusively, and
    /// among the files of another table, or of another warehouse, which would take ours for nobody's.
    pub(super) async fn check_location(&self, noted: &Noted, base: &Snapshot, name: &Name) -> Result<()> {
        let Some(location) = &noted.location else { return Ok(()) };
        let own = |table: &TableDef| {
            table.schema_name == name.schema_or(self.settings.schema()) && table.name == name.name
        };
        let taken = base.located().find(|table| !own(table) && within(&table.path, location));
        if let Some(TableDef { schema_name, name, path, .. }) = taken.map(AsRef::as_ref) {
            return Err(Error::already_exists(format!("table '{schema_name}.{name}' is at '{path}'"))
                .hint("take a folder of its own for each table"));
        }
        let DataRoot { store, folder } = DataRoot::parse(location)?;
        let environment = &self.shared.environment;
        if store.as_str().trim_end_matches('/') != SKEP_URL {
            // The block store creates exclusively by construction.
            environment.stores.check_managed(store.as_ref(), &folder, Race::default()).await?;
        }
        let name = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
        let known = environment.catalog.known_files().await?;
        let known: HashSet<String> = known.iter().map(|path| name(path)).collect();
        let mut listing = self.shared.store(&store)?.list(Some(&folder));
        while let Some(file) = listing.next().await {
            let file =
                file.map_err(|e| Error::unavailable(format!("cannot list '{location}'")).source(e))?.location;
            let name = name(file.as_ref());
            if name.starts_with(FILE_PREFIX) && !known.contains(&name) {
                return Err(Error::invalid(format!(
                    "'{location}' holds files of another warehouse, as '{file}'"
                ))
                .hint("take an empty folder; CREATE EXTERNAL TABLE reads files that others keep"));
            }
        }
        Ok(())
    }

    async fn create_view(&self, create: &CreateView) -> Result<()> {
        // Planned once, so that a view that cannot be read is never made.
        let planner = self.planner(self.snapshot().await?).await?;
        let view = planner.create_view(create).await?;
        let schema = create.name.schema_or(self.settings.schema());
        autocommit(&self.shared.environment.catalog, &self.author(), |base| {
            let room =
                ddl::make_room(base, schema, &create.name, create.if_not_exists, create.or_replace, true)?;
            Ok(room.map_or_else(Vec::new, |mut changes| {
                let view_id = base.fresh_id();
                changes.push(Change::PutView {
                    schema: schema.to_owned(),
                    name: create.name.name.clone(),
                    sql: view.sql.clone(),
                    column_aliases: view.columns.clone(),
                    or_replace: create.or_replace,
                });
                if create.comment.is_some() {
                    changes.push(Change::CommentView { view: view_id, comment: create.comment.clone() });
                }
                changes
            }))
        })
        .await?;
        Ok(())
    }

    async fn create_external(&self, create: &CreateExternal) -> Result<()> {
        let planner = self.planner(self.snapshot().await?).await?;
        let (columns, external) = planner.create_external(create).await?;
        let schema = create.name.schema_or(self.settings.schema());
        autocommit(&self.shared.environment.catalog, &self.author(), |base| {
            let room =
                ddl::make_room(base, schema, &create.name, create.if_not_exists, create.or_replace, false)?;
            Ok(room.map_or_else(Vec::new, |mut changes| {
                changes.push(Change::PutExternal {
                    schema: schema.to_owned(),
                    name: create.name.name.clone(),
                    columns: columns.clone(),
                    external: external.clone(),
                    comment: create.comment.clone(),
                    or_replace: false,
                });
                changes
            }))
        })
        .await?;
        Ok(())
    }

    /// Names a snapshot that was committed, at once: tags are no part of transactions.
    async fn create_tag(&self, name: &str, or_replace: bool, version: Option<&TableVersion>) -> Result<()> {
        let catalog = &self.shared.environment.catalog;
        let snapshot = match version {
            Some(version) => self.planner(self.snapshot().await?).await?.snapshot_of(version).await?,
            None => catalog.snapshot().await?,
        };
        catalog.tag(name, snapshot.id, or_replace).await
    }

    /// `SET`, for the rest of the session. `at` are the places of the name and of the value.
    pub(super) async fn set(
        &self,
        name: &str,
        value: Option<&str>,
        at: (Position, Position),
    ) -> Result<Outcome> {
        let mut wanted = self.settings.clone();
        wanted.set(name, value).map_err(|e| match e.kind() {
            Kind::NotFound => e.at(at.0),
            _ => e.at(at.1),
        })?;
        if wanted.schema() != self.settings.schema() {
            ddl::require_schema(&*self.snapshot().await?, wanted.schema(), None).map_err(|e| e.at(at.1))?;
        }
        self.shared.admission.group(wanted.group()).map_err(|e| e.at(at.1))?;
        self.session.settings.lock().set(name, value)?;
        Ok(self.done("SET", None))
    }
}
