//! To the daemon of a home, started if need be: connect, greet, and replace an older one in order.

use super::ClientError;
use crate::limits;
use crate::os::home::{self, Home};
use crate::os::process;
use crate::wire::{self, Code, Hello, HelloLine, Line, Op, Request, Welcome, WireError};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Whether a client may start the daemon, and by which program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Launch {
    /// Only use one that runs.
    Never,
    /// Start one with this `flockd`.
    With(PathBuf),
}

/// The `flockd` to start: the one that lies beside this program, else the first in `$PATH`.
pub(super) fn find_program() -> Option<PathBuf> {
    let beside = std::env::current_exe().ok().and_then(|program| Some(program.parent()?.to_owned()));
    let path = std::env::var_os("PATH").unwrap_or_default();
    find_in(beside.into_iter().chain(std::env::split_paths(&path)))
}

fn find_in(mut dirs: impl Iterator<Item = PathBuf>) -> Option<PathBuf> {
    dirs.find_map(|dir| {
        let file = dir.join("flockd");
        let is_file = file.metadata().is_ok_and(|about| about.is_file());
        (is_file && rustix::fs::access(&file, rustix::fs::Access::EXEC_OK).is_ok()).then_some(file)
    })
}

/// A greeted connection.
pub(super) struct Greeted {
    pub(super) lines: BufReader<UnixStream>,
    pub(super) welcome: Welcome,
}

/// Connects and greets; starts or replaces the daemon where that is wanted and needed.
pub(super) fn connect(
    home: &Home,
    launch: &Launch,
    hello: &Hello,
    agent_process: Option<BorrowedFd<'_>>,
) -> Result<Greeted, ClientError> {
    for _ in 0..limits::CONNECT_ATTEMPTS {
        let stream = match home::connect(home) {
            Ok(stream) => stream,
            Err(error) if is_absent(&error) => match launch {
                Launch::Never => return Err(ClientError::NoDaemon(no_daemon(home))),
                Launch::With(program) => {
                    start(home, program)?;
                    continue;
                }
            },
            Err(error) => return Err(ClientError::Io(error)),
        };
        let Some(mut greeted) = greet(stream, hello, agent_process)? else { continue };
        if *launch != Launch::Never && wire::is_newer(wire::VERSION, &greeted.welcome.version) {
            replace(&mut greeted)?;
            continue;
        }
        if greeted.welcome.protocol != wire::PROTOCOL {
            return Err(ClientError::Refused(Box::new(other_protocol(&greeted.welcome))));
        }
        return Ok(greeted);
    }
    Err(ClientError::NoDaemon(format!(
        "the daemon of {} ends as soon as it is started; see {}",
        home.dir.display(),
        home.daemon_log().display()
    )))
}

/// A daemon that we cannot speak with, and that is not older than we are.
fn other_protocol(daemon: &Welcome) -> WireError {
    let message = format!(
        "the daemon, flockd {}, speaks protocol {}, this program, flockd {}, speaks {}: use the daemon's program",
        daemon.version,
        daemon.protocol,
        wire::VERSION,
        wire::PROTOCOL
    );
    WireError::new(Code::Version, message)
}

fn no_daemon(home: &Home) -> String {
    format!("no daemon serves {}; `flockd daemon start` starts one", home.dir.display())
}

/// Whether an error of connecting means that nobody listens.
fn is_absent(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused)
}

