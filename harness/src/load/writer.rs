//! One writer: a connection, one operation in flight, and a log of both.
//!
//! A transfer is one transaction: two accounts change, the ledger gets two
//! legs in one statement, the client's counter moves. Before a
//! transfer the client reads another client's counter and stores what it saw,
//! so that causality can be checked without trusting any clock.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use contract::history::{Entry, Nanos, Op};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use tokio::time::{sleep, timeout};

use super::context::{Ack, LoadContext, payload};
use super::schema::ACCOUNTS;
use crate::clock;
use crate::database::{Connection, SqlResult};
use crate::error::{Result, SqlError};
use crate::names::table;

/// The largest amount of one transfer.
const MAX_AMOUNT: i64 = 1000;

/// The pause before an outcome is queried again.
const RESOLVE_AGAIN: Duration = Duration::from_millis(100);

struct Writer {
    context: Arc<LoadContext>,
    tables: Tables,
    client: u32,
    door: u8,
    random: ChaCha8Rng,
    conn: Connection,
}

/// The names of a transfer's tables.
struct Tables {
    counters: String,
    accounts: String,
    ledger: String,
}

/// A transfer as it is sent.
struct Transfer {
    n: u32,
    dep: [u32; 2],
    legs: [(u32, i64); 2],
    payload: Vec<u8>,
    crc: u32,
    /// Puts the row of each leg at a random place of a secondary index.
    rnd: [u32; 2],
}

/// What the client knows about an operation after its answer.
enum CommitOutcome<T> {
    Ok(T),
    /// The server confirmed that nothing of it remains.
    Fail(String),
    Unknown(String),
}

/// Writes until the load stops or the server is gone for good.
pub(super) async fn run(context: Arc<LoadContext>, client: u32) -> Result<()> {
    let door = context.door(client);
    let conn = context.connect(door).await?;
    let random = context.random(client);
    let mut pace = context.pace(context.writers);
    let name = |plain| context.target.names.table(plain);
    let tables = Tables {
        counters: name(table::COUNTERS),
        accounts: name(table::ACCOUNTS),
        ledger: name(table::LEDGER),
    };
    let mut writer = Writer { context, tables, client, door, random, conn };
    let mut number = 1;
    while !writer.context.stopped() {
        if let Some(pace) = &mut pace {
            pace.tick().await;
        }
        let begin = Instant::now();
        number += u32::from(writer.transfer(number).await?);
        writer.context.think(client, begin.elapsed()).await;
    }
    Ok(())
}

impl Writer {
    /// Sends one transfer. True when it is known to be committed, so that its number is used up.
    async fn transfer(&mut self, n: u32) -> Result<bool> {
        let dep = self.read_other_counter().await?;
        let low = self.random.random_range(1..ACCOUNTS);
        let high = self.random.random_range(low + 1..=ACCOUNTS);
        let amount = self.random.random_range(1..=MAX_AMOUNT) * if self.random.random() { 1 } else { -1 };
        let legs = [(low, -amount), (high, amount)];
        let (payload, crc) = payload(&mut self.random);
        let rnd = [self.random.random(), self.random.random()];

        let invoked = clock::now();
        self.log(&Entry::Invoke { t: invoked, c: self.client, n, op: Op::Transfer { dep, legs, crc } })?;
        let limit = self.context.statement_limit;
        let outcome = match timeout(limit, self.transact(Transfer { n, dep, legs, payload, crc, rnd })).await
        {
            Ok(Ok(ver)) => CommitOutcome::Ok(ver),
            Ok(Err(error)) => self.roll_back(error).await,
            Err(_) => CommitOutcome::Unknown(format!("no answer within {} s", limit.as_secs())),
        };
        let (t, c) = (clock::now(), self.client);
        match outcome {
            CommitOutcome::Ok(ver) => {
                self.log(&Entry::Ok { t, c, n, ver: Some(ver) })?;
                self.acknowledge(invoked, n);
                Ok(true)
            }
            CommitOutcome::Fail(error) => {
                self.log(&Entry::Fail { t, c, n, error })?;
                Ok(false)
            }
            CommitOutcome::Unknown(error) => {
                self.log(&Entry::Unknown { t, c, n, error })?;
                let Some(present) = self.resolve(n).await? else { return Ok(false) };
                self.log(&Entry::Resolved { t: clock::now(), c, n, present })?;
                Ok(present)
            }
        }
    }

