//! The judge against trials with a backup tool: what a tool can do wrong, what its word is worth, and that
//! everything else is found as without one.

use std::fs;
use std::path::Path;

use Grade::{ApplicationConsistent, CrashConsistent, Inconsistent, Refused, Unknown, Unusable};
use contract::finding::Status;
use contract::grade::{Grade, Outcome};
use contract::history::{
    self, AgentCommand, CommandEnd, CopyInstant, DiskProblem, DiskProblemKind, DiskWrites, Entry,
    FREEZE_LIST, Leftover, LeftoverKind, Level, Mark, Nanos, Probe, Sender, THAW, ToolStep,
};
use contract::jsonl::Writer;
use contract::observation::{self, Record};
use contract::plan::Plan;
use contract::property::Property;
use contract::scenario::{BackupTool, Fault, Point, Signal, Strike};
use judge::verdict::Verdict;
use judge::{Judgement, TrialFiles, cycle_dir, judge};

use crate::evidence::no_property_holds_without_what_it_needs;
use crate::mutants::{
    BROKEN_TRIALS, LEGAL, LIVE_LEGAL, LIVE_MUTANTS, MUTANTS, Mutant, Mutation, MutationTable, NOTHING, live,
    replace_mark, setup,
};
use crate::world::{MarkTimes, Shape, World, indexed};

const MS: Nanos = 1_000_000;

fn with_tool(shape: Shape) -> Shape {
    Shape { tool: true, ..shape }
}

fn right(seed: u64) -> Shape {
    with_tool(Shape::new(seed))
}

fn right_live(seed: u64) -> Shape {
    with_tool(live(Shape::new(seed)))
}

/// What a tool can do wrong.
const OWN: &[Mutant] = &[
    // T1: what it says of a freeze.
    ("the freeze was refused, and exit 0", Property::HeededFreeze, CrashConsistent, refuse_freeze),
    ("the freeze was refused twice, and exit 0", Property::HeededFreeze, CrashConsistent, |world| {
        refuse_freeze(world);
        let again = commands(world).next().expect("the freeze").clone();
        insert(world, Entry::AgentCommand(again));
    }),
    ("the freeze was never answered, and exit 0", Property::HeededFreeze, CrashConsistent, |world| {
        refuse_freeze(world);
        commands(world).for_each(|it| (it.end, it.error) = (None, None));
    }),
    ("the freeze was answered after the copy had begun", Property::HeededFreeze, CrashConsistent, |world| {
        refuse_freeze(world);
        let late = world.times.s0 + 20 * MS;
        commands(world).for_each(|it| (it.end, it.error) = (Some(late), None));
    }),
    (
        "the freeze was answered after the tool had ended",
        Property::HeededFreeze,
        CrashConsistent,
        late_freeze,
    ),
    ("the harness froze, and the tool did not", Property::HeededFreeze, CrashConsistent, |world| {
        commands(world).for_each(|it| it.by = Sender::Harness);
        unfreeze(world);
    }),
    // T2: what it says of a thaw.
    ("the thaw failed, and exit 0", Property::HeededThaw, CrashConsistent, fail_thaw),
    ("the thaw failed, was tried again, and exit 0", Property::HeededThaw, CrashConsistent, |world| {
        let again = thaw(world).clone();
        fail_thaw(world);
        insert(world, Entry::AgentCommand(again));
    }),
    ("the thaw failed, and exit 0 (Q4)", Property::LockIdentity, CrashConsistent, fail_thaw),
    ("the thaw was never answered, and exit 0", Property::HeededThaw, CrashConsistent, |world| {
        thaw(world).end = None;
    }),
    ("no thaw was asked for, and exit 0", Property::HeededThaw, CrashConsistent, leave_frozen),
    ("a thaw after the tool had ended, and exit 0", Property::HeededThaw, CrashConsistent, |world| {
        let late = ended_at(world) + 1;
        (thaw(world).t, thaw(world).end) = (late, Some(late + 1));
    }),
    // T3: a guest that is left frozen.
    ("no thaw was asked for", Property::ThawedGuest, CrashConsistent, leave_frozen),
    ("a thaw after the tool had ended", Property::ThawedGuest, CrashConsistent, |world| {
        let late = ended_at(world) + 1;
        (thaw(world).t, thaw(world).end) = (late, Some(late + 1));
    }),
    ("the guest was found frozen", Property::ThawedGuest, ApplicationConsistent, |world| {
        left(world).push(thing(LeftoverKind::FrozenGuest));
    }),
    (
        "a freeze that was answered after the tool had ended",
        Property::ThawedGuest,
        CrashConsistent,
        late_freeze,
    ),
    ("killed in the window", Property::ThawedGuest, Refused, |world| {
        end(world, CommandEnd::Fault(9));
        leave_frozen(world);
    }),
    ("exit 1, and the guest frozen", Property::ThawedGuest, Refused, |world| {
        end(world, CommandEnd::Exit(1));
        leave_frozen(world);
    }),
    // T4: when it copied.
    ("a disk copied before the freeze returned", Property::CopyInstant, CrashConsistent, |world| {
        let early = world.times.f1 - 6 * MS;
        commands(world).next().expect("the freeze").end = Some(early);
        copies(world).next().expect("a copy").t = early;
    }),
    ("a disk copied after the thaw", Property::CopyInstant, CrashConsistent, |world| {
        let late = world.times.t0 + 6 * MS;
        copies(world).last().expect("a copy").t = late;
    }),
    ("a disk copied twice, once after the thaw", Property::CopyInstant, CrashConsistent, |world| {
        let copy = copies(world).next().expect("a copy").clone();
        let t = world.times.t0 + 6 * MS;
        insert(world, Entry::CopyInstant(CopyInstant { t, ..copy }));
    }),
    // T5: what the guest wrote meanwhile.
    ("writes traced in the window", Property::TracedSilence, CrashConsistent, |world| loud(world, 9)),
    // T6: what it leaves behind.
    ("a domain job left", Property::NothingLeft, ApplicationConsistent, |world| {
        left(world).push(thing(LeftoverKind::DomainJob));
    }),
    ("a block job left", Property::NothingLeft, ApplicationConsistent, |world| {
        left(world).push(thing(LeftoverKind::BlockJob));
    }),
    ("the domain runs on another file", Property::NothingLeft, ApplicationConsistent, |world| {
        left(world).push(thing(LeftoverKind::DiskSource));
    }),
    ("a scratch file left", Property::NothingLeft, ApplicationConsistent, |world| {
        left(world).push(thing(LeftoverKind::ScratchFile));
    }),
    ("killed while copying, a job left", Property::NothingLeft, Refused, |world| {
        end(world, CommandEnd::Fault(9));
        left(world).push(thing(LeftoverKind::DomainJob));
    }),
    // T7: what the next backup finds.
    ("a backup that fails after one that left a job", Property::NextBackup, Refused, |world| {
        backup_before(world, CommandEnd::Fault(9), vec![thing(LeftoverKind::DomainJob)]);
        end(world, CommandEnd::Exit(1));
    }),
    (
        "a backup that fails after one that left a job, and said good",
        Property::NextBackup,
        Refused,
        |world| {
            backup_before(world, CommandEnd::Exit(0), vec![thing(LeftoverKind::DomainJob)]);
            end(world, CommandEnd::Exit(2));
        },
    ),
    // T8: what is restored.
    ("the restore command fails", Property::WholeRestore, Unusable, |world| {
        restored(world, CommandEnd::Exit(1));
        world.image.clear();
    }),
    ("a disk is not handed back", Property::WholeRestore, Unusable, |world| {
        problem(world, DiskProblemKind::Missing);
    }),
    ("a restored disk leans on the source's", Property::WholeRestore, Unusable, |world| {
        problem(world, DiskProblemKind::Outside);
    }),
    ("a restored disk is damaged", Property::WholeRestore, Unusable, |world| {
        problem(world, DiskProblemKind::Damaged);
    }),
    ("a restored disk has another size", Property::WholeRestore, Inconsistent, |world| {
        problem(world, DiskProblemKind::OtherSize);
    }),
    // T9: what it did to others.
    ("the image's files changed", Property::UntouchedImage, ApplicationConsistent, |world| {
        for step in steps(world) {
            if let ToolStep::Image { changed, .. } = step {
                changed.push("vda.raw: 4096 bytes larger".into());
            }
        }
    }),
    // T10: how long writers waited.
    ("writers waited for more than a minute", Property::ShortStall, ApplicationConsistent, |world| {
        thaw_later(world, 60_000 * MS);
    }),
];

