//! Everything that can die, dies here: real processes, kill -9 and SIGSTOP at random moments, judged from outside by
//! what the holders wrote down under their locks.
#![cfg(feature = "cli")]

mod chaos;
mod claimants;
mod clients;
#[path = "../wire/draft.rs"]
mod draft;
mod freezes;
mod kills;
mod late;
mod names;
mod pids;
mod reuse;
mod sets;
mod subscribers;
mod torn;
#[path = "../cli/util.rs"]
#[expect(dead_code, reason = "the tests of the program need more of it")]
mod util;
mod witness;
