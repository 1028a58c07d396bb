//! The socket as any program finds it: raw lines, right ones and wrong ones, and what others notice of it.
#![cfg(feature = "cli")]

mod cancels;
mod crowd;
mod draft;
mod golden;
mod lines;
mod raw;
mod sessions;
#[path = "../cli/util.rs"]
#[expect(dead_code, reason = "the tests of the program need more of it")]
mod util;
mod writes;
