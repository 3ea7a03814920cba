use super::*;

/// A schedule whose steps happen at once, and runs that end when a test says so.
struct World {
    schedule: Schedule,
    now: DateTime<Utc>,
}

fn time(text: &str) -> DateTime<Utc> {
    format!("2026-{text}:00Z").parse().unwrap()
}

fn short(time: DateTime<Utc>) -> String {
    time.format("%d %H:%M").to_string()
}

fn minutes(count: u64) -> Duration {
    Duration::from_secs(60 * count)
}

fn spec(cron: &str) -> Spec {
    Spec {
        name: "s".to_owned(),
        cron: cron.to_owned(),
        time_zone: "UTC".to_owned(),
        select: Vec::new(),
        exclude: Vec::new(),
        catch_up: CatchUp::Collapse,
        overlap: Overlap::Queue,
        retries: 0,
        retry_delay: minutes(1),
        timeout: None,
        late_after: None,
    }
}

fn schedule(name: &str, spec: Spec, cursor: DateTime<Utc>) -> Schedule {
    let of = Of { pipeline: name.to_owned(), environment: "prod".to_owned() };
    let times = Times::new(&spec.cron, &spec.time_zone).unwrap();
    let key = Key { of, schedule: spec.name.clone() };
    Schedule { key, spec, times, paused: false, cursor, failing: false, open: Vec::new() }
}

impl World {
    fn new(spec: Spec, from: &str) -> Self {
        Self { schedule: schedule("p", spec, time(from)), now: time(from) }
    }

    /// What happens at a time.
    fn at(&mut self, text: &str) -> String {
        self.now = time(text);
        let steps = decide(std::slice::from_ref(&self.schedule), &BTreeSet::new(), 1, self.now);
        steps.iter().map(|step| self.apply(step)).collect::<Vec<_>>().join(", ")
    }

    fn apply(&mut self, step: &Step) -> String {
        let note = |note: &Option<String>| note.as_ref().map(|note| format!(" ({note})")).unwrap_or_default();
        match step {
            Step::Wait { nominal, note: why, .. } => {
                self.schedule.cursor = *nominal;
                self.schedule.open.push(Tick::new(*nominal));
                format!("wait {}{}", short(*nominal), note(why))
            }
            Step::Skip { nominal, note: why, .. } => {
                self.schedule.cursor = *nominal;
                format!("skip {} ({why})", short(*nominal))
            }
            Step::Begin { nominal, .. } => {
                let tick = self.schedule.open.iter_mut().find(|tick| tick.nominal == *nominal).unwrap();
                tick.attempt += 1;
                tick.began = Some(self.now);
                format!("begin {} #{}", short(*nominal), tick.attempt)
            }
            Step::Stop { nominal, .. } => format!("stop {}", short(*nominal)),
            Step::Late { nominal, .. } => {
                self.schedule.open.iter_mut().for_each(|tick| tick.late |= tick.nominal == *nominal);
                format!("late {}", short(*nominal))
            }
        }
    }

    /// The attempt that goes on ends.
    fn end(&mut self, ended: Ended) -> String {
        let tick = self.schedule.open[0].clone();
        assert!(tick.began.is_some(), "nothing goes on");
        let next = self.schedule.next(&tick, ended, self.now);
        match next {
            Next::Again { due } => {
                let lost = tick.lost + u32::from(ended == Ended::Lost);
                self.schedule.open[0] = Tick { due, lost, began: None, ..tick };
                format!("again {}", short(due))
            }
            Next::Done { recovered } => {
                self.schedule.failing = false;
                self.schedule.open.remove(0);
                if recovered { "done, recovered".to_owned() } else { "done".to_owned() }
            }
            Next::Failed => {
                self.schedule.failing = true;
                self.schedule.open.remove(0);
                "failed".to_owned()
            }
        }
    }
}

