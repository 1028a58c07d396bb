//! OpenClaw's plugin, in a Node.js that plays OpenClaw: what reaches the model, and when.

use crate::client::Outcome;
use crate::util::Ground;
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// Calls a handler for each line of stdin, and says what it came to.
const HOST: &str = r#"
import { createInterface } from "node:readline";
const { default: plugin } = await import(process.argv[1]);
const handlers = {};
const warnings = [];
plugin.register({
  pluginConfig: { command: process.argv[2] },
  config: {},
  runtime: { agent: { resolveAgentWorkspaceDir: () => process.cwd() } },
  logger: { warn: (text) => void warnings.push(text) },
  on: (name, handler, options) => {
    handlers[name] = handler;
    handlers[`matcher of ${name}`] = () => options?.matcher;
  },
});
handlers.warnings = () => warnings.splice(0);
handlers.oddities = async () => {
  for (const name of ["before_prompt_build", "before_tool_call", "after_tool_call", "agent_end", "session_end"]) {
    await handlers[name](undefined, undefined);
    await handlers[name](null, { sessionKey: "s", sessionId: "1" });
  }
  handlers.resolve_exec_env(undefined, undefined);
  return handlers.before_tool_call({ toolName: "write", params: { path: "b", size: 1n } }, { sessionKey: "s" });
};
for await (const line of createInterface({ input: process.stdin })) {
  const [name, event, context] = JSON.parse(line);
  const result = handlers[name] ? await handlers[name](event, context) : "nobody listens";
  console.log(JSON.stringify(result ?? null));
}
"#;

