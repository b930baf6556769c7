//! Locks of files. The kernel releases them when their holder ends, so none is ever left behind;
//! and nobody waits for one without a word, or without a way out.

use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, Instant};

use procfs::process::Process;
use rustix::fs::{major, minor};

use crate::text::printable;

/// The pause between two attempts. The kernel could wait by itself, but nothing else would end that.
const PAUSE: Duration = Duration::from_millis(50);

/// How long a wait goes on without a word: most locks are held for milliseconds.
const UNNOTICED: Duration = Duration::from_millis(300);

/// Takes the lock of this file as soon as nobody else holds it. `announce` is told who does, once,
/// when that takes long enough to be noticed. `pause` waits between two attempts; its error ends
/// the wait, and is the inner result.
pub fn wait<E>(
    file: &File,
    announce: impl FnOnce(&str),
    mut pause: impl FnMut(Duration) -> Result<(), E>,
) -> io::Result<Result<(), E>> {
    let begin = Instant::now();
    let mut announce = Some(announce);
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Ok(())),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(error),
        }
        if begin.elapsed() > UNNOTICED
            && let Some(announce) = announce.take()
        {
            announce(&holder(file));
        }
        if let Err(end) = pause(PAUSE) {
            return Ok(Err(end));
        }
    }
}

/// Whether somebody holds the lock of this file.
pub fn is_held(file: &File) -> io::Result<bool> {
    match file.try_lock_shared() {
        Ok(()) => file.unlock().map(|()| false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Who holds the lock of this file, as far as this process may see.
fn holder(file: &File) -> String {
    let pid = file.metadata().ok().and_then(|metadata| {
        let of_file = |lock: &procfs::Lock| {
            let device = (lock.devmaj, lock.devmin) == (major(metadata.dev()), minor(metadata.dev()));
            device && lock.inode == metadata.ino()
        };
        procfs::locks().ok()?.into_iter().find(of_file)?.pid
    });
    let name =
        |pid| Process::new(pid).and_then(|process| process.stat()).ok().map(|stat| printable(&stat.comm));
    match pid.map(|pid| (pid, name(pid))) {
        Some((pid, Some(name))) => format!("process {pid} ({name})"),
        Some((pid, None)) => format!("process {pid}"),
        None => "another process".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// A lock of a file that somebody else holds, and a second handle of the file.
    fn held() -> (tempfile::NamedTempFile, File) {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().lock().unwrap();
        let other = File::open(file.path()).unwrap();
        (file, other)
    }

    #[test]
    fn a_wait_says_who_holds_the_lock_and_ends_when_it_is_told_to() {
        let (_held, file) = held();
        let said = Cell::new(Vec::new());
        let announce = |holder: &str| said.set(vec![holder.to_owned()]);
        let pause = |pause| {
            std::thread::sleep(pause);
            let said_something = said.take();
            let done = said_something.first().cloned();
            said.set(said_something);
            done.map_or(Ok(()), Err)
        };
        let ended = wait(&file, announce, pause).unwrap();
        let own = std::process::id().to_string();
        assert!(ended.as_ref().is_err_and(|holder| holder.contains(&own)), "{ended:?}, not {own}");
    }

    #[test]
    fn a_lock_that_comes_free_is_taken() {
        let (held, file) = held();
        let mut held = Some(held);
        let pause = |_| {
            held = None;
            Ok::<_, ()>(())
        };
        wait(&file, |holder| panic!("{holder} was announced"), pause).unwrap().unwrap();
    }

    #[test]
    fn a_lock_is_held_until_its_holder_ends() {
        let (held, file) = held();
        assert!(is_held(&file).unwrap());
        drop(held);
        assert!(!is_held(&file).unwrap());
        // Looking has not taken it.
        assert!(!is_held(&file).unwrap());
    }
}