#[test]
fn each_nominal_time_is_begun_once() {
    let mut world = World::new(spec("0 * * * *"), "01-05T09:30");
    assert_eq!(world.at("01-05T09:59"), "");
    assert_eq!(world.at("01-05T10:00"), "wait 05 10:00, begin 05 10:00 #1");
    assert_eq!(world.at("01-05T10:01"), "", "it goes on");
    assert_eq!(world.end(Ended::Well), "done");
    assert_eq!(world.at("01-05T10:02"), "");
    let wake = wake(std::slice::from_ref(&world.schedule), world.now).unwrap();
    assert_eq!(short(wake), "05 11:00");
    assert_eq!(world.at("01-05T11:00"), "wait 05 11:00, begin 05 11:00 #1");
}

#[test]
fn a_day_offline_is_caught_up_as_the_policy_says() {
    let quarter = |catch_up| Spec { catch_up, ..spec("*/15 * * * *") };
    let mut world = World::new(quarter(CatchUp::Collapse), "01-05T00:00");
    assert_eq!(
        world.at("01-06T00:05"),
        "wait 06 00:00 (for 95 earlier times as well), begin 06 00:00 #1",
        "96 times, one run"
    );
    assert_eq!((world.end(Ended::Well), world.at("01-06T00:06")), ("done".into(), String::new()));

    let mut world = World::new(quarter(CatchUp::Latest), "01-05T00:00");
    assert_eq!(world.at("01-06T00:05"), "wait 06 00:00 (95 earlier times were missed), begin 06 00:00 #1");
    assert_eq!((world.end(Ended::Well), world.at("01-06T00:06")), ("done".into(), String::new()));

    let mut world = World::new(quarter(CatchUp::All), "01-05T00:00");
    let first = world.at("01-06T00:05");
    assert_eq!(first.matches("wait").count(), 96);
    assert!(first.starts_with("wait 05 00:15, wait 05 00:30,") && first.ends_with(", begin 05 00:15 #1"));
    assert_eq!(first.matches("begin").count(), 1, "{first}");
    let mut runs = 1;
    while !world.schedule.open.is_empty() {
        assert_eq!(world.at("01-06T00:05"), "", "one after the other");
        assert_eq!(world.end(Ended::Well), "done");
        let next = world.at("01-06T00:05");
        assert_eq!(next.matches("begin").count(), usize::from(!world.schedule.open.is_empty()), "{next}");
        runs += next.matches("begin").count();
    }
    assert_eq!(runs, 96);

    let mut world = World::new(Spec { catch_up: CatchUp::All, ..spec("* * * * *") }, "01-05T00:00");
    let first = world.at("01-06T00:00");
    assert_eq!(first.matches("wait").count(), ALL_MAX);
    assert!(first.contains("(440 earlier times were left out: they are too many)"));
}

#[test]
fn what_comes_while_a_run_goes_on_is_left_out_or_waits() {
    let mut world = World::new(Spec { overlap: Overlap::Skip, ..spec("0 * * * *") }, "01-05T09:30");
    assert_eq!(world.at("01-05T10:00"), "wait 05 10:00, begin 05 10:00 #1");
    assert_eq!(world.at("01-05T11:00"), "skip 05 11:00 (the run of 2026-01-05T10:00:00Z went on)");
    world.end(Ended::Well);
    assert_eq!(world.at("01-05T11:01"), "", "what was left out stays left out");
    assert_eq!(world.at("01-05T12:00"), "wait 05 12:00, begin 05 12:00 #1");

    let mut world = World::new(spec("0 * * * *"), "01-05T09:30");
    assert_eq!(world.at("01-05T10:00"), "wait 05 10:00, begin 05 10:00 #1");
    assert_eq!(world.at("01-05T11:00"), "");
    assert_eq!(world.at("01-05T12:00"), "");
    world.end(Ended::Well);
    assert_eq!(world.at("01-05T12:30"), "wait 05 12:00 (for 1 earlier times as well), begin 05 12:00 #1");
}

