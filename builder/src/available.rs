//! The inputs that are available for an image today: packages of its
//! distribution, or a disk.

use std::collections::BTreeMap;
use std::panic::resume_unwind;
use std::thread;

use contract::image::{Family, Origin};
use terminal::live::Steps;
use tooling::error::Failure;

use super::apt_index::AptIndex;
use super::existing;
use super::recipe::Recipe;
use super::repositories::Repositories;
use super::store::Store;

/// Reads the package indexes of the distributions of these recipes: each once,
/// and all at the same time, because most of it is waiting.
pub(super) fn refresh(store: &Store, recipes: &[Recipe]) -> Result<(), Failure> {
    let of = |family| {
        recipes
            .iter()
            .map(|recipe| &recipe.definition)
            .filter(move |image| image.family == family && !matches!(image.origin, Origin::Existing(_)))
    };
    let apt_indexes = of(Family::Deb).map(|image| AptIndex::new(store, image));
    let apt_indexes: BTreeMap<_, _> = apt_indexes.map(|index| (index.dir().to_owned(), index)).collect();
    let repositories = of(Family::Rpm).map(|image| Repositories::new(store, image));
    let repositories: BTreeMap<_, _> =
        repositories.map(|repositories| (repositories.dir().to_owned(), repositories)).collect();
    let wait = || {
        thread::scope(|scope| {
            let apt_indexes = apt_indexes.values().map(|index| scope.spawn(|| index.refresh()));
            let repositories =
                repositories.values().map(|repositories| scope.spawn(|| repositories.refresh()));
            let threads: Vec<_> = apt_indexes.chain(repositories).collect();
            threads.into_iter().try_for_each(|one| one.join().unwrap_or_else(|panic| resume_unwind(panic)))
        })
    };
    Steps::of("packages").step("read the indexes of the distributions", wait)
}

/// What a recipe would be built of, as of the last [`refresh`]: part of its digest.
pub(super) fn packages(store: &Store, recipe: &Recipe) -> Result<String, Failure> {
    match (&recipe.definition.origin, recipe.definition.family) {
        (Origin::Existing(disk), _) => existing::state(disk),
        (_, Family::Deb) => AptIndex::new(store, &recipe.definition).packages(recipe),
        (_, Family::Rpm) => Repositories::new(store, &recipe.definition).packages(recipe),
    }
}

/// The same, if it is known already.
pub(super) fn known(store: &Store, recipe: &Recipe) -> Result<Option<String>, Failure> {
    match (&recipe.definition.origin, recipe.definition.family) {
        (Origin::Existing(disk), _) => existing::state(disk).map(Some),
        (_, Family::Deb) => AptIndex::new(store, &recipe.definition).known(recipe),
        (_, Family::Rpm) => Repositories::new(store, &recipe.definition).known(recipe),
    }
}
