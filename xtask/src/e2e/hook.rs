//! The hook that the user names.

use std::path::{Path, PathBuf};

use freezeframe::scenario::Hook;
use rustix::fs::Access;

use crate::error::Failure;

/// One of the built-in hooks, or a file that is there and can be executed.
pub(super) fn resolve(named: PathBuf) -> Result<Hook, Failure> {
    if let Some(hook) = named.to_str().and_then(Hook::built_in) {
        return Ok(hook);
    }
    file(&named).map(Hook::File).map_err(|problem| {
        Failure::Question(format!(
            "the hook {} {problem}. Name an executable file, or {}.",
            named.display(),
            Hook::names()
        ))
    })
}

fn file(path: &Path) -> Result<PathBuf, String> {
    let metadata = std::fs::metadata(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => "does not exist".to_owned(),
        _ => format!("cannot be read: {e}"),
    })?;
    if !metadata.is_file() {
        return Err("is not a file".to_owned());
    }
    if metadata.len() == 0 {
        return Err("is empty".to_owned());
    }
    if metadata.len() > MAX_BYTES {
        return Err(format!("is larger than {} KiB", MAX_BYTES / 1024));
    }
    rustix::fs::access(path, Access::READ_OK).map_err(|e| format!("cannot be read: {e}"))?;
    // Root may "execute" nothing without an x bit either, so this holds for everyone.
    rustix::fs::access(path, Access::EXEC_OK).map_err(|_| {
        format!("is not executable, and the agent would not run it; try `chmod +x {}`", path.display())
    })?;
    path.canonicalize().map_err(|e| format!("cannot be found: {e}"))
}

/// The agent takes the file in one message.
const MAX_BYTES: u64 = 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(path: &Path) -> String {
        match resolve(path.to_owned()) {
            Err(Failure::Question(text)) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_bad_hook_is_refused_with_a_hint() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let hook = dir.path().join("hook");
        assert!(refusal(&hook).contains("does not exist"));
        assert!(refusal(dir.path()).contains("is not a file"));
        std::fs::write(&hook, "").unwrap();
        assert!(refusal(&hook).contains("is empty"));
        std::fs::write(&hook, "#!/bin/sh\n").unwrap();
        assert!(refusal(&hook).contains("chmod +x"));
        std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(resolve(hook.clone()).unwrap(), Hook::File(hook.canonicalize().unwrap()));
    }

    #[test]
    fn built_in_hooks_go_by_name() {
        assert_eq!(resolve("none".into()).unwrap(), Hook::None);
        assert_eq!(resolve("freezeframe".into()).unwrap(), Hook::Freezeframe);
    }
}