/// Says hello. None if the daemon ended before it answered.
fn greet(
    stream: UnixStream,
    hello: &Hello,
    agent_process: Option<BorrowedFd<'_>>,
) -> Result<Option<Greeted>, ClientError> {
    stream.set_read_timeout(Some(Duration::from_millis(limits::GREETED_WITHIN)))?;
    stream.set_write_timeout(Some(Duration::from_millis(limits::ANSWER_WITHIN)))?;
    let line = wire::encode(&HelloLine { hello: hello.clone() });
    let sent = match agent_process {
        None => (&stream).write_all(&line),
        Some(process) => process::send_with_fd(&stream, &line, process),
    };
    if sent.is_err() {
        return Ok(None);
    }
    let mut lines = BufReader::new(stream);
    match read_line(&mut lines) {
        Ok(None) => Ok(None),
        Ok(Some(Line::Bye(_))) => Ok(None),
        Ok(Some(Line::Hello(welcome))) => {
            lines.get_ref().set_read_timeout(Some(Duration::from_millis(limits::ANSWER_WITHIN)))?;
            Ok(Some(Greeted { lines, welcome }))
        }
        Err(ClientError::Io(error)) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            Err(ClientError::NoAnswer(hung(lines.get_ref())))
        }
        Ok(Some(Line::Event(_) | Line::Gap(_))) => {
            Err(ClientError::Protocol("the daemon told of events before it greeted".to_owned()))
        }
        Ok(Some(Line::Answer(answer))) => match answer.error {
            Some(error) => Err(ClientError::Refused(Box::new(error))),
            None => Err(ClientError::Protocol("the daemon answered before it greeted".to_owned())),
        },
        Err(ClientError::Io(error)) if is_broken(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What to do about a daemon that does not greet.
fn hung(stream: &UnixStream) -> String {
    let who = process::peer(stream)
        .map_or_else(|_| "the daemon".to_owned(), |peer| format!("the daemon, process {},", peer.pid));
    format!(
        "{who} does not answer: it is stopped or hangs. `flockd daemon stop` or kill -9 ends it; its locks stay in the \
         journal and the next command starts a new one"
    )
}

/// Whether an error of reading means that the other end is gone.
pub(super) fn is_broken(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof)
}

/// Reads one line of the daemon; none at its end, a half line included.
pub(super) fn read_line(lines: &mut impl BufRead) -> Result<Option<Line>, ClientError> {
    let mut line = Vec::with_capacity(512);
    let read = lines.take(limits::ANSWER_MAX as u64).read_until(b'\n', &mut line)?;
    if line.last() != Some(&b'\n') {
        return match read < limits::ANSWER_MAX {
            true => Ok(None),
            false => Err(ClientError::Protocol("the daemon's answer is longer than any may be".to_owned())),
        };
    }
    wire::decode_line(&line).map(Some).map_err(ClientError::Protocol)
}

/// Starts the daemon and waits until it is ready, or says why it is not. Many at once start one.
fn start(home: &Home, program: &Path) -> Result<(), ClientError> {
    let output = Command::new(program)
        .args(["daemon", "start"])
        .env("FLOCKD_HOME", &home.dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .map_err(|error| {
            ClientError::NoDaemon(format!("cannot run {} to start the daemon: {error}", program.display()))
        })?;
    // One that somebody killed says nothing about the daemon: whoever connects tries again.
    if output.status.success() || output.status.signal().is_some() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.trim().strip_prefix("flockd: ").unwrap_or(said.trim());
    Err(ClientError::NoDaemon(said.to_owned()))
}

/// Ends an older daemon in order; its locks stay in the journal for the newer one.
fn replace(greeted: &mut Greeted) -> Result<(), ClientError> {
    let request = Request { id: Some(1), version: Some(wire::VERSION.to_owned()), ..Request::new(Op::Stop) };
    greeted.lines.get_ref().write_all(&wire::encode(&request))?;
    // It has let go of the home when it closes the connection.
    let mut rest = Vec::new();
    greeted.lines.read_to_end(&mut rest)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_first_program_is_found_and_neither_a_directory_nor_what_cannot_be_run() {
        let kept = tempfile::tempdir().unwrap();
        let dir = |name: &str| kept.path().join(name);
        for name in ["none", "directory/flockd", "text", "program", "later"] {
            fs::create_dir_all(dir(name)).unwrap();
        }
        for (name, mode) in [("text", 0o600), ("program", 0o700), ("later", 0o700)] {
            fs::write(dir(name).join("flockd"), "").unwrap();
            fs::set_permissions(dir(name).join("flockd"), fs::Permissions::from_mode(mode)).unwrap();
        }
        let dirs = ["missing", "none", "directory", "text", "program", "later"].map(dir);
        assert_eq!(find_in(dirs.into_iter()), Some(dir("program").join("flockd")));
        assert_eq!(find_in([dir("none"), dir("text")].into_iter()), None);
    }
}
