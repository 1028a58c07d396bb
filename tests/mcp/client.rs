//! A client of the server: sends lines, reads lines, and holds what a tool answers against the tool's own schema.

use crate::util::Ground;
use rustix::event::{PollFd, PollFlags, Timespec};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// What never comes is given up after this long; nothing here is measured by it.
const GUARD: i64 = 120;

/// The revisions by which each era is spoken here.
pub const OLDER: &str = "2025-11-25";
pub const NEWER: &str = "2026-07-28";

/// Which era a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Era {
    Older,
    Newer,
}

pub const ERAS: [Era; 2] = [Era::Older, Era::Newer];

pub struct Client {
    era: Era,
    process: Child,
    stdin: Option<ChildStdin>,
    lines: BufReader<ChildStdout>,
    next_id: u64,
    /// What came while something else was waited for.
    kept: Vec<Value>,
    schemas: HashMap<String, Value>,
}

/// The server in the name of `agent`, with nothing said yet.
pub fn server(ground: &Ground, agent: &str) -> Command {
    let mut command = ground.command(agent, &["mcp"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}

impl Client {
    /// A client that has greeted.
    pub fn new(ground: &Ground, agent: &str, era: Era) -> Client {
        Client::greeting(server(ground, agent), era)
    }

    /// The same of a server that is started otherwise.
    pub fn greeting(command: Command, era: Era) -> Client {
        let mut client = Client::silent(command, era);
        match era {
            Era::Older => {
                let info = json!({ "name": "t", "version": "1" });
                let greeting = json!({ "protocolVersion": OLDER, "capabilities": {}, "clientInfo": info });
                client.ask("initialize", greeting);
                client.send(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }));
            }
            Era::Newer => drop(client.ask("server/discover", json!({}))),
        }
        client
    }

    /// One that has said nothing yet.
    pub fn silent(mut command: Command, era: Era) -> Client {
        let mut process = command.spawn().unwrap();
        let stdin = process.stdin.take();
        let lines = BufReader::new(process.stdout.take().unwrap());
        Client { era, process, stdin, lines, next_id: 1, kept: Vec::new(), schemas: HashMap::new() }
    }

    pub fn send(&mut self, line: &Value) {
        self.send_text(&line.to_string());
    }

    pub fn send_text(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("stdin is open");
        stdin.write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    /// A request as a line, with what the era wants in each.
    pub fn request(&mut self, method: &str, params: Value) -> (u64, Value) {
        let (id, mut params) = (self.next_id, params);
        self.next_id += 1;
        if self.era == Era::Newer {
            params["_meta"]["io.modelcontextprotocol/protocolVersion"] = NEWER.into();
            params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = json!({});
        }
        (id, json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }))
    }

    /// Sends a request; [`Client::answer`] reads its answer.
    pub fn begin(&mut self, method: &str, params: Value) -> u64 {
        let (id, line) = self.request(method, params);
        self.send(&line);
        id
    }

    pub fn begin_call(&mut self, tool: &str, arguments: Value) -> u64 {
        self.begin("tools/call", json!({ "name": tool, "arguments": arguments }))
    }

    pub fn cancel(&mut self, id: u64) {
        let params = json!({ "requestId": id, "reason": "the client has changed its mind" });
        self.send(&json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": params }));
    }

    /// The next line, none if there will be no more.
    pub fn line(&mut self) -> Option<String> {
        if self.lines.buffer().is_empty() {
            let mut polled = [PollFd::new(self.lines.get_ref(), PollFlags::IN)];
            let within = Timespec { tv_sec: GUARD, tv_nsec: 0 };
            let ready = rustix::io::retry_on_intr(|| rustix::event::poll(&mut polled, Some(&within)));
            assert_eq!(ready, Ok(1), "the server was waited for in vain");
        }
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        Some(line).filter(|line| !line.is_empty())
    }

    /// The next message; all that is on stdout must be one.
    #[track_caller]
    pub fn message(&mut self) -> Value {
        let line = self.line().expect("the server has ended");
        let message: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        assert_eq!(message["jsonrpc"], "2.0", "{line}");
        message
    }

    /// The first message that is like this; others are kept.
    #[track_caller]
    pub fn first(&mut self, is_it: impl Fn(&Value) -> bool) -> Value {
        if let Some(at) = self.kept.iter().position(&is_it) {
            return self.kept.remove(at);
        }
        loop {
            let message = self.message();
            if is_it(&message) {
                return message;
            }
            self.kept.push(message);
        }
    }

    /// The answer to a request: with `result` or with `error`.
    #[track_caller]
    pub fn answer(&mut self, id: u64) -> Value {
        self.first(|message| message["id"] == id && message.get("method").is_none())
    }

    /// The next notification of this kind.
    #[track_caller]
    pub fn notice(&mut self, method: &str) -> Value {
        self.first(|message| message["method"] == method)["params"].take()
    }

    /// What came and nobody has asked for.
    pub fn kept(&self) -> &[Value] {
        &self.kept
    }

    #[track_caller]
    pub fn ask(&mut self, method: &str, params: Value) -> Value {
        let id = self.begin(method, params);
        let mut answer = self.answer(id);
        assert!(answer.get("error").is_none(), "{answer}");
        answer["result"].take()
    }

    /// The code of the error that a request is answered with.
    #[track_caller]
    pub fn fails(&mut self, method: &str, params: Value) -> i64 {
        let id = self.begin(method, params);
        let answer = self.answer(id);
        answer["error"]["code"].as_i64().unwrap_or_else(|| panic!("{answer}"))
    }

    /// Calls a tool that answers: what it says, and its words.
    #[track_caller]
    pub fn call(&mut self, tool: &str, arguments: Value) -> (Value, String) {
        let id = self.begin_call(tool, arguments);
        self.called(tool, id)
    }

    /// The answer to a call that was begun.
    #[track_caller]
    pub fn called(&mut self, tool: &str, id: u64) -> (Value, String) {
        let (is_error, value, text) = self.outcome(tool, id);
        assert!(!is_error, "{text}");
        (value, text)
    }

    /// Calls a tool that answers with an error: its code, and its words.
    #[track_caller]
    pub fn call_fails(&mut self, tool: &str, arguments: Value) -> (String, String) {
        let id = self.begin_call(tool, arguments);
        let (is_error, value, text) = self.outcome(tool, id);
        assert!(is_error, "{text}");
        assert_eq!(value["message"].as_str(), text.lines().next(), "{value}");
        (value["code"].as_str().unwrap().to_owned(), text)
    }

    #[track_caller]
    fn outcome(&mut self, tool: &str, id: u64) -> (bool, Value, String) {
        let schema = self.schema(tool);
        let answer = self.answer(id);
        let result = &answer["result"];
        let value = result["structuredContent"].clone();
        assert_fits(&value, &schema, tool);
        assert_eq!(result["resultType"], if self.era == Era::Newer { json!("complete") } else { Value::Null });
        let text = result["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{answer}"));
        (result["isError"] == true, value, text.to_owned())
    }

    fn schema(&mut self, tool: &str) -> Value {
        if self.schemas.is_empty() {
            let mut listed = self.ask("tools/list", json!({}));
            for tool in listed["tools"].as_array_mut().unwrap() {
                let name = tool["name"].as_str().unwrap().to_owned();
                self.schemas.insert(name, tool["outputSchema"].take());
            }
        }
        self.schemas[tool].clone()
    }

    /// Nobody reads what the server says any more; stdin stays open.
    pub fn stop_reading(self) -> Unread {
        Unread { process: self.process, _stdin: self.stdin }
    }

    /// Closes stdin: the exit status, and what came until then.
    pub fn end(mut self) -> (Option<i32>, Vec<Value>) {
        self.stdin = None;
        let mut all = std::mem::take(&mut self.kept);
        while let Some(line) = self.line() {
            all.push(serde_json::from_str(&line).unwrap());
        }
        (self.process.wait().unwrap().code(), all)
    }
}

