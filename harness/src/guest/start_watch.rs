//! Whether a guest's QEMU comes up.
//!
//! Until libvirt has started a guest it waits for its QEMU without a limit, and nobody else can ask it anything. One
//! that is stopped meanwhile, or waits for the host's storage, would hold the trial until its own limit.

use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// How long a start may take, before the accelerator's slowness: most take a second.
pub(super) const LIMIT: Duration = Duration::from_secs(60);

/// The pause between two looks for a QEMU that should be up already.
const PAUSE: Duration = Duration::from_secs(1);

/// Kills a guest's QEMU that does not come up, for as long as this lives. libvirt's call fails then.
#[derive(Debug)]
pub(super) struct StartWatch {
    ends: Sender<()>,
    thread: JoinHandle<bool>,
}

impl StartWatch {
    /// Watches the start of the guest of this name in the libvirt that has its files below `root`. In others a guest may
    /// have the same name.
    pub(super) fn begin(name: &str, root: &Path, limit: Duration) -> Self {
        let (ends, over) = channel::<()>();
        let (named, root) = (format!("guest={name},"), root.to_string_lossy().into_owned());
        let watch = move || {
            let (mut killed, mut pause) = (false, limit);
            // Again and again: libvirt may start it only now, or another one after it.
            while over.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                killed |= kill(&named, &root);
                pause = PAUSE;
            }
            killed
        };
        Self { ends, thread: thread::spawn(watch) }
    }

    /// The start is over. True when its QEMU was killed.
    pub(super) fn end(self) -> bool {
        drop(self.ends);
        self.thread.join().unwrap_or(false)
    }
}

/// Kills the processes that name this directory, and have an argument that begins like this or are asked what QEMU can
/// do: libvirt starts such a one, without a guest, before the first guest of all. Whether there was one.
fn kill(named: &str, root: &str) -> bool {
    let all = procfs::process::all_processes().into_iter().flatten().flatten();
    let is_it = |process: &procfs::process::Process| {
        let line = process.cmdline().unwrap_or_default();
        let any = |is_it: &dyn Fn(&String) -> bool| line.iter().any(is_it);
        let is_asked = || line.windows(2).any(|words| words[0] == "-machine" && words[1].starts_with("none"));
        any(&|it| it.contains(root)) && (any(&|it| it.starts_with(named)) || is_asked())
    };
    let killed = all.filter(is_it).filter_map(|process| Pid::from_raw(process.pid));
    killed.filter(|pid| kill_process(*pid, Signal::KILL).is_ok()).count() > 0
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// Something that looks like a guest's QEMU, and ends with code 7 when its input does.
    fn guest(name: &str, root: &str) -> Child {
        qemu(&[&format!("guest={name},debug-threads=on"), &format!("file:{root}/key")])
    }

    fn qemu(args: &[&str]) -> Child {
        let mut command = Command::new("sh");
        command.args(["-c", "read -r line; exit 7", "qemu"]).args(args).stdin(Stdio::piped());
        command.spawn().unwrap()
    }

    #[test]
    fn one_that_is_asked_what_it_can_do_is_killed_too() {
        let root = format!("/run/asked-{}", std::process::id());
        let monitor = format!("unix:{root}/lib/qemu/qmp-1/qmp.monitor,server=on,wait=off");
        let mut asked = qemu(&["-S", "-machine", "none,accel=kvm:tcg:hvf:hax", "-qmp", &monitor]);
        let _input = asked.stdin.take();
        let mut elsewhere = qemu(&["-S", "-machine", "none,accel=tcg", "-qmp", "unix:/run/b/qmp.monitor"]);
        let watch = StartWatch::begin("any", Path::new(&root), Duration::from_millis(50));
        assert_eq!(asked.wait().unwrap().signal(), Some(9));
        assert!(watch.end());
        assert_eq!(elsewhere.wait().unwrap().code(), Some(7));
    }

    #[test]
    fn only_the_guest_that_does_not_come_up_is_killed() {
        let name = format!("freezeframe-start-{}", std::process::id());
        let (here, there) = (Path::new("/run/a"), "/run/b");
        let mut late = guest(&name, "/run/a");
        // Waiting for it would end its input.
        let _input = late.stdin.take();
        let others = [guest(&format!("{name}-other"), "/run/a"), guest(&name, there)];
        let watch = StartWatch::begin(&name, here, Duration::from_millis(50));
        assert_eq!(late.wait().unwrap().signal(), Some(9));
        assert!(watch.end());
        assert!(!StartWatch::begin(&name, Path::new(there), LIMIT).end(), "it came up");
        for mut other in others {
            assert_eq!(other.wait().unwrap().code(), Some(7));
        }
        assert!(!kill(&format!("guest={name},"), "/run/a"), "there is none any more");
    }
}
