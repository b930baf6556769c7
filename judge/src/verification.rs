//! What can be said about a backup without a history: whether anything wrong was found in it.
//!
//! Nothing is known of what its server had acknowledged, so it is never called application-consistent. A
//! defect counts whatever else was not examined; without one, the best grade takes a server that started
//! and tables that were checked.

use contract::image::Database;
use contract::observation::Record;
use contract::text;
use contract::verification::{Facts, GuestFate, GuestStart, Recovery, Request, ServerFacts};
use serde::{Deserialize, Serialize};

use super::evidence::{count, quote};

/// The most lines of evidence under a finding, and of notes and of what was not examined.
const MAX_LINES: usize = 12;

/// The most characters of a sentence of the harness's, which may name paths and quote a guest.
const MAX_SENTENCE: usize = 800;

/// `verdict.json` of a verification, schema 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verification {
    /// Version of this format: 1.
    pub schema: u32,
    /// The disks' files.
    pub disks: Vec<String>,
    /// The grade.
    pub grade: Recovery,
    /// Why, in one line that begins with the grade.
    pub reason: String,
    /// The defects, the worst first.
    pub findings: Vec<Defect>,
    /// Which of the user's claims are wrong, in sentences.
    pub unmet: Vec<String>,
    /// What was examined, in words.
    pub examined: Vec<String>,
    /// What could not be examined, and why.
    pub unexamined: Vec<String>,
    /// What is no defect, but worth knowing.
    pub notes: Vec<String>,
}

/// Something that is wrong with the backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Defect {
    /// The best grade of a backup that has it.
    pub grade: Recovery,
    /// One sentence that a person understands.
    pub summary: String,
    /// The facts concerned, at most a screenful.
    pub evidence: Vec<String>,
}

impl Verification {
    /// Judges what was found. The same facts always lead to the same verdict.
    pub fn of(request: &Request, facts: &Facts, records: impl IntoIterator<Item = Record>) -> Self {
        let mut seen = Seen::default();
        records.into_iter().for_each(|record| seen.take(record));
        let mut findings = defects(facts, &seen);
        findings.sort_by_key(|defect| std::cmp::Reverse(defect.grade));
        let examined = examined(facts, &seen);
        let (grade, why) = match (findings.first(), undetermined(facts)) {
            (Some(worst), _) => (worst.grade, worst.summary.clone()),
            (None, Some(why)) => (Recovery::Unknown, why),
            (None, None) => (
                Recovery::Recovers,
                format!(
                    "nothing wrong was found in {}. What the server had acknowledged is not known, so this is no \
                     proof that the backup is consistent",
                    examined.join(", ")
                ),
            ),
        };
        let mut notes: Vec<_> = facts.notes.iter().map(|note| sentence(note)).collect();
        notes.extend(seen.notes());
        let mut unexamined: Vec<_> = facts.unexamined.iter().map(|what| sentence(what)).collect();
        unexamined
            .extend(facts.stopped.iter().filter(|_| grade != Recovery::Unknown).map(|why| sentence(why)));
        unexamined.append(&mut seen.unread);
        Self {
            schema: 1,
            disks: request.disks.iter().filter_map(|disk| disk.layers.first()).map(shown).collect(),
            grade,
            reason: format!("{grade}: {why}"),
            findings,
            unmet: bounded(facts.unmet.iter().map(|claim| sentence(claim)).collect()),
            examined,
            unexamined: bounded(unexamined),
            notes: bounded(notes),
        }
    }

    /// The verdict on disks that nothing is known of, for this reason.
    pub fn unknown(request: &Request, why: &str) -> Self {
        Self::of(request, &Facts { stopped: Some(why.to_owned()), ..Facts::default() }, [])
    }
}

fn shown(layer: &contract::verification::Layer) -> String {
    quote(&layer.file.to_string_lossy())
}

fn sentence(text: &str) -> String {
    text::quote(MAX_SENTENCE, text.trim())
}

fn bounded(mut lines: Vec<String>) -> Vec<String> {
    let more = lines.len().saturating_sub(MAX_LINES);
    if more > 0 {
        lines.truncate(MAX_LINES);
        lines.push(format!("and {more} more"));
    }
    lines
}

/// What the records say.
#[derive(Debug, Default)]
struct Seen {
    clean_disks: u64,
    damaged_disks: Vec<String>,
    /// What the checks of these printed.
    damage: Vec<String>,
    dirty_disks: Vec<String>,
    /// Tables that cannot be used: whether a transaction protects them, and the evidence.
    broken: Vec<(bool, String)>,
    warned: Vec<String>,
    open_tables: u64,
    binlogs: Option<(String, u64)>,
    position: Option<(String, u64)>,
    binlog_errors: Vec<String>,
    wal_position: bool,
    unread: Vec<String>,
}

