//! What an agent that says it froze may have left out: the limit that VSS sets on
//! Windows, and the volumes that a freeze did not reach.

use contract::finding::Status;
use contract::history::{Entry, Mark, Nanos, Setup, WINDOWS};
use contract::observation::Record;
use contract::property::Property;
use judge::{Case, judge};

const SECOND: Nanos = 1_000_000_000;

/// What the agent reported, what the freeze counted, how long the window was, how
/// the thaw ended.
struct Row {
    os: &'static str,
    volumes: Option<u32>,
    frozen: &'static str,
    window: Nanos,
    thaw: Result<&'static str, &'static str>,
}

/// The one finding, and how its summary begins.
type Expected = Option<(Property, &'static str)>;

const GOOD: Row = Row { os: WINDOWS, volumes: Some(2), frozen: "2", window: 9 * SECOND, thaw: Ok("2") };

fn findings(row: &Row) -> Vec<(Property, String)> {
    let mark = |t, mark, detail: &str| Entry::Mark { t, mark, detail: detail.to_owned() };
    let thawed = SECOND + row.window;
    let end = match row.thaw {
        Ok(count) => mark(thawed + 1, Mark::ThawOk, count),
        Err(error) => mark(thawed + 1, Mark::ThawErr, error),
    };
    let count = |t| Entry::BlockStats { t, disk: "vda".into(), writes: 7, bytes: 4096 };
    let history = [
        Entry::Setup(Setup {
            writers: 1,
            accounts: 2,
            doors: vec!["tcp".into()],
            disks: vec!["vda".into()],
            file_systems: vec!["vda".into()],
            ..Setup::default()
        }),
        Entry::Guest { t: 1, os: row.os.into(), volumes: row.volumes },
        mark(2, Mark::FreezeCall, ""),
        mark(SECOND, Mark::FreezeOk, row.frozen),
        count(SECOND),
        mark(SECOND + 1, Mark::SnapBegin, ""),
        mark(SECOND + 2, Mark::SnapEnd, ""),
        count(thawed),
        mark(thawed, Mark::ThawCall, ""),
        end,
        Entry::End { t: thawed + 2 },
    ];
    let judgement = judge(&Case::new(history, None::<Vec<Record>>).unwrap());
    // On other systems a lock must have been observed and a count reported.
    let examined = |property| !matches!(&judgement.properties[&property], Status::NotApplicable(_));
    if row.os == WINDOWS {
        assert!(examined(Property::DiskSilence) && examined(Property::LockIdentity), "{judgement:#?}");
    }
    judgement.findings.into_iter().map(|finding| (finding.property, finding.summary)).collect()
}

#[test]
fn what_vss_cannot_have_held_is_a_finding() {
    let limit = "couldn't hold writes: fsfreeze is limited up to 10 seconds: ";
    let left_out = "the freeze reached 1 of 2 volumes";
    let cases: &[(&str, Row, Expected)] = &[
        ("nine seconds", GOOD, None),
        ("ten seconds", Row { window: 10 * SECOND, ..GOOD }, None),
        (
            "eleven seconds, and the thaw says nothing",
            Row { window: 11 * SECOND, ..GOOD },
            Some((Property::LockIdentity, "the window was 11.0 s long, but VSS holds writes for 10 s only")),
        ),
        (
            "eleven seconds, and the thaw fails",
            Row { window: 11 * SECOND, thaw: Err(limit), ..GOOD },
            Some((Property::LockIdentity, "the thaw reported a failure")),
        ),
        (
            "a thaw that fails at once",
            Row { window: SECOND, thaw: Err(limit), ..GOOD },
            Some((Property::LockIdentity, "the thaw reported a failure")),
        ),
        ("eleven seconds of Linux", Row { os: "debian", volumes: None, window: 11 * SECOND, ..GOOD }, None),
        (
            "a volume left out",
            Row { frozen: "1", thaw: Ok("1"), ..GOOD },
            Some((Property::DiskSilence, left_out)),
        ),
        (
            "a volume left out of Linux",
            Row { os: "debian", frozen: "1", thaw: Ok("1"), ..GOOD },
            Some((Property::DiskSilence, left_out)),
        ),
        (
            "more than there are",
            Row { frozen: "3", thaw: Ok("3"), ..GOOD },
            Some((Property::DiskSilence, "the freeze reached 3 of 2 volumes")),
        ),
        (
            "nothing at all, as without fixed volumes",
            Row { volumes: Some(0), frozen: "0", thaw: Ok("0"), ..GOOD },
            Some((Property::DiskSilence, "the freeze reached no volume at all")),
        ),
        (
            "nothing at all on Linux",
            Row { os: "debian", volumes: None, frozen: "0", thaw: Ok("0"), ..GOOD },
            Some((Property::DiskSilence, "the freeze reached no volume at all")),
        ),
        (
            "a window that something else ended",
            Row { thaw: Ok("0"), ..GOOD },
            Some((Property::LockIdentity, "the window was over before the thaw was requested")),
        ),
        ("an agent that does not list its volumes", Row { volumes: None, ..GOOD }, None),
        ("an agent that does not count", Row { frozen: "", ..GOOD }, None),
    ];
    for (name, row, expected) in cases {
        let found = findings(row);
        let found: Vec<_> = found.iter().map(|(property, summary)| (*property, summary.as_str())).collect();
        match (found.as_slice(), expected) {
            ([], None) => {}
            ([(property, summary)], Some((wanted, start))) => {
                assert_eq!(property, wanted, "{name}");
                assert!(summary.starts_with(start), "{name}: {summary}");
            }
            _ => panic!("{name}: {found:?}"),
        }
    }
}
