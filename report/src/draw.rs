//! The picture of a cycle: who wrote when around its window, and what came back.

use std::collections::BTreeMap;
use std::fmt::Write;

use contract::history::{Mark, Nanos, ProbeAnswer, ProbeKind, Quiescence};
use judge::picture::{Client, Fate, Operation, Picture, ShownProbe};
use maud::{Markup, html};

use super::lanes::{self, Way};
use super::scale::{Scale, merge, rows, ticks};
use super::text::{count, duration, px};

const WIDTH: f64 = 1120.0;
const LEFT: f64 = 76.0;
const RIGHT: f64 = 12.0;
const FLAG: f64 = 17.0;
const PROBE: f64 = 28.0;
/// The heights of a row: with room for a label, and the least that can be seen.
const ROW: (f64, f64) = (17.0, 2.0);
/// A row lower than this has no label.
const LABELLED: f64 = 12.0;
/// About how high all rows together are, where there are many.
const ROWS: f64 = 480.0;
/// The most rows.
const MOST_ROWS: usize = 240;
/// About the width of a letter of the labels.
const LETTER: f64 = 6.8;
/// Operations that are drawn as bars of their own, with a word on each.
const BARS: usize = 800;
/// Bars closer than this are drawn as one: at first, and at most when there are many.
const GAP: (f64, f64) = (1.0, 64.0);
/// Probes that are drawn; an honest cycle has fewer than twenty.
const MAX_PROBES: usize = 24;
/// The size of a small picture.
const SMALL: (f64, f64) = (150.0, 22.0);

/// How much is drawn.
#[derive(Debug, Clone, Copy)]
struct Detail {
    /// Each operation as a bar of its own.
    bars: bool,
    rows: usize,
    gap: f64,
}

/// Draws the picture in at most about so many bytes: in fewer rows, and then with fewer
/// gaps, than would be too many.
pub(super) fn draw(picture: &Picture, bytes: usize) -> Markup {
    let operations: usize = picture.clients.iter().map(|client| client.operations.len()).sum();
    let bars = operations <= BARS && picture.clients.len() <= MOST_ROWS;
    let mut detail = Detail { bars, rows: MOST_ROWS.min(picture.clients.len()), gap: GAP.0 };
    loop {
        let drawn = drawn(picture, detail);
        if drawn.0.len() <= bytes || detail.gap >= GAP.1 {
            return drawn;
        }
        match detail {
            Detail { bars: true, .. } => detail.bars = false,
            Detail { rows: 2.., .. } => detail.rows /= 2,
            _ => detail.gap *= 2.0,
        }
    }
}

fn drawn(picture: &Picture, detail: Detail) -> Markup {
    let scale = Scale::new(picture.range.0, picture.range.1, LEFT, WIDTH - LEFT - RIGHT);
    let flags = flags(picture, &scale);
    let top = FLAG * (flags.iter().map(|flag| flag.row).max().unwrap_or(0) + 1) as f64 + 8.0;
    let clients = lanes::by_door(picture);
    let (ways, share) = lanes::ways(picture, &clients, detail.rows);
    let places = LanePositions::new(&ways, top);
    let stall = places.bottom + 26.0;
    let shown = picture.probes.len().min(MAX_PROBES);
    let probes = stall + 12.0 + PROBE * shown as f64;
    let apart = detail.gap / (scale.right() - LEFT) * millis(picture.range.0, picture.range.1);
    html! {
        div class="scroll" {
            svg class="window" viewBox=(format!("0 0 {WIDTH} {}", px(probes + 26.0))) role="img"
                aria-label="Writes of each client around the freeze window" {
                (held(picture, &scale, top - 4.0, probes))
                (axis(picture, &scale, top, probes))
                @for flag in &flags { (flag.line(probes)) }
                @if detail.bars { (bars(&ways, &places, &scale)) }
                @else { (joined(&ways, &places, &scale, detail.gap)) }
                @for (way, place) in ways.iter().zip(&places.ways) {
                    text class="way" x=(px(LEFT)) y=(px(place.heading)) { (way.heading) }
                    @if places.height >= LABELLED {
                        @for (row, y) in way.rows.iter().zip(&place.rows) {
                            text class="lane" x=(px(LEFT - 10.0)) y=(px(y + places.height - 4.5)) text-anchor="end" {
                                (row.label())
                            }
                        }
                    }
                }
                (stalled(picture, &scale, stall))
                @for (probe, row) in picture.probes.iter().take(shown).zip(0u32..) {
                    (probe_of(probe, picture.quiescence, &scale, stall + 12.0 + PROBE * f64::from(row)))
                }
                @for flag in &flags { (flag.label()) }
            }
        }
        (legend(picture))
        (notes(picture, detail, share, apart))
    }
}

