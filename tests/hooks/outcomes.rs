//! What each client gets to read for each outcome of a recorded payload, to the byte: status, stdout and stderr.

use crate::client::{CLIENTS, agent, payload};
use crate::util::{Done, Ground, Held, signal};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::fs;

/// What there is to say about an edit.
enum Said {
    Nothing,
    /// The tool runs, and its agent is told.
    Tell(String),
    /// The tool runs, and the person is told.
    Warn(String),
    Deny(String),
}

impl Said {
    /// Status, stdout and stderr of a hook that says this, by the rules of its client.
    fn form(&self, client: &str) -> (i32, Option<Value>, String) {
        let json = |value: Value| (0, Some(value), String::new());
        match (client, self) {
            (_, Said::Nothing) => (0, None, String::new()),
            ("claude-code" | "codex", Said::Deny(why)) => (2, None, format!("{why}\n")),
            ("gemini", Said::Deny(why)) => json(json!({ "decision": "deny", "reason": why })),
            (_, Said::Deny(why)) => json(json!({ "block": true, "reason": why })),
            ("claude-code" | "codex", Said::Tell(what)) => {
                json(json!({ "hookSpecificOutput": { "hookEventName": "PreToolUse", "additionalContext": what } }))
            }
            ("openclaw", Said::Tell(what)) => json(json!({ "tell": what })),
            ("openclaw", Said::Warn(what)) => json(json!({ "warn": what })),
            // Before a tool Gemini tells its model nothing.
            (_, Said::Tell(what) | Said::Warn(what)) => json(json!({ "systemMessage": what })),
        }
    }

    #[track_caller]
    fn is(&self, client: &str, case: &str, done: &Done) {
        let (status, out, err) = self.form(client);
        assert_eq!((done.code, &done.err), (Some(status), &err), "{client}, {case}: {done:?}");
        let line = done.out.strip_suffix('\n').filter(|line| !line.contains('\n'));
        assert_eq!(line.is_some(), out.is_some(), "{client}, {case}: one line or nothing: {done:?}");
        assert_eq!(line.map(|line| serde_json::from_str::<Value>(line).unwrap()), out, "{client}, {case}");
    }
}

/// What comes of an edit.
enum Outcome {
    Said(Said),
    /// Something fails: what is said of it.
    Failure(String),
}

/// A way in which the edit of `data.json` by the agent of session `ada` ends.
struct Case {
    name: &'static str,
    flags: &'static str,
    /// Makes the ground so, for this client.
    prepare: fn(&Ground, &str) -> Option<Held>,
    /// What is on stdin in the place of the recorded payload.
    input: Option<&'static str>,
    outcome: fn(&Ground) -> Outcome,
}

const CASES: [Case; 7] = [
    Case { name: "allow", flags: "", prepare: |_, _| None, input: None, outcome: |_| Outcome::Said(Said::Nothing) },
    Case {
        name: "allow, while somebody waits",
        flags: "",
        prepare: |ground, client| {
            ground.flockd(&agent(client, "ada"), "lock data.json").gives(0);
            let waits = ground.queue("bo", "data.json");
            ground.until_waiting(&["bo"]);
            Some(waits)
        },
        input: None,
        outcome: |ground| {
            let path = ground.work.join("data.json");
            let text = format!("flockd: bo waits for data.json. Done with it? `flockd unlock {}`", path.display());
            Outcome::Said(Said::Tell(text))
        },
    },
    Case {
        name: "deny",
        flags: "--wait 0",
        prepare: |ground, _| Some(ground.hold("bo", "--note sorting data.json")),
        input: None,
        outcome: |ground| {
            let since = ground.status().locks[0].since.split('.').next().unwrap().to_owned();
            Outcome::Said(Said::Deny(format!(
                "flockd: data.json is locked by bo (exclusive since {since}Z, while it runs: sorting). Nothing was \
                 written.\nWait with `flockd wait {}`, read it again, then repeat this; or do something else first.",
                ground.work.join("data.json").display()
            )))
        },
    },
    Case {
        name: "time-out",
        flags: "--timeout 1500ms",
        prepare: |ground, _| {
            ground.flockd("bo", "lock elsewhere").gives(0);
            signal(ground.daemon_pid(), Signal::STOP);
            None
        },
        input: None,
        outcome: |_| Outcome::Failure("there was no answer in time".to_owned()),
    },
    Case {
        name: "garbage in",
        flags: "",
        prepare: |_, _| None,
        input: Some("garbage"),
        outcome: |_| Outcome::Failure("no JSON came on stdin: expected value at line 1 column 1".to_owned()),
    },
    Case {
        name: "nothing of this client in",
        flags: "",
        prepare: |_, _| None,
        input: Some("{}"),
        outcome: |_| Outcome::Failure("what came on stdin is no event of this client".to_owned()),
    },
    Case {
        name: "no daemon",
        flags: "",
        prepare: |ground, _| {
            fs::write(&ground.home, "a file").unwrap();
            None
        },
        input: None,
        outcome: |ground| {
            let home = ground.home.display();
            let why = "is no directory: move it away, or set $FLOCKD_HOME";
            Outcome::Failure(format!("the daemon cannot be reached: the home {home} {why}"))
        },
    },
];

#[test]
fn each_client_reads_each_outcome_in_its_own_form() {
    for client in CLIENTS {
        for Case { name, flags, prepare, input, outcome } in &CASES {
            let ground = Ground::new();
            let _kept = prepare(&ground, client);
            let recorded = payload(client, "before_edit", &ground.work, "ada");
            let call = || ground.hook_says(client, flags, input.unwrap_or(&recorded));
            match outcome(&ground) {
                Outcome::Said(said) => said.is(client, name, &call()),
                Outcome::Failure(why) => {
                    let passed = format!("flockd: this went ahead without a lock: {why}");
                    Said::Warn(passed).is(client, name, &call());
                    fs::write(ground.work.join(".flockd.toml"), "strict = true\n").unwrap();
                    let refused = format!(
                        "flockd: no lock can be had: {why}. This workspace is strict: nothing was written.\n`flockd \
                         doctor` tells more."
                    );
                    Said::Deny(refused).is(client, name, &call());
                }
            }
        }
    }
}