/// The same of a tool that asks for no freeze.
const OWN_LIVE: &[Mutant] = &[
    ("no freeze, and exit 0", Property::HeededFreeze, CrashConsistent, |_| {}),
    ("no freeze, a job left", Property::NothingLeft, CrashConsistent, |world| {
        left(world).push(thing(LeftoverKind::DomainJob));
    }),
    ("no freeze, a disk is missing", Property::WholeRestore, Unusable, |world| {
        problem(world, DiskProblemKind::Missing);
    }),
];

/// What a tool may do.
const OWN_LEGAL: &[(&str, Mutation)] = &[
    ("freezes some file systems only by name", |world| {
        commands(world).next().expect("the freeze").command = FREEZE_LIST.to_owned();
    }),
    ("a freeze that was refused, and one that was not", |world| {
        let first = commands(world).next().expect("the freeze").clone();
        let error = Some("hook failed".to_owned());
        insert(
            world,
            Entry::AgentCommand(AgentCommand { t: first.t - 2, end: Some(first.t - 1), error, ..first }),
        );
    }),
    ("a window before, in which it only tried", tried_before),
    ("a copy as QEMU's clock runs a little late", |world| {
        let t = world.times.t0 + 4 * MS;
        copies(world).for_each(|copy| copy.t = t);
    }),
    ("what a frozen ext4 may still write", |world| loud(world, 8)),
    ("another backup before", |world| backup_before(world, CommandEnd::Exit(0), vec![])),
    ("another backup before, which left a job that was no obstacle", |world| {
        backup_before(world, CommandEnd::Exit(0), vec![thing(LeftoverKind::DomainJob)]);
    }),
    ("another backup before, which left the guest frozen", |world| {
        let frozen = Leftover { until: Some(7), since: Some(5), ..thing(LeftoverKind::FrozenGuest) };
        backup_before(world, CommandEnd::Exit(1), vec![frozen]);
    }),
    ("the harness thawed once more", |world| {
        let t = ended_at(world) + 1;
        let again = AgentCommand { t, end: Some(t + 1), by: Sender::Harness, ..thaw(world).clone() };
        insert(world, Entry::AgentCommand(again));
    }),
    ("commands that are about nothing here", |world| {
        let t = world.times.f1;
        let command = "guest-sync".to_owned();
        let sync = AgentCommand { t, end: None, command, by: Sender::Tool, error: None, count: None };
        insert(world, Entry::AgentCommand(sync));
    }),
    ("a trace of more than the window beside that of the window", |world| {
        let MarkTimes { f0, t1, .. } = world.times;
        let loud = DiskWrites { from: f0, to: t1, count: 900, first: Some(f0), last: Some(t1) };
        insert(world, Entry::DiskWrites(loud));
    }),
    ("a snapshot of which QEMU reports no copy", |world| {
        world.history.retain(|it| !matches!(it, Entry::CopyInstant(_)));
    }),
    ("no trace", |world| world.history.retain(|it| !matches!(it, Entry::DiskWrites(_)))),
    ("no version, and no words", |world| {
        for step in steps(world) {
            if let ToolStep::Ended { said, .. } = step {
                said.clear();
            }
        }
    }),
];

