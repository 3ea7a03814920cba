//! Every shape of scan and write that is planned survives the way to a worker.

use std::num::NonZeroUsize;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{ColumnStatistics, ScalarValue, Statistics, stats::Precision};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::expressions::{binary, col, lit};
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, ExecutionPlan, ExecutionPlanProperties, ReplaceChildrenOptions, displayable,
};
use datafusion::prelude::SessionContext;
use datafusion_proto::bytes::{
    physical_plan_from_bytes_with_extension_codec, physical_plan_to_bytes_with_extension_codec,
};
use object_store::path::Path;
use skep_catalog::columns_from_arrow;
use skep_engine::codec::Codec;
use skep_engine::guard::GuardExec;
use skep_engine::known::keep_known;
use skep_engine::write::{Compression, WriteExec, WriteTarget};

/// A worker's side: it knows the store.
fn context() -> Arc<datafusion::execution::TaskContext> {
    let context = SessionContext::new();
    let store = Arc::new(object_store::memory::InMemory::new());
    context.runtime_env().register_object_store(&"skep://blocks".parse().unwrap(), store);
    context.task_ctx()
}

fn round_trip(plan: &Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
    let (codec, context) = (Codec::new(), context());
    let bytes = physical_plan_to_bytes_with_extension_codec(Arc::clone(plan), &codec).unwrap();
    let back = physical_plan_from_bytes_with_extension_codec(&bytes, &context, &codec).unwrap();
    assert_eq!(bytes, physical_plan_to_bytes_with_extension_codec(Arc::clone(&back), &codec).unwrap());
    assert_eq!(plan.schema(), back.schema());
    let text = |plan: &Arc<dyn ExecutionPlan>| {
        displayable(plan.as_ref()).set_show_statistics(true).indent(true).to_string()
    };
    assert_eq!(text(plan), text(&back));
    back
}

/// A scan of two files with everything our planner may put on one.
fn scan(
    projection: bool,
    partitioned: bool,
    statistics: bool,
    predicate: bool,
    limit: bool,
    ranges: bool,
) -> Arc<dyn ExecutionPlan> {
    let fields = vec![Field::new("n", DataType::Int64, true), Field::new("s", DataType::Utf8, true)];
    let schema = Arc::new(Schema::new(fields));
    let partition = Arc::new(Field::new("day", DataType::Date32, true));
    let columns = if partitioned { vec![partition] } else { Vec::new() };
    let table = TableSchema::builder(Arc::clone(&schema)).with_table_partition_cols(columns).build();
    let mut source = ParquetSource::new(table);
    if predicate {
        let n = col("n", &schema).unwrap();
        source = source.with_predicate(binary(n, Operator::Gt, lit(5i64), &schema).unwrap());
    }
    let mut groups = Vec::new();
    for i in 0..2u64 {
        let mut file = PartitionedFile::new(format!("lake/t/{i}.parquet"), 1000 + i);
        if ranges {
            file = file.with_range(10, 500);
        }
        if partitioned {
            file.partition_values = vec![ScalarValue::Date32(Some(19000))];
        }
        if statistics {
            let column = ColumnStatistics {
                null_count: Precision::Exact(1),
                min_value: Precision::Exact(ScalarValue::Int64(Some(1))),
                max_value: Precision::Inexact(ScalarValue::Int64(Some(99))),
                ..ColumnStatistics::new_unknown()
            };
            let mut columns = vec![column, ColumnStatistics::new_unknown()];
            columns.extend(partitioned.then(ColumnStatistics::new_unknown));
            let known = Statistics {
                num_rows: Precision::Exact(10),
                total_byte_size: Precision::Exact(1000),
                column_statistics: columns,
            };
            file.statistics = Some(Arc::new(known));
        }
        groups.push(FileGroup::new(vec![file]));
    }
    let store = ObjectStoreUrl::parse("skep://blocks").unwrap();
    let mut scan = FileScanConfigBuilder::new(store, Arc::new(source)).with_file_groups(groups);
    if projection {
        let columns = if partitioned { vec![2, 0] } else { vec![1] };
        scan = scan.with_projection_indices(Some(columns)).unwrap();
    }
    scan = scan.with_limit(limit.then_some(7));
    DataSourceExec::from_data_source(scan.build())
}

