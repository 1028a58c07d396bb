//! What is locked, and what overlaps what: files, subtrees and named resources, on canonical paths only.
//!
//! A [`Scope`] is a name; a [`Target`] is a scope together with the file identities that its path had when it was
//! asked for. Nothing here touches a file system: `os/paths.rs` resolves, this file compares.

use crate::planted::{Bug, planted};
use std::fmt;

/// Identity of a file or directory. Two paths with one identity are one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId {
    /// Device number, as `st_dev`.
    pub device: u64,
    /// Inode number, as `st_ino`.
    pub inode: u64,
    /// Time of birth in nanoseconds since 1970, or 0 where the file system keeps none. File systems hand a freed
    /// inode number to the next new file; without this the old holder of a replaced file would seem to hold that one.
    pub birth: u64,
}

/// What is locked. Paths are absolute, canonical bytes: no empty, `.` or `..` component, no trailing slash but in `/`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// One file, which need not exist yet.
    File(Box<[u8]>),
    /// A directory and everything below it.
    Subtree(Box<[u8]>),
    /// A named resource that is no file, without its `@`.
    Resource(Box<str>),
}

impl Scope {
    /// The canonical path, or none for a resource.
    pub fn path(&self) -> Option<&[u8]> {
        match self {
            Scope::File(path) | Scope::Subtree(path) => Some(path),
            Scope::Resource(_) => None,
        }
    }

    /// The components of the path from the root; empty for `/` and for a resource.
    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        let path = self.path().unwrap_or(b"");
        path.split(|&byte| byte == b'/').filter(|component| !component.is_empty())
    }

    /// Whether a lock on `self` is also a lock on all of `other`, judged by names alone.
    pub fn covers(&self, other: &Scope) -> bool {
        match (self, other) {
            (Scope::Resource(a), Scope::Resource(b)) => a == b,
            (Scope::File(a), Scope::File(b)) => a == b,
            (Scope::Subtree(root), Scope::File(path) | Scope::Subtree(path)) => is_at_or_below(path, root),
            _ => false,
        }
    }
}

/// Whether `path` is `root` or lies below it. `/a` does not hold `/ab`.
fn is_at_or_below(path: &[u8], root: &[u8]) -> bool {
    let Some(rest) = path.strip_prefix(root) else { return false };
    rest.is_empty() || rest[0] == b'/' || root == b"/" || planted(Bug::NamesakeCovered)
}

/// For people and logs: lossy, a subtree ends in `/`, a resource begins with `@`. The wire has its own lossless form.
impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scope::File(path) => write!(f, "{}", String::from_utf8_lossy(path)),
            Scope::Subtree(path) if &**path == b"/" => write!(f, "/"),
            Scope::Subtree(path) => write!(f, "{}/", String::from_utf8_lossy(path)),
            Scope::Resource(name) => write!(f, "@{name}"),
        }
    }
}

/// A scope and the identities that its path had when it was asked for.
///
/// `ids[k]` belongs to the first `k` components, so `ids[0]` is `/`; it ends where the path ends to exist. The last
/// one, if the whole path exists, is the scope's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The name.
    pub scope: Scope,
    /// The identities along its path; empty for a resource.
    pub ids: Box<[FileId]>,
}

impl Target {
    /// A target without identities: for resources, and where a name is all there is.
    pub fn named(scope: Scope) -> Target {
        Target { scope, ids: Box::new([]) }
    }

    /// Identity of the scope itself, if it existed.
    pub fn own_id(&self) -> Option<FileId> {
        self.scope.path()?;
        self.ids.get(self.scope.components().count()).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str) -> Scope {
        Scope::File(path.as_bytes().into())
    }

    fn tree(path: &str) -> Scope {
        Scope::Subtree(path.as_bytes().into())
    }

    #[test]
    fn a_subtree_covers_itself_and_what_lies_below_and_no_namesake() {
        assert!(tree("/a").covers(&file("/a/b")));
        assert!(tree("/a").covers(&tree("/a/b/c")));
        assert!(tree("/a").covers(&file("/a")));
        assert!(tree("/").covers(&file("/a")));
        assert!(!tree("/a").covers(&file("/ab")));
        assert!(!tree("/a/b").covers(&tree("/a")));
        assert!(!file("/a").covers(&tree("/a")));
        assert!(!file("/a").covers(&Scope::Resource("/a".into())));
    }

    #[test]
    fn the_own_identity_is_there_only_when_the_whole_path_exists() {
        let id = |inode| FileId { device: 1, inode, birth: 0 };
        let whole = Target { scope: file("/a/b"), ids: [id(1), id(2), id(3)].into() };
        let part = Target { scope: file("/a/b"), ids: [id(1), id(2)].into() };
        assert_eq!(whole.own_id(), Some(id(3)));
        assert_eq!(part.own_id(), None);
        assert_eq!(Target::named(Scope::Resource("x".into())).own_id(), None);
    }
}
