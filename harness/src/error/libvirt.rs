//! What libvirt says about a cause.

use contract::text::causes_once;

/// The classes of errors that say nothing by themselves, as libvirt writes them before its messages.
const CLASSES: [&str; 3] = ["internal error: ", "operation failed: ", "Requested operation is not valid: "];

/// What libvirt writes before the words of QEMU or of the guest agent, followed by a command in quotes.
const PASSED_ON: [&str; 2] = ["unable to execute QEMU agent command '", "unable to execute QEMU command '"];

/// The cause in a message of libvirt. What stands before it there takes up to 125 characters, and none of
/// them tells more than the sentence that quotes the cause.
pub(super) fn cause(message: &str) -> String {
    let mut rest = message.trim();
    while let Some(inner) = without_prefix(rest).filter(|inner| !inner.is_empty()) {
        rest = inner;
    }
    causes_once(rest)
}

/// Whether a message tells that the host ran out of memory or space, in the words of QEMU and libvirt.
pub(super) fn is_lack_of_room(message: &str) -> bool {
    ["Cannot allocate memory", "No space left on device"].iter().any(|text| message.contains(text))
}

fn without_prefix(message: &str) -> Option<&str> {
    if let Some(rest) = CLASSES.iter().find_map(|class| message.strip_prefix(class)) {
        return Some(rest);
    }
    let command = PASSED_ON.iter().find_map(|begin| message.strip_prefix(begin))?;
    command.split_once("': ").map(|(_, cause)| cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_without_room_is_told_from_a_bad_memory() {
        let qemu = "internal error: process exited while connecting to monitor: qemu-system-x86_64: ";
        assert!(is_lack_of_room(&format!(
            "{qemu}cannot set up guest memory 'pc.ram': Cannot allocate memory"
        )));
        assert!(!is_lack_of_room(&format!("{qemu}load of migration failed: Invalid argument")));
    }

    #[test]
    fn the_cause_stands_alone() {
        let refused = "internal error: unable to execute QEMU agent command 'guest-fsfreeze-freeze': failed to open \
                       /srv/chroot/run/notify: No such device or address";
        for (message, expected) in [
            (refused, "failed to open /srv/chroot/run/notify: No such device or address"),
            (
                "internal error: unable to execute QEMU command 'block-commit': Input/output error: Input/output error",
                "Input/output error",
            ),
            ("Requested operation is not valid: domain is not running", "domain is not running"),
            (
                "Guest agent is not responding: Guest agent not available for now",
                "Guest agent is not responding: Guest agent not available for now",
            ),
            ("internal error: ", "internal error:"),
        ] {
            assert_eq!(cause(message), expected);
        }
    }
}
