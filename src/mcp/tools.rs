//! The tools as clients see them: names, texts, annotations and schemas, the same for everybody at all times.
//!
//! Schemas are written out by hand and say no more than every client takes: one type each, nothing referred to, no
//! formats. Names are only added to.

use crate::limits;
use crate::wire::Mode;
use rmcp::model::{JsonObject, Tool, ToolAnnotations};
use serde_json::{Value, json};
use std::sync::Arc;

/// What the server says of itself.
pub(super) const INSTRUCTIONS: &str = "Several agents work on these files at the same time: call lock_file before you \
                                       change a file (lock_files before you change several together), and unlock_file \
                                       as soon as you are done. If acquired is false, \
                                       another agent has it: do not write, but read holders and advice, do something \
                                       else first, or call lock_file again. A lock ends by itself after its lease; \
                                       what you lost, and who waits for you, is told in the next answer.";

/// A tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Lock,
    Unlock,
    Status,
    LockAll,
    Renew,
    Write,
    Stats,
}

/// All of them, in the order in which they are listed.
const ALL: [Kind; 7] = [Kind::Lock, Kind::Unlock, Kind::Status, Kind::LockAll, Kind::Renew, Kind::Write, Kind::Stats];

impl Kind {
    pub(super) fn named(name: &str) -> Option<Kind> {
        ALL.into_iter().find(|kind| kind.name() == name)
    }

