//! Prepared files, made by hand as a client in any language makes them, and the request that puts them in place.

use flockd::client::{ClientError, Connection};
use flockd::wire::{Body, CommitBody, Op, PreparedFile, Request, WireError};
use std::fs;
use std::path::Path;

/// A prepared file, kept open as its maker must.
pub struct Draft {
    pub file: PreparedFile,
    _open: fs::File,
}

impl Draft {
    /// Prepares `content` beside what it is to replace.
    pub fn make(dir: &Path, name: &str, content: &[u8]) -> Draft {
        fs::write(dir.join(name), content).unwrap();
        Draft::of(dir, name)
    }

    /// Takes what is there.
    pub fn of(dir: &Path, name: &str) -> Draft {
        let open = fs::File::open(dir.join(name)).unwrap();
        let stat = rustix::fs::fstat(&open).unwrap();
        let file = PreparedFile { name: name.to_owned(), file: format!("{}:{}", stat.st_dev, stat.st_ino) };
        Draft { file, _open: open }
    }
}

/// The request that has a prepared file put in the place of `scope`.
pub fn commit(scope: &str, fence: Option<u64>, prepared: &PreparedFile) -> Request {
    let (scope, prepared) = (Some(scope.to_owned()), Some(prepared.clone()));
    Request { scope, fence, prepared, ..Request::new(Op::Commit) }
}

/// Has a prepared file put in place.
pub fn put(client: &Connection, request: Request) -> Result<CommitBody, WireError> {
    match client.call(request) {
        Ok(answer) => match answer.ok {
            Some(Body::Committed(body)) => Ok(body),
            other => panic!("{other:?}"),
        },
        Err(ClientError::Refused(error)) => Err(*error),
        Err(other) => panic!("{other}"),
    }
}
