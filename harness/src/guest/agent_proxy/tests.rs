use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::thread::spawn;
use std::time::Instant;

use super::*;
use crate::bounds::{AGENT_LINE, AGENT_NOISE};
use crate::clock;

/// Longer than anything takes that does happen.
const LONG: Duration = Duration::from_secs(60);
/// Long enough to see that something does not happen.
const SHORT: Duration = Duration::from_millis(50);

const FREEZE: &str = "guest-fsfreeze-freeze";
const THAW: &str = "guest-fsfreeze-thaw";

/// One end of a connection to the proxy.
struct End(BufReader<UnixStream>);

impl End {
    fn connect(proxy: &AgentProxy) -> Self {
        let stream = UnixStream::connect(proxy.socket()).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        Self(BufReader::new(stream))
    }

    fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.get_mut().write_all(bytes.as_ref()).unwrap();
    }

    /// The next line, without its end; `None` at the end of the connection.
    fn read(&mut self) -> Option<Vec<u8>> {
        let mut line = Vec::new();
        match self.0.read_until(b'\n', &mut line) {
            Ok(0) => None,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => None,
            read => {
                read.unwrap();
                assert_eq!(line.pop(), Some(b'\n'));
                Some(line)
            }
        }
    }

    fn is_at_end(&mut self) -> bool {
        while self.0.get_mut().read(&mut [0; 4096]).is_ok_and(|read| read > 0) {}
        self.0.get_mut().read(&mut [0; 1]).map_or(true, |read| read == 0)
    }

    /// Whether nothing is there to be read.
    fn has_nothing(&mut self) -> bool {
        let stream = self.0.get_mut();
        stream.set_nonblocking(true).unwrap();
        let read = stream.read(&mut [0; 1]);
        stream.set_nonblocking(false).unwrap();
        read.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }

    // As libvirt.

    fn ask(&mut self, name: &str) {
        self.write(format!("{{\"execute\":\"{name}\"}}\n"));
    }

    fn answer(&mut self) -> String {
        String::from_utf8(self.read().unwrap()).unwrap()
    }

    // As an agent, behind QEMU.

    /// The name of the next command, with syncs and sentinels answered as qemu-ga does.
    fn next(&mut self) -> String {
        loop {
            let line = self.read().expect("a command");
            let json = line.strip_prefix(&[line::SENTINEL]);
            if json.is_some() {
                self.refuse("JSON parse error, stray '\\\\uFFFD'");
            }
            let command: Value = serde_json::from_slice(json.unwrap_or(&line)).unwrap();
            match &command["arguments"]["id"] {
                Value::Null => return command["execute"].as_str().unwrap().to_owned(),
                id => {
                    self.write([line::SENTINEL]);
                    self.put(&id.to_string());
                }
            }
        }
    }

    fn put(&mut self, value: &str) {
        self.write(format!("{{\"return\": {value}}}\n"));
    }

    fn refuse(&mut self, reason: &str) {
        self.write(format!("{{\"error\": {{\"class\": \"GenericError\", \"desc\": \"{reason}\"}}}}\n"));
    }
}

struct Scene {
    proxy: AgentProxy,
    events: Receiver<WindowEvent>,
    guest: End,
    _dir: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (proxy, events) = AgentProxy::listen("source", &dir.path().join("agent")).unwrap();
        let guest = End::connect(&proxy);
        Self { proxy, events, guest, _dir: dir }
    }

    fn client(&self) -> End {
        End::connect(&self.proxy)
    }

    fn event(&self) -> WindowEvent {
        self.events.recv_timeout(LONG).unwrap()
    }

    /// Freezes by way of a client, which gets the answer.
    fn freeze(&mut self, client: &mut End) {
        client.ask(FREEZE);
        assert_eq!(self.guest.next(), FREEZE);
        // Told while it has no answer.
        assert!(matches!(self.event(), WindowEvent::FreezeAsked(_)));
        self.guest.put("1");
        assert_eq!(client.answer(), "{\"return\": 1}");
        assert!(matches!(self.event(), WindowEvent::FreezeAnswered(_)));
    }

    fn told(&self) -> Vec<(String, By, Option<String>)> {
        let exchanges = self.proxy.exchanges();
        exchanges.into_iter().map(|it| (it.name, it.by, it.error.or(it.returned))).collect()
    }
}

