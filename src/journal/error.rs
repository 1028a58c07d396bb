//! Why the journal cannot be opened or written, as sentences that say what to do.

use std::{fmt, io};

/// How to go on without a journal that cannot be read.
const FRESH: &str = "`flockd daemon start --fresh` sets the remains aside and starts without those locks; fences keep \
                     growing";

/// Why the journal cannot be opened or written. `file` is always a full path.
#[derive(Debug)]
pub enum JournalError {
    /// A file has a format that this version does not know.
    Future {
        /// Which file.
        file: String,
        /// Its format.
        version: u32,
    },
    /// A file has a format that this version does not know any more.
    Past {
        /// Which file.
        file: String,
        /// Its format.
        version: u32,
    },
    /// A file is ours and its content is not what was written.
    Damaged {
        /// Which file.
        file: String,
        /// What is wrong with it.
        found: String,
    },
    /// A file is not ours, or belongs to another home.
    Foreign {
        /// Which file.
        file: String,
        /// What it is instead.
        found: String,
    },
    /// A file that must be there is not.
    Missing {
        /// Which file.
        file: String,
        /// What is there and needs it.
        beside: String,
    },
    /// We may not, or nobody may: rights or a read-only file system.
    Denied {
        /// What was tried.
        action: String,
        /// What the system said.
        source: io::Error,
    },
    /// The system failed: full, broken, gone.
    Io {
        /// What was tried.
        action: String,
        /// What the system said.
        source: io::Error,
    },
    /// An earlier call failed; nothing is written until [`Journal::rewrite`](super::Journal::rewrite) has succeeded.
    Failed {
        /// The earlier failure.
        reason: String,
    },
    /// The files of the home were moved, removed or replaced while we ran.
    Tampered {
        /// The file that is not ours any more.
        file: String,
    },
}

impl JournalError {
    /// Sorts an error of the system by what its reader can do.
    pub(super) fn io(action: impl Into<String>, source: io::Error) -> JournalError {
        let action = action.into();
        match source.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                JournalError::Denied { action, source }
            }
            _ => JournalError::Io { action, source },
        }
    }

    pub(super) fn damaged(file: impl Into<String>, found: impl Into<String>) -> JournalError {
        JournalError::Damaged { file: file.into(), found: found.into() }
    }
}

impl fmt::Display for JournalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JournalError::Future { file, version } => write!(
                f,
                "{file} was written by a newer flockd (format {version}); nothing was changed: start that version \
                 again, or give this one another home"
            ),
            JournalError::Past { file, version } => write!(
                f,
                "{file} was written by a flockd before the first release (format {version}), which this one does not \
                 read; nothing was changed: {FRESH}"
            ),
            JournalError::Damaged { file, found } => write!(f, "{file} is damaged: {found}; {FRESH}"),
            JournalError::Foreign { file, found } => {
                write!(f, "{file} does not belong here: {found}; move it away, put the right one back, or else {FRESH}")
            }
            JournalError::Missing { file, beside } => {
                write!(f, "{file} is missing although {beside}; put it back, or else {FRESH}")
            }
            JournalError::Denied { action, source } => {
                write!(f, "cannot {action}: {source}; the home must be writable for the user who runs flockd")
            }
            JournalError::Io { action, source } => {
                write!(f, "cannot {action}: {source}; free space or mend the disk, then try again")
            }
            JournalError::Failed { reason } => write!(
                f,
                "the journal has stopped after a failure ({reason}); it starts again when its state can be rewritten"
            ),
            JournalError::Tampered { file } => write!(
                f,
                "{file} was moved, removed or replaced while flockd runs; nothing more is granted: put it back, or \
                 stop the daemon and look what happened to its home"
            ),
        }
    }
}

impl std::error::Error for JournalError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            JournalError::Denied { source, .. } | JournalError::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}
