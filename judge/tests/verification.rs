//! Backups without a history: each planted defect is found, and what is legal stays quiet.

#![allow(clippy::unwrap_used, reason = "helpers of tests; the lint knows only test functions")]

use contract::image::Database;
use contract::observation::Record;
use contract::verification::{
    DiskFormat, Facts, GivenDisk, GuestFate, GuestStart, Layer, Recovery, Request, ServerFacts,
};
use judge::verification::Verification;

fn request() -> Request {
    let layers = vec![Layer { file: "/backup/vda.qcow2".into(), format: DiskFormat::Qcow2 }];
    let disks = vec![GivenDisk { target: "vda".to_owned(), bytes: 1 << 30, layers }];
    Request { disks, memory_mib: 512, cpu: None, channel: Default::default(), claims: None }
}

fn server() -> ServerFacts {
    ServerFacts {
        unit: "mariadb.service".to_owned(),
        database: Database::Mariadb,
        version: Some("10.11.6".to_owned()),
        failed: None,
        recovered: Some(true),
        recovery: vec!["InnoDB: Starting crash recovery".to_owned()],
        corruption: Vec::new(),
        tables: 2,
        checked: 2,
    }
}

/// What a good backup shows.
fn good() -> (Facts, Vec<Record>) {
    let facts = Facts {
        start: Some(GuestStart::Firmware),
        guest: Some(GuestFate::Up { system: "debian".to_owned(), agent: "7.2".to_owned() }),
        servers: vec![server()],
        file_systems: vec!["vda1 (ext4)".to_owned()],
        ..Facts::default()
    };
    let records = vec![
        check("shop.orders", "InnoDB", true, true),
        check("shop.log", "MyISAM", true, true),
        Record::FileSystem { disk: "vda1".to_owned(), fs: "ext4".to_owned(), dirty: true },
        Record::Fsck { disk: "vda1".to_owned(), clean: true, detail: "fine".to_owned() },
        Record::BinlogEnd { file: "binlog.000009".to_owned(), size: 500, in_use: true },
        position("binlog.000009", 500),
        Record::End,
    ];
    (facts, records)
}

fn check(table: &str, engine: &str, clean: bool, usable: bool) -> Record {
    let messages = if clean { vec![] } else { vec!["error: Corrupt".to_owned()] };
    Record::CheckTable { table: table.to_owned(), engine: engine.to_owned(), clean, usable, messages }
}

fn position(file: &str, pos: u64) -> Record {
    Record::Position { file: file.to_owned(), pos, gtid: String::new() }
}

/// The verdict on a good backup in which something was planted.
fn planted(plant: impl FnOnce(&mut Facts, &mut Vec<Record>)) -> Verification {
    let (mut facts, mut records) = good();
    plant(&mut facts, &mut records);
    let verdict = Verification::of(&request(), &facts, records.clone());
    assert_eq!(verdict, Verification::of(&request(), &facts, records), "the same facts, the same verdict");
    assert!(verdict.reason.starts_with(&format!("{}: ", verdict.grade)), "{}", verdict.reason);
    verdict
}

#[test]
fn a_good_backup_recovers_and_is_never_called_more() {
    let verdict = planted(|_, _| {});
    assert_eq!(verdict.grade, Recovery::Recovers);
    assert_eq!((verdict.findings.len(), verdict.unexamined.len()), (0, 0));
    assert!(verdict.reason.contains("nothing wrong was found") && verdict.reason.contains("no proof"));
    assert!(!serde_json::to_string(&verdict).unwrap().contains("application-consistent"));
    for examined in
        ["1 file system", "MariaDB 10.11.6", "2 of its 2 tables", "the binary logs", "the position"]
    {
        assert!(
            verdict.examined.iter().any(|it| it.contains(examined)),
            "{examined}: {:?}",
            verdict.examined
        );
    }
    assert!(verdict.notes[0].contains("there was a journal to replay on vda1"), "{:?}", verdict.notes);
}

#[test]
fn each_defect_is_found_and_decides_the_grade() {
    type Plant = fn(&mut Facts, &mut Vec<Record>);
    let plants: [(Plant, Recovery, &str); 12] = [
        (|facts, _| facts.damage.push("vda is cut off".to_owned()), Recovery::Unusable, "vda is cut off"),
        (
            |_, records| {
                records.push(Record::Fsck { disk: "vdb".to_owned(), clean: false, detail: "bad".to_owned() });
            },
            Recovery::Unusable,
            "the file system check found damage on vdb",
        ),
        (
            |facts, _| facts.guest = Some(GuestFate::Failed { why: "No bootable device".to_owned() }),
            Recovery::Unusable,
            "does not come up",
        ),
        (
            |facts, _| facts.servers[0].failed = Some("[ERROR] Aborting\nmore".to_owned()),
            Recovery::Unusable,
            "(mariadb.service) does not start",
        ),
        (
            |facts, _| facts.servers[0].corruption.push("[ERROR] InnoDB: page corruption".to_owned()),
            Recovery::Unusable,
            "reports corruption",
        ),
        (
            |facts, _| {
                facts.servers[0].corruption.push("[ERROR] Table './a/b' is marked as crashed".to_owned());
            },
            Recovery::Inconsistent,
            "reports corruption",
        ),
        (
            |_, records| records.push(check("a.b", "InnoDB", false, false)),
            Recovery::Unusable,
            "1 table cannot be used",
        ),
        (
            |_, records| records.push(check("a.b", "heap", false, false)),
            Recovery::Unusable,
            "1 table cannot be used",
        ),
        (
            |_, records| records.push(check("a.b", "Aria", false, false)),
            Recovery::Inconsistent,
            "1 table cannot be",
        ),
        (
            |_, records| {
                let (file, error) = ("binlog.000008".to_owned(), "damaged".to_owned());
                records.push(Record::BinlogError { file, error, damaged: true });
            },
            Recovery::Inconsistent,
            "cannot be read to their end",
        ),
        (
            |_, records| records.push(position("binlog.000009", 501)),
            Recovery::Inconsistent,
            "end before the position",
        ),
        (
            |_, records| records.push(position("binlog.000010", 4)),
            Recovery::Inconsistent,
            "end before the position",
        ),
    ];
    for (plant, grade, words) in plants {
        let verdict = planted(plant);
        assert_eq!(verdict.grade, grade, "{words}");
        assert_eq!(verdict.findings.len(), 1, "{words}: {:?}", verdict.findings);
        let finding = &verdict.findings[0];
        assert!(finding.summary.contains(words) && verdict.reason.contains(words), "{finding:?}");
        assert!(!finding.evidence.is_empty());
    }
}

