//! Logs put together by hand, whole and damaged. Those of a real server are
//! read by the tests under `tests/hooks`.

#![allow(clippy::unwrap_used, reason = "helpers of tests; the lint knows only test functions")]

use proptest::prelude::*;

use super::*;

/// A log with checksums, event by event.
struct Made(Vec<u8>);

impl Made {
    fn new() -> Self {
        let mut made = Self(MAGIC.to_vec());
        let mut body = vec![0; 57];
        body[0] = 4;
        body[description::HEADER_LENGTH] = 19;
        body.extend([8; 40]);
        body.push(1);
        made.event(kind::FORMAT_DESCRIPTION, &body);
        made
    }

    fn event(&mut self, kind: u8, body: &[u8]) -> &mut Self {
        let mut event = vec![0; header::LENGTH];
        event[header::KIND] = kind;
        let size = (header::LENGTH + body.len() + CHECKSUM) as u32;
        event[header::SIZE].copy_from_slice(&size.to_le_bytes());
        event.extend(body);
        let sum = crc32fast::hash(&event);
        if kind == kind::FORMAT_DESCRIPTION {
            event[header::FLAGS] |= header::IN_USE;
        }
        event.extend(sum.to_le_bytes());
        self.0.extend(event);
        self
    }

    fn query(&mut self, statement: &[u8]) -> &mut Self {
        let mut body = vec![0; 13];
        body.push(0);
        body.extend(statement);
        self.event(kind::QUERY, &body)
    }

    fn table(&mut self, id: u8, name: &[u8]) -> &mut Self {
        let mut body = vec![id, 0, 0, 0, 0, 0, 1, 0, 1, b's', 0, name.len() as u8];
        body.extend(name);
        // c, n, leg, a VARBINARY(1024) and a BIGINT.
        body.extend([0, 5, 3, 3, 1, 15, 8, 2, 0, 4, 0]);
        self.event(kind::TABLE_MAP, &body)
    }

    fn rows(&mut self, id: u8, second_version: bool, keys: &[Key]) -> &mut Self {
        let mut body = vec![id, 0, 0, 0, 0, 0, 1, 0];
        if second_version {
            body.extend([2, 0]);
        }
        body.extend([5, 0b11111]);
        for (leg, (c, n)) in (0..).zip(keys) {
            body.push(0);
            body.extend(c.to_le_bytes());
            body.extend(n.to_le_bytes());
            body.push(leg);
            body.extend([3, 0, b'p', b'a', b'y']);
            body.extend([7; 8]);
        }
        let kind = if second_version { kind::WRITE_ROWS_V2 } else { kind::WRITE_ROWS_V1 };
        self.event(kind, &body)
    }

    fn transfer(&mut self, key: Key, second_version: bool) -> &mut Self {
        self.event(kind::MARIADB_GTID, &[0; 19]).table(17, b"ledger").rows(17, second_version, &[key, key])
    }
}

/// The transfers, and where the log breaks off.
fn read(log: &[u8]) -> Result<(Vec<Key>, Option<u64>), BinlogError> {
    let mut log = Log::open(log, "s", "ledger")?;
    let mut keys = Vec::new();
    while let Some(transaction) = log.next_transaction()? {
        keys.extend(transaction);
    }
    Ok((keys, log.torn_at()))
}

#[test]
fn a_log_is_closed_by_its_last_event_and_by_its_first() {
    let closed = |log: &Made| {
        let mut log = log.0.clone();
        log[MAGIC.len() + header::FLAGS] &= !header::IN_USE;
        log
    };
    let mut log = Made::new();
    log.transfer((1, 1), true);
    assert!(is_in_use(&log.0[..]));
    assert!(is_in_use(&closed(&log)[..]), "something cleared its flag");
    log.event(kind::STOP, &[]);
    assert!(is_in_use(&log.0[..]), "something else wrote the last event");
    let whole = closed(&log);
    assert!(!is_in_use(&whole[..]));
    for cut in [0, 3, 4, 10, whole.len() - 1] {
        assert!(is_in_use(&whole[..cut]), "cut at {cut}");
    }
}

