//! Whose answer is whose.
//!
//! An agent carries out one command after another, and answers in that order: what comes next answers the oldest
//! command. But one that is restarted never answers what its predecessor had read. So whoever wants to be sure
//! sends a sync first, whose answer has a number of its own: what is older then is lost. A sentinel makes an
//! agent answer with an error about JSON, which nobody else gets.

use std::collections::VecDeque;

use contract::history::Nanos;

use super::line::{Answer, Command};

/// The most commands that are kept, the latest. A freeze window has some dozens, a long trial has many windows.
const MOST_EXCHANGES: usize = 20_000;

/// The most commands that may be unanswered at once.
pub(super) const MOST_PENDING: usize = 1000;

/// The greatest count of file systems: a greater number that is returned answers a sync.
const GREATEST_COUNT: u64 = 1_000_000;

/// What an exchange says of a command whose agent is gone.
const LOST: &str = "never answered: the agent was restarted, or its guest has ended";

/// Who gave a command to the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// The harness, by way of the proxy.
    Harness,
    /// Whoever is connected to the proxy: libvirt, for a backup tool or for the harness.
    Outside,
}

/// A command and its answer. Times are those at which they passed to and from QEMU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    /// The command's name, fit to be shown.
    pub name: String,
    /// Whose it was.
    pub by: By,
    /// When the proxy got it.
    pub asked: Nanos,
    /// Just before its last byte was handed to QEMU; `None` while the guest takes nothing.
    pub sent: Option<Nanos>,
    /// Just after its answer had come; `None` when there is none.
    pub answered: Option<Nanos>,
    /// Why the agent did not do it, or that it cannot answer any more; fit to be shown.
    pub error: Option<String>,
    /// What it returned as JSON, fit to be shown.
    pub returned: Option<String>,
    /// The same where it is a whole number, as of file systems.
    pub count: Option<i64>,
}

impl Exchange {
    /// Whether it is to freeze file systems.
    pub fn is_freeze(&self) -> bool {
        matches!(&*self.name, "guest-fsfreeze-freeze" | "guest-fsfreeze-freeze-list")
    }

    /// Whether it is to thaw them.
    pub fn is_thaw(&self) -> bool {
        self.name == "guest-fsfreeze-thaw"
    }
}

/// Whether a guest is frozen, as its agent said last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FreezeState {
    /// Nothing was frozen, or all is thawed.
    Thawed,
    /// It was frozen, and the answer came at this time.
    Frozen(Nanos),
    /// A freeze has no answer, or a thaw failed.
    Unsure,
}

/// To whom an answer goes.
#[derive(Debug)]
pub(super) struct Delivery<O> {
    pub(super) to: O,
    /// The exchange, if the answer is that of a command.
    pub(super) exchange: Option<Exchange>,
}

/// What was sent and not yet answered.
#[derive(Debug)]
struct Pending<O> {
    owner: O,
    kind: Kind,
    /// How many bytes QEMU has got when it has got this.
    end: u64,
    exchange: Exchange,
    /// Whether it belongs among the exchanges.
    is_kept: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Sentinel,
    Sync(u64),
    Command,
}

/// The commands of one agent. `O` is who gets an answer.
#[derive(Debug)]
pub(super) struct Ledger<O> {
    pending: VecDeque<Pending<O>>,
    answered: VecDeque<Exchange>,
    state: FreezeState,
}

impl<O: Clone> Ledger<O> {
    pub(super) fn new() -> Self {
        Self { pending: VecDeque::new(), answered: VecDeque::new(), state: FreezeState::Thawed }
    }

    /// Enters a command that was put on its way. QEMU will have got `end` bytes when it has got all of it.
    pub(super) fn enter(&mut self, command: &Command, by: By, owner: &O, asked: Nanos, end: u64) {
        let exchange = |name: &str| Exchange {
            name: name.to_owned(),
            by,
            asked,
            sent: None,
            answered: None,
            error: None,
            returned: None,
            count: None,
        };
        let mut enter = |kind, is_kept| {
            let (owner, exchange) = (owner.clone(), exchange(&command.name));
            self.pending.push_back(Pending { owner, kind, end, exchange, is_kept });
        };
        if command.is_delimited {
            enter(Kind::Sentinel, false);
        }
        // Those of the harness only keep the order.
        enter(command.sync.map_or(Kind::Command, Kind::Sync), command.sync.is_none() || by == By::Outside);
    }

