//! A guest that a backup command has left frozen.

use contract::history::{Leftover, LeftoverKind, Nanos};
use contract::plan::Limits;

use super::tool_host::ToolHost;
use crate::guest::agent_proxy::{By, FreezeState};

/// Thaws the guest if a command has left it frozen, or will have: a freeze that it asked for may still be under way.
/// `None` when it was not, or nobody could tell.
pub(super) fn thaw(host: &ToolHost, begun: Nanos, limits: &Limits) -> Option<Leftover> {
    let proxy = &host.proxy;
    let frozen = match proxy.state() {
        FreezeState::Frozen(_) => true,
        // The agent may know more, and does not answer where it hangs or is gone.
        FreezeState::Thawed => proxy.is_frozen(limits.agent).unwrap_or(false),
        FreezeState::Unsure => proxy.is_frozen(limits.freeze + limits.agent).unwrap_or(true),
    };
    if !frozen {
        return None;
    }
    let thawed = proxy.thaw(limits.thaw * 2);
    let exchanges = proxy.exchanges();
    let since = exchanges.iter().rfind(|it| it.is_freeze() && it.error.is_none() && it.asked >= begun);
    let until = exchanges.iter().rfind(|it| it.is_thaw() && it.by == By::Harness && it.asked >= begun);
    let detail = match &thawed {
        Ok(count) => format!("the harness thawed {count} file systems"),
        Err(error) => format!("the harness could not thaw it: {error}"),
    };
    let (since, until) = (since.and_then(|it| it.answered), until.and_then(|it| it.answered));
    Some(Leftover { kind: LeftoverKind::FrozenGuest, detail, since, until: until.filter(|_| thawed.is_ok()) })
}
