//! Inspects a disk that was made elsewhere: boots it once, on overlays, and compares it with the
//! claims of its definition.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use contract::image::{Claims, Database, InspectionReport, Manifest};
use contract::plan::Limits;
use contract::text::printable;
use tokio::runtime::Runtime;
use tracing::error;

use crate::database::{Access, dialect};
use crate::error::{Error, Result};
use crate::guest::{Machine, Spec, Transcript, quote_shell};
use crate::host::{Libvirt, accel, guest_user};
use crate::interrupt;
use crate::overlay;

/// A guest boots once, and is asked some questions.
const LIMIT: Duration = Duration::from_secs(1800);

/// The inspecting process: reads `claims.json` in `dir` and writes `found.json`. `root` is a
/// short-lived directory for libvirt, whose path must be short.
pub fn main(dir: &Path, root: &Path) -> ExitCode {
    let run = || -> Result<(), Box<dyn std::error::Error>> {
        interrupt::listen()?;
        interrupt::end_with_parent()?;
        interrupt::end_after(LIMIT);
        let claims = Claims::read(dir)?;
        Ok(inspect(&claims, dir, root)?.write(dir)?)
    };
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            error!("{problem}");
            ExitCode::from(3)
        }
    }
}

fn inspect(claims: &Claims, dir: &Path, root: &Path) -> Result<InspectionReport> {
    let image = &claims.image;
    let accel = accel::probe(&dir.join("accel.json")).accel;
    let limits = Limits::for_accel(accel);
    let disks = dir.join("disks");
    std::fs::create_dir_all(&disks).map_err(Error::io("create", &disks))?;
    guest_user::let_run(image, accel, &disks, root)?;
    let drives = overlay::over_image(&disks, "inspected", image)?;
    let name = format!("freezeframe-inspect-{}", image.name);
    let spec = Spec::of_image(image, accel, name, "inspected", drives, dir.join("console.log"), root);
    let libvirt = Libvirt::embedded(root)?;
    let runtime = Runtime::new().map_err(Error::Runtime)?;
    let transcript = Transcript::create(&dir.join("agent.jsonl"))?;
    let (mut machine, _) =
        Machine::boot(&libvirt, &spec, "inspected", &transcript, limits.boot, limits.agent)?;
    let System { differences, agent_version, running } = system(claims, &machine, limits)?;
    let mut found = InspectionReport { differences, datadir: PathBuf::new(), versions: BTreeMap::new() };
    found.versions.insert("qemu-guest-agent".to_owned(), agent_version);
    if running {
        runtime.block_on(server(claims, &mut machine, limits, &mut found))?;
    }
    machine.power_off()?;
    Ok(found)
}

/// What an agent shows of a guest.
pub(crate) struct System {
    /// A sentence for each claim that is wrong.
    pub(crate) differences: Vec<String>,
    agent_version: String,
    /// Whether the unit of the server that is claimed is active.
    running: bool,
}

/// Compares a guest with the claims, as far as its agent shows it.
pub(crate) fn system(claims: &Claims, machine: &Machine, limits: Limits) -> Result<System> {
    let mut inspector = Inspector { claims, machine, limits, differences: Vec::new() };
    let agent_version = inspector.system()?;
    let running = inspector.unit(&claims.image.server.unit, "server.unit")?;
    Ok(System { differences: inspector.differences, agent_version, running })
}

/// Inspects the guest through its agent.
struct Inspector<'a> {
    claims: &'a Claims,
    machine: &'a Machine,
    limits: Limits,
    differences: Vec<String>,
}

impl Inspector<'_> {
    /// Inspects everything but the server, and returns the agent's version.
    fn system(&mut self) -> Result<String> {
        let Claims { image, agent_version: claimed, .. } = self.claims;
        let version = self.machine.agent().version()?;
        self.differences.extend(differs("the guest agent", "agent_version", claimed.as_deref(), &version));

        // The file is shell and comes from the guest: only plain assignments count.
        let release = self.shell("cat /etc/os-release")?.1;
        let value = |key: &str| {
            let line = release.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            line.unwrap_or_default().trim_matches('"').to_owned()
        };
        let (distro, names) = (value("ID"), [value("VERSION_CODENAME"), value("VERSION_ID")]);
        if distro != image.distro {
            self.claim("distro", &image.distro, &format!("the guest is `{distro}`"), &distro);
        }
        if !names.contains(&image.release) {
            let [name, number] = names;
            let right = if name.is_empty() { number } else { name };
            self.claim("release", &image.release, &format!("the guest is `{right}`"), &right);
        }

        self.unit(&image.agent.unit, "agent.unit")?;
        let hook = quote_shell(&image.agent.hook);
        if self.shell(&format!("[ -x {hook} ]"))?.0 != Some(0) {
            self.differences.push(format!(
                "`agent.hook`: there is no program {} in the guest. Install the hook there, or write where it is.",
                image.agent.hook.display()
            ));
        }
        let enabled_by = quote_shell(&image.agent.enabled_by);
        let naming = format!("grep -qF -e {hook} {enabled_by}");
        if self.shell(&naming)?.0 != Some(0) {
            self.differences.push(format!(
                "`agent.enabled_by`: {} does not name {}, so that the agent would not run it. Write there which hook \
                 the agent runs, or name the file that does.",
                image.agent.enabled_by.display(),
                image.agent.hook.display()
            ));
        }
        Ok(version)
    }

    /// Whether a unit is active once the guest has booted.
    fn unit(&mut self, unit: &str, key: &str) -> Result<bool> {
        let quoted = quote_shell(unit);
        // Waits until everything that a boot starts has started.
        let line = format!("systemctl is-system-running --wait >/dev/null; systemctl is-active {quoted}");
        let (code, state) = self.machine.agent().shell(&line, b"", self.limits.boot).map(text)?;
        if code != Some(0) {
            self.differences.push(format!(
                "`{key}`: the unit `{unit}` is {} in the guest. Name the unit that runs, or start it at boot.",
                printable(state.trim())
            ));
        }
        Ok(code == Some(0))
    }

    fn shell(&self, line: &str) -> Result<(Option<i64>, String)> {
        self.machine.agent().shell(line, b"", self.limits.agent).map(text)
    }

    fn claim(&mut self, key: &str, claimed: &str, found: &str, right: &str) {
        self.differences.push(wrong(key, claimed, found, right));
    }
}

