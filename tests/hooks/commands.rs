//! Which agent of a session runs a command, where the program tells its shells of the session alone.

use crate::client::{Outcome, payload};
use crate::util::{Done, FLOCKD, Ground, until};
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

const SESSION: &str = "5e55";
const HEAD: &str = "claude-5e55";

/// A program like Claude Code, as far as hooks and shells go.
struct Claude {
    ground: Ground,
    /// What its environment has for an agent's name.
    named: &'static str,
}

impl Claude {
    fn new() -> Claude {
        Claude::named("")
    }

    fn named(named: &'static str) -> Claude {
        let ground = Ground::new();
        // Each command is a session of processes, as there.
        script(&ground.work.join("claude"), "setsid \"$@\"\nexit $?");
        Claude { ground, named }
    }

    /// What its hook says about a tool of this sub-agent, or of the agent itself.
    fn hook(&self, flags: &str, event: &str, subagent: Option<&str>, tool: &str, given: &Value) -> Outcome {
        self.hook_of(flags, event, subagent, tool, given, &format!("{subagent:?} {given}"))
    }

    /// The same with the word that the program has for this call.
    fn hook_of(
        &self,
        flags: &str,
        event: &str,
        subagent: Option<&str>,
        tool: &str,
        given: &Value,
        id: &str,
    ) -> Outcome {
        let text = payload("claude-code", "before_edit_of_subagent", &self.ground.work, SESSION);
        let mut input: Value = serde_json::from_str(&text).unwrap();
        input["hook_event_name"] = event.into();
        input["agent_id"] = subagent.into();
        input["tool_name"] = tool.into();
        input["tool_input"] = given.clone();
        input["tool_use_id"] = id.into();
        let mut command = self.ground.hook_command("claude-code", flags);
        command.env("FLOCKD_AGENT", self.named);
        Outcome::of("claude-code", &crate::client::fed(command, &input.to_string()))
    }

    fn before(&self, subagent: Option<&str>, command: &str) -> Outcome {
        self.hook("--wait 0", "PreToolUse", subagent, "Bash", &json!({ "command": command }))
    }

    fn after(&self, subagent: Option<&str>, command: &str) {
        let given = json!({ "command": command });
        assert_eq!(self.hook("", "PostToolUse", subagent, "Bash", &given), Outcome::Runs);
    }

    /// A shell as it starts one, in this directory, by this shell's name.
    fn shell(&self, dir: &Path, shell: &str, command: &str) -> Command {
        self.shell_with(dir, shell, &around(command))
    }

    fn shell_with(&self, dir: &Path, shell: &str, text: &str) -> Command {
        let claude = self.ground.work.join("claude");
        let mut command = self.ground.environment(Command::new(claude), self.named, &[shell, "-c", text]);
        let bin = Path::new(FLOCKD).parent().unwrap().display();
        command.env("PATH", format!("{bin}:{}", std::env::var("PATH").unwrap()));
        command.env("CLAUDE_CODE_SESSION_ID", SESSION).env("FLOCKD_AGENT_PROGRAMS", "claude").current_dir(dir);
        command
    }

    /// A recorded event of the session, or of the sub-agent a1.
    fn moment(&self, name: &str) {
        let text = payload("claude-code", name, &self.ground.work, SESSION).replace("a1b2c3", "a1");
        self.ground.hook_says("claude-code", "", &text).gives(0);
    }

    fn runs(&self, command: &str) -> Done {
        Done::of(self.shell(&self.ground.work, "bash", command))
    }

    /// A tool call from hook to hook, apart from those before; fails where the hook says anything.
    fn calls(&self, subagent: Option<&str>, command: &str) -> Done {
        next_tick();
        assert_eq!(self.before(subagent, command), Outcome::Runs, "{command}");
        let done = self.runs(command);
        self.after(subagent, command);
        done
    }
}

