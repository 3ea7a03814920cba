//! Random histories against a model: every snapshot shows what the model says, now and when it is read again later.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use proptest::prelude::*;
use skep_catalog::{Change, ColumnStats, NewFile, Snapshot, TableDef, columns_from_arrow};
use skep_common::Kind;

use crate::lake::Lake;

/// One commit, on a base that may be some commits old.
#[derive(Debug, Clone)]
struct Step {
    age: usize,
    op: Op,
}

#[derive(Debug, Clone)]
enum Op {
    Create { table: u8, files: u8 },
    Append { table: u8, files: u8, at: i64, values: bool },
    Replace { table: u8, keep: u8 },
    Drop { table: u8 },
    Recreate { table: u8 },
    Comment { table: u8 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let table = || 0u8..3;
    let op = prop_oneof![
        3 => (table(), 0u8..3).prop_map(|(table, files)| Op::Create { table, files }),
        6 => (table(), 0u8..4, -1000i64..1000, any::<bool>())
            .prop_map(|(table, files, at, values)| Op::Append { table, files, at, values }),
        3 => (table(), 0u8..3).prop_map(|(table, keep)| Op::Replace { table, keep }),
        1 => table().prop_map(|table| Op::Drop { table }),
        1 => table().prop_map(|table| Op::Recreate { table }),
        1 => table().prop_map(|table| Op::Comment { table }),
    ];
    let age = prop_oneof![3 => Just(0usize), 1 => 1usize..4];
    prop::collection::vec((age, op).prop_map(|(age, op)| Step { age, op }), 1..40)
}

/// Names of files by name of table.
type Model = BTreeMap<String, BTreeSet<String>>;

fn schema() -> Schema {
    Schema::new(vec![Field::new("i", DataType::Int64, true), Field::new("s", DataType::Utf8, true)])
}

fn file(name: String, at: i64, values: bool) -> NewFile {
    let text = |value: String| values.then_some(value);
    let stats = |column, min, max| ColumnStats {
        column,
        bytes: 10,
        values: if values { 5 } else { 0 },
        nulls: if values { 0 } else { 5 },
        min,
        max,
        nan: None,
    };
    NewFile {
        path: name,
        rows: 5,
        bytes: 100,
        footer: 50,
        partition: Vec::new(),
        stats: vec![
            stats(1, text(at.to_string()), text((at + 4).to_string())),
            stats(2, text(format!("{at}")), text(format!("{}z", at + 4))),
        ],
        moved: false,
        sketches: Vec::new(),
    }
}

/// The changes of a step on `base`, and what the model is after them. `None` if the step makes no sense there.
async fn decide(
    lake: &Lake,
    base: &Arc<Snapshot>,
    model: &Model,
    step: &Step,
    number: usize,
) -> Option<(Vec<Change>, Model)> {
    let name = |table: u8| format!("t{table}");
    let named = |n: u8| format!("skep-{number}-{n}.parquet");
    let mut after = model.clone();
    let create = |name: &str| Change::CreateTable {
        id: -1,
        schema: "lake".to_owned(),
        name: name.to_owned(),
        columns: columns_from_arrow(&schema()).unwrap(),
        comment: None,
    };
    let changes = match &step.op {
        Op::Create { table, files } => {
            let files: Vec<NewFile> = (0..*files).map(|n| file(named(n), 0, true)).collect();
            after.insert(name(*table), files.iter().map(|f| f.path.clone()).collect());
            vec![create(&name(*table)), Change::Append { table: -1, files }]
        }
        Op::Append { table, files, at, values } => {
            let id = base.table("lake", &name(*table))?.id;
            let files: Vec<NewFile> =
                (0..*files).map(|n| file(named(n), at + i64::from(n) * 100, *values)).collect();
            after.get_mut(&name(*table))?.extend(files.iter().map(|f| f.path.clone()));
            vec![Change::Append { table: id, files }]
        }
        Op::Replace { table, keep } => {
            let table = base.table("lake", &name(*table))?;
            let live = lake.catalog.files(base, table.id).await.unwrap();
            let gone: Vec<i64> = live.iter().skip(usize::from(*keep)).map(|f| f.id).collect();
            let set = after.get_mut(&table.name)?;
            for file in live.iter().skip(usize::from(*keep)) {
                set.remove(file.path.rsplit('/').next().unwrap());
            }
            let fresh = file(named(0), -5000, true);
            set.insert(fresh.path.clone());
            vec![
                Change::RemoveFiles { table: table.id, files: gone },
                Change::Append { table: table.id, files: vec![fresh] },
            ]
        }
        Op::Drop { table } => {
            after.remove(&name(*table))?;
            vec![Change::DropTable { id: base.table("lake", &name(*table))?.id }]
        }
        Op::Recreate { table } => {
            let id = base.table("lake", &name(*table))?.id;
            after.insert(name(*table), BTreeSet::new());
            vec![Change::DropTable { id }, create(&name(*table))]
        }
        Op::Comment { table } => {
            let id = base.table("lake", &name(*table))?.id;
            vec![Change::Comment { table: id, comment: Some(format!("step {number}")) }]
        }
    };
    Some((changes, after))
}

async fn shown(lake: &Lake, snapshot: &Snapshot) -> Model {
    let mut model = Model::new();
    for table in snapshot.tables("lake") {
        let files = lake.catalog.files(snapshot, table.id).await.unwrap();
        assert_eq!(files.iter().map(|f| f.rows).sum::<u64>(), table.record_count);
        let names = files.iter().map(|f| f.path.rsplit('/').next().unwrap().to_owned());
        model.insert(table.name.clone(), names.collect());
    }
    model
}

async fn run(steps: Vec<Step>) {
    let lake = Lake::new().await;
    let mut history: Vec<(i64, Model)> = vec![(0, Model::new())];
    let mut definitions = BTreeMap::new();
    for (number, step) in steps.iter().enumerate() {
        let (_, latest) = history.last().unwrap().clone();
        let base = history[history.len().saturating_sub(1 + step.age)].0;
        let base = lake.catalog.snapshot_at(base).await.unwrap();
        let Some((changes, after)) = decide(&lake, &base, &latest, step, number).await else { continue };
        match lake.commit_on(base, changes).await {
            Ok(committed) if committed.snapshot == history.last().unwrap().0 + 1 => {
                history.push((committed.snapshot, after));
            }
            Ok(_) => assert!(matches!(&step.op, Op::Append { files: 0, .. }), "{step:?} made no snapshot"),
            Err(error) => {
                let expected = match error.kind() {
                    Kind::Conflict => step.age > 0,
                    Kind::AlreadyExists => matches!(step.op, Op::Create { .. }),
                    _ => false,
                };
                assert!(expected, "{step:?}: {error:?}");
            }
        }
        let (id, model) = history.last().unwrap();
        let snapshot = lake.snapshot().await;
        assert_eq!((snapshot.id, &shown(&lake, &snapshot).await), (*id, model), "after {step:?}");
        let tables: Vec<TableDef> = snapshot.tables("lake").map(|table| table.as_ref().clone()).collect();
        definitions.insert(snapshot.id, tables);
    }
    assert_eq!(lake.catalog.check().await.unwrap(), Vec::<String>::new());
    let lake = lake.reopen().await;
    // Backwards, so that each is read whole, and not from what changed since the one before.
    for (id, model) in history.into_iter().rev() {
        let snapshot = lake.catalog.snapshot_at(id).await.unwrap();
        if let Some(tables) = definitions.get(&id) {
            assert!(snapshot.tables("lake").map(AsRef::as_ref).eq(tables), "snapshot {id}: {tables:?}");
        }
        assert_eq!(shown(&lake, &snapshot).await, model, "snapshot {id}, read again");
    }
}

/// Each is a history of its own, in a database of its own: more of them in `cargo xtask slow`.
fn cases() -> u32 {
    if std::env::var_os("SKEP_SLOW").is_some() { 400 } else { 24 }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_history_shows_what_the_model_says(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(steps));
    }
}
