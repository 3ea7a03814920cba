//! Text scans over the wire: DataFusion's own JSON scan carries files, columns and projection; the format goes beside it.

use std::sync::Arc;

use datafusion::datasource::physical_plan::{FileScanConfig, FileScanConfigBuilder, FileSource, JsonSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use datafusion_proto::physical_plan::{
    PhysicalExtensionCodec, PhysicalPlanDecodeContext, PhysicalProtoConverterExtension,
};
use datafusion_proto::protobuf::PhysicalPlanNode;
use prost::Message;
use skep_common::{Error, Result};

use super::{Format, TextSource};
use crate::error;

#[derive(Clone, PartialEq, Message)]
struct Wire {
    /// [`Format`] as JSON.
    #[prost(string, tag = "1")]
    format: String,
    /// The scan with a JSON source in place of ours.
    #[prost(message, optional, tag = "2")]
    scan: Option<PhysicalPlanNode>,
}

/// The bytes of `node`, if it is a text scan.
///
/// # Errors
/// [`Kind::Internal`](skep_common::Kind::Internal) if a part of it cannot travel.
pub fn encode(
    node: &dyn ExecutionPlan,
    codec: &dyn PhysicalExtensionCodec,
    converter: &dyn PhysicalProtoConverterExtension,
) -> Option<Result<Vec<u8>>> {
    let config = file_scan(node)?;
    let source = config.file_source().downcast_ref::<TextSource>()?;
    let encoded = || -> Result<Vec<u8>> {
        let json: Arc<dyn FileSource> = Arc::new(JsonSource::new(source.table_schema().clone()));
        let plan = replace(config, json, source.projection()).map_err(error::from_datafusion)?;
        let scan = converter.execution_plan_to_proto(&plan, codec).map_err(error::from_datafusion)?;
        let format = serde_json::to_string(source.format())
            .map_err(|e| Error::internal("a file format cannot be encoded").source(e))?;
        Ok(Wire { format, scan: Some(scan) }.encode_to_vec())
    };
    Some(encoded())
}

/// The scan that [`encode`] wrote.
///
/// # Errors
/// [`Kind::Internal`](skep_common::Kind::Internal) for other bytes.
pub fn decode(
    bytes: &[u8],
    context: &TaskContext,
    codec: &dyn PhysicalExtensionCodec,
    converter: &dyn PhysicalProtoConverterExtension,
) -> Result<Arc<dyn ExecutionPlan>> {
    let broken = || Error::internal("a scan of text files cannot be decoded");
    let wire = Wire::decode(bytes).map_err(|e| broken().source(e))?;
    let format: Format = serde_json::from_str(&wire.format).map_err(|e| broken().source(e))?;
    let scan = wire.scan.ok_or_else(broken)?;
    let context = PhysicalPlanDecodeContext::new(context, codec);
    let plan = converter.proto_to_execution_plan(&scan, &context).map_err(error::from_datafusion)?;
    let config = file_scan(plan.as_ref()).ok_or_else(broken)?;
    let source = config.file_source();
    let text: Arc<dyn FileSource> = Arc::new(TextSource::new(source.table_schema().clone(), format));
    replace(config, text, source.projection()).map_err(error::from_datafusion)
}

fn file_scan(node: &dyn ExecutionPlan) -> Option<&FileScanConfig> {
    node.downcast_ref::<DataSourceExec>()?.data_source().downcast_ref::<FileScanConfig>()
}

/// The scan `config` with `source`, which is not projected yet, under `projection`.
fn replace(
    config: &FileScanConfig,
    source: Arc<dyn FileSource>,
    projection: Option<&datafusion::physical_expr::projection::ProjectionExprs>,
) -> datafusion::error::Result<Arc<dyn ExecutionPlan>> {
    let source = match projection {
        Some(projection) => source.try_pushdown_projection(projection)?.unwrap_or(source),
        None => source,
    };
    let config = FileScanConfigBuilder::from(config.clone()).with_source(source).build();
    Ok(DataSourceExec::from_data_source(config))
}