/// What is planted elsewhere and cannot be found as it is, because a tool's word decides about that.
const DECIDED_BY_THE_TOOL: &[&str] = &["freeze refused", "another cycle before"];

#[test]
fn the_mutation_table() {
    let mut table = MutationTable::begin();
    OWN.iter().for_each(|mutant| table.plant(mutant, right));
    OWN_LIVE.iter().for_each(|mutant| table.plant(mutant, right_live));
    [NOTHING].iter().chain(OWN_LEGAL).for_each(|legal| table.allow(legal, right));
    table.allow(&NOTHING, |seed| with_tool(Shape::postgresql(seed)));
    table.end();
}

/// A tool makes a freeze window as the harness does.
#[test]
fn what_is_wrong_without_a_tool_is_as_wrong_with_one() {
    let mut table = MutationTable::begin();
    MUTANTS.iter().for_each(|mutant| table.plant(mutant, right));
    LIVE_MUTANTS.iter().for_each(|mutant| table.plant(mutant, right_live));
    let legal = LEGAL.iter().filter(|it| !DECIDED_BY_THE_TOOL.contains(&it.0));
    legal.for_each(|legal| table.allow(legal, right));
    table.end();
    for (name, change) in LIVE_LEGAL {
        let mut world = World::new(&right_live(1));
        change(&mut world);
        assert_eq!(ids(&world.judge()), ["T1", "Q1"], "{name}");
    }
    for (name, grade, reason, mutate) in
        BROKEN_TRIALS.iter().filter(|it| !DECIDED_BY_THE_TOOL.contains(&it.0))
    {
        let mut world = World::new(&right(1));
        mutate(&mut world);
        let judgement = world.judge();
        assert_eq!(judgement.grade, *grade, "{name}: {}", judgement.reason);
        assert!(judgement.reason.contains(reason), "{name}: {} should say {reason}", judgement.reason);
    }
}

fn ids(judgement: &Judgement) -> Vec<&str> {
    judgement.findings.iter().map(|finding| finding.id.as_str()).collect()
}

#[test]
fn every_property_of_tools_is_examined_and_has_a_mutant() {
    let mut world = World::new(&right(1));
    let one = world.judge().properties;
    assert!(!one.contains_key(&Property::NextBackup), "there is no other");
    backup_before(&mut world, CommandEnd::Exit(0), vec![]);
    let two = world.judge().properties;
    for property in Property::ALL.into_iter().filter(|it| it.is_of_tools()) {
        assert_eq!(two[&property], Status::Holds, "{property}");
        assert!(OWN.iter().any(|it| it.1 == property), "{property} has no mutant");
    }
    assert_eq!(two.len(), Property::ALL.len());
}

/// A trial without a tool knows nothing of them.
#[test]
fn nothing_is_said_of_tools_without_one() {
    let judgement = World::new(&Shape::new(1)).judge();
    assert!(!judgement.properties.keys().any(|it| it.is_of_tools()));
    assert!(judgement.power.not_examined.is_empty() && judgement.backup.is_none());
}

/// What was taken away or weakened: the property that must not hold any more.
const OWN_WEAKENED: &[(&str, Property, Mutation)] = &[
    ("the commands were not recorded", Property::HeededFreeze, drop_commands),
    ("the commands were not recorded (T2)", Property::HeededThaw, drop_commands),
    ("the commands were not recorded (T3)", Property::ThawedGuest, drop_commands),
    ("nobody looked", Property::ThawedGuest, |world| {
        drop_steps(world, |it| matches!(it, ToolStep::Left { .. }));
    }),
    ("nobody looked (T6)", Property::NothingLeft, |world| {
        drop_steps(world, |it| matches!(it, ToolStep::Left { .. }));
    }),
    ("nobody looked after the backup before", Property::NextBackup, |world| {
        backup_before(world, CommandEnd::Exit(1), vec![]);
        drop_steps(world, |it| matches!(it, ToolStep::Left { n: 1, .. }));
    }),
    ("the copy of one disk was not reported", Property::CopyInstant, |world| {
        world.history.retain(|it| !matches!(it, Entry::CopyInstant(copy) if copy.disk == "vdb"));
    }),
    ("no trace", Property::TracedSilence, |world| {
        world.history.retain(|it| !matches!(it, Entry::DiskWrites(_)));
    }),
    ("a trace of half the window", Property::TracedSilence, |world| {
        let half = world.times.s0;
        traced(world).to = half;
    }),
    ("a trace of the end of the window", Property::TracedSilence, |world| {
        let half = world.times.s0;
        traced(world).from = half;
    }),
    ("no restore", Property::WholeRestore, |world| {
        drop_steps(world, |it| matches!(it, ToolStep::Restored { .. } | ToolStep::HandedBack { .. }));
    }),
    ("nobody looked at one disk", Property::WholeRestore, |world| {
        drop_steps(world, |it| matches!(it, ToolStep::HandedBack { disk, .. } if disk == "vdb"));
    }),
    ("the restore was out of time", Property::WholeRestore, |world| restored(world, CommandEnd::OutOfTime)),
    ("the image's files were not compared", Property::UntouchedImage, |world| {
        drop_steps(world, |it| matches!(it, ToolStep::Image { .. }));
    }),
    ("no file of the image was compared", Property::UntouchedImage, |world| {
        for step in steps(world) {
            if let ToolStep::Image { files, .. } = step {
                *files = 0;
            }
        }
    }),
    ("no transfer was acknowledged", Property::ShortStall, |world| {
        world.history.retain(|it| {
            !matches!(
                it,
                Entry::Invoke { .. }
                    | Entry::Ok { .. }
                    | Entry::Fail { .. }
                    | Entry::Unknown { .. }
                    | Entry::Resolved { .. }
            )
        });
    }),
];

