//! Bad peers, a bad disk and a home that somebody lays hands on: the real daemon, with honest clients beside it.
#![cfg(feature = "cli")]

mod broken;
mod calls;
mod damage;
#[path = "../wire/draft.rs"]
mod draft;
mod home;
#[path = "../flock/inside.rs"]
mod inside;
mod peers;
#[path = "../wire/raw.rs"]
mod raw;
mod users;
#[path = "../cli/util.rs"]
#[expect(dead_code, reason = "the tests of the program need more of it")]
mod util;
mod watches;
mod writes;

/// Repeatable random numbers (splitmix64). `FLOCKD_SEED` is added to each seed.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Random {
        let added = std::env::var("FLOCKD_SEED").map_or(0, |seed| seed.parse().expect("FLOCKD_SEED is a number"));
        Random(seed.wrapping_add(added))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}
