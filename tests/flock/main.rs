//! Programs that know only flock(2), and mounts that do not answer: real processes beside the real daemon.
#![cfg(feature = "cli")]

#[path = "../wire/draft.rs"]
#[expect(dead_code, reason = "the tests of the socket need more of it")]
mod draft;
mod foreign;
mod fuse;
mod hung;
mod inside;
mod programs;
#[path = "../cli/util.rs"]
#[expect(dead_code, reason = "the tests of the program need more of it")]
mod util;
mod writes;
