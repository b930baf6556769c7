//! A follower: one client, each of whose rows in one table follows the newest transfer acknowledged
//! to any writer.

use std::sync::Arc;
use std::time::Instant;

use contract::history::{Entry, Op};
use tokio::time::timeout;

use super::context::{Ack, LoadContext, payload};
use crate::clock;
use crate::error::Result;

/// Follows transfers until the load stops or the server is gone for good.
pub(super) async fn run(context: Arc<LoadContext>, place: usize) -> Result<()> {
    let follower = context.followers[place].clone();
    let followers = u32::try_from(context.followers.len()).unwrap_or(u32::MAX);
    let c = context.writers + 1 + u32::try_from(place).unwrap_or(u32::MAX);
    let real = context.target.names.table(&follower.table);
    let mut conn = context.connect(follower.door).await?;
    let mut random = context.random(c);
    let mut pace = context.pace(followers);
    let (mut newest, mut stop) = (context.newest.subscribe(), context.stop.subscribe());
    let mut n = 0;
    loop {
        if let Some(pace) = &mut pace {
            pace.tick().await;
        }
        tokio::select! {
            _ = stop.wait_for(|stopped| *stopped) => break,
            // The sender lives as long as the context.
            _ = newest.changed() => {}
        }
        let Some(of) = *newest.borrow_and_update() else { continue };
        if context.stopped() {
            break;
        }
        n += 1;
        let (payload, crc) = payload(&mut random);
        let op = Op::Follow { table: follower.table.clone(), of, crc };
        let sent = clock::now();
        context.history.write(&Entry::Invoke { t: sent, c, n, op })?;
        let [of_c, of_n] = of;
        let sql = format!(
            "INSERT INTO {real} VALUES ({c}, {n}, {of_c}, {of_n}, {crc}, {})",
            context.dialect().bytes(&hex::encode(&payload))
        );
        let (limit, begin) = (context.statement_limit, Instant::now());
        let error = match timeout(limit, conn.execute(&sql)).await {
            Ok(Ok(())) => {
                context.history.write(&Entry::Ok { t: clock::now(), c, n, ver: None })?;
                // The receiver is gone only when the load is abandoned.
                let _ = context.acks.send(Ack { sent, client: c });
                context.think(c, begin.elapsed()).await;
                continue;
            }
            // A failed statement on a non-transactional table proves nothing about the row.
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", limit.as_secs()),
        };
        context.history.write(&Entry::Unknown { t: clock::now(), c, n, error })?;
        conn = context.connect(follower.door).await?;
        // The next one would probably not be acknowledged at once either.
        context.think(c, begin.elapsed()).await;
    }
    Ok(())
}
