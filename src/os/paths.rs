//! The one canonicaliser: what a client typed becomes the [`Target`] that every part of flockd compares.
//!
//! A path is walked component by component from descriptor to descriptor, so each identity belongs to the very
//! directory that was walked through, and paths that end in nothing take the same way as those that exist. Asking
//! the kernel for the whole (`open`, then `/proc/self/fd`) would need this walk all the same for missing tails and
//! for the identities, and its answer cannot tell a deleted `x` from a file named `x (deleted)`. What is plain
//! and in the kernel's memory takes a shorter way (`straight`) to the same answer.

use crate::limits;
use crate::model;
use crate::os::mounts::{self, Mount};
use crate::pattern::{self, Pattern, Typed};
use crate::planted::{Bug, planted};
use crate::scope::{FileId, Scope, Target};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Statx, StatxFlags};
use rustix::io::Errno;
use std::fmt;

/// What a pattern begins with.
pub const GLOB: &[u8] = b"glob:";

/// Links followed in one look-up before it counts as a loop; the kernel's own bound.
const LINKS_MAX: usize = 40;

/// How hard to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Only what the kernel has in memory: never waits for a disk or a server, so the loop may ask.
    CachedOnly,
    /// Whatever it takes, for ever on a dead mount: only for file threads.
    Thorough,
}

/// What stands at the end of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing yet.
    Missing,
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A device, socket or pipe.
    Other,
}

/// A path with all links and dots worked out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// Absolute canonical bytes, as [`Scope`] wants them.
    pub path: Box<[u8]>,
    /// `ids[k]` is the identity of the first `k` components, `ids[0]` that of `/`; ends where the path ends to exist.
    pub ids: Box<[FileId]>,
    /// What is there.
    pub kind: Kind,
}

/// Why a path could not be resolved. Except for `WouldBlock` the text is a sentence for the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathError {
    /// Memory alone does not tell: ask again with [`Look::Thorough`] on a file thread.
    WouldBlock,
    /// The path cannot be meant as it stands.
    Invalid(String),
    /// The daemon may not look there.
    Denied(String),
    /// Looking failed.
    Io(String),
}

impl fmt::Display for PathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PathError::WouldBlock => f.write_str("the path is not in the kernel's memory"),
            PathError::Invalid(text) | PathError::Denied(text) | PathError::Io(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for PathError {}

/// Asked before a step onto the mount with this mount point.
pub type Enter<'a> = &'a mut dyn FnMut(&Mount) -> Result<(), PathError>;

/// What a client means by `raw`, typed in the directory `cwd`.
///
/// `@name` is a resource, `glob:…` a pattern. An existing directory, or a name that ends in `/`, is a subtree; anything
/// else is a file, be it a device or a pipe: a name is a name.
///
/// # Errors
///
/// See [`PathError`]. A pattern that is none is refused rather than taken for a file, since a lock on the wrong thing
/// protects nothing.
pub fn target(cwd: &[u8], raw: &[u8], how: Look) -> Result<Target, PathError> {
    target_by_way_of(cwd, raw, how, &mut |_| Ok(()))
}

/// The same, asking before each step onto a mount that may wait for a server.
///
/// # Errors
///
/// As [`target`], and whatever `enter` says, which ends the look-up.
pub fn target_by_way_of(cwd: &[u8], raw: &[u8], how: Look, enter: Enter<'_>) -> Result<Target, PathError> {
    if let Some(name) = raw.strip_prefix(b"@") {
        let name = std::str::from_utf8(name).map_err(|_| invalid("a resource name must be UTF-8", raw))?;
        return model::resource(name).map(Target::named).map_err(|error| PathError::Invalid(error.0));
    }
    let Some(text) = raw.strip_prefix(GLOB) else { return place(cwd, raw, how, enter) };
    match pattern::read(text).map_err(|error| PathError::Invalid(error.0))? {
        Typed::Name(name) => place(cwd, &name, how, enter),
        Typed::Pattern { prefix, rest } => {
            let Resolved { path, ids, .. } = Walk::all(cwd, &prefix, how, enter)?.finish()?;
            let pattern = Pattern::new(&path, &rest).map_err(|error| PathError::Invalid(error.0))?;
            Ok(Target { scope: Scope::Pattern(pattern), ids })
        }
    }
}

/// What a plain path means: a file or a subtree.
fn place(cwd: &[u8], raw: &[u8], how: Look, enter: Enter<'_>) -> Result<Target, PathError> {
    let walk = Walk::all(cwd, raw, how, enter)?;
    let missing_directory = walk.wants_directory;
    let Resolved { path, ids, kind } = walk.finish()?;
    let scope = match kind {
        Kind::Directory => Scope::Subtree(path),
        Kind::Missing if missing_directory => Scope::Subtree(path),
        Kind::Missing | Kind::File | Kind::Other => Scope::File(path),
    };
    Ok(Target { scope, ids })
}

/// Resolves `raw`, typed in the directory `cwd`, to its canonical path.
///
/// Where the file does not exist, the deepest existing parent is resolved and the rest appended; a dangling link
/// means its missing target.
///
/// # Errors
///
/// See [`PathError`]. A path that demands a directory (`x/`, `x/.`) and ends at something else is `Invalid`.
pub fn resolve(cwd: &[u8], raw: &[u8], how: Look) -> Result<Resolved, PathError> {
    Walk::all(cwd, raw, how, &mut |_| Ok(()))?.finish()
}

/// Whether the spelling is that of a directory: `x/`, `x/.`, `x/..` and the bare dots.
fn demands_directory(raw: &[u8]) -> bool {
    matches!(raw.rsplit(|&byte| byte == b'/').next(), Some(b"" | b"." | b".."))
}

fn check(cwd: &[u8], raw: &[u8]) -> Result<(), PathError> {
    if raw.is_empty() {
        return Err(PathError::Invalid("the path is empty".into()));
    }
    if raw.contains(&0) {
        return Err(invalid("there is a zero byte in the path", raw));
    }
    if raw.len() > limits::PATH_MAX {
        return Err(too_long(raw));
    }
    if raw[0] == b'/' {
        return Ok(());
    }
    if cwd.first() != Some(&b'/') || cwd.contains(&0) || cwd.len() > limits::PATH_MAX {
        return Err(invalid("the working directory is no absolute path", cwd));
    }
    Ok(())
}

/// An open file and what it is.
struct Node {
    fd: OwnedFd,
    id: FileId,
    kind: FileType,
}

/// A look-up on its way.
struct Walk<'a> {
    how: Look,
    enter: Enter<'a>,
    /// Where the walk stands; none once it has left what exists.
    here: Option<Node>,
    /// Canonical bytes so far; empty for `/`.
    path: Vec<u8>,
    /// Identities along `path`, as far as it exists; while there is a `here`, the last one is its.
    ids: Vec<FileId>,
    /// What is still to be walked, and from where in it.
    rest: Vec<u8>,
    at: usize,
    /// Links followed so far.
    links: usize,
    /// The spelling, or that of a link at its end, can only mean a directory.
    wants_directory: bool,
}

