//! Faults as they are asked for on the command line, and the plan that a seed makes of them.
//!
//! ```text
//! --kill worker@stage:2 --seed 7 --draw--> Kill { worker: 2, stage: 2 } --Display--> --kill w2@stage:2
//! ```
//!
//! # Invariants
//! - A plan written out as options, with its seed, is the same plan again: each draw has a name of its own, and does not depend
//!   on what else is drawn.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// What a fault that says no time lasts: longer than a worker may be silent.
const PAUSE: Duration = Duration::from_secs(5);
/// Longest time that a call is held back when nobody says.
const DELAY: Duration = Duration::from_millis(50);

type Parsed<T> = Result<T, String>;

/// `worker`: any; `w2`: the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    Any,
    Worker(usize),
}

impl Who {
    fn parse(text: &str) -> Parsed<Self> {
        if text == "worker" {
            return Ok(Who::Any);
        }
        let number = text.strip_prefix('w').and_then(|number| number.parse().ok());
        match number {
            Some(number) if number > 0 => Ok(Who::Worker(number)),
            _ => Err(format!(
                "'{text}' names no worker: write worker for one that the seed draws, or w1, w2, ..."
            )),
        }
    }
}

/// The statements in which a fault happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    /// Each that it can happen in.
    Each,
    /// This one.
    In(usize),
    /// Once, in the first from this one on that it can happen in.
    From(usize),
}

impl When {
    /// Whether it may happen in statement `number`, given that it has happened before or not.
    pub(crate) fn has(self, number: usize, happened: bool) -> bool {
        match self {
            When::Each => true,
            When::In(one) => one == number,
            When::From(first) => number >= first && !happened,
        }
    }
}

/// Splits `...@statement:N` off.
fn statement(text: &str) -> Parsed<(&str, Option<usize>)> {
    match text.split_once("@statement:") {
        None => Ok((text, None)),
        Some((rest, number)) => Ok((rest, Some(positive("statement", number)?))),
    }
}

fn positive(what: &str, text: &str) -> Parsed<usize> {
    match text.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(format!("'{text}' is not the number of a {what}: write 1, 2, ...")),
    }
}

fn seconds(text: &str) -> Parsed<Duration> {
    let seconds = text.trim_end_matches('s').parse::<f64>().ok().filter(|s| (0.1..=600.0).contains(s));
    seconds
        .map(Duration::from_secs_f64)
        .ok_or_else(|| format!("'{text}' is not a number of seconds from 0.1 to 600"))
}

/// `--kill`
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KillWanted {
    who: Who,
    stage: usize,
    when: When,
}

impl FromStr for KillWanted {
    type Err = String;

    fn from_str(text: &str) -> Parsed<Self> {
        let (text, once) = text.strip_suffix('+').map_or((text, false), |text| (text, true));
        let (rest, statement) = statement(text)?;
        let wrong = || "write WORKER@stage:K, such as worker@stage:2 or w3@stage:1@statement:5".to_owned();
        let (who, stage) = rest.split_once("@stage:").ok_or_else(wrong)?;
        let when = match statement {
            None if once => return Err(wrong()),
            None => When::Each,
            Some(number) if once => When::From(number),
            Some(number) => When::In(number),
        };
        Ok(Self { who: Who::parse(who)?, stage: positive("stage", stage)?, when })
    }
}

/// `--pause`
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PauseWanted {
    who: Who,
    lasts: Duration,
    statement: Option<usize>,
}

impl FromStr for PauseWanted {
    type Err = String;

    fn from_str(text: &str) -> Parsed<Self> {
        let (rest, statement) = statement(text)?;
        let (who, lasts) = match rest.split_once(':') {
            Some((who, lasts)) => (who, seconds(lasts)?),
            None => (rest, PAUSE),
        };
        Ok(Self { who: Who::parse(who)?, lasts, statement })
    }
}

/// `--corrupt`
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CorruptWanted {
    who: Who,
    statement: Option<usize>,
}

impl FromStr for CorruptWanted {
    type Err = String;

    fn from_str(text: &str) -> Parsed<Self> {
        let (rest, statement) = statement(text)?;
        let who = match rest.split_once(':') {
            None if rest == "block" => Who::Any,
            Some(("block", who)) => Who::parse(who)?,
            _ => return Err("write block, or block:w2 for one of the second worker".to_owned()),
        };
        Ok(Self { who, statement })
    }
}

/// `--delay`
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Delay {
    pub(crate) percent: u8,
    pub(crate) longest: Duration,
}

impl FromStr for Delay {
    type Err = String;

