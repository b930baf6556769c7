//! What a site may set, in one TOML file; everything has a default, and the file may be missing.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::exit::{Exit, Failure};
use crate::ours;
use crate::servers::Server;

/// Where the settings are, unless `FSFREEZE_DB_SETTINGS` names another file.
const FILE: &str = "/etc/qemu/fsfreeze-db.toml";

/// The file of this machine's settings.
pub(crate) fn file() -> PathBuf {
    std::env::var_os("FSFREEZE_DB_SETTINGS").map_or_else(|| FILE.into(), PathBuf::from)
}

/// The settings of this machine.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Settings {
    /// This machine must have a database server: a freeze that finds none is refused.
    pub(crate) required: bool,
    /// From the start of a freeze until it gives up.
    lock_seconds: u64,
    /// After this time the servers release their locks by themselves, because no thaw came.
    hold_seconds: u64,
    /// The state of the lock; it must be on a tmpfs, never on a disk that freezes.
    pub(crate) run_directory: PathBuf,
    /// Where each server's position goes; on a disk that is in the backup. Empty: nowhere.
    pub(crate) position_directory: PathBuf,
    /// A freeze whose position cannot be written is refused.
    pub(crate) position_required: bool,
    /// What differs for some of the servers.
    server: Vec<ServerSettings>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            required: false,
            lock_seconds: 12,
            hold_seconds: 60,
            run_directory: "/run/fsfreeze-db".into(),
            position_directory: "/var/lib/fsfreeze-db".into(),
            position_required: false,
            server: Vec::new(),
        }
    }
}

/// The settings of the servers that it matches: of all, if it names neither directory nor group.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ServerSettings {
    /// Only the server with this data directory, as the server itself sees it.
    data_directory: Option<PathBuf>,
    /// Only servers whose control group contains this: a unit's name, or a container's identity.
    control_group: Option<String>,
    /// Nothing is locked in these servers.
    pub(crate) ignore: bool,
    /// There must be such a server.
    required: bool,
    /// The account; it logs in through the server's own socket. Default: `root`, or the owner of
    /// PostgreSQL's data directory.
    pub(crate) user: Option<String>,
    /// The database that it connects to; PostgreSQL's only.
    pub(crate) database: String,
    /// The number of the account that the server runs as, where a password is sent to one of a person's.
    server_uid: Option<u32>,
    /// A file with the password in its first line, which others than its owner must not read.
    password_file: Option<PathBuf>,
    /// An option file of the server's clients, whose `[client]` names user, password and socket.
    option_file: Option<PathBuf>,
    /// The socket, as the server itself sees it. Without one it is found.
    pub(crate) socket: Option<PathBuf>,
    /// How it is locked.
    pub(crate) method: Method,
    /// How long one FLUSH TABLES WITH READ LOCK may keep all writers waiting.
    flush_wait_seconds: u64,
    /// The age from which a running statement is waited for before it.
    long_statement_seconds: u64,
    /// Ends statements that are older, instead of refusing the freeze.
    pub(crate) kill_long_statements: bool,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            data_directory: None,
            control_group: None,
            ignore: false,
            required: false,
            user: None,
            database: "postgres".to_owned(),
            server_uid: None,
            password_file: None,
            option_file: None,
            socket: None,
            method: Method::Auto,
            flush_wait_seconds: 2,
            long_statement_seconds: 2,
            kill_long_statements: false,
        }
    }
}

/// How a server is locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Method {
    /// The best that the server has: `BACKUP STAGE` before FLUSH TABLES WITH READ LOCK, backup mode before
    /// a mere flush.
    Auto,
    /// MariaDB's backup lock, or none.
    BackupStage,
    /// Always FLUSH TABLES WITH READ LOCK.
    Ftwrl,
    /// PostgreSQL's backup mode, or none: a checkpoint that takes too long is a refusal.
    BackupMode,
    /// A flush of PostgreSQL's WAL, without the checkpoint that backup mode begins with.
    Flush,
}

/// How a client logs in.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Login {
    /// The account, if one is named.
    pub(crate) user: Option<String>,
    /// Its password, if it has one.
    pub(crate) password: Option<String>,
    /// The socket, as the server sees it, if one is named.
    pub(crate) socket: Option<PathBuf>,
}