    fn name(self) -> &'static str {
        match self {
            Kind::Lock => "lock_file",
            Kind::Unlock => "unlock_file",
            Kind::Status => "check_lock_status",
            Kind::LockAll => "lock_files",
            Kind::Renew => "renew_lock",
            Kind::Write => "write_file",
            Kind::Stats => "lock_stats",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Kind::Lock => "Lock a file",
            Kind::Unlock => "Release a lock",
            Kind::Status => "Who holds what",
            Kind::LockAll => "Lock several files",
            Kind::Renew => "Renew a lock",
            Kind::Write => "Write a file under its lock",
            Kind::Stats => "How busy the locks are",
        }
    }

    fn description(self) -> &'static str {
        match self {
            Kind::Lock => {
                "Lock a file or directory before you change it, so that no other agent changes it meanwhile. If others \
                 hold it, this waits for them up to wait_seconds, first come first served. acquired=false is an \
                 answer, not an error: holders says who has it, why and until when, advice what to do; do not write \
                 then. Asking again for what you hold renews it. The lock ends when you call unlock_file, or \
                 ttl_seconds after your last call about it."
            }
            Kind::Unlock => {
                "Release a lock as soon as you are done, so that whoever waits gets it at once. Name it by path as you \
                 locked it, or by lock_id; all=true releases all of yours. If you had lost it before, the error says \
                 when and to whom: read the file again then."
            }
            Kind::Status => {
                "See who holds and who waits for a file or directory, since when, why and until when, and whether you \
                 may write it now (may_write). Without path: all locks. Takes nothing and waits for nobody."
            }
            Kind::LockAll => {
                "Lock several files or directories before a change that needs all of them: you get all or none, and \
                 hold none of them while you wait for the others. All else is as with lock_file; unlock_file releases \
                 them one by one, or all."
            }
            Kind::Renew => {
                "Keep a lock of yours longer: its lease starts anew. Needed only when you work on something for long \
                 without any call about it."
            }
            Kind::Write => {
                "Replace a whole file by content, in one step, only if you may write it: under the exclusive lock you \
                 hold, or else under one taken for the moment. If your lock was lost meanwhile, nothing is written. \
                 With if_unchanged, nothing is written if the file is not what you read. written=false says why, and \
                 who holds it."
            }
            Kind::Stats => {
                "See how busy the locks are: how many are held, how many wait, how often a lock could not be had at \
                 once, and which files are asked for most. Look here to choose work that nobody else is at. Takes \
                 nothing and waits for nobody."
            }
        }
    }

    fn annotations(self) -> ToolAnnotations {
        let (reads, destroys) = (matches!(self, Kind::Status | Kind::Stats), self == Kind::Write);
        // Each may be called twice with no other effect than once, and none looks beyond this machine.
        ToolAnnotations::from_raw(Some(self.title().to_owned()), Some(reads), Some(destroys), Some(true), Some(false))
    }

    /// What an answer has in any case, errors included.
    pub(super) fn nothing(self) -> Value {
        match self {
            Kind::Lock => json!({ "acquired": false }),
            Kind::LockAll => json!({ "acquired": false, "locks": [] }),
            Kind::Unlock => json!({ "released": [] }),
            Kind::Status => json!({ "locks": [], "waiters": [] }),
            Kind::Renew => json!({ "renewed": [] }),
            Kind::Write => json!({ "written": false }),
            Kind::Stats => json!({ "hottest": [] }),
        }
    }

    fn input(self) -> JsonObject {
        let (path, agent) = (("path", string(PATH)), ("agent", string(AGENT)));
        match self {
            Kind::Lock => object(&["path"], vec![path, mode(), wait(), ttl("600"), note(), agent]),
            Kind::LockAll => {
                let text = format!("1 to {}, none inside another. {PATH}", limits::SET_MAX);
                let paths = ("paths", described(array(word("string")), &text));
                object(&["paths"], vec![paths, mode_of_all(), wait(), ttl("600"), note(), agent])
            }
            Kind::Unlock => object(&[], vec![path, lock_id(), all("Release all locks of yours."), agent]),
            Kind::Status | Kind::Stats => object(&[], vec![path, agent]),
            Kind::Renew => {
                object(&[], vec![path, lock_id(), all("Renew all locks of yours."), ttl("as long as before"), agent])
            }
            Kind::Write => {
                let content = ("content", string("The whole new content of the file, as text."));
                let unchanged = (
                    "if_unchanged",
                    string("BLAKE3 hash that the file must have now, 64 hexadecimal digits, or \"absent\"."),
                );
                let text = "Only under the lock with this fence.";
                let fence = ("fence", number("integer", text, 1, limits::FENCE_END - 1));
                let file = ("path", string(FILE));
                object(&["path", "content"], vec![file, content, unchanged, fence, wait(), note(), agent])
            }
        }
    }

    /// The first argument that is not there, or of another type than the schema says, and what it must be, in words.
    /// What is null counts as left out.
    pub(super) fn misfit(self, arguments: &JsonObject) -> Option<String> {
        let schema = self.input();
        let known = schema["properties"].as_object()?;
        let wrong = |(name, value): (&String, &Value)| {
            let Some(schema) = known.get(name) else {
                let there = known.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
                let instead = match (self, name.as_str()) {
                    (Kind::Lock, "paths") => "; several paths are for lock_files",
                    (Kind::LockAll, "path") => "; one path is for lock_file",
                    _ => "",
                };
                return Some(format!("{} has no argument {name}, but {there}{instead}", self.name()));
            };
            let must = wanted_of(value, schema)?;
            Some(format!("{name} is {}, and must be {must}", brief(value)))
        };
        arguments.iter().filter(|(_, value)| !value.is_null()).find_map(wrong)
    }

    /// The words that a model acts on; answers carry more than is listed here, named as everywhere in flockd.
    fn output(self) -> JsonObject {
        let (own, required): (Vec<Property>, &[&str]) = match self {
            Kind::Lock => (granted("acquired"), &["acquired"]),
            Kind::LockAll => (granted_all(), &["acquired", "locks"]),
            Kind::Unlock => (vec![("released", array(held()))], &["released"]),
            Kind::Renew => (vec![("renewed", array(held()))], &["renewed"]),
            Kind::Status => (status(), &["locks", "waiters"]),
            Kind::Write => {
                let mut own = granted("written");
                own.extend([("bytes", word("integer")), ("hash", string("BLAKE3 of the file as it is now."))]);
                (own, &["written"])
            }
            Kind::Stats => (stats(), &["hottest"]),
        };
        let beside = [
            ("code", string("Why not, for programs.")),
            ("message", string("With an error: what happened and what to do.")),
            ("lost", described(array(ended()), "Locks that you lost and had not heard of.")),
            ("wanted", described(array(wanted()), "Who waits for locks of yours.")),
            ("warning", word("string")),
        ];
        object(required, own.into_iter().chain(beside).collect())
    }

    fn tool(self) -> Tool {
        let input = Arc::new(self.input());
        Tool::new(self.name(), self.description(), input)
            .with_title(self.title())
            .with_raw_output_schema(Arc::new(self.output()))
            .with_annotations(self.annotations())
    }
}

