//! Images: what a definition under `images/` requests, and what a build left
//! under `target/images/`.

mod claims;
mod definition;
mod kinds;
mod layout;
mod manifest;
mod origin;

pub use claims::{Claims, InspectionReport};
pub use definition::read::DefinitionError;
pub use definition::{Argument, Definition, Family, Layer, Mask, Packaging, Repository};
pub use kinds::{AgentChannel, Database};
pub use layout::{Bind, DiskLayout, FileSystemLayout, FsKind, LoopLayout};
pub use manifest::{AgentFacts, Boot, Disk, FileSystem, Loop, Manifest, ManifestError, Server};
pub use origin::{CloudImage, Existing, ImageSource, Origin, ServerFacts};
