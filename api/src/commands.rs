//! One module per command.

pub mod generate;
pub mod host;
pub mod plan;
pub mod run;
