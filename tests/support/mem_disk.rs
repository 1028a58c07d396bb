//! A disk in memory that can be killed, lose power and fail at a chosen call.
//!
//! It remembers for each file which writes are not synced. A power cut keeps any of them, whole or torn at 512 bytes,
//! in any combination; of the unsynced changes of names it keeps a beginning, as journaling file systems do. A failed
//! sync loses what it should have written although reads still show it, as Linux does.

use flockd::journal::disk::{Disk, DiskFile};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Repeatable random numbers (splitmix64).
#[derive(Default)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// What happens at a chosen call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The call fails with this error number.
    Error(i32),
    /// The call and all later ones fail; the disk is to be taken over with [`MemDisk::after_power_cut`].
    PowerCut,
    /// The call panics.
    Panic,
}

#[derive(Clone, Debug)]
struct Fault {
    /// Calls that still go well.
    spared: u64,
    /// Only calls on names that begin so count.
    on: &'static str,
    trouble: Trouble,
    for_ever: bool,
}

#[derive(Clone)]
enum Change {
    Write(u64, Vec<u8>),
    Length(u64),
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Change::Length(length) => bytes.resize(*length as usize, 0),
            Change::Write(offset, data) => {
                let (start, end) = (*offset as usize, *offset as usize + data.len());
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[start..end].copy_from_slice(data);
            }
        }
    }
}

#[derive(Clone, Default)]
struct Inode {
    live: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Change>,
}

impl Inode {
    /// Whether it shows what the disk will never hear of.
    fn has_lost_pages(&self) -> bool {
        let mut heard = self.durable.clone();
        self.unsynced.iter().for_each(|change| change.apply(&mut heard));
        heard != self.live
    }
}

#[derive(Clone)]
enum Naming {
    Link(String, usize),
    Unlink(String),
}

fn rename(names: &mut BTreeMap<String, usize>, naming: &Naming) {
    match naming {
        Naming::Link(name, inode) => drop(names.insert(name.clone(), *inode)),
        Naming::Unlink(name) => drop(names.remove(name)),
    }
}

#[derive(Clone, Default)]
struct State {
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    unsynced_names: Vec<Naming>,
    fault: Option<Fault>,
    dead: bool,
    /// A call has failed on this disk.
    failed: bool,
}

#[derive(Clone, Default)]
pub struct MemDisk(Arc<Mutex<State>>);

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl State {
    /// Counts a call that changes something; the error it is to fail with.
    fn call(&mut self, name: &str) -> io::Result<()> {
        if self.dead {
            return Err(io::Error::other("the power is off"));
        }
        let Some(fault) = self.fault.as_mut().filter(|fault| name.starts_with(fault.on)) else { return Ok(()) };
        if fault.spared > 0 {
            fault.spared -= 1;
            return Ok(());
        }
        let trouble = fault.trouble;
        self.failed = true;
        if !fault.for_ever {
            self.fault = None;
        }
        match trouble {
            Trouble::Error(number) => Err(io::Error::from_raw_os_error(number)),
            Trouble::Panic => panic!("a planted panic at {name}"),
            Trouble::PowerCut => {
                self.dead = true;
                Err(io::Error::other("the power is off"))
            }
        }
    }

    fn name(&mut self, naming: Naming) {
        rename(&mut self.names, &naming);
        self.unsynced_names.push(naming);
    }

    fn sync_names(&mut self) {
        self.unsynced_names.clear();
        self.durable_names = self.names.clone();
    }

    /// Frees what no name leads to any more; nobody has it open on a copy.
    fn forget_nameless(&mut self) {
        let mut nameless = vec![true; self.inodes.len()];
        self.names.values().chain(self.durable_names.values()).for_each(|&inode| nameless[inode] = false);
        for naming in &self.unsynced_names {
            if let Naming::Link(_, inode) = naming {
                nameless[*inode] = false;
            }
        }
        for (inode, nameless) in self.inodes.iter_mut().zip(nameless) {
            if nameless {
                *inode = Inode::default();
            }
        }
    }

    fn inode(&self, name: &str) -> io::Result<usize> {
        self.names.get(name).copied().ok_or_else(not_found)
    }
}

