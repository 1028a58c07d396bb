//! The library as programs use it: real coordinators, sockets, processes and files.
#![cfg(feature = "cli")]

mod daemon;
mod embedded;
mod events;
mod examples;
mod families;
mod guards;
mod losses;
mod sessions;
mod sets;
mod stats;
mod upgrades;
mod util;