/// A gateway with the plugin in it.
struct Gateway {
    node: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Gateway {
    /// None where there is no Node.js.
    fn new(ground: &Ground, program: &str) -> Option<Gateway> {
        if Command::new("node").arg("--version").output().is_err() {
            eprintln!("there is no node here: OpenClaw's plugin is not tested");
            return None;
        }
        let plugin = Path::new(env!("CARGO_MANIFEST_DIR")).join("integrations/openclaw/plugin/index.js");
        let args = ["--input-type=module", "-e", HOST, plugin.to_str().unwrap(), program];
        let mut command = ground.environment(Command::new("node"), "", &args);
        command.env_remove("FLOCKD_WORKSPACE").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut node = command.spawn().unwrap();
        let (stdin, stdout) = (node.stdin.take().unwrap(), BufReader::new(node.stdout.take().unwrap()));
        Some(Gateway { node, stdin, stdout })
    }

    fn calls(&mut self, name: &str, event: Value, run: &str, id: &str) -> Value {
        let context = json!({"sessionKey": "ada", "sessionId": id, "runId": run, "agentId": "main"});
        writeln!(self.stdin, "{}", json!([name, event, context])).unwrap();
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{name}: {error}: {line}"))
    }

    /// What is put before the prompt of a run in a session.
    fn prompt(&mut self, run: &str, id: &str) -> String {
        let answer = self.calls("before_prompt_build", json!({"prompt": "go", "messages": []}), run, id);
        answer["prependContext"].as_str().unwrap_or_default().to_owned()
    }

    fn warnings(&mut self) -> String {
        self.calls("warnings", Value::Null, "", "").to_string()
    }

    fn writes(&mut self, file: &str) -> Value {
        let event = json!({"toolName": "write", "toolCallId": "c", "params": {"path": file, "content": "1"}});
        self.calls("before_tool_call", event, "", "s1")
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.node.kill();
        let _ = self.node.wait();
    }
}

#[test]
fn what_is_told_when_a_turn_begins_reaches_openclaws_model() {
    let ground = Ground::new();
    let Some(mut gateway) = Gateway::new(&ground, crate::util::FLOCKD) else { return };
    let breaks = || {
        let id = ground.status().locks[0].lock_id.clone();
        ground.flockd("bo", &format!("break {id} --reason hanging")).gives(0);
    };

    let welcome = gateway.prompt("r1", "s1");
    assert!(welcome.contains("flockd lock PATH"), "{welcome}");
    assert_eq!(gateway.prompt("r1", "s1"), welcome, "a prompt that is built anew says the same");
    assert_eq!(gateway.prompt("r2", "s1"), "");
    assert_eq!(gateway.writes("a.txt"), Value::Null);
    breaks();
    let told = gateway.prompt("r3", "s1");
    assert!(told.contains("your lock on a.txt ended at ") && told.contains("by bo: hanging"), "{told}");
    assert_eq!(gateway.prompt("r3", "s1"), told);
    assert_eq!(gateway.prompt("r4", "s1"), "", "it is told once");

    // What is told along with a tool that runs goes with the next prompt.
    assert_eq!(gateway.writes("a.txt"), Value::Null);
    breaks();
    assert_eq!(gateway.writes("b.txt"), Value::Null);
    let told = gateway.prompt("r5", "s1");
    assert!(told.contains("your lock on a.txt ended at ") && !told.contains("flockd lock PATH"), "{told}");
    assert_eq!(gateway.prompt("r6", "s1"), "");
    // flockd tells of it until a prompt has, and the prompt says it once.
    assert_eq!(gateway.writes("c.txt"), Value::Null);
    let held = ground.status().locks.into_iter().find(|held| held.file_id == "c.txt").unwrap();
    ground.flockd("bo", &format!("break {} --reason hanging", held.lock_id)).gives(0);
    let written = json!({"toolName": "write", "toolCallId": "c", "params": {"path": "c.txt", "content": "1"}});
    assert_eq!(gateway.calls("after_tool_call", written, "", "s1"), Value::Null);
    let told = gateway.prompt("r7", "s1");
    assert_eq!(told.matches("your lock on c.txt ended at ").count(), 1, "{told}");
    assert_eq!(gateway.prompt("r7a", "s1"), "");

    // Who waits is said as it is when the turn begins, and not as it was.
    let waits = ground.queue("cy", "b.txt");
    ground.until_waiting(&["cy"]);
    assert_eq!(gateway.writes("b.txt"), Value::Null);
    let told = gateway.prompt("r8", "s1");
    assert!(told.contains("cy waits for b.txt"), "{told}");
    assert_eq!(gateway.writes("b.txt"), Value::Null);
    assert_eq!(gateway.calls("agent_end", json!({}), "r8", "s1"), Value::Null);
    drop(waits);
    assert_eq!(gateway.prompt("r9", "s1"), "");

    // Another agent's edit is refused as before, and a session after this one is greeted.
    ground.hook("openclaw", "--wait 0", "before_edit", "bo");
    let refused = gateway.writes("data.json");
    assert_eq!(refused["block"], true, "{refused}");
    assert!(refused["blockReason"].as_str().unwrap().contains("is locked by openclaw-bo"), "{refused}");
    assert!(gateway.prompt("r10", "s2").contains("flockd lock PATH"));
}

#[test]
fn a_program_that_is_missing_stops_nothing_in_openclaw() {
    let ground = Ground::new();
    let Some(mut gateway) = Gateway::new(&ground, "/nowhere/flockd") else { return };
    assert_eq!(gateway.prompt("r1", "s1"), "");
    assert_eq!(gateway.writes("a.txt"), Value::Null);
    for name in ["after_tool_call", "agent_end", "session_end"] {
        assert_eq!(gateway.calls(name, json!({}), "r1", "s1"), Value::Null, "{name}");
    }
    assert_eq!(ground.hook("openclaw", "", "before_edit", "bo"), Outcome::Runs);
}

/// A program that says and does this when it is called in the place of flockd.
fn instead(ground: &Ground, script: &str) -> String {
    let path = ground.work.join("instead");
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_tool_of_ours_is_called_in_the_name_of_its_session_in_openclaw() {
    let ground = Ground::new();
    let Some(mut gateway) = Gateway::new(&ground, crate::util::FLOCKD) else { return };
    let matcher = gateway.calls("matcher of before_tool_call", Value::Null, "", "");
    let tools: Vec<Value> = serde_json::from_str(include_str!("../mcp/tools.json")).unwrap();
    for tool in tools {
        let name = format!("flockd__{}", tool["name"].as_str().unwrap());
        assert!(matcher.as_array().unwrap().contains(&json!(name)), "{name}: {matcher}");
        let event = json!({"toolName": name, "params": {"path": "a.txt"}});
        let answer = gateway.calls("before_tool_call", event, "", "s1");
        assert_eq!(answer, json!({"params": {"path": "a.txt", "agent": "openclaw-ada"}}), "{name}");
    }
    assert_eq!(gateway.warnings(), "[]");
}

#[test]
fn odd_answers_and_odd_questions_are_warned_of_and_stop_nothing_in_openclaw() {
    let ground = Ground::new();
    for (script, why) in [
        ("exit 3", "it ended with 3"),
        ("kill -9 $$", "it ended with SIGKILL"),
        ("echo null", "no JSON object"),
        ("echo '{'", "no JSON object"),
        // Its child keeps stdout for longer than OpenClaw would wait.
        ("sleep 300 & exit 0", ""),
    ] {
        let Some(mut gateway) = Gateway::new(&ground, &instead(&ground, script)) else { return };
        assert_eq!(gateway.writes("a.txt"), Value::Null, "{script}");
        let warnings = gateway.warnings();
        assert!(warnings.contains(why) && why.is_empty() == (warnings == "[]"), "{script}: {warnings}");
    }
    let Some(mut gateway) = Gateway::new(&ground, crate::util::FLOCKD) else { return };
    assert_eq!(gateway.calls("oddities", Value::Null, "", ""), Value::Null);
    assert_eq!(ground.held(), [("openclaw-s".to_owned(), "b".to_owned())]);
}

#[test]
fn what_openclaw_is_told_comes_whole_and_late_rather_than_never() {
    let ground = Ground::new();
    // The first answer is none; the next tells in two pieces, with a letter on the border.
    let script = "test -e asked || { : > asked; exit 1; }\nprintf '{\"tell\":\"\\303'; sleep 0.2; printf '\\251\"}'";
    let Some(mut gateway) = Gateway::new(&ground, &instead(&ground, script)) else { return };
    assert_eq!(gateway.prompt("r1", "s1"), "");
    assert_eq!(gateway.prompt("r2", "s1"), "é");

    // The session began for nobody, so its welcome is still to come.
    let script = format!("test -e later || {{ : > later; exit 1; }}\nexec {} \"$@\"", crate::util::FLOCKD);
    let Some(mut gateway) = Gateway::new(&ground, &instead(&ground, &script)) else { return };
    assert_eq!(gateway.prompt("r1", "s1"), "");
    assert!(gateway.prompt("r2", "s1").contains("flockd lock PATH"));
    assert_eq!(gateway.prompt("r3", "s1"), "");

    // Of very much the begin is told, and how much more there was.
    let script =
        "case $(cat) in *before_tool*) printf '{\"tell\":\"'; seq -s '\\n' 60 | tr -d '\\012'; printf '\"}' ;; esac";
    let Some(mut gateway) = Gateway::new(&ground, &instead(&ground, script)) else { return };
    gateway.writes("a.txt");
    let told = gateway.prompt("r1", "s1");
    assert!(told.lines().count() == 51 && told.contains("flockd: 10 more"), "{told}");
    assert_eq!(gateway.prompt("r2", "s1"), "");
}
