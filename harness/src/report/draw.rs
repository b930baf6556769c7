//! The picture of the freeze window: who wrote when, and what came back.

use std::collections::BTreeMap;
use std::fmt::Write;

use maud::{Markup, html};

use super::scale::{Scale, merge, rows, ticks};
use super::text::{count, duration, px};
use super::window::{Fate, Probe, Transfer, Window};
use crate::history::{Mark, Nanos, ProbeAnswer, ProbeKind};

const WIDTH: f64 = 1120.0;
const LEFT: f64 = 76.0;
const RIGHT: f64 = 12.0;
const FLAG: f64 = 17.0;
const LANE: f64 = 17.0;
const BAR: f64 = 9.0;
const PROBE: f64 = 22.0;
/// About the width of a letter of the labels.
const LETTER: f64 = 6.8;
/// Bars nearer than this cannot be told apart, and are drawn as one.
const GAP: f64 = 1.0;

/// Draws the window with at most about `most` bars of their own; more than
/// that are merged where they cannot be told apart.
pub(super) fn draw(window: &Window, most: usize) -> Markup {
    let scale = Scale::new(window.range.0, window.range.1, LEFT, WIDTH - LEFT - RIGHT);
    let flags = flags(window, &scale);
    let top = FLAG * (flags.iter().map(|flag| flag.row).max().unwrap_or(0) + 1) as f64 + 8.0;
    let lanes = top + LANE * f64::from(window.clients.1.max(1));
    let stall = lanes + 26.0;
    let probes = stall + 12.0 + PROBE * window.probes.len() as f64;
    let height = probes + 26.0;
    let merged = window.transfers.len() > most;
    html! {
        div class="scroll" {
            svg class="window" viewBox=(format!("0 0 {WIDTH} {}", px(height))) role="img"
                aria-label="Transfers of each client around the freeze window" {
                (held(window, &scale, top, probes))
                (axis(window, &scale, top, probes))
                @for flag in &flags { (flag.line(probes)) }
                @for client in 1..=window.clients.1 {
                    @let y = top + LANE * f64::from(client - 1);
                    text class="lane" x=(px(LEFT - 10.0)) y=(px(y + 12.5)) text-anchor="end" { "client " (client) }
                }
                path class="follower" d=(followers(window, &scale, top, false)) {}
                path class="lost" d=(followers(window, &scale, top, true)) {}
                @for ((fate, client), bars) in lanes_of(window) {
                    @let y = lane(top, client);
                    @if merged {
                        path class=(class(fate)) d=(joined(&bars, &scale, y)) {}
                    } @else {
                        g class=(class(fate)) { @for bar in bars { (bar_of(bar, &scale, y)) } }
                    }
                }
                (stalled(window, &scale, stall))
                @for (probe, row) in window.probes.iter().zip(0u32..) {
                    (probe_of(probe, &scale, stall + 12.0 + PROBE * f64::from(row)))
                }
                @for flag in &flags { (flag.label()) }
            }
        }
        (legend(window))
        @if merged {
            p class="note" {
                (count(window.transfers.len(), "transfer")) " touch this picture: bars that cannot be told "
                "apart are drawn as one."
            }
        }
        @if window.clients.0 > window.clients.1 {
            p class="note" { "The first " (window.clients.1) " of " (window.clients.0) " clients are shown." }
        }
        @if window.left_out > 0 {
            p class="note bad" {
                "Too many to draw: the picture lacks its last " (count(window.left_out, "operation"))
                ", so that silence at its end means nothing."
            }
        }
    }
}

fn lane(top: f64, client: u32) -> f64 {
    top + LANE * f64::from(client.saturating_sub(1)) + (LANE - BAR) / 2.0
}

fn held(window: &Window, scale: &Scale, top: f64, bottom: f64) -> Markup {
    let Some((from, to)) = window.held() else { return html! {} };
    let (x, width) = (scale.x(from), (scale.x(to) - scale.x(from)).max(1.0));
    html! {
        rect class="held" x=(px(x)) y=(px(top - 4.0)) width=(px(width)) height=(px(bottom - top + 4.0)) {
            title { "the freeze window: " (duration(millis(from, to))) }
        }
    }
}

fn axis(window: &Window, scale: &Scale, top: f64, bottom: f64) -> Markup {
    let origin = window.marks.first().map_or(window.range.0, |(_, t)| *t);
    html! {
        line class="axis" x1=(px(LEFT)) x2=(px(scale.right())) y1=(px(bottom)) y2=(px(bottom)) {}
        @for (t, label) in ticks(window.range.0, window.range.1, origin) {
            @let x = px(scale.x(t));
            line class="grid" x1=(x) x2=(x) y1=(px(top - 4.0)) y2=(px(bottom + 4.0)) {}
            text class="tick" x=(x) y=(px(bottom + 18.0)) text-anchor="middle" { (label) }
        }
    }
}

