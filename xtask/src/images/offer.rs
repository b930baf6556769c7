//! What an image would be made of today, whatever it is made of: packages of
//! the one family or the other, or a disk.

use std::collections::BTreeMap;
use std::panic::resume_unwind;
use std::thread;

use contract::image::{Family, Origin};

use super::archive::Archive;
use super::existing;
use super::recipe::Recipe;
use super::repositories::Repositories;
use super::store::Store;
use crate::error::Failure;

/// Asks the distributions of these recipes what they offer today: each once,
/// and side by side, because it is mostly waiting.
pub(super) fn refresh(store: &Store, recipes: &[Recipe]) -> Result<(), Failure> {
    let of = |family| {
        recipes
            .iter()
            .map(|recipe| &recipe.definition)
            .filter(move |image| image.family == family && !matches!(image.origin, Origin::Existing(_)))
    };
    let archives = of(Family::Deb).map(|image| Archive::new(store, image));
    let archives: BTreeMap<_, _> = archives.map(|archive| (archive.dir().to_owned(), archive)).collect();
    let repositories = of(Family::Rpm).map(|image| Repositories::new(store, image));
    let repositories: BTreeMap<_, _> =
        repositories.map(|repositories| (repositories.dir().to_owned(), repositories)).collect();
    thread::scope(|scope| {
        let archives = archives.values().map(|archive| scope.spawn(|| archive.refresh()));
        let repositories = repositories.values().map(|repositories| scope.spawn(|| repositories.refresh()));
        let asked: Vec<_> = archives.chain(repositories).collect();
        asked.into_iter().try_for_each(|one| one.join().unwrap_or_else(|panic| resume_unwind(panic)))
    })
}

/// What a recipe would be built of, as of the last [`refresh`]: part of its digest.
pub(super) fn packages(store: &Store, recipe: &Recipe) -> Result<String, Failure> {
    match (&recipe.definition.origin, recipe.definition.family) {
        (Origin::Existing(disk), _) => existing::state(disk),
        (_, Family::Deb) => Archive::new(store, &recipe.definition).packages(recipe),
        (_, Family::Rpm) => Repositories::new(store, &recipe.definition).packages(recipe),
    }
}

/// The same, as far as it is known without asking anybody.
pub(super) fn known(store: &Store, recipe: &Recipe) -> Result<Option<String>, Failure> {
    match (&recipe.definition.origin, recipe.definition.family) {
        (Origin::Existing(disk), _) => existing::state(disk).map(Some),
        (_, Family::Deb) => Archive::new(store, &recipe.definition).known(recipe),
        (_, Family::Rpm) => Repositories::new(store, &recipe.definition).known(recipe),
    }
}
