//! What is locked, and what covers what by name: files, subtrees, patterns and named resources, on canonical paths.
//!
//! A [`Scope`] is a name; a [`Target`] is a scope together with the file identities that its path had when it was
//! asked for. Nothing here touches a file system: `os/paths.rs` resolves, this file compares.

use crate::pattern::{Overlap, Pattern, Spot};
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
    /// All files, there or not, whose paths match.
    Pattern(Pattern),
    /// A named resource that is no file, without its `@`.
    Resource(Box<str>),
}

impl Scope {
    /// The canonical path, for a pattern that of its fixed part; none for a resource.
    pub fn path(&self) -> Option<&[u8]> {
        match self {
            Scope::File(path) | Scope::Subtree(path) => Some(path),
            Scope::Pattern(pattern) => Some(pattern.prefix()),
            Scope::Resource(_) => None,
        }
    }

    /// The components of the path from the root; empty for `/` and for a resource.
    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        let path = self.path().unwrap_or(b"");
        path.split(|&byte| byte == b'/').filter(|component| !component.is_empty())
    }

    /// The same place taken for a directory instead of a file, or for a file instead of a directory.
    pub fn other_kind(&self) -> Option<Scope> {
        match self {
            Scope::File(path) => Some(Scope::Subtree(path.clone())),
            Scope::Subtree(path) => Some(Scope::File(path.clone())),
            Scope::Pattern(_) | Scope::Resource(_) => None,
        }
    }

    /// Whether a lock on `self` is also a lock on all of `other`, judged by names alone.
    pub fn covers(&self, other: &Scope) -> bool {
        match (self, other) {
            (Scope::Resource(a), Scope::Resource(b)) => a == b,
            (Scope::File(a), Scope::File(b)) => a == b,
            (Scope::Subtree(root), Scope::File(path) | Scope::Subtree(path)) => is_at_or_below(path, root),
            (Scope::Subtree(root), Scope::Pattern(pattern)) => is_at_or_below(pattern.prefix(), root),
            (Scope::Pattern(pattern), Scope::File(path)) => pattern.matches_path(path),
            (Scope::Pattern(pattern), Scope::Subtree(root)) => {
                pattern.spot_of(root).is_some_and(|spot| pattern.matches_all_of(spot))
            }
            (Scope::Pattern(pattern), Scope::Pattern(other)) => {
                pattern.spot_of(other.prefix()).is_some_and(|spot| pattern.matches_all_that(spot, other))
            }
            _ => false,
        }
    }

    /// A path that both mean, judged by names alone, where at least one of them is a pattern: what they have in common
    /// cannot be seen then. None where names do not tell.
    pub fn example(&self, other: &Scope) -> Option<Vec<u8>> {
        match (self, other) {
            (Scope::Pattern(pattern), Scope::File(path)) => pattern.matches_path(path).then(|| path.to_vec()),
            (Scope::Pattern(pattern), Scope::Subtree(root)) => match pattern.spot_of(root) {
                Some(spot) => Some(join(root, &pattern.example(spot)?)),
                None if is_at_or_below(pattern.prefix(), root) => {
                    Some(join(pattern.prefix(), &pattern.example(pattern.start())?))
                }
                None => None,
            },
            (Scope::Pattern(a), Scope::Pattern(b)) => {
                let (a, b) = if a.prefix().len() <= b.prefix().len() { (a, b) } else { (b, a) };
                match a.overlap(a.spot_of(b.prefix())?, b) {
                    Overlap::At(word) => Some(join(b.prefix(), &word)),
                    Overlap::No | Overlap::Unknown => None,
                }
            }
            (_, Scope::Pattern(_)) => other.example(self),
            _ => None,
        }
    }
}

/// Whether `path` is `root` or lies below it. `/a` does not hold `/ab`.
fn is_at_or_below(path: &[u8], root: &[u8]) -> bool {
    let Some(rest) = path.strip_prefix(root) else { return false };
    rest.is_empty() || rest[0] == b'/' || root == b"/" || planted(Bug::NamesakeCovered)
}

/// A canonical path and how it goes on, which is nothing or begins with a slash.
fn join(path: &[u8], rest: &[u8]) -> Vec<u8> {
    if path == b"/" && !rest.is_empty() { rest.to_vec() } else { [path, rest].concat() }
}

/// For people and logs: lossy, a subtree ends in `/`, a resource begins with `@`. The wire has its own lossless form.
impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scope::File(path) => write!(f, "{}", String::from_utf8_lossy(path)),
            Scope::Subtree(path) if &**path == b"/" => write!(f, "/"),
            Scope::Subtree(path) => write!(f, "{}/", String::from_utf8_lossy(path)),
            Scope::Pattern(pattern) => write!(f, "{pattern}"),
            Scope::Resource(name) => write!(f, "@{name}"),
        }
    }
}

