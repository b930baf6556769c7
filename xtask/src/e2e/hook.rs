//! The hook that the user names.

use std::path::PathBuf;

use contract::scenario::Hook;
use tooling::error::Failure;

/// One of the built-in hooks, or a file that is there and can be executed.
pub(super) fn resolve(named: PathBuf) -> Result<Hook, Failure> {
    if let Some(hook) = named.to_str().and_then(Hook::built_in) {
        return Ok(hook);
    }
    Hook::file(&named)
        .map_err(|error| Failure::Usage(format!("{error} Name an executable file, or {}.", Hook::names())))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn refusal(path: &Path) -> String {
        match resolve(path.to_owned()) {
            Err(Failure::Usage(text)) => text,
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
