//! Heartbeats: a file on each of the guest's file systems that grows by one synced record after the
//! other, independently of the database. They show which instant of each file system a snapshot
//! has.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use contract::history::Entry;
use contract::image::{FileSystem, Manifest};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::time::sleep;

use super::context::{LoadContext, Pending};
use crate::clock;
use crate::directories::heartbeat_file;
use crate::error::{Error, LoadError, Result};
use crate::guest::{HEARTBEAT, Machine, quote_shell};

/// The pause between two records, so that they cost the guest little.
const PAUSE: Duration = Duration::from_millis(100);

/// The guest's side. A shell can sync a file only by way of a program; two process starts per
/// record are the price of running in every guest.
const SCRIPT: &str = r#"exec 3<>"$1"
while read -r n <&3; do
    printf '%08d\n' "$n" | dd of="$2" oflag=append conv=notrunc,fsync status=none && echo "$n" >&3
done
"#;

/// The heartbeat channel of one file system: its name, and the connection to the writer in the
/// guest.
pub type Channel = (String, UnixStream);

/// The sockets of an image's heartbeat channels in `dir`, whose path must be short.
pub fn sockets(image: &Manifest, dir: &Path) -> Vec<(String, PathBuf)> {
    let socket = |fs: &FileSystem| (fs.name.clone(), dir.join(format!("heartbeat-{}", fs.name)));
    image.file_systems().map(socket).collect()
}

/// Connects to the sockets and starts the guest's side on every file system, outside the agent's
/// unit, so that neither ends with the other.
pub fn prepare(
    machine: &Machine,
    image: &Manifest,
    sockets: &[(String, PathBuf)],
    limit: Duration,
) -> Result<Vec<Channel>> {
    // This comes first: a channel without a peer reads as closed in the guest.
    let channels = sockets
        .iter()
        .map(|(name, socket)| match UnixStream::connect(socket) {
            Ok(stream) => Ok((name.clone(), stream)),
            Err(e) => Err(Error::io("connect to", socket)(e)),
        })
        .collect::<Result<_>>()?;
    let mut line = "cat > /run/freezeframe-heartbeats && chmod 600 /run/freezeframe-heartbeats".to_owned();
    for FileSystem { name, mount, .. } in image.file_systems() {
        line.push_str(&format!(
            " && systemd-run --quiet --collect --unit=freezeframe-heartbeats-{name} \
             sh /run/freezeframe-heartbeats /dev/virtio-ports/{HEARTBEAT}{name} {}",
            quote_shell(heartbeat_file(mount))
        ));
    }
    machine.agent().script(&line, SCRIPT.as_bytes(), limit)?;
    Ok(channels)
}

/// Requests record after record until the load stops.
pub(super) async fn run(context: Arc<LoadContext>, (disk, stream): Channel) -> Result<()> {
    let failed = |source| LoadError::HeartbeatChannel { file_system: disk.clone(), source };
    stream.set_nonblocking(true).map_err(failed)?;
    let mut stream = BufReader::new(tokio::net::UnixStream::from_std(stream).map_err(failed)?);
    let mut answer = String::new();
    for n in 1u32.. {
        if context.stopped() {
            break;
        }
        let name = disk.clone();
        let pending = Pending::new(&context.history, clock::now(), move |t, end| Entry::Heartbeat {
            t,
            end,
            disk: name.clone(),
            n,
        });
        stream.write_all(format!("{n}\n").as_bytes()).await.map_err(failed)?;
        answer.clear();
        stream.read_line(&mut answer).await.map_err(failed)?;
        if answer.trim() != n.to_string() {
            let answer = contract::text::printable(answer.trim());
            return Err(LoadError::Heartbeat { file_system: disk, record: n, answer }.into());
        }
        pending.done()?;
        sleep(PAUSE).await;
    }
    Ok(())
}
