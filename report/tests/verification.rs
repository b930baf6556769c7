//! The page about a backup without a history.

use contract::verification::Recovery;
use judge::verification::{Defect, Verification};

fn verification() -> Verification {
    Verification {
        schema: 1,
        disks: vec!["/backup/<vda>.qcow2".to_owned()],
        grade: Recovery::Unusable,
        reason: "unusable: 1 table cannot be used".to_owned(),
        findings: vec![Defect {
            grade: Recovery::Unusable,
            summary: "1 table cannot be used".to_owned(),
            evidence: vec!["`a.<script>` (InnoDB): \u{202e}Corrupt".to_owned()],
        }],
        unmet: vec!["`release` is wrong".to_owned()],
        examined: vec!["1 file system".to_owned()],
        unexamined: vec!["vda2 holds LVM".to_owned()],
        notes: vec!["no checksums".to_owned()],
    }
}

#[test]
fn the_page_shows_everything_and_nothing_that_a_guest_wrote_runs() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("facts.json"), "{}").unwrap();
    let page = report::render_verification(&verification(), dir.path());
    for part in [
        "/backup/&lt;vda&gt;.qcow2",
        "The backup cannot be used as it is",
        "1 table cannot be used",
        "`a.&lt;script&gt;` (InnoDB): \\u{202e}Corrupt",
        "`release` is wrong",
        "1 file system",
        "vda2 holds LVM",
        "no checksums",
        "href=\"./facts.json\"",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    assert!(!page.contains("<script") && !page.contains('\u{202e}'));
    assert!(!page.contains("console.log"), "there is none");
    let good = Verification { grade: Recovery::Recovers, findings: vec![], ..verification() };
    let page = report::render_verification(&good, dir.path());
    assert!(page.contains("Nothing wrong was found") && page.contains("class=\"grade recovers\""));
}