fn script(path: &Path, text: &str) {
    fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A command in the form that it gives to all.
fn around(command: &str) -> String {
    let quoted = format!("'{}'", command.replace('\'', "'\"'\"'"));
    format!(
        "source snapshot 2>/dev/null || true && {{ \\builtin unalias -- 'which'; }} >/dev/null 2>&1 || true && \
         eval {quoted} < /dev/null && pwd -P >| /dev/null"
    )
}

/// A command that waits in its shell before it goes on.
struct Waiting(Child);

impl Waiting {
    fn of(mut command: Command) -> Waiting {
        Waiting(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    fn done(self) -> Done {
        let output = self.0.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Done { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

/// In this directory there is something to wait for; the answer opens the way.
fn with_gate(dir: &Path) -> impl FnOnce() + use<> {
    fs::create_dir_all(dir).unwrap();
    let gate = dir.join("gate");
    assert!(Command::new("mkfifo").arg(&gate).status().unwrap().success());
    // Waits until somebody reads.
    move || fs::OpenOptions::new().write(true).open(gate).unwrap().write_all(b"go\n").unwrap()
}

/// Starts of processes are told in hundredths of a second: what begins after this has another than what was before.
fn next_tick() {
    let now = || {
        let mut child = Command::new("true").stdin(Stdio::piped()).spawn().unwrap();
        let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        child.wait().unwrap();
        stat.rsplit(')').next().unwrap().split_whitespace().nth(19).unwrap().parse::<u64>().unwrap()
    };
    let before = now();
    until("the clock moves", || (now() > before).then_some(()));
}

#[test]
fn a_command_of_a_sub_agent_is_its_own_however_it_calls_us() {
    for named in ["", "ada"] {
        let claude = Claude::named(named);
        let (head, below) = if named.is_empty() { (HEAD, "claude-5e55/a1") } else { ("ada", "ada/a1") };
        script(&claude.ground.work.join("all.sh"), "exec flockd lock -n \"$1\" --json");
        let edit = claude.hook("", "PreToolUse", Some("a1"), "Write", &json!({ "file_path": "data.json" }));
        assert_eq!(edit, Outcome::Runs);
        for command in [
            "flockd lock -n data.json --json",
            "./all.sh data.json",
            "echo data.json | xargs -n 1 flockd lock -n --json",
            "timeout 30 flockd lock -n data.json --json",
            "echo \"`flockd lock -n 'data.json' --json`\"",
            "bash -c \"env -u X flockd lock -n data.json --json; true\"",
            "exec flockd lock -n data.json --json",
            "exec ./all.sh data.json",
            "# it's a note\ncat <<'E' | xargs flockd lock --json -n\ndata.json\nE",
            "(flockd lock -n data.json --json & wait)",
            "python3 -c 'import subprocess as s; s.run([\"flockd\", \"lock\", \"-n\", \"data.json\", \"--json\"])'",
        ] {
            let held = claude.calls(Some("a1"), command).gives(0).json();
            assert_eq!((&held["agent"], &held["already_held"]), (&json!(below), &json!(true)), "{command}");
        }
        claude.calls(None, "flockd lock -n data.json").gives(1).says(&[&format!("your sub-agent {below} holds")]);
        let sibling = claude.calls(Some("b2"), "flockd lock -n data.json").gives(1);
        sibling.says(&[&format!("{below} holds data.json")]);
        claude.calls(Some("b2"), "flockd lock other.json").gives(0);
        let own = claude.calls(None, "flockd lock mine.json --json").gives(0).json();
        assert_eq!(own["agent"], head);
        claude.calls(Some("a1"), "flockd unlock data.json").gives(0);
        // Whoever says another name means it.
        let said = claude.calls(Some("a1"), "flockd lock d --agent cy --json").gives(0).json();
        assert_eq!(said["agent"], "cy");
        let said = claude.calls(Some("a1"), "FLOCKD_AGENT=di flockd lock e --json").gives(0).json();
        assert_eq!(said["agent"], "di");
        let inner = claude.calls(Some("a1"), "flockd run f -- flockd lock -n f --json").gives(0).json();
        assert_eq!((&inner["agent"], &inner["already_held"]), (&json!(below), &json!(true)));
    }
}

#[test]
fn what_nobody_noted_is_the_sessions() {
    let claude = Claude::new();
    let lock = "flockd lock data.json --json";
    assert_eq!(claude.runs(lock).gives(0).json()["agent"], HEAD);
    claude.calls(Some("a1"), "true").gives(0);
    next_tick();
    assert_eq!(claude.runs(lock).gives(0).json()["agent"], HEAD, "another text");
}

#[test]
fn of_two_who_run_the_same_text_the_start_of_the_shell_tells_which() {
    let claude = Claude::new();
    let command = "mkdir here; read word < gate; flockd lock data.json --json";
    let [one, two] = ["one", "two"].map(|name| claude.ground.work.join(name));
    let (first_goes, second_goes) = (with_gate(&one), with_gate(&two));
    // In the background: its end is told at once, and it goes on.
    assert_eq!(claude.before(Some("a1"), command), Outcome::Runs);
    let first = Waiting::of(claude.shell(&one, "bash", command));
    until("its shell is there", || one.join("here").exists().then_some(()));
    next_tick();
    claude.after(Some("a1"), command);
    next_tick();
    assert_eq!(claude.before(None, command), Outcome::Runs);
    let second = Waiting::of(claude.shell(&two, "bash", command));
    first_goes();
    second_goes();
    assert_eq!(first.done().gives(0).json()["agent"], "claude-5e55/a1");
    assert_eq!(second.done().gives(0).json()["agent"], HEAD);
}

#[test]
fn two_who_run_the_same_text_at_once_are_asked_to_say_who_they_are() {
    let claude = Claude::new();
    let lock = "flockd lock data.json";
    assert_eq!(claude.before(Some("a1"), lock), Outcome::Runs);
    assert_eq!(claude.before(Some("b2"), lock), Outcome::Runs);
    let refused = claude.runs(lock).gives(2);
    refused.says(&["a command of any of claude-5e55/a1, claude-5e55/b2:", "--agent", "FLOCKD_AGENT=NAME before"]);
    assert_eq!(claude.ground.held(), []);
    claude.after(Some("b2"), lock);
    next_tick();
    claude.runs(lock).gives(0);
    let held = ("claude-5e55/a1".to_owned(), "data.json".to_owned());
    assert_eq!(claude.ground.held(), [held], "it is the only one that still may run it");
    claude.before(Some("b2"), "flockd ls");
    claude.calls(Some("a1"), "flockd ls").gives(0);
    claude.calls(Some("a1"), "flockd lock data.json --agent claude-5e55/a1").gives(0);
    let said = claude.calls(None, "FLOCKD_AGENT=claude-5e55 flockd lock x --json").gives(0).json();
    assert_eq!(said["agent"], HEAD, "what is said for a command is meant");
}

#[test]
fn a_command_keeps_its_agent_while_the_daemon_is_started_anew_and_when_its_shell_is_gone() {
    let claude = Claude::new();
    let goes = with_gate(&claude.ground.work);
    let command = "flockd lock data.json --json; (read word < gate; flockd lock -n data.json --json; true) > out \
                   2>&1 &";
    claude.calls(Some("a1"), command).gives(0);
    claude.ground.stop_daemon();
    goes();
    let out = claude.ground.work.join("out");
    let held = until("it has its answer", || fs::read_to_string(&out).ok().filter(|text| text.ends_with('\n')));
    let held: Value = serde_json::from_str(&held).unwrap();
    assert_eq!((&held["agent"], &held["already_held"]), (&json!("claude-5e55/a1"), &json!(true)));
}

/// As with `&` in a command that ends: nothing of its shell is above it any more.
#[test]
fn what_a_command_leaves_behind_is_its_agents_though_others_run_something() {
    let claude = Claude::new();
    let [mine, others] = ["mine", "others"].map(|name| claude.ground.work.join(name));
    fs::create_dir(&mine).unwrap();
    let goes = with_gate(&others);
    let long = "mkdir here; read word < gate";
    assert_eq!(claude.before(Some("b2"), long), Outcome::Runs);
    let other = Waiting::of(claude.shell(&others, "bash", long));
    until("it runs", || others.join("here").exists().then_some(()));
    script(&mine.join("all.sh"), "flockd lock data.json --json > out.new 2>&1; mv out.new \"$1\"");
    for (number, command) in
        ["nohup ./all.sh one >/dev/null 2>&1 &", "(./all.sh two &) >/dev/null 2>&1"].iter().enumerate()
    {
        next_tick();
        assert_eq!(claude.before(Some("a1"), command), Outcome::Runs);
        Done::of(claude.shell(&mine, "bash", command)).gives(0);
        next_tick();
        claude.after(Some("a1"), command);
        let out = mine.join(["one", "two"][number]);
        let said = until("it is done", || fs::read_to_string(&out).ok());
        let held: Value = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
        assert_eq!(held["agent"], "claude-5e55/a1", "{command}");
    }
    goes();
    other.done().gives(0);
}

/// What goes on in the background asks when its own command has long ended, and others have run something meanwhile.
#[test]
fn what_a_command_has_left_stays_its_agents_whatever_others_run() {
    let claude = Claude::new();
    let dir = |name: &str| claude.ground.work.join(name);
    let text = "mkdir here; read word < gate";
    for (name, command) in [
        ("job", "nohup ./job.sh > /dev/null 2>&1 &"),
        ("own", "nohup setsid ./job.sh > /dev/null 2>&1 &"),
        ("again", "nohup bash -c './job.sh; true' > /dev/null 2>&1 &"),
        ("late", "./job.sh; (./job.sh two > /dev/null 2>&1 &)"),
    ] {
        let goes = with_gate(&dir(name));
        script(
            &dir(name).join("job.sh"),
            "mkdir here$1; read word < gate$1; exec flockd lock data.json --json > out$1",
        );
        let others = dir(&format!("{name}.others"));
        let others_goes = with_gate(&others);
        next_tick();
        assert_eq!(claude.before(Some("b2"), text), Outcome::Runs);
        let other = Waiting::of(claude.shell(&others, "bash", text));
        until("the other runs", || others.join("here").exists().then_some(()));
        let end_other = || {
            others_goes();
            other.done().gives(0);
            claude.after(Some("b2"), text);
        };
        assert_eq!(claude.before(Some("a1"), command), Outcome::Runs);
        let shell = Waiting::of(claude.shell(&dir(name), "bash", command));
        until("its job is there", || dir(name).join("here").exists().then_some(()));
        let mut second = None;
        if name == "late" {
            // It goes on in the background: its end is told at once, and its shell begins another job then.
            claude.after(Some("a1"), command);
            assert!(Command::new("mkfifo").arg(dir(name).join("gatetwo")).status().unwrap().success());
            second = Some(fs::OpenOptions::new().read(true).write(true).open(dir(name).join("gatetwo")).unwrap());
            goes();
            shell.done().gives(0);
            until("its second job is there", || dir(name).join("heretwo").exists().then_some(()));
            end_other();
        } else {
            shell.done().gives(0);
            claude.after(Some("a1"), command);
            end_other();
            goes();
        }
        if let Some(gate) = &mut second {
            gate.write_all(b"go\n").unwrap();
        }
        let out = dir(name).join(if second.is_some() { "outtwo" } else { "out" });
        let done = || fs::read_to_string(&out).ok().filter(|said| said.ends_with('\n'));
        let held: Value = serde_json::from_str(&until("it is done", done)).unwrap();
        assert_eq!(held["agent"], "claude-5e55/a1", "{name}");
    }
}

/// Hooks come in any order, and each sees all that was left: where two may have left it, nobody guesses. What a running
/// command has started is not left at all.
#[test]
fn a_hook_does_not_take_what_another_command_has_left_or_still_runs() {
    let claude = Claude::new();
    for (name, command) in [("left", "./job.sh > /dev/null 2>&1 &"), ("runs", "setsid -w ./job.sh; true")] {
        let dir = claude.ground.work.join(name);
        let goes = with_gate(&dir);
        script(&dir.join("job.sh"), "mkdir here; read word < gate; flockd lock data.json --json > out 2>&1");
        next_tick();
        assert_eq!(claude.before(Some("b2"), "true"), Outcome::Runs);
        Done::of(claude.shell(&dir, "bash", "true")).gives(0);
        assert_eq!(claude.before(Some("a1"), command), Outcome::Runs);
        let shell = Waiting::of(claude.shell(&dir, "bash", command));
        until("its job is there", || dir.join("here").exists().then_some(()));
        claude.after(Some("b2"), "true");
        if name == "left" {
            shell.done().gives(0);
            claude.after(Some("a1"), command);
            goes();
        } else {
            goes();
            shell.done().gives(0);
            claude.after(Some("a1"), command);
        }
        let out = || fs::read_to_string(dir.join("out")).ok().filter(|said| said.ends_with('\n'));
        let said = until("it is done", out);
        match name {
            "left" => assert!(said.contains("a command of any of claude-5e55/a1, claude-5e55/b2:"), "{said}"),
            _ => assert_eq!(serde_json::from_str::<Value>(&said).unwrap()["agent"], "claude-5e55/a1", "{said}"),
        }
    }
}

#[test]
fn whoever_runs_no_sub_agents_hears_nothing_of_a_home_that_is_not_there() {
    let claude = Claude::new();
    let input = payload("claude-code", "before_edit", &claude.ground.work, SESSION);
    let mut input: Value = serde_json::from_str(&input).unwrap();
    (input["tool_name"], input["tool_input"]) = ("Bash".into(), json!({ "command": "ls" }));
    fs::write(claude.ground.work.join(".flockd.toml"), "strict = true").unwrap();
    let mut hook = claude.ground.hook_command("claude-code", "");
    hook.env_remove("FLOCKD_HOME").env_remove("XDG_STATE_HOME").env_remove("HOME");
    let done = crate::client::fed(hook, &input.to_string());
    assert_eq!(Outcome::of("claude-code", &done), Outcome::Runs);
}

/// Its job is there before the hook of its end, and another's command that a person has forbidden may be meant as well.
#[test]
fn what_a_command_leaves_waits_for_its_hook_where_it_may_be_of_several() {
    let claude = Claude::new();
    let dir = claude.ground.work.join("d");
    let goes = with_gate(&dir);
    script(&dir.join("job.sh"), "mkdir here; read word < gate; exec flockd lock data.json --json > out 2>&1");
    assert_eq!(claude.before(Some("b2"), "forbidden"), Outcome::Runs);
    let command = "./job.sh > /dev/null 2>&1 &";
    assert_eq!(claude.before(Some("a1"), command), Outcome::Runs);
    Done::of(claude.shell(&dir, "bash", command)).gives(0);
    until("its job is there", || dir.join("here").exists().then_some(()));
    goes();
    // It looks for the notes, and waits when they leave it open.
    let pid = until("it asks", || {
        let comm = |pid: &str| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let cwd = |pid: &str| fs::read_link(format!("/proc/{pid}/cwd")).ok();
        let all = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.file_name().into_string().unwrap());
        all.into_iter().find(|pid| comm(pid) == "flockd\n" && cwd(pid).as_deref() == Some(&dir))
    });
    let waits = || fs::read_dir(format!("/proc/{pid}/fd")).ok();
    let watches = |entry: fs::DirEntry| fs::read_link(entry.path()).is_ok_and(|to| to.ends_with("anon_inode:inotify"));
    until("it waits", || waits()?.flatten().any(watches).then_some(()));
    claude.after(Some("a1"), command);
    let out = dir.join("out");
    let said = until("it is done", || fs::read_to_string(&out).ok().filter(|said| said.ends_with('\n')));
    let held: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(held["agent"], "claude-5e55/a1");
}

#[test]
fn a_command_that_another_hook_has_changed_is_its_agents_and_ends() {
    let claude = Claude::new();
    let (said, runs) = ("flockd lock data.json # said", "flockd lock data.json --json");
    for subagent in ["a1", "b2", "c3"] {
        let call = |event: &str, command: &str| {
            claude.hook_of("", event, Some(subagent), "Bash", &json!({ "command": command }), subagent)
        };
        assert_eq!(call("PreToolUse", said), Outcome::Runs);
        let held = claude.runs(runs).gives(0).json();
        // It is told as it was run.
        assert_eq!(call("PostToolUse", runs), Outcome::Runs);
        assert_eq!(held["agent"], format!("claude-5e55/{subagent}"));
        claude.ground.flockd(&format!("claude-5e55/{subagent}"), "unlock data.json").gives(0);
        next_tick();
        assert_eq!(claude.runs(runs).gives(0).json()["agent"], HEAD, "a person types the same");
        claude.ground.flockd(HEAD, "unlock data.json").gives(0);
    }
}

/// As from the program's own settings, which its hooks and shells have in their environment and it has not itself.
#[test]
fn a_name_that_hooks_were_given_is_that_above_sub_agents_whoever_gave_it() {
    let mut claude = Claude::named("ada");
    let command = "flockd lock data.json --json";
    assert_eq!(claude.before(Some("a1"), command), Outcome::Runs);
    let own = std::mem::take(&mut claude.named);
    let mut shell = Command::new(claude.ground.work.join("claude"));
    let like = claude.shell(&claude.ground.work, "bash", command);
    shell.args(["env", &format!("FLOCKD_AGENT={own}"), "bash", "-c", &around(command)]);
    shell.envs(like.get_envs().filter_map(|(name, value)| Some((name, value?)))).current_dir(&claude.ground.work);
    assert_eq!(Done::of(shell).gives(0).json()["agent"], "ada/a1");
}

#[test]
fn in_a_process_namespace_of_its_own_a_command_is_its_agents() {
    let claude = Claude::new();
    if !Command::new("unshare").args(["-pf", "--mount-proc", "true"]).status().is_ok_and(|done| done.success()) {
        return;
    }
    let command = "unshare -pf --mount-proc bash -c 'flockd ls > /dev/null && flockd lock x --json'";
    let held = claude.calls(Some("a1"), command).gives(0).json();
    // Nothing outside is seen from within, so it is the only one that has a command.
    assert_eq!(held["agent"], "claude-5e55/a1");
}

#[test]
fn words_that_a_person_has_before_each_command_change_nothing() {
    let claude = Claude::new();
    let command = "flockd lock data.json --json";
    for (place, before) in ["eval \"$(true)\"\n", "eval ''; true <<E\nit's\nE\n"].iter().enumerate() {
        // Who had a command when the shell began would not tell, since two had.
        let (text, other) = (format!("{command} # {place}"), format!("true # {place}"));
        assert_eq!(claude.before(Some("b2"), &other), Outcome::Runs);
        assert_eq!(claude.before(Some("a1"), &text), Outcome::Runs);
        let shell = claude.shell_with(&claude.ground.work, "bash", &format!("{before}{}", around(&text)));
        let held = Done::of(shell).gives(0).json();
        claude.after(Some("a1"), &text);
        claude.after(Some("b2"), &other);
        assert_eq!(held["agent"], "claude-5e55/a1", "{before}");
    }
}

#[test]
fn a_command_that_did_not_run_takes_nobodys_name() {
    let claude = Claude::new();
    let lock = "flockd lock x --json";
    claude.ground.flockd("bo", "lock data.json").gives(0);
    let command = "flockd lock x --json; : > data.json";
    claude.before(Some("a1"), command).refused();
    next_tick();
    assert_eq!(claude.runs(command).gives(0).json()["agent"], HEAD);
    let toml = claude.ground.work.join(".flockd.toml");
    claude.ground.flockd(HEAD, "unlock x").gives(0);
    fs::write(&toml, "strict = true\nnonsense").unwrap();
    claude.before(Some("a1"), command).refused();
    fs::remove_file(toml).unwrap();
    next_tick();
    assert_eq!(claude.runs(command).gives(0).json()["agent"], HEAD);
    // What a person forbids is told to no hook; it ends with its agent, or with the turn.
    assert_eq!(claude.before(Some("a1"), lock), Outcome::Runs);
    let stopped = json!({ "task_id": "a1" });
    assert_eq!(claude.hook("", "PostToolUse", None, "TaskStop", &stopped), Outcome::Runs);
    next_tick();
    assert_eq!(claude.runs(lock).gives(0).json()["agent"], HEAD);
    assert_eq!(claude.before(Some("a1"), lock), Outcome::Runs);
    claude.moment("subagent_end");
    next_tick();
    assert_eq!(claude.runs(lock).gives(0).json()["agent"], HEAD);
    claude.ground.flockd(HEAD, "unlock x").gives(0);
    for moment in ["turn_start", "turn_end"] {
        assert_eq!(claude.before(None, lock), Outcome::Runs);
        claude.moment(moment);
        let held = claude.calls(Some("a1"), lock).gives(0).json();
        assert_eq!(held["agent"], "claude-5e55/a1", "{moment}");
    }
}

#[test]
fn where_a_command_cannot_be_noted_all_else_goes_on() {
    let claude = Claude::new();
    claude.ground.flockd("bo", "lock other.json").gives(0);
    fs::write(claude.ground.home.join("commands"), "").unwrap();
    let told = claude.before(Some("a1"), ": > data.json").told();
    assert!(told.contains("claude-5e55/a1 runs cannot be noted, so `flockd` in it acts as claude-5e55: "), "{told}");
    assert_eq!(claude.before(None, ": > mine.json"), Outcome::Runs, "the session's own agent has its name anyway");
    claude.before(Some("a1"), ": > other.json").refused();
    let held = |agent: &str, file: &str| (agent.to_owned(), file.to_owned());
    let (own, below) = (held(HEAD, "mine.json"), held("claude-5e55/a1", "data.json"));
    assert_eq!(claude.ground.held(), [held("bo", "other.json"), own, below.clone()]);
    claude.moment("turn_end");
    assert_eq!(claude.ground.held(), [held("bo", "other.json"), below]);
    claude.moment("session_end");
    assert_eq!(claude.ground.held(), [held("bo", "other.json")]);
    fs::write(claude.ground.work.join(".flockd.toml"), "strict = true").unwrap();
    let why = claude.before(Some("a1"), "true").refused();
    assert!(why.contains("cannot be noted") && why.contains("strict"), "{why}");
    assert_eq!(claude.before(None, "true"), Outcome::Runs);
}

#[test]
fn nothing_is_noted_for_whoever_runs_no_sub_agents() {
    let claude = Claude::new();
    let commands = claude.ground.home.join("commands");
    claude.calls(None, "true").gives(0);
    assert!(!claude.ground.home.exists());
    claude.moment("subagent_start");
    assert_eq!(fs::read_dir(&commands).unwrap().count(), 1);
    // From then on, what the session's own agent runs is told from what its sub-agents run.
    assert_eq!(claude.before(None, "flockd lock x"), Outcome::Runs);
    assert_eq!(claude.before(Some("a1"), "flockd lock x"), Outcome::Runs);
    claude.runs("flockd lock x").gives(2).says(&["a command of any of claude-5e55, claude-5e55/a1:"]);
}

#[test]
fn the_guard_of_git_refuses_also_where_it_cannot_tell_who_commits() {
    let claude = Claude::new();
    let git = "git init -q . && git add data.json && flockd git-guard install > /dev/null";
    fs::write(claude.ground.work.join("data.json"), "").unwrap();
    claude.runs(git).gives(0);
    claude.ground.flockd("bo", "lock data.json").gives(0);
    let commit = "git -c user.name=a -c user.email=a@b commit -q -m wip";
    assert_eq!(claude.before(Some("a1"), commit), Outcome::Runs);
    assert_eq!(claude.before(Some("b2"), commit), Outcome::Runs);
    claude.runs(commit).gives(1).says(&["bo holds"]);
    claude.ground.flockd("bo", "unlock data.json").gives(0);
    claude.runs(commit).gives(0);
}

/// What these tests let the program tell, it tells with the settings that are installed.
#[test]
fn installed_settings_have_all_that_notes_are_made_by() {
    let claude = Claude::new();
    let mut install = claude.ground.command("", &["install", "--client", "claude-code"]);
    install.env("HOME", &claude.ground.work).env_remove("CLAUDE_CONFIG_DIR");
    Done::of(install).gives(0);
    let text = fs::read_to_string(claude.ground.work.join(".claude/settings.json")).unwrap();
    let settings: Value = serde_json::from_str(&text).unwrap();
    for event in ["PreToolUse", "PostToolUse", "PostToolUseFailure"] {
        let tools = settings["hooks"][event][0]["matcher"].as_str().unwrap();
        for tool in ["Bash", "Monitor"] {
            assert!(tools.split('|').any(|named| named == tool), "{event}: {tools}");
        }
    }
    for event in ["UserPromptSubmit", "Stop", "SubagentStart", "SubagentStop", "SessionEnd"] {
        assert!(settings["hooks"][event].is_array(), "{event}");
    }
    for tool in ["Monitor", "Bash"] {
        let given = json!({ "command": "flockd lock data.json --json" });
        assert_eq!(claude.hook("", "PreToolUse", Some("a1"), tool, &given), Outcome::Runs);
        assert_eq!(claude.runs("flockd lock data.json --json").gives(0).json()["agent"], "claude-5e55/a1", "{tool}");
        for end in ["PostToolUse", "PostToolUseFailure"] {
            assert_eq!(claude.hook("", end, Some("a1"), tool, &given), Outcome::Runs);
        }
        next_tick();
        assert_eq!(claude.runs("flockd lock -n data.json --json").gives(1).json()["acquired"], false, "{tool}");
    }
}

#[test]
fn in_another_shell_it_is_the_same() {
    let claude = Claude::new();
    let command = "flockd lock data.json --json";
    for shell in ["dash", "zsh"] {
        if Command::new(shell).args(["-c", "true"]).status().is_err() {
            continue;
        }
        assert_eq!(claude.before(Some("a1"), command), Outcome::Runs);
        let done = Done::of(claude.shell(&claude.ground.work, shell, command));
        claude.after(Some("a1"), command);
        assert_eq!(done.json()["agent"], "claude-5e55/a1", "{shell}");
    }
}
