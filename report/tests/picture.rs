//! Pictures against verdicts: of one case, both say the same; and pages of many clients and
//! of many cycles.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

#[allow(dead_code, unused_imports, reason = "the judge's tests use more of it")]
#[path = "../../judge/tests/judge/world.rs"]
mod world;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use contract::grade::Grade;
use contract::history::{self, Entry, Mark, Nanos};
use contract::jsonl::{LogRecord, Writer};
use contract::observation::{self, Record};
use contract::plan::Plan;
use contract::property::Property;
use judge::picture::{Client, Fate, Operation, Picture, picture};
use judge::verdict::Verdict;
use judge::{Case, Judgement, cycle_dir, judge};
use proptest::prelude::*;
use report::{read, render};

use world::{Shape, World};

const MS: Nanos = 1_000_000;

fn operations(picture: &Picture) -> impl Iterator<Item = (&Client, &Operation)> {
    picture.clients.iter().flat_map(|client| client.operations.iter().map(move |it| (client, it)))
}

fn count(picture: &Picture, wanted: impl Fn(&Client, &Operation) -> bool) -> u64 {
    operations(picture).filter(|(client, operation)| wanted(client, operation)).count() as u64
}

/// The number that a finding's summary begins with; 0 without the finding.
fn reported(judgement: &Judgement, property: Property) -> u64 {
    let finding = judgement.findings.iter().find(|finding| finding.property == property);
    finding.map_or(0, |it| it.summary.split(' ').next().unwrap().parse().unwrap())
}

/// Every number that both have.
fn assert_agree(case: &Case) {
    let (picture, judgement) = (picture(case).unwrap(), judge(case));
    let stall = picture.stall.map(|stall| (stall.to - stall.from) as f64 / 1e6);
    assert_eq!(stall, judgement.timings.write_stall);
    assert_eq!(picture.window.map(|(from, to)| (to - from) as f64 / 1e6), judgement.timings.window);
    let mark = |wanted| picture.marks.iter().find(|(mark, _)| *mark == wanted).map(|(_, t)| *t);
    let still = mark(Mark::FreezeOk).or(mark(Mark::SnapBegin)).unwrap();
    let mut flying = BTreeMap::new();
    for (client, _) in operations(&picture).filter(|(_, it)| it.from <= still && it.to > still) {
        let schema = serde_json::to_value(client.schema).unwrap();
        let way = format!("{} {}", picture.doors[usize::from(client.door)], schema.as_str().unwrap());
        *flying.entry(way).or_insert(0) += 1;
    }
    assert_eq!(flying, judgement.power.in_flight_by);
    assert_eq!(flying.values().sum::<u64>(), judgement.power.in_flight);
    let of = |fates: &[Fate]| count(&picture, |_, it| fates.contains(&it.fate));
    assert_eq!(of(&[Fate::Lost]), reported(&judgement, Property::Durability), "{:?}", judgement.findings);
    assert_eq!(of(&[Fate::Torn]), reported(&judgement, Property::Atomicity), "{:?}", judgement.findings);
}

fn shape(writers: u32, seed: u64) -> Shape {
    Shape { writers, ..Shape::new(seed) }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn stall_and_power_are_the_verdicts(seed in any::<u64>(), freeze in any::<bool>(), held in any::<bool>()) {
        for writers in [1, 33, 100] {
            let world = World::new(&Shape { freeze, held, ..shape(writers, seed) });
            assert_agree(&world.case().unwrap());
        }
    }

    #[test]
    fn counts_are_the_verdicts_where_all_is_in_sight(seed in any::<u64>(), held in any::<bool>()) {
        let world = World::new(&Shape { load_ms: 120, held, ..shape(33, seed) });
        let case = world.case().unwrap();
        let (picture, counts) = (picture(&case).unwrap(), judge(&case).counts);
        let transfers = |fates: &[Fate]| {
            count(&picture, |client, it| client.table.is_none() && it.number.is_some() && fates.contains(&it.fate))
        };
        prop_assert_eq!(transfers(&[Fate::Restored, Fate::UnderLock, Fate::Future]), counts.restored);
        let sent = count(&picture, |client, it| client.table.is_none() && it.number.is_some());
        prop_assert_eq!(sent, counts.acknowledged + counts.unknown);
    }
}

/// The world whose image lacks what is not wanted.
fn without(world: &World, lacks: impl Fn(&Record) -> bool) -> World {
    let mut world = world.clone();
    world.image.retain(|record| !lacks(record));
    world
}

