//! The processes of a run, from the first to the last that ends.

use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{self, Pid, WaitOptions};

/// How long supervisors may go on after the test binary: they thaw a guest first.
const GRACE: Duration = Duration::from_secs(90);

/// Ctrl-C ends the test binary, whose supervisors then clean up; this process
/// stays to wait for them and to report the outcome. Returns whether it was pressed.
pub(crate) fn outlive_ctrl_c() -> io::Result<Arc<AtomicBool>> {
    let pressed = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGINT, Arc::clone(&pressed))?;
    Ok(pressed)
}

/// Makes this process the parent of orphaned descendants, so that no process of
/// the run can escape it.
pub(crate) fn adopt_orphans() -> io::Result<()> {
    Ok(process::set_child_subreaper(Some(process::getpid()))?)
}

/// Waits for the test binary, then for every orphan, at most for [`GRACE`].
/// What is still there then is found by its command line. Returns how the test binary ended.
pub(crate) fn wait_for_all(trials: &Child) -> io::Result<ExitStatus> {
    let trials = Pid::from_child(trials);
    let (mut deadline, mut ended) = (None, ExitStatus::default());
    loop {
        let options = if deadline.is_some() { WaitOptions::NOHANG } else { WaitOptions::empty() };
        match process::wait(options) {
            Ok(Some((pid, status))) if pid == trials => {
                ended = ExitStatus::from_raw(status.as_raw());
                deadline = Some(Instant::now() + GRACE);
            }
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) if deadline.is_some_and(|deadline| Instant::now() > deadline) => return Ok(ended),
            Ok(None) => std::thread::sleep(Duration::from_millis(50)),
            Err(Errno::CHILD) => return Ok(ended),
            Err(e) => return Err(e.into()),
        }
    }
}