/// A scope and the identities that its path had when it was asked for.
///
/// `ids[k]` belongs to the first `k` components, so `ids[0]` is `/`; it ends where the path ends to exist. The last
/// one, if the whole path exists, is the scope's own, or that of the fixed part of a pattern.
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

    /// Identity of the scope itself, if it existed. A pattern has none: it is not one file.
    pub fn own_id(&self) -> Option<FileId> {
        if matches!(self.scope, Scope::Pattern(_) | Scope::Resource(_)) {
            return None;
        }
        self.ids.get(self.scope.components().count()).copied()
    }

    /// Whether both are one scope, by whatever names, as each was when it was asked for.
    pub fn is_one_with(&self, other: &Target) -> bool {
        let is_alike = match (&self.scope, &other.scope) {
            (Scope::Resource(a), Scope::Resource(b)) => return a == b,
            (Scope::Pattern(a), Scope::Pattern(b)) => a.rest() == b.rest(),
            (Scope::File(_), Scope::File(_)) | (Scope::Subtree(_), Scope::Subtree(_)) => true,
            _ => false,
        };
        is_alike && self.leads_to(other, |way| way.is_empty())
    }

    /// Whether a lock on `self` is also one on all of `other`, by whatever names, as each was when it was asked for.
    pub fn covers(&self, other: &Target) -> bool {
        match self.scope {
            Scope::Subtree(_) => self.leads_to(other, |_| true),
            Scope::File(_) | Scope::Pattern(_) => self.scope.covers(&other.scope) || self.is_one_with(other),
            Scope::Resource(_) => self.scope == other.scope,
        }
    }

    /// The same for a name that was locked as a file and has become a directory since.
    pub fn covers_as_directory(&self, other: &Target) -> bool {
        matches!(self.scope, Scope::File(_)) && self.leads_to(other, |_| true)
    }

    /// Whether a lock on the one meets a lock on the other, as each was when it was asked for: the rule of the table's
    /// index, for two. A name that is taken for a file may come to be a directory, so that it means what lies below it
    /// as well. What could only be told by more than the steps that a pattern is given counts as met.
    pub fn meets(&self, other: &Target) -> bool {
        match (&self.scope, &other.scope) {
            (Scope::Resource(a), Scope::Resource(b)) => a == b,
            (Scope::Resource(_), _) | (_, Scope::Resource(_)) => false,
            (Scope::Pattern(a), Scope::Pattern(b)) => {
                self.leads_to(other, |way| may_share(a, way, b)) || other.leads_to(self, |way| may_share(b, way, a))
            }
            (Scope::Pattern(pattern), _) => other.leads_to(self, |_| true) || self.is_pattern_for(pattern, other),
            (_, Scope::Pattern(pattern)) => self.leads_to(other, |_| true) || other.is_pattern_for(pattern, self),
            _ => self.leads_to(other, |_| true) || other.leads_to(self, |_| true),
        }
    }

    /// Whether this pattern matches, or could match, something of a file or subtree.
    fn is_pattern_for(&self, pattern: &Pattern, other: &Target) -> bool {
        self.leads_to(other, |way| {
            let spot = down(pattern, way);
            match other.scope {
                Scope::File(_) => pattern.matches(spot),
                _ => pattern.reaches_into(spot),
            }
        })
    }

    /// Whether this place is on the way to that of `other`, and the names that lead on from it are such as `is_way`
    /// wants. Both ways begin at the root, or where they pass one directory, which a bind mount has under two names.
    fn leads_to(&self, other: &Target, is_way: impl Fn(&[&[u8]]) -> bool) -> bool {
        let (upper, lower): (Vec<_>, Vec<_>) = (self.scope.components().collect(), other.scope.components().collect());
        let passes_both =
            |i: usize, k: usize| (i == 0 && k == 0) || self.ids.get(i).is_some_and(|id| other.ids.get(k) == Some(id));
        (0..=upper.len()).any(|i| {
            (0..=lower.len()).any(|k| {
                let rest = &upper[i..];
                passes_both(i, k) && lower[k..].starts_with(rest) && is_way(&lower[k + rest.len()..])
            })
        })
    }
}

/// Where these names lead a pattern's automaton.
fn down(pattern: &Pattern, names: &[&[u8]]) -> Spot {
    names.iter().fold(pattern.start(), |spot, name| pattern.down(spot, name))
}