#[test]
fn what_the_verdict_misses_is_lost_in_the_picture() {
    for writers in [3, 33, 100] {
        let world = World::new(&Shape { load_ms: 120, ..shape(writers, 7) });
        let of =
            |record: &Record, which: u8| matches!(record, Record::Leg { c: 2, leg, .. } if *leg == which);
        let lost = without(&world, |record| of(record, 0) || of(record, 1)).case().unwrap();
        assert_agree(&lost);
        assert!(reported(&judge(&lost), Property::Durability) > 0);
        let rows = without(&world, |it| matches!(it, Record::Follow { table, .. } if table == "second_tx"));
        let judgement = judge(&rows.case().unwrap());
        let all = picture(&rows.case().unwrap()).unwrap();
        let lost =
            count(&all, |client, it| client.table.as_deref() == Some("second_tx") && it.fate == Fate::Lost);
        assert_eq!(lost, reported(&judgement, Property::Durability));
        assert!(count(&all, |client, it| client.table.is_none() && it.fate == Fate::Lost) == 0);
    }
}

#[test]
fn halves_are_torn_and_the_future_is_no_past() {
    let world = World::new(&Shape { load_ms: 120, ..shape(5, 3) });
    let case = without(&world, |record| matches!(record, Record::Leg { c: 1, leg: 1, .. })).case().unwrap();
    let halves = count(&picture(&case).unwrap(), |_, it| it.fate == Fate::Torn);
    assert!(halves > 0 && halves == reported(&judge(&case), Property::Atomicity));
    // As if all had been seen long after the snapshot.
    let mut late = world.clone();
    let after = |record: &&Entry| matches!(record, Entry::Ok { t, .. } if *t > world.times.t1);
    assert!(world.history.iter().any(|entry| after(&entry)));
    for entry in
        world.history.iter().filter(|entry| matches!(entry, Entry::Invoke { t, .. } if *t > world.times.t1))
    {
        let Entry::Invoke { c, n, op: history::Op::Transfer { dep, legs, crc }, .. } = entry else {
            continue;
        };
        for (leg, (acct, amt)) in (0..).zip(*legs) {
            let (c, n, dep, crc) = (*c, *n, *dep, *crc);
            late.image.insert(0, Record::Leg { c, n, leg, dep, acct, amt, ver: 1, crc, sum: crc });
        }
    }
    let case = late.case().unwrap();
    let future = count(&picture(&case).unwrap(), |_, it| it.fate == Fate::Future);
    assert!(future > 0);
    assert!(judge(&case).findings.iter().any(|finding| finding.property == Property::NoFuture));
}

#[test]
fn nothing_is_lost_where_nothing_was_observed() {
    let mut world = World::new(&shape(5, 1));
    world.image.pop();
    let cut = picture(&world.case().unwrap()).unwrap();
    assert!(cut.unobserved.unwrap().contains("breaks off"));
    let plain = |client: &Client, it: &Operation| match it.number {
        Some(_) => it.fate == Fate::NotObserved,
        None => it.fate == Fate::RolledBack && client.table.is_none(),
    };
    assert!(cut.clients.iter().all(|client| client.operations.iter().all(|it| plain(client, it))));
    // A table that could not be read shows nothing; the others do.
    let mut world = World::new(&shape(5, 1));
    let error = Record::TableError { table: "nt".into(), error: "1034".into(), gone: false };
    world.image.insert(0, error);
    let part = picture(&world.case().unwrap()).unwrap();
    assert_eq!(part.unobserved, None);
    let seen = |it: &Operation| it.fate != Fate::NotObserved;
    for client in &part.clients {
        let nt = client.table.as_deref() == Some("nt");
        assert!(client.operations.iter().all(|it| it.number.is_none() || seen(it) != nt), "{client:?}");
    }
}

/// One load without a freeze, snapshotted again and again: only such snapshots do not change it.
struct Cycles {
    history: Vec<Entry>,
    images: Vec<Vec<Record>>,
}

impl Cycles {
    fn new(shape: &Shape, at: &[u64]) -> Self {
        let worlds: Vec<_> = at
            .iter()
            .map(|at| World::new(&Shape { freeze: false, freeze_at: *at, ..shape.clone() }))
            .collect();
        let mut history = worlds[0].history.clone();
        let end = history.pop().unwrap();
        for (world, n) in worlds.iter().skip(1).zip(2..) {
            history.push(Entry::Cycle { t: world.times.s0 - 1, n });
            history.extend(world.history.iter().filter(|entry| matches!(entry, Entry::Mark { .. })).cloned());
        }
        history.push(end);
        Self { history, images: worlds.into_iter().map(|world| world.image).collect() }
    }

    fn case(&self, cycle: usize) -> Case {
        Case::of_cycle(cycle as u32, self.history.clone(), Some(self.images[cycle - 1].clone())).unwrap()
    }