impl Walk<'_> {
    /// Walks the whole path.
    fn all<'a>(cwd: &[u8], raw: &[u8], how: Look, enter: Enter<'a>) -> Result<Walk<'a>, PathError> {
        check(cwd, raw)?;
        let rest = if raw[0] == b'/' { raw.to_vec() } else { [cwd, b"/", raw].concat() };
        let wants_directory = demands_directory(raw);
        if how == Look::CachedOnly
            && let Some((here, ids)) = straight(&rest)
        {
            let (at, path) = (rest.len(), rest.clone());
            return Ok(Walk { how, enter, here: Some(here), path, ids, rest, at, links: 0, wants_directory });
        }
        let root = open_root(how)?;
        let mut ids = Vec::with_capacity(16);
        ids.push(root.id);
        let path = Vec::with_capacity(rest.len());
        let mut walk = Walk { how, enter, here: Some(root), path, ids, rest, at: 0, links: 0, wants_directory };
        while let Some(component) = walk.next_component() {
            walk.step(&component)?;
        }
        Ok(walk)
    }

    fn finish(self) -> Result<Resolved, PathError> {
        let kind = match self.here.map(|here| here.kind) {
            None => Kind::Missing,
            Some(FileType::Directory) => Kind::Directory,
            Some(FileType::RegularFile) => Kind::File,
            Some(_) => Kind::Other,
        };
        let path = if self.path.is_empty() { b"/".to_vec() } else { self.path };
        if self.wants_directory && matches!(kind, Kind::File | Kind::Other) {
            return Err(invalid("the path ends like that of a directory, but what is there is none", &path));
        }
        Ok(Resolved { path: path.into(), ids: self.ids.into(), kind })
    }

    /// Takes the next component that says anything: neither empty nor a single dot.
    ///
    /// Dots may be skipped unseen: a dot behind a file is followed by a component, which then fails, or ends the
    /// path, which then wants a directory.
    fn next_component(&mut self) -> Option<Vec<u8>> {
        while self.at < self.rest.len() {
            let rest = &self.rest[self.at..];
            let end = rest.iter().position(|&byte| byte == b'/').unwrap_or(rest.len());
            self.at += (end + 1).min(rest.len());
            if !matches!(&rest[..end], b"" | b".") {
                return Some(rest[..end].to_vec());
            }
        }
        None
    }

    fn is_last(&self) -> bool {
        self.at == self.rest.len()
    }

    fn step(&mut self, component: &[u8]) -> Result<(), PathError> {
        if component == b".." {
            return self.step_up();
        }
        if component.len() > limits::NAME_MAX {
            return Err(name_too_long(component));
        }
        if self.here.is_some() && self.how == Look::Thorough {
            let mount = self.below(component);
            if mounts::is_remote_mount_point(&mount) {
                (self.enter)(&mount.into())?;
            }
        }
        let Some(here) = &self.here else { return self.append(component) };
        match self.open_below(here, component) {
            Ok(node) if node.kind == FileType::Symlink && !planted(Bug::LinkNotFollowed) => {
                self.follow(&node, component)
            }
            Ok(node) => {
                self.append(component)?;
                self.ids.push(node.id);
                self.here = Some(node);
                Ok(())
            }
            Err(Errno::NOENT) => {
                self.here = None;
                self.append(component)
            }
            Err(errno) => Err(failed(errno, &self.below(component))),
        }
    }

    /// Goes to the parent. Both the name and the descriptor do, and must agree: a directory that is being moved
    /// must not end in a path that never was.
    fn step_up(&mut self) -> Result<(), PathError> {
        let Some(here) = &self.here else {
            return Err(invalid("`..` cannot be worked out behind a name that does not exist", &self.path));
        };
        if here.kind != FileType::Directory {
            return Err(failed(Errno::NOTDIR, &self.path));
        }
        let Some(slash) = self.path.iter().rposition(|&byte| byte == b'/') else { return Ok(()) };
        let parent = open_at(here.fd.as_fd(), b"..", OFlags::DIRECTORY, self.how, ResolveFlags::empty())
            .map_err(|errno| failed(errno, &self.path))?;
        self.ids.pop();
        if self.ids.last() != Some(&parent.id) {
            let path = String::from_utf8_lossy(&self.path);
            return Err(PathError::Io(format!("`{path}` was moved while it was looked up; ask again")));
        }
        self.path.truncate(slash);
        self.here = Some(parent);
        Ok(())
    }

    /// Puts the text of a link in the place of its name.
    fn follow(&mut self, link: &Node, component: &[u8]) -> Result<(), PathError> {
        let name = self.below(component);
        self.links += 1;
        if self.links > LINKS_MAX {
            return Err(invalid(&format!("the path leads through more than {LINKS_MAX} links, or in a circle"), &name));
        }
        let text = readlink(link).map_err(|errno| failed(errno, &name))?;
        let Some(text) = text else {
            let why = "links in /proc mean another file to every process; name the file itself";
            return Err(invalid(why, &name));
        };
        if text.first() == Some(&b'/') {
            let root = open_root(self.how)?;
            self.path.clear();
            self.ids.clear();
            self.ids.push(root.id);
            self.here = Some(root);
        }
        self.wants_directory |= self.is_last() && demands_directory(&text);
        self.rest = match &self.rest[self.at..] {
            [] => text,
            rest => [&text, &b"/"[..], rest].concat(),
        };
        self.at = 0;
        Ok(())
    }

    /// Opens a component itself, not what it links to; across a mount point if there is one.
    fn open_below(&self, here: &Node, component: &[u8]) -> Result<Node, Errno> {
        // To ask for a directory makes the kernel mount what is mounted on demand. Without that, `x` below such a
        // mount would look as if it did not exist.
        let on_the_way = if self.is_last() { OFlags::empty() } else { OFlags::DIRECTORY };
        match self.open_at(here, component, on_the_way) {
            // A link is no directory; a file is none either, and fails at the next component.
            Err(Errno::NOTDIR) if here.kind == FileType::Directory => self.open_at(here, component, OFlags::empty()),
            found => found,
        }
    }

    fn open_at(&self, here: &Node, component: &[u8], flags: OFlags) -> Result<Node, Errno> {
        let here = here.fd.as_fd();
        match open_at(here, component, flags, self.how, ResolveFlags::NO_XDEV) {
            Err(Errno::AGAIN) if mounts::is_local_mount_point(&self.below(component)) => {
                open_at(here, component, flags, self.how, ResolveFlags::empty())
            }
            found => found,
        }
    }

    /// The path of a component of the directory where the walk stands.
    fn below(&self, component: &[u8]) -> Vec<u8> {
        [&self.path, &b"/"[..], component].concat()
    }

    fn append(&mut self, component: &[u8]) -> Result<(), PathError> {
        self.path.push(b'/');
        self.path.extend_from_slice(component);
        if self.path.len() > limits::PATH_MAX { Err(too_long(&self.path)) } else { Ok(()) }
    }
}

