//! The shape of every answer, byte for byte but for what is another each time: names and their order are a contract.
//!
//! `golden.txt` is the conversation of two clients, `a` and `b`: `a> ` is what `a` sends, `a< ` what it must read next.
//! `HELLO` stands for a greeting, `LAST` for the id of the lock that was granted last, `WORK` for the directory,
//! `VERSION` for the program's.

use crate::raw::{Raw, hello, served};
use crate::util::until;
use serde_json::Value;
use std::collections::BTreeMap;

const CONVERSATION: &str = include_str!("golden.txt");

/// Values of these names differ from run to run.
const MASKED: &[&str] = &[
    "lock_id",
    "workspace_id",
    "path",
    "since",
    "seq",
    "time",
    "timestamp",
    "at",
    "fence",
    "pid",
    "expires_in_ms",
    "wait_left_ms",
    "ticket",
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
    for prefix in ["lk_", "tk_", "se_", "ev_", "lease has ", " at 20", "newest number is "] {
        let mut from = 0;
        while let Some(at) = line[from..].find(prefix) {
            let begin = from + at + prefix.len();
            let end = match prefix {
                // `10m` or `9m 59s`
                "lease has " => line[begin..].find(" left").unwrap(),
                _ => line[begin..].find([' ', ')', '"', ';']).unwrap(),
            };
            line.replace_range(begin..begin + end, "~");
            from = begin;
        }
    }
    line
}

#[test]
fn every_answer_has_the_shape_that_clients_were_written_for() {
    let ground = served();
    let work = ground.work.to_str().unwrap();
    let mut clients = BTreeMap::from([("a", Raw::connect(&ground)), ("b", Raw::connect(&ground))]);
    let mut last = String::new();
    for line in CONVERSATION.lines().filter(|line| !line.is_empty()) {
        let (name, rest) = line.split_at(1);
        let client = clients.get_mut(name).unwrap_or_else(|| panic!("no such client: {line}"));
        match rest.split_once(' ').unwrap() {
            (">", request) => {
                let greeting = hello(&ground, name, None).to_string();
                client.send_text(&request.replace("HELLO", &greeting).replace("LAST", &last));
            }
            ("<", expected) => {
                let answer = client.line().unwrap();
                let shown = masked(&answer).replace(work, "WORK").replace(env!("CARGO_PKG_VERSION"), "VERSION");
                assert_eq!(shown, expected);
                let answer: Value = serde_json::from_str(&answer).unwrap();
                if let Some(id) = answer["ok"]["lock"]["lock_id"].as_str() {
                    last = id.to_owned();
                }
            }
            // The other client is to see this one wait.
            ("?", count) => until("they wait", || (ground.daemon_status().waiters.to_string() == count).then_some(())),
            other => panic!("{other:?}"),
        }
    }
}