impl Settings {
    /// Reads the file.
    ///
    /// # Errors
    ///
    /// If it is there and cannot be read, if others than root may write to it, or if it says something
    /// unknown or impossible; with file, line and column.
    pub(crate) fn read(file: &Path) -> Result<Self, Failure> {
        let text = match fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(refused(format!("cannot read {}: {error}", file.display()))),
        };
        ours::only(file, 0o022, "write to").map_err(refused)?;
        let settings: Self = toml::from_str(&text).map_err(|error| {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            refused(format!("{}, line {line}: {}", file.display(), error.message()))
        })?;
        for (name, seconds) in
            [("lock_seconds", settings.lock_seconds), ("hold_seconds", settings.hold_seconds)]
        {
            if !(1..=3600).contains(&seconds) {
                return Err(refused(format!("{}: {name} = {seconds}, not 1 to 3600", file.display())));
            }
        }
        Ok(settings)
    }

    /// The defaults, but for the directory that this file names, whatever else is wrong with it.
    pub(crate) fn with_directory_of(file: &Path) -> Self {
        #[derive(Deserialize)]
        struct Directory {
            run_directory: PathBuf,
        }
        let text = fs::read_to_string(file).unwrap_or_default();
        match toml::from_str(&text) {
            Ok(Directory { run_directory }) => Self { run_directory, ..Self::default() },
            Err(_) => Self::default(),
        }
    }

    /// From the start of a freeze until it gives up.
    pub(crate) fn lock_limit(&self) -> Duration {
        Duration::from_secs(self.lock_seconds)
    }

    /// How long a lock may be held.
    pub(crate) fn hold_limit(&self) -> Duration {
        Duration::from_secs(self.hold_seconds)
    }

    /// The settings of a server: the first that match it.
    pub(crate) fn of(&self, data_directory: &Path, control_group: &str) -> ServerSettings {
        let matching = |server: &&ServerSettings| server.matches(data_directory, control_group);
        self.server.iter().find(matching).cloned().unwrap_or_default()
    }

    /// What is required and not among these servers, each a data directory and a control group.
    pub(crate) fn missing(&self, found: &[(PathBuf, String)]) -> Option<String> {
        let lacking = |server: &&ServerSettings| {
            server.required && !found.iter().any(|(directory, group)| server.matches(directory, group))
        };
        if let Some(server) = self.server.iter().find(lacking) {
            let by = [
                server
                    .data_directory
                    .as_ref()
                    .map(|it| format!("data_directory = {:?}", it.display().to_string())),
                server.control_group.as_ref().map(|it| format!("control_group = {it:?}")),
            ];
            return Some(format!(
                "no server runs that matches {}, which the settings require",
                by.into_iter().flatten().collect::<Vec<_>>().join(" and ")
            ));
        }
        (self.required && found.is_empty())
            .then(|| "no database server runs, and the settings require one".to_owned())
    }
}

impl ServerSettings {
    fn matches(&self, data_directory: &Path, control_group: &str) -> bool {
        self.data_directory.as_ref().is_none_or(|it| it.components().eq(data_directory.components()))
            && self.control_group.as_ref().is_none_or(|it| control_group.contains(it.as_str()))
    }

    /// How to log in.
    ///
    /// # Errors
    ///
    /// If a file with a secret cannot be read, or others than its owner can read it; or if anybody may have started
    /// this server, to be told the password.
    pub(crate) fn login(&self, server: &Server) -> Result<Login, Failure> {
        let mut login = Login { user: self.user.clone(), password: None, socket: self.socket.clone() };
        if let Some(file) = &self.option_file {
            read_options(&secret(file)?, &mut login);
        }
        if let Some(file) = &self.password_file {
            login.password = secret(file)?.lines().next().map(str::to_owned);
        }
        if login.password.is_some() && !self.trusts(server.user) {
            let user = server.user.map_or_else(|| "several accounts".to_owned(), |uid| format!("user {uid}"));
            let why = format!(
                "{} belongs to {user}, no system account, and is told no password: name it as `server_uid` of this server",
                server.name()
            );
            return Err(Failure { exit: Exit::NoLogin, why });
        }
        Ok(login)
    }

    /// Whether a server of this user may hear a secret: one that root has set up, or that the site names.
    fn trusts(&self, user: Option<u32>) -> bool {
        user.is_some_and(|user| self.server_uid.map_or(!ours::is_person(user), |named| user == named))
    }

    /// How long one FLUSH TABLES WITH READ LOCK may wait.
    pub(crate) fn flush_wait(&self) -> Duration {
        Duration::from_secs(self.flush_wait_seconds.max(1))
    }

    /// The age of a long statement, seconds.
    pub(crate) fn long_statement_seconds(&self) -> u64 {
        self.long_statement_seconds
    }
}

/// Takes user, password and socket from the `[client]` of an option file, as the server's clients do.
fn read_options(text: &str, login: &mut Login) {
    let mut of_client = false;
    for line in text.lines().map(str::trim) {
        if let Some(group) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            of_client = ["client", "client-mariadb", "client-server"].contains(&group.trim());
        } else if let Some((name, value)) = line.split_once('=')
            && of_client
            && !line.starts_with(['#', ';'])
        {
            let value = unquoted(value.trim()).to_owned();
            match name.trim() {
                "user" => login.user = Some(value),
                "password" => login.password = Some(value),
                "socket" => login.socket = Some(value.into()),
                _ => {}
            }
        }
    }
}

