//! MariaDB's `innodb_flush_log_at_trx_commit`, raised for the moment in which nobody can commit.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::client::{Connection, ServerError};
use crate::servers::{ProcessId, Server};

/// How the names of the notes begin.
const NOTE: &str = "restore-";

/// A setting that commits do not flush by.
pub(crate) struct Relaxed {
    note: PathBuf,
    of: Setting,
    /// It may be raised now.
    pub(super) is_raised: bool,
}

/// What it was before, and of which server; kept in a file while it is raised.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Setting {
    process: ProcessId,
    value: u8,
}

impl Relaxed {
    pub(crate) fn new(run_directory: &Path, server: &Server, value: u8) -> Self {
        Self {
            note: note(run_directory, server),
            of: Setting { process: server.process, value },
            is_raised: false,
        }
    }

    /// Notes the value, and raises it.
    pub(crate) async fn raise(&mut self, conn: &mut Connection) -> Result<(), ServerError> {
        let text = serde_json::to_vec(&self.of).unwrap_or_default();
        fs::write(&self.note, text)
            .map_err(|error| ServerError::Other(format!("cannot write {}: {error}", self.note.display())))?;
        self.is_raised = true;
        let raised = set(conn, 1).await;
        if let Err(ServerError::Server(..)) = &raised {
            // It says that it has not, and there is nothing to set back.
            self.is_raised = false;
            let _ = fs::remove_file(&self.note);
        }
        raised
    }

    /// Sets it back.
    pub(crate) async fn restore(&mut self, conn: &mut Connection) -> Result<(), ServerError> {
        set(conn, self.of.value).await?;
        self.is_raised = false;
        let _ = fs::remove_file(&self.note);
        Ok(())
    }
}

/// Some freeze has noted a value.
pub(crate) fn is_any_left(run_directory: &Path) -> bool {
    let mut files = fs::read_dir(run_directory).into_iter().flatten().flatten();
    files.any(|file| file.file_name().to_string_lossy().starts_with(NOTE))
}

/// The value to set back that a freeze which was killed has left for this server.
pub(crate) fn left(run_directory: &Path, server: &Server) -> Option<Relaxed> {
    let note = note(run_directory, server);
    let of: Setting = serde_json::from_slice(&fs::read(&note).ok()?).ok()?;
    if of.process == server.process {
        return Some(Relaxed { note, of, is_raised: true });
    }
    // That server has ended, and its setting with it.
    let _ = fs::remove_file(&note);
    None
}

fn note(run_directory: &Path, server: &Server) -> PathBuf {
    run_directory.join(format!("{NOTE}{}", server.process.pid))
}

async fn set(conn: &mut Connection, value: u8) -> Result<(), ServerError> {
    conn.run(&format!("SET GLOBAL innodb_flush_log_at_trx_commit = {value}")).await
}