/// What is at the end of `path` and the identities on the way, with a third of the calls of a walk, where all of it is
/// there, plain, in memory and on local file systems; none is the walk's to work out.
///
/// The kernel walks the whole path at once and says that it had to wait for nothing and met no link; then each
/// directory on the way is asked for by name, which the memory knows now. A directory that is renamed in between is
/// seen as what stands under its name then, as by a walk that comes a moment later.
fn straight(path: &[u8]) -> Option<(Node, Vec<FileId>)> {
    let is_plain = |name: &[u8]| !matches!(name, b"" | b"." | b"..") && name.len() <= limits::NAME_MAX;
    let is_bounded = path.len() <= limits::PATH_MAX && path.split(|&byte| byte == b'/').skip(1).all(is_plain);
    if !is_bounded || !mounts::leads_over_local(path) {
        return None;
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let node = open_cached(rustix::fs::CWD, path, flags, ResolveFlags::NO_SYMLINKS).ok()?;
    let mut ids = Vec::with_capacity(16);
    let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at.max(1));
    for end in slashes {
        let how = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
        let (id, kind) = identified(rustix::fs::CWD, &path[..end], how).ok()?;
        if kind != FileType::Directory {
            return None;
        }
        ids.push(id);
    }
    ids.push(node.id);
    (node.kind != FileType::Symlink).then_some((node, ids))
}

