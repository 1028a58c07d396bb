//! The lock table beside a naive model, its rules one by one, and its search for deadlocks.

mod advisory;
mod commands;
mod contention;
mod deadlock;
mod families;
mod flocks;
mod model;
mod patterns;
mod rules;
mod scopes;
mod sets;
mod tickets;
mod upgrade;
mod violation;
mod webhooks;
mod writes;

/// How much more, or less, than one CI run's worth the repeated tests do: `FLOCKD_SCALE`, 1 if not set.
fn scaled(count: usize) -> usize {
    let scale =
        std::env::var("FLOCKD_SCALE").map_or(1.0, |text| text.parse::<f64>().expect("FLOCKD_SCALE is a number"));
    ((count as f64 * scale).ceil() as usize).max(1)
}

/// The seed of this run: `FLOCKD_SEED` to repeat one, else a new one from the clock. The tests print it.
fn seed() -> u64 {
    match std::env::var("FLOCKD_SEED") {
        Ok(text) => text.parse().expect("FLOCKD_SEED is a whole number"),
        Err(_) => std::time::UNIX_EPOCH.elapsed().expect("the clock is set").as_nanos() as u64,
    }
}
