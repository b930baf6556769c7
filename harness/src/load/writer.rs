//! One writer: a connection, one operation in flight, and a log of both.
//!
//! A transfer is one transaction: two accounts change, the ledger gets two
//! legs in one statement, the client's counter moves. When it is acknowledged,
//! one row with the same number goes to each non-transactional table. Before a
//! transfer the client reads another client's counter and stores what it saw,
//! so that causality can be checked without trusting any clock.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use rand::{Rng, RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::{ACCOUNTS, Shared, connect};
use crate::clock;
use crate::error::Result;
use crate::history::{Entry, Nanos, Op};

/// The largest amount of one transfer.
const MAX_AMOUNT: i64 = 1000;

/// Bytes of payload in each row.
const PAYLOAD: std::ops::RangeInclusive<usize> = 32..=256;

/// The pause before an outcome is asked for again.
const RESOLVE_AGAIN: Duration = Duration::from_millis(100);

struct Writer {
    shared: Arc<Shared>,
    client: u32,
    random: ChaCha8Rng,
    conn: Conn,
}

/// What the client knows about an operation when its answer is in.
enum Outcome<T> {
    Ok(T),
    /// The server proved that nothing of it stays.
    Fail(String),
    Unknown(String),
}

/// Writes until told to stop, or until the server is gone for good.
pub(super) async fn run(shared: Arc<Shared>, client: u32) -> Result<()> {
    let conn = connect(&shared).await?;
    // One stream of numbers a client, so that the same seed replays the same
    // operations whatever the others do.
    let mut random = ChaCha8Rng::seed_from_u64(shared.seed);
    random.set_stream(u64::from(client));
    let mut writer = Writer { shared, client, random, conn };
    let mut pace = writer.shared.rate.map(|rate| {
        let mut pace = interval(Duration::from_secs(1) * writer.shared.writers / rate);
        // What a freeze held up is not made up for.
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        pace
    });
    let mut number = 1;
    while !writer.shared.stop.load(Ordering::Relaxed) {
        if let Some(pace) = &mut pace {
            pace.tick().await;
        }
        if writer.transfer(number).await? {
            writer.follow(number).await?;
            number += 1;
        }
    }
    Ok(())
}

impl Writer {
    /// One transfer. True when it is known to be committed; then its number is used up.
    async fn transfer(&mut self, n: u32) -> Result<bool> {
        let dep = self.read_other_counter().await?;
        let low = self.random.random_range(1..ACCOUNTS);
        let high = self.random.random_range(low + 1..=ACCOUNTS);
        let amount = self.random.random_range(1..=MAX_AMOUNT) * if self.random.random() { 1 } else { -1 };
        let legs = [(low, -amount), (high, amount)];
        let (payload, crc) = self.payload();
        let rnd: u32 = self.random.random();

        let invoked = clock::now();
        self.log(&Entry::Invoke { t: invoked, c: self.client, n, op: Op::Transfer { dep, legs, crc } })?;
        let limit = self.shared.statement_limit;
        let outcome =
            match timeout(limit, transact(&mut self.conn, self.client, n, dep, legs, &payload, crc, rnd))
                .await
            {
                Ok(Ok(ver)) => Outcome::Ok(ver),
                Ok(Err(error)) => self.roll_back(error).await,
                Err(_) => Outcome::Unknown(format!("no answer within {} s", limit.as_secs())),
            };
        let (t, c) = (clock::now(), self.client);
        match outcome {
            Outcome::Ok(ver) => {
                self.log(&Entry::Ok { t, c, n, ver: Some(ver) })?;
                self.acknowledge(invoked);
                Ok(true)
            }
            Outcome::Fail(error) => {
                self.log(&Entry::Fail { t, c, n, error })?;
                Ok(false)
            }
            Outcome::Unknown(error) => {
                self.log(&Entry::Unknown { t, c, n, error })?;
                let Some(present) = self.resolve(n).await? else { return Ok(false) };
                self.log(&Entry::Resolved { t: clock::now(), c, n, present })?;
                Ok(present)
            }
        }
    }

    /// Reads back whether a transfer is there; `None` when the load was told to
    /// stop before the server said so.
    async fn resolve(&mut self, n: u32) -> Result<Option<bool>> {
        // The locking read waits until an old session that may still commit has
        // done so or is gone: its transaction holds this row.
        let sql = format!("SELECT seq FROM cl WHERE c = {} FOR UPDATE", self.client);
        loop {
            self.reconnect().await?;
            match timeout(self.shared.statement_limit, self.conn.query_first::<u32, _>(&sql)).await {
                Ok(Ok(seq)) => return Ok(Some(seq.is_some_and(|seq| seq >= n))),
                // What broke the last connection may break this one too, and an
                // old session may keep the row for longer than the server waits.
                Ok(Err(_)) | Err(_) if self.shared.stop.load(Ordering::Relaxed) => return Ok(None),
                Ok(Err(_)) | Err(_) => sleep(RESOLVE_AGAIN).await,
            }
        }
    }

