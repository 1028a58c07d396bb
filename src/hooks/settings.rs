//! What a workspace wants of hooks, from its `.flockd.toml`: whether they refuse, warn or keep silent, and whether an
//! edit may go ahead where no lock can be had.

pub(crate) use crate::client::Enforcement;
use crate::client::config;
use std::path::Path;

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
        let bytes = config::bytes_of(root).map_err(|error| Broken { why: error.0, strict: false })?;
        match config::understood(root, &bytes) {
            Ok(toml) => Ok(Settings {
                enforcement: toml.enforcement.unwrap_or_default(),
                strict: toml.strict.unwrap_or_default(),
            }),
            Err(error) => Err(Broken { why: error.0, strict: says_strict(&bytes) }),
        }
    }
}

/// Whether a line of what cannot be understood sets `strict`, and not to false: somebody wanted it so.
fn says_strict(bytes: &[u8]) -> bool {
    String::from_utf8_lossy(bytes).lines().any(|line| {
        let key = line.trim_start_matches(['\u{feff}', ' ', '\t']).trim_start_matches(['"', '\'']);
        let rest = key.strip_prefix("strict").map(|rest| rest.trim_start_matches(['"', '\'', ' ', '\t']));
        let value = rest.and_then(|rest| rest.strip_prefix('=')).map(str::trim_start);
        value.is_some_and(|value| !value.starts_with("false"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workspace_says_what_it_wants_and_nonsense_is_named() {
        let kept = tempfile::tempdir().unwrap();
        let read = |text: &str| {
            std::fs::write(kept.path().join(".flockd.toml"), text).unwrap();
            Settings::of(kept.path())
        };
        assert_eq!(read(""), Ok(Settings { enforcement: Enforcement::Deny, strict: false }));
        let given = "enforcement = 'warn'\nstrict = true\n[contention]\nrequests = 5\n";
        assert_eq!(read(given), Ok(Settings { enforcement: Enforcement::Warn, strict: true }));
        assert!(read("enforcement = 'of'").unwrap_err().why.contains("`off`"));
        assert!(read("strict = 'yes'").unwrap_err().why.contains("`strict`"));
        assert!(read("strct = true").unwrap_err().why.contains("unknown field `strct`"));
    }

    #[test]
    fn what_cannot_be_understood_is_strict_where_a_line_of_it_says_so() {
        for text in ["strict = true\n[[", "x\n  strict=true # so\r\n", "'strict' = 1", "\u{feff}\"strict\" = 'yes'"] {
            assert!(says_strict(text.as_bytes()), "{text:?}");
        }
        assert!(says_strict(b"\xff\nstrict = true\n"));
        for text in ["strict = false\n[[", "# strict = true", "strictly = true", "strict", "strct = true"] {
            assert!(!says_strict(text.as_bytes()), "{text:?}");
        }
    }
}
