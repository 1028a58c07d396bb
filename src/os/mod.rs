//! Everything that only the operating system can say or do: paths, processes, the home, file threads.

pub mod mounts;
pub mod paths;
