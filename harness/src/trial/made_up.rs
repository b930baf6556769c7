//! A plan for tests that run no guest.

use std::path::{Path, PathBuf};

use contract::image::Manifest;
use contract::plan::{Accel, Plan};
use contract::run::{RunOptions, checkout};

/// A plan whose files, and whose image, are to be in directories below `root`.
pub(super) fn plan(root: &Path) -> Plan {
    let options = RunOptions { dir: root.join("run"), ..RunOptions::of(&checkout(), PathBuf::new()) };
    let request = options.trials().expect("scenarios").swap_remove(0);
    let manifest = r#"{"schema": 3, "name": "one", "digest": "00", "distro": "d", "release": "r", "dir": ".",
        "boot": "firmware", "disks": [], "memory_mib": 512,
        "agent": {"unit": "u", "hook": "/h", "enabled_by": "/e"},
        "server": {"database": "mariadb", "unit": "s", "datadir": "/d", "port": 1, "user": "u",
                   "password_file": "p"}, "versions": {}}"#;
    let manifest: Manifest = serde_json::from_str(manifest).expect("a manifest");
    options.plan(&request, Manifest { dir: root.join("image"), ..manifest }, Accel::Tcg)
}
