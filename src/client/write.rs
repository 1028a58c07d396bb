//! Writing through the daemon: the new content is made beside the file and synced, and the daemon puts it in place,
//! only while a current exclusive lock covers it.

use super::values::{Error, Loss, Refusal};
use super::{ClientError, Connection, unexpected};
use crate::limits;
use crate::os::commit::{PREFIX, SUFFIX};
use crate::os::paths::{self, Kind, Look};
use crate::scope::Scope;
use crate::wire::render::{ABSENT, Likeness};
use crate::wire::{self, Body, Code, CommitBody, LockBody, Mode, Op, PreparedFile, Request};
use std::ffi::OsStr;
use std::fmt;
use std::fs::{File, Permissions};
use std::io::{self, BufWriter, ErrorKind, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempPath;

/// Random letters in the name of a prepared file.
const NAME_RANDOM: usize = 16;
/// Bytes read at a time.
const CHUNK: usize = 64 * 1024;

// ── What programs see ───────────────────────────────────────────────────────────────────────────────────────────────

/// What a file must be for a write to happen: no other is overwritten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// There is no such file yet.
    Absent,
    /// Its content has this BLAKE3 hash: 64 hexadecimal digits, as [`Written::hash`] and `b3sum` say it.
    Hash(String),
}

impl Expected {
    /// As it is said on the wire.
    fn text(&self) -> &str {
        match self {
            Expected::Absent => ABSENT,
            Expected::Hash(hash) => hash,
        }
    }
}

/// A write that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Written {
    /// What was written: relative to its workspace, else absolute.
    pub file_id: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// Its BLAKE3 hash, 64 hexadecimal digits.
    pub hash: String,
    /// The fencing token of the lock that covered it.
    pub fence: u64,
}

