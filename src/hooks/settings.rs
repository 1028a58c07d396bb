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

/// Why settings cannot be had.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Broken {
    pub(crate) why: String,
    /// Strictness is wanted, as far as can be read.
    pub(crate) strict: bool,
}

impl From<Broken> for String {
    fn from(broken: Broken) -> String {
        broken.why
    }
}

impl Settings {
    /// Those of the workspace with this root; the usual ones if it says nothing.
    pub(crate) fn of(root: &Path) -> Result<Settings, Broken> {
        let broken = |why: String, strict| Broken { why: format!("{}: {why}", root.join(FILE).display()), strict };
        match std::fs::read_to_string(root.join(FILE)) {
            Ok(text) => {
                let file: toml_edit::DocumentMut =
                    text.parse().map_err(|error: toml_edit::TomlError| broken(error.message().to_owned(), false))?;
                let strict = file.get("strict").is_some_and(|strict| strict.as_bool() != Some(false));
                Settings::read(&file).map_err(|why| broken(why, strict))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Settings::default()),
            Err(error) => Err(broken(error.to_string(), false)),
        }
    }

    /// Other parts of the file are others' affair.
    fn read(file: &toml_edit::DocumentMut) -> Result<Settings, String> {
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
        let read = |text: &str| Settings::read(&text.parse().unwrap());
        assert_eq!(read(""), Ok(Settings { enforcement: Enforcement::Deny, strict: false }));
        let given = "enforcement = 'warn'\nstrict = true\n[contention]\nrequests = 5\n";
        assert_eq!(read(given), Ok(Settings { enforcement: Enforcement::Warn, strict: true }));
        assert!(read("enforcement = 'of'").unwrap_err().contains("\"off\""));
        assert!(read("strict = 'yes'").unwrap_err().contains("true or false"));
    }
}
