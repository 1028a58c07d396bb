//! `flockd hook` as coding agents call it: their payloads on stdin, their answers and exit statuses, a real daemon.
#![cfg(feature = "cli")]

mod client;
mod commands;
mod failures;
mod identity;
mod losses;
mod outcomes;
mod plugin;
mod turns;
#[path = "../cli/util.rs"]
#[expect(dead_code, reason = "the tests of the program need more of it")]
mod util;
