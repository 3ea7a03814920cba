//! Writes through the lanes: files, statistics, completions, and nothing left behind by a write that was cut short.

use std::collections::BTreeSet;
use std::path::Path as Folder;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, UInt64Type};
use datafusion::execution::object_store::ObjectStoreUrl;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use parquet::arrow::PARQUET_FIELD_ID_META_KEY;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use skep_catalog::{NewFile, columns_from_arrow};
use skep_cluster::failure::from_datafusion;
use skep_common::ByteSize;
use skep_coordinator::lanes::{Lane, Ran};
use skep_engine::write::{WriteTarget, collect_report};
use skep_testkit::workers::{Cluster, until};
use skep_testkit::{rows, tpch};

fn target(folder: &Folder, schema: &Schema) -> WriteTarget {
    let columns = columns_from_arrow(schema).unwrap();
    WriteTarget::new(&ObjectStoreUrl::local_filesystem(), &Path::from_absolute_path(folder).unwrap(), columns)
}

async fn write(
    cluster: &Cluster,
    sql: &str,
    target: WriteTarget,
    lane: Lane,
) -> skep_common::Result<(Vec<NewFile>, Vec<RecordBatch>, Ran)> {
    let job = cluster.write(sql, target, Some(lane)).await?;
    let running = cluster.lanes.run(job).await?;
    let report: Vec<RecordBatch> = running.stream.try_collect().await.map_err(|e| from_datafusion(&e))?;
    Ok((collect_report(&report)?, report, running.ran))
}

fn names(folder: &Folder) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Which tasks of the write had rows to write.
fn writers(report: &[RecordBatch]) -> BTreeSet<u64> {
    let mut writers = BTreeSet::new();
    for batch in report {
        let (task, rows) =
            (batch.column(0).as_primitive::<UInt64Type>(), batch.column(4).as_primitive::<UInt64Type>());
        writers.extend((0..batch.num_rows()).filter(|&row| rows.value(row) > 0).map(|row| task.value(row)));
    }
    writers
}

async fn schema(cluster: &Cluster, sql: &str) -> Schema {
    cluster.context.sql(sql).await.unwrap().schema().as_arrow().clone()
}

