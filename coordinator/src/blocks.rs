//! Blocks and the nodes that hold them: what `system` shows of them, and what SYSTEM statements do to them.
//!
//! # Not here
//! Deciding what is copied where (`skep_store::keep`).

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int64Array, StringArray, TimestampMicrosecondArray, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::catalog::TableProvider;
use skep_common::{Error, Result};
use skep_engine::sql::{Name, SystemAction};
use skep_store::namespace::{FileHealth, NodeReport, Replica};
use skep_store::{Namespace, SKEP_URL};

use crate::filled::{batch, filled, paged};
use crate::session::Outcome;
use crate::statement::Run;

/// Files of one batch of `system.blocks`.
const FILES_PAGE: u32 = 500;
const ZONE: &str = "UTC";

/// The names of the tables with their columns.
pub(crate) fn schemas() -> [(&'static str, SchemaRef); 3] {
    [("blocks", blocks_schema()), ("nodes", nodes_schema()), ("replication", replication_schema())]
}

/// The tables, read when a plan over them runs.
///
/// # Errors
/// [`Kind::Internal`](skep_common::Kind::Internal) if a table does not fit its schema.
pub(crate) fn tables(namespace: &Namespace) -> Result<[(String, Arc<dyn TableProvider>); 3]> {
    let (of_blocks, of_nodes, of_all) = (namespace.clone(), namespace.clone(), namespace.clone());
    let blocks = paged(blocks_schema(), move |after: Option<String>| {
        let namespace = of_blocks.clone();
        Box::pin(async move {
            let files = namespace.fsck("", after.as_deref(), FILES_PAGE).await?;
            let Some(last) = files.last().map(|file| file.meta.path.clone()) else { return Ok(None) };
            Ok(Some((batch(&blocks_schema(), block_rows(&files))?, last)))
        })
    })?;
    let nodes = filled(nodes_schema(), move || {
        let namespace = of_nodes.clone();
        Box::pin(async move { batch(&nodes_schema(), node_rows(&namespace.nodes().await?)) })
    })?;
    let replication = filled(replication_schema(), move || {
        let namespace = of_all.clone();
        Box::pin(async move { batch(&replication_schema(), replication_row(&namespace).await?) })
    })?;
    Ok([("blocks".to_owned(), blocks), ("nodes".to_owned(), nodes), ("replication".to_owned(), replication)])
}

fn text(name: &str, null: bool) -> Field {
    Field::new(name, DataType::Utf8, null)
}

fn count(name: &str) -> Field {
    Field::new(name, DataType::UInt64, false)
}

fn nodes_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        text("node", false),
        text("zone", true),
        text("url", true),
        text("state", false),
        Field::new("silent_ms", DataType::Int64, false),
        Field::new("draining", DataType::Boolean, false),
        Field::new("drained", DataType::Boolean, false),
        count("blocks_to_drain"),
        Field::new("maintenance_until", DataType::Timestamp(TimeUnit::Microsecond, Some(ZONE.into())), true),
        count("blocks"),
        count("used_bytes"),
        count("free_bytes"),
        count("bad_replicas"),
    ]))
}

fn node_rows(all: &[NodeReport]) -> Vec<ArrayRef> {
    let text = |of: &dyn Fn(&NodeReport) -> Option<String>| -> ArrayRef {
        Arc::new(all.iter().map(of).collect::<StringArray>())
    };
    let count = |of: &dyn Fn(&NodeReport) -> u64| -> ArrayRef {
        Arc::new(UInt64Array::from_iter_values(all.iter().map(of)))
    };
    let flag = |of: &dyn Fn(&NodeReport) -> bool| -> ArrayRef {
        Arc::new(all.iter().map(|node| Some(of(node))).collect::<BooleanArray>())
    };
    let silent = all.iter().map(|node| i64::try_from(node.silent.as_millis()).unwrap_or(i64::MAX));
    let until = all.iter().map(|node| node.maintenance.map(|until| until.timestamp_micros()));
    vec![
        text(&|node| Some(node.id.to_string())),
        text(&|node| node.zone.clone()),
        text(&|node| node.url.as_ref().map(ToString::to_string)),
        text(&|node| Some(node.status.to_string())),
        Arc::new(Int64Array::from_iter_values(silent)),
        flag(&|node| node.draining),
        flag(&|node| node.drained),
        count(&|node| node.to_drain),
        Arc::new(until.collect::<TimestampMicrosecondArray>().with_timezone(ZONE)),
        count(&|node| node.blocks),
        count(&|node| node.used),
        count(&|node| node.free),
        count(&|node| node.bad),
    ]
}

/// The columns of `system.blocks` and of SHOW BLOCKS: a row for each replica, and one for a block that has none.
pub(crate) fn blocks_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        text("path", false),
        count("position"),
        text("block_id", false),
        count("bytes"),
        text("health", false),
        text("node", true),
        text("replica_state", true),
        text("node_state", true),
    ]))
}