/// The list, whoever asks.
pub(super) fn list() -> Vec<Tool> {
    ALL.into_iter().map(Kind::tool).collect()
}

// ── Schemas ─────────────────────────────────────────────────────────────────────────────────────────────────────────

type Property = (&'static str, Value);

/// Longest string that an error quotes, in characters.
const BRIEF: usize = 40;

/// What a value must be and is not.
fn wanted_of(value: &Value, schema: &Value) -> Option<String> {
    let (fits, must) = match schema["type"].as_str()? {
        "string" => (value.is_string(), "a string"),
        "number" => (value.is_number(), "a number"),
        "integer" => (value.is_u64(), "a whole number from 0"),
        "boolean" => (value.is_boolean(), "true or false"),
        "array" => (value.as_array().is_some_and(|all| all.iter().all(Value::is_string)), "a list of strings"),
        _ => return None,
    };
    let quotes = if value.is_string() && must != "a list of strings" { ", without quotes" } else { "" };
    (!fits).then(|| format!("{must}{quotes}"))
}

/// A value in a few characters.
fn brief(value: &Value) -> String {
    match value {
        Value::String(text) if text.chars().count() > BRIEF => "a string".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        other => other.to_string(),
    }
}

const PATH: &str = "File (need not exist) or directory with all below it; glob:PATTERN for all files that match; @NAME \
                    for something that is no file. Relative to the workspace, or absolute.";
const FILE: &str = "File, which need not exist; its directory must. No directory, pattern or @NAME. Relative to the \
                    workspace, or absolute.";
const AGENT: &str = "Leave it out: where it is needed, hooks put it in.";

fn object(required: &[&str], properties: Vec<Property>) -> JsonObject {
    let properties: JsonObject = properties.into_iter().map(|(name, schema)| (name.to_owned(), schema)).collect();
    let mut schema = JsonObject::new();
    schema.insert("type".to_owned(), "object".into());
    schema.insert("properties".to_owned(), properties.into());
    schema.insert("required".to_owned(), required.into());
    schema
}

fn word(kind: &str) -> Value {
    json!({ "type": kind })
}

fn described(mut schema: Value, description: &str) -> Value {
    schema["description"] = description.into();
    schema
}

fn string(description: &str) -> Value {
    described(word("string"), description)
}

fn boolean(description: &str) -> Value {
    described(word("boolean"), description)
}

fn number(kind: &str, description: &str, minimum: u64, maximum: u64) -> Value {
    json!({ "type": kind, "description": description, "minimum": minimum, "maximum": maximum })
}

fn array(items: Value) -> Value {
    json!({ "type": "array", "items": items })
}

/// An object of words, and what else it has.
fn row(words: &[&'static str], others: Vec<Property>) -> Value {
    let words = words.iter().map(|name| (*name, word("string")));
    object(&["agent", "path"], words.chain(others).collect()).into()
}

fn mode() -> Property {
    let modes = [Mode::Exclusive, Mode::Shared, Mode::Advisory].map(|mode| mode.to_string());
    let text = "exclusive (default) to change it, shared to read it while nobody changes it, advisory to be seen \
                there: it keeps nobody out and allows no write.";
    ("mode", json!({ "type": "string", "enum": modes, "description": text }))
}

/// Advisory locks wait for nobody, so that nobody needs them together.
fn mode_of_all() -> Property {
    let modes = [Mode::Exclusive, Mode::Shared].map(|mode| mode.to_string());
    let text = "exclusive (default) to change them, shared to read them while nobody changes them.";
    ("mode", json!({ "type": "string", "enum": modes, "description": text }))
}

fn wait() -> Property {
    let text = format!("How long to wait while others hold it; 0 tries. Default {}.", limits::WAIT_DEFAULT / 1000);
    ("wait_seconds", number("number", &text, 0, limits::MCP_WAIT_MAX / 1000))
}

fn ttl(default: &str) -> Property {
    let text = format!("Lease: how long you keep it after your last call about it. Default {default}.");
    ("ttl_seconds", number("number", &text, 1, limits::TTL_MAX / 1000))
}

fn note() -> Property {
    ("note", string("Why, in a few words, for whoever waits."))
}

fn lock_id() -> Property {
    ("lock_id", string("Id of the lock, lk_…, instead of path."))
}

fn all(description: &str) -> Property {
    ("all", boolean(description))
}

/// A lock that is held or not.
fn granted(name: &'static str) -> Vec<Property> {
    let rank = "With advisory: your place among those there; 1 leads.";
    let own = [(name, word("boolean")), ("rank", described(word("integer"), rank)), ("leader", word("string"))];
    own.into_iter().chain(lock()).chain(refused()).collect()
}

/// Locks that are all held or none.
fn granted_all() -> Vec<Property> {
    let lock = object(&["lock_id", "path"], lock().collect());
    let locks = described(array(lock.into()), "All of them, in the order of paths, or none.");
    [("acquired", word("boolean")), ("locks", locks)].into_iter().chain(refused()).collect()
}

fn lock() -> impl Iterator<Item = Property> {
    [
        ("lock_id", word("string")),
        ("path", string("The whole path.")),
        ("mode", word("string")),
        ("fence", described(word("integer"), "Fencing token: larger with every grant.")),
        ("expires_in_ms", described(word("integer"), "What is left of the lease.")),
        ("already_held", boolean("You held it before; its lease has started anew.")),
        ("upgraded", boolean("A shared lock of yours, made exclusive.")),
    ]
    .into_iter()
}

fn refused() -> impl Iterator<Item = Property> {
    [
        ("holders", described(array(held()), "Who has it, or with a grant who else is there.")),
        ("position", described(word("integer"), "Your place in the queue when the wait ended, from 1.")),
        ("ticket", string("Your place is kept for a while: call again.")),
        ("cycle", described(array(word("string")), "Who waits for whom, if to wait would never end.")),
        ("advice", string("What to do.")),
    ]
    .into_iter()
}

fn held() -> Value {
    row(&["agent", "mode", "lock_id", "path", "since", "note"], vec![("expires_in_ms", word("integer"))])
}

fn status() -> Vec<Property> {
    let place = vec![("position", word("integer")), ("holders", array(held()))];
    vec![
        ("may_write", boolean("With path: you hold it exclusively.")),
        ("held_by_you", boolean("With path: a lock of yours is about it.")),
        ("held_by_others", boolean("With path: a lock of others is about it.")),
        ("locks", array(held())),
        ("waiters", array(row(&["agent", "mode", "path", "since", "note"], place))),
        ("more_locks", described(word("integer"), "How many more there are.")),
        ("more_waiters", described(word("integer"), "How many more there are.")),
    ]
}

fn stats() -> Vec<Property> {
    let figures = ["requests", "contended", "contended_percent", "refused", "held_p95_ms", "waited_p95_ms"];
    let figures = figures.map(|name| (name, word("integer")));
    let hottest = [("path", word("string"))].into_iter().chain(figures);
    let hottest = object(&["path"], hottest.collect());
    vec![
        ("since", string("When counting began.")),
        ("locks", described(word("integer"), "Held now.")),
        ("waiters", described(word("integer"), "Waiting now.")),
        ("requests", described(word("integer"), "Asked for since then.")),
        ("contended", described(word("integer"), "Of these, could not be had at once.")),
        ("contended_percent", word("integer")),
        ("refused", word("integer")),
        ("expired", described(word("integer"), "Locks whose lease ran out.")),
        ("broken", described(word("integer"), "Locks that somebody broke.")),
        ("hottest", described(array(hottest.into()), "What is asked for most, the hottest first.")),
    ]
}

fn ended() -> Value {
    row(&["agent", "lock_id", "path", "reason", "by", "note", "at"], Vec::new())
}

fn wanted() -> Value {
    row(&["agent", "path", "mode", "note"], Vec::new())
}
