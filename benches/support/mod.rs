//! What the measurements share: figures and how they are shown, the processes that are measured, and the floors.

pub mod asks;
pub mod bare;
pub mod figures;
pub mod places;
pub mod workers;
