//! One module per command.

pub mod ctl;
pub mod export;
pub mod generate;
pub mod host;
pub mod import;
pub mod plan;
pub mod run;
pub mod serve;