/// The files hold the rows of the query, whoever wrote them, with names, ids and statistics for the catalog.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_reports_every_file() {
    let data = tempfile::tempdir().unwrap();
    tpch::generate(data.path(), 0.01).unwrap();
    let cluster = Cluster::start(3, Vec::new()).unwrap();
    for (table, _) in tpch::TABLES {
        cluster.table(table, &data.path().join(table)).await.unwrap();
    }
    for (i, (sql, spreads)) in [
        ("SELECT o_orderkey, o_custkey, o_totalprice, o_orderdate, o_comment FROM orders", true),
        ("SELECT o_custkey, count(*) AS c, sum(o_totalprice) AS s FROM orders GROUP BY o_custkey", true),
        ("SELECT o_orderkey FROM orders ORDER BY o_orderkey LIMIT 500", true),
        ("SELECT n_name, r_name FROM nation JOIN region ON n_regionkey = r_regionkey", false),
        ("SELECT o_orderkey FROM orders WHERE o_orderkey < 0", false),
        ("SELECT * FROM (VALUES (1, 'one'), (2, 'two'), (3, NULL)) AS t(a, b)", false),
    ]
    .into_iter()
    .enumerate()
    {
        for lane in [Lane::Local, Lane::Pipelined, Lane::Durable] {
            let folder = data.path().join(format!("out-{i}-{}", lane.name()));
            std::fs::create_dir(&folder).unwrap();
            let target = target(&folder, &schema(&cluster, sql).await);
            let columns = target.columns.clone();
            let (files, report, ran) =
                write(&cluster, sql, target, lane).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
            assert_eq!(names(&folder), files.iter().map(|f| f.path.clone()).collect(), "{sql}");
            if lane != Lane::Local && spreads {
                assert_eq!(ran.lane(), Some(lane), "{sql}: {:?}", ran.fallback());
                // The durable lane writes few rows with one writer.
                let least = if lane == Lane::Durable { 1 } else { 3 };
                assert!(writers(&report).len() >= least, "{sql}: {}", ran.summary());
                assert!(files.len() <= 6, "{sql}: {} files", files.len());
            }
            let (expected, _) = crate::lanes_rows::run(&cluster, sql, Lane::Local).await.unwrap();
            let mut written = Vec::new();
            for file in &files {
                let path = folder.join(&file.path);
                assert!(file.path.starts_with("skep-") && file.path.ends_with(".parquet"), "{}", file.path);
                assert_eq!(std::fs::metadata(&path).unwrap().len(), file.bytes);
                assert_eq!(file.stats.len(), skep_catalog::leaves(&columns).len());
                let reader =
                    ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(&path).unwrap()).unwrap();
                let (fields, rows) =
                    (reader.schema().fields().clone(), reader.metadata().file_metadata().num_rows());
                assert_eq!(u64::try_from(rows).unwrap(), file.rows);
                for (field, column) in fields.iter().zip(&columns) {
                    assert_eq!(field.name(), &column.physical);
                    assert_eq!(field.metadata()[PARQUET_FIELD_ID_META_KEY], column.id.to_string());
                }
                for stats in &file.stats {
                    assert_eq!(stats.values + stats.nulls, file.rows);
                }
                written.extend(reader.build().unwrap().map(|batch| batch.unwrap()));
            }
            let difference =
                rows::difference(&rows::text(&expected).unwrap(), &rows::text(&written).unwrap(), 0.0);
            assert_eq!(difference, None, "{sql}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_file_is_followed_by_another() {
    let data = tempfile::tempdir().unwrap();
    tpch::generate(data.path(), 0.01).unwrap();
    let cluster = Cluster::start(2, Vec::new()).unwrap();
    cluster.table("lineitem", &data.path().join("lineitem")).await.unwrap();
    let folder = data.path().join("out");
    std::fs::create_dir(&folder).unwrap();
    let mut target = target(&folder, &schema(&cluster, "SELECT * FROM lineitem").await);
    target.file_size = ByteSize(200 << 10);
    let (files, _, _) = write(&cluster, "SELECT * FROM lineitem", target, Lane::Pipelined).await.unwrap();
    assert!(files.len() > 4, "{} files", files.len());
    assert_eq!(files.iter().map(|f| f.rows).sum::<u64>(), 60175);
}

/// Neither files nor parts of uploads are left by a write that nobody waits for or that fails.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_cut_short_leaves_nothing() {
    let data = tempfile::tempdir().unwrap();
    tpch::generate(data.path(), 0.01).unwrap();
    let cluster = Cluster::start(3, Vec::new()).unwrap();
    cluster.table("lineitem", &data.path().join("lineitem")).await.unwrap();
    let folder = data.path().join("out");
    std::fs::create_dir(&folder).unwrap();
    let sql = "SELECT a.l_comment || b.l_comment AS c, a.l_orderkey + b.l_orderkey AS k FROM lineitem a CROSS JOIN lineitem b";
    let mut small = target(&folder, &schema(&cluster, sql).await);
    small.file_size = ByteSize(64 << 10);
    for lane in [Lane::Pipelined, Lane::Local] {
        let job = cluster.write(sql, small.clone(), Some(lane)).await.unwrap();
        let mut running = cluster.lanes.run(job).await.unwrap();
        let waiting = skep_common::task::spawn("write", async move { running.stream.next().await.is_some() });
        until("files appear", || names(&folder).len() > 3).await;
        drop(waiting);
        until("nothing runs", || cluster.running() == 0).await;
        until("nothing is left", || names(&folder).is_empty()).await;
    }
    let failing = "SELECT CASE WHEN l_orderkey > 59000 THEN 1 / (l_orderkey - l_orderkey) ELSE l_orderkey END AS k FROM lineitem";
    let mut small = target(&folder, &schema(&cluster, failing).await);
    small.file_size = ByteSize(4 << 10);
    write(&cluster, failing, small, Lane::Pipelined).await.map(drop).unwrap_err();
    until("nothing runs", || cluster.running() == 0).await;
}

/// Rows that do not fit the table are refused, and the place is named.
#[tokio::test(flavor = "multi_thread")]
async fn columns_match_by_position() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(0, Vec::new()).unwrap();
    let schema = Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("place", DataType::Struct(vec![Field::new("x", DataType::Int64, true)].into()), true),
    ]);
    let sql = "SELECT 7, named_struct('other_name', 3)";
    let (files, _, _) = write(&cluster, sql, target(folder.path(), &schema), Lane::Local).await.unwrap();
    let file = std::fs::File::open(folder.path().join(&files[0].path)).unwrap();
    let batch =
        ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap().next().unwrap().unwrap();
    let place = batch.column(1).as_struct();
    assert_eq!(place.column(0).as_primitive::<Int64Type>().value(0), 3);
    assert_eq!(place.fields()[0].name(), "x");
    let null = "SELECT CAST(NULL AS BIGINT), named_struct('x', 3)";
    let error =
        write(&cluster, null, target(folder.path(), &schema), Lane::Local).await.map(drop).unwrap_err();
    assert_eq!(error.kind(), skep_common::Kind::Invalid, "{error:?}");
}
