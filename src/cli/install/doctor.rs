//! `flockd doctor`: whether what is installed works, by calling it as the client would. A hook with a wrong path ends
//! with 127, which clients take for a yes, one that is switched off is not called, and a server that does not start is
//! missing without a word: nothing else would tell.

use super::place::Places;
use super::trial::{Trial, hook_alone, is_this_program};
use super::{CLIENTS, Client, Common, Exit, Failure, Hooks, SERVER, client_of, is_doubtful_hook, print, server};
use crate::cli::git_guard;
use crate::client::Place;
use crate::hooks::{Enforcement, Settings};
use crate::os::home::Home;
use crate::wire::{Answer, Body, Op, Request};
use serde::Serialize;
use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// How long a hook may take that is not to wait for a lock.
const HOOK_WITHIN: Duration = Duration::from_secs(10);
/// Somebody wanted it so.
const SWITCHED_OFF: &str = "switched off in its settings";

/// What was looked at, and what is wrong with it.
#[derive(Serialize)]
struct Finding {
    what: String,
    /// `works`, `broken`, `absent`, or `untried`.
    state: &'static str,
    /// What it does, or what is wrong and what to do.
    said: String,
}

impl Finding {
    fn of(what: impl Into<String>, found: Result<String, String>) -> Finding {
        let (state, said) = match found {
            Ok(said) => ("works", said),
            Err(said) => ("broken", said),
        };
        Finding { what: what.into(), state, said }
    }
}

/// Looks at everything.
pub(in crate::cli) fn doctor(common: &Common) -> Result<Exit, Failure> {
    let places = Places::here(false).map_err(|why| Failure::new(Exit::Usage, why))?;
    let guard = git_guard::looked_at().map(|found| Finding::of("git-guard", found));
    told(common, &places, CLIENTS.iter().collect(), guard.into_iter().chain(workspace()).collect())
}

/// Looks at the daemon and these clients, in the user's settings and in the project's.
pub(super) fn of(common: &Common, places: &Places, clients: Vec<&Client>) -> Result<Exit, Failure> {
    told(common, places, clients, Vec::new())
}

fn told(common: &Common, places: &Places, clients: Vec<&Client>, more: Vec<Finding>) -> Result<Exit, Failure> {
    let mut findings = vec![Finding::of("daemon", daemon(common))];
    let project = Places::here(true).ok().filter(|project| project.project.as_deref() != Some(&places.home));
    let places: Vec<&Places> = std::iter::once(places).chain(&project).collect();
    let words = clients.iter().map(|client| client.word).collect::<Vec<_>>().join(",");
    let installed: Vec<Vec<Finding>> = clients.iter().map(|client| looked_at(client, &places)).collect();
    let is_anything = installed.iter().any(|findings| !findings.is_empty());
    findings.extend(installed.into_iter().flatten());
    if !is_anything {
        let said = format!("nothing is installed for any of them; `flockd install --client {words}`");
        findings.push(Finding { what: "coding agents".to_owned(), state: "absent", said });
    }
    findings.extend(more);
    let is_well = findings.iter().all(|finding| finding.state != "broken");
    if common.json {
        print::json(&findings);
    } else {
        for Finding { what, state, said } in &findings {
            print::out(&format!("{what:<18} {state:<7} {said}\n"));
        }
    }
    Ok(if is_well && is_anything { Exit::Yes } else { Exit::No })
}

