//! Who is at the other end of a socket, and whether a process still lives: by what the kernel says, never by numbers
//! that a client sends.

use crate::model::Process;
use crate::planted::{Bug, planted};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use rustix::process::{Pid, PidfdFlags, Signal};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;

/// Most descriptors taken from one message: a client passes one.
const PASSED_MAX: usize = 4;

/// The process that made the connection at the other end of a socket.
#[derive(Debug)]
pub struct Peer {
    /// Its user at the time.
    pub uid: u32,
    /// Its number at the time, for messages; 0 if it lives where this process cannot see it.
    pub pid: u32,
    /// The process itself and a descriptor that tells of its end. None if it ended already, or cannot be seen.
    pub process: Option<(Process, OwnedFd)>,
}

/// Asks the kernel who is at the other end of a Unix socket.
///
/// # Errors
///
/// When `stream` is no connected Unix socket, or the process is there and cannot be looked at.
pub fn peer(stream: &impl AsFd) -> io::Result<Peer> {
    let stream = stream.as_fd();
    let [pid, uid, _gid] = socket_option(stream, SO_PEERCRED, [0u32; 3])?;
    let process = match peer_pidfd(stream, pid)? {
        Some(pidfd) => match process_of_pidfd(&pidfd) {
            Ok(process) => Some((process, pidfd)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        },
        None => None,
    };
    Ok(Peer { uid, pid, process })
}

/// The user at the other end of a Unix socket, when only that matters.
///
/// # Errors
///
/// When `stream` is no connected Unix socket.
pub fn peer_uid(stream: &impl AsFd) -> io::Result<u32> {
    let [_pid, uid, _gid] = socket_option(stream.as_fd(), SO_PEERCRED, [0u32; 3])?;
    Ok(uid)
}

/// The peer's pidfd; none if the peer is gone or cannot be seen.
///
/// Kernels before 6.5 have no such socket option. There the number is looked up, and a peer that ended before it was
/// asked for, with its number given to another process by then, is mistaken for that one. Nothing better exists
/// there, and the end of its connection ends its session all the same.
fn peer_pidfd(stream: BorrowedFd<'_>, pid: u32) -> io::Result<Option<OwnedFd>> {
    match socket_option(stream, SO_PEERPIDFD, -1i32) {
        Ok(fd) if fd >= 0 => {
            // SAFETY: the kernel has just made this descriptor for this call, so nobody else owns it.
            Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) }))
        }
        Ok(_) => Ok(None),
        Err(Errno::NOPROTOOPT) => match number(pid) {
            Some(pid) => gone_is_none(rustix::process::pidfd_open(pid, PidfdFlags::empty())),
            None => Ok(None),
        },
        Err(errno) => gone_is_none(Err(errno)),
    }
}

