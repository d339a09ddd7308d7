//! What the tests share: the platforms that have golden tables, and a parser that knows nothing of the encoder.
//! Leaves the asserts to the tests.
#![allow(dead_code, reason = "each test binary uses its part")]

pub mod aml;
pub mod cases;
pub mod check;
pub mod parse;
