//! flockd: file locks for a flock of agents.

// What only a library owes; lints for every target stand in Cargo.toml.
#![warn(
    clippy::unwrap_used,  // `expect` says why it cannot fail
    clippy::print_stdout, // stdout belongs to the caller: only cli/ and sim/ speak there
    clippy::print_stderr, // so does stderr: a library returns its errors
)]
// The bans of clippy.toml are judged in the build without tests: a test may ask std for what ours is compared with.
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "a test compares with std's own answer"))]

#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
pub mod client;
pub mod clock;
pub mod coordinator;
pub mod daemon;
pub mod journal;
pub mod limits;
pub mod model;
pub mod os;
pub mod scope;
pub mod server;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod sim;
pub mod table;
pub mod wire;
