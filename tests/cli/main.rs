//! The program as its users run it: real processes, a real daemon for each test, and kill -9.
#![cfg(feature = "cli")]

mod advisory;
mod daemon;
mod deadlock;
mod elect;
mod errors;
mod events;
mod families;
mod help;
mod locks;
mod patterns;
mod restart;
mod run;
mod sets;
mod stats;
mod storm;
mod tickets;
mod util;
mod violations;
mod write;
