//! Messages as lines and back. A line is one JSON document and ends in a newline; JSON itself never contains one.

use super::{Answer, HelloLine, Line, Request};
use serde::Serialize;

/// The line of a message, newline included.
///
/// # Panics
/// Never for the messages of this module: their maps have string keys and nothing in them can fail to serialise.
pub fn encode(message: &impl Serialize) -> Vec<u8> {
    let mut line = Vec::with_capacity(256);
    encode_into(&mut line, message);
    line
}

/// Appends the line of a message.
pub fn encode_into(out: &mut Vec<u8>, message: &impl Serialize) {
    serde_json::to_writer(&mut *out, message).expect("messages have string keys and Vec takes every byte");
    out.push(b'\n');
}

/// Reads a request.
///
/// # Errors
/// A sentence that says what does not fit, and the id of the request where at least that could be read.
pub fn decode_request(line: &[u8]) -> Result<Request, (Option<u64>, String)> {
    if !is_object(line) {
        return Err((None, "a request is one JSON object on one line".to_owned()));
    }
    serde_json::from_slice(line).map_err(|error| (id_of(line), format!("the request cannot be read: {error}")))
}

/// Reads the first line of a client.
///
/// # Errors
/// A sentence that says what does not fit.
pub fn decode_hello(line: &[u8]) -> Result<HelloLine, String> {
    if !is_object(line) {
        return Err("the first line must be a hello: one JSON object on one line".to_owned());
    }
    serde_json::from_slice(line).map_err(|error| format!("the first line must be a hello: {error}"))
}

/// Reads a line of the daemon.
///
/// # Errors
/// A sentence that says what does not fit.
pub fn decode_line(line: &[u8]) -> Result<Line, String> {
    // Nearly all are answers. To try that first takes half the time: serde reads what could be one of several things
    // into a tree first.
    if let Ok(answer) = serde_json::from_slice::<Answer>(line)
        && (answer.ok.is_some() || answer.error.is_some())
    {
        return Ok(Line::Answer(Box::new(answer)));
    }
    serde_json::from_slice(line).map_err(|error| format!("the daemon's answer cannot be read: {error}"))
}

/// Whether a line begins as an object: serde would read a struct from an array as well, field by field.
fn is_object(line: &[u8]) -> bool {
    line.trim_ascii_start().first() == Some(&b'{')
}

/// The id of a request that cannot be read otherwise, so that its sender knows which one it was.
fn id_of(line: &[u8]) -> Option<u64> {
    serde_json::from_slice::<serde_json::Value>(line).ok()?.get("id")?.as_u64()
}
