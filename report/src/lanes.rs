//! Which clients share a row of the picture: those of one way to the server stand together,
//! and where there are too many for a row each, neighbours share one.

use std::collections::BTreeMap;

use contract::history::Schema;
use judge::picture::{Client, Fate, Operation, Picture};

use super::text::count;

/// The clients that took one way to the server.
#[derive(Debug)]
pub(super) struct Way<'a> {
    /// Which way, and who took it.
    pub(super) heading: String,
    pub(super) rows: Vec<Lane<'a>>,
}

/// Clients that share a row.
#[derive(Debug)]
pub(super) struct Lane<'a> {
    pub(super) clients: &'a [&'a Client],
}

/// The ways, in at most about `most` rows, and how many clients share one at the most.
pub(super) fn ways<'a>(
    picture: &Picture,
    clients: &'a BTreeMap<u8, Vec<&'a Client>>,
    most: usize,
) -> (Vec<Way<'a>>, usize) {
    let share = picture.clients.len().div_ceil(most.max(1)).max(1);
    let ways = clients.iter().map(|(door, clients)| {
        let door = picture.doors.get(usize::from(*door)).map_or("?", String::as_str);
        let rows = clients.chunks(share).map(|clients| Lane { clients }).collect();
        Way { heading: heading(door, clients), rows }
    });
    (ways.collect(), share)
}

/// The clients of each way, those that send transfers first.
pub(super) fn by_door(picture: &Picture) -> BTreeMap<u8, Vec<&Client>> {
    let mut doors: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for client in &picture.clients {
        doors.entry(client.door).or_default().push(client);
    }
    doors
}

/// `through tcp: 16 writers, and rows of nt`.
fn heading(door: &str, clients: &[&Client]) -> String {
    let writers = clients.iter().filter(|client| client.table.is_none()).count();
    let tables: Vec<_> = clients
        .iter()
        .filter_map(|client| {
            let second = if client.schema == Schema::Second { " (second schema)" } else { "" };
            Some(format!("{}{second}", client.table.as_ref()?))
        })
        .collect();
    let who = match (writers, tables.is_empty()) {
        (0, _) => format!("rows of {}", tables.join(", ")),
        (_, true) => count(writers, "writer"),
        (_, false) => format!("{}, and rows of {}", count(writers, "writer"), tables.join(", ")),
    };
    format!("through {door}: {who}")
}

impl<'a> Lane<'a> {
    pub(super) fn operations(&self) -> impl Iterator<Item = (&'a Client, &'a Operation)> {
        self.clients.iter().flat_map(|client| client.operations.iter().map(move |it| (*client, it)))
    }

    /// `client 7`, or the table to which it sends.
    pub(super) fn label(&self) -> String {
        match self.clients {
            [client] => match &client.table {
                Some(table) => table.chars().take(10).collect(),
                None => format!("client {}", client.number),
            },
            _ => String::new(),
        }
    }
}

/// How many transfers and how many rows came to each fate.
pub(super) fn fates(picture: &Picture) -> BTreeMap<Fate, (usize, usize)> {
    let mut fates: BTreeMap<_, (usize, usize)> = BTreeMap::new();
    for client in &picture.clients {
        for operation in &client.operations {
            let (transfers, rows) = fates.entry(operation.fate).or_default();
            *if client.table.is_none() { transfers } else { rows } += 1;
        }
    }
    fates
}