    /// Reads back whether a transfer is there; `None` when the load stopped before the server
    /// answered.
    async fn resolve(&mut self, n: u32) -> Result<Option<bool>> {
        // The locking read waits until an old session that may still commit has
        // done so or is gone: its transaction holds this row.
        let sql = format!("SELECT seq FROM {} WHERE c = {} FOR UPDATE", self.tables.counters, self.client);
        loop {
            self.reconnect().await?;
            match timeout(self.context.statement_limit, self.conn.query_value::<u32>(&sql)).await {
                Ok(Ok(seq)) => return Ok(Some(seq.is_some_and(|seq| seq >= n))),
                // What broke the last connection may break this one too, and an
                // old session may keep the row for longer than the server waits.
                Ok(Err(_)) | Err(_) if self.context.stopped() => return Ok(None),
                Ok(Err(_)) | Err(_) => sleep(RESOLVE_AGAIN).await,
            }
        }
    }

    /// The counter of a random other client, as committed now.
    async fn read_other_counter(&mut self) -> Result<[u32; 2]> {
        if self.context.writers == 1 {
            return Ok([self.client, 0]);
        }
        let other =
            1 + (self.client - 1 + self.random.random_range(1..self.context.writers)) % self.context.writers;
        let sql = format!("SELECT seq FROM {} WHERE c = {other}", self.tables.counters);
        loop {
            match timeout(self.context.statement_limit, self.conn.query_value::<u32>(&sql)).await {
                Ok(Ok(seq)) => return Ok([other, seq.unwrap_or(0)]),
                // Nothing is in flight, so nothing is lost with the connection.
                Ok(Err(_)) | Err(_) => self.reconnect().await?,
            }
        }
    }

    /// Only an explicit rollback that the server confirms proves that nothing remains.
    async fn roll_back<T>(&mut self, error: SqlError) -> CommitOutcome<T> {
        let text = error.to_string();
        if !matches!(error, SqlError::Server { .. }) {
            return CommitOutcome::Unknown(text);
        }
        match timeout(self.context.statement_limit, self.conn.execute("ROLLBACK")).await {
            Ok(Ok(())) => CommitOutcome::Fail(text),
            Ok(Err(_)) | Err(_) => CommitOutcome::Unknown(text),
        }
    }

    async fn reconnect(&mut self) -> Result<()> {
        self.conn = self.context.connect(self.door).await?;
        Ok(())
    }

    fn acknowledge(&self, sent: Nanos, n: u32) {
        self.context.acknowledged.fetch_add(1, Ordering::Relaxed);
        self.context.newest.send_replace(Some([self.client, n]));
        // The receiver is gone only when the load is abandoned.
        let _ = self.context.acks.send(Ack { sent, client: self.client });
    }

    fn log(&self, entry: &Entry) -> Result<()> {
        self.context.history.write(entry)
    }

    /// The transaction itself, in three round trips. Returns the version that each
    /// account reached, in leg order.
    async fn transact(&mut self, transfer: Transfer) -> SqlResult<[u32; 2]> {
        let dialect = self.context.dialect();
        let Self { conn, client: c, tables: Tables { counters, accounts, ledger }, .. } = self;
        let Transfer { n, dep: [dc, dseq], legs, payload, crc, rnd } = transfer;
        let [(low, low_amount), (high, high_amount)] = legs;
        // The lower account first, so that transfers never deadlock.
        let update = format!(
            "START TRANSACTION; \
             UPDATE {accounts} SET bal = bal + {low_amount}, ver = ver + 1 WHERE id = {low}; \
             UPDATE {accounts} SET bal = bal + {high_amount}, ver = ver + 1 WHERE id = {high}; \
             SELECT ver FROM {accounts} WHERE id IN ({low}, {high}) ORDER BY id"
        );
        let rows = conn.query(&update).await?;
        let versions: Vec<u32> = rows.iter().map(|row| row.get(0)).collect::<SqlResult<_>>()?;
        let &[low_version, high_version] = versions.as_slice() else {
            return Err(SqlError::Unexpected("an account is missing".into()));
        };
        let pay = dialect.bytes(&hex::encode(&payload));
        let [low_rnd, high_rnd] = rnd;
        let insert = format!(
            "INSERT INTO {ledger} (c, seq, leg, dc, dseq, acct, amt, ver, pay, crc, rnd) VALUES \
             ({c}, {n}, 0, {dc}, {dseq}, {low}, {low_amount}, {low_version}, {pay}, {crc}, {low_rnd}), \
             ({c}, {n}, 1, {dc}, {dseq}, {high}, {high_amount}, {high_version}, {pay}, {crc}, {high_rnd}); \
             UPDATE {counters} SET seq = {n} WHERE c = {c}"
        );
        conn.execute(&insert).await?;
        conn.execute("COMMIT").await?;
        Ok([low_version, high_version])
    }
}
