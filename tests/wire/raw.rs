//! A connection that sends and reads whatever a test wants.

use crate::util::Ground;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// An answer that never comes is given up after this long.
const GUARD: Duration = Duration::from_secs(120);

pub struct Raw {
    pub stream: UnixStream,
    lines: BufReader<UnixStream>,
}

impl Raw {
    /// Connects and says nothing. The daemon must run.
    pub fn connect(ground: &Ground) -> Raw {
        let stream = UnixStream::connect(ground.home.join("sock")).unwrap();
        stream.set_read_timeout(Some(GUARD)).unwrap();
        let lines = BufReader::new(stream.try_clone().unwrap());
        Raw { stream, lines }
    }

    /// Connects and greets in the name of an agent.
    pub fn greeted(ground: &Ground, agent: &str) -> Raw {
        let mut raw = Raw::connect(ground);
        raw.send(&hello(ground, agent, None));
        assert!(raw.read()["hello"]["pid"].is_number());
        raw
    }

    pub fn send(&mut self, line: &Value) {
        self.send_text(&line.to_string());
    }

    pub fn send_text(&mut self, line: &str) {
        self.stream.write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    /// The next line, none when the daemon has closed the connection.
    pub fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        match self.lines.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => Some(line.trim_end().to_owned()),
            // Closed with something of ours unread.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => None,
            Err(error) => panic!("no answer: {error}"),
        }
    }

    #[track_caller]
    pub fn read(&mut self) -> Value {
        let line = self.line().expect("the connection is open");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    pub fn ask(&mut self, line: Value) -> Value {
        self.send(&line);
        self.read()
    }

    /// The next line is an error with this code, about this request.
    #[track_caller]
    pub fn fails(&mut self, id: Value, code: &str) -> String {
        let answer = self.read();
        assert_eq!((&answer["id"], &answer["error"]["code"]), (&id, &code.into()), "{answer}");
        answer["error"]["message"].as_str().unwrap().to_owned()
    }

    /// The daemon has closed the connection.
    #[track_caller]
    pub fn is_closed(&mut self) {
        let line = self.line();
        assert_eq!(line, None);
    }
}

/// A greeting; `session` as on the wire.
pub fn hello(ground: &Ground, agent: &str, session: Option<Value>) -> Value {
    let work = ground.work.to_str().unwrap();
    let mut hello = json!({"protocol": 1, "version": "0.1.0", "agent": agent, "cwd": work, "workspace": work});
    if let Some(session) = session {
        hello["session"] = session;
    }
    json!({ "hello": hello })
}

/// A ground whose daemon runs.
pub fn served() -> Ground {
    let ground = Ground::new();
    ground.flockd("", "daemon start").gives(0);
    ground
}