fn told(name: &str, by: By, what: &str) -> (String, By, Option<String>) {
    (name.to_owned(), by, Some(what.to_owned()))
}

/// The proxy's thaw, run beside the test, which is the guest.
fn thaw_beside(proxy: AgentProxy) -> std::thread::JoinHandle<(Result<u32>, AgentProxy)> {
    spawn(move || (proxy.thaw(LONG), proxy))
}

#[test]
fn libvirt_and_the_agent_notice_nothing() {
    let mut scene = Scene::new();
    let mut client = scene.client();
    client.write("{\"execute\":\"guest-sync\", \"arguments\":{\"id\":1700000000123}}\n");
    let line = scene.guest.read().unwrap();
    assert_eq!(line, b"{\"execute\":\"guest-sync\", \"arguments\":{\"id\":1700000000123}}");
    scene.guest.put("1700000000123");
    assert_eq!(client.answer(), "{\"return\": 1700000000123}");
    // In pieces, with a carriage return, and with a value that is long and no word of ours.
    client.write("{\"execute\":\"guest-ge");
    client.write("t-osinfo\"}\r\n");
    assert_eq!(scene.guest.next(), "guest-get-osinfo");
    let value = format!("{{\"id\": \"{}\"}}", "é".repeat(200_000));
    scene.guest.put(&value);
    assert_eq!(client.answer(), format!("{{\"return\": {value}}}"));
    client.ask("guest-nope");
    assert_eq!(scene.guest.next(), "guest-nope");
    scene.guest.refuse("no\\nsuch command");
    assert!(client.answer().contains("\"desc\": \"no\\nsuch command\""));
    assert_eq!(
        scene.told(),
        [
            told("guest-sync", By::Outside, "1700000000123"),
            told("guest-get-osinfo", By::Outside, "400022 bytes"),
            told("guest-nope", By::Outside, "no\\nsuch command"),
        ]
    );
}

#[test]
fn the_harness_and_libvirt_get_their_own_answers() {
    let mut scene = Scene::new();
    let mut client = scene.client();
    client.ask(FREEZE);
    assert_eq!(scene.guest.next(), FREEZE);
    // A hook takes its time, and libvirt waits for it.
    let thawing = thaw_beside(scene.proxy);
    // An agent reads nothing meanwhile, and answers in the order in which it was asked.
    scene.guest.put("2");
    assert_eq!(scene.guest.next(), THAW);
    scene.guest.put("3");
    assert_eq!(client.answer(), "{\"return\": 2}");
    let (thawed, proxy) = thawing.join().unwrap();
    assert_eq!(thawed.unwrap(), 3);
    client.ask("guest-info");
    assert_eq!(scene.guest.next(), "guest-info");
    scene.guest.put("{}");
    assert_eq!(client.answer(), "{\"return\": {}}");
    let scene = Scene { proxy, ..scene };
    assert_eq!(
        scene.told(),
        [told(FREEZE, By::Outside, "2"), told(THAW, By::Harness, "3"), told("guest-info", By::Outside, "{}"),]
    );
}

#[test]
fn times_are_in_order_and_on_the_trials_clock() {
    let begin = clock::now();
    let mut scene = Scene::new();
    let mut client = scene.client();
    client.ask(FREEZE);
    assert_eq!(scene.guest.next(), FREEZE);
    let taken = clock::now();
    let open = scene.proxy.exchanges().pop().unwrap();
    assert_eq!((open.answered, open.error), (None, None));
    assert!(begin < open.asked && Some(open.asked) <= open.sent && open.sent < Some(taken));
    let answering = clock::now();
    scene.guest.put("1");
    client.answer();
    let done = scene.proxy.exchanges().pop().unwrap();
    assert_eq!((done.sent, done.count), (open.sent, Some(1)));
    assert!(done.answered > Some(answering) && done.answered < Some(clock::now()));
    assert_eq!(scene.proxy.state(), FreezeState::Frozen(done.answered.unwrap()));
    // So that the end of the test need not wait for a thaw.
    drop(scene.guest);
}

