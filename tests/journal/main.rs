//! The journal's promises: what is loaded after anything that can happen to a process, a disk and a home.

mod damage;
mod faults;
#[path = "../support/mem_disk.rs"]
#[expect(dead_code, reason = "the simulator uses more of it")]
mod mem_disk;
mod power;
mod reload;
mod service;
mod world;

/// How often repeated tests repeat: 1 unless `FLOCKD_SCALE` says more.
fn scale() -> u64 {
    std::env::var("FLOCKD_SCALE").map_or(1, |scale| scale.parse().expect("FLOCKD_SCALE is a number"))
}
