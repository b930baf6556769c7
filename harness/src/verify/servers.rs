//! Finds the database servers of a guest, starts those that do not run, and has them check themselves.

use std::time::Duration;

use contract::image::Database;
use contract::plan::Limits;
use contract::text::{printable, quote_lines};
use contract::verification::{Facts, ServerFacts};

use super::checks::{self, Asked, Done, Table};
use super::{mysql, postgresql};
use crate::database::dialect;
use crate::error::{AgentError, Error, Result};
use crate::guest::{Agent, Exec, Machine, quote_shell};
use crate::observe::{self, ObservationLog};

/// How long a server may take to start: it may have gigabytes of logs to recover from.
const START: Duration = Duration::from_secs(600);

/// The most characters of a server's words that are kept, and the most units that are examined.
const MAX_WORDS: usize = 3000;
const MOST_UNITS: usize = 8;

/// A server's unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) unit: String,
    is_postgresql: bool,
}

/// Waits until everything that a boot starts has started, or failed to.
pub(super) fn settle(agent: &Agent, limit: Duration) -> Result<()> {
    match agent.shell("systemctl is-system-running --wait >/dev/null 2>&1", b"", limit) {
        // What is still starting by then may not matter.
        Err(Error::Agent(AgentError::Unfinished { .. })) | Ok(_) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Prints the units of servers under their own names; see systemctl(1). Debian's `postgresql.service` only stands
/// for the units of its clusters.
const FIND: &str = r#"
clusters=$(systemctl list-units --all --plain --no-legend --no-pager 'postgresql@*.service' | awk '{ print $1 }')
others=$(systemctl list-unit-files --plain --no-legend --no-pager 'postgresql-*.service' | awk '{ print $1 }')
[ -n "$clusters" ] || clusters=postgresql.service
for unit in mariadb.service mysql.service mysqld.service $clusters $others; do
    [ "$(systemctl show --property LoadState --value "$unit")" = loaded ] || continue
    systemctl show --property Id --value "$unit"
done
"#;

/// The servers that are installed in the guest.
pub(super) fn find(agent: &Agent, limit: Duration) -> Result<Vec<Found>> {
    Ok(read_units(&String::from_utf8_lossy(&agent.script(FIND, b"", limit)?)))
}

fn read_units(listed: &str) -> Vec<Found> {
    let mut found: Vec<Found> = Vec::new();
    for unit in listed.lines().map(str::trim).filter(|unit| unit.ends_with(".service")) {
        // A template, and what checks or prepares a server, is none.
        let helper =
            ["@.service", "-setup.service", "-check-db-dir.service"].iter().any(|end| unit.ends_with(end));
        if !helper && !found.iter().any(|other| other.unit == unit) && found.len() < MOST_UNITS {
            found.push(Found { unit: printable(unit), is_postgresql: unit.starts_with("postgresql") });
        }
    }
    found
}

/// What was learned of a server that answers: its kind, and the client of its root.
pub(super) type Answers = Option<(Database, String)>;

/// Examines a server, and adds it to the facts.
pub(super) fn examine(
    machine: &Machine,
    found: &Found,
    limits: Limits,
    facts: &mut Facts,
    out: &mut ObservationLog,
) -> Result<Answers> {
    let database = if found.is_postgresql { Database::Postgresql } else { Database::Mariadb };
    let server = ServerFacts {
        unit: found.unit.clone(),
        database,
        version: None,
        failed: None,
        recovered: None,
        recovery: Vec::new(),
        corruption: Vec::new(),
        tables: 0,
        checked: 0,
    };
    let mut examination = Examination { machine, limits, facts, out, server };
    let examined = match found.is_postgresql {
        true => examination.postgresql(),
        false => examination.mysql(),
    };
    let Examination { facts, server, .. } = examination;
    let unit = server.unit.clone();
    facts.servers.push(server);
    match examined {
        // What was found so far counts all the same.
        Err(error) if error.is_of_guest() => {
            machine.check_host()?;
            facts.unexamined.push(format!("{unit}: {error}"));
            Ok(None)
        }
        examined => examined,
    }
}

/// The examination of one server.
struct Examination<'a> {
    /// Its guest.
    machine: &'a Machine,
    limits: Limits,
    facts: &'a mut Facts,
    out: &'a mut ObservationLog,
    server: ServerFacts,
}

impl Examination<'_> {
    fn agent(&self) -> &Agent {
        self.machine.agent()
    }

    fn shell(&self, line: &str, limit: Duration) -> Result<Exec> {
        self.agent().shell(line, b"", limit)
    }

    /// Runs statements, and returns what the client printed.
    fn ask(&self, client: &str, statements: &str) -> Result<String> {
        let answer = self.agent().script(client, statements.as_bytes(), self.limits.statement * 4)?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    /// Starts the server as its unit does; false when it does not start, whatever is tried.
    fn start(&mut self, again: &str) -> Result<bool> {
        let unit = quote_shell(&self.server.unit);
        if self.shell(&format!("systemctl start {unit}"), START)?.code == Some(0) {
            return Ok(true);
        }
        let why = self.words()?;
        if self.shell(&again.replace("UNIT", &unit), START)?.code == Some(0) {
            self.facts.notes.push(format!(
                "{} does not start as it is set up, which may be for what is missing here, such as its network or its \
                 memory; it starts when it listens to nobody and takes little memory. It said: {}",
                self.server.unit,
                why.lines().next_back().unwrap_or_default()
            ));
            return Ok(true);
        }
        let words = self.words()?;
        // A unit's own limit may be short for a recovery under emulation: who was ended is not damaged.
        let result =
            self.shell(&format!("systemctl show --property Result --value {unit}"), self.limits.agent)?;
        match result.stdout.trim_ascii() == b"timeout" || lacks_host(&words) {
            true => self.facts.unexamined.push(format!("{} does not start here: {words}", self.server.unit)),
            false => self.server.failed = Some(words),
        }
        Ok(false)
    }

    /// The last lines of the unit's journal, and of the files that servers log to.
    fn words(&self) -> Result<String> {
        const WORDS: &str = "journalctl -b -o cat --no-pager -n 12 -u UNIT
            for log in /var/log/mysql/error.log /var/log/mariadb/mariadb.log /var/log/mysqld.log \
                /var/log/mysql/mysqld.log /var/log/postgresql/*.log; do
                [ ! -s \"$log\" ] || tail -n 12 \"$log\"
            done";
        let said = self.shell(&WORDS.replace("UNIT", &quote_shell(&self.server.unit)), self.limits.agent)?;
        Ok(quote_lines(MAX_WORDS, String::from_utf8_lossy(&said.stdout).trim()))
    }

    fn mysql(&mut self) -> Result<Answers> {
        let plain =
            |settings: &str| format!("unit=UNIT\nsettings={}\n{}", quote_shell(settings), mysql::PLAIN);
        if !self.start(&plain(mysql::SMALL))? {
            return Ok(None);
        }
        let mut client = self.shell(mysql::CLIENT, self.limits.agent * 4)?;
        let locked_out = client.code == Some(1) && is_denied(&String::from_utf8_lossy(&client.stderr));
        if locked_out {
            let unit = quote_shell(&self.server.unit);
            self.shell(&plain(mysql::OPEN).replace("UNIT", &unit), START)?;
            client = self.shell(mysql::CLIENT, self.limits.agent * 4)?;
            self.facts.notes.push(format!(
                "{} lets the guest's root in with a password only, so it was started once more, without its accounts",
                self.server.unit
            ));
        }
        let client = self.agent().check(client, "a client of the server's root")?;
        let client = String::from_utf8_lossy(&client).trim().to_owned();
        let identity = self.ask(&client, mysql::IDENTITY)?;
        let mut fields = identity.trim_end().split('\t');
        let mut field = || fields.next().unwrap_or_default();
        let (version, comment, log, forced) = (field(), field(), field(), field());
        let mariadb = format!("{version} {comment}").to_lowercase().contains("mariadb");
        self.server.database = if mariadb { Database::Mariadb } else { Database::Mysql };
        self.server.version = Some(printable(version));
        if !matches!(forced, "0" | "") {
            self.facts.notes.push(format!(
                "the server is set up with innodb_force_recovery = {}, with which it starts from damaged files",
                printable(forced)
            ));
        }
        self.recovery(Some(log))?;
        if locked_out && self.server.recovered == Some(false) {
            // That is what the second start says, which follows a clean end.
            self.server.recovered = None;
        }
        let tables = mysql::read_tables(&self.ask(&client, mysql::TABLES)?);
        let asked = TableClient {
            agent: self.machine.agent(),
            probe: client.clone(),
            client: format!("{client} --force"),
            language: Language::Mysql,
        };
        self.check(&tables, mysql::MOST_TABLES, &asked)?;
        Ok(Some((self.server.database, client)))
    }

    fn postgresql(&mut self) -> Result<Answers> {
        if !self.start(POSTGRESQL_SMALL)? {
            return Ok(None);
        }
        let client = postgresql::CLIENT;
        let on = |database: &str| format!("{client} -v ON_ERROR_STOP=1 -d {}", quote_shell(database));
        let identity = self.ask(&on("postgres"), postgresql::IDENTITY)?;
        let mut fields = identity.trim_end().split('\t');
        let mut field = || fields.next().unwrap_or_default();
        let (version, number, checksums, follows) = (field(), field(), field(), field());
        self.server.version = Some(printable(version.trim_start_matches("PostgreSQL ")));
        let number: u32 = number.parse().unwrap_or(0);
        if checksums != "on" {
            self.facts.notes.push("the server's pages have no checksums, which would show more".to_owned());
        }
        if follows == "t" {
            self.facts
                .notes
                .push("the server follows another one, and waits for its write-ahead log".to_owned());
        }
        self.recovery(None)?;
        for database in self.ask(&on("postgres"), postgresql::DATABASES)?.lines() {
            let connect = on(database);
            let amcheck =
                self.agent().shell(&connect, postgresql::AMCHECK.as_bytes(), self.limits.statement)?;
            let amcheck = amcheck.code == Some(0);
            if !amcheck {
                let name = printable(database);
                self.facts.unexamined.push(format!(
                    "the indexes of the database {name}: the extension amcheck cannot be installed in it, so its rows \
                     were only read"
                ));
            }
            let tables = postgresql::read_tables(database, &self.ask(&connect, postgresql::TABLES)?);
            let asked = TableClient {
                agent: self.machine.agent(),
                client: format!("{client} -d {} 2>&1", quote_shell(database)),
                probe: connect,
                language: Language::Postgresql { version: number, amcheck },
            };
            self.check(&tables, postgresql::MOST_TABLES, &asked)?;
        }
        Ok(Some((Database::Postgresql, on("postgres"))))
    }

    /// What the server's log says about recovery.
    fn recovery(&mut self, file: Option<&str>) -> Result<()> {
        let dialect = dialect(self.server.database);
        let (unit, limit) = (&self.server.unit, self.limits.agent);
        let recovery = match file {
            Some(file) => observe::recovery(dialect, self.agent(), unit, Some(file), limit)?,
            None => {
                let log = self.shell(&POSTGRESQL_LOG.replace("UNIT", &quote_shell(unit)), limit)?;
                observe::read_recovery(dialect, &String::from_utf8_lossy(&log.stdout))
            }
        };
        self.server.recovered = recovery.recovered;
        self.server.recovery = recovery.lines;
        self.server.corruption = recovery.corruption;
        if let Some(prepared @ 1..) = recovery.prepared {
            self.facts.notes.push(format!(
                "{prepared} transactions were prepared and not committed when the disks were copied"
            ));
        }
        Ok(())
    }

    /// Checks all of these tables.
    fn check(&mut self, tables: &[Table], most: usize, client: &TableClient<'_>) -> Result<()> {
        let listed = tables.get(..most).unwrap_or(tables);
        if tables.len() > most {
            self.facts.unexamined.push(format!("tables of {} beyond the first {most}", self.server.unit));
        }
        let out = &mut *self.out;
        let ask = |batch: &[Table], left| client.check(batch, left);
        let Done { checked, stopped } =
            checks::check_all(listed, checks::LIMIT, ask, |record| Ok(out.write(record)?))?;
        let total = u32::try_from(listed.len()).unwrap_or(u32::MAX);
        self.server.tables += total;
        self.server.checked += checked;
        self.facts.unexamined.extend(
            stopped
                .map(|why| format!("{} of {total} tables of {}: {why}", total - checked, self.server.unit)),
        );
        // A table that could not be checked says nothing when its guest is gone.
        self.machine.check_host()
    }
}

/// A client that checks the tables of a database.
struct TableClient<'a> {
    agent: &'a Agent,
    /// Its line, and the same for one that goes on after an error.
    probe: String,
    client: String,
    language: Language,
}

/// What a client understands.
enum Language {
    Mysql,
    Postgresql {
        /// The server's.
        version: u32,
        /// Whether the database has the extension.
        amcheck: bool,
    },
}

impl TableClient<'_> {
    /// Checks these tables once the server answers.
    fn check(&self, tables: &[Table], left: Duration) -> Result<Asked> {
        let wait = WAIT.replace("CLIENT", &self.probe);
        let statements = match &self.language {
            Language::Mysql => mysql::check(tables),
            Language::Postgresql { version, amcheck } => postgresql::check(tables, *version, *amcheck),
        };
        let said = match self.agent.shell(&wait, b"", left) {
            Ok(Exec { code: Some(0), .. }) => self.agent.shell(&self.client, statements.as_bytes(), left),
            Ok(waited) => return Ok(Asked::Gone(last_line(&waited.stderr))),
            Err(error) => Err(error),
        };
        let Exec { stdout, stderr, .. } = match said {
            Err(Error::Agent(AgentError::Unfinished { .. })) => return Ok(Asked::Late),
            said => said?,
        };
        let answer = String::from_utf8_lossy(&stdout);
        let messages = match self.language {
            Language::Mysql => mysql::read_check(tables, &answer),
            Language::Postgresql { .. } => postgresql::read_check(tables, &answer),
        };
        // A guest that has less memory than the original may have ended its server for that.
        if messages.len() < tables.len() && self.agent.shell(OUT_OF_MEMORY, b"", left)?.code == Some(0) {
            return Ok(Asked::Gone("the guest ran out of memory, and its kernel ended a process".to_owned()));
        }
        let words = if stderr.is_empty() { &stdout } else { &stderr };
        Ok(Asked::Answered(messages, last_line(words)))
    }
}

/// Waits until a server answers that was lost and may be started again by its unit.
const WAIT: &str = "tries=60; until echo 'SELECT 1;' | CLIENT >/dev/null; do
    tries=$((tries - 1)); [ $tries -gt 0 ] || exit 1; sleep 1
done";

/// Succeeds where the guest's kernel has ended a process for want of memory.
const OUT_OF_MEMORY: &str = "journalctl -k -b --no-pager | grep -qi 'out of memory: kill'";

/// Starts a PostgreSQL that was set up for another machine. The settings go to the file that the server itself
/// writes by ALTER SYSTEM, which wins over all others; only the overlay gets them.
const POSTGRESQL_SMALL: &str = r#"
name=UNIT
cluster=${name#postgresql@}; cluster=${cluster%.service}
data=$(pg_lsclusters --no-header 2>/dev/null | awk -v it="$cluster" '$1 "-" $2 == it { print $6 }')
[ -n "$data" ] || data=$(systemctl show --property Environment --value UNIT | tr ' ' '\n' | sed -n 's/^PGDATA=//p')
[ -n "$data" ] && [ -d "$data" ] || exit 1
printf "%s\n" "listen_addresses = ''" "shared_buffers = '128MB'" "huge_pages = off" >>"$data/postgresql.auto.conf"
systemctl reset-failed UNIT
systemctl restart UNIT
"#;

/// The log of this start: the unit's journal, and the file that is the standard error of the server, as Debian's
/// clusters have it, from the last start on.
const POSTGRESQL_LOG: &str = r#"
journalctl -b -o cat --no-pager -u UNIT | head -c 131072
pid=$(systemctl show --property MainPID --value UNIT)
log=$(readlink "/proc/$pid/fd/2")
[ ! -f "$log" ] || tail -c 131072 "$log" | tac | sed '/starting PostgreSQL/q' | tac
exit 0
"#;

fn last_line(words: &[u8]) -> String {
    printable(String::from_utf8_lossy(words).trim().lines().next_back().unwrap_or_default())
}

/// Whether a server says that it lets nobody in, and not that it is not there.
fn is_denied(words: &str) -> bool {
    ["ERROR 1045", "ERROR 1698", "Access denied"].iter().any(|denied| words.contains(denied))
}

/// Whether a server says that it does not start for want of something that only its own machine has.
fn lacks_host(words: &str) -> bool {
    let lacks = [
        "annot allocate memory",
        "annot assign requested address",
        "could not create any TCP/IP sockets",
        "Bind on TCP/IP port",
        "could not map anonymous shared memory",
    ];
    lacks.iter().any(|lack| words.contains(lack))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_of_servers_are_told_from_others() {
        let listed = "mariadb.service\nmariadb.service\npostgresql@15-main.service\npostgresql@.service\n\n\
                      postgresql-setup.service\nmysqld.service\n../../etc\n";
        let found = read_units(listed);
        let units: Vec<_> = found.iter().map(|found| (&*found.unit, found.is_postgresql)).collect();
        let expected =
            [("mariadb.service", false), ("postgresql@15-main.service", true), ("mysqld.service", false)];
        assert_eq!(units, expected);
        assert_eq!(read_units(""), []);
    }

    #[test]
    fn what_only_its_own_machine_has_is_no_defect() {
        assert!(lacks_host("InnoDB: Cannot allocate memory for the buffer pool"));
        assert!(lacks_host(
            "[ERROR] Can't start server: Bind on TCP/IP port. Got error: 99: Cannot assign requested address"
        ));
        assert!(lacks_host("FATAL:  could not create any TCP/IP sockets"));
        for damage in [
            "[ERROR] InnoDB: Database page corruption on disk or a failed read of file",
            "PANIC:  could not locate a valid checkpoint record",
            "",
        ] {
            assert!(!lacks_host(damage), "{damage}");
        }
        assert!(is_denied("ERROR 1698 (28000): Access denied for user 'root'@'localhost'"));
        assert!(!is_denied("ERROR 2002 (HY000): Can't connect to local server through socket"));
    }
}