#[test]
fn what_a_restarted_agent_never_answers_harms_nobody() {
    let mut scene = Scene::new();
    let mut client = scene.client();
    client.ask(FREEZE);
    assert_eq!(scene.guest.next(), FREEZE);
    // The agent dies with it, and libvirt closes its connection.
    drop(client);
    let thawing = thaw_beside(scene.proxy);
    assert_eq!(scene.guest.next(), THAW);
    scene.guest.put("0");
    let (thawed, proxy) = thawing.join().unwrap();
    assert_eq!(thawed.unwrap(), 0);
    let scene = Scene { proxy, ..scene };
    let lost = "never answered: the agent was restarted, or its guest has ended";
    assert_eq!(scene.told(), [told(FREEZE, By::Outside, lost), told(THAW, By::Harness, "0")]);
    assert_eq!(scene.proxy.state(), FreezeState::Thawed);
}

#[test]
fn the_answer_of_a_freeze_is_held_until_it_is_released() {
    let mut scene = Scene::new();
    let mut client = scene.client();
    scene.proxy.hold(Holds { freeze_answer: LONG, thaw: Duration::ZERO });
    client.ask(FREEZE);
    assert_eq!(scene.guest.next(), FREEZE);
    assert!(matches!(scene.event(), WindowEvent::FreezeAsked(_)));
    scene.guest.put("1");
    let WindowEvent::FreezeAnswered(freeze) = scene.event() else { panic!("another event") };
    // Two questions later it would have been written.
    assert_eq!(scene.proxy.state(), FreezeState::Frozen(freeze.answered.unwrap()));
    scene.proxy.state();
    assert!(client.has_nothing());
    scene.proxy.release(Held::FreezeAnswer);
    assert_eq!(client.answer(), "{\"return\": 1}");
    // One that fails is not held.
    client.ask(FREEZE);
    assert_eq!(scene.guest.next(), FREEZE);
    scene.guest.refuse("it is frozen");
    assert!(client.answer().contains("it is frozen"));
    drop(scene.guest);
}

#[test]
fn a_thaw_is_held_until_it_is_released() {
    let mut scene = Scene::new();
    let mut client = scene.client();
    scene.proxy.hold(Holds { freeze_answer: Duration::ZERO, thaw: LONG });
    // Nothing is frozen yet, and nothing is held.
    client.ask(THAW);
    assert_eq!(scene.guest.next(), THAW);
    scene.guest.put("0");
    assert_eq!(client.answer(), "{\"return\": 0}");
    assert!(matches!(scene.event(), WindowEvent::ThawAsked(_)));
    assert!(matches!(scene.event(), WindowEvent::ThawAnswered(_)));
    scene.freeze(&mut client);

    client.ask(THAW);
    client.ask("guest-info");
    let WindowEvent::ThawAsked(asked) = scene.event() else { panic!("another event") };
    // What the harness asks passes it.
    let asking = spawn(move || (scene.proxy.is_frozen(LONG), scene.proxy));
    assert_eq!(scene.guest.next(), "guest-fsfreeze-status");
    scene.guest.put("\"frozen\"");
    let (frozen, proxy) = asking.join().unwrap();
    assert!(frozen.unwrap());
    let released = clock::now();
    proxy.release(Held::Thaw);
    assert_eq!(scene.guest.next(), THAW);
    scene.guest.put("1");
    assert_eq!(client.answer(), "{\"return\": 1}");
    assert_eq!(scene.guest.next(), "guest-info");
    scene.guest.put("{}");
    assert_eq!(client.answer(), "{\"return\": {}}");
    let thaw = proxy.exchanges().into_iter().rfind(Exchange::is_thaw).unwrap();
    assert!(thaw.asked == asked && asked < released && thaw.sent > Some(released), "{thaw:?}");
}