fn text(exec: crate::guest::Exec) -> (Option<i64>, String) {
    (exec.code, String::from_utf8_lossy(&exec.stdout).into_owned())
}

fn wrong(key: &str, claimed: &str, found: &str, right: &str) -> String {
    let (found, right) = (printable(found), printable(right));
    format!("`{key}` is `{claimed}`, but {found}. Write `{key} = \"{right}\"`.")
}

/// The difference, when a version does not begin as claimed.
fn differs(what: &str, key: &str, claimed: Option<&str>, version: &str) -> Option<String> {
    let claimed = claimed?;
    let rest = version.strip_prefix(claimed);
    // 10.1 is not 10.11.
    let same = rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()));
    (!same).then(|| wrong(key, claimed, &format!("the version of {what} is `{version}`"), version))
}

/// Inspects the server as the load would use it: over the forwarded port, with the image's account.
async fn server(
    claims: &Claims,
    machine: &mut Machine,
    limits: Limits,
    found: &mut InspectionReport,
) -> Result<()> {
    let Manifest { server, .. } = &claims.image;
    let access = Access::of_image(machine.sql_address()?, server)?;
    let connected = access.connect_within(limits.agent, || machine.check_alive()).await;
    let mut conn = match connected {
        Ok(conn) => conn,
        Err(Error::Sql { source, .. }) => {
            found.differences.push(format!(
                "`server.port` {}, `server.user` `{}` and the password file do not lead to the database `freezeframe`: \
                 {}. Create the account and the database as the documentation on images shows, or correct these \
                 three.",
                server.port,
                server.user,
                printable(&source.to_string())
            ));
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let dialect = dialect(server.database);
    let row = conn.query_first(dialect.identity()).await.and_then(|row| match row {
        Some(row) => Ok([row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?]),
        None => Ok([const { None::<String> }; 4]),
    });
    let [version, comment, datadir, binlogs] = row.map_err(Error::sql("report its version"))?;
    let (version, comment) = (version.unwrap_or_default(), comment.unwrap_or_default());
    let kind = if comment == "PostgreSQL" {
        Database::Postgresql
    } else if format!("{version} {comment}").to_lowercase().contains("mariadb") {
        Database::Mariadb
    } else {
        Database::Mysql
    };
    if kind != server.database {
        let text = format!("the server says that it is {version} ({comment})");
        found.differences.push(wrong("database", server.database.name(), &text, kind.name()));
    }
    let claimed = claims.server_version.as_deref();
    found.differences.extend(differs("the server", "server_version", claimed, &version));
    if let Some(claimed) = &server.binlogs {
        found.differences.extend(kept_elsewhere(claimed, &binlogs.unwrap_or_default()));
    }
    let datadir = match datadir {
        Some(datadir) => datadir,
        None => {
            let (client, query) = (dialect.root_client(), dialect.data_directory());
            let answer = machine.agent().script(client, query.as_bytes(), limits.agent)?;
            String::from_utf8_lossy(&answer).trim().to_owned()
        }
    };
    found.datadir = Path::new(&datadir).components().collect();
    found.versions.insert(server.database.name().to_owned(), version);
    // The guest's power is cut anyway.
    conn.close().await;
    Ok(())
}

/// The difference, when binary logs that begin like this are not in the directory that is claimed.
fn kept_elsewhere(claimed: &Path, binlogs: &str) -> Option<String> {
    let kept = Path::new(binlogs).parent().unwrap_or(Path::new(""));
    let text = if binlogs.is_empty() {
        "the server keeps no binary logs".to_owned()
    } else {
        format!("the server keeps them in {}", kept.display())
    };
    let claimed_text = claimed.display().to_string();
    (kept != claimed).then(|| wrong("server.binlogs", &claimed_text, &text, &kept.display().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_compared_number_by_number() {
        assert_eq!(differs("it", "v", None, "10.11.6"), None);
        for claimed in ["10", "10.11", "10.11.6", "10.11.6-MariaDB"] {
            assert_eq!(differs("it", "v", Some(claimed), "10.11.6-MariaDB"), None);
        }
        assert_eq!(
            differs("it", "v", Some("10.1"), "10.11.6").unwrap(),
            "`v` is `10.1`, but the version of it is `10.11.6`. Write `v = \"10.11.6\"`."
        );
    }
}