    fn from_str(text: &str) -> Parsed<Self> {
        let wrong = || "write rpc:P% or rpc:P%:MS, such as rpc:20%:50".to_owned();
        let rest = text.strip_prefix("rpc:").ok_or_else(wrong)?;
        let (percent, longest) = rest.split_once('%').ok_or_else(wrong)?;
        let percent = percent.parse().ok().filter(|percent| (1..=100).contains(percent));
        let percent =
            percent.ok_or_else(|| format!("'{rest}' does not begin with a percentage from 1 to 100"))?;
        let longest = match longest.strip_prefix(':') {
            None if longest.is_empty() => DELAY,
            None => return Err(wrong()),
            Some(millis) => {
                let millis =
                    millis.trim_end_matches("ms").parse().ok().filter(|ms| (1..=60_000).contains(ms));
                let millis = millis.ok_or("the delay is a number of milliseconds, 1 to 60000")?;
                Duration::from_millis(millis)
            }
        };
        Ok(Self { percent, longest })
    }
}

/// kill -9 of a worker when a stage of a statement has begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kill {
    pub(crate) worker: usize,
    pub(crate) stage: usize,
    pub(crate) when: When,
}

/// SIGSTOP, and SIGCONT a while later.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Pause {
    pub(crate) worker: usize,
    pub(crate) lasts: Duration,
    pub(crate) statement: usize,
    /// As a share of what the statement takes on one node.
    pub(crate) moment: f64,
}

/// A damaged block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Corrupt {
    pub(crate) worker: usize,
    /// Before this one.
    pub(crate) statement: usize,
    /// Draws the block, and the bytes.
    pub(crate) pick: u64,
}

/// What happens in a drill.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) kills: Vec<Kill>,
    pub(crate) pauses: Vec<Pause>,
    pub(crate) corrupts: Vec<Corrupt>,
    pub(crate) delay: Option<Delay>,
}

/// What was asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wanted {
    pub(crate) kills: Vec<KillWanted>,
    pub(crate) pauses: Vec<PauseWanted>,
    pub(crate) corrupts: Vec<CorruptWanted>,
    pub(crate) delay: Option<Delay>,
}

impl Wanted {
    pub(crate) fn is_empty(&self) -> bool {
        self.kills.is_empty() && self.pauses.is_empty() && self.corrupts.is_empty() && self.delay.is_none()
    }
}

/// The script, as far as faults care: statements by their numbers, from 1.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outline {
    pub(crate) statements: usize,
    /// Those that read tables or files.
    pub(crate) reading: Vec<usize>,
    /// Of them, those that may meet blocks: something was written before them.
    pub(crate) after_writes: Vec<usize>,
}

/// Draws by name.
#[derive(Debug, Clone, Copy)]
struct Dice(u64);

