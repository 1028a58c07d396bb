//! Whatever fails, the person's work goes on and the person is told, in time and in the client's form; in a strict
//! workspace nothing is written instead.

use crate::client::{CLIENTS, Outcome, payload};
use crate::util::{Ground, signal};
use rustix::process::Signal;
use std::fs;
use std::io::Write;
use std::time::Instant;

fn make_strict(ground: &Ground) {
    fs::write(ground.work.join(".flockd.toml"), "strict = true\n").unwrap();
}

/// The two verdicts on a failure.
#[track_caller]
fn passes_or_not(ground: &Ground, what: &str, mut call: impl FnMut() -> Outcome) {
    let passed = call();
    assert!(matches!(passed, Outcome::RunsAndTellsPerson(_)), "{what}: {passed:?}");
    let told = passed.told();
    assert!(told.contains("without a lock: "), "{what}: {told}");
    make_strict(ground);
    let why = call().refused();
    assert!(why.contains("strict") && why.contains("flockd doctor"), "{what}: {why}");
}

#[test]
fn garbage_on_stdin_lets_the_tool_run_and_is_told() {
    for client in CLIENTS {
        for garbage in ["", "not json", "{\"hook_event_name\":", "[1,2]", "{}", "null", "{\"hook_event_name\":7}"] {
            let ground = Ground::new();
            passes_or_not(&ground, &format!("{client}: {garbage}"), || {
                Outcome::of(client, &ground.hook_says(client, "", garbage))
            });
        }
    }
}

#[test]
fn without_a_daemon_the_tool_runs_and_it_is_told() {
    for client in CLIENTS {
        let ground = Ground::new();
        // No home can be made here.
        fs::write(&ground.home, "a file").unwrap();
        passes_or_not(&ground, client, || ground.hook(client, "", "before_edit", "ada"));
        for name in ["turn_end", "session_end"] {
            let outcome = ground.hook(client, "", name, "ada");
            assert!(matches!(outcome, Outcome::Runs | Outcome::RunsAndTellsPerson(_)), "{client} {name}: {outcome:?}");
        }
    }
}

#[test]
fn a_turn_that_ends_where_nothing_is_held_starts_no_daemon() {
    for client in CLIENTS {
        let ground = Ground::new();
        assert_eq!(ground.hook(client, "", "turn_end", "ada"), Outcome::Runs);
        assert_eq!(ground.hook(client, "", "session_end", "ada"), Outcome::Runs);
        assert!(!ground.home.join("sock").exists(), "{client}");
    }
}

/// The clients let a tool run when their time is up, without a word; so the answer comes before.
#[test]
fn a_daemon_that_hangs_is_answered_for_before_the_clients_time_is_up() {
    for client in CLIENTS {
        let ground = Ground::new();
        ground.flockd("bo", "lock elsewhere").gives(0);
        signal(ground.daemon_pid(), Signal::STOP);
        passes_or_not(&ground, client, || {
            let begun = Instant::now();
            let outcome = ground.hook(client, "--timeout 2s", "before_edit", "ada");
            // Not before the second that it has, and a loaded machine may take its time.
            assert!(begun.elapsed().as_millis() >= 900, "{client}: it gave up at once");
            // The daemon's silence has a bound of its own, which would be told in other words, too late.
            assert!(format!("{outcome:?}").contains("there was no answer in time"), "{client}: {outcome:?}");
            outcome
        });
        signal(ground.daemon_pid(), Signal::CONT);
    }
}

#[test]
fn a_client_that_never_ends_its_input_is_answered_in_time() {
    for client in CLIENTS {
        let ground = Ground::new();
        let mut hook = ground.hook_started(client, "--timeout 1500ms");
        let mut stdin = hook.stdin.take().unwrap();
        stdin.write_all(b"{\"hook_event_name\":").unwrap();
        let output = hook.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let done = crate::util::Done { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) };
        assert!(Outcome::of(client, &done).told().contains("in time"), "{done:?}");
        drop(stdin);
    }
}

