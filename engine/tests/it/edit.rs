//! Statements that change rows: what is read, how rows are told apart, what parameters are.

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use arrow::record_batch::RecordBatch;
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::{ExecutionPlan, collect, displayable};
use datafusion_proto::bytes::{
    physical_plan_from_bytes_with_extension_codec, physical_plan_to_bytes_with_extension_codec,
};
use object_store::path::Path;
use skep_catalog::{Change, CommitInfo, NewFile};
use skep_engine::codec::Codec;
use skep_engine::sql::parse_one;
use skep_engine::write::{
    Moved, Spread, WriteTarget, changed_rows, collect_report, plan_write, report_schema,
};
use skep_engine::{Edit, Planner};

use crate::fixture::Fixture;

/// The session with scans that are cut into so many pieces however small they are.
fn cutting(planner: &Planner, partitions: usize) -> SessionState {
    let mut builder = SessionStateBuilder::new_from_existing(planner.state().clone());
    let options = builder.config().get_or_insert_default().options_mut();
    options.optimizer.repartition_file_min_size = 0;
    options.execution.target_partitions = partitions;
    builder.build()
}

async fn physical(state: &SessionState, plan: &LogicalPlan) -> Arc<dyn ExecutionPlan> {
    state.create_physical_plan(plan).await.unwrap()
}

fn text(plan: &Arc<dyn ExecutionPlan>) -> String {
    displayable(plan.as_ref()).indent(true).to_string()
}

async fn edit(planner: &Planner, sql: &str) -> Edit {
    planner.edit(&parse_one(sql).unwrap().statement).await.unwrap().unwrap()
}

/// Runs a write of `plan` and gives its files and how many rows it changed.
async fn write(
    fixture: &Fixture,
    state: &SessionState,
    plan: Arc<dyn ExecutionPlan>,
    edit_of: &str,
    moved: Option<Moved>,
) -> (Vec<NewFile>, u64) {
    let table = Arc::clone(fixture.snapshot().await.table("main", edit_of).unwrap());
    let folder = Path::from_absolute_path(fixture.path("data")).unwrap();
    let store = datafusion::execution::object_store::ObjectStoreUrl::local_filesystem();
    let folder: Path = folder.parts().chain(Path::from(table.path.as_str()).parts()).collect();
    let mut target = WriteTarget::new(&store, &folder, table.columns.clone());
    target.moved = moved;
    let one = NonZeroUsize::MIN;
    let write =
        plan_write(plan, Arc::new(target), Spread { tasks: one, partitions: one, deal: false }).unwrap();
    let report = collect(write, state.task_ctx()).await.unwrap();
    assert!(report.iter().all(|batch| batch.schema() == report_schema()));
    (collect_report(&report).unwrap(), changed_rows(&report))
}

async fn commit(fixture: &Fixture, changes: Vec<Change>) {
    let transaction = fixture.environment.catalog.begin(fixture.snapshot().await, CommitInfo::anonymous());
    transaction.apply(changes).unwrap();
    transaction.commit().await.unwrap();
}

/// A table `t` of one file with several row groups: `id` from 0 on, in order.
async fn table(fixture: &Fixture, rows: usize) {
    fixture.run("CREATE TABLE t (id BIGINT, name VARCHAR)").await.unwrap();
    let planner = fixture.planner().await;
    let sql = format!("SELECT value, 'name ' || value FROM generate_series(0, {}) AS g(value)", rows - 1);
    let plan = planner.logical(&skep_engine::sql::parse_query(&sql).unwrap()).await.unwrap();
    // In order.
    let state = cutting(&planner, 1);
    let plan = physical(&state, &plan).await;
    let (files, _) = write(fixture, &state, plan, "t", None).await;
    let id = fixture.snapshot().await.table("main", "t").unwrap().id;
    commit(fixture, vec![Change::Append { table: id, files }]).await;
}