fn block_rows(files: &[FileHealth]) -> Vec<ArrayRef> {
    let mut rows = Vec::new();
    for file in files {
        for (position, block) in file.blocks.iter().enumerate() {
            if block.replicas.is_empty() {
                rows.push((file, position, block, None));
            }
            rows.extend(block.replicas.iter().map(|replica| (file, position, block, Some(replica))));
        }
    }
    let state = |replica: &Replica| {
        let name = match replica {
            Replica::Good => "good",
            Replica::Corrupt => "corrupt",
            Replica::Missing => "missing",
        };
        name.to_owned()
    };
    let nodes = rows.iter().map(|row| row.3.map(|replica| replica.node.to_string()));
    let states = rows.iter().map(|row| row.3.map(|replica| state(&replica.state)));
    let statuses = rows.iter().map(|row| row.3.map(|replica| replica.status.to_string()));
    vec![
        Arc::new(StringArray::from_iter_values(rows.iter().map(|row| &row.0.meta.path))),
        Arc::new(UInt64Array::from_iter_values(rows.iter().map(|row| row.1 as u64))),
        Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.2.id.to_string()))),
        Arc::new(UInt64Array::from_iter_values(rows.iter().map(|row| row.2.length))),
        Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.2.health.to_string()))),
        Arc::new(nodes.collect::<StringArray>()),
        Arc::new(states.collect::<StringArray>()),
        Arc::new(statuses.collect::<StringArray>()),
    ]
}

const REPLICATION: [&str; 21] = [
    "files",
    "blocks",
    "bytes",
    "wanted_replicas",
    "under_replicated",
    "one_left",
    "over_replicated",
    "missing",
    "corrupt",
    "corrupt_replicas",
    "garbage",
    "moving",
    "waiting",
    "waiting_bytes",
    "copied",
    "copied_bytes",
    "moved",
    "discarded",
    "deleted",
    "failed",
    "nodes",
];

fn replication_schema() -> SchemaRef {
    Arc::new(Schema::new(REPLICATION.map(count).to_vec()))
}

async fn replication_row(namespace: &Namespace) -> Result<Vec<ArrayRef>> {
    let report = namespace.replication_report().await?;
    let done = &report.activity;
    let values: [u64; REPLICATION.len()] = [
        report.files,
        report.blocks,
        report.bytes,
        report.wanted.into(),
        report.under_replicated,
        report.one_left,
        report.over_replicated,
        report.missing,
        report.corrupt,
        report.corrupt_replicas,
        report.garbage,
        done.copying.len() as u64,
        done.waiting,
        done.waiting_bytes,
        done.copied,
        done.copied_bytes,
        done.moved,
        done.discarded,
        done.deleted,
        done.failed,
        namespace.live().len() as u64,
    ];
    Ok(values.into_iter().map(|value| Arc::new(UInt64Array::from_iter_values([value])) as ArrayRef).collect())
}

impl Run {
    /// The blocks of the files that a table has now.
    pub(crate) async fn show_blocks(self, table: &Name) -> Result<Outcome> {
        let namespace = self.namespace()?.clone();
        let planner = self.planner(self.snapshot().await?).await?;
        let (store, paths) = planner.paths_of(table).await?;
        if store.as_str().trim_end_matches('/') != SKEP_URL {
            return Err(Error::unsupported(format!(
                "table '{}' lies in '{store}', which has no blocks",
                table.name
            ))
            .hint("SHOW BLOCKS is for tables in the replicated store"));
        }
        let mut batches = Vec::new();
        for page in paths.chunks(FILES_PAGE as usize) {
            let page: Vec<String> = page.iter().map(ToString::to_string).collect();
            let files: Vec<FileHealth> = namespace.files(&page).await?.into_iter().flatten().collect();
            batches.push(batch(&blocks_schema(), block_rows(&files))?);
        }
        self.rows(blocks_schema(), batches)
    }

    /// What SYSTEM asks for.
    pub(crate) async fn system(self, action: &SystemAction) -> Result<Outcome> {
        let namespace = self.namespace()?.clone();
        let node = |name: &str| skep_common::NodeId::new(name);
        match action {
            SystemAction::Drain { node: name } => namespace.drain(&node(name)?).await?,
            SystemAction::Undrain { node: name } => namespace.undrain(&node(name)?).await?,
            SystemAction::Maintain { node: name, time } => {
                let time = chrono::TimeDelta::from_std(*time)
                    .map_err(|e| Error::invalid("that is too long for a maintenance").source(e))?;
                let until = self.shared.environment.catalog.now() + time;
                namespace.maintenance(&node(name)?, Some(until)).await?;
            }
            SystemAction::Resume { node: name } => namespace.maintenance(&node(name)?, None).await?,
            SystemAction::Remove { node: name } => namespace.remove(&node(name)?).await?,
            SystemAction::Balance { percent } => namespace.balance(*percent)?,
        }
        Ok(self.done("SYSTEM", None))
    }

    fn namespace(&self) -> Result<&Namespace> {
        self.shared.blocks.as_ref().ok_or_else(|| {
            Error::unsupported("this coordinator keeps no blocks")
                .hint("ask the one that does; tables in file://, s3:// and hdfs:// have none")
        })
    }
}
