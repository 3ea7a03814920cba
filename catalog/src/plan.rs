//! What a transaction amounts to: the differences between its base and what it made of it.
//!
//! What came and went inside the transaction leaves no trace. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::changes::Token;
use crate::model::{SchemaDef, Snapshot, TableDef, ViewDef};
use crate::overlay::Staged;

/// The differences, each in the order of ids: what was made first comes first.
#[derive(Debug, Default)]
pub(crate) struct Plan<'a> {
    pub(crate) dropped_schemas: Vec<&'a SchemaDef>,
    pub(crate) dropped_tables: Vec<&'a Arc<TableDef>>,
    pub(crate) dropped_views: Vec<&'a ViewDef>,
    pub(crate) created_schemas: Vec<&'a SchemaDef>,
    pub(crate) created_tables: Vec<&'a Arc<TableDef>>,
    pub(crate) created_views: Vec<&'a ViewDef>,
    /// Before and after.
    pub(crate) altered: Vec<(&'a TableDef, &'a TableDef)>,
    /// Views of the base with another comment.
    pub(crate) altered_views: Vec<&'a ViewDef>,
    /// By table, which the plan may create.
    pub(crate) rows: BTreeMap<i64, (&'a TableDef, &'a Staged)>,
    tokens: Vec<Token>,
}

impl<'a> Plan<'a> {
    /// What turns `base` into `target`, which lies over it.
    pub(crate) fn new(base: &'a Snapshot, target: &'a Snapshot) -> Self {
        let mut plan = Plan::default();
        let Some(overlay) = &target.overlay else { return plan };
        plan.schemas(base, target);
        plan.views(base, target);
        for table in base.by_id.values() {
            match target.by_id.get(&table.id) {
                None => plan.dropped_tables.push(table),
                Some(after) if !same_definition(table, after) => plan.altered.push((table, after)),
                Some(_) => {}
            }
        }
        plan.created_tables.extend(target.by_id.values().filter(|table| table.id < 0));
        for (id, staged) in &overlay.rows {
            if let Some(table) = target.by_id.get(id) {
                plan.rows.insert(*id, (table, staged));
            }
        }
        plan.dropped_tables.sort_by_key(|table| table.id);
        plan.created_tables.sort_by_key(|table| -table.id);
        plan.altered.sort_by_key(|(table, _)| table.id);
        plan.tokens = plan.tokens_of();
        plan
    }

    fn schemas(&mut self, base: &'a Snapshot, target: &'a Snapshot) {
        let kept = |schema: &SchemaDef| target.schemas().any(|other| other.id == schema.id);
        self.dropped_schemas.extend(base.schemas().filter(|schema| !kept(schema)));
        self.created_schemas.extend(target.schemas().filter(|schema| schema.id < 0));
        self.created_schemas.sort_by_key(|schema| -schema.id);
    }

    fn views(&mut self, base: &'a Snapshot, target: &'a Snapshot) {
        let kept = |view: &ViewDef| target.views.values().any(|other| other.id == view.id);
        self.dropped_views.extend(base.views.values().filter(|view| !kept(view)));
        self.created_views.extend(target.views.values().filter(|view| view.id < 0));
        self.created_views.sort_by_key(|view| -view.id);
        let base: BTreeMap<i64, &ViewDef> = base.views.values().map(|view| (view.id, view)).collect();
        let other = |view: &&ViewDef| base.get(&view.id).is_some_and(|old| old.comment != view.comment);
        self.altered_views.extend(target.views.values().filter(other));
        self.altered_views.sort_by_key(|view| view.id);
    }

    /// Nothing would change.
    pub(crate) fn is_empty(&self) -> bool {
        !self.changes_schema() && self.rows.is_empty()
    }

    /// Whether a name or a column changes.
    pub(crate) fn changes_schema(&self) -> bool {
        !(self.dropped_schemas.is_empty()
            && self.dropped_tables.is_empty()
            && self.dropped_views.is_empty()
            && self.created_schemas.is_empty()
            && self.created_tables.is_empty()
            && self.created_views.is_empty()
            && self.altered.is_empty()
            && self.altered_views.is_empty())
    }

    /// What the transaction does, as far as other commits can get in its way. External tables count as tables here,
    /// though no token of theirs is written.
    pub(crate) fn tokens_on_base(&self) -> &[Token] {
        &self.tokens
    }

    fn tokens_of(&self) -> Vec<Token> {
        let table = |table: &TableDef| Token::CreatedTable(table.schema_name.clone(), table.name.clone());
        let view = |view: &ViewDef| Token::CreatedView(view.schema_name.clone(), view.name.clone());
        let mut tokens = Vec::new();
        tokens.extend(self.dropped_schemas.iter().map(|schema| Token::DroppedSchema(schema.id)));
        let dropped = self.dropped_tables.iter().filter(|table| table.external.is_none());
        tokens.extend(dropped.map(|table| Token::DroppedTable(table.id)));
        tokens.extend(self.dropped_views.iter().map(|view| Token::DroppedView(view.id)));
        tokens.extend(self.created_schemas.iter().map(|schema| Token::CreatedSchema(schema.name.clone())));
        tokens.extend(self.created_tables.iter().map(|created| table(created)));
        tokens.extend(self.created_views.iter().map(|created| view(created)));
        tokens.extend(self.altered_views.iter().map(|view| Token::AlteredView(view.id)));
        for (before, after) in &self.altered {
            if (&before.schema_name, &before.name) != (&after.schema_name, &after.name) {
                tokens.push(table(after));
            }
            if before.external.is_none() {
                tokens.push(Token::AlteredTable(before.id));
            }
        }
        for (&id, (_, staged)) in self.rows.iter().filter(|(id, _)| **id >= 0) {
            if staged.compacted {
                tokens.push(Token::RewriteDelete(id));
                continue;
            }
            if !staged.added.is_empty() {
                tokens.push(Token::InsertedIntoTable(id));
            }
            if staged.deletes() {
                tokens.push(Token::DeletedFromTable(id));
            }
        }
        tokens
    }
}

/// Whether two states of a table differ at most in their rows.
fn same_definition(a: &TableDef, b: &TableDef) -> bool {
    let rest = |table: &TableDef| TableDef { record_count: 0, bytes: 0, ..table.clone() };
    std::ptr::eq(a, b) || rest(a) == rest(b)
}