fn open_root(how: Look) -> Result<Node, PathError> {
    open_at(rustix::fs::CWD, b"/", OFlags::DIRECTORY, how, ResolveFlags::empty()).map_err(|errno| failed(errno, b"/"))
}

/// Opens a name and asks what it is. `AGAIN` says that memory alone does not tell.
fn open_at(dir: BorrowedFd<'_>, name: &[u8], flags: OFlags, how: Look, bound: ResolveFlags) -> Result<Node, Errno> {
    let flags = flags | OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match how {
        Look::CachedOnly => open_cached(dir, name, flags, bound).map_err(|errno| match errno {
            // Kernels before 5.12 do not know the flag, and filters of containers the call.
            Errno::NOSYS | Errno::PERM | Errno::INVAL | Errno::TOOBIG | Errno::XDEV => Errno::AGAIN,
            errno => errno,
        }),
        Look::Thorough => rustix::io::retry_on_intr(|| {
            let fd = rustix::fs::openat(dir, name, flags, Mode::empty())?;
            identify(fd, AtFlags::empty())
        }),
    }
}

fn open_cached(dir: BorrowedFd<'_>, name: &[u8], flags: OFlags, bound: ResolveFlags) -> Result<Node, Errno> {
    let fd = rustix::fs::openat2(dir, name, flags, Mode::empty(), ResolveFlags::CACHED | bound)?;
    identify(fd, AtFlags::STATX_DONT_SYNC)
}

/// What an open file is. `AGAIN` if only its server could tell.
fn identify(fd: OwnedFd, how: AtFlags) -> Result<Node, Errno> {
    let (id, kind) = identified(fd.as_fd(), b"", AtFlags::EMPTY_PATH | how)?;
    Ok(Node { fd, id, kind })
}

/// What a name in a directory is, itself and not what it links to. `AGAIN` if only its server could tell.
fn identified(dir: BorrowedFd<'_>, name: &[u8], how: AtFlags) -> Result<(FileId, FileType), Errno> {
    let wanted = StatxFlags::TYPE | StatxFlags::INO;
    let stat = rustix::fs::statx(dir, name, how, wanted | StatxFlags::BTIME)?;
    let told = StatxFlags::from_bits_retain(stat.stx_mask);
    if !told.contains(wanted) {
        return Err(Errno::AGAIN);
    }
    Ok((identity_of(&stat), FileType::from_raw_mode(stat.stx_mode.into())))
}

/// The identity in a `statx` answer.
pub(super) fn identity_of(stat: &Statx) -> FileId {
    let told = StatxFlags::from_bits_retain(stat.stx_mask);
    let born = if told.contains(StatxFlags::BTIME) { stat.stx_btime.tv_sec } else { 0 };
    let birth = u64::try_from(born).unwrap_or(0).saturating_mul(1_000_000_000);
    FileId {
        device: rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor),
        inode: stat.stx_ino,
        birth: if birth == 0 { 0 } else { birth + u64::from(stat.stx_btime.tv_nsec) },
    }
}

/// The text of a link; none if it is one of `/proc`, whose text depends on who reads it.
fn readlink(link: &Node) -> Result<Option<Vec<u8>>, Errno> {
    if rustix::fs::fstatfs(&link.fd)?.f_type == rustix::fs::PROC_SUPER_MAGIC {
        return Ok(None);
    }
    Ok(Some(rustix::fs::readlinkat(&link.fd, c"", Vec::new())?.into_bytes()))
}

// ── Sentences ───────────────────────────────────────────────────────────────────────────────────────────────────────

fn failed(errno: Errno, path: &[u8]) -> PathError {
    let shown = String::from_utf8_lossy(path);
    match errno {
        Errno::AGAIN => PathError::WouldBlock,
        Errno::NOTDIR => invalid("the path leads through a file as if it were a directory", path),
        Errno::NAMETOOLONG => invalid("a name in the path is longer than its file system allows", path),
        Errno::ACCESS | Errno::PERM => PathError::Denied(format!(
            "the daemon may not look up `{shown}`: give its user search permission on the way"
        )),
        errno => PathError::Io(format!("looking up `{shown}` failed: {errno}")),
    }
}

fn invalid(why: &str, path: &[u8]) -> PathError {
    /// Bytes of a path shown in a sentence: enough to recognise it.
    const SHOWN: usize = 200;
    let cut = if path.len() > SHOWN { "…" } else { "" };
    PathError::Invalid(format!("{why}: `{}{cut}`", String::from_utf8_lossy(&path[..path.len().min(SHOWN)])))
}

fn name_too_long(name: &[u8]) -> PathError {
    invalid(&format!("a name in the path is longer than {} bytes", limits::NAME_MAX), name)
}