#[test]
fn attempts_wait_longer_each_time() {
    let mut world = World::new(Spec { retries: 3, ..spec("0 0 * * *") }, "01-04T12:00");
    assert_eq!(world.at("01-05T00:00"), "wait 05 00:00, begin 05 00:00 #1");
    assert_eq!(world.end(Ended::Failed), "again 05 00:01");
    assert_eq!(world.at("01-05T00:00"), "");
    assert_eq!(short(wake(std::slice::from_ref(&world.schedule), world.now).unwrap()), "05 00:01");
    assert_eq!(world.at("01-05T00:01"), "begin 05 00:00 #2");
    assert_eq!(world.end(Ended::Failed), "again 05 00:03");
    assert_eq!(world.at("01-05T00:03"), "begin 05 00:00 #3");
    // What was lost with its coordinator does not count.
    assert_eq!(world.end(Ended::Lost), "again 05 00:03");
    assert_eq!(world.at("01-05T00:03"), "begin 05 00:00 #4");
    assert_eq!(world.end(Ended::Failed), "again 05 00:07");
    assert_eq!(world.at("01-05T00:07"), "begin 05 00:00 #5");
    assert_eq!(world.end(Ended::Failed), "failed");
    assert_eq!(world.at("01-05T00:30"), "");
    assert_eq!(world.at("01-06T00:00"), "wait 06 00:00, begin 06 00:00 #1");
    assert_eq!(world.end(Ended::Well), "done, recovered");
    assert_eq!(world.at("01-07T00:00"), "wait 07 00:00, begin 07 00:00 #1");
    assert_eq!(world.end(Ended::Well), "done", "told once");
    // A run that takes its coordinator down each time comes to an end.
    assert_eq!(world.at("01-08T00:00"), "wait 08 00:00, begin 08 00:00 #1");
    for attempt in 2..=4 {
        assert_eq!(world.end(Ended::Lost), "again 08 00:00");
        assert_eq!(world.at("01-08T00:00"), format!("begin 08 00:00 #{attempt}"));
    }
    assert_eq!(world.end(Ended::Lost), "failed");
}

#[test]
fn the_longest_wait_is_an_hour_or_what_was_asked_for() {
    let mut world = World::new(Spec { retries: 40, ..spec("0 0 * * *") }, "01-04T12:00");
    world.at("01-05T00:00");
    let tick = Tick { attempt: 39, ..world.schedule.open[0].clone() };
    let due = world.now + minutes(60);
    assert_eq!(world.schedule.next(&tick, Ended::Failed, world.now), Next::Again { due });
    world.schedule.spec.retry_delay = minutes(90);
    let due = world.now + minutes(90);
    assert_eq!(world.schedule.next(&tick, Ended::Failed, world.now), Next::Again { due });
}

#[test]
fn an_attempt_that_takes_too_long_is_stopped() {
    let mut world = World::new(
        Spec { timeout: Some(minutes(30)), retries: 1, retry_delay: minutes(5), ..spec("0 0 * * *") },
        "01-04T12:00",
    );
    assert_eq!(world.at("01-05T00:02"), "wait 05 00:00, begin 05 00:00 #1");
    assert_eq!(short(wake(std::slice::from_ref(&world.schedule), world.now).unwrap()), "05 00:32");
    assert_eq!(world.at("01-05T00:31"), "");
    assert_eq!(world.at("01-05T00:32"), "stop 05 00:00");
    assert_eq!(world.end(Ended::Failed), "again 05 00:37");
    assert_eq!(world.at("01-05T00:37"), "begin 05 00:00 #2");
    assert_eq!(world.at("01-05T01:07"), "stop 05 00:00", "each attempt has its time");
    assert_eq!(world.end(Ended::Failed), "failed");
}

#[test]
fn lateness_is_told_once() {
    let mut world = World::new(Spec { late_after: Some(minutes(20)), ..spec("0 * * * *") }, "01-05T09:30");
    assert_eq!(world.at("01-05T10:00"), "wait 05 10:00, begin 05 10:00 #1");
    assert_eq!(short(wake(std::slice::from_ref(&world.schedule), world.now).unwrap()), "05 10:20");
    assert_eq!(world.at("01-05T10:20"), "late 05 10:00");
    assert_eq!(world.at("01-05T10:21"), "");
    assert_eq!(world.end(Ended::Well), "done");
    // After hours without a coordinator.
    let late = world.at("01-05T15:30");
    assert_eq!(late, "wait 05 15:00 (for 4 earlier times as well), late 05 15:00, begin 05 15:00 #1");
    assert_eq!(world.at("01-05T15:31"), "");
}

