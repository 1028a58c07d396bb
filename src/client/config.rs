//! `.flockd.toml`: what a workspace says about itself. The client reads it where it stands and tells the daemon, which
//! touches no file of a workspace for it.
//!
//! It is read anew whenever a program looks where it is. One that cannot be read is an error with its place in the
//! file, and so is a word that nothing is known of: a setting that is silently ignored is worse than none.

use crate::limits;
use crate::model::{Invalid, Threshold};
use serde::Deserialize;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;
use std::time::Duration;

/// Its name, in the root of the workspace.
pub(super) const NAME: &str = ".flockd.toml";

/// What a workspace says about itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// When a scope counts as contended.
    pub contention: Threshold,
}

/// How hooks honour the locks of others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Enforcement {
    /// Not at all.
    Off,
    /// The agent is told.
    Warn,
    /// The edit is refused.
    #[default]
    Deny,
}

/// The file, table by table.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Toml {
    #[serde(default)]
    contention: Contention,
    /// This and the next are what hooks go by.
    #[cfg_attr(not(feature = "cli"), expect(dead_code, reason = "a library has no hooks"))]
    pub(crate) enforcement: Option<Enforcement>,
    #[cfg_attr(not(feature = "cli"), expect(dead_code, reason = "a library has no hooks"))]
    pub(crate) strict: Option<bool>,
}

/// Judged while it is read, so that what makes no sense is said with its line.
#[derive(Default, Deserialize)]
#[serde(try_from = "ContentionTable")]
struct Contention(Threshold);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ContentionTable {
    requests: Option<u32>,
    within: Option<String>,
}

impl TryFrom<ContentionTable> for Contention {
    type Error = String;

    fn try_from(table: ContentionTable) -> Result<Contention, String> {
        let usual = Threshold::default();
        let requests = table.requests.unwrap_or(usual.requests);
        let within = match &table.within {
            None => usual.within,
            Some(text) => humantime::parse_duration(text).map(milliseconds).map_err(|error| {
                format!("contention.within is {text:?}, which is no duration as in `10s` or `2m` ({error})")
            })?,
        };
        let threshold = Threshold { requests, within };
        threshold.check().map_err(|error| error.0)?;
        Ok(Contention(threshold))
    }
}

impl Config {
    /// What the file in this directory says; a workspace without one says nothing.
    ///
    /// # Errors
    /// The file cannot be read, or says what makes no sense.
    pub fn of(root: &Path) -> Result<Config, Invalid> {
        let toml = understood(root, &bytes_of(root)?)?;
        Ok(Config { contention: toml.contention.0 })
    }
}

/// What stands in the file in this directory, understood or not, and at most a byte more than it may be long.
///
/// # Errors
/// It cannot be read.
pub(crate) fn bytes_of(root: &Path) -> Result<Vec<u8>, Invalid> {
    let path = root.join(NAME);
    let wrong = |what: String| Invalid(format!("{}: {what}", path.display()));
    match path.metadata() {
        Ok(found) if found.is_file() => {}
        // Opening a pipe would wait for whoever writes to it.
        Ok(_) => return Err(wrong("it is no file; the settings of the workspace belong there".to_owned())),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(wrong(format!("it cannot be read ({error})"))),
    }
    let mut bytes = Vec::new();
    let read = File::open(&path).and_then(|file| file.take(limits::CONFIG_MAX + 1).read_to_end(&mut bytes));
    read.map_err(|error| wrong(format!("it cannot be read ({error})")))?;
    Ok(bytes)
}

/// What the file in this directory says, where these bytes stand in it.
///
/// # Errors
/// It says what makes no sense.
pub(crate) fn understood(root: &Path, bytes: &[u8]) -> Result<Toml, Invalid> {
    let said = match std::str::from_utf8(bytes) {
        _ if bytes.len() as u64 > limits::CONFIG_MAX => Err(format!("it is longer than {} bytes", limits::CONFIG_MAX)),
        Ok(text) => parse(text),
        Err(error) => Err(format!("it cannot be read ({error})")),
    };
    said.map_err(|what| Invalid(format!("{}: {what}", root.join(NAME).display())))
}

fn parse(text: &str) -> Result<Toml, String> {
    basic_toml::from_str(text).map_err(|error| with_its_line(text, &error.to_string()))
}