/// Nothing in a hook's command line can stop an edit: a status of 2 is no usage error there.
#[test]
fn wrong_flags_stop_nobody_and_are_told() {
    let ground = Ground::new();
    for client in CLIENTS {
        let too_long = format!("--agent {}", "a".repeat(200));
        for flags in ["--clint x", "--mode sometimes", "--wait never", "--timeout -1", "extra", &too_long] {
            let outcome = ground.hook(client, flags, "before_edit", "ada");
            let told = outcome.told();
            assert!(told.starts_with("flockd: "), "{client} {flags}: {told}");
        }
        ground.hook(client, "", "turn_end", "ada");
    }
    // What would leave no time to ask is none either: the lock is taken.
    for flags in ["--timeout 0", "--timeout 500ms"] {
        let told = ground.hook("claude-code", flags, "before_edit", "ada").told();
        assert!(told.contains("called wrongly: --timeout: ") && !told.contains("without a lock"), "{flags}: {told}");
        assert_eq!(ground.held().len(), 1, "{flags}");
        for client in CLIENTS {
            let why = ground.hook(client, &format!("--wait 0 {flags}"), "before_edit", "bo").refused();
            assert!(
                why.contains("is locked by claude-ada") && why.contains("called wrongly"),
                "{client} {flags}: {why}"
            );
        }
        ground.hook("claude-code", "", "turn_end", "ada");
    }
    // Also before the word, and where no client is named.
    let input = payload("claude-code", "before_edit", &ground.work, "ada");
    for args in [&["--jsn", "hook", "--client", "claude-code"][..], &["hook", "--client", "cursor"], &["hook", "-x"]] {
        let mut command = ground.command("", args);
        command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        command.stderr(std::process::Stdio::piped());
        let done = crate::client::fed(command, &input);
        assert!(Outcome::of("claude-code", &done).told().contains("called wrongly"), "{args:?}: {done:?}");
    }
    ground.flockd("", "hook --help --bogus").gives(0);
}

#[test]
fn nonsense_in_the_workspaces_file_is_a_failure_like_any_other() {
    let ground = Ground::new();
    fs::write(ground.work.join(".flockd.toml"), "enforcement = 'sometimes'\n").unwrap();
    let told = ground.hook("claude-code", "", "before_edit", "ada").told();
    assert!(told.contains(".flockd.toml") && told.contains("`warn`"), "{told}");
}

#[test]
fn a_setting_that_nothing_is_known_of_is_told_as_by_other_commands() {
    for client in CLIENTS {
        let ground = Ground::new();
        fs::write(ground.work.join(".flockd.toml"), "strct = true\n").unwrap();
        let outcome = ground.hook(client, "", "before_edit", "ada");
        assert!(matches!(outcome, Outcome::RunsAndTellsPerson(_)), "{client}: {outcome:?}");
        let told = outcome.told();
        assert!(told.contains("unknown field `strct`") && told.contains("line 1"), "{client}: {told}");
        ground.flockd("ada", "lock data.json").gives(2).says(&["unknown field `strct`"]);
    }
}

#[test]
fn a_file_that_is_no_toml_and_has_a_line_that_says_strict_is_strict() {
    for client in CLIENTS {
        let ground = Ground::new();
        let config = ground.work.join(".flockd.toml");
        for text in [&b"strict = true\n[[[\n"[..], b"a b\n\"strict\"=true\n", b"\xff\nstrict = true\n"] {
            fs::write(&config, text).unwrap();
            let why = ground.hook(client, "", "before_edit", "ada").refused();
            assert!(why.contains("strict") && why.contains(".flockd.toml"), "{client}: {why}");
        }
        fs::write(&config, "strict = false\n[[[\n").unwrap();
        let outcome = ground.hook(client, "", "before_edit", "ada");
        assert!(matches!(outcome, Outcome::RunsAndTellsPerson(_)), "{client}: {outcome:?}");
    }
}

/// Payloads that should say what is written and do not, by the tools of each client.
fn damaged(client: &str) -> Vec<serde_json::Value> {
    use serde_json::json;
    let (event, before, tool, input, writer, path) = match client {
        "gemini" => ("hook_event_name", "BeforeTool", "tool_name", "tool_input", "write_file", "file_path"),
        "openclaw" => ("openclaw_event", "before_tool_call", "toolName", "params", "write", "path"),
        _ => ("hook_event_name", "PreToolUse", "tool_name", "tool_input", "Write", "file_path"),
    };
    let inputs = [json!({}), json!({ path: 5 }), json!({ path: "" }), json!([1]), serde_json::Value::Null];
    let calls = inputs.map(|given| json!({ event: before, tool: writer, input: given }));
    let nameless = [json!({ event: before }), json!({ event: before, tool: 7, input: { path: "/tmp/x" } })];
    calls.into_iter().chain(nameless).collect()
}