impl Dice {
    fn draw(self, what: &str, index: usize) -> u64 {
        // FNV-1a of the name, then the finalizer of splitmix64.
        let bytes = what.bytes().chain(self.0.to_le_bytes()).chain((index as u64).to_le_bytes());
        let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let z = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(self, what: &str, index: usize, end: usize) -> usize {
        usize::try_from(self.draw(what, index) % (end.max(1) as u64)).unwrap_or(0)
    }

    fn share(self, what: &str, index: usize) -> f64 {
        (self.draw(what, index) >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn one_of(self, what: &str, index: usize, all: &[usize]) -> Option<usize> {
        all.get(self.below(what, index, all.len())).copied()
    }
}

impl Plan {
    /// Draws everything that `wanted` leaves open; if it says nothing at all, the faults too.
    ///
    /// # Errors
    /// What is wrong with an option, given this script and this many workers.
    pub(crate) fn draw(seed: u64, wanted: Wanted, script: &Outline, workers: usize) -> Parsed<Self> {
        let dice = Dice(seed);
        let nothing_reads =
            || "no statement of the script reads a table or a file: there is nothing to disturb";
        if script.reading.is_empty() {
            return Err(nothing_reads().to_owned());
        }
        let wanted = if wanted.is_empty() { drawn(dice, script) } else { wanted };
        let worker = |what: &str, index: usize, who: Who| match who {
            Who::Any => Ok(dice.below(what, index, workers) + 1),
            Who::Worker(number) if number <= workers => Ok(number),
            Who::Worker(number) => Err(format!(
                "there is no w{number}: the drill has {workers} workers, which --workers changes"
            )),
        };
        let exists = |statement: Option<usize>| match statement {
            Some(number) if number > script.statements => {
                Err(format!("there is no statement {number}: the script has {}", script.statements))
            }
            other => Ok(other),
        };
        let mut plan = Plan { seed, delay: wanted.delay, ..Plan::default() };
        for (index, kill) in wanted.kills.into_iter().enumerate() {
            let worker = worker("kill worker", index, kill.who)?;
            if let When::In(number) | When::From(number) = kill.when {
                exists(Some(number))?;
            }
            plan.kills.push(Kill { worker, stage: kill.stage, when: kill.when });
        }
        for (index, pause) in wanted.pauses.into_iter().enumerate() {
            let drawn = dice.one_of("pause statement", index, &script.reading);
            let statement = exists(pause.statement)?.or(drawn).ok_or_else(nothing_reads)?;
            let worker = worker("pause worker", index, pause.who)?;
            let moment = dice.share("pause moment", index);
            plan.pauses.push(Pause { worker, lasts: pause.lasts, statement, moment });
        }
        for (index, corrupt) in wanted.corrupts.into_iter().enumerate() {
            let drawn = dice.one_of("corrupt statement", index, &script.after_writes);
            let statement = exists(corrupt.statement)?.or(drawn);
            let statement = statement.ok_or(
                "no statement of the script reads what one before it wrote: there is no block to damage",
            )?;
            let worker = worker("corrupt worker", index, corrupt.who)?;
            plan.corrupts.push(Corrupt { worker, statement, pick: dice.draw("corrupt block", index) });
        }
        Ok(plan)
    }

    /// As options of the command line, which make the same plan of the same seed.
    pub(crate) fn options(&self) -> Vec<String> {
        let mut options = vec![format!("--seed {}", self.seed)];
        for Kill { worker, stage, when } in &self.kills {
            let when = match when {
                When::Each => String::new(),
                When::In(number) => format!("@statement:{number}"),
                When::From(number) => format!("@statement:{number}+"),
            };
            options.push(format!("--kill w{worker}@stage:{stage}{when}"));
        }
        for Pause { worker, lasts, statement, .. } in &self.pauses {
            options.push(format!("--pause w{worker}:{}@statement:{statement}", lasts.as_secs_f64()));
        }
        for Corrupt { worker, statement, .. } in &self.corrupts {
            options.push(format!("--corrupt block:w{worker}@statement:{statement}"));
        }
        if let Some(Delay { percent, longest }) = &self.delay {
            options.push(format!("--delay rpc:{percent}%:{}", longest.as_millis()));
        }
        options
    }
}

/// The faults of a drill that names none: a kill, and by chance one of each other kind.
fn drawn(dice: Dice, script: &Outline) -> Wanted {
    let coin = |what| dice.below(what, 0, 2) == 0;
    // Statements after the loads, if there are some, and not only the last: it waits for one that has the stage.
    let targets = if script.after_writes.is_empty() { &script.reading } else { &script.after_writes };
    let targets = &targets[..targets.len().div_ceil(2)];
    let kill = KillWanted {
        who: Who::Any,
        stage: dice.below("drawn stage", 0, 2) + 1,
        when: dice.one_of("drawn statement", 0, targets).map_or(When::Each, When::From),
    };
    let pause = PauseWanted { who: Who::Any, lasts: PAUSE, statement: None };
    let corrupt = CorruptWanted { who: Who::Any, statement: None };
    let delay = Delay {
        percent: u8::try_from(dice.below("drawn percent", 0, 30) + 1).unwrap_or(1),
        longest: Duration::from_millis(10 + dice.below("drawn delay", 0, 90) as u64),
    };
    Wanted {
        kills: vec![kill],
        pauses: if coin("draw a pause") { vec![pause] } else { Vec::new() },
        corrupts: if coin("draw a block") && !script.after_writes.is_empty() {
            vec![corrupt]
        } else {
            Vec::new()
        },
        delay: coin("draw a delay").then_some(delay),
    }
}

impl fmt::Display for Kill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kill -9 of w{} when stage {} of ", self.worker, self.stage)?;
        match self.when {
            When::In(number) => write!(f, "statement {number} has begun"),
            When::From(number) => {
                write!(f, "a statement has begun, once, in the first from {number} on that has it")
            }
            When::Each => write!(f, "a statement has begun, in each that has it"),
        }
    }
}

impl fmt::Display for Pause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { worker, lasts, statement, moment } = self;
        let (lasts, percent) = (lasts.as_secs_f64(), moment * 100.0);
        write!(
            f,
            "pause of w{worker} for {lasts} s in statement {statement}, after {percent:.0} % of its time on one node"
        )
    }
}

impl fmt::Display for Corrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "damage to a block of w{} before statement {}", self.worker, self.statement)
    }
}

