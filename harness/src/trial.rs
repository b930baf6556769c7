//! Trials: what runs. One pass of one plan through the pipeline.

mod pipeline;
mod progress;
pub mod supervise;

pub use pipeline::run;
