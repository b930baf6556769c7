//! What a trial had the power to see, and what was not examined, as sentences.

use contract::figures::Power;
use contract::grade::Grade;
use contract::history::Quiescence;
use contract::text::quote;
use judge::verdict::Verdict;
use maud::{Markup, html};

use super::text::{count, duration, meaning};

/// Ways and properties that are shown.
const MAX_SHOWN: usize = 40;
/// Characters of one text that are shown.
const MAX_TEXT: usize = 400;

/// Both sections; nothing for a verdict without them.
pub(super) fn power(verdict: &Verdict, quiescence: Quiescence) -> Markup {
    let power = &verdict.power;
    if *power == Power::default() {
        return html! {};
    }
    let top = verdict.grade == Grade::ApplicationConsistent;
    html! {
        div class="power" {
            div {
                h3 { "What it could see" }
                ul { @for line in lines(power, verdict.timings_ms.freeze.is_some()) { li { (quote(MAX_TEXT, &line)) } } }
            }
            @if !power.not_examined.is_empty() {
                div class=(if top { "unexamined doubt" } else { "unexamined" }) {
                    h3 { "Not examined" }
                    ul {
                        @for (property, why) in power.not_examined.iter().take(MAX_SHOWN) {
                            li {
                                span class="id" title=(meaning(*property, quiescence)) { (property.id()) }
                                " " b { (property) } ": " (quote(MAX_TEXT, why))
                            }
                        }
                    }
                }
            }
        }
    }
}

fn lines(power: &Power, frozen: bool) -> Vec<String> {
    // Without a freeze, the beginning of the snapshot counts.
    let (frozen_at, called_at) = match frozen {
        true => ("the freeze returned", "the freeze was called"),
        false => ("the snapshot began", "the snapshot began"),
    };
    let flying = match power.in_flight {
        0 => format!("no write was in flight when {frozen_at}"),
        n => format!(
            "{} in flight when {frozen_at}, {} of them",
            number(n, "write"),
            number(power.transfers_in_flight, "transfer"),
        ),
    };
    let mut lines = vec![flying];
    let ways = power.in_flight_by.iter().take(MAX_SHOWN);
    lines.extend(ways.map(|(way, n)| format!("{n} of these through {}", in_words(way))));
    let acknowledged: u64 = power.acknowledged_last_second.values().fold(0, |sum, n| sum.saturating_add(*n));
    let silent = power.acknowledged_last_second.iter().filter(|(_, n)| **n == 0).count();
    lines.push(format!(
        "{} acknowledged in the last second before {called_at}{}",
        number(acknowledged, "write"),
        match silent {
            0 => String::new(),
            n => format!(", none through {n} of the ways to the server"),
        }
    ));
    lines.push(match power.silence_ms {
        Some(ms) => {
            format!("the last transfer was acknowledged {} before {called_at}", duration(ms))
        }
        None => format!("no transfer was acknowledged before {called_at}"),
    });
    lines.push(match &power.lock {
        Some(lock) => lock.clone(),
        None if frozen => "only the hook claims that the database stood still".to_owned(),
        None => "nothing shows that the database stood still".to_owned(),
    });
    if power.lock.is_none() && power.probes_over_snapshot > 0 {
        lines.push(format!(
            "{} waited from before the snapshot until after it",
            number(power.probes_over_snapshot, "COMMIT")
        ));
    }
    if let Some(ms) = power.resolution_ms {
        lines.push(format!("a difference of less than {} between two disks would not show", duration(ms)));
    }
    lines
}

/// `tcp, in the load's schema`.
fn in_words(way: &str) -> String {
    match way.rsplit_once(' ') {
        Some((door, "load")) => format!("{door}, in the load's schema"),
        Some((door, "second")) => format!("{door}, in the second schema"),
        _ => way.to_owned(),
    }
}

fn number(n: u64, one: &str) -> String {
    count(usize::try_from(n).unwrap_or(usize::MAX), one)
}