impl fmt::Display for Delay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (percent, longest) = (self.percent, self.longest.as_millis());
        write!(f, "{percent} % of the calls between nodes held back by up to {longest} ms")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outline() -> Outline {
        Outline { statements: 9, reading: vec![2, 3, 5, 9], after_writes: vec![5, 9] }
    }

    fn wanted(kills: &[&str], pauses: &[&str], corrupts: &[&str], delay: Option<&str>) -> Wanted {
        Wanted {
            kills: kills.iter().map(|text| text.parse().unwrap()).collect(),
            pauses: pauses.iter().map(|text| text.parse().unwrap()).collect(),
            corrupts: corrupts.iter().map(|text| text.parse().unwrap()).collect(),
            delay: delay.map(|text| text.parse().unwrap()),
        }
    }

    /// The plan that the options of `plan` make.
    fn replayed(plan: &Plan) -> Plan {
        let mut again = Wanted::default();
        for option in plan.options() {
            match option.split_once(' ').unwrap() {
                ("--kill", text) => again.kills.push(text.parse().unwrap()),
                ("--pause", text) => again.pauses.push(text.parse().unwrap()),
                ("--corrupt", text) => again.corrupts.push(text.parse().unwrap()),
                ("--delay", text) => again.delay = Some(text.parse().unwrap()),
                (name, seed) => assert_eq!((name, seed), ("--seed", plan.seed.to_string().as_str())),
            }
        }
        Plan::draw(plan.seed, again, &outline(), 4).unwrap()
    }

    #[test]
    fn a_plan_written_out_is_the_same_plan() {
        for seed in 0..200 {
            let drawn = Plan::draw(seed, Wanted::default(), &outline(), 4).unwrap();
            assert_eq!(replayed(&drawn), drawn);
            let all = wanted(
                &["worker@stage:2", "w3@stage:1@statement:5", "worker@stage:1@statement:2+"],
                &["worker", "worker:1.5", "w1:2s@statement:3"],
                &["block", "block:w4", "block@statement:2"],
                Some("rpc:20%"),
            );
            let plan = Plan::draw(seed, all, &outline(), 4).unwrap();
            assert_eq!(replayed(&plan), plan);
        }
    }

    #[test]
    fn seeds_draw_every_kind_of_fault_and_every_worker() {
        let plans: Vec<Plan> =
            (0..100).map(|seed| Plan::draw(seed, Wanted::default(), &outline(), 4).unwrap()).collect();
        assert!(plans.iter().all(|plan| !plan.kills.is_empty()));
        assert!(plans.iter().any(|plan| !plan.pauses.is_empty()));
        assert!(plans.iter().any(|plan| !plan.corrupts.is_empty()));
        assert!(plans.iter().any(|plan| plan.delay.is_some()));
        for worker in 1..=4 {
            assert!(plans.iter().any(|plan| plan.kills[0].worker == worker), "w{worker}");
        }
    }

    #[test]
    fn wrong_options_say_how_to_write_them() {
        let kill = |text: &str| text.parse::<KillWanted>().unwrap_err();
        assert!(kill("w2").contains("WORKER@stage:K"));
        assert!(kill("x2@stage:1").contains("'x2' names no worker"));
        assert!(kill("w0@stage:1").contains("'w0'"));
        assert!(kill("w1@stage:1+").contains("WORKER@stage:K"));
        assert!(kill("w1@stage:0").contains("'0' is not the number of a stage"));
        assert!(kill("w1@stage:1@statement:x").contains("'x' is not the number of a statement"));
        assert!("worker:0".parse::<PauseWanted>().unwrap_err().contains("0.1 to 600"));
        assert!("disk".parse::<CorruptWanted>().unwrap_err().contains("write block"));
        let delay = |text: &str| text.parse::<Delay>().unwrap_err();
        assert!(delay("20%").contains("rpc:P%"));
        assert!(delay("rpc:0%").contains("'0%' does not begin with a percentage"));
        assert!(delay("rpc:5%:0").contains("1 to 60000"));
        assert!(delay("rpc:5%x").contains("rpc:P%:MS"));
    }

    #[test]
    fn what_the_script_or_the_cluster_lacks_is_said() {
        let draw = |wanted| Plan::draw(1, wanted, &outline(), 4).unwrap_err();
        assert!(draw(wanted(&["w5@stage:1"], &[], &[], None)).contains("there is no w5"));
        assert!(draw(wanted(&["w1@stage:1@statement:10"], &[], &[], None)).contains("the script has 9"));
        let nothing = Plan::draw(1, Wanted::default(), &Outline::default(), 4).unwrap_err();
        assert!(nothing.contains("nothing to disturb"), "{nothing}");
        let unwritten = Outline { statements: 1, reading: vec![1], after_writes: Vec::new() };
        let error = Plan::draw(1, wanted(&[], &[], &["block"], None), &unwritten, 4).unwrap_err();
        assert!(error.contains("no block to damage"), "{error}");
    }
}