/// The transfers of each fate and client; what matters most comes last, on top.
fn lanes_of(window: &Window) -> BTreeMap<(Fate, u32), Vec<&Transfer>> {
    let mut lanes: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for transfer in &window.transfers {
        lanes.entry((transfer.fate, transfer.client)).or_default().push(transfer);
    }
    lanes
}

fn ends(transfer: &Transfer, scale: &Scale) -> (f64, f64) {
    let x = scale.x(transfer.from);
    (x, scale.x(transfer.to).max(x + 1.0))
}

fn bar_of(transfer: &Transfer, scale: &Scale, y: f64) -> Markup {
    let (from, to) = ends(transfer, scale);
    html! {
        rect x=(px(from)) y=(px(y)) width=(px(to - from)) height=(px(BAR)) {
            title {
                "client " (transfer.client) ", transfer " (transfer.number) ", "
                (duration(millis(transfer.from, transfer.to))) ": " (meaning(transfer.fate))
            }
        }
    }
}

fn joined(transfers: &[&Transfer], scale: &Scale, y: f64) -> String {
    let bars = transfers.iter().map(|transfer| ends(transfer, scale)).collect();
    boxes(merge(bars, GAP), y, BAR)
}

/// The rows in non-transactional tables, either those that are lost or the
/// others: a thin line in each lane.
fn followers(window: &Window, scale: &Scale, top: f64, lost: bool) -> String {
    let mut lanes: BTreeMap<u32, Vec<_>> = BTreeMap::new();
    for row in window.followers.iter().filter(|row| (row.fate == Fate::Lost) == lost) {
        lanes.entry(row.client).or_default().push(ends(row, scale));
    }
    let lines = lanes
        .into_iter()
        .map(|(client, spans)| boxes(merge(spans, GAP), lane(top, client) + BAR / 2.0 - 1.0, 2.0));
    lines.collect()
}

fn boxes(spans: Vec<(f64, f64)>, y: f64, height: f64) -> String {
    spans.into_iter().fold(String::new(), |mut path, (from, to)| {
        let width = px((to - from).max(0.5));
        // Writing to a string cannot fail.
        let _ = write!(path, "M{} {}h{width}v{}h-{width}z", px(from), px(y), px(height));
        path
    })
}

fn stalled(window: &Window, scale: &Scale, y: f64) -> Markup {
    let Some((from, to, whole)) = window.stall() else { return html! {} };
    let (a, b) = (scale.x(from), scale.x(to));
    let least = if whole { "" } else { "at least " };
    let label = format!("no write acknowledged for {least}{}", duration(millis(from, to)));
    let half = LETTER * label.chars().count() as f64 / 2.0;
    let middle = ((a + b) / 2.0).clamp(LEFT + half, (scale.right() - half).max(LEFT + half));
    html! {
        path class="stall" d=(format!("M{0} {1}v8M{0} {2}H{3}M{3} {1}v8", px(a), px(y - 12.0), px(y - 8.0), px(b))) {}
        text class="stall" x=(px(middle)) y=(px(y + 5.0)) text-anchor="middle" { (label) }
    }
}

fn probe_of(probe: &Probe, scale: &Scale, y: f64) -> Markup {
    let (a, b) = (scale.x(probe.from), scale.x(probe.to));
    let (what, memory) = match probe.kind {
        ProbeKind::Memory => ("MEMORY table", true),
        ProbeKind::Commit => ("COMMIT", false),
        ProbeKind::Row => ("INSERT", false),
    };
    let (class, answer) = match probe.answer {
        ProbeAnswer::Locked => ("locked", "a lock held it back"),
        // Not every lock that makes a good backup refuses this one.
        ProbeAnswer::Done if memory => ("error", "executed, which only a global read lock would refuse"),
        ProbeAnswer::Done => ("done", "executed: nothing held it back"),
        ProbeAnswer::Released => ("done", "the lock was released"),
        ProbeAnswer::Hung => ("hung", "hung below the locks"),
        ProbeAnswer::Refused => ("error", "refused, but by no lock"),
        ProbeAnswer::Cut => ("error", "its connection was cut"),
        ProbeAnswer::Gone => ("hung", "there was no server"),
        ProbeAnswer::Error => ("error", "another error, which says nothing"),
    };
    let label = format!("{what}: {answer}");
    let width = LETTER * label.chars().count() as f64;
    let (x, anchor) = if b + 8.0 + width < scale.right() {
        (b + 8.0, "start")
    } else if a - 8.0 - width > LEFT {
        (a - 8.0, "end")
    } else {
        (LEFT + 4.0, "start")
    };
    html! {
        g class=(format!("probe {class}")) {
            text class="lane" x=(px(LEFT - 10.0)) y=(px(y + 14.0)) text-anchor="end" { "probe" }
            rect x=(px(a)) y=(px(y + 5.0)) width=(px((b - a).max(3.0))) height="10" rx="2" {
                title { (label) ", " (duration(millis(probe.from, probe.to))) }
            }
            text x=(px(x)) y=(px(y + 14.0)) text-anchor=(anchor) { (label) }
        }
    }
}