fn notes(picture: &Picture, detail: Detail, share: usize, apart: f64) -> Markup {
    html! {
        @if share > 1 {
            p class="note" { (count(picture.clients.len(), "client")) ", up to " (share) " in each row." }
        }
        @if !detail.bars { p class="note" { "Bars less than " (duration(apart)) " apart are drawn as one." } }
        @if picture.probes.len() > MAX_PROBES {
            p class="note" { (picture.probes.len() - MAX_PROBES) " more probes are in history.jsonl." }
        }
        @if let Some(why) = &picture.unobserved {
            p class="note bad" { "It is not known what was restored: " (why) "." }
        }
        @if !picture.complete {
            p class="note bad" { "The history breaks off: silence at the end of the picture means nothing." }
        }
    }
}

/// All clients in one row, as large as a word.
pub(super) fn small(picture: &Picture) -> Markup {
    let (width, height) = SMALL;
    let scale = Scale::new(picture.range.0, picture.range.1, 0.0, width);
    let mut paths: BTreeMap<Fate, Vec<_>> = BTreeMap::new();
    for operation in picture.clients.iter().flat_map(|client| &client.operations) {
        paths.entry(operation.fate).or_default().push(ends(operation, &scale));
    }
    html! {
        svg class="small" viewBox=(format!("0 0 {width} {height}")) width=(width) height=(height) aria-hidden="true" {
            (held(picture, &scale, 0.0, height))
            @for (fate, spans) in paths {
                path class=(class(fate)) d=(boxes(merge(spans, GAP.0), 5.0, height - 10.0)) {}
            }
        }
    }
}

/// Where the rows stand.
struct LanePositions {
    /// Of a row.
    height: f64,
    ways: Vec<WayPosition>,
    bottom: f64,
}

struct WayPosition {
    /// The foot of the heading.
    heading: f64,
    /// The head of each row.
    rows: Vec<f64>,
}

impl LanePositions {
    fn new(ways: &[Way<'_>], top: f64) -> Self {
        let rows: usize = ways.iter().map(|way| way.rows.len()).sum();
        let height = (ROWS / rows.max(1) as f64).clamp(ROW.1, ROW.0);
        let mut bottom = top;
        let place = |way: &Way<'_>| {
            let heading = bottom + 13.0;
            let first = heading + 5.0;
            let rows: Vec<_> =
                (0u32..).zip(&way.rows).map(|(at, _)| first + height * f64::from(at)).collect();
            bottom = first + height * rows.len() as f64 + 3.0;
            WayPosition { heading, rows }
        };
        let ways = ways.iter().map(place).collect();
        Self { height, ways, bottom }
    }

    /// The head and the height of a bar in the row that begins at `y`.
    fn bar(&self, y: f64) -> (f64, f64) {
        let height = (self.height * 0.55).max(self.height - 2.0).clamp(1.5, 9.0);
        (y + (self.height - height) / 2.0, height)
    }

    /// Each row with its place.
    fn rows<'a>(&self, ways: &'a [Way<'a>]) -> impl Iterator<Item = (&'a lanes::Lane<'a>, f64, f64)> {
        ways.iter().zip(&self.ways).flat_map(|(way, place)| way.rows.iter().zip(&place.rows)).map(
            |(row, y)| {
                let (y, height) = self.bar(*y);
                (row, y, height)
            },
        )
    }
}