fn too_long(path: &[u8]) -> PathError {
    invalid(&format!("the path is longer than {} bytes", limits::PATH_MAX), path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::ffi::OsStr;
    use std::fs;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::{MetadataExt, symlink};
    use std::path::{Path, PathBuf};

    /// A directory with a canonical name of its own.
    struct Place {
        root: PathBuf,
        _kept: tempfile::TempDir,
    }

    impl Place {
        fn new() -> Place {
            let kept = tempfile::tempdir().unwrap();
            Place { root: kept.path().canonicalize().unwrap(), _kept: kept }
        }

        /// A place some levels down, so that two dots stay within it for a while.
        fn within() -> Place {
            let mut place = Place::new();
            place.root = place.dir("1/2/3/4/5/6/7/8");
            place
        }

        /// Makes a link, directory or file, if that can be done. It must not be done outside of the place, where a
        /// random name could hit anything: hence no name with two dots, no parent reached through a link that leads
        /// out, and nothing that follows a link at the end.
        fn make(&self, name: &str, link: Option<&str>, is_dir: bool) {
            let path = self.root.join(name.trim_end_matches('/'));
            let parent = path.parent().and_then(|parent| parent.canonicalize().ok());
            if name.contains("..") || !parent.is_some_and(|parent| parent.starts_with(&self.root)) {
                return;
            }
            let _ = match link {
                Some(text) => symlink(text, &path),
                None if is_dir => fs::create_dir(&path),
                None => fs::File::create_new(&path).map(drop),
            };
        }

        fn dir(&self, name: &str) -> PathBuf {
            let path = self.root.join(name);
            fs::create_dir_all(&path).unwrap();
            path
        }

        fn file(&self, name: impl AsRef<Path>) -> PathBuf {
            let path = self.root.join(name);
            fs::write(&path, "").unwrap();
            path
        }

        fn link(&self, to: &str, name: &str) {
            symlink(to, self.root.join(name)).unwrap();
        }

        /// The target of a spelling typed in the place. Memory may refuse to answer, but must not answer differently.
        fn look(&self, raw: &[u8]) -> Result<Target, PathError> {
            let cwd = self.root.as_os_str().as_bytes();
            let thorough = target(cwd, raw, Look::Thorough);
            let cached = target(cwd, raw, Look::CachedOnly);
            if cached != Err(PathError::WouldBlock) {
                assert_eq!(cached, thorough, "{}", raw.escape_ascii());
            }
            thorough
        }

        fn scope(&self, raw: &str) -> Scope {
            self.look(raw.as_bytes()).unwrap_or_else(|error| panic!("{raw}: {error}")).scope
        }

        fn sentence(&self, raw: impl AsRef<[u8]>) -> String {
            match self.look(raw.as_ref()) {
                Err(PathError::Invalid(text)) => text,
                other => panic!("{} gave {other:?}", raw.as_ref().escape_ascii()),
            }
        }

        /// All spellings mean the file or directory at the canonical place `path` below the root.
        fn all_mean(&self, spellings: &[&str], path: &str) -> Target {
            let targets: Vec<_> = spellings.iter().map(|raw| (raw, self.look(raw.as_bytes()))).collect();
            let first = targets[0].1.clone().unwrap();
            assert_eq!(first.scope.path().unwrap(), self.root.join(path).as_os_str().as_bytes());
            for (raw, target) in targets {
                assert_eq!(target.as_ref(), Ok(&first), "{raw}");
            }
            first
        }
    }

    fn id_of(path: &Path) -> FileId {
        let meta = fs::symlink_metadata(path).unwrap();
        let since_1970 = meta.created().ok().and_then(|born| born.duration_since(std::time::UNIX_EPOCH).ok());
        let birth = since_1970.map_or(0, |born| u64::try_from(born.as_nanos()).unwrap());
        FileId { device: meta.dev(), inode: meta.ino(), birth }
    }

    /// Whether this kernel, and the filter it may stand behind, answer from memory at all.
    fn memory_answers() -> bool {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        rustix::fs::openat2(rustix::fs::CWD, "/", flags, Mode::empty(), ResolveFlags::CACHED).is_ok()
    }

    #[test]
    fn the_short_way_finds_what_a_walk_finds_and_leaves_links_dots_and_gaps_to_it() {
        if !memory_answers() {
            return;
        }
        let place = Place::new();
        place.dir("a/b");
        place.make("a/b/file", None, false);
        place.make("a/link", Some("b"), false);
        let path = |name: &str| place.root.join(name).into_os_string().into_encoded_bytes();
        for name in ["a/b/file", "a/b", "a"] {
            let (node, ids) = straight(&path(name)).unwrap();
            let walked = resolve(b"/", &path(name), Look::Thorough).unwrap();
            assert_eq!((ids.last(), &ids[..]), (Some(&node.id), &walked.ids[..]), "{name}");
        }
        for name in ["a/link", "a/link/file", "a/./b", "a/../a", "a//b", "a/b/", "a/none", "a/b/file/x"] {
            assert!(straight(&path(name)).is_none(), "{name}");
        }
        assert!(straight(b"/").is_none());
    }

    #[test]
    fn dots_and_doubled_slashes_change_nothing() {
        let place = Place::new();
        place.dir("a/b");
        let file = place.file("a/b/f");
        let absolute = file.to_str().unwrap().to_owned();
        let doubled = absolute.replace('/', "//");
        let spellings =
            ["a/b/f", "./a/b/f", "a//b///f", "a/./b/./f", "a/../a/b/../b/f", "a/b/../../a/b/f", &absolute, &doubled];
        let target = place.all_mean(&spellings, "a/b/f");
        assert_eq!(target.scope, Scope::File(file.as_os_str().as_bytes().into()));
        assert_eq!(target.own_id(), Some(id_of(&file)));
    }

    #[test]
    fn the_identities_are_those_of_every_directory_on_the_way() {
        let place = Place::new();
        place.dir("a/b");
        let file = place.file("a/b/f");
        let ids = place.look(b"a/b/f").unwrap().ids;
        let mut expected: Vec<_> = file.ancestors().map(id_of).collect();
        expected.reverse();
        assert_eq!(*ids, *expected);
    }

    #[test]
    fn links_in_the_middle_and_at_the_end_mean_what_they_lead_to() {
        let place = Place::new();
        let real = place.dir("real/deep");
        place.file("real/deep/f");
        place.link("real", "way");
        place.link("way/deep", "longer");
        place.link(real.to_str().unwrap(), "absolute");
        place.link("longer/f", "last");
        place.link("last", "last-but-one");
        let spellings =
            ["real/deep/f", "way/deep/f", "longer/f", "absolute/f", "last", "last-but-one", "./way/../last-but-one"];
        place.all_mean(&spellings, "real/deep/f");
    }

    #[test]
    fn two_dots_behind_a_link_leave_the_directory_it_leads_to() {
        let place = Place::new();
        place.dir("one/two");
        place.file("one/f");
        place.file("f");
        place.link("one/two", "way");
        place.all_mean(&["way/../f", "one/f", "way/.././f"], "one/f");
        assert_ne!(place.scope("way/../f"), place.scope("f"));
        let own = Scope::Subtree(place.root.as_os_str().as_bytes().into());
        for raw in ["way/../..", ".", "./", "one/.."] {
            assert_eq!(place.scope(raw), own, "{raw}");
        }
    }

    #[test]
    fn hard_links_are_two_names_with_one_identity() {
        let place = Place::new();
        fs::hard_link(place.file("f"), place.root.join("g")).unwrap();
        let (f, g) = (place.look(b"f").unwrap(), place.look(b"g").unwrap());
        assert_ne!(f.scope, g.scope);
        assert_eq!(f.own_id(), g.own_id());
        assert!(f.own_id().is_some());
    }

    #[test]
    fn what_does_not_exist_keeps_its_name_below_the_deepest_parent_that_does() {
        let place = Place::new();
        place.dir("real");
        place.link("real", "way");
        let target = place.all_mean(&["way/new/er/f", "real/new/er/f", "./real//new/./er/f"], "real/new/er/f");
        assert!(matches!(target.scope, Scope::File(_)));
        assert_eq!(target.ids.last(), Some(&id_of(&place.root.join("real"))));
        assert_eq!(target.own_id(), None);
    }

    #[test]
    fn a_dangling_link_means_its_missing_target() {
        let place = Place::new();
        place.dir("real");
        place.link("real/new", "dangling");
        place.link("dangling", "to-dangling");
        place.link("/no/such/place/f", "far");
        place.link("real/newdir/", "to-directory");
        place.all_mean(&["dangling", "to-dangling", "real/new"], "real/new");
        place.all_mean(&["dangling/x", "real/new/x"], "real/new/x");
        assert_eq!(place.scope("far"), Scope::File((*b"/no/such/place/f").into()));
        place.all_mean(&["to-directory", "to-directory/", "real/newdir/"], "real/newdir");
    }

    #[test]
    fn two_dots_behind_a_missing_name_are_refused() {
        let place = Place::new();
        place.link("nowhere", "dangling");
        for raw in ["missing/../f", "missing/a/../f", "dangling/../f", "missing/.."] {
            assert!(place.sentence(raw).contains("does not exist"), "{raw}");
        }
    }

    #[test]
    fn a_circle_of_links_is_refused_and_a_long_chain_is_not() {
        let place = Place::new();
        place.link("b", "a");
        place.link("a", "b");
        place.link("self/x", "self");
        for raw in ["a", "b", "a/x", "self", "self/y"] {
            assert!(place.sentence(raw).contains("circle"), "{raw}");
        }
        place.file("0");
        for number in 1..=LINKS_MAX {
            place.link(&(number - 1).to_string(), &number.to_string());
        }
        place.all_mean(&[&LINKS_MAX.to_string()], "0");
        place.link(&LINKS_MAX.to_string(), "one-too-many");
        assert!(place.sentence("one-too-many").contains("circle"));
    }

    #[test]
    fn a_directory_is_a_subtree_however_spelled_and_a_file_is_a_file() {
        let place = Place::new();
        place.dir("d");
        place.file("f");
        place.link("d", "way");
        let target = place.all_mean(&["d", "d/", "d//", "d/.", "way", "way/", "./d/../d"], "d");
        assert!(matches!(target.scope, Scope::Subtree(_)));
        assert!(matches!(place.scope("f"), Scope::File(_)));
        assert!(matches!(place.scope("new"), Scope::File(_)));
        for raw in ["new/", "new/.", "new//"] {
            assert!(matches!(place.scope(raw), Scope::Subtree(_)), "{raw}");
        }
        assert_eq!(place.scope("/"), Scope::Subtree((*b"/").into()));
        assert_eq!(place.scope("/../.."), Scope::Subtree((*b"/").into()));
    }

    #[test]
    fn a_file_is_no_directory() {
        let place = Place::new();
        place.file("f");
        place.link("f", "way");
        for raw in ["f/", "f/.", "f/..", "f/x", "f/./x", "f/x/y", "way/", "way/x", "way/../f"] {
            assert!(place.sentence(raw).contains("directory"), "{raw}");
        }
    }

    #[test]
    fn devices_sockets_and_pipes_are_names_like_any_other() {
        let place = Place::new();
        let _socket = std::os::unix::net::UnixListener::bind(place.root.join("socket")).unwrap();
        assert!(matches!(place.scope("socket"), Scope::File(_)));
        let null = resolve(b"/", b"/dev/null", Look::Thorough).unwrap();
        assert_eq!((&*null.path, null.kind), (&b"/dev/null"[..], Kind::Other));
    }

    #[test]
    fn names_are_bytes() {
        let place = Place::new();
        let odd =
            [&b"a"[..], b"\xff\xfe", b"caf\xc3\xa9", b"cafe\xcc\x81", b"x (deleted)", b"-", b" ", b"a\nb", b"..."];
        for name in odd {
            place.file(OsStr::from_bytes(name));
        }
        let targets: Vec<_> = odd.iter().map(|name| place.look(name).unwrap()).collect();
        for (name, target) in odd.iter().zip(&targets) {
            assert!(target.scope.path().unwrap().ends_with(name));
            assert!(target.own_id().is_some());
            assert_eq!(targets.iter().filter(|other| other.scope == target.scope).count(), 1);
        }
    }

    #[test]
    fn a_name_that_ends_in_deleted_is_not_the_deleted_file() {
        let place = Place::new();
        fs::remove_file(place.file("x")).unwrap();
        place.file("x (deleted)");
        assert_ne!(place.scope("x"), place.scope("x (deleted)"));
        assert_eq!(place.look(b"x").unwrap().own_id(), None);
        assert!(place.look(b"x (deleted)").unwrap().own_id().is_some());
    }

    #[test]
    fn names_end_at_255_bytes_and_paths_at_4095() {
        let place = Place::new();
        let (fits, over) = ("n".repeat(255), "n".repeat(256));
        place.file(&fits);
        assert!(place.look(fits.as_bytes()).unwrap().own_id().is_some());
        assert!(place.look(format!("missing/{fits}").as_bytes()).is_ok());
        for raw in [over.clone(), format!("missing/{over}"), format!("{over}/x")] {
            assert!(place.sentence(raw).contains("255"));
        }

        let mut path = "/no such directory".to_owned();
        path.push_str(&"/m".repeat((4094 - path.len()) / 2));
        path.push_str(&"m".repeat(4095 - path.len()));
        assert_eq!(place.scope(&path).path().unwrap().len(), 4095);
        path.push('m');
        assert!(place.sentence(&path).contains("4095"));
        // What counts is the canonical path: here the joined one is too long.
        let relative = "m/".repeat(2046);
        assert!(place.sentence(&relative).contains("4095"));
    }

    #[test]
    fn a_deep_tree_needs_no_descriptor_for_each_level() {
        let place = Place::new();
        let mut fd = rustix::fs::open(&place.root, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let levels = (limits::PATH_MAX - place.root.as_os_str().len()) / 2;
        for _ in 0..levels {
            rustix::fs::mkdirat(&fd, "d", Mode::RWXU).unwrap();
            fd = rustix::fs::openat(&fd, "d", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).unwrap();
        }
        let deep = place.look("d/".repeat(levels).as_bytes()).unwrap();
        assert_eq!(deep.ids.len(), deep.scope.components().count() + 1);
        let and_back = format!("{}{}", "d/".repeat(levels), "../".repeat(levels));
        let up = target(place.root.as_os_str().as_bytes(), &and_back.as_bytes()[..4094], Look::Thorough).unwrap();
        assert!(up.scope.components().count() < deep.scope.components().count());
    }

    #[test]
    fn a_directory_without_search_permission_is_denied_and_said_so() {
        use std::os::unix::fs::PermissionsExt;
        let place = Place::new();
        let closed = place.dir("closed");
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
        let found = place.look(b"closed/f");
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
        match found {
            Err(PathError::Denied(text)) => assert!(text.contains("search permission")),
            // Root may look everywhere.
            found => assert!(rustix::process::geteuid().is_root() && found.is_ok(), "{found:?}"),
        }
    }

    #[test]
    fn what_names_nothing_is_refused_in_a_sentence() {
        let place = Place::new();
        assert!(place.sentence("").contains("empty"));
        assert!(place.sentence("a\0b").contains("zero byte"));
        assert!(place.sentence("@").contains("resource name"));
        assert!(place.sentence("@two words").contains("resource name"));
        assert!(place.sentence(b"@\xff").contains("UTF-8"));
        assert!(place.sentence("glob:src/**.rs").contains("whole component"));
        for cwd in ["", "relative", "./x"] {
            let found = target(cwd.as_bytes(), b"f", Look::Thorough);
            assert!(matches!(found, Err(PathError::Invalid(text)) if text.contains("working directory")), "{cwd}");
        }
        assert!(target(b"", b"/", Look::Thorough).is_ok());
    }

    #[test]
    fn an_at_sign_makes_a_resource_unless_it_is_a_path() {
        let place = Place::new();
        assert_eq!(place.look(b"@port-3000").unwrap(), Target::named(Scope::Resource("port-3000".into())));
        place.all_mean(&["./@port-3000"], "@port-3000");
        place.all_mean(&["./glob:x"], "glob:x");
        place.all_mean(&["app/[id]/page.tsx"], "app/[id]/page.tsx");
    }

    #[test]
    fn a_pattern_begins_where_its_fixed_part_leads() {
        let place = Place::new();
        let real = place.dir("real [1]");
        place.file("real [1]/f");
        place.link("real [1]", "way");
        let of = |prefix: &Path, rest: &str| {
            Scope::Pattern(Pattern::new(prefix.as_os_str().as_bytes(), rest.as_bytes()).unwrap())
        };
        for raw in ["glob:way/*.rs", "glob:real \\[1\\]/*.rs", "glob:./way/../way//./*.rs"] {
            let target = place.look(raw.as_bytes()).unwrap();
            assert_eq!(target.scope, of(&real, "*.rs"), "{raw}");
            assert_eq!(target.ids.last(), Some(&id_of(&real)), "{raw}");
            assert_eq!(target.own_id(), None);
        }
        assert_eq!(place.scope("glob:new/deep/*"), of(&place.root.join("new/deep"), "*"));
        assert_eq!(place.scope("glob:**"), of(&place.root, "**"));
        assert_eq!(place.scope("glob:/*"), of(Path::new("/"), "*"));
        assert!(place.sentence("glob:way/f/*").contains("directory"));
        place.all_mean(&["glob:way/f", "glob:real \\[1\\]/f", "way/f"], "real [1]/f");
        assert_eq!(place.scope("glob:@x*"), of(&place.root, "@x*"), "a pattern is of files");
    }

    #[test]
    fn links_that_mean_another_file_to_every_process_are_refused() {
        let place = Place::new();
        for raw in ["/proc/self/cwd/f", "/proc/self/fd/0", "/dev/stdin"] {
            assert!(place.sentence(raw).contains("/proc"), "{raw}");
        }
        assert!(place.look(b"/proc/uptime").is_ok());
    }

    #[test]
    fn what_was_just_looked_up_is_known_from_memory_across_mounts_too() {
        if !memory_answers() {
            return;
        }
        let place = Place::new();
        place.file("f");
        for raw in ["f", "missing", "/proc", "/dev/null", "/"] {
            let cwd = place.root.as_os_str().as_bytes();
            let thorough = target(cwd, raw.as_bytes(), Look::Thorough);
            assert_eq!(target(cwd, raw.as_bytes(), Look::CachedOnly), thorough, "{raw}");
        }
    }

    #[test]
    fn what_is_not_in_memory_is_not_waited_for() {
        let place = Place::new();
        let cwd = place.root.as_os_str().as_bytes();
        // The kernel has never heard this name, so its memory cannot say that the file does not exist.
        assert_eq!(target(cwd, b"never asked for before", Look::CachedOnly), Err(PathError::WouldBlock));
    }

    /// One step in building a random tree, and one in spelling a path through it.
    fn component() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec!["a", "b", "c", "l", "m", "n", "..", "."])
    }

    fn spelling() -> impl Strategy<Value = String> {
        (prop::collection::vec(component(), 1..7), any::<bool>())
            .prop_map(|(parts, slash)| parts.join("/") + if slash { "/" } else { "" })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn where_the_file_exists_the_kernel_agrees(
            made in prop::collection::vec((spelling(), prop::option::of(spelling()), any::<bool>()), 1..14),
            asked in prop::collection::vec(spelling(), 1..20),
        ) {
            let place = Place::within();
            for (name, link, is_dir) in &made {
                place.make(name, link.as_deref(), *is_dir);
            }
            for raw in &asked {
                let found = place.look(raw.as_bytes());
                match place.root.join(raw).canonicalize() {
                    Ok(path) => {
                        let found = found.unwrap();
                        prop_assert_eq!(found.scope.path().unwrap(), path.as_os_str().as_bytes());
                        prop_assert_eq!(found.own_id(), Some(id_of(&path)));
                        prop_assert_eq!(matches!(found.scope, Scope::Subtree(_)), path.is_dir());
                    }
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                        prop_assert!(found.is_err() || found.unwrap().own_id().is_none());
                    }
                    Err(_) => prop_assert!(matches!(found, Err(PathError::Invalid(_)))),
                }
            }
        }
    }
}