/// A mark's label above the picture, and its line through it.
struct Flag {
    x: f64,
    row: usize,
    /// Whether the label stands left of its line.
    left: bool,
    class: &'static str,
    letter: &'static str,
    says: &'static str,
}

fn flags(window: &Window, scale: &Scale) -> Vec<Flag> {
    let mut flags: Vec<Flag> = window
        .marks
        .iter()
        .map(|(mark, t)| {
            let (class, letter, says) = described(*mark);
            Flag { x: scale.x(*t), row: 0, left: false, class, letter, says }
        })
        .collect();
    let spans: Vec<_> = flags
        .iter_mut()
        .map(|flag| {
            let width = 14.0 + LETTER * (flag.letter.len() + 1 + flag.says.len()) as f64;
            flag.left = flag.x + width > scale.right();
            if flag.left { (flag.x - width, flag.x + 2.0) } else { (flag.x, flag.x + width) }
        })
        .collect();
    for (flag, row) in flags.iter_mut().zip(rows(&spans)) {
        flag.row = row;
    }
    flags
}

impl Flag {
    fn line(&self, bottom: f64) -> Markup {
        let (x, y) = (px(self.x), px(FLAG * self.row as f64 + 1.0));
        html! { line class=(format!("mark {}", self.class)) x1=(x) x2=(x) y1=(y) y2=(px(bottom)) {} }
    }

    fn label(&self) -> Markup {
        let y = px(FLAG * self.row as f64 + 12.0);
        let (x, anchor) = if self.left { (self.x - 5.0, "end") } else { (self.x + 5.0, "start") };
        html! {
            text class=(format!("mark {}", self.class)) x=(px(x)) y=(y) text-anchor=(anchor) {
                tspan class="letter" { (self.letter) } " " (self.says)
            }
        }
    }
}

fn described(mark: Mark) -> (&'static str, &'static str, &'static str) {
    match mark {
        Mark::FreezeCall => ("freeze", "F0", "freeze called"),
        Mark::FreezeOk => ("freeze", "F1", "frozen"),
        Mark::FreezeErr => ("failed", "F1", "freeze failed"),
        Mark::SnapBegin => ("snap", "S0", "snapshot begins"),
        Mark::SnapEnd => ("snap", "S1", "snapshot complete"),
        Mark::ThawCall => ("freeze", "T0", "thaw called"),
        Mark::ThawOk => ("freeze", "T1", "thawed"),
        Mark::ThawErr => ("failed", "T1", "thaw failed"),
    }
}

fn legend(window: &Window) -> Markup {
    let mut fates: BTreeMap<Fate, usize> = BTreeMap::new();
    for transfer in &window.transfers {
        *fates.entry(transfer.fate).or_default() += 1;
    }
    let lost_rows = window.followers.iter().filter(|row| row.fate == Fate::Lost).count();
    html! {
        ul class="legend" {
            @for (fate, n) in fates.iter().rev() {
                li { span class=(format!("chip {}", class(*fate))) {} (n) " " (meaning(*fate)) }
            }
            @if lost_rows > 0 {
                li { span class="chip lost line" {} (count(lost_rows, "row")) " in non-transactional tables lost" }
            }
            @if window.followers.len() > lost_rows {
                li { span class="chip follower line" {} "rows in non-transactional tables" }
            }
        }
    }
}

fn class(fate: Fate) -> &'static str {
    match fate {
        Fate::Restored => "restored",
        Fate::Lost | Fate::Torn | Fate::Future => "lost",
        Fate::Later | Fate::NotObserved => "later",
        Fate::Unknown => "open",
        Fate::RolledBack => "rolled",
    }
}

fn meaning(fate: Fate) -> &'static str {
    match fate {
        Fate::Restored => "restored",
        Fate::Lost => "acknowledged before the snapshot, but lost",
        Fate::Torn => "restored by half",
        Fate::Future => "restored, though sent after the snapshot",
        Fate::Later => "not restored, being acknowledged after the snapshot began",
        Fate::Unknown => "not restored, and never answered",
        Fate::NotObserved => "without a complete observation to compare with",
        Fate::RolledBack => "rolled back by the server",
    }
}

fn millis(from: Nanos, to: Nanos) -> f64 {
    to.saturating_sub(from) as f64 / 1e6
}
