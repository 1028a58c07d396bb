//! flockd is file locks for a flock of agents: shared and exclusive leases on files, directories and names, that
//! survive the restart of an agent and of the daemon that keeps them.
//!
//! A program connects to the daemon of its home, which is started if need be, and asks for locks:
//!
//! ```no_run
//! use flockd::client::{Client, Connect, Custodian, Launch, Place};
//! use flockd::model::Agent;
//! use flockd::os::home::Home;
//! use flockd::wire::{Op, Request};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::connect(Connect {
//!     home: Home::from_env()?,
//!     launch: Launch::With("flockd".into()),
//!     agent: Some(Agent::new("claw-1")?),
//!     place: Place::here()?,
//!     session: Some(Custodian::Library),
//! })?;
//! let request = Request { scope: Some("data.json".into()), wait_ms: Some(25_000), ..Request::new(Op::Lock) };
//! let lock = client.lock(request)?;
//! match lock.lock_id {
//!     Some(lock_id) => {
//!         // data.json is ours alone until it is unlocked, or `client` is dropped and the lease has run out.
//!         client.unlock(&lock_id)?;
//!     }
//!     None => println!("{}", lock.advice.unwrap_or_default()),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # How data flows
//!
//! One way: bytes → [`wire::Request`] → [`model::Command`] → [`table::Step`] → [`journal`] → [`model::Reply`] → bytes.
//! One thread does all of it. Nothing is answered before it is written; a grant that outlives its holder not before it
//! is synced.
//!
//! # Layers
//!
//! In the order of dependency; a module names only modules above it, and `tests/tidy.rs` holds that true.
//!
//! - words: [`model`], [`scope`], [`limits`]. Nouns, what overlaps what, every bound with its reason.
//! - decide: [`table`]. All rules, pure and deterministic.
//! - remember: [`journal`]. An append-only log in front of a store.
//! - run: [`clock`], [`coordinator`]. The only owner of state.
//! - carry: [`wire`], [`os`], [`server`], [`client`]. Messages, the operating system, connections.
//! - doors: [`daemon`], and the program's command line behind the feature `cli`.

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
