//! The MCP server in a client's settings, started and asked as the client does it.

use super::trial::{Trial, is_this_program};
use crate::limits;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

/// How long it may take to start and to answer; clients wait for 10 s and more.
const WITHIN: Duration = Duration::from_secs(10);
/// How long it may take to end with its stdin.
const ENDS_WITHIN: Duration = Duration::from_secs(2);
/// The tool by which ours is known.
const TOOL: &str = "lock_file";

/// Whether an entry of our name starts a program of ours, also by way of another, such as `env`.
pub(super) fn is_meant(entry: &Value) -> bool {
    words(entry).any(|word| word.contains("flockd"))
}

/// Whether an entry starts nothing but this program. The environment may make another of it.
pub(super) fn is_this_alone(entry: &Value) -> bool {
    let variables = entry["env"].as_object().into_iter().flatten();
    let mut words = words(entry);
    words.next().is_some_and(is_this_program)
        && words.next() == Some("mcp")
        && variables.map(|(name, _)| name.as_str()).all(|name| ["FLOCKD_AGENT", "FLOCKD_HOME"].contains(&name))
}

/// The same entry with this very program, whatever its name leads to from where it would be started.
pub(super) fn by_this(entry: &Value) -> Value {
    let own = std::env::current_exe().map(|own| own.display().to_string()).unwrap_or_default();
    let kept = ["args", "env", "enabled", "disabled"].into_iter();
    let mut entry: Value = kept.filter_map(|key| Some((key, entry.get(key)?.clone()))).collect();
    entry["command"] = own.into();
    entry
}

/// Whether somebody has switched the entry off.
pub(super) fn is_off(entry: &Value) -> bool {
    entry["enabled"] == false || entry["disabled"] == true
}

/// Command and arguments.
fn words(entry: &Value) -> impl Iterator<Item = &str> {
    let args = entry["args"].as_array().into_iter().flatten();
    std::iter::once(&entry["command"]).chain(args).filter_map(Value::as_str)
}

/// The entry as somebody would type it.
pub(super) fn shown(entry: &Value) -> String {
    words(entry).collect::<Vec<_>>().join(" ")
}

/// The name that an entry gives its server.
fn name_in(entry: &Value) -> Option<&str> {
    let mut words = words(entry).skip_while(|word| *word != "--agent" && !word.starts_with("--agent="));
    let flag = words.next().and_then(|word| word.strip_prefix("--agent=").or_else(|| words.next()));
    flag.or_else(|| entry["env"]["FLOCKD_AGENT"].as_str()).filter(|name| !name.is_empty())
}

/// Starts what the entry says, greets it and asks for its tools.
pub(super) fn tried(entry: &Value) -> Result<String, String> {
    let found = answers(entry)?;
    Ok(match name_in(entry) {
        None => found,
        Some(name) => format!(
            "{found}; it asks in the name of {name} for every session, while hooks and commands have each session's: \
             take the name out, unless they are given the same"
        ),
    })
}

fn answers(entry: &Value) -> Result<String, String> {
    let command = shown(entry);
    let mut program = Command::new(entry["command"].as_str().unwrap_or_default());
    program.args(words(entry).skip(1)).stdin(Stdio::piped()).stdout(Stdio::piped());
    let variables = entry["env"].as_object().into_iter().flatten();
    program.envs(variables.filter_map(|(name, value)| Some((name, value.as_str()?))));
    entry["cwd"].as_str().map(|cwd| program.current_dir(cwd));
    let mut running = Trial::start(&mut program, false).map_err(|error| match error.kind() {
        ErrorKind::NotFound => format!("there is no such program: {command}; install it again"),
        _ => format!("`{command}` does not start: {error}"),
    })?;
    talk(&mut running.child).map_err(|why| {
        let text = running.said();
        format!("`{command}` is no MCP server of locks: {why}{}{text}", if text.is_empty() { "" } else { ": " })
    })
}

fn talk(running: &mut Child) -> Result<String, String> {
    let until = Instant::now() + WITHIN;
    let (mut stdin, stdout) = running.stdin.take().zip(running.stdout.take()).ok_or("it has no stdin and stdout")?;
    let (tell, lines) = mpsc::channel();
    // It ends with the process, whose stdout it reads, or with whoever listens.
    std::thread::spawn(move || {
        for line in BufReader::new(stdout.take(limits::MCP_LINE_MAX as u64)).lines().map_while(Result::ok) {
            if tell.send(line).is_err() {
                return;
            }
        }
    });
    // Whoever does not listen does not answer either, and that tells more.
    let mut say = |message: Value| drop(writeln!(stdin, "{message}"));
    let who = json!({"name": "flockd-doctor", "version": env!("CARGO_PKG_VERSION")});
    let greeting = json!({"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": who});
    say(json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": greeting}));
    answer(&lines, 1, until)?;
    say(json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
    say(json!({"jsonrpc": "2.0", "id": 2, "method": "tools/list"}));
    let listed = answer(&lines, 2, until)?;
    let tools = listed["tools"].as_array().ok_or("it lists no tools")?;
    if !tools.iter().any(|tool| tool["name"] == TOOL) {
        return Err(format!("it has no tool {TOOL}"));
    }
    drop(stdin);
    let until = Instant::now() + ENDS_WITHIN;
    while lines.recv_timeout(until.saturating_duration_since(Instant::now())).is_ok() {}
    Ok(format!("it starts and offers {} tools, {TOOL} among them", tools.len()))
}

/// The result of the request with this id.
fn answer(lines: &Receiver<String>, id: u64, until: Instant) -> Result<Value, String> {
    loop {
        let line =
            lines.recv_timeout(until.saturating_duration_since(Instant::now())).map_err(|error| match error {
                mpsc::RecvTimeoutError::Timeout => format!("no answer within {} s", WITHIN.as_secs()),
                mpsc::RecvTimeoutError::Disconnected => "it ended without an answer".to_owned(),
            })?;
        let message: Value = serde_json::from_str(&line).map_err(|_| "it says something that is no JSON".to_owned())?;
        // A request of its own may have the same number.
        if message["id"] == id && message.get("method").is_none() {
            return match message.get("result") {
                Some(result) => Ok(result.clone()),
                None => Err(format!("it answers with an error: {}", message["error"]["message"])),
            };
        }
    }
}