    fn write(&self, dir: &Path) {
        write(&dir.join(history::FILE), history::KIND, &self.history);
        for (image, cycle) in self.images.iter().zip(1..) {
            let place = if self.images.len() == 1 { dir.to_owned() } else { cycle_dir(dir, cycle) };
            fs::create_dir_all(&place).unwrap();
            write(&place.join(observation::FILE), observation::KIND, image);
        }
    }
}

fn write<T: LogRecord + serde::Serialize>(path: &Path, kind: &str, records: &[T]) {
    let mut out = Writer::<T>::create(path, kind).unwrap();
    records.iter().for_each(|record| out.write(record).unwrap());
    out.flush().unwrap();
}

#[test]
fn each_cycle_has_fates_of_its_own() {
    for writers in [1, 33, 100] {
        let cycles = Cycles::new(&shape(writers, 5), &[20, 50, 80]);
        for cycle in 1..=3 {
            let case = cycles.case(cycle);
            assert_agree(&case);
            let restored = count(&picture(&case).unwrap(), |_, it| it.fate == Fate::Restored);
            assert!(restored > 0, "cycle {cycle} of {writers} writers");
        }
    }
}

/// A run of one trial, whose plan is that of the documentation with these grades expected.
struct Run {
    root: tempfile::TempDir,
    dir: PathBuf,
}

impl Run {
    fn new(grades: &[Grade]) -> Self {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("some-trial");
        fs::create_dir(&dir).unwrap();
        let (_, rest) = include_str!("../../docs/formats.md").split_once("\n## `plan.json`\n").unwrap();
        let json = rest.split_once("```json\n").unwrap().1.split_once("```").unwrap().0;
        let mut plan: serde_json::Value = serde_json::from_str(json).unwrap();
        plan["expect"]["grade"] = serde_json::json!(grades);
        plan["dir"] = serde_json::json!(dir);
        fs::write(dir.join("plan.json"), plan.to_string()).unwrap();
        Self { root, dir }
    }

    /// Judges it as a trial does.
    fn judge(&self) -> (Verdict, Vec<Verdict>) {
        let (verdict, cycles) = Verdict::over(&Plan::read(&self.dir).unwrap(), &self.dir, true).unwrap();
        verdict.write(&self.dir).unwrap();
        (verdict, cycles)
    }

    fn page(&self) -> String {
        let root = self.root.path().canonicalize().unwrap();
        let page = render(&read::page(std::slice::from_ref(&root), &root, Path::new("/nowhere")).unwrap());
        // For a look in a browser.
        if let Some(folder) = std::env::var_os("FREEZEFRAME_PAGES") {
            let name = std::thread::current().name().unwrap_or("page").replace(':', "_");
            fs::write(Path::new(&folder).join(format!("{name}-{}.html", page.len())), &page).unwrap();
        }
        page
    }
}

/// The label of the stall, where the page is of this verdict.
fn stall(verdict: &Verdict) -> String {
    let ms = verdict.timings_ms.write_stall.unwrap();
    let ms = if ms < 10.0 { format!("{ms:.1} ms") } else { format!("{ms:.0} ms") };
    format!("no transfer acknowledged for {ms}")
}

#[test]
fn any_number_of_clients_is_drawn() {
    for (writers, says) in [
        (1, &["through tcp: 1 writer, and rows of nt, ar", "client 1"][..]),
        (33, &["through tcp: 17 writers, and rows of nt, ar", "through socket-admin: 16 writers"]),
        (64, &["through tcp: 32 writers"]),
        (500, &["through tcp: 250 writers", "504 clients, up to 3 in each row"]),
    ] {
        let run = Run::new(&[Grade::ApplicationConsistent]);
        let world = World::new(&shape(writers, 1));
        Cycles { history: world.history, images: vec![world.image] }.write(&run.dir);
        let (verdict, _) = run.judge();
        let page = run.page();
        for text in says.iter().copied().chain([&*stall(&verdict), "What it could see"]) {
            assert!(page.contains(text), "{writers} writers: `{text}` is not on the page");
        }
        assert!(!page.contains("of these clients") && page.len() < 800_000, "{writers}: {}", page.len());
    }
}

