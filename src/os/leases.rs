//! Whether a file is open somewhere: the kernel tells by granting a file lease, or not.
//!
//! Leases exist so that servers can cache: a read lease is granted only while nobody has the file open for writing, a
//! write lease only while nobody else has it open at all. Both are let go of at once; what is asked is whether they
//! could be had.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::raw::c_int;

const F_SETSIG: c_int = 10;
const F_SETLEASE: c_int = 1024;
const F_RDLCK: c_int = 0;
const F_WRLCK: c_int = 1;
const F_UNLCK: c_int = 2;
/// What the kernel sends if somebody opens the file in the moment of the lease. Ignored unless a program wants it; the
/// usual signal, SIGIO, would end the process.
const SIGURG: c_int = 23;

unsafe extern "C" {
    fn fcntl(fd: c_int, command: c_int, ...) -> c_int;
}

/// Whether anybody, in whatever process, has this file open for writing or mapped so. `file` is open for reading only.
///
/// # Errors
/// `Unsupported` where the file system has no leases; `PermissionDenied` for a file of another user.
pub fn is_open_for_writing(file: &File) -> io::Result<bool> {
    could_not_have(file, F_RDLCK)
}

/// Whether anybody else has this file open at all.
///
/// # Errors
/// As [`is_open_for_writing`].
pub fn is_open_elsewhere(file: &File) -> io::Result<bool> {
    could_not_have(file, F_WRLCK)
}

fn could_not_have(file: &File, lease: c_int) -> io::Result<bool> {
    let ask = |command: c_int, argument: c_int| {
        // SAFETY: the descriptor is open as long as `file` is borrowed, and these commands take one integer and touch
        // no memory of ours.
        match unsafe { fcntl(file.as_raw_fd(), command, argument) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    };
    ask(F_SETSIG, SIGURG)?;
    match ask(F_SETLEASE, lease) {
        Ok(()) => {
            ask(F_SETLEASE, F_UNLCK)?;
            Ok(false)
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(true),
        // How file systems without leases put it.
        Err(error) if error.kind() == ErrorKind::InvalidInput => Err(ErrorKind::Unsupported.into()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;
    use std::process::{Command, Stdio};

    #[test]
    fn a_file_is_open_for_writing_as_long_as_any_descriptor_is_also_in_a_child() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let writer = File::create(&path).unwrap();
        let reader = File::open(&path).unwrap();
        assert!(is_open_for_writing(&reader).unwrap());
        let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(writer).spawn().unwrap();
        assert!(is_open_for_writing(&reader).unwrap(), "a child has it");
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(!is_open_for_writing(&reader).unwrap());
        let other = File::open(&path).unwrap();
        assert!(!is_open_for_writing(&reader).unwrap(), "to read it is no harm");
        let mut whole = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        assert!(is_open_elsewhere(&whole).unwrap());
        drop((reader, other));
        assert!(!is_open_elsewhere(&whole).unwrap());
        // No lease is left behind that would make the next writer wait.
        io::Write::write_all(&mut whole, b"x").unwrap();
        drop(OpenOptions::new().append(true).open(&path).unwrap());
    }
}
