//! A file system whose server stops answering: FUSE by hand, as much of it as a lock on a file needs.
//!
//! It has one directory, in which every name is a file.

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

/// A mounted file system.
pub struct Fuse {
    pub path: PathBuf,
    answers: Arc<AtomicBool>,
    renames: Arc<AtomicBool>,
    unanswered: Arc<AtomicUsize>,
    stop: Option<OwnedFd>,
    server: Option<JoinHandle<()>>,
}

impl Fuse {
    /// Mounts it on a new directory. None where the machine does not allow it, which is printed.
    pub fn mount(path: &Path) -> Option<Fuse> {
        std::fs::create_dir(path).unwrap();
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let device = match rustix::fs::open("/dev/fuse", flags, Mode::empty()) {
            Ok(device) => device,
            Err(errno) => {
                println!("left out: /dev/fuse cannot be opened here: {errno}");
                return None;
            }
        };
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let options = format!("fd={},rootmode=40755,user_id={uid},group_id={gid}", device.as_raw_fd());
        let options = std::ffi::CString::new(options).unwrap();
        let safe = MountFlags::NOSUID | MountFlags::NODEV;
        if let Err(errno) = rustix::mount::mount("flockd-test", path, "fuse", safe, options.as_c_str()) {
            println!("left out: FUSE cannot be mounted here: {errno}");
            return None;
        }
        let (stopped, stop) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let (answers, unanswered) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
        let renames = Arc::new(AtomicBool::new(true));
        let server = {
            let (answers, renames, unanswered) = (answers.clone(), renames.clone(), unanswered.clone());
            let is_answered = move |opcode| {
                let is_rename = matches!(opcode, RENAME | RENAME2);
                answers.load(Ordering::SeqCst) && (renames.load(Ordering::SeqCst) || !is_rename)
            };
            std::thread::spawn(move || serve(&device, &stopped, &is_answered, &unanswered))
        };
        let (stop, server) = (Some(stop), Some(server));
        Some(Fuse { path: path.to_owned(), answers, renames, unanswered, stop, server })
    }

    /// From now on it takes requests and answers none.
    pub fn hang(&self) {
        self.answers.store(false, Ordering::SeqCst);
    }

    /// From now on it answers everything but requests to rename.
    pub fn hang_when_renaming(&self) {
        self.renames.store(false, Ordering::SeqCst);
    }

    /// How many requests it has taken and not answered.
    pub fn unanswered(&self) -> usize {
        self.unanswered.load(Ordering::SeqCst)
    }

    /// Ends it: whoever waits for an answer gets an error.
    pub fn abort(&mut self) {
        self.stop = None;
        if let Some(server) = self.server.take() {
            server.join().unwrap();
        }
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        // Where a test has failed there may be no more to it than that.
        self.stop = None;
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
        let _ = rustix::mount::unmount(&self.path, UnmountFlags::DETACH);
    }
}

/// Answers until `stopped` is closed at its other end; with the device goes the file system.
fn serve(device: &OwnedFd, stopped: &OwnedFd, is_answered: &dyn Fn(u32) -> bool, unanswered: &AtomicUsize) {
    // The kernel hands over a request only where the largest there may be would fit.
    let mut buffer = vec![0; 1 << 20];
    // A close takes its time, as over a network: it is answered when nothing else has come for a while.
    let mut closes: Vec<Vec<u8>> = Vec::new();
    let a_while = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };
    loop {
        let mut polled = [PollFd::new(device, PollFlags::IN), PollFd::new(stopped, PollFlags::IN)];
        match rustix::event::poll(&mut polled, Some(&a_while).filter(|_| !closes.is_empty())) {
            Err(Errno::INTR) => continue,
            Ok(0) => {
                for answer in closes.drain(..) {
                    let _ = rustix::io::write(device, &answer);
                }
                continue;
            }
            result => assert!(result.is_ok(), "{result:?}"),
        }
        if !polled[1].revents().is_empty() {
            return;
        }
        let length = match rustix::io::read(device, &mut buffer) {
            Ok(length) => length,
            // Interrupted, or taken back by whoever asked.
            Err(Errno::INTR | Errno::NOENT | Errno::AGAIN) => continue,
            Err(_) => return,
        };
        let request = Request::of(&buffer[..length]);
        if request.opcode != INIT && !is_answered(request.opcode) {
            unanswered.fetch_add(1, Ordering::SeqCst);
            continue;
        }
        match request.answer() {
            Some(answer) if request.opcode == FLUSH => closes.push(answer),
            // Where nobody waits for it any more, that is as good.
            Some(answer) => drop(rustix::io::write(device, &answer).ok()),
            None => {}
        }
    }
}

const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const RENAME: u32 = 12;
const OPEN: u32 = 14;
const RELEASE: u32 = 18;
const FLUSH: u32 = 25;
const INIT: u32 = 26;
const OPENDIR: u32 = 27;
const RELEASEDIR: u32 = 29;
const INTERRUPT: u32 = 36;
const BATCH_FORGET: u32 = 42;
const RENAME2: u32 = 45;

const ROOT: u64 = 1;

struct Request<'a> {
    opcode: u32,
    unique: u64,
    node: u64,
    body: &'a [u8],
}

impl Request<'_> {
    fn of(bytes: &[u8]) -> Request<'_> {
        let u32_at = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
        let u64_at = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap());
        Request { opcode: u32_at(4), unique: u64_at(8), node: u64_at(16), body: &bytes[40..] }
    }

    fn answer(&self) -> Option<Vec<u8>> {
        let body = match self.opcode {
            FORGET | BATCH_FORGET | INTERRUPT => return None,
            INIT => init(),
            LOOKUP => {
                // The same name is the same file.
                let name = self.body.split(|byte| *byte == 0).next().unwrap_or_default();
                let node =
                    name.iter().fold(1000, |node: u64, byte| node.wrapping_mul(257) + u64::from(*byte)) | 1 << 40;
                [numbers(&[node, 0, 3600, 3600, 0]), attributes(node)].concat()
            }
            GETATTR => [numbers(&[3600, 0]), attributes(self.node)].concat(),
            OPEN | OPENDIR => numbers(&[7, 0]),
            FLUSH | RELEASE | RELEASEDIR => Vec::new(),
            // Not implemented, 38: the kernel goes on without.
            _ => return Some(self.reply(-38, &[])),
        };
        Some(self.reply(0, &body))
    }

    fn reply(&self, error: i32, body: &[u8]) -> Vec<u8> {
        let length = (16 + body.len()) as u32;
        [&length.to_ne_bytes()[..], &error.to_ne_bytes(), &self.unique.to_ne_bytes(), body].concat()
    }
}

fn numbers(numbers: &[u64]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_ne_bytes()).collect()
}

/// Protocol 7.31 without any of its options, and requests of 4 KiB at most.
fn init() -> Vec<u8> {
    let words: [u32; 16] = [7, 31, 4096, 0, 12 | 9 << 16, 4096, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn attributes(node: u64) -> Vec<u8> {
    let mode: u32 = if node == ROOT { 0o040_755 } else { 0o100_644 };
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let words = [0, 0, 0, mode, 1, uid, gid, 0, 4096, 0];
    [numbers(&[node, 0, 0, 0, 0, 0]), words.iter().flat_map(|word| word.to_ne_bytes()).collect()].concat()
}
