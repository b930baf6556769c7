//! When a trial owes the evidence that a property needs: the conditions in the table of
//! properties. A hook owes no recorded position, and so no roll-forward; what else may be
//! missing is what the setup does not have.

use contract::grade::Grade;

use super::probes::is_stopped;
use super::view::View;

pub(super) fn always(_: &View<'_>, _: Grade) -> bool {
    true
}

pub(super) fn with_non_transactional_tables(view: &View<'_>, _: Grade) -> bool {
    view.has_other_tables()
}

/// PostgreSQL has none that must be closed.
pub(super) fn with_tables_to_close(view: &View<'_>, _: Grade) -> bool {
    view.case.setup.quiescence.is_lock()
}

/// The transactional tables' own checks are among what the top grade rests on.
pub(super) fn with_tables_to_check(view: &View<'_>, grade: Grade) -> bool {
    grade == Grade::ApplicationConsistent || view.has_other_tables()
}

pub(super) fn with_binlog(view: &View<'_>, _: Grade) -> bool {
    view.case.setup.binlog
}

pub(super) fn with_file_systems(view: &View<'_>, _: Grade) -> bool {
    !view.case.setup.file_systems.is_empty()
}

pub(super) fn with_several_file_systems(view: &View<'_>, _: Grade) -> bool {
    view.case.setup.file_systems.len() > 1
}

/// A server that was stopped holds no lock.
pub(super) fn unless_stopped(view: &View<'_>, _: Grade) -> bool {
    !is_stopped(view)
}
