//! Synthetic trials in memory, where defects can be planted.

use contract::history::Entry;
use contract::observation::Record;
use judge::{Case, Judgement, judge};
use synthetic::{self, Logs, make};

pub(crate) use synthetic::{MarkTimes, Random, Shape};

/// The two logs of a trial, and when its marks were crossed.
#[derive(Debug, Clone)]
pub(crate) struct World {
    pub(crate) history: Vec<Entry>,
    pub(crate) image: Vec<Record>,
    pub(crate) times: MarkTimes,
    /// The cycle that is judged.
    pub(crate) cycle: u32,
}

/// An observation whose index sums follow the rows that were added to it or taken out of it, as those of
/// a server do.
pub(crate) fn indexed(image: &[Record]) -> Vec<Record> {
    let rows = |of: &str| {
        let is_of = |record: &&Record| match record {
            Record::Leg { .. } => of == "ledger",
            Record::Follow { table, .. } => of == table,
            _ => false,
        };
        image.iter().filter(is_of).count() as u64
    };
    let mut image = image.to_vec();
    let counts: Vec<_> = image
        .iter()
        .map(|record| match record {
            Record::Index { table, .. } => rows(table),
            _ => 0,
        })
        .collect();
    for (record, rows) in image.iter_mut().zip(counts) {
        if let Record::Index { primary, secondary, .. } = record
            && (*primary, primary[1]) == (*secondary, synthetic::SUM)
        {
            (primary[0], secondary[0]) = (rows, rows);
        }
    }
    image
}

#[derive(Default)]
struct Memory {
    history: Vec<Entry>,
    image: Vec<Record>,
}

impl Logs for Memory {
    type Error = std::convert::Infallible;

    fn entry(&mut self, entry: Entry) -> Result<(), Self::Error> {
        self.history.push(entry);
        Ok(())
    }

    fn record(&mut self, record: Record) -> Result<(), Self::Error> {
        self.image.push(record);
        Ok(())
    }
}

impl World {
    pub(crate) fn new(shape: &Shape) -> Self {
        let mut logs = Memory::default();
        let Ok(times) = make(shape, &mut logs);
        let Memory { history, image } = logs;
        Self { history, image, times, cycle: 1 }
    }

    pub(crate) fn case(&self) -> Result<Case, String> {
        Case::of_cycle(self.cycle, self.history.clone(), Some(indexed(&self.image)))
            .map_err(|e| e.to_string())
    }

    pub(crate) fn judge(&self) -> Judgement {
        judge(&self.case().expect("a well-formed world"))
    }
}