    /// One row in each non-transactional table.
    async fn follow(&mut self, n: u32) -> Result<()> {
        for table in self.shared.followers.clone() {
            let (payload, crc) = self.payload();
            let c = self.client;
            let op = Op::Follow { table: table.clone(), crc };
            self.log(&Entry::Invoke { t: clock::now(), c, n, op })?;
            let sql = format!("INSERT INTO {table} VALUES ({c}, {n}, {crc}, x'{}')", hex(&payload));
            let limit = self.shared.statement_limit;
            match timeout(limit, self.conn.query_drop(sql)).await {
                Ok(Ok(())) => self.log(&Entry::Ok { t: clock::now(), c, n, ver: None })?,
                // A failed statement on a non-transactional table proves
                // nothing about the row.
                Ok(Err(error)) => self.lost(n, error.to_string()).await?,
                Err(_) => self.lost(n, format!("no answer within {} s", limit.as_secs())).await?,
            }
        }
        Ok(())
    }

    async fn lost(&mut self, n: u32, error: String) -> Result<()> {
        self.log(&Entry::Unknown { t: clock::now(), c: self.client, n, error })?;
        self.reconnect().await
    }

    /// The counter of a random other client, as committed now.
    async fn read_other_counter(&mut self) -> Result<[u32; 2]> {
        if self.shared.writers == 1 {
            return Ok([self.client, 0]);
        }
        let other =
            1 + (self.client - 1 + self.random.random_range(1..self.shared.writers)) % self.shared.writers;
        let sql = format!("SELECT seq FROM cl WHERE c = {other}");
        loop {
            match timeout(self.shared.statement_limit, self.conn.query_first::<u32, _>(&sql)).await {
                Ok(Ok(seq)) => return Ok([other, seq.unwrap_or(0)]),
                // Nothing is in flight, so nothing is lost with the connection.
                Ok(Err(_)) | Err(_) => self.reconnect().await?,
            }
        }
    }

    /// Only an explicit rollback that the server confirms proves that nothing stays.
    async fn roll_back<T>(&mut self, error: mysql_async::Error) -> Outcome<T> {
        let text = error.to_string();
        if !matches!(error, mysql_async::Error::Server(_)) {
            return Outcome::Unknown(text);
        }
        match timeout(self.shared.statement_limit, self.conn.query_drop("ROLLBACK")).await {
            Ok(Ok(())) => Outcome::Fail(text),
            Ok(Err(_)) | Err(_) => Outcome::Unknown(text),
        }
    }

    async fn reconnect(&mut self) -> Result<()> {
        self.conn = connect(&self.shared).await?;
        Ok(())
    }

    fn payload(&mut self) -> (Vec<u8>, u32) {
        let mut payload = vec![0; self.random.random_range(PAYLOAD)];
        self.random.fill_bytes(&mut payload);
        let crc = crc32fast::hash(&payload);
        (payload, crc)
    }

    fn acknowledge(&self, invoked: Nanos) {
        self.shared.acknowledged.fetch_add(1, Ordering::Relaxed);
        // The receiver is gone only when the load is abandoned.
        let _ = self.shared.acks.send(invoked);
    }

    fn log(&self, entry: &Entry) -> Result<()> {
        self.shared.history.write(entry)
    }
}

/// The transaction itself, in three round trips. Returns the version that each
/// account reached, in leg order.
#[expect(clippy::too_many_arguments, reason = "these are the columns of the ledger")]
async fn transact(
    conn: &mut Conn,
    c: u32,
    n: u32,
    dep: [u32; 2],
    legs: [(u32, i64); 2],
    payload: &[u8],
    crc: u32,
    rnd: u32,
) -> mysql_async::Result<[u32; 2]> {
    let [(low, low_amount), (high, high_amount)] = legs;
    // The lower account first: two transfers never wait for each other in a circle.
    let update = format!(
        "START TRANSACTION; \
         UPDATE acct SET bal = bal + {low_amount}, ver = ver + 1 WHERE id = {low}; \
         UPDATE acct SET bal = bal + {high_amount}, ver = ver + 1 WHERE id = {high}; \
         SELECT ver FROM acct WHERE id IN ({low}, {high}) ORDER BY id"
    );
    let mut results = conn.query_iter(update).await?;
    let mut versions: Vec<u32> = Vec::new();
    while !results.is_empty() {
        versions.extend(results.collect::<u32>().await?);
    }
    // An error of a later statement ends the loop without a word; only this tells it.
    results.drop_result().await?;
    let &[low_version, high_version] = versions.as_slice() else {
        return Err(mysql_async::Error::Other("an account is missing".into()));
    };
    let [dc, dseq] = dep;
    let pay = hex(payload);
    let insert = format!(
        "INSERT INTO ledger (c, seq, leg, dc, dseq, acct, amt, ver, pay, crc, rnd) VALUES \
         ({c}, {n}, 0, {dc}, {dseq}, {low}, {low_amount}, {low_version}, x'{pay}', {crc}, {rnd}), \
         ({c}, {n}, 1, {dc}, {dseq}, {high}, {high_amount}, {high_version}, x'{pay}', {crc}, {rnd}); \
         UPDATE cl SET seq = {n} WHERE c = {c}"
    );
    conn.query_drop(insert).await?;
    conn.query_drop("COMMIT").await?;
    Ok([low_version, high_version])
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
