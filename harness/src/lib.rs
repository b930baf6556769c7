//! Freezeframe proves, on real virtual machines, whether a VM backup is
//! application-consistent.
//!
//! A *trial* takes one [`scenario`] and one [`image`] through one pipeline:
//! boot, load, freeze, snapshot, thaw, restore, observe, judge. Every stage
//! writes plain JSON lines with one clock; the [`judge`] is a pure function of
//! those files.
//!
//! The modules below stand in the order of the pipeline. Those that touch a
//! guest need the `vm` feature (and libvirt's headers); the rest checks
//! scenario files and judges trial directories anywhere.

pub mod jsonl;

pub mod image;
pub mod plan;
pub mod scenario;

pub mod history;
pub mod judge;
pub mod observation;
pub mod verdict;