#[test]
fn a_paused_schedule_begins_nothing_and_catches_up_when_it_is_resumed() {
    let mut world =
        World::new(Spec { retries: 1, late_after: Some(minutes(30)), ..spec("0 * * * *") }, "01-05T09:30");
    assert_eq!(world.at("01-05T10:00"), "wait 05 10:00, begin 05 10:00 #1");
    world.schedule.paused = true;
    assert_eq!(world.at("01-05T10:40"), "", "what goes on goes on, and nobody waits for it");
    assert_eq!(world.end(Ended::Failed), "again 05 10:41");
    assert_eq!(world.at("01-05T12:00"), "");
    world.schedule.paused = false;
    assert_eq!(world.at("01-05T13:10"), "late 05 10:00, begin 05 10:00 #2");
    assert_eq!(world.end(Ended::Well), "done");
    assert_eq!(world.at("01-05T13:11"), "wait 05 13:00 (for 2 earlier times as well), begin 05 13:00 #1");
}

#[test]
fn daylight_saving_makes_no_run_twice_and_forgets_none() {
    let zone = |cron| Spec { time_zone: "Europe/Berlin".to_owned(), ..spec(cron) };
    // Forward: 02:00 to 03:00 local is left out.
    let mut world = World::new(zone("30 2 * * *"), "03-28T02:00");
    let mut all = Vec::new();
    for minute in 0..(2 * 24 * 60) {
        let at = (time("03-28T02:00") + minutes(minute)).format("%m-%dT%H:%M").to_string();
        let step = world.at(&at);
        if !step.is_empty() {
            all.push(step);
            world.end(Ended::Well);
        }
    }
    assert_eq!(
        all,
        ["wait 29 01:00, begin 29 01:00 #1", "wait 30 00:30, begin 30 00:30 #1"],
        "right after the gap, and once"
    );
    // Back: 02:00 to 03:00 local comes twice.
    let mut world = World::new(zone("*/30 * * * *"), "10-24T23:59");
    let mut begun = Vec::new();
    for minute in 0..240 {
        let at = (time("10-24T23:59") + minutes(minute)).format("%m-%dT%H:%M").to_string();
        if world.at(&at).contains("begin") {
            begun.push(at[6..].to_owned());
            world.end(Ended::Well);
        }
    }
    assert_eq!(begun, ["00:00", "00:30", "02:00", "02:30", "03:00", "03:30"].map(|at| at.to_owned()));
}

#[test]
fn runs_are_limited_and_one_of_a_pipeline_at_a_time() {
    let now = time("01-05T00:10");
    let mut all: Vec<Schedule> = ["a", "a", "b", "c"]
        .iter()
        .enumerate()
        .map(|(at, pipeline)| {
            let spec = Spec { name: format!("s{at}"), ..spec(&format!("{} 0 * * *", 9 - at)) };
            schedule(pipeline, spec, time("01-04T12:00"))
        })
        .collect();
    let begun = |all: &[Schedule], busy: &BTreeSet<Of>, free| {
        let steps = decide(all, busy, free, now);
        let begin = |step: &Step| match step {
            Step::Begin { key, .. } => Some(format!("{} {}", key.of.pipeline, key.schedule)),
            _ => None,
        };
        steps.iter().filter_map(begin).collect::<Vec<_>>().join(", ")
    };
    let nobody = BTreeSet::new();
    assert_eq!(begun(&all, &nobody, 9), "c s3, b s2, a s1", "the oldest first, and only one of a");
    assert_eq!(begun(&all, &nobody, 2), "c s3, b s2");
    assert_eq!(begun(&all, &nobody, 0), "");
    let busy: BTreeSet<Of> = [all[3].key.of.clone()].into();
    assert_eq!(begun(&all, &busy, 9), "b s2, a s1", "also beside a run that a client began");
    all[1].paused = true;
    assert_eq!(begun(&all, &busy, 9), "b s2, a s0");
}

/// The same numbers for the same seed.
struct Draw(u64);

