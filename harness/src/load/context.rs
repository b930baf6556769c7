//! What all clients of the load share, and what each needs.

use std::sync::atomic::AtomicU64;
use std::sync::mpsc::Sender;
use std::time::Duration;

use contract::history::{Entry, Follower, Nanos, Quiescence};
use rand::{Rng, RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior, interval, sleep};

use crate::clock;
use crate::database::{Connection, DOORS, Dialect, Target};
use crate::error::{Error, Result};
use crate::history_log::HistoryLog;

/// Bytes of payload in each row.
const PAYLOAD: std::ops::RangeInclusive<usize> = 32..=256;

/// What all clients share.
#[derive(Debug)]
pub(super) struct LoadContext {
    pub(super) target: Target,
    pub(super) history: HistoryLog,
    pub(super) followers: Vec<Follower>,
    pub(super) writers: u32,
    pub(super) rate: Option<u32>,
    pub(super) seed: u64,
    pub(super) statement_limit: Duration,
    pub(super) stop: watch::Sender<bool>,
    pub(super) rest: watch::Sender<bool>,
    /// Transfers acknowledged so far.
    pub(super) acknowledged: AtomicU64,
    /// The transfer that was acknowledged last: client and number.
    pub(super) newest: watch::Sender<Option<[u32; 2]>>,
    /// Receives each acknowledged transfer and each row of a follower.
    pub(super) acks: Sender<Ack>,
}

/// An acknowledged transfer or a follower's row: when it was sent, and by which client.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ack {
    pub(super) sent: Nanos,
    pub(super) client: u32,
}

impl LoadContext {
    pub(super) fn stopped(&self) -> bool {
        *self.stop.borrow()
    }

    /// The door of a writer.
    pub(super) fn door(&self, client: u32) -> u8 {
        u8::try_from((client - 1) % DOORS_COUNT).unwrap_or(0)
    }

    pub(super) fn dialect(&self) -> &'static dyn Dialect {
        self.target.dialect()
    }

    pub(super) async fn connect(&self, door: u8) -> Result<Connection> {
        let connected = self.target.door(door).connect_with_retries(self.statement_limit).await;
        let name = DOORS[usize::from(door)];
        connected.map_err(Error::sql(format!("accept a connection of the load through the door `{name}`")))
    }

    /// A stream of random numbers for one client, so that the same seed replays the same operations
    /// whatever the others do.
    pub(super) fn random(&self, client: u32) -> ChaCha8Rng {
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        random.set_stream(u64::from(client));
        random
    }

    /// Think time: three times as long as the last operation took, then for as long as the load
    /// rests; ends when the load stops. An emulated guest has no processor to spare, and its hook
    /// would have to wait behind the load.
    pub(super) async fn think(&self, client: u32, took: Duration) {
        let eager = client <= EAGER_WRITERS.min(self.writers);
        let longest = match self.target.dialect().quiescence() {
            _ if !eager => LONGEST_THOUGHT,
            Quiescence::Lock => SHORT_THOUGHT,
            Quiescence::BackupMode => SHORTEST_THOUGHT,
        };
        let (mut stop, mut rest) = (self.stop.subscribe(), self.rest.subscribe());
        let thought = async {
            sleep(longest.min(3 * took)).await;
            let _ = rest.wait_for(|resting| !*resting).await;
        };
        tokio::select! {
            _ = stop.wait_for(|stopped| *stopped) => {}
            () = thought => {}
        }
    }

    /// The pace of one of `clients` clients that share the load's rate.
    pub(super) fn pace(&self, clients: u32) -> Option<Interval> {
        let mut pace = interval(Duration::from_secs(1) * clients / self.rate?);
        // Operations missed during a freeze are not made up for.
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Some(pace)
    }
}

/// The longest think time.
const LONGEST_THOUGHT: Duration = Duration::from_millis(400);

/// The longest think time of the first writers, which should have a transfer in flight whenever a
/// freeze returns. An emulated guest's hook was observed to need 250 ms from its lock until then.
const SHORT_THOUGHT: Duration = Duration::from_millis(80);
const EAGER_WRITERS: u32 = 2;

/// The same where no lock, but the frozen file system stops the writers: the agent answers some
/// milliseconds later. With longer thoughts, one freeze of 17 returned with no transfer in flight.
const SHORTEST_THOUGHT: Duration = Duration::from_millis(10);

/// How many doors there are.
const DOORS_COUNT: u32 = DOORS.len() as u32;

/// Random bytes, and their checksum.
pub(super) fn payload(random: &mut ChaCha8Rng) -> (Vec<u8>, u32) {
    let mut payload = vec![0; random.random_range(PAYLOAD)];
    random.fill_bytes(&mut payload);
    let crc = crc32fast::hash(&payload);
    (payload, crc)
}

/// An operation that is recorded once: when its outcome is known, or nobody waits for it any more.
pub(super) struct Pending<F: Fn(Nanos, Option<Nanos>) -> Entry> {
    history: HistoryLog,
    sent: Nanos,
    entry: F,
    written: bool,
}

impl<F: Fn(Nanos, Option<Nanos>) -> Entry> Pending<F> {
    /// An operation sent at `sent`; `entry` makes its record from that time and the answer's.
    pub(super) fn new(history: &HistoryLog, sent: Nanos, entry: F) -> Self {
        Self { history: history.clone(), sent, entry, written: false }
    }

    /// Acknowledged now.
    pub(super) fn done(mut self) -> Result<()> {
        self.written = true;
        self.history.write(&(self.entry)(self.sent, Some(clock::now())))
    }
}

/// Also when the waiting task is abandoned: the operation may have taken effect.
impl<F: Fn(Nanos, Option<Nanos>) -> Entry> Drop for Pending<F> {
    fn drop(&mut self) {
        if !self.written {
            // A full disk is reported at the next entry.
            let _ = self.history.write(&(self.entry)(self.sent, None));
        }
    }
}