/// A server whose stdout nobody reads.
pub struct Unread {
    process: Child,
    _stdin: Option<ChildStdin>,
}

impl Drop for Unread {
    fn drop(&mut self) {
        // Dead already is as good.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What our schemas say: types, required properties, bounds and choices.
#[track_caller]
fn assert_fits(value: &Value, schema: &Value, at: &str) {
    let fits = match schema["type"].as_str().unwrap() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64(),
        "number" => value.is_number(),
        other => panic!("{at}: a type {other}"),
    };
    assert!(fits, "{at} is no {}: {value}", schema["type"]);
    for name in schema["required"].as_array().into_iter().flatten() {
        assert!(value.get(name.as_str().unwrap()).is_some(), "{at} has no {name}: {value}");
    }
    if let (Some(properties), Some(object)) = (schema["properties"].as_object(), value.as_object()) {
        for (name, value) in object {
            assert!(!value.is_null(), "{at}.{name} is null");
            if let Some(schema) = properties.get(name) {
                assert_fits(value, schema, &format!("{at}.{name}"));
            }
        }
    }
    if let Some(number) = value.as_u64() {
        assert!(schema["minimum"].as_u64().is_none_or(|least| number >= least), "{at} is {number}");
        assert!(schema["maximum"].as_u64().is_none_or(|most| number <= most), "{at} is {number}");
    }
    for (number, item) in value.as_array().into_iter().flatten().enumerate() {
        assert_fits(item, &schema["items"], &format!("{at}[{number}]"));
    }
}