/// The errors with which the kernel says that there is no such process any more are no errors here.
fn gone_is_none(found: Result<OwnedFd, Errno>) -> io::Result<Option<OwnedFd>> {
    match found {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::SRCH | Errno::INVAL | Errno::NODATA | Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// A number that can be a process.
fn number(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

/// Which process a pidfd belongs to.
///
/// # Errors
///
/// `NotFound` if the process has ended and been collected, or lives in another pid namespace; `InvalidInput` if the
/// descriptor is no pidfd; others if `/proc` cannot be read.
pub fn process_of_pidfd(pidfd: &impl AsFd) -> io::Result<Process> {
    let pid = pid_of(pidfd.as_fd())?;
    let start = start_of(pid)?;
    // The number was this process's before and after its start was read, hence all the time in between.
    if pid_of(pidfd.as_fd())? != pid {
        return Err(ended());
    }
    Ok(Process { pid, start })
}

fn pid_of(pidfd: BorrowedFd<'_>) -> io::Result<u32> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))?;
    let pid = info.lines().find_map(|line| line.strip_prefix("Pid:")).map(str::trim);
    match pid.map(str::parse::<i64>) {
        None => Err(io::Error::new(io::ErrorKind::InvalidInput, "the descriptor is no pidfd: pass one of pidfd_open")),
        Some(Ok(-1 | 0)) => Err(ended()),
        Some(pid) => pid.ok().and_then(|pid| u32::try_from(pid).ok()).ok_or_else(|| unreadable("fdinfo of a pidfd")),
    }
}

fn ended() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "the process has ended, or is out of sight in another pid namespace")
}

fn unreadable(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{what} reads unlike any known kernel's"))
}

/// Start of a process in clock ticks since boot. `NotFound` if there is none with this number.
fn start_of(pid: u32) -> io::Result<u64> {
    match std::fs::read(format!("/proc/{pid}/stat")) {
        Ok(stat) => start_in(&stat).ok_or_else(|| unreadable("/proc/PID/stat")),
        // Collected between open and read.
        Err(error) if error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => Err(ended()),
        Err(error) => Err(error),
    }
}

fn start_in(stat: &[u8]) -> Option<u64> {
    field_in(stat, 22)
}

/// A field from the third on, counted from one. The name in field 2 may hold blanks and brackets, so fields are counted
/// from its last bracket.
fn field_in<T: std::str::FromStr>(stat: &[u8], number: usize) -> Option<T> {
    let after_name = &stat[stat.iter().rposition(|&byte| byte == b')')? + 1..];
    std::str::from_utf8(after_name).ok()?.split_ascii_whitespace().nth(number - 3)?.parse().ok()
}

/// A pidfd of exactly this process, or none if it is proved dead: its number is free, or another process has it.
///
/// A process that has ended and was not yet collected by its parent is still found; [`is_dead`] says that it ended.
///
/// # Errors
///
/// When neither life nor death can be proved; the process must be taken for alive then.
pub fn open_process(process: Process) -> io::Result<Option<OwnedFd>> {
    let Some(pid) = number(process.pid) else {
        let text = format!("{} is no process number", process.pid);
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    };
    let pidfd = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => pidfd,
        // The number is free, is being freed, or belongs to a mere thread now; the kernel's version decides which word.
        Err(Errno::SRCH | Errno::INVAL | Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    match process_of_pidfd(&pidfd) {
        Ok(found) => Ok((found == process || planted(Bug::NumberIsProcess)).then_some(pidfd)),
        Err(error) if error.kind() == io::ErrorKind::NotFound && proc_is_mounted() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether a missing `/proc/PID` means anything.
fn proc_is_mounted() -> bool {
    std::path::Path::new("/proc/self/stat").exists()
}

/// Whether the process of a pidfd has ended, collected or not.
///
/// # Errors
///
/// When the kernel does not say; the process must be taken for alive then.
pub fn is_dead(pidfd: &impl AsFd) -> io::Result<bool> {
    let mut polled = [PollFd::new(pidfd, PollFlags::IN)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::io::retry_on_intr(|| rustix::event::poll(&mut polled, Some(&at_once)))?;
    let told = polled[0].revents();
    if told.contains(PollFlags::NVAL) {
        return Err(Errno::BADF.into());
    }
    Ok(told.intersects(PollFlags::IN | PollFlags::HUP))
}

// ── Passing descriptors ─────────────────────────────────────────────────────────────────────────────────────────────

/// Sends all of `bytes` over a blocking Unix socket, and `fd` with the first of them.
///
/// # Errors
///
/// `InvalidInput` if there are no bytes for the descriptor to travel with; whatever the socket says.
pub fn send_with_fd(stream: &impl AsFd, bytes: &[u8], fd: BorrowedFd<'_>) -> io::Result<()> {
    if bytes.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a descriptor cannot be sent without a byte"));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = [fd];
    let fits = ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    assert!(fits, "the space is made for one descriptor");
    let mut sent = rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(stream, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)
    })?;
    while sent < bytes.len() {
        sent += rustix::io::retry_on_intr(|| rustix::net::send(stream, &bytes[sent..], SendFlags::NOSIGNAL))?;
    }
    Ok(())
}

/// What [`recv_with_fds`] has received.
#[derive(Debug)]
pub struct Received {
    /// How many bytes; none mean that the other end has closed.
    pub bytes: usize,
    /// The descriptors that came with them: at most 4, closed on exec.
    pub fds: Vec<OwnedFd>,
    /// More had come, or this process has no room for another descriptor: what is missing was closed.
    pub has_lost_fds: bool,
}

/// Receives bytes, and the descriptors that came with them.
///
/// # Errors
///
/// Whatever the socket says, `WouldBlock` among it.
pub fn recv_with_fds(stream: &impl AsFd, buffer: &mut [u8]) -> io::Result<Received> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PASSED_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(stream, &mut [IoSliceMut::new(buffer)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
    })?;
    let mut fds = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(passed) = message {
            fds.extend(passed);
        }
    }
    let has_lost_fds = received.flags.contains(ReturnFlags::CTRUNC) || fds.len() > PASSED_MAX;
    // Alignment may leave room for one more than was planned for.
    fds.truncate(PASSED_MAX);
    Ok(Received { bytes: received.bytes, fds, has_lost_fds })
}

// ── Socket options ──────────────────────────────────────────────────────────────────────────────────────────────────

#[cfg(any(target_arch = "mips", target_arch = "mips64", target_arch = "sparc", target_arch = "sparc64"))]
compile_error!("the numbers of the socket options differ on this architecture; add them in os/process.rs");

const SOL_SOCKET: i32 = 1;
const SO_PEERCRED: i32 = if cfg!(any(target_arch = "powerpc", target_arch = "powerpc64")) { 21 } else { 17 };
const SO_PEERPIDFD: i32 = 77;

unsafe extern "C" {
    fn getsockopt(socket: i32, level: i32, name: i32, value: *mut u8, length: *mut u32) -> i32;
}

/// Plain integers as the kernel fills them in.
trait Filled: Copy {}
impl Filled for i32 {}
impl Filled for [u32; 3] {}

/// Reads an option of a socket. rustix has none for `SO_PEERPIDFD`, and its credentials cannot hold the process number
/// 0 with which the kernel says that the peer is out of sight.
fn socket_option<T: Filled>(socket: BorrowedFd<'_>, name: i32, mut value: T) -> Result<T, Errno> {
    let size = u32::try_from(size_of::<T>()).expect("a few integers");
    let mut length = size;
    // SAFETY: `value` is `length` bytes long, and any bytes are valid integers.
    let status = unsafe { getsockopt(socket.as_raw_fd(), SOL_SOCKET, name, (&raw mut value).cast(), &raw mut length) };
    if status != 0 {
        return Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO));
    }
    if length == size { Ok(value) } else { Err(Errno::PROTO) }
}

