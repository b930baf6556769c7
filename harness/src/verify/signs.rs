//! What a console says of a boot that no agent reports.

use contract::text::printable;

/// What it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Sign {
    /// The guest gave up for what is, or is not, on its disks; the lines that say so.
    CannotBoot(String),
    /// It asks for a login.
    Up,
}

/// How firmware, boot loaders, kernels and systemd give up. One that does not find its disks is not among
/// them: it may lack the driver of the verification's hardware.
const GIVES_UP: [&str; 9] = [
    // SeaBIOS.
    "No bootable device",
    // GRUB, which reads disks through the BIOS.
    "grub rescue>",
    "error: unknown filesystem",
    "error: no such partition",
    "error: attempt to read or write outside of disk",
    // systemd of the root file system, once it runs.
    "You are in emergency mode",
    "You are in rescue mode",
    "Cannot open access to console, the root account is locked",
    "Kernel panic - not syncing: Attempted to kill init",
];

/// A shell of the initial file system, which has not found the root; it speaks of emergencies, too.
const NO_ROOT: [&str; 4] =
    ["(initramfs)", "dracut:/#", "Entering emergency mode. Exit the shell", "Warning: dracut"];

/// Lines around the sign that are shown.
const BEFORE: usize = 6;

/// Reads a console. The last sign counts: a boot loader's trouble may have passed.
pub(super) fn read(console: &str) -> Option<Sign> {
    let lines: Vec<_> = console.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    if NO_ROOT.iter().any(|sign| console.contains(sign)) {
        return None;
    }
    let gives_up = lines.iter().rposition(|line| GIVES_UP.iter().any(|sign| line.contains(sign)));
    let login = lines.iter().rposition(|line| line.ends_with(" login:"));
    match (gives_up, login) {
        (Some(at), login) if login.is_none_or(|login| login < at) => {
            let shown = lines.get(at.saturating_sub(BEFORE)..=at).unwrap_or_default();
            Some(Sign::CannotBoot(shown.iter().map(|line| printable(line)).collect::<Vec<_>>().join("\n")))
        }
        (_, Some(_)) => Some(Sign::Up),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_gives_up_on_its_disks_is_told_from_what_only_does_not_say() {
        let fails = |console: &str| matches!(read(console), Some(Sign::CannotBoot(_)));
        assert!(fails(
            "SeaBIOS (version 1.16)\nBooting from Hard Disk...\nBoot failed\nNo bootable device.\n"
        ));
        assert!(fails("GRUB loading.\nerror: unknown filesystem.\nEntering rescue mode...\ngrub rescue> "));
        assert!(fails("[DEPEND] Dependency failed for /srv.\nYou are in emergency mode. After logging in\n"));
        assert!(fails("[ 3.1] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100\n"));
        // The root was not found, which may be for want of a driver.
        for console in [
            "ALERT!  UUID=1 does not exist.  Dropping to a shell!\n(initramfs) ",
            "Generating \"/run/initramfs/rdsosreport.txt\"\nYou are in emergency mode\ndracut:/# ",
            "[ 2.0] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)",
            "Booting Debian\n",
            "",
        ] {
            assert_eq!(read(console), None, "{console}");
        }
    }

    #[test]
    fn a_login_shows_that_a_guest_is_up() {
        assert_eq!(read("Debian GNU/Linux 12 shop ttyS0\n\nshop login: "), Some(Sign::Up));
        let later = "error: no such partition.\nDebian GNU/Linux 12 shop ttyS0\nshop login:";
        assert_eq!(read(later), Some(Sign::Up), "GRUB found another way");
        assert!(matches!(read("shop login: \nYou are in emergency mode"), Some(Sign::CannotBoot(_))));
    }

    #[test]
    fn a_sign_is_shown_with_what_stands_before_it() {
        let console = format!("{}\u{1b}[31mhere\nNo bootable device.\nmore\n", "x\n".repeat(20));
        let Some(Sign::CannotBoot(why)) = read(&console) else { panic!() };
        assert_eq!(why.lines().count(), BEFORE + 1);
        assert!(why.ends_with("\\u{1b}[31mhere\nNo bootable device."), "{why}");
    }
}