/// Hooks and servers of one client, wherever they are; nothing if nothing of ours is there.
fn looked_at(client: &Client, places: &[&Places]) -> Vec<Finding> {
    let mut hooks = Hooks::default();
    let mut again = String::new();
    let mut servers: Vec<Value> = Vec::new();
    let (mut unknown, mut untried, mut missing): (Vec<String>, Vec<String>, Vec<String>) = Default::default();
    for place in places {
        // What a project starts may have come with a repository.
        let is_trusted = place.project.is_none();
        match (client.hooks)(place) {
            Ok(Hooks { commands, lacks, is_off }) => {
                if !lacks.is_empty() && again.is_empty() {
                    again = installed_again(client, place, &commands);
                }
                for hook in commands {
                    match is_trusted {
                        true => hooks.commands.push(hook),
                        false => of_project(hook, &mut hooks.commands, &mut untried, &mut missing),
                    }
                }
                hooks.lacks.extend(lacks);
                hooks.is_off |= is_off;
            }
            Err(why) => unknown.push(why),
        }
        match (client.server)(place) {
            Ok(entry) if is_trusted || !server::is_meant(&entry) => servers.push(entry),
            Ok(entry) if server::is_this_alone(&entry) => servers.push(server::by_this(&entry)),
            Ok(entry) => untried.push(server::shown(&entry)),
            Err(why) => unknown.push(why),
        }
    }
    unknown.dedup();
    for list in [&mut hooks.commands, &mut hooks.lacks] {
        list.sort();
        list.dedup();
    }
    servers.retain(|entry| !entry.is_null());
    servers.dedup();
    for list in [&mut untried, &mut missing] {
        list.sort();
        list.dedup();
    }
    let untried: Vec<Finding> = untried.into_iter().map(|command| not_tried(client, &command)).collect();
    let nothing = untried.is_empty()
        && missing.is_empty()
        && hooks.commands.is_empty()
        && hooks.lacks.is_empty()
        && servers.is_empty();
    let unknown = unknown.into_iter().map(|why| {
        let why = format!("{why}, so nobody knows what of flockd works there");
        Finding::of(format!("{} settings", client.word), Err(why))
    });
    let mut findings: Vec<Finding> = unknown.collect();
    if nothing {
        return findings;
    }
    let is_known = findings.is_empty();
    findings.extend(about_hooks(client, hooks, places, &again));
    findings.extend(about_servers(client, servers));
    if !untried.is_empty() {
        // What is there and was not tried is not absent.
        findings.retain(|finding| finding.state != "absent");
    }
    findings.extend(untried);
    findings.extend(missing.iter().map(|hook| {
        let said = format!("there is no such program, so nothing is guarded: {hook}; install it again");
        Finding::of(format!("{} hook", client.word), Err(said))
    }));
    findings.retain(|finding| is_known || finding.state != "absent");
    findings
}

/// The command that puts right what is not there, in the same place and mode.
fn installed_again(client: &Client, place: &Places, commands: &[String]) -> String {
    let project = if place.project.is_some() { " --project" } else { "" };
    let mode = match commands.first().map_or("auto", |command| mode(command)) {
        mode @ ("check" | "warn") => format!(" --mode {mode}"),
        _ => String::new(),
    };
    format!("flockd install --client {}{project}{mode}", client.word)
}

/// What is not there, and is no failure: whoever gave --no-mcp or --no-hooks wanted it so.
fn absent(client: &Client, what: &str) -> Finding {
    let said = format!("not installed; `flockd install --client {}` would add it", client.word);
    Finding { what: format!("{} {what}", client.word), state: "absent", said }
}

/// A hook of a project's settings: tried by way of this very program if it is nothing but a call of that, whatever the
/// name leads to where a shell would look for it.
fn of_project(hook: String, run: &mut Vec<String>, untried: &mut Vec<String>, missing: &mut Vec<String>) {
    match hook_alone(&hook) {
        Some((program, args)) if is_this_program(program) => match std::env::current_exe() {
            Ok(own) => run.push(format!("{} {args}", super::quoted(&own))),
            Err(_) => untried.push(hook),
        },
        Some((program, _)) if program.contains('/') && !Path::new(program).exists() => missing.push(hook),
        _ => untried.push(hook),
    }
}

/// What nobody but the user can say whether to run.
fn not_tried(client: &Client, command: &str) -> Finding {
    let said = format!(
        "the project's settings start `{command}`, which is not this program alone: look at it, and call it by hand"
    );
    Finding { what: format!("{} project", client.word), state: "untried", said }
}

fn about_hooks(client: &Client, hooks: Hooks, places: &[&Places], again: &str) -> Vec<Finding> {
    let what = format!("{} hook", client.word);
    if hooks.commands.is_empty() && hooks.lacks.is_empty() {
        return vec![absent(client, "hook")];
    }
    if hooks.is_off {
        return vec![Finding { said: SWITCHED_OFF.to_owned(), ..absent(client, "hook") }];
    }
    let mut off: Vec<String> = places.iter().flat_map(|place| (client.off)(place)).collect();
    off.sort();
    off.dedup();
    if !off.is_empty() {
        let said = format!("nothing is guarded: no hook is called as long as {}", off.join(" and "));
        return vec![Finding::of(what, Err(said))];
    }
    let tried = hooks.commands.iter().map(|hook| Finding::of(&*what, tried(client.word, hook)));
    let lacks = (!hooks.lacks.is_empty()).then(|| {
        let lacks = hooks.lacks.join("; ");
        let said = format!("incomplete: {lacks}; `{again}` would put it right");
        Finding::of(&*what, Err(said))
    });
    // What works where it is called guards little where it is not called.
    let is_whole = lacks.is_none();
    tried.filter(|finding| is_whole || finding.state == "broken").chain(lacks).collect()
}

