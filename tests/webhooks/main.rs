//! Webhooks end to end: the real program and daemon, and a receiver in this process that speaks HTTP over a socket.
#![cfg(feature = "cli")]

mod delivery;
mod endings;
mod receiver;
#[path = "../cli/util.rs"]
#[expect(dead_code, reason = "the tests of the program need more of it")]
mod util;

use serde_json::Value;
use util::Ground;

/// Adds a webhook and gives what is said of it.
#[track_caller]
fn add(ground: &Ground, args: &str) -> Value {
    ground.flockd("claw-1", &format!("webhook add --json {args}")).gives(0).json()
}

fn id(webhook: &Value) -> &str {
    webhook["webhook_id"].as_str().expect("a webhook has an id")
}

#[track_caller]
fn show(ground: &Ground, webhook: &Value) -> Value {
    ground.flockd("", &format!("webhook show {} --json", id(webhook))).gives(0).json()
}

/// Takes a lock and releases it: two events.
#[track_caller]
fn lock_and_unlock(ground: &Ground, scope: &str) {
    ground.flockd("claw-1", &format!("lock {scope}")).gives(0);
    ground.flockd("claw-1", &format!("unlock {scope}")).gives(0);
}