    /// How many have no answer.
    pub(super) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// QEMU has got so many bytes in all; the last of them at this time.
    pub(super) fn sent(&mut self, bytes: u64, t: Nanos) {
        for pending in self.pending.iter_mut().filter(|it| it.end <= bytes && it.exchange.sent.is_none()) {
            pending.exchange.sent = Some(t);
        }
    }

    /// Takes an answer that came at this time. `None` when it answers nothing, or nothing that anybody
    /// waits for.
    pub(super) fn answer(&mut self, answer: &Answer, t: Nanos) -> Option<Delivery<O>> {
        let at = self.answered_by(answer)?;
        self.lose(at);
        self.settle(answer, t)
    }

    /// Takes an answer that was too long to be kept: the oldest command's.
    pub(super) fn answer_too_long(&mut self, longest: usize, t: Nanos) -> Option<Delivery<O>> {
        let reason = format!("the answer does not end within {longest} bytes");
        self.lose(self.pending.iter().position(|it| it.kind != Kind::Sentinel)?);
        self.settle(&Answer::Refused(reason), t)
    }

    /// Gives up the oldest commands: they will not be answered any more.
    fn lose(&mut self, count: usize) {
        for Pending { kind, exchange, is_kept, .. } in self.pending.drain(..count) {
            if exchange.is_freeze() || (exchange.is_thaw() && self.state != FreezeState::Thawed) {
                self.state = FreezeState::Unsure;
            }
            if kind != Kind::Sentinel && is_kept {
                keep(&mut self.answered, Exchange { error: Some(LOST.to_owned()), ..exchange });
            }
        }
    }

    /// The same of all, because the guest has ended: nothing of it is frozen any more.
    pub(super) fn lose_all(&mut self) {
        self.lose(self.pending.len());
        self.state = FreezeState::Thawed;
    }

    /// Which of the unanswered commands this answers.
    fn answered_by(&self, answer: &Answer) -> Option<usize> {
        if answer.is_about_syntax()
            && let Some(at) = self.pending.iter().position(|it| it.kind == Kind::Sentinel)
        {
            return Some(at);
        }
        if let Answer::Done { count: Some(count), .. } = answer {
            let id = count.unsigned_abs();
            let first = self.pending.front().map(|it| it.kind);
            let is_own = id > GREATEST_COUNT || first != Some(Kind::Command);
            let of_sync = || self.pending.iter().position(|it| it.kind == Kind::Sync(id));
            if let Some(at) = is_own.then(of_sync).flatten() {
                return Some(at);
            }
        }
        // Not every agent says something of a sentinel.
        let at = self.pending.iter().position(|it| it.kind != Kind::Sentinel)?;
        let is_leftover = matches!(self.pending.get(at)?.kind, Kind::Sync(_));
        (!is_leftover || matches!(answer, Answer::Refused(_))).then_some(at)
    }

    /// Gives this answer to the oldest command.
    fn settle(&mut self, answer: &Answer, t: Nanos) -> Option<Delivery<O>> {
        let Pending { owner, kind, mut exchange, is_kept, .. } = self.pending.pop_front()?;
        if kind == Kind::Sentinel {
            return Some(Delivery { to: owner, exchange: None });
        }
        exchange.answered = Some(t);
        match answer {
            Answer::Done { value, count } => {
                (exchange.returned, exchange.count) = (Some(value.clone()), *count);
            }
            Answer::Refused(reason) => exchange.error = Some(reason.clone()),
        }
        self.state = state_after(self.state, &exchange);
        if is_kept {
            keep(&mut self.answered, exchange.clone());
        }
        Some(Delivery { to: owner, exchange: (kind == Kind::Command).then_some(exchange) })
    }

    /// Whether the guest is frozen. While a freeze has no answer, nobody knows.
    pub(super) fn state(&self) -> FreezeState {
        let freezes = self.pending.iter().any(|it| it.exchange.is_freeze());
        if freezes { FreezeState::Unsure } else { self.state }
    }

    /// The latest commands, in the order of their answers, and then those without.
    pub(super) fn exchanges(&self) -> Vec<Exchange> {
        let open = self.pending.iter().filter(|it| it.kind != Kind::Sentinel && it.is_kept);
        self.answered.iter().chain(open.map(|it| &it.exchange)).cloned().collect()
    }
}

fn keep(exchanges: &mut VecDeque<Exchange>, exchange: Exchange) {
    if exchanges.len() == MOST_EXCHANGES {
        exchanges.pop_front();
    }
    exchanges.push_back(exchange);
}