impl Draw {
    fn below(&mut self, limit: u64) -> u64 {
        // Source: Knuth's MMIX generator, TAOCP 2, 3.3.4.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// Whatever happens: no time twice, none forgotten, one run at a time, in order.
#[test]
fn no_time_is_lost_or_begun_twice_in_any_life() {
    for seed in 0..400 {
        let mut draw = Draw(seed);
        let mut one = |all: &[&'static str]| all[draw.below(all.len() as u64) as usize];
        let spec = Spec {
            catch_up: [CatchUp::All, CatchUp::Latest, CatchUp::Collapse][(seed % 3) as usize],
            overlap: [Overlap::Queue, Overlap::Skip][(seed / 3 % 2) as usize],
            retries: (seed % 4) as u32,
            time_zone: one(&["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"]).to_owned(),
            ..spec(one(&["*/20 * * * *", "30 2 * * *", "0 * * * *", "15 1,2,3 * * *"]))
        };
        let from = one(&["03-27T12:00", "10-24T12:00", "04-04T03:00", "10-31T20:00", "03-07T20:00"]);
        let mut world = World::new(spec, from);
        let (mut looked_at, mut done, mut last_begun) = (Vec::new(), Vec::new(), None);
        for _ in 0..300 {
            match draw.below(10) {
                0 => world.schedule.paused = true,
                1 => world.schedule.paused = false,
                2..=4 if world.schedule.open.first().is_some_and(|tick| tick.began.is_some()) => {
                    let ended =
                        [Ended::Well, Ended::Well, Ended::Failed, Ended::Lost][draw.below(4) as usize];
                    let tick = world.schedule.open[0].nominal;
                    if world.end(ended) != "failed" && ended == Ended::Well {
                        done.push(tick);
                    }
                }
                _ => world.now += minutes([1, 7, 20, 61, 400][draw.below(5) as usize]),
            }
            let steps = decide(std::slice::from_ref(&world.schedule), &BTreeSet::new(), 1, world.now);
            assert_eq!(
                steps,
                decide(std::slice::from_ref(&world.schedule), &BTreeSet::new(), 1, world.now),
                "seed {seed}"
            );
            for step in &steps {
                let before = world.schedule.cursor;
                match step {
                    Step::Wait { nominal, missed, .. } => {
                        looked_at.push((*nominal, *missed + 1));
                        assert!(*nominal > before && *nominal <= world.now, "seed {seed}: {step:?}");
                    }
                    Step::Skip { nominal, .. } => {
                        looked_at.push((*nominal, 1));
                        assert!(*nominal > before && *nominal <= world.now, "seed {seed}: {step:?}");
                    }
                    Step::Begin { nominal, .. } => {
                        assert!(last_begun.is_none_or(|last| last <= *nominal), "seed {seed}: out of order");
                        assert!(!done.contains(nominal), "seed {seed}: {nominal} runs after it was done");
                        let going = world.schedule.open.iter().any(|tick| tick.began.is_some());
                        assert!(!going, "seed {seed}: two at a time");
                        last_begun = Some(*nominal);
                    }
                    Step::Stop { .. } | Step::Late { .. } => {}
                }
                world.apply(step);
            }
        }
        // Left alone, it comes to rest, and every time that came was looked at once, by itself or with a later one.
        world.schedule.paused = false;
        loop {
            let steps = decide(std::slice::from_ref(&world.schedule), &BTreeSet::new(), 1, world.now);
            for step in &steps {
                match step {
                    Step::Wait { nominal, missed, .. } => looked_at.push((*nominal, *missed + 1)),
                    Step::Skip { nominal, .. } => looked_at.push((*nominal, 1)),
                    _ => {}
                }
                world.apply(step);
            }
            match world.schedule.open.first() {
                Some(tick) if tick.began.is_some() => drop(world.end(Ended::Well)),
                Some(tick) => world.now = world.now.max(tick.due),
                None if steps.is_empty() => break,
                None => {}
            }
        }
        let begin = time(from);
        let (count, all) = world.schedule.times.between(begin, world.now, usize::MAX);
        let counted: u64 = looked_at.iter().map(|(_, count)| count).sum();
        assert_eq!(counted, count, "seed {seed}: {:?}", world.schedule.spec);
        assert!(looked_at.iter().all(|(nominal, _)| all.contains(nominal)), "seed {seed}");
        assert!(looked_at.is_sorted_by(|a, b| a.0 < b.0), "seed {seed}");
    }
}