fn held(picture: &Picture, scale: &Scale, top: f64, bottom: f64) -> Markup {
    let Some((from, to)) = picture.window else { return html! {} };
    let (x, width) = (scale.x(from), (scale.x(to) - scale.x(from)).max(1.0));
    html! {
        rect class="held" x=(px(x)) y=(px(top)) width=(px(width)) height=(px(bottom - top)) {
            title { "the freeze window: " (duration(millis(from, to))) }
        }
    }
}

fn axis(picture: &Picture, scale: &Scale, top: f64, bottom: f64) -> Markup {
    let origin = picture.marks.first().map_or(picture.range.0, |(_, t)| *t);
    html! {
        line class="axis" x1=(px(LEFT)) x2=(px(scale.right())) y1=(px(bottom)) y2=(px(bottom)) {}
        @for (t, label) in ticks(picture.range.0, picture.range.1, origin) {
            @let anchor = if scale.x(t) > scale.right() - 25.0 { "end" } else { "middle" };
            @let x = px(scale.x(t));
            line class="grid" x1=(x) x2=(x) y1=(px(top - 4.0)) y2=(px(bottom + 4.0)) {}
            text class="tick" x=(x) y=(px(bottom + 18.0)) text-anchor=(anchor) { (label) }
        }
    }
}

fn ends(operation: &Operation, scale: &Scale) -> (f64, f64) {
    let x = scale.x(operation.from);
    (x, scale.x(operation.to).max(x + 1.0))
}

