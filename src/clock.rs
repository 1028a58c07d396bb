//! The only place that asks for the time.

use crate::model::{Moment, Now, Wall};
use rustix::time::{ClockId, Timespec, clock_gettime};
use std::io;

/// The time by both clocks. The monotonic one stands still in suspend, so that a suspend expires nobody.
pub fn now() -> Now {
    Now {
        mono: Moment(monotonic_ns() / 1_000_000),
        wall: Wall(nanoseconds(clock_gettime(ClockId::Realtime)) / 1_000_000),
    }
}

/// Nanoseconds of the monotonic clock, for measuring.
pub fn monotonic_ns() -> u64 {
    nanoseconds(clock_gettime(ClockId::Monotonic))
}

/// Microseconds of the monotonic clock, for measuring.
pub fn monotonic_us() -> u64 {
    monotonic_ns() / 1_000
}

/// Clock ticks since boot, suspend included: what the kernel counts the starts of processes in.
#[cfg(feature = "cli")]
pub(crate) fn boot_ticks() -> u64 {
    let a_tick = 1_000_000_000 / rustix::param::clock_ticks_per_second();
    nanoseconds(clock_gettime(ClockId::Boottime)) / a_tick
}

/// A time before 1970, which only a wall clock that was never set can show, counts as 1970.
fn nanoseconds(time: Timespec) -> u64 {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let fraction = u64::try_from(time.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(fraction)
}

/// The id of this boot: moments and processes of another boot mean nothing now.
///
/// # Errors
///
/// When the kernel does not tell it, or tells something that is no UUID.
pub fn boot_id() -> io::Result<u128> {
    const SOURCE: &str = "/proc/sys/kernel/random/boot_id";
    let text = std::fs::read_to_string(SOURCE)
        .map_err(|error| io::Error::new(error.kind(), format!("cannot read the boot id from {SOURCE}: {error}")))?;
    uuid(text.trim_end()).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, format!("{SOURCE} holds {text:?}, which is no boot id"))
    })
}

/// Reads 32 hexadecimal digits in groups.
fn uuid(text: &str) -> Option<u128> {
    let digits: String = text.chars().filter(|&c| c != '-').collect();
    if digits.len() != 32 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    u128::from_str_radix(&digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_monotonic_clock_never_goes_back_and_agrees_with_now() {
        let before = monotonic_ns();
        let now = now();
        let after = monotonic_ns();
        assert!(before / 1_000_000 <= now.mono.0 && now.mono.0 <= after / 1_000_000);
    }

    #[test]
    fn the_wall_clock_is_the_one_that_files_are_stamped_with() {
        let system = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        assert!(now().wall.0.abs_diff(u64::try_from(system.as_millis()).unwrap()) < 60_000);
    }

    #[test]
    fn the_boot_id_stays_the_same_and_is_not_zero() {
        assert_eq!(boot_id().unwrap(), boot_id().unwrap());
        assert_ne!(boot_id().unwrap(), 0);
    }

    #[test]
    fn what_is_no_uuid_is_no_boot_id() {
        assert_eq!(uuid("00000000-0000-0000-0000-0000000000ff"), Some(255));
        for bad in ["", "+0000000-0000-0000-0000-0000000000ff", "0", "00000000-0000-0000-0000-0000000000fg"] {
            assert_eq!(uuid(bad), None, "{bad}");
        }
    }
}
