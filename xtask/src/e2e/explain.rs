//! What a property of a verdict means.

use contract::property::Property;
use contract::text::quote;
use terminal::results;
use tooling::error::Failure;

/// Characters of a wrong name that are shown.
const MAX_NAME: usize = 60;

/// Explains the property with this letter or name.
pub(super) fn print(name: &str) -> Result<(), Failure> {
    let is_it = |it: &Property| it.name() == name || it.id().eq_ignore_ascii_case(name);
    let Some(property) = Property::ALL.into_iter().find(is_it) else {
        let all: Vec<_> = Property::ALL.iter().map(|it| format!("  {:3} {it}", it.id())).collect();
        return Err(Failure::Usage(format!(
            "there is no property `{}`. There are:\n{}",
            quote(MAX_NAME, name),
            all.join("\n")
        )));
    };
    results::line(format_args!("{property} ({})", property.id()));
    results::line(property.claim());
    results::line(format_args!("On PostgreSQL: {}", property.on_postgresql()));
    results::line("");
    results::line(format_args!("Why it can be required: {}", property.source()));
    results::line(format_args!("Evidence that it needs: {}.", property.needs()));
    if property.is_conduct() {
        results::line("It is about what a backup tool does, and lowers no grade.");
    } else {
        results::line(format_args!("A backup that breaks it is {} at best.", property.ceiling()));
    }
    Ok(())
}