fn numbers(batches: &[RecordBatch], column: &str) -> Vec<i64> {
    let columns = batches.iter().map(|batch| batch.column_by_name(column).unwrap());
    columns.flat_map(|column| column.as_primitive::<Int64Type>().values().to_vec()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_numbered_from_the_start_of_their_file_however_scans_are_cut() {
    let fixture = Fixture::new().await;
    table(&fixture, 600_000).await;
    let planner = fixture.planner().await;
    let state = cutting(&planner, 4);
    let query = skep_engine::sql::parse_query("SELECT name FROM t WHERE id > 5").unwrap();
    let plain = text(&physical(&state, &planner.logical(&query).await.unwrap()).await);
    assert!(plain.contains("4 groups"), "an ordinary scan is cut: {plain}");

    for sql in [
        "DELETE FROM t WHERE id % 3 = 0",
        "DELETE FROM t WHERE id IN (SELECT max(id) FROM t)",
        "UPDATE t SET name = upper(name) WHERE id >= 599990",
    ] {
        let edit = edit(&planner, sql).await;
        let all: HashSet<i64> = edit.files().iter().map(|file| file.id).collect();
        assert_eq!(all.len(), 1);
        let plan = physical(&state, &edit.rewrite(all).unwrap()).await;
        let shown = text(&plan);
        assert!(shown.contains("RowsExec"), "{shown}");
        for line in shown.lines().filter(|line| line.contains("__skep_rows")) {
            assert!(line.contains("1 group") && !line.contains("predicate"), "{shown}");
        }
        // As it was planned, and as it comes out of the wire.
        let codec = Codec::new();
        let bytes = physical_plan_to_bytes_with_extension_codec(Arc::clone(&plan), &codec).unwrap();
        let back = physical_plan_from_bytes_with_extension_codec(&bytes, &state.task_ctx(), &codec).unwrap();
        for plan in [plan, back] {
            let rows = collect(plan, state.task_ctx()).await.unwrap();
            let (ids, row_ids) = (numbers(&rows, "id"), numbers(&rows, "__skep_row_id"));
            assert!(ids == row_ids, "the rows of the first file have their place as id");
            assert!(ids.len() >= 399_999, "{sql}");
        }
    }
}

/// Rows that were moved keep their ids when they are moved again, whatever their place is.
#[tokio::test(flavor = "multi_thread")]
async fn moved_rows_keep_their_ids() {
    let fixture = Fixture::new().await;
    table(&fixture, 1000).await;
    for (sql, kept, changed) in [
        ("DELETE FROM t WHERE id % 2 = 0", 500, 0),
        ("UPDATE t SET name = 'x' WHERE id < 100", 500, 50),
        ("DELETE FROM t WHERE id IN (SELECT id + 2 FROM t WHERE id < 10)", 495, 0),
        (
            "UPDATE t SET name = s.name FROM (SELECT id + 4 AS id, name FROM t) AS s WHERE s.id = t.id",
            495,
            492,
        ),
    ] {
        let planner = fixture.planner().await;
        let state = cutting(&planner, 4);
        let edit = edit(&planner, sql).await;
        let all: HashSet<i64> = edit.files().iter().map(|file| file.id).collect();
        assert!(edit.files().iter().all(|file| Moved::from(file.as_ref()) == Moved::WithIds));
        let plan = physical(&state, &edit.rewrite(all.clone()).unwrap()).await;
        let (files, count) = write(&fixture, &state, plan, "t", Some(Moved::WithIds)).await;
        assert_eq!((files.iter().map(|file| file.rows).sum::<u64>(), count), (kept, changed), "{sql}");
        assert!(files.iter().all(|file| file.moved && file.stats.len() == 2), "no statistics of row ids");
        let table = edit.table().id;
        let gone = all.into_iter().collect();
        commit(&fixture, vec![Change::RemoveFiles { table, files: gone }, Change::Append { table, files }])
            .await;
    }
    let planner = fixture.planner().await;
    let edit = edit(&planner, "DELETE FROM t WHERE id < 0").await;
    let all: HashSet<i64> = edit.files().iter().map(|file| file.id).collect();
    let plan = physical(planner.state(), &edit.rewrite(all).unwrap()).await;
    let rows = collect(plan, planner.state().task_ctx()).await.unwrap();
    assert!(numbers(&rows, "id") == numbers(&rows, "__skep_row_id"));
    assert_eq!(rows.iter().map(RecordBatch::num_rows).sum::<usize>(), 495);
    // Queries do not see the column.
    let answer = fixture.run("SELECT * FROM t WHERE id = 999").await.unwrap();
    assert_eq!(answer.rows.len(), 1);
    assert_eq!(answer.rows[0].len(), 2);
}

/// Files without touched rows are not read by the second pass; those that statistics rule out, not by the first.
#[tokio::test]
async fn the_first_pass_skips_files_and_reads_only_what_it_asks_for() {
    let fixture = Fixture::new().await;
    fixture.run("CREATE TABLE t (id BIGINT, name VARCHAR)").await.unwrap();
    for part in 0..4 {
        let insert =
            format!("INSERT INTO t SELECT value + {part}00, 'x' FROM generate_series(0, 9) AS g(value)");
        fixture.run(&insert).await.unwrap();
    }
    let planner = fixture.planner().await;
    let edit = edit(&planner, "UPDATE t SET name = 'y' WHERE id BETWEEN 105 AND 203").await;
    let found = fixture.collect(&planner, &edit.find().unwrap().unwrap()).await.unwrap();
    let mut counts: Vec<Vec<String>> = found.rows.iter().map(|row| row[1..].to_vec()).collect();
    counts.sort();
    assert_eq!(counts, [["4", "0", "1"], ["5", "0", "1"]]);
    let report = &found.reports[0];
    assert_eq!((report.files_kept, report.files_total), (2, 4));
    let shown = text(&found.plan);
    assert!(!shown.contains("RowsExec") && shown.contains("projection=[id, __skep_file"), "{shown}");
    let touched: HashSet<i64> = found.rows.iter().map(|row| row[0].parse().unwrap()).collect();
    let rewritten = fixture.collect(&planner, &edit.rewrite(touched).unwrap()).await.unwrap();
    assert_eq!(rewritten.rows.len(), 20);
}

#[tokio::test]
async fn parameters_have_the_types_of_their_places() {
    let fixture = Fixture::new().await;
    fixture.run("CREATE TABLE t (id INT, name VARCHAR, score DOUBLE, day DATE)").await.unwrap();
    fixture.run("CREATE TABLE s (id INT, name VARCHAR)").await.unwrap();
    let planner = fixture.planner().await;
    let mut lines = Vec::new();
    for sql in [
        "UPDATE t SET name = $1, score = $2, day = $3 WHERE id = $4",
        "UPDATE t SET score = score + $1 WHERE name IN (SELECT name FROM s WHERE id = $2)",
        "UPDATE t SET name = $2 FROM s WHERE s.id = t.id AND s.name = $1",
        "DELETE FROM t WHERE score > $1 AND day = $2",
        "DELETE FROM t USING s WHERE s.id = t.id AND s.name = $1",
        "MERGE INTO t USING s ON t.id = s.id AND s.name = $1 WHEN MATCHED THEN UPDATE SET day = $2 \
         WHEN NOT MATCHED THEN INSERT (id, score) VALUES (s.id, $3)",
        "TRUNCATE t",
    ] {
        let parameters = edit(&planner, sql).await.parameters().unwrap();
        let shown = parameters.fields().iter().map(|field| format!("{} {}", field.name(), field.data_type()));
        lines.push(shown.collect::<Vec<_>>().join(", "));
    }
    insta::assert_snapshot!(lines.join("\n"), @"
    $1 Utf8, $2 Float64, $3 Date32, $4 Int32
    $1 Float64, $2 Int32
    $1 Utf8, $2 Utf8
    $1 Float64, $2 Date32
    $1 Utf8
    $1 Utf8, $2 Date32, $3 Float64
    ");
}
