//! flockd: file locks for a flock of agents.
pub mod clock;
pub mod limits;
pub mod model;
pub mod scope;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod sim;