#[test]
fn a_client_that_calls_the_hook_of_another_is_told_of() {
    let ground = Ground::new();
    for (installed, calls) in [("gemini", "claude-code"), ("claude-code", "gemini"), ("openclaw", "claude-code")] {
        let input = payload(calls, "before_edit", &ground.work, "ada");
        let done = ground.hook_says(installed, "", &input).gives(0);
        let said = format!("{}{}", done.out, done.err);
        assert!(said.contains("went ahead without a lock"), "{installed}, {calls}: {done:?}");
    }
    let input = payload("claude-code", "before_edit", &ground.work, "ada");
    let said = ground.hook_says("gemini", "", &input);
    assert!(said.out.contains("this hook is for gemini, and claude-code calls it"), "{said:?}");
}

#[test]
fn a_payload_that_does_not_say_what_is_written_is_a_failure_and_a_tool_that_writes_nothing_is_none() {
    for client in CLIENTS {
        for input in damaged(client) {
            let ground = Ground::new();
            passes_or_not(&ground, &format!("{client}: {input}"), || {
                Outcome::of(client, &ground.hook_says(client, "", &input.to_string()))
            });
            fs::write(ground.work.join(".flockd.toml"), "strict = true\nenforcement = 'off'\n").unwrap();
            let off = Outcome::of(client, &ground.hook_says(client, "", &input.to_string()));
            assert_eq!(off, Outcome::Runs, "{client}: {input}");
        }
        let ground = Ground::new();
        make_strict(&ground);
        let unknown = damaged(client)[0].to_string().replace("rite", "atch");
        let unknown = unknown.replace("write_file", "watch_file");
        assert_eq!(Outcome::of(client, &ground.hook_says(client, "", &unknown)), Outcome::Runs, "{client}: {unknown}");
        let shell = payload(client, "before_shell", &ground.work, "ada");
        let mut shell: serde_json::Value = serde_json::from_str(&shell).unwrap();
        let at = if client == "openclaw" { "params" } else { "tool_input" };
        shell[at]["command"] = "make all".into();
        let silent = Outcome::of(client, &ground.hook_says(client, "", &shell.to_string()));
        assert_eq!(silent, Outcome::Runs, "{client}: {shell}");
    }
}

#[test]
fn a_file_that_says_strict_and_is_wrong_elsewhere_is_strict() {
    for client in CLIENTS {
        let ground = Ground::new();
        let broken = "strict = true\nenforcement = 'sometimes'\n";
        let elsewhere = ground.work.join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        let from_elsewhere = |input: &str| {
            let mut command = ground.hook_command(client, "");
            command.current_dir(&elsewhere);
            Outcome::of(client, &crate::client::fed(command, input))
        };
        // The place of the file says it, or where nothing is understood that of the hook.
        fs::write(elsewhere.join(".flockd.toml"), "").unwrap();
        fs::write(ground.work.join(".flockd.toml"), broken).unwrap();
        let why = from_elsewhere(&payload(client, "before_edit", &ground.work, "ada")).refused();
        assert!(why.contains("strict") && why.contains("`warn`"), "{client}: {why}");
        assert!(matches!(from_elsewhere("garbage"), Outcome::RunsAndTellsPerson(_)), "{client}");
        fs::write(elsewhere.join(".flockd.toml"), broken).unwrap();
        from_elsewhere("garbage").refused();
    }
}

#[test]
fn an_agent_without_a_name_is_let_through_and_told_how_to_get_one() {
    let ground = Ground::new();
    let input = payload("claude-code", "before_edit", &ground.work, "");
    let told = Outcome::of("claude-code", &ground.hook_says("claude-code", "", &input)).told();
    assert!(told.contains("FLOCKD_AGENT"), "{told}");
}
