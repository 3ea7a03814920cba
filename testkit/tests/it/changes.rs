//! Random statements that change rows, against rows in memory; and statements that change rows at the same time.

use skep_common::Kind;
use skep_testkit::client::Client;
use skep_testkit::process::Server;

fn up(folder: &tempfile::TempDir) -> Server {
    let data = folder.path().join("data");
    let mut arguments = vec!["up", "--data", data.to_str().unwrap(), "--workers", "3"];
    arguments.extend(["--flight", "127.0.0.1:0", "--http", "127.0.0.1:0"]);
    Server::start(&arguments).unwrap()
}

/// Numbers that look random and repeat with their seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    fn number(&mut self, sides: u64) -> i64 {
        i64::try_from(self.roll(sides)).unwrap()
    }

    fn maybe(&mut self, sides: u64) -> Option<i64> {
        (self.roll(6) > 0).then(|| self.number(sides))
    }
}

/// `k`, `v` and `n` of a row.
type Row = [Option<i64>; 3];

fn literal(value: Option<i64>) -> String {
    value.map_or("NULL".to_owned(), |value| value.to_string())
}

/// A condition over `k` and `v` of the table, true, false or unknown, with the rows of `u` at hand.
enum Condition {
    Equals(usize, i64),
    Less(usize, i64),
    IsNull(usize),
    In(usize, usize),
    NotIn(usize, usize),
    Both(Box<Condition>, Box<Condition>),
    Either(Box<Condition>, Box<Condition>),
    Not(Box<Condition>),
}

const NAMES: [&str; 3] = ["k", "v", "n"];

impl Condition {
    fn random(dice: &mut Dice, depth: u32) -> Self {
        let column = usize::try_from(dice.roll(2)).unwrap();
        let boxed = |dice: &mut Dice| Box::new(Self::random(dice, depth - 1));
        match dice.roll(if depth == 0 { 3 } else { 9 }) {
            0 => Self::Equals(column, dice.number(20)),
            1 => Self::Less(column, dice.number(20)),
            2 => Self::IsNull(column),
            3 => Self::In(column, usize::try_from(dice.roll(2)).unwrap()),
            4 => Self::NotIn(column, usize::try_from(dice.roll(2)).unwrap()),
            5 | 6 => Self::Both(boxed(dice), boxed(dice)),
            7 => Self::Either(boxed(dice), boxed(dice)),
            _ => Self::Not(boxed(dice)),
        }
    }

    fn sql(&self, table: &str) -> String {
        let name = |column: &usize| format!("{table}.{}", NAMES[*column]);
        match self {
            Self::Equals(column, value) => format!("{} = {value}", name(column)),
            Self::Less(column, value) => format!("{} < {value}", name(column)),
            Self::IsNull(column) => format!("{} IS NULL", name(column)),
            Self::In(column, of) => format!("{} IN (SELECT {} FROM u)", name(column), NAMES[*of]),
            Self::NotIn(column, of) => format!("{} NOT IN (SELECT {} FROM u)", name(column), NAMES[*of]),
            Self::Both(a, b) => format!("({} AND {})", a.sql(table), b.sql(table)),
            Self::Either(a, b) => format!("({} OR {})", a.sql(table), b.sql(table)),
            Self::Not(a) => format!("NOT ({})", a.sql(table)),
        }
    }

    fn holds(&self, row: &Row, u: &[Row]) -> Option<bool> {
        match self {
            Self::Equals(column, value) => row[*column].map(|own| own == *value),
            Self::Less(column, value) => row[*column].map(|own| own < *value),
            Self::IsNull(column) => Some(row[*column].is_none()),
            Self::In(column, of) => {
                if u.is_empty() {
                    return Some(false);
                }
                let own = row[*column]?;
                if u.iter().any(|other| other[*of] == Some(own)) {
                    return Some(true);
                }
                u.iter().all(|other| other[*of].is_some()).then_some(false)
            }
            Self::NotIn(column, of) => Self::In(*column, *of).holds(row, u).map(|holds| !holds),
            Self::Both(a, b) => match (a.holds(row, u), b.holds(row, u)) {
                (Some(false), _) | (_, Some(false)) => Some(false),
                (Some(true), Some(true)) => Some(true),
                _ => None,
            },
            Self::Either(a, b) => match (a.holds(row, u), b.holds(row, u)) {
                (Some(true), _) | (_, Some(true)) => Some(true),
                (Some(false), Some(false)) => Some(false),
                _ => None,
            },
            Self::Not(a) => a.holds(row, u).map(|holds| !holds),
        }
    }