/// Why a file was not written.
#[derive(Debug)]
#[non_exhaustive]
pub enum WriteError {
    /// The lock was lost before: others may have written since. Nothing was written.
    Lost(Box<Loss>),
    /// Others hold the file, and waiting for it was in vain. Nothing was written.
    Refused(Box<Refusal>),
    /// The file is not what was [expected](Expected): its hash now, none if it does not exist. Nothing was written.
    Changed(Option<String>),
    /// The file was written, but its directory could not be synced: after a power cut the old one may be back.
    NotDurable(String),
    /// Nothing was written, or no word came of it.
    Failed(Error),
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WriteError::Lost(loss) => write!(f, "{loss}; nothing was written"),
            WriteError::Refused(refusal) => refusal.fmt(f),
            WriteError::Changed(Some(hash)) => {
                write!(f, "the file is not what it was to be: its BLAKE3 hash is {hash} now; nothing was written")
            }
            WriteError::Changed(None) => f.write_str("the file does not exist any more; nothing was written"),
            WriteError::NotDurable(text) => f.write_str(text),
            WriteError::Failed(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for WriteError {}

impl From<ClientError> for WriteError {
    fn from(error: ClientError) -> WriteError {
        match error {
            ClientError::Refused(error) => match (error.loss, error.code) {
                (Some(loss), _) => WriteError::Lost(Box::new((*loss).into())),
                (None, Code::Changed) => WriteError::Changed(error.hash.filter(|hash| hash != ABSENT)),
                (None, _) if error.in_place => WriteError::NotDurable(error.message),
                (None, _) => WriteError::Failed(Error::from(wire::WireError { loss: None, ..*error })),
            },
            error => WriteError::Failed(error.into()),
        }
    }
}

impl From<io::Error> for WriteError {
    fn from(error: io::Error) -> WriteError {
        WriteError::Failed(Error::Io(error))
    }
}

// ── Preparing ───────────────────────────────────────────────────────────────────────────────────────────────────────

/// Where a file is, or is to be, with all links worked out.
#[derive(Debug)]
pub(crate) struct Place {
    path: PathBuf,
    exists: bool,
}

impl Place {
    /// Works out where `typed` leads from `cwd`.
    pub(crate) fn of(cwd: &Path, typed: &Path) -> Result<Place, ClientError> {
        let raw = typed.as_os_str().as_bytes();
        let invalid = |text: String| Err(refused(Code::Invalid, text));
        if raw.starts_with(b"@") {
            return invalid(format!("{} is no file; ./{0} would be one", typed.display()));
        }
        if raw.starts_with(paths::GLOB) {
            return invalid(format!("{} is a pattern and no file; ./{0} would be one", typed.display()));
        }
        match paths::resolve(cwd.as_os_str().as_bytes(), raw, Look::Thorough) {
            Ok(found) if found.kind == Kind::Directory => {
                invalid(format!("{} is a directory; name a file", typed.display()))
            }
            Ok(_) if raw.ends_with(b"/") => invalid(format!("{} is no name of a file", typed.display())),
            Ok(found) => {
                let path = PathBuf::from(OsStr::from_bytes(&found.path));
                Ok(Place { path, exists: found.kind != Kind::Missing })
            }
            Err(error) => invalid(error.to_string()),
        }
    }

    fn dir(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("/"))
    }

    /// What the name looks like and is not taken for, where nothing is there.
    pub(crate) fn likeness(&self) -> Option<Likeness> {
        let scope = Scope::File(self.path.as_os_str().as_bytes().into());
        Likeness::of(&scope).filter(|_| !self.exists)
    }
}

/// New content beside the file that it is to replace, synced, and open for writing nowhere.
pub(crate) struct Draft {
    place: Place,
    /// Removed with the draft, unless it was put in place. None if it is its maker's to remove.
    temp: Option<TempPath>,
    name: String,
    /// Kept open: as long as it is, nobody takes the draft for a left-over, and its inode number is no other's.
    file: File,
    bytes: u64,
    hash: String,
    /// How long the daemon has to put it in place.
    within: Duration,
}

/// Whoever says nothing else waits as for any answer.
const USUAL: Duration = Duration::from_millis(limits::ANSWER_WITHIN);

impl Draft {
    /// Makes one: `write` is given where the content goes.
    pub(crate) fn make(
        place: Place,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<Draft, ClientError> {
        let (prefix, suffix) = (OsStr::from_bytes(PREFIX), OsStr::from_bytes(SUFFIX));
        // What replaces a file is given its mode later, and nobody else sees it before; a new one is as any new file.
        let mode = Permissions::from_mode(if place.exists { 0o600 } else { 0o666 });
        let mut builder = tempfile::Builder::new();
        builder.prefix(prefix).suffix(suffix).rand_bytes(NAME_RANDOM).permissions(mode);
        let made = builder.tempfile_in(place.dir()).map_err(|error| cannot_prepare(&place, &error))?;
        let (file, temp) = made.into_parts();
        let mut out = BufWriter::with_capacity(CHUNK, Hashing { file: &file, hasher: blake3::Hasher::new(), bytes: 0 });
        let written = write(&mut out).and_then(|()| out.flush());
        let failed = |error: io::Error| cannot_prepare(&place, &error);
        written.and_then(|()| file.sync_all()).map_err(failed)?;
        let (Hashing { hasher, bytes, .. }, _) = out.into_parts();
        let read_only = File::open(&temp).map_err(failed)?;
        drop(file);
        let name = temp.file_name().map(|name| wire::escape(name.as_bytes())).unwrap_or_default();
        let hash = hasher.finalize().to_hex().to_string();
        Ok(Draft { place, temp: Some(temp), name, file: read_only, bytes, hash, within: USUAL })
    }

    /// Takes a file that somebody else has made beside the place.
    pub(crate) fn of(place: Place, prepared: &Path) -> Result<Draft, ClientError> {
        let failed = |error: io::Error| refused(Code::Invalid, format!("{}: {error}", prepared.display()));
        let mut file = File::open(prepared).map_err(failed)?;
        let dir = prepared.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let dir = super::place::directory(dir).map_err(|error| refused(Code::Invalid, error.0))?;
        let is_beside = dir == place.dir();
        let (Some(name), true) = (prepared.file_name(), is_beside) else {
            let text = format!("{} must lie in {}", prepared.display(), place.dir().display());
            return Err(refused(Code::Invalid, text));
        };
        let name = wire::escape(name.as_bytes());
        let (hash, bytes) = hash_all(&mut file).map_err(failed)?;
        file.sync_all().map_err(failed)?;
        Ok(Draft { place, temp: None, name, file, bytes, hash, within: USUAL })
    }

    /// The daemon has so long to put it in place.
    #[cfg(feature = "mcp")]
    pub(crate) fn answered_within(&mut self, within: Duration) {
        self.within = within;
    }

    /// Has the daemon put it in place; without a fence under any lock of the agent's that covers it.
    ///
    /// # Errors
    /// [`ClientError::Refused`] says why not; the draft can be offered again.
    pub(crate) fn put(
        &mut self,
        connection: &Connection,
        workspace: Option<String>,
        fence: Option<u64>,
        expected: Option<&Expected>,
    ) -> Result<CommitBody, ClientError> {
        let metadata = self.file.metadata()?;
        let file = format!("{}:{}", metadata.dev(), metadata.ino());
        let request = Request {
            scope: Some(wire::escape(self.place.path.as_os_str().as_bytes())),
            workspace,
            fence,
            prepared: Some(PreparedFile { name: self.name.clone(), file }),
            if_unchanged: expected.map(|expected| expected.text().to_owned()),
            ..Request::new(Op::Commit)
        };
        let answer = connection.call_within(request, Some(self.within)).and_then(|answer| match answer.ok {
            Some(Body::Committed(body)) => Ok(body),
            other => Err(unexpected(other.as_ref())),
        });
        let is_in_place = match &answer {
            Ok(_) => true,
            Err(ClientError::Refused(error)) => error.in_place,
            Err(_) => false,
        };
        // An earlier try of this very request may have been carried out by a daemon that could not say so any more.
        let was_put_before = !is_in_place && self.is_in_place(&metadata);
        if (is_in_place || was_put_before)
            && let Some(temp) = self.temp.take()
        {
            // There is nothing of that name any more; whatever comes by that name is not ours to remove.
            drop(temp.keep());
        }
        match answer {
            Err(error) if was_put_before => Err(put_before(&error)),
            answer => answer,
        }
    }

    fn is_in_place(&self, own: &std::fs::Metadata) -> bool {
        let there = std::fs::symlink_metadata(&self.place.path);
        there.is_ok_and(|there| (there.dev(), there.ino()) == (own.dev(), own.ino()))
    }

    /// Whether there is nothing in it.
    #[cfg(feature = "cli")]
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// The hash of its content.
    #[cfg(feature = "cli")]
    pub(crate) fn hash(&self) -> &str {
        &self.hash
    }

    fn written(&self, body: CommitBody) -> Written {
        Written { file_id: body.file_id, bytes: self.bytes, hash: self.hash.clone(), fence: body.fence }
    }
}

/// Counts and hashes what goes by.
struct Hashing<'a> {
    file: &'a File,
    hasher: blake3::Hasher,
    bytes: u64,
}

impl Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn hash_all(file: &mut File) -> io::Result<(String, u64)> {
    let (mut hasher, mut bytes, mut chunk) = (blake3::Hasher::new(), 0, vec![0; CHUNK]);
    loop {
        match file.read(&mut chunk) {
            Ok(0) => return Ok((hasher.finalize().to_hex().to_string(), bytes)),
            Ok(read) => {
                hasher.update(&chunk[..read]);
                bytes += read as u64;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The BLAKE3 hash of a file as it is now, `absent` if there is none.
#[cfg(feature = "cli")]
pub(crate) fn hash_of(place: &Place) -> io::Result<String> {
    match File::open(&place.path) {
        Ok(mut file) => hash_all(&mut file).map(|(hash, _)| hash),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(ABSENT.to_owned()),
        Err(error) => Err(error),
    }
}

fn refused(code: Code, text: String) -> ClientError {
    ClientError::Refused(Box::new(wire::WireError::new(code, text)))
}

/// What is said where the file is in place and the answer is an error.
fn put_before(error: &ClientError) -> ClientError {
    let text = format!(
        "the file was put in place under the lock, but the daemon ended before it could say so; whether a power cut \
         would undo it is not known, and asking again failed: {error}"
    );
    ClientError::Refused(Box::new(wire::WireError { in_place: true, ..wire::WireError::new(Code::Unavailable, text) }))
}

fn cannot_prepare(place: &Place, error: &io::Error) -> ClientError {
    let dir = place.dir().display();
    match error.kind() {
        ErrorKind::NotFound if place.dir().is_dir() => refused(
            Code::Invalid,
            format!("no file can be made in {dir}, so none there can be replaced: the system makes what is in it"),
        ),
        ErrorKind::NotFound => refused(
            Code::Invalid,
            match place.likeness() {
                Some(like) => {
                    let (sign, hint) = (like.sign(), like.hint());
                    format!("{sign} is a part of this name, and the directory {dir} does not exist: {hint}")
                }
                None => format!("the directory {dir} does not exist; make it first"),
            },
        ),
        ErrorKind::PermissionDenied => {
            refused(Code::Denied, format!("the new content cannot be prepared in {dir}: you may not write there"))
        }
        _ => refused(Code::Unavailable, format!("the new content cannot be prepared in {dir}: {error}")),
    }
}

// ── Under a lock, or one for the moment ─────────────────────────────────────────────────────────────────────────────

/// Writes under a lock that is held.
pub(super) fn under(
    connection: &Connection,
    body: &LockBody,
    fence: u64,
    expected: Option<&Expected>,
    make: impl FnOnce(Place) -> Result<Draft, ClientError>,
) -> Result<Written, WriteError> {
    if body.path.starts_with('@') || body.path.ends_with('/') {
        let text = format!("{} is no file; write the files in it with `Workspace::write`", body.file_id);
        return Err(refused(Code::Invalid, text).into());
    }
    let path = wire::unescape(&body.path).unwrap_or_default();
    let place = Place::of(Path::new("/"), Path::new(OsStr::from_bytes(&path)))?;
    let mut draft = make(place)?;
    let done = draft.put(connection, None, Some(fence), expected)?;
    Ok(draft.written(done))
}

/// Writes under whatever lock of the agent's covers the file, or else takes one for the moment.
pub(super) fn at(
    connection: &Connection,
    root: Option<&Path>,
    contention: Option<wire::Threshold>,
    typed: &Path,
    expected: Option<&Expected>,
    make: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<Written, WriteError> {
    let cwd = match root {
        Some(root) => root.to_owned(),
        None => PathBuf::from(OsStr::from_bytes(&connection.place().cwd)),
    };
    let workspace = root.map(|root| wire::escape(root.as_os_str().as_bytes()));
    let mut draft = Draft::make(Place::of(&cwd, typed)?, make)?;
    match draft.put(connection, workspace.clone(), None, expected) {
        Err(ClientError::Refused(error)) if error.code == Code::NotHolder => {}
        done => return Ok(draft.written(done?)),
    }
    let scope = Some(wire::escape(draft.place.path.as_os_str().as_bytes()));
    let note = Some("writing it through flockd".to_owned());
    let (mode, wait_ms, ttl_ms) = (Some(Mode::Exclusive), Some(limits::WAIT_DEFAULT), Some(0));
    let ask = Request {
        scope,
        workspace: workspace.clone(),
        contention,
        mode,
        wait_ms,
        ttl_ms,
        note,
        ..Request::new(Op::Lock)
    };
    let lock = connection.lock(ask)?;
    let (Some(lock_id), Some(fence), true) = (&lock.lock_id, lock.fence, lock.acquired) else {
        return Err(WriteError::Refused(Box::new(lock.into())));
    };
    let done = draft.put(connection, workspace, Some(fence), expected);
    connection.release_later(lock_id);
    Ok(draft.written(done?))
}
