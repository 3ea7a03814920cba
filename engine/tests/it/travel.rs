use std::sync::Arc;

use datafusion::execution::TaskContext;
use datafusion::physical_plan::collect;
use datafusion_proto::physical_plan::{
    AsExecutionPlan, DefaultPhysicalProtoConverter, PhysicalExtensionCodec, PhysicalProtoConverterExtension,
};
use datafusion_proto::protobuf::PhysicalPlanNode;
use skep_engine::codec::Codec;

use crate::fixture::Fixture;

/// What arrives is the plan that was sent: same text, same rows, in a session that knows nothing.
#[tokio::test]
async fn plans_survive_the_wire() {
    let fixture = Fixture::new().await;
    let csv = fixture.file("x.tsv", "a\tb\n1\tNA\n2\tx\n");
    let gz = fixture.path("x.csv.gz").display().to_string();
    fixture.run("CREATE TABLE t AS SELECT value AS id, 'n' || CAST(value AS VARCHAR) AS name FROM generate_series(1, 10) AS s(value)").await.unwrap();
    fixture.run(&format!("COPY t TO '{gz}' (FORMAT csv, COMPRESSION gzip)")).await.unwrap();
    let codec = Codec::default();
    let converter = DefaultPhysicalProtoConverter {};
    for sql in [
        "SELECT id, name FROM t WHERE id > 3 ORDER BY id".to_owned(),
        format!("SELECT b, a + 1 FROM '{csv}' ORDER BY 1"),
        format!("SELECT count(*), max(name) FROM '{gz}' WHERE id < 9"),
    ] {
        let query = skep_engine::sql::parse_query(&sql).unwrap();
        let planner = fixture.planner().await;
        let plan = planner.logical(&query).await.unwrap();
        let plan = planner.state().create_physical_plan(&plan).await.unwrap();
        let node = converter.execution_plan_to_proto(&plan, &codec).unwrap();
        let context: Arc<TaskContext> = Arc::new(TaskContext::default());
        let context = Arc::new(TaskContext::new(
            None,
            context.session_id(),
            context.session_config().clone(),
            planner.state().scalar_functions().clone(),
            Default::default(),
            planner.state().aggregate_functions().clone(),
            planner.state().window_functions().clone(),
            Arc::clone(&fixture.environment.runtime),
        ));
        let back = node.try_into_physical_plan(&context, &codec).unwrap();
        let shown = |plan: &Arc<dyn datafusion::physical_plan::ExecutionPlan>| {
            datafusion::physical_plan::displayable(plan.as_ref()).indent(false).to_string()
        };
        assert_eq!(shown(&back), shown(&plan));
        let (ours, theirs) =
            (collect(plan, planner.state().task_ctx()).await.unwrap(), collect(back, context).await.unwrap());
        assert_eq!(ours, theirs, "{sql}");
    }
    let _: &dyn PhysicalExtensionCodec = &codec;
    let _ = PhysicalPlanNode::default();
}
