//! A client of hooks: what it sends, and how it reads what comes back.

use crate::util::{Done, Ground};
use serde_json::Value;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// The clients that there are.
pub const CLIENTS: [&str; 4] = ["claude-code", "codex", "gemini", "openclaw"];

/// Those whose sub-agents are told apart by an id of their own.
pub const WITH_SUBAGENTS: [&str; 2] = ["claude-code", "codex"];

/// What an agent of this session is called.
pub fn agent(client: &str, session: &str) -> String {
    format!("{}-{session}", client.strip_suffix("-code").unwrap_or(client))
}

/// A payload as the client sends it from this directory in this session.
pub fn payload(client: &str, name: &str, cwd: &Path, session: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/hooks/payloads/{client}/{name}.json"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let cwd = cwd.to_str().unwrap();
    text.replace("$SESSION", session).replace("$CWD", cwd).replace("$HOME", "/home/somebody")
}

/// What a client makes of the answer.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The tool runs, and nobody is told anything.
    Runs,
    /// The tool runs, and the model is told this.
    RunsAndTellsModel(String),
    /// The tool runs, and the person is told this.
    RunsAndTellsPerson(String),
    /// The tool does not run; the model is told why.
    Refused(String),
}

impl Outcome {
    /// By the rules of the client.
    pub fn of(client: &str, done: &Done) -> Outcome {
        let json: Option<Value> = match done.out.is_empty() {
            true => None,
            false => Some(done.json()),
        };
        let json = json.unwrap_or_default();
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let refused = match client {
            "claude-code" | "codex" => (done.code == Some(2)).then(|| done.err.trim_end().to_owned()),
            "gemini" => text(&json["reason"]).filter(|_| json["decision"] == "deny"),
            _ => text(&json["reason"]).filter(|_| json["block"] == true),
        };
        if let Some(why) = refused {
            return Outcome::Refused(why);
        }
        assert_eq!(done.code, Some(0), "only 0 and a refusal have a meaning: {done:?}");
        let model = text(&json["hookSpecificOutput"]["additionalContext"]).or(text(&json["tell"]));
        let person = text(&json["systemMessage"]).or(text(&json["warn"]));
        match (model, person) {
            (Some(model), _) => Outcome::RunsAndTellsModel(model),
            (None, Some(person)) => Outcome::RunsAndTellsPerson(person),
            (None, None) => Outcome::Runs,
        }
    }

    #[track_caller]
    pub fn refused(self) -> String {
        match self {
            Outcome::Refused(why) => why,
            other => panic!("it was not refused: {other:?}"),
        }
    }

    /// What anybody is told while the tool runs.
    #[track_caller]
    pub fn told(self) -> String {
        match self {
            Outcome::RunsAndTellsModel(text) | Outcome::RunsAndTellsPerson(text) => text,
            other => panic!("nobody is told anything: {other:?}"),
        }
    }
}

impl Ground {
    /// A hook that has been started and not yet been told anything.
    pub fn hook_started(&self, client: &str, flags: &str) -> Child {
        self.hook_command(client, flags).spawn().unwrap()
    }

    pub fn hook_command(&self, client: &str, flags: &str) -> Command {
        let args = format!("hook --client {client} {flags}");
        let args: Vec<&str> = args.split_whitespace().collect();
        let mut command = self.command("", &args);
        // Hooks go by the place of the file.
        command.env_remove("FLOCKD_WORKSPACE");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Calls a hook with whatever is to be on its stdin.
    pub fn hook_says(&self, client: &str, flags: &str, input: &str) -> Done {
        fed(self.hook_command(client, flags), input)
    }

    /// Calls a hook as the client does, in the ground's working directory.
    #[track_caller]
    pub fn hook(&self, client: &str, flags: &str, name: &str, session: &str) -> Outcome {
        Outcome::of(client, &self.hook_says(client, flags, &payload(client, name, &self.work, session)))
    }

    /// Who holds what: names of agents and of files.
    pub fn held(&self) -> Vec<(String, String)> {
        let mut held: Vec<_> = self.status().locks.into_iter().map(|lock| (lock.agent, lock.file_id)).collect();
        held.sort();
        held
    }
}

/// Runs a command to its end with this on its stdin.
pub fn fed(mut command: Command, input: &str) -> Done {
    let mut child = command.spawn().unwrap();
    // A hook that is done before it has read everything is no failure.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Done { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}