impl MemDisk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets `spared` changing calls on files whose names begin with `on` go well, then makes trouble.
    pub fn plant(&self, spared: u64, on: &'static str, trouble: Trouble, for_ever: bool) {
        self.state().fault = Some(Fault { spared, on, trouble, for_ever });
    }

    pub fn heal(&self) {
        self.state().fault = None;
    }

    /// Whether a call has failed.
    pub fn has_failed(&self) -> bool {
        self.state().failed
    }

    pub fn is_dead(&self) -> bool {
        self.state().dead
    }

    /// Whether trouble was planted, be it that it has not come yet.
    pub fn has_trouble(&self) -> bool {
        let state = self.state();
        state.fault.is_some() || state.failed
    }

    /// What failed syncs have lost is to be written after all, as by a system that keeps such pages dirty: for who had
    /// no way to note that it may be lost, since the disk took nothing at all. Where there is a note beside the store,
    /// its pages stay lost.
    pub fn keep_trying(&self) {
        let mut state = self.state();
        let noted = state.names.get("journal.suspect").and(state.names.get("journal.redb")).copied();
        for (number, inode) in state.inodes.iter_mut().enumerate() {
            if Some(number) != noted && inode.has_lost_pages() {
                inode.unsynced.push(Change::Length(inode.live.len() as u64));
                inode.unsynced.push(Change::Write(0, inode.live.clone()));
            }
        }
    }

    /// The disk as it is after `kill -9`: everything written is there. Who still has the old one changes nothing here.
    pub fn after_kill(&self) -> MemDisk {
        let mut state = self.state().clone();
        (state.dead, state.failed, state.fault) = (false, false, None);
        state.forget_nameless();
        MemDisk(Arc::new(Mutex::new(state)))
    }

    /// The disk as it may be after a power cut now.
    pub fn after_power_cut(&self, random: &mut Random) -> MemDisk {
        let mut state = self.state().clone();
        let mut names = state.durable_names.clone();
        let kept = random.below(state.unsynced_names.len() as u64 + 1) as usize;
        state.unsynced_names[..kept].iter().for_each(|naming| rename(&mut names, naming));
        (state.names, state.durable_names) = (names.clone(), names.clone());
        state.unsynced_names.clear();
        state.forget_nameless();
        for inode in &mut state.inodes {
            // Of some files any part, of others the writes up to one of them.
            let percent = [0, 50, 90, 100, 100][random.below(5) as usize];
            let up_to = match random.below(3) {
                0 => random.below(inode.unsynced.len() as u64 + 1) as usize,
                _ => inode.unsynced.len(),
            };
            let mut bytes = inode.durable.clone();
            for change in &inode.unsynced[..up_to] {
                keep_some(change, percent, random, &mut bytes);
            }
            *inode = Inode { live: bytes.clone(), durable: bytes, unsynced: Vec::new() };
        }
        let state = State { inodes: state.inodes, durable_names: names.clone(), names, ..State::default() };
        MemDisk(Arc::new(Mutex::new(state)))
    }

    /// Whether a power cut now would lose nothing that was written to files whose names begin with `on`.
    pub fn is_synced(&self, on: &str) -> bool {
        let state = self.state();
        let inodes =
            state.names.iter().filter(|(name, _)| name.starts_with(on)).map(|(_, &inode)| &state.inodes[inode]);
        // What a failed sync has lost is shown and on no disk.
        inodes.fold(true, |all, inode| all && inode.unsynced.is_empty() && inode.live == inode.durable)
    }

    /// The disk as it is after a power cut now of which nothing survives but what was synced.
    pub fn synced_only(&self) -> MemDisk {
        let mut state = self.state().clone();
        state.names = state.durable_names.clone();
        state.unsynced_names.clear();
        state.forget_nameless();
        for inode in &mut state.inodes {
            inode.live = inode.durable.clone();
            inode.unsynced.clear();
        }
        (state.dead, state.failed, state.fault) = (false, false, None);
        MemDisk(Arc::new(Mutex::new(state)))
    }

    pub fn bytes(&self, name: &str) -> Vec<u8> {
        let state = self.state();
        state.inodes[state.inode(name).unwrap()].live.clone()
    }

    /// Puts a file there, durably.
    pub fn put(&self, name: &str, bytes: &[u8]) {
        let mut state = self.state();
        let inode = state.inodes.len();
        state.inodes.push(Inode { live: bytes.to_vec(), durable: bytes.to_vec(), unsynced: Vec::new() });
        state.name(Naming::Link(name.into(), inode));
        state.sync_names();
    }

    /// Changes what an open file holds.
    pub fn scribble(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state();
        let inode = state.inode(name).unwrap();
        change(&mut state.inodes[inode].live);
    }

    pub fn delete(&self, name: &str) {
        let mut state = self.state();
        assert!(state.names.contains_key(name), "{name}");
        state.name(Naming::Unlink(name.into()));
        state.sync_names();
    }

    pub fn names(&self) -> Vec<String> {
        self.state().names.keys().cloned().collect()
    }

    fn file(&self, inode: usize, name: &str) -> Arc<dyn DiskFile> {
        Arc::new(MemFile { disk: self.clone(), inode, name: name.into() })
    }
}

