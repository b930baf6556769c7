//! What the table of properties calls: the last two columns of each row.

use contract::grade::Grade;
use contract::property::Property;
use contract::with_properties;

use super::ruling::Ruling;
use super::view::View;
use super::{binlog, boot, conduct, cut, disks, handed_back, order, owed, quiet, rows, tables, witness};

macro_rules! calls {
    ($($variant:ident {
        id: $id:literal,
        name: $name:literal,
        claim: $claim:literal,
        on_postgresql: $on_postgresql:literal,
        source: $source:literal,
        needs: $needs:literal,
        ceiling: $ceiling:ident,
        rank: $rank:literal,
        needed_for: $needed_for:ident,
        owed: $owed:ident,
        check: $module:ident::$function:ident,
    })*) => {
        /// Checks one property.
        pub(super) fn check(property: Property, view: &View<'_>) -> Ruling {
            match property { $(Property::$variant => $module::$function(view)),* }
        }

        /// Whether a trial owes what a property needs, before it is given this grade.
        pub(super) fn owes(view: &View<'_>, property: Property, grade: Grade) -> bool {
            match property { $(Property::$variant => owed::$owed(view, grade)),* }
        }
    };
}

with_properties!(calls);