    fn selects(&self, row: &Row, u: &[Row]) -> bool {
        self.holds(row, u) == Some(true)
    }
}

struct World {
    client: Client,
    t: Vec<Row>,
    u: Vec<Row>,
    dice: Dice,
}

/// What a statement must do: so many rows, and these are there then. `None`: it is refused.
type Expected = Option<(u64, Vec<Row>)>;

impl World {
    fn insert(&mut self, table: &str) -> (String, Vec<Row>) {
        let rows: Vec<Row> = (0..=self.dice.roll(8))
            .map(|_| [self.dice.maybe(25), self.dice.maybe(20), self.dice.maybe(5)])
            .collect();
        let values = rows.iter().map(|row| format!("({})", row.map(literal).join(", ")));
        (format!("INSERT INTO {table} VALUES {}", values.collect::<Vec<_>>().join(", ")), rows)
    }

    fn delete(&mut self) -> (String, Expected) {
        let condition = Condition::random(&mut self.dice, 2);
        let kept = self.t.iter().filter(|row| !condition.selects(row, &self.u)).copied();
        let kept: Vec<Row> = kept.collect();
        let count = self.t.len() - kept.len();
        (format!("DELETE FROM t WHERE {}", condition.sql("t")), Some((count as u64, kept)))
    }

    fn delete_using(&mut self) -> (String, Expected) {
        let condition = Condition::random(&mut self.dice, 1);
        let gone = |row: &Row| {
            self.u.iter().any(|other| row[0].is_some() && other[0] == row[0])
                && condition.selects(row, &self.u)
        };
        let kept: Vec<Row> = self.t.iter().filter(|row| !gone(row)).copied().collect();
        let sql = format!("DELETE FROM t USING u WHERE t.k = u.k AND {}", condition.sql("t"));
        (sql, Some(((self.t.len() - kept.len()) as u64, kept)))
    }

    fn update(&mut self) -> (String, Expected) {
        let condition = Condition::random(&mut self.dice, 2);
        let (add, set) = (self.dice.number(5), self.dice.maybe(9));
        let (mut count, mut rows) = (0, self.t.clone());
        for row in rows.iter_mut().filter(|row| condition.selects(row, &self.u)) {
            *row = [row[0], row[0].map(|k| k + add), set];
            count += 1;
        }
        let sql = format!("UPDATE t SET n = {}, v = k + {add} WHERE {}", literal(set), condition.sql("t"));
        (sql, Some((count, rows)))
    }

    fn update_from(&mut self) -> (String, Expected) {
        let condition = Condition::random(&mut self.dice, 1);
        let (mut count, mut rows) = (0, self.t.clone());
        for row in rows.iter_mut().filter(|row| condition.selects(row, &self.u)) {
            let matches: Vec<&Row> =
                self.u.iter().filter(|other| row[0].is_some() && other[0] == row[0]).collect();
            match matches.as_slice() {
                [] => {}
                [one] => {
                    row[1] = one[1];
                    count += 1;
                }
                _ => return (self.update_from_sql(&condition), None),
            }
        }
        (self.update_from_sql(&condition), Some((count, rows)))
    }

    fn update_from_sql(&self, condition: &Condition) -> String {
        format!("UPDATE t SET v = u.v FROM u WHERE t.k = u.k AND {}", condition.sql("t"))
    }