fn keep_some(change: &Change, percent: u64, random: &mut Random, bytes: &mut Vec<u8>) {
    match change {
        Change::Length(_) if random.chance(percent) => change.apply(bytes),
        Change::Length(_) => {}
        Change::Write(offset, data) => {
            let mut start = 0;
            while start < data.len() {
                let sector_end = (*offset as usize + start + 1).next_multiple_of(512) - *offset as usize;
                let end = sector_end.min(data.len());
                if random.chance(percent) {
                    Change::Write(offset + start as u64, data[start..end].to_vec()).apply(bytes);
                }
                start = end;
            }
        }
    }
}

impl Disk for MemDisk {
    fn home(&self) -> String {
        "/home/x/flockd".into()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names: Vec<String> =
            self.state().names.keys().map(|name| name.split('/').next().unwrap().to_owned()).collect();
        names.dedup();
        Ok(names)
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let state = self.state();
        Ok(state.inodes[state.inode(name)?].live.clone())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let inode = self.state().inode(name)?;
        Ok(self.file(inode, name))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state();
        state.call(name)?;
        if state.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let inode = state.inodes.len();
        state.inodes.push(Inode::default());
        state.name(Naming::Link(name.into(), inode));
        drop(state);
        Ok(self.file(inode, name))
    }

    fn replace(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        state.call(name)?;
        let inode = state.inodes.len();
        state.inodes.push(Inode { live: content.to_vec(), durable: content.to_vec(), unsynced: Vec::new() });
        state.name(Naming::Link(name.into(), inode));
        state.call(name)?;
        state.sync_names();
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        state.call(to)?;
        let inode = state.inode(from)?;
        // One step: what names it by the old name alone is not a state that a cut can show.
        rename(&mut state.names, &Naming::Unlink(from.into()));
        state.name(Naming::Link(to.into(), inode));
        state.call(to)?;
        state.sync_names();
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        state.inode(name)?;
        state.call(name)?;
        state.name(Naming::Unlink(name.into()));
        Ok(())
    }

    fn set_aside(&self, names: &[String], into: &str) -> io::Result<()> {
        let mut state = self.state();
        for name in names {
            state.call(name)?;
            let inode = state.inode(name)?;
            state.name(Naming::Link(format!("{into}/{name}"), inode));
            state.name(Naming::Unlink(name.clone()));
        }
        state.sync_names();
        Ok(())
    }
}

struct MemFile {
    disk: MemDisk,
    inode: usize,
    name: String,
}

impl MemFile {
    fn change(&self, change: Change) -> io::Result<()> {
        let mut state = self.disk.state();
        let was_dead = state.dead;
        let called = state.call(&self.name);
        // A write that the power cut interrupts may still have reached the disk in part; one that fails for lack of
        // space leaves a beginning behind, here the longest there is.
        let done = match (&called, &change) {
            (Ok(()), _) => Some(change),
            (Err(_), Change::Write(offset, data)) if !state.dead => {
                Some(Change::Write(*offset, data[..data.len() - 1].to_vec()))
            }
            (Err(_), _) if state.dead && !was_dead => Some(change),
            _ => None,
        };
        if let Some(change) = done {
            let inode = &mut state.inodes[self.inode];
            change.apply(&mut inode.live);
            inode.unsynced.push(change);
        }
        called
    }
}

impl DiskFile for MemFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.disk.state().inodes[self.inode].live.len() as u64)
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let state = self.disk.state();
        let live = &state.inodes[self.inode].live;
        let end = offset as usize + bytes.len();
        bytes.copy_from_slice(live.get(offset as usize..end).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.change(Change::Write(offset, bytes.to_vec()))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Change::Length(len))
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        if self.length()? < offset + len { self.change(Change::Length(offset + len)) } else { Ok(()) }
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        let called = state.call(&self.name);
        let dead = state.dead;
        let inode = &mut state.inodes[self.inode];
        if called.is_ok() {
            let changes = std::mem::take(&mut inode.unsynced);
            changes.iter().for_each(|change| change.apply(&mut inode.durable));
        } else if !dead {
            inode.unsynced.clear();
        }
        called
    }

    fn in_place(&self) -> io::Result<bool> {
        Ok(self.disk.state().names.get(&self.name) == Some(&self.inode))
    }
}