/// Every operation for itself; what matters most comes last, on top.
fn bars(ways: &[Way<'_>], places: &LanePositions, scale: &Scale) -> Markup {
    let mut fates: BTreeMap<Fate, Vec<Markup>> = BTreeMap::new();
    for (row, y, height) in places.rows(ways) {
        for (client, operation) in row.operations() {
            let bar = bar(client, operation, scale, y, height);
            fates.entry(operation.fate).or_default().push(bar);
        }
    }
    html! { @for (fate, bars) in fates { g class=(class(fate)) { @for bar in bars { (bar) } } } }
}

fn bar(client: &Client, operation: &Operation, scale: &Scale, y: f64, height: f64) -> Markup {
    let (from, to) = ends(operation, scale);
    let what = if client.table.is_none() { "transfer" } else { "row" };
    html! {
        rect x=(px(from)) y=(px(y)) width=(px(to - from)) height=(px(height)) {
            title {
                "client " (client.number) ", " (what) @if let Some(n) = operation.number { " " (n) } ", "
                (duration(millis(operation.from, operation.to))) ": " (meaning(operation.fate))
            }
        }
    }
}

/// All operations of a fate as one path.
fn joined(ways: &[Way<'_>], places: &LanePositions, scale: &Scale, gap: f64) -> Markup {
    let mut paths: BTreeMap<Fate, String> = BTreeMap::new();
    for (row, y, height) in places.rows(ways) {
        let mut spans: BTreeMap<Fate, Vec<_>> = BTreeMap::new();
        for (_, operation) in row.operations() {
            spans.entry(operation.fate).or_default().push(ends(operation, scale));
        }
        for (fate, spans) in spans {
            paths.entry(fate).or_default().push_str(&boxes(merge(spans, gap), y, height));
        }
    }
    html! { @for (fate, path) in paths { path class=(class(fate)) d=(path) {} } }
}

fn boxes(spans: Vec<(f64, f64)>, y: f64, height: f64) -> String {
    spans.into_iter().fold(String::new(), |mut path, (from, to)| {
        let width = px((to - from).max(0.5));
        // Writing to a string cannot fail.
        let _ = write!(path, "M{} {}h{width}v{}h-{width}z", px(from), px(y), px(height));
        path
    })
}

fn stalled(picture: &Picture, scale: &Scale, y: f64) -> Markup {
    let Some(stall) = picture.stall else { return html! {} };
    let (a, b) = (scale.x(stall.from), scale.x(stall.to));
    let least = if stall.whole { "" } else { "at least " };
    let label = format!("no transfer acknowledged for {least}{}", duration(millis(stall.from, stall.to)));
    let half = LETTER * label.chars().count() as f64 / 2.0;
    let middle = ((a + b) / 2.0).clamp(LEFT + half, (scale.right() - half).max(LEFT + half));
    // An end without a tick lies outside.
    let ticks = [(a, stall.from >= picture.range.0), (b, stall.to <= picture.range.1)];
    let ticks = ticks.iter().filter(|(_, inside)| *inside);
    let ticks: String = ticks.map(|(x, _)| format!("M{} {}v8", px(*x), px(y - 12.0))).collect();
    html! {
        path class="stall" d=(format!("M{} {}H{}{ticks}", px(a), px(y - 8.0), px(b))) {}
        text class="stall" x=(px(middle)) y=(px(y + 5.0)) text-anchor="middle" { (label) }
    }
}

fn probe_of(probe: &ShownProbe, quiescence: Quiescence, scale: &Scale, y: f64) -> Markup {
    let (a, b) = (scale.x(probe.from), scale.x(probe.to));
    let class = match probe.answer {
        ProbeAnswer::Locked => "locked",
        // Without a lock, no answer is what shows that commits are kept out.
        ProbeAnswer::Hung if !quiescence.is_lock() && probe.kind == ProbeKind::Commit => "locked",
        // Not every lock that makes a good backup refuses this one.
        ProbeAnswer::Done if probe.kind == ProbeKind::Memory => "error",
        ProbeAnswer::Done | ProbeAnswer::Released => "done",
        ProbeAnswer::Hung | ProbeAnswer::Gone => "hung",
        ProbeAnswer::Refused | ProbeAnswer::Cut | ProbeAnswer::Error | ProbeAnswer::Unseen => "error",
    };
    let label = format!("{} {}", probe.asks, probe.says);
    // Above its bar, where nothing else is.
    let x = a.min(scale.right() - LETTER * label.chars().count() as f64).max(LEFT);
    html! {
        g class=(format!("probe {class}")) {
            text class="lane" x=(px(LEFT - 10.0)) y=(px(y + 12.0)) text-anchor="end" { "probe" }
            rect x=(px(a)) y=(px(y + 16.0)) width=(px((b - a).max(3.0))) height="7" rx="2" {
                title { (label) ", " (duration(millis(probe.from, probe.to))) }
            }
            text x=(px(x)) y=(px(y + 12.0)) { (label) }
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

fn flags(picture: &Picture, scale: &Scale) -> Vec<Flag> {
    let mut flags: Vec<Flag> = picture
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

fn legend(picture: &Picture) -> Markup {
    html! {
        ul class="legend" {
            @for (fate, (transfers, rows)) in lanes::fates(picture).into_iter().rev() {
                li {
                    span class=(format!("chip {}", class(fate))) {}
                    @if transfers > 0 { (count(transfers, "transfer")) }
                    @if transfers > 0 && rows > 0 { " and " }
                    @if rows > 0 { (count(rows, "row")) }
                    " " (meaning(fate))
                }
            }
        }
    }
}

fn class(fate: Fate) -> &'static str {
    match fate {
        Fate::Restored => "restored",
        Fate::Lost | Fate::Torn | Fate::Future | Fate::Missed | Fate::UnderLock => "lost",
        Fate::Later | Fate::NotObserved => "later",
        Fate::Open => "open",
        Fate::RolledBack => "rolled",
    }
}

fn meaning(fate: Fate) -> &'static str {
    match fate {
        Fate::Restored => "restored",
        Fate::Lost => "acknowledged before the snapshot, but lost",
        Fate::Missed => "acknowledged before the thaw, but not in the backup",
        Fate::Torn => "half restored",
        Fate::Future => "restored, although sent after the snapshot",
        Fate::UnderLock => "restored, although sent after the freeze had returned",
        Fate::Later => "not restored, and not owed",
        Fate::Open => "not restored, and never answered",
        Fate::NotObserved => "that no complete observation covers",
        Fate::RolledBack => "rolled back by the server",
    }
}

fn millis(from: Nanos, to: Nanos) -> f64 {
    to.saturating_sub(from) as f64 / 1e6
}