#[test]
fn weakened_evidence_proves_nothing() {
    for (name, property, weaken) in OWN_WEAKENED {
        for seed in 1..=3 {
            let mut world = World::new(&right(seed));
            weaken(&mut world);
            let judgement = world.judge();
            let status = &judgement.properties[property];
            assert!(matches!(status, Status::NotApplicable(_)), "{name}, seed {seed}: {status}");
            let owed = property.needed_for().is_some();
            assert!(!owed || judgement.grade == Unknown, "{name}, seed {seed}: {}", judgement.reason);
        }
    }
}

#[test]
fn no_property_holds_without_any_kind_of_record_that_it_needs() {
    no_property_holds_without_what_it_needs(right);
}

/// How the commands ended, and what that makes of a trial in which nothing else is wrong.
#[test]
fn the_grade_begins_with_the_tools_own_word() {
    type Case = (fn(&mut World), Grade, &'static str);
    let cases: &[Case] = &[
        (|_| {}, ApplicationConsistent, "one instant inside the freeze window"),
        (
            |w| end(w, CommandEnd::Exit(2)),
            Refused,
            "the tool said with exit code 2 that there is no good backup: Finished",
        ),
        (|w| end(w, CommandEnd::Fault(15)), Refused, "was ended by the scenario's fault, with signal 15"),
        (|w| end(w, CommandEnd::Signal(11)), Unknown, "the backup command was ended by signal 11"),
        (|w| end(w, CommandEnd::OutOfTime), Unknown, "the backup command did not end in its time"),
        (|w| end(w, CommandEnd::Exit(127)), Unknown, "is the tool installed?"),
        (|w| end(w, CommandEnd::Exit(126)), Unknown, "could not be run by the shell"),
        (
            |w| {
                drop_steps(w, |it| {
                    matches!(
                        it,
                        ToolStep::Ended { .. }
                            | ToolStep::Left { .. }
                            | ToolStep::Restored { .. }
                            | ToolStep::HandedBack { .. }
                    )
                });
            },
            Unknown,
            "how the backup command ended",
        ),
        (|w| restored(w, CommandEnd::Exit(3)), Unusable, "the restore command ended with exit code 3"),
        (
            |w| restored(w, CommandEnd::Exit(127)),
            Unknown,
            "the restore command could not be run by the shell",
        ),
        (|w| restored(w, CommandEnd::Signal(9)), Unknown, "the restore command was ended by signal 9"),
        (|w| restored(w, CommandEnd::OutOfTime), Unknown, "the restore command did not end in its time"),
        (
            refuse_freeze,
            CrashConsistent,
            "the tool said that the backup is good, but the agent had refused the freeze (T1)",
        ),
        (fail_thaw, CrashConsistent, "the tool said that the backup is good, but the thaw had failed"),
        (
            |w| left(w).push(thing(LeftoverKind::DomainJob)),
            ApplicationConsistent,
            "; but the tool left a job of libvirt's behind (exit code 0) (T6)",
        ),
    ];
    for (change, grade, reason) in cases {
        let mut world = World::new(&right(1));
        change(&mut world);
        let judgement = world.judge();
        assert_eq!(judgement.grade, *grade, "{}", judgement.reason);
        assert!(judgement.reason.contains(reason), "{} should say {reason}", judgement.reason);
    }
    let unfrozen = World::new(&right_live(1)).judge().reason;
    assert!(
        unfrozen.contains("the tool said that the backup is good, but no freeze had reached the agent (T1)"),
        "{unfrozen}"
    );
}

/// A mirror that is cut off after the thaw, because the freeze had failed.
#[test]
fn a_copy_that_its_tool_gives_up_is_none() {
    for (how, is_found) in [(CommandEnd::Exit(0), true), (CommandEnd::Exit(1), false)] {
        let mut world = World::new(&right(1));
        let late = world.times.t0 + 6 * MS;
        copies(&mut world).last().expect("a copy").t = late;
        end(&mut world, how);
        let judgement = world.judge();
        assert_eq!(ids(&judgement).contains(&"T4"), is_found, "{:?}", ids(&judgement));
    }
}

#[test]
fn a_guest_that_was_left_frozen_has_its_seconds() {
    let figures = |change: Mutation| {
        let mut world = World::new(&right(1));
        change(&mut world);
        let backup = world.judge().backup.expect("a backup");
        (backup.left_frozen, backup.left_frozen_s)
    };
    assert_eq!(figures(|_| {}), (Some(false), None));
    assert_eq!(figures(|world| left(world).push(thing(LeftoverKind::FrozenGuest))), (Some(true), None));
    let seconds = |world: &mut World| {
        let since = world.times.f1;
        let until = Some(since + 2_500 * MS);
        left(world).push(Leftover { since: Some(since), until, ..thing(LeftoverKind::FrozenGuest) });
    };
    assert_eq!(figures(seconds), (Some(true), Some(2.5)));
    assert_eq!(figures(|world| drop_steps(world, |it| matches!(it, ToolStep::Left { .. }))), (None, None));
    // The harness's own thaw ends it.
    let mut world = World::new(&right(1));
    leave_frozen(&mut world);
    let summary = world.judge().findings.into_iter().find(|it| it.id == "T3").expect("T3").summary;
    assert_eq!(
        summary,
        "the tool left the guest frozen (exit code 0): for 0.1 s, until the harness thawed it"
    );
    let mut world = World::new(&right(1));
    late_freeze(&mut world);
    let summary = world.judge().findings.into_iter().find(|it| it.id == "T3").expect("T3").summary;
    assert!(
        summary.starts_with(
            "the freeze that the tool had asked for froze the guest 2.0 s after the tool had ended"
        ),
        "{summary}"
    );
}

/// A tool is killed while its guest freezes. libvirt goes on with what it was asked for, or nobody does.
#[test]
fn who_is_thawed_for_a_tool_that_is_gone_was_not_left_frozen() {
    let left_frozen = |thawed_by: Option<Sender>| {
        let mut world = World::new(&right(1));
        end(&mut world, CommandEnd::Fault(15));
        refuse_freeze(&mut world);
        let late = ended_at(&mut world) + 2_000 * MS;
        commands(&mut world).for_each(|it| (it.error, it.end) = (None, Some(late)));
        if let Some(by) = thawed_by {
            let (t, command) = (late + 50 * MS, THAW.to_owned());
            let thaw = AgentCommand { t, end: Some(t + MS), command, by, error: None, count: Some(1) };
            insert(&mut world, Entry::AgentCommand(thaw));
        }
        ids(&world.judge()).contains(&"T3")
    };
    assert!(!left_frozen(Some(Sender::Tool)));
    assert!(left_frozen(Some(Sender::Harness)));
    assert!(left_frozen(None));
}

/// What no honest writer could have written, and a word of the refusal.
const DISHONEST: &[(&str, Mutation)] = &[
    ("a step of a backup tool, which the setup does not have", |world| setup(world).tool = false),
    ("backup 2 begins in cycle 1, but backup 1 is the next", |world| {
        number(world, 2);
    }),
    ("backup 1 begins in cycle 2", |world| {
        backup_before(world, CommandEnd::Exit(0), vec![]);
        number(world, 1);
        drop_first_backup(world);
    }),
    ("before the one before it has ended", |world| {
        backup_before(world, CommandEnd::Exit(0), vec![]);
        drop_steps(world, |it| matches!(it, ToolStep::Ended { n: 1, .. } | ToolStep::Left { n: 1, .. }));
    }),
    ("`ended` of backup 3, but 1 is the last", |world| {
        for step in steps(world) {
            if let ToolStep::Ended { n, .. } = step {
                *n = 3;
            }
        }
    }),
    ("a second `ended`", |world| twice(world, |it| matches!(it, ToolStep::Ended { .. }))),
    ("a second `left`", |world| twice(world, |it| matches!(it, ToolStep::Left { .. }))),
    ("a second `restored`", |world| twice(world, |it| matches!(it, ToolStep::Restored { .. }))),
    ("a second `handed_back`", |world| twice(world, |it| matches!(it, ToolStep::HandedBack { .. }))),
    ("a second `image`", |world| twice(world, |it| matches!(it, ToolStep::Image { .. }))),
    ("a restore before the last backup has ended", |world| {
        drop_steps(world, |it| matches!(it, ToolStep::Ended { .. } | ToolStep::Left { .. }));
    }),
    ("left behind, before it has ended", |world| {
        drop_steps(world, |it| matches!(it, ToolStep::Ended { .. } | ToolStep::Restored { .. }));
    }),
    ("before the restore command has ended", |world| {
        drop_steps(world, |it| matches!(it, ToolStep::Restored { .. }));
    }),
    ("which the setup does not name", |world| {
        for step in steps(world) {
            if let ToolStep::HandedBack { disk, .. } = step {
                *disk = "sda".into();
            }
        }
    }),
    ("ends at 0, before it begins", |world| {
        for step in steps(world) {
            if let ToolStep::Ended { t, .. } = step {
                *t = 0;
            }
        }
    }),
    ("is answered before it is sent", |world| commands(world).for_each(|it| it.end = Some(it.t - 1))),
    ("traced writes that are not between", |world| traced(world).from = Nanos::MAX),
    ("traced writes that are not between", |world| {
        let writes = traced(world);
        (writes.count, writes.first, writes.last) = (2, Some(writes.to), Some(writes.from));
    }),
    ("but not the times of the first and the last", |world| traced(world).count = 1),
    ("more than 1000 leftovers", |world| *left(world) = vec![thing(LeftoverKind::ScratchFile); 1001]),
    ("more than 10000 commands", |world| {
        let first = commands(world).next().expect("a command").clone();
        world.history.splice(1..1, std::iter::repeat_n(Entry::AgentCommand(first), 10_001));
    }),
    ("a record after `end`", |world| {
        let last = world.history.len();
        world.history.insert(last, Entry::Tool { step: ToolStep::Version { t: 1, said: "1".into() } });
    }),
];

#[test]
fn what_no_honest_writer_could_have_written_is_refused() {
    for (word, change) in DISHONEST {
        let mut world = World::new(&right(1));
        assert!(world.case().is_ok());
        change(&mut world);
        let refusal = world.case().expect_err(word);
        assert!(refusal.contains(word), "{refusal} should say {word}");
    }
}

#[test]
fn what_the_restore_command_did_may_come_when_the_load_has_ended() {
    let mut world = World::new(&right(1));
    let (mut after, before): (Vec<_>, Vec<_>) =
        world.history.drain(..).partition(|it| matches!(it, Entry::Tool { step } if step.is_after_load()));
    assert_eq!(after.len(), 4);
    world.history = before;
    world.history.append(&mut after);
    let judgement = world.judge();
    assert_eq!((judgement.grade, ids(&judgement)), (ApplicationConsistent, vec![]));
}

#[test]
fn a_history_that_is_cut_never_passes() {
    let mut world = World::new(&right(1));
    let is_after = |it: &Entry| matches!(it, Entry::Tool { step } if step.is_after_load());
    let (mut after, before): (Vec<_>, Vec<_>) = world.history.drain(..).partition(is_after);
    world.history = before;
    world.history.append(&mut after);
    assert_eq!(world.judge().grade, ApplicationConsistent);
    for _ in 0..8 {
        world.history.pop();
        if world.case().is_ok() {
            let judgement = world.judge();
            assert_eq!(judgement.grade, Unknown, "{}", judgement.reason);
        }
    }
}

// Directories, and their verdicts.

fn plan(grades: &[Grade], backups: u32) -> Plan {
    let doc = include_str!("../../../docs/formats.md");
    let (_, section) = doc.split_once("\n## `plan.json`\n").unwrap();
    let example = section.split("```").nth(1).unwrap().strip_prefix("json").unwrap();
    let mut plan: Plan = serde_json::from_str(example).unwrap();
    plan.expect.grade = grades.to_vec();
    plan.snapshot.cycles = backups;
    plan.faults = vec![Fault { at: Point::DuringCopy, what: Strike::Tool(Signal::Kill) }];
    let tool =
        r#"{"name":"own","backup":"b","restore":"r","backup_seconds":1,"restore_seconds":1,"folder":"/s"}"#;
    plan.backup = Some(serde_json::from_str::<BackupTool>(tool).unwrap());
    plan
}

fn write(dir: &Path, world: &World) {
    let mut out = Writer::<Entry>::create(&dir.join(history::FILE), history::KIND).unwrap();
    world.history.iter().for_each(|entry| out.write(entry).unwrap());
    out.flush().unwrap();
    let dir = if world.cycle == 1 { dir.to_owned() } else { cycle_dir(dir, world.cycle) };
    fs::create_dir_all(&dir).unwrap();
    let mut out = Writer::<Record>::create(&dir.join(observation::FILE), observation::KIND).unwrap();
    indexed(&world.image).iter().for_each(|record| out.write(record).unwrap());
    out.flush().unwrap();
}

fn verdict(plan: &Plan, change: Mutation) -> Verdict {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::new(&right(1));
    change(&mut world);
    write(dir.path(), &world);
    Verdict::over(plan, dir.path(), true).unwrap().0
}

#[test]
fn a_verdict_names_the_tool_and_what_each_run_did() {
    let one = verdict(&plan(&[ApplicationConsistent], 1), |world| {
        let version = ToolStep::Version { t: 1, said: "own 1.2".into() };
        world.history.insert(1, Entry::Tool { step: version });
    });
    assert_eq!((one.outcome, &*one.snapshot), (Outcome::Pass, "own"), "{:?}", one.unmet);
    let tool = one.tool.clone().unwrap();
    assert_eq!((&*tool.name, tool.version.as_deref()), ("own", Some("own 1.2")));
    assert_eq!(tool.summary, self::plan(&[], 1).summary);
    let [backup] = &*tool.backups else { panic!("{tool:?}") };
    assert_eq!(
        (backup.level, backup.ended, backup.left_frozen),
        (Level::Full, Some(CommandEnd::Exit(0)), Some(false))
    );
    assert_eq!(backup.window_ms, one.timings_ms.window);
    let json = serde_json::to_string(&one).unwrap();
    assert_eq!(serde_json::from_str::<Verdict>(&json).unwrap(), one);

    let two = verdict(&plan(&[ApplicationConsistent], 2), |world| {
        backup_before(world, CommandEnd::Exit(3), vec![]);
    });
    let ends: Vec<_> =
        two.tool.unwrap().backups.into_iter().map(|it| (it.level, it.ended.unwrap())).collect();
    assert_eq!(ends, [(Level::Full, CommandEnd::Exit(3)), (Level::Incremental, CommandEnd::Exit(0))]);
    assert_eq!((two.grade, two.outcome), (ApplicationConsistent, Outcome::Pass), "{:?}", two.unmet);
}

#[test]
fn conduct_that_was_not_expected_is_no_pass() {
    let mut expected = plan(&[ApplicationConsistent], 1);
    let change: Mutation = |world| left(world).push(thing(LeftoverKind::DomainJob));
    let surprised = verdict(&expected, change);
    assert_eq!((surprised.grade, surprised.outcome), (ApplicationConsistent, Outcome::Fail));
    assert_eq!(surprised.unmet, ["not expected: the tool left a job of libvirt's behind (exit code 0) (T6)"]);
    expected.expect.findings = vec![Property::NothingLeft];
    assert_eq!(verdict(&expected, change).outcome, Outcome::Pass);
    // And what was expected must be there, also where no backup was made.
    let mut refused = plan(&[Refused], 1);
    refused.expect.findings = vec![Property::ThawedGuest, Property::LockProbe];
    let tidy = verdict(&refused, |world| end(world, CommandEnd::Exit(1)));
    assert_eq!(tidy.unmet, ["expected the finding `thawed-guest` (T3), which did not show"]);
    let frozen = verdict(&refused, |world| {
        end(world, CommandEnd::Exit(1));
        left(world).push(thing(LeftoverKind::FrozenGuest));
    });
    assert_eq!(frozen.outcome, Outcome::Pass, "{:?}", frozen.unmet);
}

#[test]
fn what_lowers_the_grade_is_not_said_twice() {
    let twice = verdict(&plan(&[ApplicationConsistent], 1), refuse_freeze);
    assert_eq!(twice.unmet.len(), 1, "{:?}", twice.unmet);
    // A grade that is accepted says nothing of the reason.
    let accepted = verdict(&plan(&[CrashConsistent], 1), refuse_freeze);
    assert_eq!(accepted.outcome, Outcome::Fail);
    assert!(
        accepted.unmet[0].starts_with("not expected: the tool said that the backup is good"),
        "{:?}",
        accepted.unmet
    );
}

#[test]
fn what_the_tool_did_in_an_earlier_backup_counts() {
    let change: Mutation =
        |world| backup_before(world, CommandEnd::Exit(0), vec![thing(LeftoverKind::ScratchFile)]);
    let mut expected = plan(&[ApplicationConsistent], 2);
    let surprised = verdict(&expected, change);
    assert_eq!((surprised.grade, surprised.outcome), (ApplicationConsistent, Outcome::Fail));
    assert_eq!(
        surprised.unmet,
        ["not expected: backup 1: the tool left a scratch file behind (exit code 0) (T6)"]
    );
    assert_eq!(surprised.properties[&Property::NothingLeft], Status::Broken);
    expected.expect.findings = vec![Property::NothingLeft];
    assert_eq!(verdict(&expected, change).outcome, Outcome::Pass);
}

#[test]
fn a_trial_with_a_tool_is_none_without_and_the_other_way_round() {
    let right_plan = plan(&[ApplicationConsistent], 1);
    assert_eq!(verdict(&right_plan, |_| {}).outcome, Outcome::Pass);
    let without = verdict(&right_plan, |world| {
        setup(world).tool = false;
        world.history.retain(|it| !matches!(it, Entry::Tool { .. }));
    });
    assert_eq!((without.grade, without.outcome), (Unknown, Outcome::Unknown));
    assert!(without.reason.contains("the history has none"), "{}", without.reason);
    let other = verdict(&Plan { backup: None, ..right_plan }, |_| {});
    assert!(other.reason.contains("no backup tool was planned"), "{}", other.reason);
}

#[test]
fn the_cycles_of_a_tool_are_judged_by_their_own_commands() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::new(&right(1));
    backup_before(&mut world, CommandEnd::Exit(0), vec![thing(LeftoverKind::DomainJob)]);
    write(dir.path(), &world);
    let mut trial = TrialFiles::open(dir.path()).unwrap();
    let [first, second] = [1, 2].map(|cycle| judge(trial.cycle(cycle).unwrap()));
    assert_eq!((first.grade, &*first.reason), (Unknown, "unknown: only the last backup is restored"));
    assert_eq!(first.properties[&Property::NothingLeft], Status::Broken);
    assert_eq!((second.grade, ids(&second)), (ApplicationConsistent, vec![]));
}