// ── This process ────────────────────────────────────────────────────────────────────────────────────────────────────

/// Raises this process's own bound on descriptors as far as it may. One is needed for each client and each process
/// that is watched; where it cannot be raised, fewer are served.
pub fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    // Not allowed is no harm: the old bound stays.
    let _ = setrlimit(Resource::Nofile, raised);
}

/// Leaves the terminal and the process group of whoever started this process: it outlives them, and their signals are
/// not for it.
///
/// # Errors
/// When this process leads a group, which one that was just started does not.
pub fn leave_terminal() -> io::Result<()> {
    rustix::process::setsid()?;
    Ok(())
}

/// Closes every descriptor above standard error that whoever started this process left open in it. A daemon that kept
/// them would hold other programs' flocks, pipes and mounts for as long as it lives.
///
/// To be called before anything else opens a descriptor.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn close_inherited() -> io::Result<()> {
    let mut open = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        open.extend(entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()).filter(|fd| *fd > 2));
    }
    for fd in open {
        // SAFETY: the number is only asked about: it is the directory stream's above, which is closed by now, or that
        // of a descriptor that nothing in this process owns, since the caller has opened nothing yet.
        let is_open = rustix::io::fcntl_getfd(unsafe { BorrowedFd::borrow_raw(fd) }).is_ok();
        if is_open {
            // SAFETY: as above: nobody else owns it, so nobody else closes it or goes on using it.
            drop(unsafe { OwnedFd::from_raw_fd(fd) });
        }
    }
    Ok(())
}

