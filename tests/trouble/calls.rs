//! A daemon whose writes and syncs pass through our hands: at a chosen one the system seems to fail.
//!
//! A filter of the kernel (seccomp) stops each such call of the daemon and asks us: go on, or this error. The program
//! is the real one, unchanged, on a real disk.

use crate::util::{Ending, Ground, until};
use rustix::event::{PollFd, PollFlags};
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// All by which bytes and names get to the disk durably.
const CALLS: [libc::c_long; 6] = [
    libc::SYS_pwrite64,
    libc::SYS_fdatasync,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_rename,
    libc::SYS_renameat2,
];

/// Which calls fail.
#[derive(Clone, Copy, Debug, Default)]
struct Plan {
    counted: u64,
    /// Calls that still go well, and the error of the next one.
    fault: Option<(u64, i32)>,
    for_ever: bool,
    /// How many have failed.
    failed: u64,
}

impl Plan {
    /// The error of this call, if it is to fail.
    fn call(&mut self) -> Option<i32> {
        self.counted += 1;
        let (spared, errno) = self.fault?;
        if spared > 0 {
            self.fault = Some((spared - 1, errno));
            return None;
        }
        if !self.for_ever {
            self.fault = None;
        }
        self.failed += 1;
        Some(errno)
    }
}

/// A daemon in the foreground, on such a disk.
pub struct Supervised {
    daemon: Child,
    plan: Arc<Mutex<Plan>>,
    stop: Option<UnixStream>,
    supervisor: Option<JoinHandle<()>>,
}

impl Supervised {
    /// Starts one and waits until it serves. None where the machine does not allow it, which is printed.
    pub fn start(ground: &Ground) -> Option<Supervised> {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut command = ground.command("", &["daemon", "run"]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        // SAFETY: between fork and exec only system calls are made, on memory that was there before.
        unsafe { command.pre_exec(move || install(&theirs)) };
        let daemon = match command.spawn() {
            Ok(daemon) => daemon,
            Err(error) => {
                println!("left out: system calls cannot be supervised here: {error}");
                return None;
            }
        };
        // The command still has the other end.
        drop(command);
        let calls = received(&ours);
        let plan = Arc::new(Mutex::new(Plan::default()));
        let (stop, stopped) = UnixStream::pair().unwrap();
        let supervisor = {
            let plan = plan.clone();
            std::thread::spawn(move || supervise(&calls, &stopped, &plan))
        };
        let supervised = Supervised { daemon, plan, stop: Some(stop), supervisor: Some(supervisor) };
        until("it serves", || UnixStream::connect(ground.home.join("sock")).ok());
        Some(supervised)
    }

    /// Lets `spared` calls go well; the next one fails, and with `for_ever` all later ones.
    pub fn plant(&self, spared: u64, errno: i32, for_ever: bool) {
        let mut plan = self.plan.lock().unwrap();
        (plan.fault, plan.for_ever, plan.failed) = (Some((spared, errno)), for_ever, 0);
    }

    pub fn heal(&self) {
        self.plan.lock().unwrap().fault = None;
    }

    /// How many calls there were so far.
    pub fn counted(&self) -> u64 {
        self.plan.lock().unwrap().counted
    }

    /// How many have failed since a fault was planted.
    pub fn failed(&self) -> u64 {
        self.plan.lock().unwrap().failed
    }

    /// `kill -9`.
    pub fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let ending = Ending::of(self.daemon.id());
        // Dead already is as good.
        let _ = self.daemon.kill();
        self.stop = None;
        if let Some(supervisor) = self.supervisor.take() {
            supervisor.join().unwrap();
        }
        ending.wait();
        let _ = self.daemon.wait();
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        if self.supervisor.is_some() {
            self.end();
        }
    }
}

// ── In the child ────────────────────────────────────────────────────────────────────────────────────────────────────

/// Puts the filter in place and sends the descriptor by which its questions are asked.
fn install(to: &UnixStream) -> io::Result<()> {
    let statement = |code: u32, jump: u8, k: u32| libc::sock_filter { code: code as u16, jt: jump, jf: 0, k };
    let load_number = statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0);
    let mut program = [load_number; CALLS.len() + 3];
    for (at, call) in CALLS.into_iter().enumerate() {
        let to_the_question = (CALLS.len() - at) as u8;
        program[at + 1] = statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, to_the_question, call as u32);
    }
    program[CALLS.len() + 1] = statement(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW);
    program[CALLS.len() + 2] = statement(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_USER_NOTIF);
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: plain numbers.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let (mode, flags) = (libc::SECCOMP_SET_MODE_FILTER, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER);
    // SAFETY: the filter and what it points to live until the call is over.
    let listener = unsafe { libc::syscall(libc::SYS_seccomp, mode, flags, &raw const filter) };
    if listener < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was opened just now and belongs to nobody else.
    let listener = unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(listener as i32) };
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = rustix::net::SendAncillaryBuffer::new(&mut space);
    let fds = [listener.as_fd()];
    assert!(control.push(rustix::net::SendAncillaryMessage::ScmRights(&fds)));
    rustix::net::sendmsg(to, &[io::IoSlice::new(b"x")], &mut control, rustix::net::SendFlags::empty())?;
    Ok(())
}

// ── In the test ─────────────────────────────────────────────────────────────────────────────────────────────────────

fn received(from: &UnixStream) -> OwnedFd {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = rustix::net::RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0; 1];
    let flags = rustix::net::RecvFlags::CMSG_CLOEXEC;
    rustix::net::recvmsg(from, &mut [io::IoSliceMut::new(&mut byte)], &mut control, flags).unwrap();
    let mut fds = control.drain().filter_map(|message| match message {
        rustix::net::RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    fds.next().and_then(|mut fds| fds.next()).expect("the child has sent it before it became the daemon")
}

/// The numbers of two requests of the kernel: read a question, answer it.
const RECEIVE: libc::Ioctl = 0xc050_2100_u32 as libc::Ioctl;
const SEND: libc::Ioctl = 0xc018_2101_u32 as libc::Ioctl;
const GO_ON: u32 = 1;

/// Answers until `stopped` is closed at its other end or the daemon is gone.
fn supervise(calls: &OwnedFd, stopped: &UnixStream, plan: &Mutex<Plan>) {
    loop {
        let mut polled = [PollFd::new(calls, PollFlags::IN), PollFd::new(stopped, PollFlags::IN)];
        match rustix::event::poll(&mut polled, None) {
            Err(rustix::io::Errno::INTR) => continue,
            result => drop(result.unwrap()),
        }
        if !polled[1].revents().is_empty() || !polled[0].revents().contains(PollFlags::IN) {
            return;
        }
        // SAFETY: all zeros are a value of this plain structure, and what the kernel wants to find.
        let mut question: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        // SAFETY: the structure is the one that this request fills.
        if unsafe { libc::ioctl(calls.as_raw_fd(), RECEIVE, &raw mut question) } != 0 {
            // Who asked was killed meanwhile.
            continue;
        }
        let error = plan.lock().unwrap().call();
        let mut answer = libc::seccomp_notif_resp {
            id: question.id,
            val: 0,
            error: error.map_or(0, |errno| -errno),
            flags: if error.is_none() { GO_ON } else { 0 },
        };
        // SAFETY: the structure is the one that this request reads. If nobody waits for it any more, that is as good.
        unsafe { libc::ioctl(calls.as_raw_fd(), SEND, &raw mut answer) };
    }
}
