//! JSON as people write it: read so that nothing goes that a value cannot keep, and written in the form that it had.

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::ser::Serialize;
use serde_json::{Map, Value};
use std::collections::HashSet;
use std::fmt;

/// Begins a string that is a number which would be written otherwise than it was, such as one of thirty digits.
const NUMBER: &str = r#""\u0000number:"#;

/// What the text says, or why it cannot be said for certain.
pub(super) fn read(text: &str) -> Result<Value, String> {
    let text = with_odd_numbers_as_strings(text);
    let is = serde_json::from_str::<Unique>(&text).and_then(|_| serde_json::from_str(&text));
    is.map_err(|error| format!("this is no plain JSON ({error})"))
}

/// Writes a value with the indent and the line end of the text that it was.
pub(super) fn written(value: &Value, before: Option<&str>) -> Result<String, String> {
    let indent = before.and_then(|text| text.lines().nth(1)).map_or("", |line| {
        let text = line.trim_start();
        &line[..line.len() - text.len()]
    });
    let indent = if indent.is_empty() { "  " } else { indent };
    let mut out = Vec::new();
    let form = serde_json::ser::PrettyFormatter::with_indent(indent.as_bytes());
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, form)).map_err(|error| error.to_string())?;
    let out = String::from_utf8(out).map_err(|error| error.to_string())?;
    let mut pieces = out.split(NUMBER);
    let mut out = pieces.next().unwrap_or_default().to_owned();
    for (number, rest) in pieces.filter_map(|piece| piece.split_once('"')) {
        out.extend([number, rest]);
    }
    if before.is_none_or(|text| text.ends_with('\n')) {
        out.push('\n');
    }
    Ok(out)
}

/// What somebody has to add who does it by hand, in one line; nothing where nothing is to be added.
pub(super) fn to_add(ours: Map<String, Value>) -> String {
    match ours.is_empty() {
        true => String::new(),
        false => format!("; this belongs into it: {}", Value::from(ours)),
    }
}

fn with_odd_numbers_as_strings(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '"' => string(rest),
            '-' | '0'..='9' => rest.find(|c: char| !matches!(c, '0'..='9' | '+' | '-' | '.' | 'e' | 'E')),
            _ => rest.find(|c: char| c == '"' || c == '-' || c.is_ascii_digit()),
        };
        let (piece, after) = rest.split_at(length.unwrap_or(rest.len()));
        let is_number = matches!(first, '-' | '0'..='9') && serde_json::from_str::<IgnoredAny>(piece).is_ok();
        let is_kept = || serde_json::from_str::<Value>(piece).is_ok_and(|number| *number.to_string() == *piece);
        match is_number && !is_kept() {
            true => out.extend([NUMBER, piece, "\""]),
            false => out.push_str(piece),
        }
        rest = after;
    }
    out
}

/// How long the string is that a text begins with.
fn string(text: &str) -> Option<usize> {
    let mut is_escaped = false;
    let end = text.bytes().skip(1).position(|byte| {
        let ends = byte == b'"' && !is_escaped;
        is_escaped = byte == b'\\' && !is_escaped;
        ends
    });
    end.map(|end| end + 2)
}

/// A document none of whose objects has a key twice: a value would keep the last one only.
struct Unique;

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Unique, D::Error> {
        from.deserialize_any(Look)
    }
}

struct Look;

impl<'de> Visitor<'de> for Look {
    type Value = Unique;

    fn expecting(&self, out: &mut fmt::Formatter) -> fmt::Result {
        out.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Unique, A::Error> {
        let mut keys = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            map.next_value::<Unique>()?;
            if let Some(key) = keys.replace(key) {
                return Err(A::Error::custom(format!("the key {key:?} is there twice")));
            }
        }
        Ok(Unique)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Unique, A::Error> {
        while items.next_element::<Unique>()?.is_some() {}
        Ok(Unique)
    }

    fn visit_unit<E>(self) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_str<E>(self, _: &str) -> Result<Unique, E> {
        Ok(Unique)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_they_were() {
        let text = r#"{
  "a": [
    12345678901234567890123,
    1.50,
    -1e400,
    7,
    "-1.50 \" 2.0"
  ]
}
"#;
        assert_eq!(written(&read(text).unwrap(), Some(text)).unwrap(), text);
        assert_eq!(read("[7, 1.5]").unwrap(), serde_json::json!([7, 1.5]));
        for wrong in ["[01]", "[1.]", "[--1]", "[1 2]", "\"", "{\"a\":1,\"a\":1}", "[{\"b\":{},\"b\":[]}]"] {
            read(wrong).unwrap_err();
        }
    }
}