#[test]
fn nothing_is_held_for_ever() {
    let mut scene = Scene::new();
    scene.proxy.hold(Holds { freeze_answer: SHORT, thaw: SHORT });
    let mut client = scene.client();
    let begin = Instant::now();
    scene.freeze(&mut client);
    assert!(begin.elapsed() >= SHORT);
    client.ask(THAW);
    // Not even when the client is gone by then.
    drop(client);
    assert_eq!(scene.guest.next(), THAW);
    assert!(begin.elapsed() >= 2 * SHORT);
    scene.guest.put("1");
    let WindowEvent::ThawAsked(_) = scene.event() else { panic!("another event") };
    let WindowEvent::ThawAnswered(thaw) = scene.event() else { panic!("another event") };
    assert_eq!(thaw.count, Some(1));
}

#[test]
fn a_guest_that_was_left_frozen_is_thawed_when_the_proxy_is_dropped() {
    for libvirt_hangs in [false, true] {
        let mut scene = Scene::new();
        let mut client = scene.client();
        scene.freeze(&mut client);
        let client = libvirt_hangs.then_some(client);
        let Scene { proxy, mut guest, .. } = scene;
        let socket = proxy.socket().to_owned();
        let dropped = spawn(move || drop(proxy));
        assert_eq!(guest.next(), THAW);
        guest.put("1");
        dropped.join().unwrap();
        assert!(guest.read().is_none());
        assert!(!socket.exists());
        drop(client);
    }
}

#[test]
fn a_freeze_without_an_answer_is_thawed_too_and_after_an_error_of_the_thaw_again() {
    let mut scene = Scene::new();
    let mut client = scene.client();
    client.ask(FREEZE);
    assert_eq!(scene.guest.next(), FREEZE);
    let thawing = thaw_beside(scene.proxy);
    scene.guest.put("1");
    assert_eq!(scene.guest.next(), THAW);
    scene.guest.refuse("fsfreeze hook has failed with status 1");
    let (thawed, proxy) = thawing.join().unwrap();
    let error = thawed.unwrap_err().to_string();
    assert_eq!(
        error,
        "the agent of the source guest cannot run guest-fsfreeze-thaw: fsfreeze hook has failed with status 1"
    );
    assert_eq!(proxy.state(), FreezeState::Unsure);
    let dropped = spawn(move || drop(proxy));
    assert_eq!(scene.guest.next(), THAW);
    scene.guest.put("0");
    dropped.join().unwrap();
}

#[test]
fn a_guest_that_is_not_frozen_gets_no_thaw() {
    let mut scene = Scene::new();
    let mut client = scene.client();
    scene.freeze(&mut client);
    client.ask(THAW);
    assert_eq!(scene.guest.next(), THAW);
    scene.guest.put("1");
    client.answer();
    let Scene { proxy, mut guest, .. } = scene;
    drop(proxy);
    assert!(guest.read().is_none());
    assert!(client.read().is_none());
}

#[test]
fn libvirt_may_come_again_and_so_may_qemu() {
    let mut scene = Scene::new();
    for _ in 0..3 {
        let mut client = scene.client();
        client.ask("guest-ping");
        assert_eq!(scene.guest.next(), "guest-ping");
        scene.guest.put("{}");
        assert_eq!(client.answer(), "{\"return\": {}}");
    }
    let mut client = scene.client();
    scene.freeze(&mut client);
    // With something on its way, so that its end is not the first that is read.
    scene.guest.write(vec![b'x'; 100_000]);
    drop(scene.guest);
    scene.guest = End::connect(&scene.proxy);
    assert!(client.is_at_end());
    assert_eq!(scene.proxy.state(), FreezeState::Thawed);
    let mut client = scene.client();
    client.ask("guest-info");
    assert_eq!(scene.guest.next(), "guest-info");
}