fn about_servers(client: &Client, servers: Vec<Value>) -> Vec<Finding> {
    let (others, servers): (Vec<Value>, Vec<Value>) = servers.into_iter().partition(|entry| !server::is_meant(entry));
    match (servers.is_empty(), others.is_empty()) {
        (false, _) => servers
            .iter()
            .map(|entry| match server::is_off(entry) {
                true => Finding { said: SWITCHED_OFF.to_owned(), ..absent(client, "mcp") },
                false => Finding::of(format!("{} mcp", client.word), server::tried(entry)),
            })
            .collect(),
        (true, true) => vec![absent(client, "mcp")],
        (true, false) => {
            let said = format!("not installed; the entry {SERVER} starts another program than `flockd mcp`");
            vec![Finding { said, ..absent(client, "mcp") }]
        }
    }
}

/// What the workspace around wants of hooks, if that is less than what they are tried for: samples are no files of it.
fn workspace() -> Option<Finding> {
    let cwd = std::env::current_dir().ok()?;
    let root = Place::root_above(&cwd).unwrap_or(&cwd);
    let does = match Settings::of(root) {
        Err(broken) => return Some(Finding::of("workspace", Err(broken.why))),
        Ok(settings) => match settings.enforcement {
            Enforcement::Deny => return None,
            Enforcement::Warn => "hooks refuse nothing here and only warn: enforcement is \"warn\"",
            Enforcement::Off => "hooks do nothing here: enforcement is \"off\"",
        },
    };
    Some(Finding { what: "workspace".to_owned(), state: "absent", said: format!("{does} in {}", root.display()) })
}

fn daemon(common: &Common) -> Result<String, String> {
    let home = Home::from_env().map_err(|error| error.0)?;
    let client = common.connect(None, None).map_err(|failure| failure.message)?;
    match client.call(Request::new(Op::Daemon)).map_err(|error| error.to_string())? {
        Answer { ok: Some(Body::Daemon(daemon)), .. } => match daemon.trouble {
            Some(trouble) => Err(trouble),
            None => Ok(format!("process {}, version {}, {}", daemon.pid, daemon.version, home.dir.display())),
        },
        other => Err(format!("an answer of the wrong kind: {other:?}")),
    }
}

/// One agent's edit is let through, another's is refused or told, and the end of the turn frees it.
fn tried(word: &str, command: &str) -> Result<String, String> {
    let by_hand = match is_doubtful_hook(command, word) {
        true => "; `flockd install` does not take it for its own: mend it or take it out by hand",
        false => "",
    };
    if let Some(named) = client_of(command).filter(|named| ![word, "auto"].contains(named)) {
        return Err(format!("`{command}` is for the client {named}, and this is {word}; install it again{by_hand}"));
    }
    called(word, command).map_err(|why| format!("{why}{by_hand}"))
}

fn called(word: &str, command: &str) -> Result<String, String> {
    let ground = tempfile::Builder::new().prefix("flockd-doctor").tempdir().map_err(|error| error.to_string())?;
    let call = |flags, event, session| fire(command, flags, &sample(word, event, session, ground.path()));
    let pid = std::process::id();
    let (one, two) = (format!("doctor-{pid}-1"), format!("doctor-{pid}-2"));
    let first = call("", Moment::Edit, &one)?;
    let found = if first.is_refusal() {
        Err(format!("a free file was refused: {}", first.text))
    } else if !first.text.is_empty() {
        Err(first.text)
    } else {
        let mode = mode(command);
        // In other modes an edit takes nothing, so that there would be nothing to be refused.
        if mode != "auto" {
            call("--mode auto", Moment::Edit, &one)?;
        }
        let second = call("", Moment::Edit, &two)?;
        let names = second.text.contains(&one);
        let reason = if second.text.is_empty() { String::new() } else { format!(": {}", second.text) };
        match (mode, second.is_refusal()) {
            ("auto", true) if names => {
                Ok("an edit takes its lock for its session; one of what another holds is refused, and names it")
            }
            ("check", true) if names => {
                Ok("mode check: an edit of what another agent holds is refused, and names it; an edit takes no lock")
            }
            ("warn", false) if names => {
                Ok("mode warn: an edit of what another agent holds is told, not refused; an edit takes no lock")
            }
            ("warn", true) => Err(format!("an edit was refused, though mode is warn{reason}")),
            (_, true) => Err(format!("an edit was refused without naming who holds the file{reason}")),
            ("warn", false) => Err(format!("an edit of what another agent holds was not told{reason}")),
            (_, false) => Err(format!("an edit of what another agent holds was let through{reason}")),
        }
    };
    for session in [&one, &two] {
        call("", Moment::End, session)?;
    }
    found.map(str::to_owned)
}

