//! flockd: file locks for a flock of agents.
pub mod journal;
pub mod limits;
pub mod model;
pub mod scope;
