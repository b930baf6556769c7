//! What a property of a verdict means.

use contract::property::Property;
use contract::say;
use contract::text::quote;

use crate::error::Failure;

/// Characters of a wrong name that are shown.
const MAX_NAME: usize = 60;

/// Prints what there is to say of the property with this letter or name.
pub(super) fn print(name: &str) -> Result<(), Failure> {
    let is_it = |it: &Property| it.name() == name || it.id().eq_ignore_ascii_case(name);
    let Some(property) = Property::ALL.into_iter().find(is_it) else {
        let all: Vec<_> = Property::ALL.iter().map(|it| format!("  {:3} {it}", it.id())).collect();
        return Err(Failure::Question(format!(
            "there is no property `{}`. There are:\n{}",
            quote(MAX_NAME, name),
            all.join("\n")
        )));
    };
    say!("{property} ({})", property.id());
    say!("{}", property.claim());
    say!("");
    say!("Why this can be asked: {}", property.source());
    say!("Evidence that it needs: {}.", property.needs());
    say!("A backup that breaks it is {} at best.", property.ceiling());
    Ok(())
}
