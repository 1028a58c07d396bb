//! flockd: file locks for a flock of agents.
pub mod limits;
pub mod model;
pub mod scope;
pub mod table;
pub mod wire;
