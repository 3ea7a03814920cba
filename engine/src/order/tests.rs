use std::fmt::Write;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::Int64Array;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, Statistics};
use datafusion::datasource::{MemTable, TableType};
use datafusion::execution::SessionStateBuilder;
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::{SessionConfig, SessionContext};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::rules;

/// Rows, and what is said of them.
#[derive(Debug)]
struct Counted {
    rows: MemTable,
    said: Option<Statistics>,
}

#[async_trait]
impl TableProvider for Counted {
    fn schema(&self) -> SchemaRef {
        self.rows.schema()
    }
    fn table_type(&self) -> TableType {
        TableType::Base
    }
    fn statistics(&self) -> Option<Statistics> {
        self.said.clone()
    }
    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> datafusion::error::Result<Arc<dyn ExecutionPlan>> {
        self.rows.scan(session, projection, filters, limit).await
    }
}

fn context(ordered: bool) -> SessionContext {
    let config = SessionConfig::new().with_target_partitions(1);
    let builder = SessionStateBuilder::new_with_default_features().with_config(config);
    let builder = if ordered { builder.with_optimizer_rules(rules()) } else { builder };
    SessionContext::new_with_state(builder.build())
}

/// A table with columns `k`, `a`, `b`; of `said` rows, in which `k` has that many values, `a` and `b` have few.
fn table(context: &SessionContext, name: &str, rows: &[[i64; 3]], said: Option<(usize, usize)>) {
    let fields = ["k", "a", "b"].map(|name| Field::new(name, DataType::Int64, true));
    let schema = Arc::new(Schema::new(fields.to_vec()));
    let column = |at: usize| Arc::new(rows.iter().map(|row| Some(row[at])).collect::<Int64Array>()) as _;
    let batch = RecordBatch::try_new(Arc::clone(&schema), (0..3).map(column).collect()).unwrap();
    let said = said.map(|(count, few)| {
        let mut said = Statistics::new_unknown(&schema);
        said.num_rows = Precision::Exact(count);
        said.column_statistics = [count, few, few]
            .map(|values| ColumnStatistics {
                distinct_count: Precision::Inexact(values),
                ..ColumnStatistics::new_unknown()
            })
            .to_vec();
        said
    });
    let rows = MemTable::try_new(schema, vec![vec![batch]]).unwrap();
    context.register_table(name, Arc::new(Counted { rows, said })).unwrap();
}

async fn joins(context: &SessionContext, sql: &str) -> String {
    let plan = context.sql(sql).await.unwrap().into_optimized_plan().unwrap();
    let text = plan.display_indent().to_string();
    let scans = text.lines().filter_map(|line| line.trim().strip_prefix("TableScan: "));
    scans.map(|line| line.split([' ', ',']).next().unwrap_or_default()).collect::<Vec<_>>().join(" ")
}

/// Two facts that meet on a column with few values, and dimensions that leave few of their rows.
fn facts(context: &SessionContext, known: bool) {
    let said = |count, few| known.then_some((count, few));
    table(context, "sales", &[], said(1_000_000, 1_000));
    table(context, "stock", &[], said(5_000_000, 1_000));
    table(context, "day", &[], said(1_000, 10));
    table(context, "shop", &[], said(100, 100));
}

const SPREAD: &str = "SELECT count(*) FROM sales JOIN stock ON sales.a = stock.a JOIN day ON sales.k = day.k \
                      JOIN shop ON sales.b = shop.k WHERE day.a = 3 AND shop.k = 7";

#[tokio::test]
async fn what_leaves_few_rows_is_joined_first() {
    let context = context(true);
    facts(&context, true);
    let order = joins(&context, SPREAD).await;
    let at = |name| order.split(' ').position(|table| table == name).unwrap();
    assert!(at("day") < at("stock") && at("shop") < at("stock"), "{order}");
}

#[tokio::test]
async fn without_counts_the_text_has_its_way() {
    let (with, without) = (context(true), context(false));
    facts(&with, false);
    facts(&without, false);
    assert_eq!(joins(&with, SPREAD).await, joins(&without, SPREAD).await);
}

#[tokio::test]
async fn an_order_that_is_good_stays() {
    let (with, without) = (context(true), context(false));
    facts(&with, true);
    facts(&without, true);
    let sql = "SELECT count(*) FROM day JOIN sales ON sales.k = day.k JOIN shop ON sales.b = shop.k WHERE day.a = 3";
    assert_eq!(joins(&with, sql).await, joins(&without, sql).await);
}

/// A query over some of `tables` tables with conditions drawn at random.
fn query(draw: &mut StdRng, tables: usize) -> String {
    let column = |draw: &mut StdRng| *["k", "a", "b"].choose(draw).unwrap();
    let mut sql = "SELECT * FROM t0".to_owned();
    for at in 1..tables {
        let kind = *["JOIN", "JOIN", "JOIN", "JOIN", "LEFT JOIN"].choose(draw).unwrap();
        let other = draw.random_range(0..at);
        let (own, theirs) = (column(draw), column(draw));
        write!(sql, " {kind} t{at} ON t{at}.{own} = t{other}.{theirs}").unwrap();
        if draw.random_bool(0.3) {
            let third = draw.random_range(0..at);
            let op = ["=", "<", "<>"].choose(draw).unwrap();
            write!(sql, " AND t{at}.{} {op} t{third}.{} + 1", column(draw), column(draw)).unwrap();
        }
    }
    if draw.random_bool(0.5) {
        let (one, two) = (draw.random_range(0..tables), draw.random_range(0..tables));
        write!(sql, " WHERE t{one}.{} = t{two}.{}", column(draw), column(draw)).unwrap();
        if draw.random_bool(0.5) {
            write!(sql, " AND t{one}.a IN (SELECT b FROM t{two} WHERE k < 4)").unwrap();
        }
    }
    sql
}

/// Whatever is said of the tables, the rows and columns are the same.
#[tokio::test]
async fn the_rows_are_the_same_in_any_order() {
    let mut changed = 0;
    for seed in 0..150 {
        let mut draw = StdRng::seed_from_u64(seed);
        let (with, without) = (context(true), context(false));
        let tables = draw.random_range(3..=6);
        for at in 0..tables {
            let rows: Vec<[i64; 3]> =
                (0..draw.random_range(0..12)).map(|_| [0; 3].map(|_| draw.random_range(0..6))).collect();
            let said = (draw.random_range(1..1_000_000), draw.random_range(1..1_000));
            table(&with, &format!("t{at}"), &rows, Some(said));
            table(&without, &format!("t{at}"), &rows, None);
        }
        let sql = query(&mut draw, tables);
        changed += usize::from(joins(&with, &sql).await != joins(&without, &sql).await);
        let rows = async |context: &SessionContext| {
            let text = pretty_format_batches(&context.sql(&sql).await?.collect().await?)?.to_string();
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            lines.sort_unstable();
            Ok::<_, datafusion::error::DataFusionError>(lines)
        };
        assert_eq!(rows(&with).await.unwrap(), rows(&without).await.unwrap(), "seed {seed}: {sql}");
    }
    assert!(changed > 15, "only {changed} of 150 had another order");
}
