//! Where a client stands: its working directory and its workspace.

use super::config::{self, Config};
use crate::model::Invalid;
use crate::os::paths::{self, Look};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// A directory whose presence makes a workspace of the directory that holds it.
const GIT: &str = ".git";

/// Working directory and workspace root, both absolute bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Relative scopes begin here.
    pub cwd: Vec<u8>,
    /// Names in answers and events begin here.
    pub workspace: Vec<u8>,
    /// What the workspace says about itself; none where nobody has looked.
    pub config: Option<Config>,
}

impl Place {
    /// The working directory of this process and its workspace: `$FLOCKD_WORKSPACE`, else the nearest directory
    /// upwards with a `.flockd.toml`, else the git top level, else the working directory.
    ///
    /// # Errors
    /// When the working directory is gone, `$FLOCKD_WORKSPACE` names no directory, or the `.flockd.toml` of the
    /// workspace cannot be understood.
    pub fn here() -> Result<Place, Invalid> {
        let (place, broken) = Place::here_anyway()?;
        broken.map_or(Ok(place), Err)
    }

    /// The same for whoever only looks or gives back: a `.flockd.toml` that cannot be understood is said beside the
    /// place, and nothing of it is in force.
    ///
    /// # Errors
    /// When the working directory is gone or `$FLOCKD_WORKSPACE` names no directory.
    pub fn here_anyway() -> Result<(Place, Option<Invalid>), Invalid> {
        let cwd = std::env::current_dir().map_err(|error| {
            Invalid(format!("the working directory cannot be told ({error}); cd to one that is there"))
        })?;
        let named = std::env::var_os("FLOCKD_WORKSPACE").filter(|value| !value.is_empty());
        Place::of(cwd, named)
    }

    /// A directory that is both, so that relative scopes and names begin there; as [`Place::here_anyway`].
    ///
    /// # Errors
    /// When it is none.
    #[cfg(feature = "mcp")]
    pub fn at_anyway(dir: &Path) -> Result<(Place, Option<Invalid>), Invalid> {
        let root = directory(dir)?.into_os_string().into_vec();
        Ok(Place::with_config(root.clone(), root))
    }

    /// The root of the workspace that a directory lies in, if one can be seen there; the directory need not exist, and
    /// the environment is not asked.
    #[cfg(feature = "cli")]
    pub(crate) fn root_above(dir: &Path) -> Option<&Path> {
        find_root(dir)
    }

    fn of(cwd: PathBuf, named: Option<OsString>) -> Result<(Place, Option<Invalid>), Invalid> {
        let workspace = match named {
            Some(root) => canonical(&cwd, &root)?,
            None => find_root(&cwd).unwrap_or(&cwd).as_os_str().as_bytes().to_vec(),
        };
        Ok(Place::with_config(cwd.into_os_string().into_vec(), workspace))
    }

    fn with_config(cwd: Vec<u8>, workspace: Vec<u8>) -> (Place, Option<Invalid>) {
        let (config, broken) = match Config::of(Path::new(OsStr::from_bytes(&workspace))) {
            Ok(config) => (Some(config), None),
            Err(error) => (None, Some(error)),
        };
        (Place { cwd, workspace, config }, broken)
    }
}

fn canonical(cwd: &Path, root: &OsStr) -> Result<Vec<u8>, Invalid> {
    let resolved = paths::resolve(cwd.as_os_str().as_bytes(), root.as_bytes(), Look::Thorough);
    match resolved {
        Ok(resolved) if resolved.kind == paths::Kind::Directory => Ok(resolved.path.into()),
        Ok(_) => {
            Err(Invalid(format!("FLOCKD_WORKSPACE is {root:?}, which is no directory: set it to one or unset it")))
        }
        Err(error) => Err(Invalid(format!("FLOCKD_WORKSPACE is {root:?}: {error}"))),
    }
}

/// The canonical path of a directory, relative to that of this process.
pub(super) fn directory(path: &Path) -> Result<PathBuf, Invalid> {
    let cwd = match std::env::current_dir() {
        Ok(cwd) => cwd,
        Err(_) if path.is_absolute() => PathBuf::from("/"),
        Err(error) => return Err(Invalid(format!("the working directory cannot be told ({error})"))),
    };
    let resolved = paths::resolve(cwd.as_os_str().as_bytes(), path.as_os_str().as_bytes(), Look::Thorough);
    match resolved {
        Ok(resolved) if resolved.kind == paths::Kind::Directory => {
            Ok(PathBuf::from(OsString::from_vec(resolved.path.into())))
        }
        Ok(_) => Err(Invalid(format!("{} is no directory, so it is no workspace", path.display()))),
        Err(error) => Err(Invalid(format!("{}: {error}", path.display()))),
    }
}

fn find_root(cwd: &Path) -> Option<&Path> {
    let with = |name: &str| cwd.ancestors().find(|dir| dir.join(name).symlink_metadata().is_ok());
    // A file whose presence makes a workspace does so before git is asked.
    with(config::NAME).or_else(|| with(GIT))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_nearest_configuration_wins_over_git_and_git_over_nothing() {
        let kept = tempfile::tempdir().unwrap();
        let root = kept.path().canonicalize().unwrap();
        let deep = root.join("repo/pkg/src");
        fs::create_dir_all(&deep).unwrap();
        let workspace = || PathBuf::from(OsString::from_vec(Place::of(deep.clone(), None).unwrap().0.workspace));
        assert_eq!(workspace(), deep);
        fs::create_dir(root.join("repo/.git")).unwrap();
        assert_eq!(workspace(), root.join("repo"));
        fs::write(root.join("repo/pkg/.flockd.toml"), "").unwrap();
        assert_eq!(workspace(), root.join("repo/pkg"));
    }

    #[test]
    fn a_named_workspace_is_resolved_and_must_be_a_directory() {
        let kept = tempfile::tempdir().unwrap();
        let root = kept.path().canonicalize().unwrap();
        fs::create_dir(root.join("real")).unwrap();
        std::os::unix::fs::symlink("real", root.join("link")).unwrap();
        let (place, _) = Place::of(root.clone(), Some("link".into())).unwrap();
        assert_eq!(place.workspace, root.join("real").into_os_string().into_vec());
        let error = Place::of(root, Some("missing".into())).unwrap_err();
        assert!(error.0.contains("FLOCKD_WORKSPACE"), "{error}");
    }
}
