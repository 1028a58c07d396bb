//! Where settings are, and how a file of them is changed: read as a whole, written as a whole beside it and renamed.

use crate::client::Place;
use crate::os::paths::{self, Look};
use std::ffi::OsString;
use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The directories below which clients keep their settings.
pub(super) struct Places {
    pub(super) home: PathBuf,
    /// The root of the project, if its settings are meant.
    pub(super) project: Option<PathBuf>,
}

impl Places {
    pub(super) fn here(project: bool) -> Result<Places, String> {
        let home = std::env::var_os("HOME").filter(|home| !home.is_empty()).ok_or("$HOME is not set")?;
        let project = match project {
            true => Some(PathBuf::from(OsString::from_vec(Place::here().map_err(|error| error.0)?.workspace))),
            false => None,
        };
        Ok(Places { home: home.into(), project })
    }

    /// The directory that a variable names, or the usual one below the home.
    pub(super) fn named(&self, variable: &str, usual: &str) -> PathBuf {
        let named = std::env::var_os(variable).filter(|named| !named.is_empty()).map(PathBuf::from);
        named.unwrap_or_else(|| self.home.join(usual))
    }
}

/// What is to be at a path.
pub(super) struct Change {
    pub(super) path: PathBuf,
    before: Option<String>,
    after: Option<String>,
    /// What a person should know of it.
    pub(super) remark: Option<String>,
}

impl Change {
    /// What is there now, to be made something else of; none if there is nothing.
    pub(super) fn of(
        path: PathBuf,
        change: impl FnOnce(Option<&str>) -> Result<Option<String>, String>,
    ) -> Result<Change, String> {
        let before = text(&path)?;
        let after = change(before.as_deref()).map_err(|why| format!("{}: {why}", path.display()))?;
        Ok(Change { path, before, after, remark: None })
    }

    /// What carrying it out would be called.
    pub(super) fn would(&self) -> &'static str {
        match (&self.before, &self.after) {
            (before, after) if before == after => "unchanged",
            (_, Some(_)) => "would_write",
            (_, None) => "would_remove",
        }
    }

    /// The new content, for people.
    pub(super) fn shown(&self) -> String {
        match &self.after {
            Some(after) if self.before != self.after => format!("--- {}\n{after}\n", self.path.display()),
            _ => String::new(),
        }
    }

    pub(super) fn carry_out(&self) -> Result<&'static str, String> {
        let failed = |error: std::io::Error| format!("{}: {error}", self.path.display());
        if self.before == self.after {
            return Ok("unchanged");
        }
        let Some(after) = &self.after else {
            fs::remove_file(&self.path).map_err(failed)?;
            // Directories of ours go with their last file, and the one that had to be made for them.
            let ours = self.path.parent().filter(|dir| dir.ends_with("flockd"));
            let _ = ours.map(|ours| fs::remove_dir(ours).and_then(|()| ours.parent().map_or(Ok(()), fs::remove_dir)));
            return Ok("removed");
        };
        let path = followed(&self.path);
        let dir = path.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(dir).map_err(failed)?;
        let mut new = tempfile::NamedTempFile::new_in(dir).map_err(failed)?;
        new.write_all(after.as_bytes()).map_err(failed)?;
        let mode = fs::metadata(&path).map_or(0o600, |about| about.permissions().mode());
        new.as_file().set_permissions(fs::Permissions::from_mode(mode)).map_err(failed)?;
        new.as_file().sync_all().map_err(failed)?;
        new.persist(&path).map_err(|error| failed(error.error))?;
        Ok("written")
    }
}

/// What is in a file; none if there is no such file.
pub(super) fn text(path: &Path) -> Result<Option<String>, String> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == ErrorKind::InvalidData => {
            Err(format!("{}: this is no text in UTF-8; change it by hand", path.display()))
        }
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

/// What a path leads to: settings are often links into a repository of somebody's.
fn followed(path: &Path) -> PathBuf {
    let resolved = paths::resolve(b"/", path.as_os_str().as_bytes(), Look::Thorough);
    resolved.map_or_else(|_| path.to_owned(), |resolved| PathBuf::from(OsString::from_vec(resolved.path.into())))
}