    fn merge(&mut self) -> (String, Expected) {
        let conditions: Vec<Condition> = (0..4).map(|_| Condition::random(&mut self.dice, 1)).collect();
        let [delete, update, orphan, fresh] = conditions.as_slice() else { unreachable!() };
        let sql = format!(
            "MERGE INTO t USING u AS s ON t.k = s.k \
             WHEN MATCHED AND {} THEN DELETE WHEN MATCHED AND {} THEN UPDATE SET v = s.v, n = t.n + 1 \
             WHEN NOT MATCHED AND {} THEN INSERT (k, v) VALUES (s.k, s.v) WHEN NOT MATCHED BY SOURCE AND {} THEN UPDATE SET n = -1",
            delete.sql("t"),
            update.sql("s"),
            fresh.sql("s"),
            orphan.sql("t")
        );
        let (mut count, mut rows) = (0, Vec::new());
        for row in &self.t {
            let same = |other: &&Row| row[0].is_some() && other[0] == row[0];
            let matches: Vec<&Row> = self.u.iter().filter(same).collect();
            let wanted: Vec<Option<Row>> = matches
                .iter()
                .filter_map(|other| {
                    if delete.selects(row, &self.u) {
                        Some(None)
                    } else if update.selects(other, &self.u) {
                        Some(Some([row[0], other[1], row[2].map(|n| n + 1)]))
                    } else {
                        None
                    }
                })
                .collect();
            match (wanted.as_slice(), matches.is_empty()) {
                ([], true) if orphan.selects(row, &self.u) => {
                    rows.push([row[0], row[1], Some(-1)]);
                    count += 1;
                }
                ([], _) => rows.push(*row),
                ([one], _) => {
                    rows.extend(*one);
                    count += 1;
                }
                _ => return (sql, None),
            }
        }
        for other in &self.u {
            let there = self.t.iter().any(|row| row[0].is_some() && row[0] == other[0]);
            if !there && fresh.selects(other, &self.u) {
                rows.push([other[0], other[1], None]);
                count += 1;
            }
        }
        (sql, Some((count, rows)))
    }

    async fn step(&mut self) {
        let lane = ["local", "pipelined"][usize::try_from(self.dice.roll(2)).unwrap()];
        self.client.update(&format!("SET skep.execution = {lane}")).await.unwrap();
        let (sql, expected) = match self.dice.roll(9) {
            0 | 1 => {
                let (sql, rows) = self.insert("t");
                let all = self.t.iter().copied().chain(rows.iter().copied()).collect();
                (sql, Some((rows.len() as u64, all)))
            }
            2 => {
                let (sql, rows) = self.insert("u");
                self.u = rows;
                (sql.replacen("INTO", "OVERWRITE", 1), Some((self.u.len() as u64, self.t.clone())))
            }
            3 => self.delete(),
            4 => self.delete_using(),
            5 => self.update(),
            6 => self.update_from(),
            _ => self.merge(),
        };
        let done = self.client.update(&sql).await;
        match (expected, done) {
            (Some((count, rows)), Ok(done)) => {
                assert_eq!(done, count, "{lane}: {sql}");
                self.t = rows;
            }
            (None, Err(error)) => {
                assert_eq!(error.kind(), Kind::Invalid, "{lane}: {sql}: {error:?}");
                assert!(error.message().contains("matches several rows"), "{lane}: {sql}: {error:?}");
            }
            (expected, done) => panic!("{lane}: {sql}: {expected:?} but {done:?}"),
        }
        let mut ours = self.client.rows("SELECT k, v, n FROM t").await.unwrap();
        let mut wanted: Vec<Vec<String>> =
            self.t.iter().map(|row| row.iter().map(|value| literal(*value)).collect()).collect();
        ours.sort();
        wanted.sort();
        assert_eq!(ours, wanted, "{lane}: {sql}");
    }
}

#[tokio::test]
async fn random_changes_give_the_rows_of_a_model() {
    let folder = tempfile::tempdir().unwrap();
    let server = up(&folder);
    for seed in 1..=3 {
        let mut client = Client::connect(server.flight()).await.unwrap();
        client.update(&format!("CREATE SCHEMA s{seed}")).await.unwrap();
        client.update(&format!("USE s{seed}")).await.unwrap();
        client.update("CREATE TABLE t (k BIGINT, v BIGINT, n BIGINT)").await.unwrap();
        client.update("CREATE TABLE u (k BIGINT, v BIGINT, n BIGINT)").await.unwrap();
        let mut world = World { client, t: Vec::new(), u: Vec::new(), dice: Dice(seed * 7919) };
        for _ in 0..4 {
            let (sql, rows) = world.insert("t");
            world.client.update(&sql).await.unwrap();
            world.t.extend(rows);
        }
        for _ in 0..25 {
            world.step().await;
        }
    }
}

