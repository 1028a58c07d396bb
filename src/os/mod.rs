//! Everything that only the operating system can say or do: paths, processes, the home, file threads.

pub mod files;
pub mod home;
pub mod mounts;
pub mod paths;
pub mod process;
