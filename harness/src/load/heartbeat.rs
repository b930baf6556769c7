//! Heartbeats: a file on each of the guest's file systems that grows by one synced record after the
//! other, independently of the database. They show which instant of each file system a snapshot
//! has.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use contract::history::Entry;
use contract::image::{FileSystem, Manifest};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::time::sleep;

use super::context::{LoadContext, Pending};
use crate::bounds::HEARTBEAT_LINE;
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
        let answer = line(&mut stream).await.map_err(failed)?;
        if answer.trim_ascii() != n.to_string().as_bytes() {
            let answer = contract::text::printable(String::from_utf8_lossy(&answer).trim());
            return Err(LoadError::Heartbeat { file_system: disk, record: n, answer }.into());
        }
        pending.done()?;
        sleep(PAUSE).await;
    }
    Ok(())
}

/// The next line, or as much of it as a line can have.
async fn line(channel: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    channel.take(HEARTBEAT_LINE).read_until(b'\n', &mut line).await?;
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_channel_that_is_fed_without_an_end_is_read_up_to_one_line() {
        let mut endless = BufReader::new(tokio::io::repeat(b'x'));
        for _ in 0..3 {
            assert_eq!(line(&mut endless).await.unwrap().len() as u64, HEARTBEAT_LINE);
        }
        let mut answers: &[u8] = b"1\n2\r\n";
        assert_eq!(line(&mut answers).await.unwrap(), b"1\n");
        assert_eq!(line(&mut answers).await.unwrap(), b"2\r\n");
    }
}
