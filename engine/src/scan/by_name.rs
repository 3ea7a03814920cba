//! Reads columns whose maps have other fields inside than the table's.
//!
//! DataFusion fills up the fields of structs that a file lacks, in lists too, by name; a map it casts, which goes by
//! position. An adapter of expressions, which a scan has for each of its files, puts [`fit`] in its place.
//!
//! The codec of plans drops adapters: such a scan travels as a node of ours, see [`encode`].

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, FieldRef, Schema, SchemaRef};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::datasource::physical_plan::{FileScanConfig, FileScanConfigBuilder, FileSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::TaskContext;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr_adapter::{
    DefaultPhysicalExprAdapterFactory, PhysicalExprAdapter, PhysicalExprAdapterFactory,
};
use datafusion::physical_plan::ExecutionPlan;
use datafusion_proto::physical_plan::{
    PhysicalExtensionCodec, PhysicalPlanDecodeContext, PhysicalProtoConverterExtension,
};
use datafusion_proto::protobuf::PhysicalPlanNode;
use prost::Message;
use skep_common::{Error, Result};

use super::whole::WholeFiles;
use crate::error;
use crate::functions::fit;

/// The scan of files `node`, whose maps are read by the names of what is inside. Its files are read whole.
///
/// # Errors
/// [`Kind::Internal`](skep_common::Kind::Internal) if it is no scan of Parquet files.
pub(crate) fn scan_by_name(node: &Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let broken = || Error::internal("a scan of files by name is none");
    let config = file_scan(node.as_ref()).ok_or_else(broken)?;
    let source = WholeFiles::new(Arc::clone(config.file_source())).by_name();
    let config = FileScanConfigBuilder::from(config.clone())
        .with_source(Arc::new(source) as Arc<dyn FileSource>)
        .with_expr_adapter(Some(Arc::new(ByName)))
        .build();
    Ok(DataSourceExec::from_data_source(config))
}

fn file_scan(node: &dyn ExecutionPlan) -> Option<&FileScanConfig> {
    node.downcast_ref::<DataSourceExec>()?.data_source().downcast_ref::<FileScanConfig>()
}

/// The bytes of `node`, if it is a scan by name.
///
/// # Errors
/// [`Kind::Internal`](skep_common::Kind::Internal) if a part of it cannot travel.
pub(crate) fn encode(
    node: &dyn ExecutionPlan,
    codec: &dyn PhysicalExtensionCodec,
    converter: &dyn PhysicalProtoConverterExtension,
) -> Option<Result<Vec<u8>>> {
    let config = file_scan(node)?;
    let plain = config.file_source().downcast_ref::<WholeFiles>()?.plain()?;
    let config = FileScanConfigBuilder::from(config.clone()).with_source(plain).build();
    let scan = converter.execution_plan_to_proto(&(DataSourceExec::from_data_source(config) as _), codec);
    Some(scan.map(|scan| scan.encode_to_vec()).map_err(error::from_datafusion))
}

/// The scan that [`encode`] wrote.
///
/// # Errors
/// [`Kind::Internal`](skep_common::Kind::Internal) for other bytes.
pub(crate) fn decode(
    bytes: &[u8],
    context: &TaskContext,
    codec: &dyn PhysicalExtensionCodec,
    converter: &dyn PhysicalProtoConverterExtension,
) -> Result<Arc<dyn ExecutionPlan>> {
    let scan = PhysicalPlanNode::decode(bytes)
        .map_err(|e| Error::internal("a scan of files by name cannot be decoded").source(e))?;
    let context = PhysicalPlanDecodeContext::new(context, codec);
    scan_by_name(&converter.proto_to_execution_plan(&scan, &context).map_err(error::from_datafusion)?)
}

/// Reads maps by name, and leaves all else to DataFusion.
#[derive(Debug)]
struct ByName;

impl PhysicalExprAdapterFactory for ByName {
    fn create(
        &self,
        logical: SchemaRef,
        physical: SchemaRef,
    ) -> DataFusionResult<Arc<dyn PhysicalExprAdapter>> {
        let mut fitted = HashMap::new();
        let fields = logical.fields().iter().map(|field| match physical.field_with_name(field.name()) {
            Ok(own) if has_map(field.data_type()) && own.data_type() != field.data_type() => {
                fitted.insert(field.name().clone(), Arc::clone(field));
                // Then there is nothing to cast.
                Arc::new(own.clone())
            }
            _ => Arc::clone(field),
        });
        let alike = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let rest = DefaultPhysicalExprAdapterFactory.create(alike, physical)?;
        Ok(Arc::new(Adapter { rest, fitted }))
    }
}

fn has_map(ty: &DataType) -> bool {
    match ty {
        DataType::Map(..) => true,
        DataType::List(element) => has_map(element.data_type()),
        DataType::Struct(fields) => fields.iter().any(|field| has_map(field.data_type())),
        _ => false,
    }
}

#[derive(Debug)]
struct Adapter {
    rest: Arc<dyn PhysicalExprAdapter>,
    /// Columns of the table that are read by name.
    fitted: HashMap<String, FieldRef>,
}

impl PhysicalExprAdapter for Adapter {
    fn rewrite(&self, expr: Arc<dyn PhysicalExpr>) -> DataFusionResult<Arc<dyn PhysicalExpr>> {
        let expr = self.rest.rewrite(expr)?;
        let fitted = expr.transform_up(|node| {
            let field = node.downcast_ref::<Column>().and_then(|column| self.fitted.get(column.name()));
            match field {
                Some(field) => Ok(Transformed::yes(fit(Arc::clone(&node), field)?)),
                None => Ok(Transformed::no(node)),
            }
        });
        fitted.data()
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{ArrayRef, Int32Array, MapArray, StringArray, StructArray};
    use datafusion::arrow::buffer::{NullBuffer, OffsetBuffer};
    use datafusion::arrow::datatypes::Field;
    use datafusion::arrow::record_batch::RecordBatch;
    use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
    use datafusion::datasource::listing::PartitionedFile;
    use datafusion::datasource::physical_plan::{FileGroup, ParquetSource};
    use datafusion::datasource::table_schema::TableSchema;
    use datafusion::execution::object_store::ObjectStoreUrl;
    use datafusion::physical_plan::collect;
    use datafusion::prelude::SessionContext;
    use datafusion_proto::bytes::{
        physical_plan_from_bytes_with_extension_codec, physical_plan_to_bytes_with_extension_codec,
    };
    use object_store::memory::InMemory;
    use object_store::path::Path;
    use object_store::{ObjectStore, ObjectStoreExt};
    use parquet::arrow::ArrowWriter;

    use super::*;
    use crate::codec::Codec;

    fn map_type(fields: &[&str]) -> DataType {
        let fields: Vec<_> = fields.iter().map(|name| Field::new(*name, DataType::Int32, true)).collect();
        let pair = vec![
            Field::new("key", DataType::Utf8, false),
            Field::new("value", DataType::Struct(fields.into()), true),
        ];
        DataType::Map(Arc::new(Field::new("key_value", DataType::Struct(pair.into()), false)), false)
    }

    /// A file with the rows `{k: {fields}, j: NULL}` and NULL; each field has the number that is its letter.
    fn file(fields: &[&str]) -> Vec<u8> {
        let DataType::Map(entries, _) = map_type(fields) else { unreachable!() };
        let DataType::Struct(pair) = entries.data_type() else { unreachable!() };
        let DataType::Struct(inner) = pair[1].data_type() else { unreachable!() };
        let number = |name: &&str| i32::from(name.as_bytes()[0]);
        let columns = fields.iter().map(|name| Arc::new(Int32Array::from(vec![number(name); 2])) as ArrayRef);
        let there = NullBuffer::from(vec![true, false]);
        let values = StructArray::new(inner.clone(), columns.collect(), Some(there.clone()));
        let keys: ArrayRef = Arc::new(StringArray::from(vec!["k", "j"]));
        let pairs = StructArray::new(pair.clone(), vec![keys, Arc::new(values)], None);
        let offsets = OffsetBuffer::new(vec![0, 2, 2].into());
        let map: ArrayRef = Arc::new(MapArray::new(Arc::clone(&entries), offsets, pairs, Some(there), false));
        let batch = RecordBatch::try_from_iter([("m", map)]).unwrap();
        let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.into_inner().unwrap()
    }

    /// Files with fewer fields, more, and in another order, here and where the plan travels to.
    #[tokio::test]
    async fn fields_inside_maps_are_found_by_name() {
        let files: [&[&str]; 4] = [&["a"], &["b"], &["b", "a"], &["x", "a", "b"]];
        let (context, store) = (SessionContext::new(), InMemory::new());
        let mut group = Vec::new();
        for (at, fields) in files.iter().enumerate() {
            let bytes = file(fields);
            group.push(PartitionedFile::new(format!("{at}.parquet"), bytes.len() as u64));
            store.put(&Path::from(format!("{at}.parquet")), bytes.into()).await.unwrap();
        }
        let url = ObjectStoreUrl::parse("memory://").unwrap();
        let store: Arc<dyn ObjectStore> = Arc::new(store);
        context.runtime_env().register_object_store(url.as_ref(), store);
        let table = Arc::new(Schema::new(vec![Field::new("m", map_type(&["a", "b"]), true)]));
        let source = Arc::new(ParquetSource::new(TableSchema::builder(table).build()));
        let config = FileScanConfigBuilder::new(url, source).with_file_groups(vec![FileGroup::new(group)]);
        let plain: Arc<dyn ExecutionPlan> = DataSourceExec::from_data_source(config.build());
        assert!(collect(Arc::clone(&plain), context.task_ctx()).await.is_err(), "a cast is enough");

        let here = scan_by_name(&plain).unwrap();
        let codec = Codec::new();
        let bytes = physical_plan_to_bytes_with_extension_codec(Arc::clone(&here), &codec).unwrap();
        let there = physical_plan_from_bytes_with_extension_codec(&bytes, &context.task_ctx(), &codec);
        for plan in [here, there.unwrap()] {
            let batches = collect(plan, context.task_ctx()).await.unwrap();
            let mut shown = Vec::new();
            for batch in &batches {
                let options = FormatOptions::default().with_null("NULL");
                let text = ArrayFormatter::try_new(batch.column(0), &options).unwrap();
                shown.extend((0..batch.num_rows()).map(|row| text.value(row).to_string()));
            }
            let wanted = [
                "{k: {a: 97, b: NULL}, j: NULL}",
                "{k: {a: NULL, b: 98}, j: NULL}",
                "{k: {a: 97, b: 98}, j: NULL}",
                "{k: {a: 97, b: 98}, j: NULL}",
            ];
            let wanted: Vec<_> = wanted.into_iter().flat_map(|row| [row, "NULL"]).collect();
            assert_eq!(shown, wanted);
        }
    }
}
