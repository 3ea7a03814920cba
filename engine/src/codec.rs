//! How our plan nodes travel to workers.
//!
//! Each operator brings its own [`NodeCodec`]; [`Codec`] finds the one for a node, and on the other side by name. All
//! nodes of a cluster know the same operators.

use std::fmt::Debug;
use std::sync::Arc;

use datafusion::common::Result as DataFusionResult;
use datafusion::error::DataFusionError;
use datafusion::execution::TaskContext;
use datafusion::logical_expr::{AggregateUDF, ScalarUDF};
use datafusion::physical_plan::ExecutionPlan;
use datafusion_proto::physical_plan::{PhysicalExtensionCodec, PhysicalProtoConverterExtension};
use prost::Message;
use skep_common::{Error, Result};

use crate::{functions, scan, text};

/// The codec of one operator.
pub trait NodeCodec: Debug + Send + Sync {
    /// Its name on the wire: unique, and never changed.
    fn name(&self) -> &'static str;

    /// The node without its inputs, if it is of this operator.
    fn encode(&self, node: &dyn ExecutionPlan) -> Option<Result<Vec<u8>>>;

    /// The node again, over `inputs`.
    ///
    /// # Errors
    /// [`Kind::Internal`](skep_common::Kind::Internal) for bytes that [`NodeCodec::encode`] did not make.
    fn decode(&self, bytes: &[u8], inputs: &[Arc<dyn ExecutionPlan>]) -> Result<Arc<dyn ExecutionPlan>>;
}

/// The name of text scans on the wire: leaves of DataFusion's, over a source of ours.
const TEXT_SCAN: &str = "text_scan";
/// That of scans which read maps by the names of what is inside.
const NAMED_SCAN: &str = "named_scan";

/// The codec of all operators of ours. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Codec(Arc<Vec<Arc<dyn NodeCodec>>>);

#[derive(Clone, PartialEq, Message)]
struct Wire {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(bytes = "vec", tag = "2")]
    body: Vec<u8>,
}

impl Codec {
    /// The operators of this crate.
    pub fn new() -> Self {
        Self(Arc::new(vec![
            Arc::new(crate::guard::GuardCodec),
            Arc::new(crate::known::KnownCodec),
            Arc::new(crate::scan::RowsCodec),
            Arc::new(crate::write::WriteCodec),
        ]))
    }

    /// Adds an operator of another crate.
    #[must_use]
    pub fn with(mut self, node: impl NodeCodec + 'static) -> Self {
        Arc::make_mut(&mut self.0).push(Arc::new(node));
        self
    }
}

impl Default for Codec {
    fn default() -> Self {
        Self::new()
    }
}

fn external(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

impl PhysicalExtensionCodec for Codec {
    fn try_decode(
        &self,
        bytes: &[u8],
        inputs: &[Arc<dyn ExecutionPlan>],
        context: &TaskContext,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let wire = Wire::decode(bytes)
            .map_err(|e| external(Error::internal("a plan node cannot be decoded").source(e)))?;
        if wire.name == TEXT_SCAN {
            return text::decode_scan(&wire.body, context, self, converter).map_err(external);
        }
        if wire.name == NAMED_SCAN {
            return scan::decode_scan(&wire.body, context, self, converter).map_err(external);
        }
        let codec = self.0.iter().find(|codec| codec.name() == wire.name).ok_or_else(|| {
            external(
                Error::internal(format!("plan node '{}' is not known here", wire.name))
                    .hint("run the same version of skep on every node"),
            )
        })?;
        codec.decode(&wire.body, inputs).map_err(external)
    }

    fn try_encode(
        &self,
        node: Arc<dyn ExecutionPlan>,
        buffer: &mut Vec<u8>,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> DataFusionResult<()> {
        let found = self.0.iter().find_map(|codec| Some((codec.name(), codec.encode(node.as_ref())?)));
        let found = found.or_else(|| Some((TEXT_SCAN, text::encode_scan(node.as_ref(), self, converter)?)));
        let found = found.or_else(|| Some((NAMED_SCAN, scan::encode_scan(node.as_ref(), self, converter)?)));
        let Some((name, body)) = found else {
            return Err(external(Error::internal(format!("plan node '{}' cannot travel", node.name()))));
        };
        let wire = Wire { name: name.to_owned(), body: body.map_err(external)? };
        wire.encode(buffer).map_err(|e| external(Error::internal("a plan node cannot be encoded").source(e)))
    }

    fn try_decode_udaf(&self, name: &str, _: &[u8]) -> DataFusionResult<Arc<AggregateUDF>> {
        functions::find_aggregate(name).ok_or_else(|| {
            external(
                Error::internal(format!("aggregate '{name}' is not known here"))
                    .hint("run the same version of skep on every node"),
            )
        })
    }

    fn try_decode_udf(&self, name: &str, _: &[u8]) -> DataFusionResult<Arc<ScalarUDF>> {
        functions::find(name).ok_or_else(|| {
            external(
                Error::internal(format!("function '{name}' is not known here"))
                    .hint("run the same version of skep on every node"),
            )
        })
    }
}