#[test]
fn what_is_legal_is_noted_and_lowers_nothing() {
    type Plant = fn(&mut Facts, &mut Vec<Record>);
    let plants: [(Plant, &str); 5] = [
        (|_, records| records.push(check("a.b", "MyISAM", false, true)), "the table check warns: `a.b`"),
        (
            |_, records| records.push(position("binlog.000008", 900)),
            "is not where the binary logs of the backup end",
        ),
        (|_, records| records.push(position("binlog.000009", 499)), "do not roll forward from it"),
        (
            |_, records| {
                records.push(Record::TableFile { file: "a/b.MYI".to_owned(), table: None, open_count: 1 });
            },
            "1 table of MyISAM or Aria",
        ),
        (|facts, _| facts.notes.push("it was set up for another machine".to_owned()), "another machine"),
    ];
    for (plant, words) in plants {
        let verdict = planted(plant);
        assert_eq!((verdict.grade, verdict.findings.len()), (Recovery::Recovers, 0), "{words}");
        assert!(verdict.notes.iter().any(|note| note.contains(words)), "{words}: {:?}", verdict.notes);
    }
}

/// A server's logs may be encrypted, compressed, or longer than is read.
#[test]
fn binary_logs_that_nobody_can_read_say_nothing() {
    let verdict = planted(|_, records| {
        let (file, error) = ("binlog.000008".to_owned(), "it is encrypted".to_owned());
        records.push(Record::BinlogError { file, error, damaged: false });
    });
    assert_eq!((verdict.grade, verdict.findings.len()), (Recovery::Recovers, 0));
    assert!(verdict.unexamined.iter().any(|it| it.contains("it is encrypted")), "{:?}", verdict.unexamined);
}

#[test]
fn what_could_not_be_told_is_no_pass() {
    type Plant = fn(&mut Facts);
    let plants: [(Plant, &str); 8] = [
        (|facts| facts.stopped = Some("no room".to_owned()), "no room"),
        (|facts| facts.guest = None, "no guest was started"),
        (|facts| facts.guest = Some(GuestFate::NoAgent), "no guest agent answers"),
        (|facts| facts.guest = Some(GuestFate::Silent { why: "it hangs".to_owned() }), "it hangs"),
        (|facts| facts.servers.clear(), "there is no MariaDB, MySQL or PostgreSQL"),
        (|facts| facts.servers[0].version = None, "could not be asked"),
        (|facts| facts.servers[0].checked = 0, "no table of the database was checked"),
        (|facts| facts.servers.push(ServerFacts { version: None, ..server() }), "could not be asked"),
    ];
    for (plant, words) in plants {
        let verdict = planted(|facts, _| plant(facts));
        assert_eq!(verdict.grade, Recovery::Unknown, "{words}");
        assert!(verdict.reason.contains(words), "{}", verdict.reason);
        // A defect counts all the same.
        let verdict = planted(|facts, records| {
            plant(facts);
            records.push(check("a.b", "Aria", false, false));
        });
        assert_eq!(verdict.grade, Recovery::Inconsistent, "{words}");
    }
}

#[test]
fn a_part_that_was_not_examined_is_said() {
    let verdict = planted(|facts, records| {
        facts.unexamined.push("vda2 holds LVM2_member".to_owned());
        records.push(Record::Unreadable { path: "/dev/vdb".to_owned(), detail: "no \u{1b}[2J".to_owned() });
    });
    assert_eq!(verdict.grade, Recovery::Recovers);
    assert_eq!(verdict.unexamined, ["vda2 holds LVM2_member", "/dev/vdb: no \\u{1b}[2J"]);
    let verdict = planted(|facts, _| facts.unmet.push("`release` is wrong".to_owned()));
    assert_eq!((verdict.grade, &*verdict.unmet[0]), (Recovery::Recovers, "`release` is wrong"));
}

#[test]
fn the_worst_comes_first_and_no_list_is_endless() {
    let verdict = planted(|facts, records| {
        records.extend((0..1000).map(|n| check(&format!("a.t{n}"), "Aria", false, false)));
        facts.servers[0].failed = Some("x\n".repeat(1000));
        facts.notes.extend((0..1000).map(|n| n.to_string()));
    });
    assert_eq!(verdict.grade, Recovery::Unusable);
    let grades: Vec<_> = verdict.findings.iter().map(|finding| finding.grade).collect();
    assert_eq!(grades, [Recovery::Unusable, Recovery::Inconsistent]);
    assert!(verdict.findings.iter().all(|finding| finding.evidence.len() < 20));
    assert!(verdict.notes.len() < 20 && verdict.notes.last().unwrap().starts_with("and "));
}