/// An error with the line of the key that it is about: the parser says that of the last table for what it can read and
/// we cannot use.
fn with_its_line(text: &str, said: &str) -> String {
    let quoted = |before: &str| said.split_once(before)?.1.split_once('`').map(|(name, _)| name);
    let ours = || said.strip_prefix("contention.")?.split(' ').next();
    let key = ours().or_else(|| quoted("unknown field `")).or_else(|| quoted("for key `")?.rsplit('.').next());
    let Some(key) = key else { return said.to_owned() };
    let is_its = |line: &str| {
        let after = line.trim_start_matches(['[', ' ', '\t', '"', '\'']).strip_prefix(key);
        after.is_some_and(|rest| rest.trim_start_matches([' ', '\t', '"', '\'']).starts_with(['=', '.', ']']))
    };
    let what = said.rsplit_once(" at line ").map_or(said, |(what, _)| what);
    match text.lines().position(is_its) {
        Some(above) => format!("{what} at line {}", above + 1),
        None => what.to_owned(),
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{MINUTE, SECOND};
    use std::fs;

    fn said(text: &str) -> Result<Threshold, String> {
        parse(text).map(|toml| toml.contention.0)
    }

    #[test]
    fn what_is_not_said_is_as_everywhere() {
        let threshold = |requests, within| Ok(Threshold { requests, within });
        assert_eq!(said(""), Ok(Threshold::default()));
        assert_eq!(said("[contention]\nrequests = 3\n"), threshold(3, limits::CONTENTION_WITHIN));
        assert_eq!(said("[contention]\nwithin = \"2m\"\n"), threshold(limits::CONTENTION_REQUESTS, 2 * MINUTE));
        assert_eq!(said("enforcement = 'off'\nstrict = true\n"), Ok(Threshold::default()), "that is for hooks");
        assert_eq!(said("# few\ncontention = { requests = 2, within = '1s' }"), threshold(2, SECOND));
    }

    #[test]
    fn what_makes_no_sense_is_said_with_its_place_or_its_name() {
        let cases = [
            ("[contention", "line 1"),
            ("a = 1", "unknown field `a`, expected one of `contention`, `enforcement`, `strict`"),
            ("[contention]\nrequest = 3", "unknown field `request`, expected `requests` or `within`"),
            ("[contention]\nrequests = \"3\"", "line 2"),
            ("[contention]\nrequests = -3", "line 2"),
            ("[contention]\nrequests = 0", "contention.requests is 0, and may be 1 to 100"),
            ("[contention]\nrequests = 101", "contention.requests is 101, and may be 1 to 100"),
            ("[contention]\nwithin = \"soon\"", "contention.within is \"soon\", which is no duration"),
            ("# x\n[contention]\nwithin = \"soon\"", "for key `contention` at line 3"),
            ("# x\n\nfast = 1\n[contention]\n", "at line 3"),
            ("[contention]\nrequests = 3\n'request' = 3", "at line 3"),
            ("contention = { request = 3 }", "for key `contention`"),
            ("# x\n[contention]\nrequests = 0", "line 3"),
            ("enforcement = 'maybe'", "unknown variant `maybe`, expected one of `off`, `warn`, `deny`"),
            ("# x\nenforcement = 'maybe'", "line 2"),
            ("enforcement = 'maybe'", "`enforcement`"),
            ("strict = 'yes'", "`strict`"),
            ("[contention]\nwithin = \"1ms\"", "contention.within is 1 ms, and may be 1000 ms (1s) to 3600000 ms (1h)"),
            ("[contention]\nwithin = \"3 years\"", "contention.within is 94672800000 ms, and may be 1000 ms (1s)"),
        ];
        for (text, says) in cases {
            let error = said(text).unwrap_err();
            assert!(error.contains(says), "{text:?}: {error}");
        }
    }

    #[test]
    fn only_a_file_that_can_be_read_is_one_and_none_is_fine() {
        let kept = tempfile::tempdir().unwrap();
        let (root, path) = (kept.path(), kept.path().join(NAME));
        assert_eq!(Config::of(root), Ok(Config::default()));
        fs::create_dir(&path).unwrap();
        let says = |text: &str| {
            let error = Config::of(root).unwrap_err().0;
            assert!(error.starts_with(&*path.to_string_lossy()) && error.contains(text), "{error}");
        };
        says("it is no file");
        fs::remove_dir(&path).unwrap();
        fs::write(&path, b"\xff").unwrap();
        says("it cannot be read");
        fs::write(&path, vec![b'\n'; limits::CONFIG_MAX as usize + 1]).unwrap();
        says("longer than");
        fs::write(&path, "[contention]\nrequests = 7\n").unwrap();
        assert_eq!(Config::of(root).unwrap().contention.requests, 7);
    }
}