#[test]
fn without_a_guest_there_is_no_answer() {
    let dir = tempfile::tempdir().unwrap();
    let (proxy, _events) = AgentProxy::listen("source", &dir.path().join("agent")).unwrap();
    let begin = Instant::now();
    let error = proxy.thaw(LONG).unwrap_err().to_string();
    assert_eq!(error, "the agent of the source guest is gone: it was restarted, or the guest has ended");
    // One that goes while it is waited for.
    let guest = End::connect(&proxy);
    let thawing = thaw_beside(proxy);
    drop(guest);
    assert!(thawing.join().unwrap().0.is_err());
    assert!(begin.elapsed() < LONG);
}

#[test]
fn an_agent_that_does_not_answer_is_not_waited_for_too_long() {
    let scene = Scene::new();
    let error = scene.proxy.is_frozen(SHORT).unwrap_err().to_string();
    assert!(error.starts_with("the guest agent gave no answer within "), "{error}");
}

#[test]
fn a_client_that_reads_nothing_holds_up_nobody() {
    let mut scene = Scene::new();
    let mut idle = scene.client();
    let answer = "x".repeat(AGENT_LINE / 4 * 3);
    for _ in 0..2 {
        idle.ask("guest-info");
        assert_eq!(scene.guest.next(), "guest-info");
        scene.guest.put(&format!("\"{answer}\""));
    }
    let mut client = scene.client();
    client.ask("guest-ping");
    assert_eq!(scene.guest.next(), "guest-ping");
    scene.guest.put("{}");
    assert_eq!(client.answer(), "{\"return\": {}}");
    // It was cut off before it cost more than one answer.
    let mut got = Vec::new();
    let _ = idle.0.read_to_end(&mut got);
    assert!(got.len() < AGENT_LINE, "{}", got.len());
}

#[test]
fn a_guest_that_reads_nothing_makes_its_clients_wait() {
    let mut scene = Scene::new();
    let mut client = scene.client();
    client.0.get_mut().set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    let command =
        format!("{{\"execute\":\"guest-exec\",\"arguments\":{{\"x\":\"{}\"}}}}\n", "x".repeat(5000));
    let mut sent = 0;
    while client.0.get_mut().write_all(command.as_bytes()).is_ok() {
        sent += 1;
        assert!(sent * command.len() < 4 << 20, "it never waits");
    }
    assert!(sent > 10);
    // Another client is served all the same, and so is the harness.
    assert_eq!(scene.proxy.state(), FreezeState::Thawed);
    for _ in 0..sent {
        assert_eq!(scene.guest.next(), "guest-exec");
        scene.guest.put("{}");
    }
}

#[test]
fn a_hostile_guest_costs_little() {
    // A line without end.
    let mut scene = Scene::new();
    let mut client = scene.client();
    client.ask("guest-info");
    assert_eq!(scene.guest.next(), "guest-info");
    for _ in 0..=AGENT_LINE / 65536 {
        scene.guest.write([b'a'; 65536]);
    }
    scene.guest.write("\n");
    assert!(client.answer().contains("the guest agent's answer does not end"));
    // What is no answer, binary or not, is passed on to nobody.
    scene
        .guest
        .write(b"\x00\x01\xFE\n{}\n[1]\n\"x\"\n{\"event\": \"X\"}\n\n\n{\"return\": 1}\n{\"error\": {}}\n");
    client.ask("guest-ping");
    assert_eq!(scene.guest.next(), "guest-ping");
    scene.guest.put("{}");
    assert_eq!(client.answer(), "{\"return\": {}}");
    let words: Vec<_> = scene.told().into_iter().filter_map(|(.., what)| what).collect();
    assert_eq!(words, ["the answer does not end within 10485760 bytes", "{}"]);

    // No end at all, with and without lines: it is cut off.
    for flood in [[b'a'; 65536], [b'\n'; 65536]] {
        let mut scene = Scene::new();
        let mut client = scene.client();
        client.ask("guest-info");
        assert_eq!(scene.guest.next(), "guest-info");
        let mut sent = 0;
        while scene.guest.0.get_mut().write_all(&flood).is_ok() {
            sent += flood.len();
            assert!(sent < 2 * AGENT_NOISE, "it goes on");
        }
        assert!(client.read().is_none());
    }
}