/// The terminal at which a person uses this process, such as `pts/3`; none if standard input or error is none.
pub fn terminal() -> Option<String> {
    let (input, error) = (std::io::stdin(), std::io::stderr());
    if !rustix::termios::isatty(&input) || !rustix::termios::isatty(&error) {
        return None;
    }
    let name = rustix::termios::ttyname(&input, Vec::new()).ok()?.into_string().ok()?;
    Some(name.strip_prefix("/dev/").unwrap_or(&name).to_owned())
}

/// A descriptor of a child that has not been waited for, to pass on or to watch.
///
/// # Errors
/// When the child is gone or there are no descriptors left.
pub fn pidfd_of_child(pid: u32) -> io::Result<OwnedFd> {
    let pid = number(pid).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no process number"))?;
    Ok(rustix::process::pidfd_open(pid, PidfdFlags::empty())?)
}

/// Sends a signal to the process group of the process that a pidfd belongs to. Unlike a number it never means another
/// group, also when the process has ended and others of its group have not.
///
/// # Errors
/// `InvalidInput` where the kernel cannot do that, which it can from 6.9 on; that there is no such group any more, or
/// that it has another user's rights.
pub fn signal_group(pidfd: &impl AsFd, signal: Signal) -> io::Result<()> {
    let pidfd = pidfd.as_fd().as_raw_fd();
    // SAFETY: the call takes numbers and no pointer but the null one, which stands for the usual information.
    let result = unsafe {
        let no_information = std::ptr::null::<libc::siginfo_t>();
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd, signal.as_raw(), no_information, PIDFD_SIGNAL_PROCESS_GROUP)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The flag of `pidfd_send_signal` for all of the process's group.
const PIDFD_SIGNAL_PROCESS_GROUP: libc::c_uint = 1 << 2;

/// A process above this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ancestor {
    /// Which.
    pub process: Process,
    /// The number of the process that began its session of processes, whether that lives or not; 0 if it is out of
    /// sight.
    pub session: u32,
    /// What the kernel calls it: the program, or what that has called itself, cut after 15 bytes.
    pub title: String,
    /// Its arguments, the program's own name first; none if they cannot be read.
    pub args: Vec<String>,
}

/// Deepest nesting of processes that is looked through.
pub(crate) const ANCESTORS_MAX: usize = 64;
/// Most bytes of arguments that are read: what a shell is told to run is one of them, and the kernel takes 128 KiB.
const ARGS_MAX: u64 = 256 * 1024;

/// This process, as those below it see it.
#[cfg(feature = "cli")]
pub(crate) fn own() -> Option<Ancestor> {
    ancestor(std::process::id())
}

/// A process of which no more is looked at than where it belongs.
#[cfg(feature = "cli")]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Member {
    pub(crate) process: Process,
    pub(crate) parent: u32,
    pub(crate) session: u32,
}

/// All processes that can be seen; what ends meanwhile may be missing.
#[cfg(feature = "cli")]
pub(crate) fn all() -> Vec<Member> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let member = |pid| {
        let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
        let process = Process { pid, start: start_in(&stat)? };
        Some(Member { process, parent: field_in(&stat, 4)?, session: field_in(&stat, 6)? })
    };
    pids.filter_map(member).collect()
}