// The mutations.

/// Before the end.
fn insert(world: &mut World, entry: Entry) {
    let at = world.history.iter().position(|it| matches!(it, Entry::Tool { step } if step.is_after_load()));
    world.history.insert(at.expect("a restore"), entry);
}

fn steps(world: &mut World) -> impl Iterator<Item = &mut ToolStep> {
    world.history.iter_mut().filter_map(|entry| match entry {
        Entry::Tool { step } => Some(step),
        _ => None,
    })
}

fn drop_steps(world: &mut World, which: impl Fn(&ToolStep) -> bool) {
    world.history.retain(|entry| !matches!(entry, Entry::Tool { step } if which(step)));
}

fn twice(world: &mut World, which: impl Fn(&ToolStep) -> bool) {
    let is_it = |entry: &Entry| matches!(entry, Entry::Tool { step } if which(step));
    let at = world.history.iter().position(is_it).expect("a step");
    world.history.insert(at, world.history[at].clone());
}

fn commands(world: &mut World) -> impl Iterator<Item = &mut AgentCommand> {
    world.history.iter_mut().filter_map(|entry| match entry {
        Entry::AgentCommand(command) => Some(command),
        _ => None,
    })
}

/// The tool froze and thawed once before. What the probes wrote then is in the backup.
fn tried_before(world: &mut World) {
    let earlier = world.times.t1 - world.times.f0 + 20 * MS;
    let mut row = 1000;
    let mut before = Vec::new();
    for entry in &world.history {
        match entry.clone() {
            Entry::AgentCommand(it) => before.push(Entry::AgentCommand(AgentCommand {
                t: it.t - earlier,
                end: it.end.map(|end| end - earlier),
                ..it
            })),
            Entry::Probe(it) => {
                row += 1;
                before.push(Entry::Probe(Probe {
                    t: it.t - earlier,
                    end: it.end - earlier,
                    since: it.since.map(|since| since - earlier),
                    row: it.row.map(|_| row),
                    ..it
                }));
            }
            _ => {}
        }
    }
    before.into_iter().for_each(|entry| insert(world, entry));
    for record in &mut world.image {
        if let Record::ProbeRows { rows } = record {
            rows.push(row);
        }
    }
}