impl Seen {
    fn take(&mut self, record: Record) {
        match record {
            Record::Fsck { clean: true, .. } => self.clean_disks += 1,
            Record::Fsck { disk, detail, .. } => {
                let disk = quote(&disk);
                self.damage.extend(detail.lines().map(|line| format!("{disk}: {}", quote(line))));
                self.damaged_disks.push(disk);
            }
            Record::FileSystem { disk, dirty: true, .. } => self.dirty_disks.push(quote(&disk)),
            Record::CheckTable { table, engine, clean, usable, messages } => {
                let line =
                    format!("`{}` ({}): {}", quote(&table), quote(&engine), quote(&messages.join("; ")));
                match (usable, clean) {
                    (false, _) => self.broken.push((is_transactional(&engine), line)),
                    (true, false) => self.warned.push(line),
                    (true, true) => {}
                }
            }
            Record::TableFile { open_count, .. } => self.open_tables += u64::from(open_count > 0),
            Record::BinlogEnd { file, size, .. } => self.binlogs = Some((file, size)),
            Record::BinlogError { file, error, damaged } => {
                let line = format!("{}: {}", quote(&file), quote(&error));
                if damaged { self.binlog_errors.push(line) } else { self.unread.push(line) }
            }
            Record::Position { file, pos, .. } => self.position = Some((file, pos)),
            Record::WalPosition { .. } => self.wal_position = true,
            Record::Unreadable { path, detail } => {
                self.unread.push(format!("{}: {}", quote(&path), quote(&detail)));
            }
            _ => {}
        }
    }

    /// What is worth knowing, and no defect.
    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if !self.dirty_disks.is_empty() {
            notes.push(format!(
                "the disks were copied while their file systems were in use: there was a journal to replay on {}, as \
                 after a crash. A backup with a freeze leaves none",
                self.dirty_disks.join(", ")
            ));
        }
        if self.open_tables > 0 {
            notes.push(format!(
                "{} of MyISAM or Aria, which no transaction protects, {} open when the disks were copied",
                count(self.open_tables, "table"),
                super::evidence::were(self.open_tables)
            ));
        }
        notes.extend(self.warned.iter().map(|line| format!("the table check warns: {line}")));
        if let (Some(position), Some(end)) = (&self.position, &self.binlogs)
            && lies_before(position, end)
        {
            notes.push(format!(
                "the position that a hook recorded, {} {}, is not where the binary logs of the backup end ({} {}): it \
                 is that of another moment, so do not roll forward from it",
                quote(&position.0),
                position.1,
                quote(&end.0),
                end.1
            ));
        }
        notes
    }
}

/// An engine whose name is not known here may protect its tables as little as MyISAM.
fn is_transactional(engine: &str) -> bool {
    ["innodb", "heap", "rocksdb"].iter().any(|name| engine.eq_ignore_ascii_case(name))
}

fn lies_before(position: &(String, u64), end: &(String, u64)) -> bool {
    order(position) < order(end)
}

/// Binary logs are numbered after the last dot.
fn order((file, pos): &(String, u64)) -> (u64, u64) {
    let number = file.rsplit_once('.').and_then(|(_, number)| number.parse().ok());
    (number.unwrap_or(0), *pos)
}

