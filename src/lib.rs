//! flockd: file locks for a flock of agents.
//!
//! Agents that work on the same files take locks first: [shared](LockRequest::shared) to read together,
//! [exclusive](LockRequest::exclusive) to write alone. Locks are kept by a small daemon in a journal, so that they
//! outlive the restart of an agent, or of the daemon. Who waits is served in the order of arrival and woken at once;
//! who would wait for ever is told the cycle instead. Processes that ignore the locks are not stopped by them.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! // Finds the daemon of this user, or starts it.
//! let client = flockd::Client::connect()?;
//! let session = client.agent("claw-1")?;
//!
//! match session.lock("data.json").wait(Duration::from_secs(30)).note("adding a row").acquire() {
//!     Ok(guard) => {
//!         // Read, change and write the file here.
//!         guard.release()?; // tells if the lock was lost meanwhile; a dropped guard releases, too
//!     }
//!     Err(flockd::LockError::Refused(refusal)) => {
//!         // Who has it, since when, why, and what to do.
//!         eprintln!("{refusal}");
//!         for holder in &refusal.holders {
//!             eprintln!("ask {}", holder.agent);
//!         }
//!     }
//!     Err(error) => return Err(error.into()),
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The handles, from the outside in:
//!
//! - [`Client`]: the daemon of a home, found or started; or [`Coordinator`]: the same inside this process.
//! - [`Session`]: one agent's connection, which keeps its locks. Two sessions exclude each other.
//! - [`Workspace`]: a session that looks from a certain directory.
//! - [`LockRequest`] and [`LockGuard`]: asking and holding.
//! - [`LockAllRequest`] and [`LockGuards`]: several at once, all or none.
//!
//! Everything blocks, is `Send + Sync`, and goes on by itself when the daemon was restarted. Without the feature
//! `cli`, which is on by default, the program is left out and with it most dependencies.
//!
//! # Readers share, writers do not
//!
//! ```
//! # let kept = tempfile::tempdir()?;
//! let coordinator = flockd::Coordinator::open(kept.path().join("home"))?;
//! let (one, two) = (coordinator.agent("claw-1")?, coordinator.agent("claw-2")?);
//!
//! let reading = one.lock("data.json").shared().note("counting rows").acquire()?;
//! let also_reading = two.lock("data.json").shared().acquire()?;
//! drop(also_reading);
//!
//! let refused = two.lock("data.json").try_now().acquire().unwrap_err();
//! let holder = &refused.refusal().expect("an answer, not an error").holders[0];
//! assert_eq!((holder.agent.as_str(), holder.note.as_deref()), ("claw-1", Some("counting rows")));
//!
//! drop(reading);
//! let writing = two.lock("data.json").acquire()?;
//! assert!(writing.check().is_ok());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

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
#[doc(hidden)]
pub mod client;
#[doc(hidden)]
pub mod clock;
#[doc(hidden)]
pub mod coordinator;
#[doc(hidden)]
pub mod daemon;
mod embedded;
#[doc(hidden)]
pub mod events;
#[cfg(feature = "cli")]
mod hooks;
#[doc(hidden)]
pub mod journal;
#[doc(hidden)]
pub mod limits;
#[cfg(feature = "mcp")]
#[doc(hidden)]
pub mod mcp;
#[doc(hidden)]
pub mod model;
#[doc(hidden)]
pub mod os;
#[doc(hidden)]
pub mod pattern;
#[doc(hidden)]
pub mod planted;
#[doc(hidden)]
pub mod scope;
#[doc(hidden)]
pub mod server;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod sim;
#[doc(hidden)]
pub mod stats;
#[doc(hidden)]
pub mod table;
#[doc(hidden)]
pub mod webhook;
#[doc(hidden)]
pub mod wire;

pub use client::{Check, Error, HoldError, Holder, LockError, Loss, LossReason, Refusal, Status, UpgradeError, Waiter};
pub use client::{Client, ClientBuilder, LockGuard, LockRequest, NotKept, Session, Workspace};
pub use client::{Contention, Event, EventFilter, Gap, LockEvent};
pub use client::{Expected, WriteError, Written};
pub use client::{LockAllRequest, LockGuards};
/// The channels of subscriptions; its `select!` waits for several at once.
pub use crossbeam_channel;
pub use embedded::{Coordinator, OpenError};
pub use wire::stats::{AgentStats, Deliveries, Journal, Latency, ScopeStats, Standing, Stats, Tally, Times};
pub use wire::{Code, KeptBy, Mode};