#[test]
fn only_what_was_committed_counts() {
    let mut log = Made::new();
    log.transfer((1, 1), false).event(kind::XID, &[0; 8]);
    log.transfer((2, 1), true).query(b"COMMIT");
    log.transfer((1, 2), false).query(b"ROLLBACK");
    // Another table, and the same number for it.
    log.event(kind::GTID, &[0; 42]).table(17, b"other").rows(17, false, &[(9, 9)]).event(kind::XID, &[0; 8]);
    log.event(200, b"of a later server");
    log.transfer((1, 3), false);
    assert_eq!(read(&log.0).unwrap(), (vec![(1, 1), (2, 1)], None));
    log.event(kind::XID, &[0; 8]);
    assert_eq!(read(&log.0).unwrap(), (vec![(1, 1), (2, 1), (1, 3)], None));
}

#[test]
fn a_log_cut_anywhere_gives_what_was_whole_before() {
    let mut log = Made::new();
    log.transfer((1, 1), false).event(kind::XID, &[0; 8]);
    let first = log.0.len();
    log.transfer((1, 2), false).event(kind::XID, &[0; 8]);
    for end in 0..log.0.len() {
        let (keys, torn) = read(&log.0[..end]).unwrap();
        assert_eq!(keys.len(), usize::from(end >= first), "cut at {end}");
        assert!(torn.is_none_or(|at| at <= end as u64));
        // Zeros, as a crash leaves them.
        let mut zeros = log.0[..end].to_vec();
        zeros.resize(log.0.len() + 4096, 0);
        if end == 0 || end >= 4 {
            assert_eq!(read(&zeros).unwrap().0, keys, "zeros from {end}");
        }
    }
}

#[test]
fn a_changed_byte_is_noticed() {
    let mut log = Made::new();
    log.transfer((1, 1), false).event(kind::XID, &[0; 8]);
    let start = log.0.len();
    log.transfer((1, 2), false).event(kind::XID, &[0; 8]);
    for at in start..log.0.len() {
        let mut changed = log.0.clone();
        changed[at] ^= 0x40;
        match read(&changed) {
            Ok((keys, torn)) => {
                assert_eq!(keys, [(1, 1)], "byte {at}");
                assert!(torn.is_some(), "byte {at}");
            }
            Err(problem) => assert!(matches!(problem, BinlogError::TooLong(_)), "{problem}"),
        }
    }
}

#[test]
fn what_cannot_be_read_says_so() {
    let refusal = |log: &[u8]| read(log).unwrap_err().to_string();
    assert_eq!(refusal(b"\xfdbin encrypted by MySQL"), "it is encrypted");
    assert_eq!(refusal(b"#!/bin/sh"), "it is not a binary log of version 4");
    assert_eq!(refusal(&Made::new().event(164, &[0; 17]).0), "it is encrypted");
    assert_eq!(refusal(&Made::new().event(166, &[0; 17]).0), "its rows are compressed");
    assert_eq!(refusal(&Made::new().event(40, &[0; 17]).0), "its rows are compressed");
}

/// Random bytes where a decoder looks, behind a right checksum.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let kinds = prop::sample::select(vec![2, 15, 16, 19, 23, 30, 33, 38, 162, 163]);
    let bodies = prop::collection::vec((kinds, prop::collection::vec(any::<u8>(), 0..80)), 0..8);
    (bodies, any::<bool>()).prop_map(|(bodies, mapped)| {
        let mut log = Made::new();
        for (kind, mut body) in bodies {
            if mapped {
                log.table(17, b"ledger");
                for (byte, number) in body.iter_mut().zip([17, 0, 0, 0, 0, 0]) {
                    *byte = number;
                }
            }
            log.event(kind, &body);
        }
        log.0
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn garbage_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..300), log in damaged()) {
        let _ = read(&bytes);
        let _ = read(&[MAGIC, bytes.as_slice()].concat());
        let _ = read(&[Made::new().0, bytes].concat());
        let _ = read(&log);
    }
}
