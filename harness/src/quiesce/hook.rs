//! Installs the hook under test in the guest.

use std::path::Path;

use contract::plan::Plan;
use contract::scenario::Hook;

use crate::error::{Error, Result};
use crate::guest::{Machine, quote_shell};

/// Makes the agent run the plan's hook. The image comes with the project's own hook and an agent
/// that runs it, so that one needs no installation.
pub fn install_hook(machine: &mut Machine, plan: &Plan) -> Result<()> {
    let agent = &plan.image.agent;
    let limit = plan.limits.agent;
    let hook = quote_shell(&agent.hook);
    let enabled_by = quote_shell(&agent.enabled_by);
    // The agent's other options in the file, such as its channel, stay.
    let disable = format!("sed -i /fsfreeze-hook/d {enabled_by}");
    match &plan.hook {
        Hook::Freezeframe => return Ok(()),
        Hook::None => {
            machine.agent().script(&disable, b"", limit)?;
        }
        Hook::Distro | Hook::DistroEnabled | Hook::Package => {
            let folder = quote_shell(agent.hook.parent().unwrap_or(Path::new("/")));
            let line = format!(
                "rm -rf {hook} {hook}.d {folder}/fsfreeze-db.toml {OURS} && cp -a {PACKAGED}/. {folder}"
            );
            machine.agent().script(&line, b"", limit)?;
            if plan.hook == Hook::DistroEnabled {
                return Ok(());
            }
            machine.agent().script(&disable, b"", limit)?;
        }
        Hook::Sample | Hook::File(_) => {
            let content = content(plan)?;
            // The single file replaces the dispatcher, as vendor pages tell people to install it;
            // the agent already uses that path.
            machine.agent().write(&format!("{hook}.new"), &content, limit)?;
            let line = format!("chmod 755 {hook}.new && mv {hook}.new {hook} && rm -rf {hook}.d");
            machine.agent().script(&line, b"", limit)?;
            return Ok(());
        }
    }
    machine.restart_agent(&agent.unit, limit)?;
    if plan.hook == Hook::Package {
        // From here on the agent runs no hook unless the package enables it.
        machine.agent().write(DEB, &content(plan)?, limit)?;
        machine.run_apart("install-package", &format!("dpkg --install {DEB}"), limit)?;
    }
    Ok(())
}

/// The file that the plan says to install.
fn content(plan: &Plan) -> Result<Vec<u8>> {
    let source = plan.install.as_ref().ok_or_else(|| Error::NoHookFile(plan.hook.name()))?;
    std::fs::read(source).map_err(Error::io("read", source))
}

/// Where the package is put in the guest: in memory, not on a disk.
const DEB: &str = "/run/fsfreeze-hooks.deb";

/// Where the images keep our hooks.
const OURS: &str = "/usr/lib/fsfreeze-hooks";

/// Where the images keep the hook files as the distribution packages them.
const PACKAGED: &str = "/usr/share/freezeframe/distro-hook";