/// A variable of the environment that a process was started with, if that can be read.
#[cfg(feature = "cli")]
pub(crate) fn variable_of(process: Process, name: &str) -> Option<String> {
    let bytes = std::fs::read(format!("/proc/{}/environ", process.pid)).ok()?;
    // It had that number before and after it was read.
    start_of(process.pid).ok().filter(|start| *start == process.start)?;
    let value =
        bytes.split(|&byte| byte == 0).find_map(|entry| entry.strip_prefix(name.as_bytes())?.strip_prefix(b"="))?;
    String::from_utf8(value.to_vec()).ok()
}

/// The processes above this one, nearest first, as far as they can be seen.
pub fn ancestors() -> Vec<Ancestor> {
    let mut found: Vec<Ancestor> = Vec::new();
    let mut below = std::process::id();
    while found.len() < ANCESTORS_MAX {
        let Some(parent) = parent_of(below).filter(|parent| *parent != 0) else { break };
        let Some(ancestor) = ancestor(parent) else { break };
        // It was the parent before and after it was looked at, hence all the time in between.
        if parent_of(below) != Some(parent) {
            break;
        }
        found.push(ancestor);
        below = parent;
    }
    found
}

fn parent_of(pid: u32) -> Option<u32> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    field_in(&stat, 4)
}

/// A process as those that it has started see it.
pub(crate) fn ancestor(pid: u32) -> Option<Ancestor> {
    use std::io::Read;
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let (from, to) = (stat.iter().position(|&byte| byte == b'(')?, stat.iter().rposition(|&byte| byte == b')')?);
    let title = String::from_utf8_lossy(stat.get(from + 1..to)?).into_owned();
    let mut args = Vec::new();
    if let Ok(file) = std::fs::File::open(format!("/proc/{pid}/cmdline")) {
        // What cannot be read names nobody.
        let _ = file.take(ARGS_MAX).read_to_end(&mut args);
    }
    let args = args.split(|&byte| byte == 0).filter(|arg| !arg.is_empty());
    let args = args.map(|arg| String::from_utf8_lossy(arg).into_owned()).collect();
    Some(Ancestor { process: Process { pid, start: start_in(&stat)? }, session: field_in(&stat, 6)?, title, args })
}

