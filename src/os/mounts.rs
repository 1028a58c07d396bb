//! Tells mount points of local file systems from those that may wait for a server.
//!
//! The kernel's promise for `RESOLVE_CACHED`, not to wait, has a hole: stepping onto the root of a network mount may
//! ask the server. So the loop crosses only mount points that this file calls local; all others are for file threads.

use rustix::event::{PollFd, PollFlags, Timespec};
use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek};
use std::sync::{Mutex, PoisonError};

/// File systems that never wait for another machine or for a process. Unknown ones count as remote: that costs a
/// hop to a file thread, the other mistake could hang the loop.
const LOCAL: &[&[u8]] = &[
    b"bcachefs",
    b"btrfs",
    b"cgroup",
    b"cgroup2",
    b"devpts",
    b"devtmpfs",
    b"erofs",
    b"exfat",
    b"ext2",
    b"ext3",
    b"ext4",
    b"f2fs",
    b"iso9660",
    b"jfs",
    b"overlay",
    b"proc",
    b"ramfs",
    b"squashfs",
    b"sysfs",
    b"tmpfs",
    b"vfat",
    b"xfs",
    b"zfs",
];

/// The mount table of this process, read again when the kernel says that it changed.
struct Table {
    source: File,
    mounts: Mounts,
}

/// What is known of mounts.
#[derive(Default)]
struct Mounts {
    /// By mount point. Of several mounts on one point a single remote one makes it remote.
    points: HashMap<Vec<u8>, bool>,
    /// By device number.
    devices: HashMap<u64, bool>,
}

static TABLE: Mutex<Option<Table>> = Mutex::new(None);

/// Whether `path` (canonical) is a mount point, and of a local file system. False where that cannot be found out.
pub fn is_local_mount_point(path: &[u8]) -> bool {
    ask(|mounts| mounts.points.get(path).copied())
}

/// Where a file system is mounted, as a canonical path.
pub type Mount = Box<[u8]>;

/// Whether `path` (canonical) is the mount point of a file system that may wait for a server.
pub fn is_remote_mount_point(path: &[u8]) -> bool {
    ask(|mounts| mounts.points.get(path).map(|is_local| !is_local))
}

/// The mount, of those on the way to `path` (canonical), that is entered last and may wait for a server.
pub fn last_remote_mount(path: &[u8]) -> Option<Mount> {
    let ends = path.iter().enumerate().filter(|(at, byte)| **byte == b'/' && *at > 0).map(|(at, _)| at);
    let ends: Vec<usize> = ends.chain([path.len()]).collect();
    ends.into_iter().rev().map(|end| &path[..end]).find(|point| is_remote_mount_point(point)).map(Box::from)
}

/// Whether a walk down `path` (canonical) crosses only mount points of local file systems, if any. False where that
/// cannot be found out.
pub fn leads_over_local(path: &[u8]) -> bool {
    let ends = path.iter().enumerate().skip(1).filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
    ask(|mounts| {
        let is_local = |end: usize| mounts.points.get(&path[..end]).is_none_or(|is_local| *is_local);
        let root = mounts.points.get(&b"/"[..]).copied().unwrap_or(false);
        Some(root && ends.chain([path.len()]).all(is_local))
    })
}

/// Whether a device number, as in `st_dev`, is that of a local file system. False where that cannot be found out: file
/// systems such as btrfs give their files numbers that no mount has.
pub fn is_local_device(device: u64) -> bool {
    ask(|mounts| mounts.devices.get(&device).copied())
}

fn ask(question: impl FnOnce(&Mounts) -> Option<bool>) -> bool {
    let mut table = TABLE.lock().unwrap_or_else(PoisonError::into_inner);
    if table.as_ref().is_none_or(Table::has_changed) {
        *table = Table::read();
    }
    table.as_ref().and_then(|table| question(&table.mounts)).unwrap_or(false)
}

impl Table {
    fn read() -> Option<Table> {
        let mut source = File::open("/proc/self/mountinfo").ok()?;
        let mut text = Vec::new();
        source.read_to_end(&mut text).ok()?;
        source.rewind().ok()?;
        Some(Table { source, mounts: parse(&text) })
    }

    /// A changed mount table makes its file readable with an exceptional condition; so does a failed question.
    fn has_changed(&self) -> bool {
        let mut polled = [PollFd::new(&self.source, PollFlags::PRI)];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        !matches!(rustix::event::poll(&mut polled, Some(&at_once)), Ok(0))
    }
}

/// What `mountinfo` says (see `proc(5)`).
fn parse(mountinfo: &[u8]) -> Mounts {
    let mut mounts = Mounts::default();
    for line in mountinfo.split(|&byte| byte == b'\n') {
        let mut fields = line.split(|&byte| byte == b' ');
        let (Some(device), Some(point)) = (fields.nth(2).and_then(device_number), fields.nth(1)) else { continue };
        // Optional fields end in a lone dash; the type follows it.
        let kind = fields.skip_while(|field| field != b"-").nth(1).unwrap_or(b"unknown");
        let is_local = LOCAL.contains(&kind);
        *mounts.points.entry(unescaped(point)).or_insert(true) &= is_local;
        *mounts.devices.entry(device).or_insert(true) &= is_local;
    }
    mounts
}

/// Reads `254:0`.
fn device_number(field: &[u8]) -> Option<u64> {
    let (major, minor) = std::str::from_utf8(field).ok()?.split_once(':')?;
    Some(rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?))
}

/// Undoes `\ooo`, the kernel's escape of blanks, newlines and backslashes.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        match tail {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..] if byte == b'\\' => {
                plain.push((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'));
                rest = after;
            }
            _ => {
                plain.push(byte);
                rest = tail;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_and_remote_mount_points_are_told_apart() {
        let table = parse(
            b"27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
              40 27 0:50 / /mnt/a\\040b rw shared:1 master:2 - nfs4 host:/x rw\n\
              41 27 0:51 / /home rw - xfs /dev/vdb rw\n\
              42 27 0:52 / /both rw - tmpfs none rw\n\
              43 27 0:53 / /both rw - fuse.sshfs host: rw\n\
              44 27 0:54 / /new rw - notyetknown none rw\n",
        );
        let device = |major, minor| table.devices.get(&rustix::fs::makedev(major, minor));
        assert_eq!((device(254, 0), device(0, 50), device(9, 9)), (Some(&true), Some(&false), None));
        let table = table.points;
        assert_eq!(table.get(&b"/"[..]), Some(&true));
        assert_eq!(table.get(&b"/home"[..]), Some(&true));
        for remote in [&b"/mnt/a b"[..], b"/both", b"/new"] {
            assert_eq!(table.get(remote), Some(&false), "{}", String::from_utf8_lossy(remote));
        }
    }

    #[test]
    fn a_path_on_local_disks_leads_over_no_remote_mount() {
        assert_eq!(last_remote_mount(b"/proc/self"), None);
        assert!(!is_remote_mount_point(b"/proc") && !is_remote_mount_point(b"/no such mount"));
    }

    #[test]
    fn a_walk_is_local_if_all_that_it_crosses_is() {
        assert!(leads_over_local(b"/proc/self/no such file"));
        assert!(leads_over_local(b"/no such directory/x"));
    }

    #[test]
    fn this_machine_has_a_local_proc_and_no_mount_on_a_made_up_name() {
        assert!(is_local_mount_point(b"/proc"));
        assert!(!is_local_mount_point(b"/proc/no such mount"));
        assert!(!TABLE.lock().unwrap().as_ref().unwrap().has_changed());
    }
}