fn drop_commands(world: &mut World) {
    world.history.retain(|entry| !matches!(entry, Entry::AgentCommand(_)));
}

fn thaw(world: &mut World) -> &mut AgentCommand {
    commands(world).find(|it| it.command == THAW).expect("a thaw")
}

fn copies(world: &mut World) -> impl Iterator<Item = &mut CopyInstant> {
    world.history.iter_mut().filter_map(|entry| match entry {
        Entry::CopyInstant(copy) => Some(copy),
        _ => None,
    })
}

fn traced(world: &mut World) -> &mut DiskWrites {
    let writes = world.history.iter_mut().find_map(|entry| match entry {
        Entry::DiskWrites(writes) => Some(writes),
        _ => None,
    });
    writes.expect("a trace")
}

fn loud(world: &mut World, count: u64) {
    let writes = traced(world);
    *writes = DiskWrites { count, first: Some(writes.from), last: Some(writes.to), ..*writes };
}

fn end(world: &mut World, end: CommandEnd) {
    let last = steps(world).filter_map(|step| match step {
        ToolStep::Ended { how, .. } => Some(how),
        _ => None,
    });
    *last.last().expect("an end") = end;
}

fn ended_at(world: &mut World) -> Nanos {
    let ended = steps(world).find_map(|step| match step {
        ToolStep::Ended { t, .. } => Some(*t),
        _ => None,
    });
    ended.expect("an end")
}