/// A descriptor of a living process of this user, by its number. Whoever knows the number from hearsay has to make sure
/// that the process is still the one it was: this is about the one that has the number now.
///
/// # Errors
/// `NotFound` if there is no such process or it has ended, `PermissionDenied` if it is another user's, as sentences.
pub fn pidfd_of_own(pid: u32) -> io::Result<OwnedFd> {
    let none = || io::Error::new(io::ErrorKind::NotFound, format!("there is no process {pid}"));
    let pidfd = gone_is_none(rustix::process::pidfd_open(number(pid).ok_or_else(none)?, PidfdFlags::empty()))?;
    let pidfd = pidfd.ok_or_else(none)?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).map_err(|_| none())?;
    if is_dead(&pidfd)? || pid_of(pidfd.as_fd())? != pid {
        return Err(io::Error::new(io::ErrorKind::NotFound, format!("process {pid} has ended")));
    }
    let mut users = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap_or("").split_ascii_whitespace();
    if users.any(|user| user.parse() == Ok(super::own_uid())) {
        return Ok(pidfd);
    }
    let text = format!("process {pid} belongs to another user: a lock can only end with a process of your own");
    Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::process::{Child, Command, Stdio};

    /// Set in a child of this test program: the socket to connect to.
    const CONNECT_TO: &str = "FLOCKD_TEST_CONNECT_TO";

    /// Runs in a child process only: connects, says so, and stays until its standard input closes.
    #[test]
    fn child_that_connects() {
        let Some(path) = std::env::var_os(CONNECT_TO) else { return };
        let mut stream = UnixStream::connect(path).unwrap();
        stream.write_all(b"!").unwrap();
        let _ = std::io::stdin().read(&mut [0]);
    }

    fn connecting_child(path: &std::path::Path) -> Child {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "os::process::tests::child_that_connects", "--nocapture"])
            .env(CONNECT_TO, path)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    }

    fn this_process() -> Process {
        let pid = std::process::id();
        Process { pid, start: start_of(pid).unwrap() }
    }

    fn sleeper() -> Child {
        Command::new("sleep").arg("600").spawn().unwrap()
    }

    fn pidfd_of(child: &Child) -> OwnedFd {
        rustix::process::pidfd_open(Pid::from_child(child), PidfdFlags::empty()).unwrap()
    }

    fn wait_until_ended(pidfd: &OwnedFd) {
        let mut polled = [PollFd::new(pidfd, PollFlags::IN)];
        assert_eq!(rustix::event::poll(&mut polled, Some(&Timespec { tv_sec: 60, tv_nsec: 0 })), Ok(1));
    }

    #[test]
    fn the_peer_is_the_process_at_the_other_end_until_it_ends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let mut child = connecting_child(&path);
        let (mut stream, _) = listener.accept().unwrap();
        stream.read_exact(&mut [0]).unwrap();

        let found = peer(&stream).unwrap();
        assert_eq!((found.pid, found.uid), (child.id(), rustix::process::geteuid().as_raw()));
        let (process, pidfd) = found.process.unwrap();
        assert_eq!(process.pid, child.id());
        assert!(!is_dead(&pidfd).unwrap());
        assert!(open_process(process).unwrap().is_some());

        child.kill().unwrap();
        child.wait().unwrap();
        assert!(is_dead(&pidfd).unwrap());
        assert!(open_process(process).unwrap().is_none());
        assert_eq!(process_of_pidfd(&pidfd).unwrap_err().kind(), io::ErrorKind::NotFound);
        let late = peer(&stream).unwrap();
        assert_eq!(late.pid, child.id());
        assert!(late.process.is_none());
    }

    #[test]
    fn a_socket_pair_is_this_process() {
        let (stream, _other) = UnixStream::pair().unwrap();
        assert_eq!(peer(&stream).unwrap().process.unwrap().0, this_process());
    }

    #[test]
    fn what_is_no_unix_socket_has_no_peer() {
        assert!(peer(&std::fs::File::open("/dev/null").unwrap()).is_err());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(peer(&listener).map(|peer| peer.process.is_none()).unwrap_or(true));
    }

    #[test]
    fn a_number_with_another_start_is_another_process() {
        let this = this_process();
        assert!(open_process(this).unwrap().is_some());
        assert!(open_process(Process { start: this.start + 1, ..this }).unwrap().is_none());
        assert!(open_process(Process { pid: i32::MAX as u32, start: 1 }).unwrap().is_none());
        for pid in [0, u32::MAX] {
            assert_eq!(open_process(Process { pid, start: 1 }).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
    }

    #[test]
    fn a_number_that_a_thread_has_now_is_free_of_its_process() {
        let thread = std::fs::read_link("/proc/thread-self").unwrap();
        let tid: u32 = thread.file_name().unwrap().to_str().unwrap().parse().unwrap();
        assert_ne!(tid, std::process::id(), "tests run in threads of their own");
        for start in [1, start_of(tid).unwrap()] {
            assert!(open_process(Process { pid: tid, start }).unwrap().is_none());
        }
    }

    #[test]
    fn a_process_that_ended_uncollected_is_found_and_dead() {
        let mut child = sleeper();
        let pidfd = pidfd_of(&child);
        let process = process_of_pidfd(&pidfd).unwrap();
        child.kill().unwrap();
        wait_until_ended(&pidfd);
        let zombie = open_process(process).unwrap().expect("not collected yet");
        assert!(is_dead(&zombie).unwrap());
        child.wait().unwrap();
        assert!(open_process(process).unwrap().is_none());
    }

    #[test]
    fn a_name_with_brackets_and_blanks_does_not_shift_the_fields() {
        let fields: Vec<String> = (3..60).map(|number| (number * 100).to_string()).collect();
        for name in ["sh", "a) R 1 2 3", "((", "))", "\u{fffd} x"] {
            let stat = format!("7 ({name}) {}\n", fields.join(" "));
            assert_eq!(start_in(stat.as_bytes()), Some(2200), "{name}");
        }
        assert_eq!(start_in(b"7 (\xff\xfe) S 1"), None);
        assert_eq!(start_in(b""), None);
    }

    #[test]
    fn only_a_living_process_of_ones_own_is_found_by_its_number() {
        let mut child = sleeper();
        assert_eq!(process_of_pidfd(&pidfd_of_own(child.id()).unwrap()).unwrap().pid, child.id());
        child.kill().unwrap();
        wait_until_ended(&pidfd_of(&child));
        let zombie = pidfd_of_own(child.id()).unwrap_err();
        assert_eq!(
            (zombie.kind(), zombie.to_string()),
            (io::ErrorKind::NotFound, format!("process {} has ended", child.id()))
        );
        child.wait().unwrap();
        for pid in [child.id(), 0, u32::MAX, i32::MAX as u32] {
            let error = pidfd_of_own(pid).unwrap_err();
            assert_eq!(
                (error.kind(), error.to_string()),
                (io::ErrorKind::NotFound, format!("there is no process {pid}"))
            );
        }
    }

    #[test]
    fn the_processes_above_begin_with_the_parent() {
        let above = ancestors();
        let parent = rustix::process::getppid().unwrap().as_raw_pid() as u32;
        assert_eq!(above[0].process, Process { pid: parent, start: start_of(parent).unwrap() });
        assert!(!above[0].title.is_empty());
    }

    #[test]
    fn a_descriptor_of_another_kind_is_no_pidfd() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(process_of_pidfd(&file).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn a_passed_pidfd_names_its_process_at_the_other_end() {
        let (near, far) = UnixStream::pair().unwrap();
        let mut child = sleeper();
        let pidfd = pidfd_of(&child);
        send_with_fd(&near, b"bind\n", pidfd.as_fd()).unwrap();
        let mut buffer = [0; 16];
        let Received { bytes, fds, has_lost_fds } = recv_with_fds(&far, &mut buffer).unwrap();
        assert_eq!((&buffer[..bytes], has_lost_fds), (&b"bind\n"[..], false));
        assert_eq!(process_of_pidfd(&fds[0]).unwrap().pid, child.id());
        assert!(rustix::io::fcntl_getfd(&fds[0]).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(is_dead(&fds[0]).unwrap());
    }

    #[test]
    fn bytes_without_a_descriptor_and_the_end_are_received_as_such() {
        let (mut near, far) = UnixStream::pair().unwrap();
        near.write_all(b"x").unwrap();
        let received = recv_with_fds(&far, &mut [0; 8]).unwrap();
        assert_eq!((received.bytes, received.fds.len(), received.has_lost_fds), (1, 0, false));
        assert!(send_with_fd(&near, b"", far.as_fd()).is_err());
        drop(near);
        assert_eq!(recv_with_fds(&far, &mut [0; 8]).unwrap().bytes, 0);
    }

    #[test]
    fn descriptors_beyond_the_fourth_are_closed_and_known_to_be_lost() {
        let (near, far) = UnixStream::pair().unwrap();
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(9))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let fds = [writer.as_fd(); 9];
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&fds)));
        rustix::net::sendmsg(&near, &[IoSlice::new(b"x")], &mut ancillary, SendFlags::empty()).unwrap();
        drop(writer);
        let received = recv_with_fds(&far, &mut [0; 8]).unwrap();
        assert_eq!((received.bytes, received.fds.len(), received.has_lost_fds), (1, PASSED_MAX, true));
        drop(received);
        // The pipe ends only when every copy of its other end is closed.
        assert_eq!(reader.read(&mut [0]).unwrap(), 0);
    }
}