fn defects(facts: &Facts, seen: &Seen) -> Vec<Defect> {
    let mut defects = Vec::new();
    let mut add = |grade, summary: String, evidence: Vec<String>| {
        if !evidence.is_empty() {
            defects.push(Defect { grade, summary, evidence: bounded(evidence) });
        }
    };
    let damage: Vec<_> = facts.damage.iter().map(|line| sentence(line)).collect();
    add(Recovery::Unusable, damage.first().cloned().unwrap_or_default(), damage);
    let summary = format!("the file system check found damage on {}", seen.damaged_disks.join(", "));
    let mut printed = seen.damage.clone();
    if printed.is_empty() {
        printed = seen.damaged_disks.clone();
    }
    add(Recovery::Unusable, summary, printed);
    if let Some(GuestFate::Failed { why }) = &facts.guest {
        let lines = why.lines().map(quote).collect();
        add(Recovery::Unusable, "the guest does not come up from these disks".to_owned(), lines);
    }
    for server in &facts.servers {
        let unit = quote(&server.unit);
        let lines: Vec<_> = server.failed.iter().flat_map(|why| why.lines()).map(quote).collect();
        add(Recovery::Unusable, format!("the database server ({unit}) does not start"), lines);
        let (grave, slight): (Vec<_>, Vec<_>) = server
            .corruption
            .iter()
            .map(|line| quote(line))
            .partition(|line| server.database == Database::Postgresql || line.contains("InnoDB"));
        let summary = format!("the log of the database server ({unit}) reports corruption");
        add(Recovery::Unusable, summary.clone(), grave);
        add(Recovery::Inconsistent, summary, slight);
    }
    let (grave, slight): (Vec<_>, Vec<_>) = seen.broken.iter().partition(|(transactional, _)| *transactional);
    for (grade, broken) in [(Recovery::Unusable, grave), (Recovery::Inconsistent, slight)] {
        let summary = format!("{} cannot be used", count(broken.len() as u64, "table"));
        add(grade, summary, broken.into_iter().map(|(_, line)| line.clone()).collect());
    }
    let summary = "the binary logs cannot be read to their end".to_owned();
    add(Recovery::Inconsistent, summary, seen.binlog_errors.clone());
    if let (Some(position), Some(end)) = (&seen.position, &seen.binlogs)
        && lies_before(end, position)
    {
        let evidence = vec![format!(
            "recorded: {} {}; the logs end at {} {}",
            quote(&position.0),
            position.1,
            quote(&end.0),
            end.1
        )];
        let summary = "the binary logs end before the position that a hook recorded: what was committed by then is missing";
        add(Recovery::Inconsistent, summary.to_owned(), evidence);
    }
    defects
}

/// Why it cannot be told how good a backup is in which nothing wrong was found.
fn undetermined(facts: &Facts) -> Option<String> {
    if let Some(why) = &facts.stopped {
        return Some(sentence(why));
    }
    match &facts.guest {
        Some(GuestFate::Up { .. }) => {}
        Some(GuestFate::NoAgent) => {
            return Some(
                "the guest came up, but no guest agent answers in it, and there is no other way into it: neither its \
                 database nor its tables were checked"
                    .to_owned(),
            );
        }
        Some(GuestFate::Silent { why }) => return Some(sentence(why)),
        Some(GuestFate::Failed { .. }) | None => {
            return Some("no guest was started from the disks".to_owned());
        }
    }
    if facts.servers.is_empty() {
        return Some(
            "the guest came up, but there is no MariaDB, MySQL or PostgreSQL in it. Are these the right disks, and all of \
             them?"
                .to_owned(),
        );
    }
    if let Some(server) = facts.servers.iter().find(|server| server.version.is_none()) {
        return Some(format!(
            "the database server ({}) could not be asked about its tables",
            quote(&server.unit)
        ));
    }
    if facts.servers.iter().all(|server| server.checked == 0) {
        return Some("no table of the database was checked".to_owned());
    }
    None
}

/// What was examined, in words.
fn examined(facts: &Facts, seen: &Seen) -> Vec<String> {
    let mut examined = Vec::new();
    let checked = seen.clean_disks + seen.damaged_disks.len() as u64;
    if checked > 0 {
        examined.push(count(checked, "file system"));
    }
    if let Some(GuestFate::Up { system, .. }) = &facts.guest {
        let by = match facts.start {
            Some(GuestStart::ImageKernel) => "started with the kernel of its image",
            Some(GuestStart::OwnKernel) => "started with its own kernel from outside",
            Some(GuestStart::Firmware) | None => "started by its boot loader",
        };
        examined.push(format!("the boot of {} ({by})", quote(system)));
    }
    examined.extend(facts.servers.iter().filter_map(server_words));
    if seen.binlogs.is_some() {
        examined.push("the binary logs".to_owned());
    }
    if seen.position.is_some() || seen.wal_position {
        examined.push("the position that a hook recorded".to_owned());
    }
    examined
}

fn server_words(server: &ServerFacts) -> Option<String> {
    let name = match server.database {
        Database::Mariadb => "MariaDB",
        Database::Mysql => "MySQL",
        Database::Postgresql => "PostgreSQL",
    };
    let recovery = match server.recovered {
        Some(true) => "which recovered as after a crash",
        Some(false) => "which had nothing to recover",
        None => "whose log does not say whether it recovered",
    };
    Some(format!(
        "{name} {}, {recovery}, and {} of its {}",
        quote(server.version.as_ref()?),
        server.checked,
        count(server.tables.into(), "table")
    ))
}