/// What a property means on PostgreSQL stands on the page of a trial of it, and on no other.
#[test]
fn a_trial_of_postgresql_says_what_its_properties_mean_there() {
    for shape in [Shape { losing: 0, ..shape(5, 1) }, Shape { losing: 0, ..Shape::postgresql(1) }] {
        let run = Run::new(&[Grade::ApplicationConsistent]);
        let world = World::new(&shape);
        Cycles { history: world.history, images: vec![world.image] }.write(&run.dir);
        let (verdict, _) = run.judge();
        assert_eq!(verdict.grade, Grade::ApplicationConsistent, "{}", verdict.reason);
        let page = run.page();
        let by_lock = shape.quiescence.is_lock();
        let meaning = format!(
            "{} On PostgreSQL: {}",
            Property::TablesClosed.claim(),
            Property::TablesClosed.on_postgresql()
        );
        assert_eq!(page.contains(&meaning), !by_lock);
        assert_eq!(page.contains("On PostgreSQL:"), !by_lock);
        // The COMMITs that were kept out are what is good, and an UNLOGGED table shows nothing.
        for (text, shown) in [
            ("probe locked", true),
            ("probe hung", false),
            ("UPDATE of a MEMORY table", by_lock),
            ("UPDATE of an UNLOGGED table", !by_lock),
            ("in backup mode until the thaw", !by_lock),
            ("waited for the server's lock until the thaw", by_lock),
        ] {
            assert_eq!(page.contains(text), shown, "`{text}`: {page}");
        }
    }
}

#[test]
fn every_cycle_has_a_place_and_the_worst_is_open() {
    let run = Run::new(&[Grade::CrashConsistent]);
    let mut cycles = Cycles::new(&shape(6, 9), &[10, 25, 40, 55, 70, 85]);
    cycles.images[3].retain(|record| !matches!(record, Record::Leg { c: 1, .. }));
    cycles.write(&run.dir);
    let (verdict, all) = run.judge();
    assert!(verdict.reason.contains("cycle 4"), "{}", verdict.reason);
    let page = run.page();
    for text in ["6 cycles under one load", "<details open><summary><b>Cycle 4</b>", "The other 2"] {
        assert!(page.contains(text), "`{text}` is not on the page: {page}");
    }
    for (cycle, n) in all.iter().zip(1..) {
        assert!(page.contains(&stall(cycle)), "cycle {n}");
        assert!(
            page.contains(&format!("href=\"#trial-1-{n}\"")) && page.contains(&format!("id=\"trial-1-{n}\""))
        );
    }
    assert!(!page.contains("no complete observation"));
    // One without a verdict is judged anew, and comes out the same.
    let place = cycle_dir(&run.dir, 4);
    fs::remove_file(place.join("verdict.json")).unwrap();
    let details =
        |page: &str| page.split("id=\"trial-1-4\"").nth(1).unwrap().split("</details>").next().unwrap().len();
    assert!(details(&run.page()).abs_diff(details(&page)) < 100);
    // Without an observation it shows what was sent.
    fs::write(place.join(observation::FILE), "{").unwrap();
    let page = run.page();
    assert!(page.contains("observation.jsonl:1: ") && page.contains("no complete observation"), "{page}");
}

#[test]
fn two_hundred_cycles_stay_one_page() {
    let run = Run::new(&[Grade::CrashConsistent]);
    let shape = Shape { freeze: false, load_ms: 5_000, ..shape(33, 2) };
    let World { mut history, times, .. } = World::new(&shape);
    let end = history.pop().unwrap();
    for n in 2..=200 {
        let t = times.s1 + u64::from(n) * 10 * MS;
        history.push(Entry::Cycle { t, n });
        let marks =
            [Mark::FreezeCall, Mark::FreezeOk, Mark::SnapBegin, Mark::SnapEnd, Mark::ThawCall, Mark::ThawOk];
        history.extend(marks.into_iter().zip(1..).map(|(mark, at)| Entry::Mark {
            t: t + at * MS,
            mark,
            detail: String::new(),
        }));
    }
    history.push(end);
    Cycles { history, images: vec![] }.write(&run.dir);
    let page = run.page();
    assert_eq!(page.matches("class=\"small\"").count(), 200);
    assert_eq!(page.matches("<b>Cycle ").count(), 200);
    assert!(page.len() < 4_000_000, "{}", page.len());
}

#[test]
fn the_largest_numbers_that_a_history_may_have_stay_one_page() {
    let run = Run::new(&[Grade::CrashConsistent]);
    let World { mut history, times, .. } = World::new(&Shape { freeze: false, ..shape(3, 2) });
    let Some(Entry::Setup(setup)) = history.first_mut() else { unreachable!() };
    // The followers' clients are others then.
    setup.writers = 65_536;
    history.retain(|entry| !matches!(entry, Entry::Invoke { c: 4.., .. } | Entry::Ok { c: 4.., .. }));
    let end = history.pop().unwrap();
    for n in 2..=40 {
        let t = times.s1 + u64::from(n);
        history.push(Entry::Cycle { t, n });
        history.push(Entry::Mark { t, mark: Mark::SnapBegin, detail: String::new() });
    }
    history.push(end);
    Cycles { history, images: vec![] }.write(&run.dir);
    let page = run.page();
    assert!(page.contains("65540 clients, up to"), "{page}");
    assert!(page.len() < 2_000_000, "{}", page.len());
}
