//! What a workspace wants of hooks, from its `.flockd.toml`: whether they refuse, warn or keep silent, and whether an
//! edit may go ahead where no lock can be had.

pub(crate) use crate::client::Enforcement;
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::Error as NoWord;
use std::path::Path;

/// The file, in the workspace's root.
const FILE: &str = ".flockd.toml";

/// `enforcement = "off" | "warn" | "deny"` and `strict = true | false`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) enforcement: Enforcement,
    /// What fails inside a hook refuses the edit.
    pub(crate) strict: bool,
}

impl Settings {
    /// Those of the workspace with this root; the usual ones if it says nothing.
    pub(crate) fn of(root: &Path) -> Result<Settings, String> {
        match std::fs::read_to_string(root.join(FILE)) {
            Ok(text) => Settings::read(&text).map_err(|why| format!("{}: {why}", root.join(FILE).display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Settings::default()),
            Err(error) => Err(format!("{}: {error}", root.join(FILE).display())),
        }
    }

    /// Other parts of the file are others' affair.
    fn read(text: &str) -> Result<Settings, String> {
        let file: toml_edit::DocumentMut =
            text.parse().map_err(|error: toml_edit::TomlError| error.message().to_owned())?;
        let enforcement = match file.get("enforcement").map(|item| item.as_str().unwrap_or_default()) {
            None => Ok(Enforcement::default()),
            Some(word) => Enforcement::deserialize(word.into_deserializer()),
        };
        let enforcement = enforcement.map_err(|_: NoWord| "enforcement is \"off\", \"warn\" or \"deny\"".to_owned())?;
        let strict = match file.get("strict").map(toml_edit::Item::as_bool) {
            None => false,
            Some(Some(strict)) => strict,
            Some(None) => return Err("strict is true or false".to_owned()),
        };
        Ok(Settings { enforcement, strict })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workspace_says_what_it_wants_and_nonsense_is_named() {
        let read = Settings::read;
        assert_eq!(read(""), Ok(Settings { enforcement: Enforcement::Deny, strict: false }));
        let given = "enforcement = 'warn'\nstrict = true\n[contention]\nrequests = 5\n";
        assert_eq!(read(given), Ok(Settings { enforcement: Enforcement::Warn, strict: true }));
        assert!(read("enforcement = 'of'").unwrap_err().contains("\"off\""));
        assert!(read("strict = 'yes'").unwrap_err().contains("true or false"));
        assert!(read("[[").is_err());
    }
}