/// Whether a pattern could share a path with another whose fixed part lies these names below its own.
fn may_share(pattern: &Pattern, names: &[&[u8]], other: &Pattern) -> bool {
    let spot = down(pattern, names);
    !spot.is_dead() && pattern.overlap(spot, other) != Overlap::No
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

    fn pattern(prefix: &str, rest: &str) -> Scope {
        Scope::Pattern(Pattern::new(prefix.as_bytes(), rest.as_bytes()).unwrap())
    }

    #[test]
    fn a_pattern_covers_what_it_matches_wholly() {
        assert!(pattern("/w", "**/*.rs").covers(&file("/w/a/b.rs")));
        assert!(!pattern("/w", "**/*.rs").covers(&file("/w/a/b.md")));
        assert!(!pattern("/w", "**/*.rs").covers(&tree("/w/a")));
        assert!(pattern("/w", "**").covers(&tree("/w/a")) && !pattern("/w", "**").covers(&tree("/w")));
        assert!(pattern("/w", "**").covers(&pattern("/w/a", "*.rs")));
        assert!(pattern("/w", "*/*.rs").covers(&pattern("/w/a", "x*.rs")));
        assert!(!pattern("/w/a", "*").covers(&pattern("/w", "a/*")), "judged from the longer fixed part only");
        assert!(tree("/w").covers(&pattern("/w", "**")) && tree("/").covers(&pattern("/w", "*")));
        assert!(!tree("/w/a").covers(&pattern("/w", "a*/b")));
    }

    #[test]
    fn an_example_is_a_path_that_both_mean() {
        let example = |a: &Scope, b: &Scope| {
            assert_eq!(a.example(b), b.example(a));
            a.example(b).map(|path| String::from_utf8(path).unwrap())
        };
        assert_eq!(example(&pattern("/w", "**/*.rs"), &pattern("/w/src", "m*")).unwrap(), "/w/src/m.rs");
        assert_eq!(example(&pattern("/", "*.rs"), &tree("/")).unwrap(), "/.rs");
        assert_eq!(example(&pattern("/w", "*/x"), &tree("/w/a")).unwrap(), "/w/a/x");
        assert_eq!(example(&pattern("/w/a", "x"), &tree("/w")).unwrap(), "/w/a/x");
        assert_eq!(example(&pattern("/w", "**"), &tree("/w/a")).unwrap(), "/w/a");
        assert_eq!(example(&pattern("/w", "*.rs"), &file("/w/a.rs")).unwrap(), "/w/a.rs");
        assert_eq!(example(&pattern("/w", "*.rs"), &pattern("/w", "*.md")), None);
        assert_eq!(example(&file("/a"), &file("/a")), None, "no pattern, nothing to explain");
    }

    fn at(scope: Scope, inodes: &[u64]) -> Target {
        Target { scope, ids: inodes.iter().map(|&inode| FileId { device: 1, inode, birth: 0 }).collect() }
    }

    fn meet(a: &Target, b: &Target) -> bool {
        assert_eq!(a.meets(b), b.meets(a), "{} and {}", a.scope, b.scope);
        a.meets(b)
    }

    #[test]
    fn two_names_of_one_file_or_directory_meet() {
        assert!(meet(&at(file("/a/x"), &[1, 2, 9]), &at(file("/b/y"), &[1, 3, 9])));
        assert!(meet(&at(tree("/mnt"), &[1, 2]), &at(file("/w/x"), &[1, 2, 7])));
        assert!(!meet(&at(file("/a/x"), &[1, 2]), &at(file("/a/y"), &[1, 2])), "neither file exists");
        assert!(meet(&at(file("/a"), &[1]), &at(file("/a/x"), &[1])), "it may come to be a directory");
        assert!(!meet(&at(tree("/a"), &[1, 2]), &at(file("/ab"), &[1, 3])));
    }

    #[test]
    fn a_lock_covers_what_it_is_about_under_any_name_and_more_when_its_file_has_become_a_directory() {
        assert!(at(tree("/mnt"), &[1, 2]).covers(&at(file("/w/x"), &[1, 2, 7])));
        assert!(at(file("/a/x"), &[1, 2, 9]).covers(&at(file("/b/y"), &[1, 3, 9])));
        assert!(at(pattern("/w", "*.rs"), &[1, 2]).covers(&at(file("/w/a.rs"), &[1, 2])));
        assert!(!at(tree("/a/b"), &[1, 2, 3]).covers(&at(tree("/a"), &[1, 2])));
        let was_file = at(file("/a"), &[1]);
        assert!(
            !was_file.covers(&at(file("/a/x"), &[1, 2])) && was_file.covers_as_directory(&at(file("/a/x"), &[1, 2]))
        );
        assert!(!was_file.covers_as_directory(&at(file("/ab"), &[1])));
        assert!(!at(tree("/a"), &[1]).covers_as_directory(&at(file("/a/x"), &[1, 2])), "that was one before");
    }

    #[test]
    fn a_pattern_meets_what_it_matches_where_its_directory_is_mounted_too() {
        let in_w = at(pattern("/w", "**/*.rs"), &[1, 2]);
        assert!(meet(&in_w, &at(file("/w/a/b.rs"), &[1, 2])) && !meet(&in_w, &at(file("/w/a/b.md"), &[1, 2])));
        assert!(meet(&in_w, &at(file("/mnt/a/b.rs"), &[1, 2, 3])), "the same directory under another name");
        assert!(!meet(&in_w, &at(file("/mnt/a/b.md"), &[1, 2, 3])));
        assert!(meet(&in_w, &at(tree("/mnt/a"), &[1, 2, 3])) && meet(&in_w, &at(tree("/"), &[1])));
        assert!(meet(&in_w, &at(pattern("/mnt/a", "m*"), &[1, 2, 3])));
        assert!(!meet(&in_w, &at(pattern("/mnt/a", "*.md"), &[1, 2, 3])));
        assert!(!meet(&in_w, &at(file("/v/linked.rs"), &[1, 4, 9])), "a hard link from outside has another name");
        assert!(!meet(&in_w, &Target::named(Scope::Resource("w".into()))));
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