#[test]
fn every_scan_and_write_survives() {
    for bits in 0..64u32 {
        let on = |bit: u32| bits & (1 << bit) != 0;
        let scan = scan(on(0), on(1), on(2), on(3), on(4), on(5));
        round_trip(&scan);
        let columns = columns_from_arrow(&scan.schema()).unwrap();
        let store = ObjectStoreUrl::parse("skep://blocks").unwrap();
        let mut target = WriteTarget::new(&store, &Path::from("lake/t"), columns);
        target.compression = [Compression::Zstd, Compression::Snappy, Compression::None][bits as usize % 3];
        let guarded: Arc<dyn ExecutionPlan> = Arc::new(GuardExec::new(scan));
        let writers = NonZeroUsize::MIN.saturating_add(bits as usize % 2);
        let write: Arc<dyn ExecutionPlan> =
            Arc::new(WriteExec::new(guarded, Arc::new(target.clone()), writers));
        let back = round_trip(&write);
        assert_eq!(back.downcast_ref::<WriteExec>().unwrap().target().as_ref(), &target);
    }
}

/// A window over a key that a filter below has made constant, and over one that equals another.
#[tokio::test]
async fn what_is_known_below_a_window_survives() {
    let context = SessionContext::new();
    context.sql("CREATE TABLE t AS VALUES (1, 1, 2), (1, 3, 4)").await.unwrap().collect().await.unwrap();
    let sql = "SELECT count(*) OVER (PARTITION BY column1, column2, column3) FROM t WHERE column1 = 1 AND column2 = column3";
    let plan = context.sql(sql).await.unwrap().create_physical_plan().await.unwrap();
    let known = |plan: &Arc<dyn ExecutionPlan>| {
        let mut found = Vec::new();
        plan.apply(|node| {
            if node.name() == "KnownExec" {
                found.push(Arc::clone(node));
            }
            Ok(TreeNodeRecursion::Continue)
        })
        .unwrap();
        found
    };
    assert!(known(&plan).is_empty());
    let kept = keep_known(plan).unwrap();
    let [node] = known(&kept).try_into().unwrap();
    // The same over an input that knows nothing, as what reads the rows of another stage.
    let ignorant: Arc<dyn ExecutionPlan> = Arc::new(EmptyExec::new(node.schema()));
    let over = |input: Arc<dyn ExecutionPlan>| {
        let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
        Arc::clone(&node).replace_children(vec![input], options).unwrap()
    };
    let facts = |plan: &Arc<dyn ExecutionPlan>| {
        let known = plan.equivalence_properties();
        let is = |name| known.is_expr_constant(&col(name, &plan.schema()).unwrap()).is_some();
        let equal = known
            .eq_group()
            .exprs_equal(&col("column2", &plan.schema()).unwrap(), &col("column3", &plan.schema()).unwrap());
        (is("column1"), is("column2"), equal)
    };
    assert_eq!(facts(&ignorant), (false, false, false));
    assert_eq!(facts(&round_trip(&over(ignorant))), (true, false, true));
}

#[test]
fn a_node_of_another_version_is_named() {
    let (codec, context) = (Codec::new(), context());
    let plan: Arc<dyn ExecutionPlan> =
        Arc::new(GuardExec::new(scan(false, false, false, false, false, false)));
    let mut bytes = physical_plan_to_bytes_with_extension_codec(plan, &codec).unwrap().to_vec();
    let at = bytes.windows(5).position(|w| w == b"guard").unwrap();
    bytes[at..at + 5].copy_from_slice(b"gourd");
    let error = physical_plan_from_bytes_with_extension_codec(&bytes, &context, &codec).unwrap_err();
    assert!(error.to_string().contains("'gourd'"), "{error}");
}