fn left(world: &mut World) -> &mut Vec<Leftover> {
    let left = steps(world).find_map(|step| match step {
        ToolStep::Left { things, .. } => Some(things),
        _ => None,
    });
    left.expect("what was left")
}

fn thing(kind: LeftoverKind) -> Leftover {
    Leftover { kind, detail: "this one".into(), since: None, until: None }
}

fn restored(world: &mut World, end: CommandEnd) {
    for step in steps(world) {
        if let ToolStep::Restored { how, .. } = step {
            *how = end;
        }
    }
}

/// Something is wrong with the second disk.
fn problem(world: &mut World, kind: DiskProblemKind) {
    for step in steps(world) {
        if let ToolStep::HandedBack { disk, problems, .. } = step
            && disk == "vdb"
        {
            problems.push(DiskProblem { kind, detail: "vdb.qcow2".into() });
        }
    }
}

/// The marks and counts of a trial whose guest was not frozen.
fn unfreeze(world: &mut World) {
    let of_window = |it: &Entry| match it {
        Entry::Mark { mark, .. } => !matches!(mark, Mark::SnapBegin | Mark::SnapEnd),
        Entry::Probe(_) | Entry::BlockStats { .. } | Entry::DiskWrites(_) => true,
        _ => false,
    };
    world.history.retain(|it| !of_window(it));
}

