//! Trials at random: a right one never raises a finding, and one thing wrong
//! always does.

use contract::finding::Status;
use contract::grade::Grade;
use contract::history::{Entry, Nanos, ddl_tables};
use contract::observation::Record;
use contract::property::Property;
use judge::judge;
use proptest::prelude::*;

use crate::world::{Random, Shape, World};

fn shapes() -> impl Strategy<Value = Shape> {
    let kinds = any::<(bool, bool)>();
    (any::<u64>(), 1u32..9, 2u32..20, 1usize..5, 60u64..300, 0u64..30, 0u64..20, kinds).prop_map(
        |(seed, writers, accounts, followers, load_ms, failing, losing, (by_lock, tool))| {
            let right = if by_lock { Shape::new(seed) } else { Shape::postgresql(seed) };
            let right = Shape { tool, ..right };
            let most = right.followers.len();
            let followers = right.followers[..followers.min(most)].to_vec();
            Shape { writers, accounts, followers, load_ms, failing, losing, ..right }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_right_trial_has_no_finding(shape in shapes()) {
        let world = World::new(&shape);
        let judgement = world.judge();
        prop_assert!(judgement.findings.is_empty(), "{:#?}", judgement.findings);
        // With every client lost before the freeze, or between two transfers, nothing can be proven.
        let idle = judgement.grade == Grade::Unknown;
        prop_assert!(idle || judgement.grade == Grade::ApplicationConsistent, "{}", judgement.reason);
        let powerless = ["in flight", "was acknowledged", "no acknowledgement"].iter().any(|why| judgement.reason.contains(why));
        prop_assert!(!idle || powerless, "{}", judgement.reason);
    }

    #[test]
    fn a_live_snapshot_is_never_more_than_crash_consistent(shape in shapes()) {
        let judgement = World::new(&Shape { freeze: false, ..shape }).judge();
        prop_assert!(
            matches!(judgement.grade, Grade::CrashConsistent | Grade::Unknown),
            "{}: {:#?}", judgement.reason, judgement.findings
        );
        // The cut itself is right: only properties about the missing freeze may be broken.
        for finding in &judgement.findings {
            prop_assert!(["Q1", "T1"].contains(&finding.id.as_str()), "{}", finding.id);
        }
    }

    #[test]
    fn one_lost_row_is_never_missed(shape in shapes(), pick in any::<u64>()) {
        let mut world = World::new(&shape);
        let rows: Vec<usize> = (0..world.image.len())
            .filter(|at| matches!(world.image[*at], Record::Leg { .. } | Record::Account { .. }))
            .collect();
        prop_assume!(!rows.is_empty());
        world.image.remove(rows[(pick % rows.len() as u64) as usize]);
        let judgement = world.judge();
        prop_assert!(!judgement.findings.is_empty());
        prop_assert!(judgement.grade >= Grade::Inconsistent, "{}", judgement.reason);
    }

    #[test]
    fn one_changed_number_is_never_missed(shape in shapes(), pick in any::<u64>(), by in 1u32..1000) {
        let mut world = World::new(&shape);
        let rows: Vec<usize> = (0..world.image.len())
            .filter(|at| matches!(world.image[*at], Record::Leg { .. } | Record::Account { .. } | Record::Counter { .. }))
            .collect();
        let random = &mut Random(pick);
        let at = rows[random.below(rows.len() as u64) as usize];
        match &mut world.image[at] {
            Record::Counter { c, n } => *[c, n][random.below(2) as usize] ^= by,
            Record::Account { id, balance, ver } => match random.below(3) {
                0 => *id ^= by,
                1 => *balance ^= i64::from(by),
                _ => *ver ^= by,
            },
            Record::Leg { c, n, leg, dep: _, acct, amt, ver, crc, sum } => match random.below(8) {
                0 => *c ^= by,
                1 => *n ^= by,
                2 => *leg ^= by as u8 | 1,
                3 => *acct ^= by,
                4 => *amt ^= i64::from(by),
                5 => *ver ^= by,
                6 => *crc ^= by,
                _ => *sum ^= by,
            },
            _ => unreachable!("only these were picked"),
        }
        let judgement = world.judge();
        prop_assert!(!judgement.findings.is_empty());
        prop_assert!(judgement.grade >= Grade::Inconsistent, "{}", judgement.reason);
    }

    #[test]
    fn a_lock_that_is_not_held_is_never_missed(shape in shapes()) {
        let world = World::new(&Shape { held: false, ..shape });
        let judgement = world.judge();
        let mut sent = std::collections::HashMap::new();
        let writing = world.history.iter().any(|entry| match entry {
            Entry::Invoke { t, c, .. } => {
                sent.insert(*c, *t);
                false
            }
            Entry::Ok { t, c, .. } => sent[c] > world.times.f1 && *t < world.times.t0,
            _ => false,
        });
        prop_assert!(!judgement.findings.is_empty() || !writing, "{}", judgement.reason);
    }

    #[test]
    fn hostile_numbers_do_not_break_the_judge(shape in shapes(), seed in any::<u64>()) {
        let mut world = World::new(&shape);
        let random = &mut Random(seed);
        for _ in 0..20 {
            let at = random.below(world.image.len() as u64) as usize;
            // The new records are few: they are hit on purpose, too.
            let at = if random.percent(30) { at.min(60) } else { at };
            let huge = [0, 1, u32::MAX, u32::MAX - 1, 1 << 31][random.below(5) as usize];
            let wide = [i64::MIN, i64::MAX, -1, 0][random.below(4) as usize];
            match &mut world.image[at] {
                Record::Account { id, balance, ver } => {
                    *balance = wide;
                    *[id, ver][random.below(2) as usize] = huge;
                }
                Record::Leg { c, n, leg, acct, amt, ver, .. } => {
                    *amt = wide;
                    *leg = huge as u8;
                    *[c, n, acct, ver][random.below(4) as usize] = huge;
                }
                Record::Follow { c, n, .. } | Record::Counter { c, n } => *[c, n][random.below(2) as usize] = huge,
                Record::Index { primary, .. } => *primary = [u64::MAX; 2],
                Record::WalPosition { start, lsn, .. } => (*start, *lsn) = (Some(wide as u64), huge.into()),
                Record::Checkpoint { redo: lsn, .. } | Record::WalEnd { lsn, .. } => *lsn = wide as u64,
                Record::Heartbeats { count, .. } => *count = huge,
                Record::Bulk { n, rows, torn } => (*n, *rows, *torn) = (huge, u64::MAX, u64::MAX),
                Record::Table { rows, .. } => *rows = u64::MAX,
                Record::DdlTables { tables } => tables.push(String::new()),
                _ => {}
            }
        }
        // A statement that is counted twice is refused.
        let Ok(case) = world.case() else { return Ok(()) };
        let judgement = judge(&case);
        let all_hold = judgement.properties.values().all(|status| !matches!(status, Status::Broken));
        prop_assert_eq!(all_hold, judgement.findings.is_empty());
    }

    #[test]
    fn swapped_lines_change_nothing_or_are_refused(shape in shapes(), seed in any::<u64>()) {
        let mut world = World::new(&shape);
        let random = &mut Random(seed);
        let (a, b) = (random.below(world.history.len() as u64) as usize, random.below(world.history.len() as u64) as usize);
        let before = world.judge();
        world.history.swap(a, b);
        // Lines of different clients may stand in any order; what is accepted
        // must mean the same.
        if let Ok(case) = world.case() {
            prop_assert_eq!(judge(&case), before);
        }
    }
}

/// A heartbeat: when it was sent, was synced, and was answered, if it was.
type Beat = (Nanos, Nanos, Option<Nanos>);

/// Heartbeats of a disk until the end of the load.
fn beats(random: &mut Random, start: Nanos, end: Nanos, pace: Nanos) -> Vec<Beat> {
    let mut beats = Vec::new();
    let mut sent = start + random.below(pace);
    while sent < end {
        let synced = sent + random.below(pace);
        let answered = synced + random.below(pace);
        beats.push((sent, synced, (!random.percent(5)).then_some(answered)));
        sent = answered + random.below(pace);
    }
    beats
}

/// Puts these heartbeats in the place of a disk's; the disk stopped at `cut`.
fn set_beats(world: &mut World, name: &str, beats: &[Beat], cut: Nanos) -> usize {
    world.history.retain(|entry| !matches!(entry, Entry::Heartbeat { disk, .. } if disk == name));
    let end = world.history.len() - 1;
    let entries =
        (1..).zip(beats).map(|(n, (t, _, end))| Entry::Heartbeat { t: *t, end: *end, disk: name.into(), n });
    world.history.splice(end..end, entries);
    let held = beats.iter().filter(|(_, synced, _)| *synced <= cut).count();
    for record in &mut world.image {
        if let Record::Heartbeats { disk, count, .. } = record
            && disk == name
        {
            *count = held as u32;
        }
    }
    held
}

/// Whether some instant is one at which all disks may have stopped, asked of
/// every instant at which something happened.
fn one_instant(disks: &[(&[Beat], usize)]) -> bool {
    let admits = |at: Nanos| {
        disks.iter().all(|(beats, held)| {
            (0..).zip(*beats).all(|(n, (sent, _, answered))| {
                if n < *held { *sent <= at } else { answered.is_none_or(|answered| at <= answered) }
            })
        })
    };
    let instants = disks.iter().flat_map(|(beats, _)| beats.iter());
    instants.flat_map(|(sent, _, answered)| [Some(*sent), *answered]).flatten().any(admits)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn disks_agree_exactly_if_one_instant_explains_them(
        seed in any::<u64>(), paces in [1u64..12, 1u64..12], skew in 0u64..40, freeze in any::<bool>(),
    ) {
        const MS: Nanos = 1_000_000;
        let mut world = World::new(&Shape { load_ms: 60, freeze, ..Shape::new(seed) });
        let random = &mut Random(seed);
        let (start, end) = (1_000 * MS, world.times.t1 + 20 * MS);
        let cut = world.times.s0 + random.below(world.times.s1 - world.times.s0);
        let [a, b] = paces.map(|pace| beats(random, start, end, pace * MS));
        // A disk with no answer before the freeze shows nothing.
        let s0 = world.times.s0;
        let heard = |beats: &[Beat]| beats.iter().any(|(_, _, answered)| answered.is_some_and(|t| t < s0));
        prop_assume!(heard(&a) && heard(&b));
        let held = [
            set_beats(&mut world, "vda", &a, cut),
            set_beats(&mut world, "vdb", &b, cut.saturating_sub(skew * MS)),
        ];
        let right = one_instant(&[(&a, held[0]), (&b, held[1])]);
        prop_assert!(right || skew > 0);
        let judgement = world.judge();
        let expected = if right { Status::Holds } else { Status::Broken };
        prop_assert_eq!(&judgement.properties[&Property::DiskAgreement], &expected, "{}", judgement.reason);
        if !right {
            prop_assert!(judgement.grade >= Grade::Inconsistent, "{}", judgement.reason);
        }
        // With nothing frozen, one cut owes nothing that it lacks.
        if skew == 0 && !freeze {
            prop_assert_eq!(&judgement.properties[&Property::OutsideFiles], &Status::Holds);
        }
    }

    #[test]
    fn one_lost_record_beside_the_transfers_is_never_missed(shape in shapes(), pick in any::<u64>()) {
        let mut world = World::new(&shape);
        let places: Vec<usize> = (0..world.image.len())
            .filter(|at| match &world.image[*at] {
                Record::Heartbeats { count, .. } => *count > 0,
                Record::DdlTables { tables } => *tables != ddl_tables(0),
                Record::Bulk { .. } | Record::Table { .. } => true,
                _ => false,
            })
            .collect();
        let at = places[(pick % places.len() as u64) as usize];
        let expected = match &mut world.image[at] {
            Record::Heartbeats { count, .. } => {
                *count -= 1;
                Property::OutsideFiles
            }
            Record::DdlTables { tables } => {
                let before = (1..1000).find(|steps| ddl_tables(*steps) == *tables).unwrap() - 1;
                *tables = ddl_tables(before);
                Property::QuiescedDurability
            }
            Record::Bulk { .. } => {
                world.image.remove(at);
                Property::NonTransactionalDurability
            }
            _ => {
                world.image.remove(at);
                Property::RollForward
            }
        };
        let judgement = world.judge();
        prop_assert_eq!(&judgement.properties[&expected], &Status::Broken, "{}", judgement.reason);
        prop_assert!(judgement.grade >= Grade::CrashConsistent, "{}", judgement.reason);
    }
}