/// Statements that change the same rows at the same time come one after the other.
#[tokio::test]
async fn changes_at_the_same_time_are_all_there() {
    let folder = tempfile::tempdir().unwrap();
    let server = up(&folder);
    let mut client = Client::connect(server.flight()).await.unwrap();
    client.update("CREATE TABLE t (id INT, n INT)").await.unwrap();
    client.update("INSERT INTO t VALUES (1, 0), (2, 0)").await.unwrap();
    let one = |sql: String| {
        let url = server.flight().to_owned();
        async move {
            let mut client = Client::connect(&url).await.unwrap();
            let mut conflicts = 0;
            loop {
                match client.update(&sql).await {
                    Ok(count) => return (count, conflicts),
                    // Tried several times, and refused in the end: to be run again.
                    Err(error) if error.kind() == Kind::Conflict && conflicts < 20 => conflicts += 1,
                    Err(error) => panic!("{sql}: {error:?}"),
                }
            }
        }
    };
    let statements = (0..3).flat_map(|i| {
        [
            "UPDATE t SET n = n + 1 WHERE id = 1".to_owned(),
            format!("INSERT INTO t VALUES ({}, 0)", 10 + i),
            "MERGE INTO t USING (VALUES (2)) AS s(id) ON t.id = s.id WHEN MATCHED THEN UPDATE SET n = t.n + 1"
                .to_owned(),
        ]
    });
    let done = futures::future::join_all(statements.map(one)).await;
    assert!(done.iter().all(|(count, _)| *count == 1), "{done:?}");
    let rows = client.rows("SELECT id, n FROM t ORDER BY id").await.unwrap();
    assert_eq!(rows, [["1", "3"], ["2", "3"], ["10", "0"], ["11", "0"], ["12", "0"]]);
}

#[tokio::test]
async fn explain_shows_both_passes_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let server = up(&folder);
    let mut client = Client::connect(server.flight()).await.unwrap();
    client.update("CREATE TABLE t (id INT, n INT)").await.unwrap();
    for part in 0..4 {
        let insert = format!("INSERT INTO t SELECT x, 0 FROM generate_series({part}0, {part}9) AS g(x)");
        client.update(&insert).await.unwrap();
    }
    let parts = |rows: Vec<Vec<String>>| -> std::collections::BTreeMap<String, String> {
        rows.into_iter().map(|row| (row[0].clone(), row[1].clone())).collect()
    };
    let merge = "MERGE INTO t USING (VALUES (35), (50)) AS s(id) ON t.id = s.id \
                 WHEN MATCHED THEN UPDATE SET n = 1 WHEN NOT MATCHED THEN INSERT (id) VALUES (s.id)";
    for lane in ["local", "pipelined"] {
        client.update(&format!("SET skep.execution = {lane}")).await.unwrap();
        let shown = parts(client.rows("EXPLAIN DELETE FROM t WHERE id < 13 AND id > 5").await.unwrap());
        assert!(shown["find_scans"].contains("main.t: 2 of 4 files"), "{shown:?}");
        assert!(shown["rewrite_scans"].contains("main.t: 4 of 4 files"), "{shown:?}");
        assert!(shown["rewrite_physical_plan"].contains("WriteExec"), "{shown:?}");
        let shown =
            parts(client.rows("EXPLAIN ANALYZE DELETE FROM t WHERE id < 13 AND id >= 0").await.unwrap());
        let files = "main.t: of 4 files 1 are rewritten, 1 removed, 2 left; 0 rows change, 13 go";
        assert_eq!(shown["files"], files, "{shown:?}");
        assert!(shown["rewrite_physical_plan"].contains("rows: 7"), "{shown:?}");
        let shown = parts(client.rows(&format!("EXPLAIN ANALYZE {merge}")).await.unwrap());
        assert!(
            shown["files"].contains("of 4 files 1 are rewritten")
                && shown.contains_key("insert_physical_plan")
        );
        let shown = parts(client.rows("EXPLAIN TRUNCATE t").await.unwrap());
        assert!(shown["files"].contains("4 removed, 0 left"), "{shown:?}");
    }
    assert_eq!(client.rows("SELECT count(*), sum(n) FROM t").await.unwrap(), [["40", "0"]]);
}