/// Whether the guest is frozen after this answer. A freeze that fails leaves it as it was.
fn state_after(before: FreezeState, exchange: &Exchange) -> FreezeState {
    match (&exchange.error, exchange.answered) {
        (None, Some(t)) if exchange.is_freeze() => match before {
            FreezeState::Frozen(since) => FreezeState::Frozen(since),
            _ => FreezeState::Frozen(t),
        },
        (None, _) if exchange.is_thaw() => FreezeState::Thawed,
        (Some(_), _) if exchange.is_thaw() && before != FreezeState::Thawed => FreezeState::Unsure,
        (None, Some(t)) if exchange.name == "guest-fsfreeze-status" => {
            match (exchange.returned.as_deref(), before) {
                (Some("\"thawed\""), _) => FreezeState::Thawed,
                (Some("\"frozen\""), FreezeState::Frozen(since)) => FreezeState::Frozen(since),
                (Some("\"frozen\""), _) => FreezeState::Frozen(t),
                _ => before,
            }
        }
        _ => before,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENTINEL_ERROR: &str = "JSON parse error, stray '\\uFFFD'";

    /// A ledger whose owners are letters, and whose times count up.
    struct Book {
        ledger: Ledger<char>,
        t: Nanos,
    }

    impl Book {
        fn new() -> Self {
            Self { ledger: Ledger::new(), t: 0 }
        }

        fn enter(&mut self, owner: char, name: &str, sync: Option<u64>) {
            self.t += 1;
            let by = if owner == 'h' { By::Harness } else { By::Outside };
            let is_delimited = name == "guest-sync-delimited";
            let command = Command { name: name.to_owned(), is_delimited, sync };
            self.ledger.enter(&command, by, &owner, self.t, self.t);
            self.ledger.sent(self.t, self.t);
        }

        /// As the harness sends one.
        fn order(&mut self, name: &str, id: u64) {
            self.enter('h', "guest-sync-delimited", Some(id));
            self.enter('h', name, None);
        }

        /// Who gets this number as an answer.
        fn returns(&mut self, count: i64) -> Option<char> {
            let answer = Answer::Done { value: count.to_string(), count: Some(count) };
            self.take(&answer)
        }

        fn says(&mut self, value: &str) -> Option<char> {
            self.take(&Answer::Done { value: value.to_owned(), count: None })
        }

        fn refuses(&mut self, reason: &str) -> Option<char> {
            self.take(&Answer::Refused(reason.to_owned()))
        }

        fn take(&mut self, answer: &Answer) -> Option<char> {
            self.t += 1;
            self.ledger.answer(answer, self.t).map(|delivery| delivery.to)
        }

        fn told(&self) -> Vec<(String, Option<String>)> {
            let exchanges = self.ledger.exchanges();
            exchanges.into_iter().map(|it| (it.name, it.error.or(it.returned))).collect()
        }
    }

    fn told(name: &str, what: &str) -> (String, Option<String>) {
        (name.to_owned(), Some(what.to_owned()))
    }

    #[test]
    fn each_gets_its_own_answer() {
        let mut book = Book::new();
        book.enter('a', "guest-sync", Some(1_700_000_000_000));
        book.enter('a', "guest-fsfreeze-freeze", None);
        book.order("guest-fsfreeze-thaw", 5_000_000_000);
        book.enter('b', "guest-info", None);
        assert_eq!(book.returns(1_700_000_000_000), Some('a'));
        assert_eq!(book.returns(2), Some('a'));
        assert_eq!(book.refuses(SENTINEL_ERROR), Some('h'));
        assert_eq!(book.returns(5_000_000_000), Some('h'));
        assert_eq!(book.returns(2), Some('h'));
        assert_eq!(book.says("{}"), Some('b'));
        assert_eq!(book.says("{}"), None);
        assert_eq!(
            book.told(),
            [
                told("guest-sync", "1700000000000"),
                told("guest-fsfreeze-freeze", "2"),
                told("guest-fsfreeze-thaw", "2"),
                told("guest-info", "{}"),
            ]
        );
    }

    #[test]
    fn what_a_restarted_agent_had_read_is_lost_and_nothing_else() {
        let mut book = Book::new();
        book.enter('a', "guest-fsfreeze-freeze", None);
        book.order("guest-fsfreeze-thaw", 5_000_000_000);
        // The new agent knows nothing of the freeze.
        assert_eq!(book.refuses(SENTINEL_ERROR), Some('h'));
        assert_eq!(book.ledger.state(), FreezeState::Unsure);
        assert_eq!(book.returns(5_000_000_000), Some('h'));
        assert_eq!(book.returns(0), Some('h'));
        assert_eq!(book.told(), [told("guest-fsfreeze-freeze", LOST), told("guest-fsfreeze-thaw", "0")]);
        assert_eq!(book.ledger.state(), FreezeState::Thawed);

        // An agent that says nothing of a sentinel, or that had read the sync as well.
        let mut book = Book::new();
        book.enter('a', "guest-info", None);
        book.order("guest-ping", 5_000_000_000);
        book.enter('a', "guest-sync", Some(1_700_000_000_000));
        book.enter('a', "guest-fsfreeze-status", None);
        assert_eq!(book.returns(1_700_000_000_000), Some('a'));
        assert_eq!(book.says("\"thawed\""), Some('a'));
        assert_eq!(book.told()[..2], [told("guest-info", LOST), told("guest-ping", LOST)]);
    }

    #[test]
    fn a_small_number_is_no_answer_to_a_later_sync() {
        let mut book = Book::new();
        book.enter('a', "guest-fsfreeze-freeze", None);
        book.enter('b', "guest-sync", Some(2));
        assert_eq!(book.returns(2), Some('a'));
        assert_eq!(book.returns(2), Some('b'));
        // Nor is a leftover one to the sync that it comes before.
        book.enter('b', "guest-sync", Some(7));
        assert_eq!([book.returns(2), book.says("{}"), book.returns(7)], [None, None, Some('b')]);
    }

    #[test]
    fn an_agent_without_sync_still_answers() {
        let mut book = Book::new();
        book.order("guest-fsfreeze-thaw", 5_000_000_000);
        assert_eq!(book.refuses("The command guest-sync-delimited has been disabled"), Some('h'));
        assert_eq!(book.returns(1), Some('h'));
        assert_eq!(book.told(), [told("guest-fsfreeze-thaw", "1")]);
    }

    #[test]
    fn whether_it_is_frozen_follows_from_the_answers() {
        let mut book = Book::new();
        let state = |book: &Book| book.ledger.state();
        assert_eq!(state(&book), FreezeState::Thawed);
        book.enter('a', "guest-fsfreeze-freeze", None);
        assert_eq!(state(&book), FreezeState::Unsure);
        book.refuses("fsfreeze hook has failed with status 1");
        assert_eq!(state(&book), FreezeState::Thawed);
        book.enter('a', "guest-fsfreeze-freeze-list", None);
        book.returns(1);
        let frozen = FreezeState::Frozen(book.t);
        assert_eq!(state(&book), frozen);
        // A second freeze is refused, and a status changes nothing.
        book.enter('a', "guest-fsfreeze-freeze", None);
        book.refuses("the command is not allowed while frozen");
        book.enter('a', "guest-fsfreeze-status", None);
        book.says("\"frozen\"");
        assert_eq!(state(&book), frozen);
        book.enter('a', "guest-fsfreeze-thaw", None);
        book.refuses("fsfreeze hook has failed with status 1");
        assert_eq!(state(&book), FreezeState::Unsure);
        book.enter('a', "guest-fsfreeze-status", None);
        book.says("\"thawed\"");
        assert_eq!(state(&book), FreezeState::Thawed);
        book.enter('a', "guest-fsfreeze-freeze", None);
        book.ledger.lose_all();
        assert_eq!(state(&book), FreezeState::Thawed);
    }

    #[test]
    fn times_are_those_at_the_agents_side() {
        let mut book = Book::new();
        let command = |name: &str| Command { name: name.to_owned(), is_delimited: false, sync: None };
        book.ledger.enter(&command("guest-fsfreeze-freeze"), By::Outside, &'a', 10, 100);
        book.ledger.enter(&command("guest-fsfreeze-thaw"), By::Outside, &'a', 20, 200);
        book.ledger.sent(150, 30);
        book.ledger.sent(160, 40);
        book.ledger.answer(&Answer::Done { value: "1".to_owned(), count: Some(1) }, 50);
        let times: Vec<_> =
            book.ledger.exchanges().iter().map(|it| (it.asked, it.sent, it.answered)).collect();
        assert_eq!(times, [(10, Some(30), Some(50)), (20, None, None)]);
    }

    #[test]
    fn the_latest_commands_are_kept() {
        let mut book = Book::new();
        for n in 0..=MOST_EXCHANGES {
            book.enter('a', if n == 0 { "guest-info" } else { "guest-ping" }, None);
            book.says("{}");
        }
        let told = book.told();
        assert_eq!(told.len(), MOST_EXCHANGES);
        assert!(told.iter().all(|(name, _)| name == "guest-ping"));
    }
}