/// The mode that a command says.
fn mode(command: &str) -> &str {
    let mut mode = "auto";
    let mut words = command.split_whitespace();
    while let Some(word) = words.next() {
        match word.strip_prefix("--mode") {
            Some("") => mode = words.next().unwrap_or_default(),
            Some(named) => mode = named.strip_prefix('=').unwrap_or(mode),
            None => {}
        }
    }
    mode
}

#[derive(Clone, Copy)]
enum Moment {
    Edit,
    End,
}

/// What the client would say.
fn sample(word: &str, moment: Moment, session: &str, dir: &Path) -> Value {
    let file = dir.join("sample").display().to_string();
    let cwd = dir.display().to_string();
    let event = |name: &str| json!({"session_id": session, "cwd": cwd, "hook_event_name": name});
    let with_tool = |name: &str, tool: &str, given: Value| {
        let mut event = event(name);
        event["tool_name"] = tool.into();
        event["tool_input"] = given;
        event
    };
    match (word, moment) {
        ("gemini", Moment::Edit) => with_tool("BeforeTool", "write_file", json!({"file_path": file, "content": ""})),
        ("gemini", Moment::End) => event("SessionEnd"),
        ("openclaw", moment) => json!({
            "openclaw_event": if matches!(moment, Moment::Edit) { "before_tool_call" } else { "session_end" },
            "sessionKey": session, "cwd": cwd, "toolName": "write", "params": {"path": file},
        }),
        ("codex", Moment::Edit) => {
            let patch = format!("*** Begin Patch\n*** Add File: {file}\n+x\n*** End Patch\n");
            with_tool("PreToolUse", "apply_patch", json!({"command": patch}))
        }
        (_, Moment::Edit) => with_tool("PreToolUse", "Write", json!({"file_path": file, "content": ""})),
        (_, Moment::End) => event("SessionEnd"),
    }
}

/// What came of a call.
struct Fired {
    status: i32,
    /// All that was said.
    text: String,
}

impl Fired {
    fn is_refusal(&self) -> bool {
        self.status == 2 || self.text.contains("\"deny\"") || self.text.contains("\"block\":true")
    }
}

/// Calls a command as clients do: by a shell, with the payload on stdin.
fn fire(command: &str, flags: &str, payload: &Value) -> Result<Fired, String> {
    let mut shell = Command::new("sh");
    // It tries whether another is refused, so it does not wait for long.
    shell
        .args(["-c", &format!("{command} {flags} --wait 0")])
        .env_remove("FLOCKD_AGENT")
        .env_remove("FLOCKD_WORKSPACE");
    // Sessions of the samples are agents of their own, also where an agent runs this.
    shell.env("FLOCKD_AGENT_PROGRAMS", "");
    let mut running = Trial::start(shell.stdin(Stdio::piped()), true).map_err(|error| format!("sh: {error}"))?;
    // Whoever does not listen ends with a status that tells more.
    let _ = running.child.stdin.take().map(|mut stdin| stdin.write_all(payload.to_string().as_bytes()));
    let ended = running.wait(HOOK_WITHIN).map_err(|error| error.to_string())?;
    let text = running.said();
    match ended.map(|status| status.code()) {
        Some(Some(status @ (0 | 2))) => Ok(Fired { status, text }),
        Some(Some(127)) => Err(format!("there is no such program, so nothing is guarded: {command}; install it again")),
        Some(status) => Err(format!("`{command}` ended with {status:?}, so nothing is guarded: {text}")),
        None => {
            let seconds = HOOK_WITHIN.as_secs();
            Err(format!("`{command}` has not answered within {seconds} s, so nothing is guarded: {text}"))
        }
    }
}