/// The agent refused the freeze, and the tool copied all the same.
fn refuse_freeze(world: &mut World) {
    let error = "fsfreeze hook has failed with status 1";
    replace_mark(world, Mark::FreezeOk, Mark::FreezeErr, error);
    let thawed = |it: &Entry| match it {
        Entry::Mark { mark, .. } => matches!(mark, Mark::ThawCall | Mark::ThawOk),
        Entry::AgentCommand(command) => command.command == THAW,
        Entry::DiskWrites(_) => true,
        Entry::Probe(_) | Entry::BlockStats { .. } => true,
        _ => false,
    };
    world.history.retain(|it| !thawed(it));
    commands(world).for_each(|it| (it.error, it.count) = (Some(error.to_owned()), None));
}

/// The tool gave up on the freeze, which froze the guest two seconds after the tool's end; the harness thawed it.
fn late_freeze(world: &mut World) {
    refuse_freeze(world);
    let late = ended_at(world) + 2_000 * MS;
    commands(world).for_each(|it| (it.error, it.end) = (None, Some(late)));
    let frozen = Leftover { since: Some(late), until: Some(late + 9), ..thing(LeftoverKind::FrozenGuest) };
    left(world).push(frozen);
}

fn fail_thaw(world: &mut World) {
    let error = "fsfreeze hook has failed with status 1";
    thaw(world).error = Some(error.to_owned());
    replace_mark(world, Mark::ThawOk, Mark::ThawErr, error);
}

/// The tool asked for no thaw; the harness thawed when the tool had ended.
fn leave_frozen(world: &mut World) {
    let (ended, frozen) = (ended_at(world), world.times.f1);
    let harness = thaw(world);
    (harness.by, harness.t, harness.end) = (Sender::Harness, ended, Some(frozen + 100 * MS));
}

/// The thaw, and whatever comes after it, comes so much later.
fn thaw_later(world: &mut World, by: Nanos) {
    let thaw = world.times.t0;
    let later = |t: &mut Nanos| *t += if *t >= thaw { by } else { 0 };
    for entry in &mut world.history {
        match entry {
            Entry::Invoke { t, .. }
            | Entry::Ok { t, .. }
            | Entry::Fail { t, .. }
            | Entry::Unknown { t, .. }
            | Entry::Resolved { t, .. }
            | Entry::Mark { t, .. }
            | Entry::BackupModes { t, .. }
            | Entry::End { t } => later(t),
            Entry::Heartbeat { t, end, .. }
            | Entry::SchemaChange { t, end, .. }
            | Entry::Bulk { t, end, .. }
            | Entry::AgentCommand(AgentCommand { t, end, .. }) => {
                later(t);
                end.iter_mut().for_each(later);
            }
            Entry::BlockStats { t, .. } if *t > thaw - MS => *t += by,
            Entry::DiskWrites(writes) => later(&mut writes.to),
            Entry::Probe(probe) => {
                for t in [Some(&mut probe.end), probe.since.as_mut()].into_iter().flatten() {
                    *t += if *t > thaw - MS { by } else { 0 };
                }
                probe.t += if probe.round == history::Round::Thaw { by - MS } else { 0 };
                probe.since = probe.since.map(|since| since.max(probe.t));
                probe.end = probe.end.max(probe.t);
            }
            Entry::Tool { step: ToolStep::Ended { t, .. } | ToolStep::Left { t, .. } } => later(t),
            Entry::Tool { step: ToolStep::Restored { t, end, .. } } => {
                later(t);
                later(end);
            }
            _ => {}
        }
    }
}

/// The backup that there is becomes the second, after one that froze, ended so and left this behind.
fn backup_before(world: &mut World, how: CommandEnd, things: Vec<Leftover>) {
    number(world, 2);
    let at = world.history.iter().position(|it| matches!(it, Entry::Tool { .. })).expect("a step");
    let t = world.times.f0 - 100 * MS;
    let steps = [
        ToolStep::Began { t, n: 1, level: Level::Full },
        ToolStep::Ended { t: t + 1, n: 1, how, said: vec![] },
        ToolStep::Left { t: t + 2, n: 1, things },
    ];
    let window: Vec<_> = commands(world).map(|it| Entry::AgentCommand(it.clone())).collect();
    let window = window.into_iter().map(|mut entry| {
        if let Entry::AgentCommand(command) = &mut entry {
            (command.t, command.end) = (t, Some(t));
        }
        entry
    });
    let steps = steps.into_iter().map(|step| Entry::Tool { step });
    let before: Vec<_> = window.chain(steps).chain([Entry::Cycle { t: t + 3, n: 2 }]).collect();
    world.history.splice(at..at, before);
    world.cycle = 2;
}

fn number(world: &mut World, to: u32) {
    for step in steps(world) {
        match step {
            ToolStep::Began { n, level, .. } => {
                *n = to;
                *level = if to == 1 { Level::Full } else { Level::Incremental };
            }
            ToolStep::Ended { n, .. } | ToolStep::Left { n, .. } => *n = to,
            _ => {}
        }
    }
}

/// The second cycle has the only backup.
fn drop_first_backup(world: &mut World) {
    let second = world.history.iter().position(|it| matches!(it, Entry::Cycle { .. })).expect("a second");
    let mut at = 0;
    world.history.retain(|it| {
        at += 1;
        at > second || !matches!(it, Entry::Tool { .. })
    });
}
