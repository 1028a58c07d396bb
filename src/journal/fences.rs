//! The `fences` file: which numbers this home may have given out, kept apart from the journal so that they outlive it.
//!
//! It is small, replaced in one durable step, and written before any number below its marks is given out. So a journal
//! that is deleted, or put back from an old copy, repeats no fence.

use super::codec::{self, Fault};
use super::disk::Disk;
use super::error::JournalError;
use crate::limits;
use std::io;

/// Its name in the home.
pub(super) const NAME: &str = "fences";

const MAGIC: &[u8; 8] = b"flockd.F";
const VERSION: u32 = 1;

/// What the file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fences {
    /// The home's instance: a random number, drawn when its numbers began.
    pub instance: u64,
    /// First fence that was never reserved.
    pub fences: u64,
    /// First event number that was never reserved.
    pub events: u64,
    /// Whether a journal belongs beside it. False only from when one was set aside until the next was made.
    pub journal: bool,
}

impl Fences {
    /// The file's content, or none if there is no such file.
    pub(super) fn read(disk: &dyn Disk) -> Result<Option<Fences>, JournalError> {
        let file = super::path(disk, NAME);
        let bytes = match disk.read(NAME) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(JournalError::io(format!("read {file}"), error)),
        };
        let fields: &[u8; 32] = codec::read_label(MAGIC, VERSION, &bytes)
            .map_err(|fault| super::refuse(&file, fault, "it is no fences file"))?;
        let number = |at: usize| u64::from_le_bytes(fields[at..at + 8].try_into().expect("eight bytes"));
        let read = Fences { instance: number(0), fences: number(8), events: number(16), journal: number(24) != 0 };
        if read.fences > limits::FENCE_END || read.events > limits::FENCE_END {
            return Err(super::refuse(&file, Fault::Damaged("its numbers have run out".into()), ""));
        }
        Ok(Some(read))
    }

    /// Replaces the file; durable when it returns.
    pub(super) fn write(&self, disk: &dyn Disk) -> Result<(), JournalError> {
        assert!(self.fences <= limits::FENCE_END && self.events <= limits::FENCE_END, "numbers have run out: {self:?}");
        let numbers = [self.instance, self.fences, self.events, u64::from(self.journal)];
        let fields: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        disk.replace(NAME, &codec::label(MAGIC, VERSION, &fields))
            .map_err(|error| JournalError::io(format!("write {}", super::path(disk, NAME)), error))
    }
}
