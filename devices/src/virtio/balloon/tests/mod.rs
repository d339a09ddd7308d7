//! Tests of the balloon: what is known of its pages, and what a driver sees of it.

mod device;
mod hostile;
mod pages;
mod restore;
mod state;