fn unquoted(value: &str) -> &str {
    for quote in ['"', '\''] {
        if let Some(inner) = value.strip_prefix(quote).and_then(|value| value.strip_suffix(quote)) {
            return inner;
        }
    }
    value
}

/// The text of a file that only its owner can read.
fn secret(file: &Path) -> Result<String, Failure> {
    let text = fs::read_to_string(file).map_err(|error| Failure {
        exit: Exit::NoLogin,
        why: format!("cannot read {}: {error}", file.display()),
    })?;
    ours::only(file, 0o077, "read").map_err(refused)?;
    Ok(text)
}

fn refused(why: String) -> Failure {
    Failure { exit: Exit::Refused, why }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_file_does_not_say_has_a_default() {
        let settings: Settings = toml::from_str("hold_seconds = 30\n[[server]]\nuser = 'backup'\n").unwrap();
        assert_eq!(settings.hold_limit(), Duration::from_secs(30));
        assert_eq!(settings.lock_limit(), Duration::from_secs(12));
        assert_eq!(settings.of(Path::new("/var/lib/mysql"), "").user.unwrap(), "backup");
        toml::from_str::<Settings>("hold_secs = 30").unwrap_err();
        toml::from_str::<Settings>("[[server]]\nmethod = 'locks'").unwrap_err();
    }

    #[test]
    fn the_first_settings_that_match_a_server_are_its_own() {
        let settings: Settings = toml::from_str(
            "[[server]]\ndata_directory = '/srv/a/'\nignore = true\n\
             [[server]]\ncontrol_group = 'docker-5f'\nuser = 'in'\n[[server]]\nuser = 'rest'\n",
        )
        .unwrap();
        assert!(settings.of(Path::new("/srv/a"), "").ignore);
        assert_eq!(
            settings.of(Path::new("/var/lib/mysql"), "/system.slice/docker-5f3.scope").user.unwrap(),
            "in"
        );
        assert_eq!(
            settings.of(Path::new("/var/lib/mysql"), "/system.slice/mariadb.service").user.unwrap(),
            "rest"
        );
    }

    #[test]
    fn a_password_is_for_servers_that_root_has_set_up() {
        let any: ServerSettings = toml::from_str("").unwrap();
        assert!(any.trusts(Some(0)) && any.trusts(Some(999)));
        assert!(!any.trusts(Some(2_000_000_000)) && !any.trusts(None));
        let named: ServerSettings = toml::from_str("server_uid = 100999").unwrap();
        assert!(named.trusts(Some(100_999)) && !named.trusts(Some(0)) && !named.trusts(None));
    }

    #[test]
    fn what_is_required_and_missing_is_named() {
        let settings: Settings =
            toml::from_str("[[server]]\ndata_directory = '/srv/a'\nrequired = true\n").unwrap();
        assert!(settings.missing(&[("/srv/b".into(), String::new())]).unwrap().contains("/srv/a"));
        assert_eq!(settings.missing(&[("/srv/a".into(), String::new())]), None);
        let settings: Settings = toml::from_str("required = true\n").unwrap();
        assert!(settings.missing(&[]).is_some());
        assert_eq!(settings.missing(&[("/srv/b".into(), String::new())]), None);
    }

    #[test]
    fn an_option_file_is_read_as_clients_read_it() {
        let mut login = Login { user: None, password: None, socket: None };
        let text = "[mysqld]\nuser = mysql\n[client]\n# user = no\nuser=debian-sys-maint\npassword = \"a = 'b'\"\n\
                    socket   = /run/mysqld/mysqld.sock\n[mysql_upgrade]\npassword = other\n";
        read_options(text, &mut login);
        assert_eq!(login.user.unwrap(), "debian-sys-maint");
        assert_eq!(login.password.as_deref(), Some("a = 'b'"));
        assert_eq!(login.socket.as_deref(), Some(Path::new("/run/mysqld/mysqld.sock")));
    }

    /// Whoever deletes a `#` gets what the line says.
    #[test]
    fn the_file_that_is_installed_shows_the_defaults_and_sets_nothing() {
        let file = include_str!("../../freezeframe/fsfreeze-db.toml");
        assert!(file.lines().all(|line| line.is_empty() || line.starts_with('#')));
        let shown = |line: &&str| line.starts_with(|c: char| c == '[' || c.is_ascii_alphabetic());
        let lines = file.lines().filter_map(|line| line.strip_prefix('#')).filter(shown);
        let mut settings: Settings = toml::from_str(&lines.collect::<Vec<_>>().join("\n")).unwrap();
        assert_eq!(settings.server.len(), 1);
        settings.server.clear();
        assert_eq!(format!("{settings:?}"), format!("{:?}", Settings::default()));
    }
}
