//! The shape of every answer, byte for byte but for what is another each time: names and their order are a contract.

use crate::raw::{Raw, hello, served};
use serde_json::{Value, json};

/// Values of these names differ from run to run.
const MASKED: &[&str] = &[
    "lock_id",
    "workspace_id",
    "since",
    "at",
    "fence",
    "pid",
    "expires_in_ms",
    "wait_left_ms",
    "uptime_ms",
    "home",
    "socket",
    "secret",
];

/// The line with what differs replaced by `~`; what is null stays null.
fn masked(line: &str) -> String {
    let mut line = line.to_owned();
    for name in MASKED {
        let key = format!("\"{name}\":");
        let mut from = 0;
        while let Some(at) = line[from..].find(&key) {
            let begin = from + at + key.len();
            let rest = &line[begin..];
            let length = match rest.strip_prefix('"') {
                Some(text) => text.find('"').unwrap() + 2,
                None => rest.find([',', '}']).unwrap(),
            };
            if &rest[..length] != "null" {
                line.replace_range(begin..begin + length, "~");
            }
            from = begin;
        }
    }
    for prefix in ["lk_", "se_", "lease has ", " at 20"] {
        let mut from = 0;
        while let Some(at) = line[from..].find(prefix) {
            let begin = from + at + prefix.len();
            let end = line[begin..].find([' ', ')', '"', ';']).unwrap();
            line.replace_range(begin..begin + end, "~");
            from = begin;
        }
    }
    line
}

#[track_caller]
fn golden(raw: &mut Raw, request: &Value, expected: &str) -> Value {
    raw.send(request);
    let line = raw.line().unwrap();
    assert_eq!(masked(&line), expected, "{request}");
    serde_json::from_str(&line).unwrap()
}
