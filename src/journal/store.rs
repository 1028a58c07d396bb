//! The store that the log is folded into: one redb file, one synced transaction a fold.
//!
//! Tables by number (id or event number) with records as `codec.rs` makes them, and `meta.v1` with one label. The
//! suffix is part of the name: a table of a later layout is another table, and one that we do not know is refused.
//!
//! redb checks its pages only when told to, takes an empty file for a new database, and can panic on a damaged one.
//! So every open checks all of it, looks at the file before redb does, and turns a panic into a sentence.

use super::codec::{self, Fault};
use super::disk::{Disk, DiskFile};
use super::error::JournalError;
use crate::limits;
use crate::model::{Event, Record};
use crate::planted::{Bug, planted};
use redb::backends::InMemoryBackend;
use redb::{Builder, Database, Durability, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableHandle};
use redb::{StorageBackend, TableDefinition, WriteTransaction};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::{fmt, io};

/// Its name in the home.
pub(super) const NAME: &str = "journal.redb";
/// Its name until it is complete, so that a crash while it is made leaves nothing that looks like a damaged journal.
pub(super) const UNFINISHED: &str = "journal.new";
/// Beside it once a sync of it has failed: the system shows pages from then on that no disk has, and a store that is
/// built upon them does not open after a power cut. Whoever comes next makes it anew. The pages that mislead are gone
/// with the system's memory, so that this needs no sync either.
pub(super) const SUSPECT: &str = "journal.suspect";

/// Nothing here needs more, and a small cache makes the check on opening faster.
const CACHE: usize = 1024 * 1024;
/// What every redb file begins with.
const REDB_MAGIC: &[u8] = b"redb\x1A\x0A\xA9\x0D\x0A";

type Rows = TableDefinition<'static, u64, &'static [u8]>;

/// In the order of [`place`].
const TABLES: [Rows; 6] = [
    Rows::new("locks.v1"),
    Rows::new("waiters.v1"),
    Rows::new("sessions.v1"),
    Rows::new("ended.v1"),
    Rows::new("events.v1"),
    Rows::new("webhooks.v1"),
];
const EVENTS: usize = 4;
const META: TableDefinition<'static, &'static str, &'static [u8]> = TableDefinition::new("meta.v1");
const META_KEY: &str = "journal";
const META_MAGIC: &[u8; 8] = b"flockd.M";
const META_VERSION: u32 = 1;

/// What the journal knows about itself. Stored as a label with these fields in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Meta {
    /// The home's instance.
    pub instance: u64,
    /// The boot in which the journal was last opened.
    pub boot_id: u128,
    /// Number of the last record that is folded in.
    pub folded: u64,
    /// The first segment that is not folded in; it must be there.
    pub active: u64,
    /// First fence that was not reserved.
    pub fences: u64,
    /// First event number that was not reserved.
    pub events: u64,
    /// The journal was closed in order, and not opened since: nothing that was ever appended is missing.
    pub closed: bool,
    /// Of the events below this number the newest may be missing: a power cut took them, or a journal was lost.
    pub lost_below: u64,
}

impl Meta {
    fn to_label(self) -> Vec<u8> {
        let mut fields = Vec::with_capacity(65);
        fields.extend_from_slice(&self.instance.to_le_bytes());
        fields.extend_from_slice(&self.boot_id.to_le_bytes());
        for number in [self.folded, self.active, self.fences, self.events, self.lost_below] {
            fields.extend_from_slice(&number.to_le_bytes());
        }
        fields.push(u8::from(self.closed));
        codec::label(META_MAGIC, META_VERSION, &fields)
    }

    fn from_label(bytes: &[u8]) -> Result<Meta, Fault> {
        let fields: &[u8; 65] = codec::read_label(META_MAGIC, META_VERSION, bytes)?;
        let number = |at: usize| u64::from_le_bytes(fields[at..at + 8].try_into().expect("eight bytes"));
        Ok(Meta {
            instance: number(0),
            boot_id: u128::from_le_bytes(fields[8..24].try_into().expect("sixteen bytes")),
            folded: number(24),
            active: number(32),
            fences: number(40),
            events: number(48),
            lost_below: number(56),
            closed: fields[64] != 0,
        })
    }
}

/// Everything that is stored.
#[derive(Debug, Default)]
pub(super) struct Content {
    /// State rows.
    pub rows: Vec<Record>,
    /// Kept events, oldest first.
    pub events: Vec<Event>,
}

/// An open store.
pub(super) struct Store {
    file: String,
    pages: Arc<dyn DiskFile>,
    database: Database,
}

impl Store {
    /// Makes a new store with these rows in the place of the old one, if there is one, durably and in one step.
    pub(super) fn create(disk: &dyn Disk, meta: &Meta, rows: &[Record]) -> Result<(), JournalError> {
        let file = super::path(disk, NAME);
        let failed = |error| JournalError::io(format!("create {file}"), error);
        match disk.remove(UNFINISHED) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let pages = disk.create(UNFINISHED).map_err(failed)?;
        let backend = Pages { file: pages.clone(), home: None };
        let database = database(backend).map_err(|error| refused(&file, error))?;
        let store = Store { file: file.clone(), pages, database };
        store.fold(rows, meta)?;
        store.close()?;
        disk.rename(UNFINISHED, NAME).map_err(failed)?;
        // If it stays, the next start makes this one anew as well.
        let _ = disk.remove(SUSPECT);
        Ok(())
    }

    /// Opens the store after looking through all of it.
    pub(super) fn open(disk: &Arc<dyn Disk>) -> Result<(Store, Meta), JournalError> {
        Self::open_over(&**disk, |pages| Ok(Pages { file: pages, home: Some(disk.clone()) }))
    }

    /// What the store shows, without changing or syncing anything of it: safe also where it is suspect.
    pub(super) fn read(disk: &dyn Disk) -> Result<(Meta, Content), JournalError> {
        let (store, meta) = Self::open_over(disk, |_| {
            let (copy, bytes) = (InMemoryBackend::new(), disk.read(NAME)?);
            copy.set_len(bytes.len() as u64)?;
            copy.write(0, &bytes)?;
            Ok(copy)
        })?;
        Ok((meta, store.load()?))
    }

    /// Makes the store anew where its pages may be on no disk.
    pub(super) fn renew_if_suspect(disk: &dyn Disk) -> Result<(), JournalError> {
        if disk.open(SUSPECT).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            return Ok(());
        }
        let (meta, Content { mut rows, events }) = Self::read(disk)?;
        rows.extend(events.into_iter().map(Record::Event));
        Self::create(disk, &meta, &rows)
    }

    fn open_over<B: StorageBackend>(
        disk: &dyn Disk,
        backend: impl FnOnce(Arc<dyn DiskFile>) -> io::Result<B>,
    ) -> Result<(Store, Meta), JournalError> {
        let file = super::path(disk, NAME);
        let pages = disk.open(NAME).map_err(|error| not_opened(&file, error))?;
        check_magic(&file, &*pages)?;
        let backend = backend(pages.clone()).map_err(|error| not_opened(&file, error))?;
        guarded(&file, || {
            let database = database(backend).map_err(|error| refused(&file, error))?;
            let store = Store { file: file.clone(), pages, database };
            let meta = store.meta()?;
            Ok((store, meta))
        })
    }

    /// Everything stored.
    pub(super) fn load(&self) -> Result<Content, JournalError> {
        guarded(&self.file, || {
            let mut content = Content::default();
            for (place, table) in TABLES.iter().enumerate() {
                self.load_table(place, table, &mut content)?;
            }
            Ok(content)
        })
    }

    fn load_table(&self, expected: usize, table: &Rows, content: &mut Content) -> Result<(), JournalError> {
        let stored = self.refused(self.database.begin_read())?;
        let stored = self.refused(stored.open_table(*table))?;
        for row in self.refused(stored.iter())? {
            let (key, value) = self.refused(row)?;
            let record = codec::decode(value.value())
                .map_err(|fault| super::refuse(&self.file, fault, "it is no journal of flockd"))?;
            match (place(&record), record) {
                (Some((EVENTS, number)), Record::Event(event)) if expected == EVENTS && number == key.value() => {
                    content.events.push(event);
                }
                (Some((found, number)), record) if found == expected && number == key.value() && is_some(&record) => {
                    content.rows.push(record);
                }
                _ => {
                    let found = format!("row {} of {} is another row", key.value(), table.name());
                    return Err(JournalError::damaged(&self.file, found));
                }
            }
        }
        Ok(())
    }

    /// Folds records in, the last one of each row counting, and replaces `meta`. Durable when it returns.
    pub(super) fn fold(&self, records: &[Record], meta: &Meta) -> Result<(), JournalError> {
        let latest: BTreeMap<(usize, u64), &Record> =
            records.iter().filter_map(|record| Some((place(record)?, record))).collect();
        self.write(meta, |transaction| self.put(transaction, &latest))
    }

    /// Makes sure that the file is still the one under its name: what is folded into another one is lost with it.
    pub(super) fn check_in_place(&self) -> Result<(), JournalError> {
        match self.pages.in_place() {
            Ok(true) => Ok(()),
            Ok(false) => Err(JournalError::Tampered { file: self.file.clone() }),
            Err(error) => Err(JournalError::io(format!("look at {}", self.file), error)),
        }
    }

    /// Closes the file; what was not durable before is lost with an error only if the disk fails.
    pub(super) fn close(self) -> Result<(), JournalError> {
        let Store { file, database, .. } = self;
        guarded(&file, || database.close().map_err(|error| refused(&file, error)))
    }

    fn put(&self, transaction: &WriteTransaction, rows: &BTreeMap<(usize, u64), &Record>) -> Result<(), JournalError> {
        let mut bytes = Vec::new();
        for (place, definition) in TABLES.iter().enumerate() {
            let mut table = self.refused(transaction.open_table(*definition))?;
            for ((_, key), record) in rows.range((place, 0)..=(place, u64::MAX)) {
                if !is_some(record) {
                    self.refused(table.remove(key))?;
                    continue;
                }
                bytes.clear();
                codec::encode(record, &mut bytes).map_err(super::too_large)?;
                self.refused(table.insert(key, &*bytes))?;
            }
            if place == EVENTS {
                let surplus = self.refused(table.len())?.saturating_sub(limits::EVENTS_KEPT);
                for _ in 0..surplus {
                    self.refused(table.pop_first())?;
                }
            }
        }
        Ok(())
    }

    /// One transaction that ends with `meta`, written through to the disk.
    fn write(
        &self,
        meta: &Meta,
        change: impl FnOnce(&WriteTransaction) -> Result<(), JournalError>,
    ) -> Result<(), JournalError> {
        guarded(&self.file, || {
            let mut transaction = self.refused(self.database.begin_write())?;
            self.refused(transaction.set_durability(Durability::Immediate))?;
            change(&transaction)?;
            for table in &TABLES {
                self.refused(transaction.open_table(*table))?;
            }
            let mut table = self.refused(transaction.open_table(META))?;
            self.refused(table.insert(META_KEY, &*meta.to_label()))?;
            drop(table);
            self.refused(transaction.commit())
        })
    }

    /// Reads `meta` after checking that exactly our tables are there.
    fn meta(&self) -> Result<Meta, JournalError> {
        let stored = self.refused(self.database.begin_read())?;
        let mut found: Vec<String> = self.refused(stored.list_tables())?.map(|table| table.name().to_owned()).collect();
        found.sort_unstable();
        let mut ours: Vec<&str> = TABLES.iter().map(TableHandle::name).chain([META.name()]).collect();
        ours.sort_unstable();
        if !found.iter().any(|name| name.starts_with("meta.v")) {
            let found = "it is a redb file of another program".into();
            return Err(JournalError::Foreign { file: self.file.clone(), found });
        }
        if found.iter().any(|name| !ours.contains(&name.as_str())) {
            let version = found.iter().filter_map(|name| name.rsplit_once(".v")?.1.parse().ok()).max().unwrap_or(0);
            return Err(JournalError::Future { file: self.file.clone(), version });
        }
        if found != ours {
            return Err(JournalError::damaged(&self.file, "a table is missing in it"));
        }
        let table = self.refused(stored.open_table(META))?;
        let Some(label) = self.refused(table.get(META_KEY))? else {
            return Err(JournalError::damaged(&self.file, "it does not say whose it is"));
        };
        Meta::from_label(label.value()).map_err(|fault| super::refuse(&self.file, fault, "its meta is no label"))
    }

    fn refused<T, E: Into<redb::Error>>(&self, result: Result<T, E>) -> Result<T, JournalError> {
        result.map_err(|error| refused(&self.file, error))
    }
}

/// Table and key of a record; none for a reservation, which goes into [`Meta`].
fn place(record: &Record) -> Option<(usize, u64)> {
    match record {
        Record::Lock(id, _) => Some((0, id.0)),
        Record::Waiter(id, _) => Some((1, id.0)),
        Record::Session(id, _) => Some((2, id.0)),
        Record::Ended(id, _) => Some((3, id.0)),
        Record::Event(event) => Some((EVENTS, event.seq.0)),
        Record::Webhook(id, _) => Some((5, id.0)),
        Record::Reserve { .. } => None,
    }
}

fn is_some(record: &Record) -> bool {
    match record {
        Record::Lock(_, row) => row.is_some(),
        Record::Waiter(_, row) => row.is_some(),
        Record::Session(_, row) => row.is_some(),
        Record::Ended(_, row) => row.is_some(),
        Record::Webhook(_, row) => row.is_some(),
        Record::Event(_) | Record::Reserve { .. } => true,
    }
}

fn database(backend: impl StorageBackend) -> Result<Database, redb::DatabaseError> {
    Builder::new().set_cache_size(CACHE).set_check_integrity_on_open(true).create_with_backend(backend)
}

/// redb would make an empty file a new database and call any other one corrupt.
fn check_magic(file: &str, pages: &dyn DiskFile) -> Result<(), JournalError> {
    let failed = |error| JournalError::io(format!("read {file}"), error);
    let length = pages.length().map_err(failed)?;
    if length == 0 {
        return Err(JournalError::damaged(file, "it is empty"));
    }
    let mut magic = [0; REDB_MAGIC.len()];
    if length < magic.len() as u64 {
        return Err(JournalError::damaged(file, format!("it ends after {length} bytes")));
    }
    pages.read_at(0, &mut magic).map_err(failed)?;
    if magic != REDB_MAGIC {
        return Err(JournalError::Foreign { file: file.into(), found: "it is no redb file".into() });
    }
    Ok(())
}

fn not_opened(file: &str, error: io::Error) -> JournalError {
    match error.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::IsADirectory => {
            JournalError::Foreign { file: file.into(), found: error.to_string() }
        }
        _ => JournalError::io(format!("open {file}"), error),
    }
}

/// Runs what redb may panic in. Its state is dropped with the error, so nothing half-done is seen again.
fn guarded<T>(file: &str, run: impl FnOnce() -> Result<T, JournalError>) -> Result<T, JournalError> {
    catch_unwind(AssertUnwindSafe(run))
        .unwrap_or_else(|_| Err(JournalError::damaged(file, "reading it made the store give up")))
}

fn refused(file: &str, error: impl Into<redb::Error>) -> JournalError {
    match error.into() {
        redb::Error::Io(error) if error.kind() == io::ErrorKind::InvalidData => {
            JournalError::damaged(file, error.to_string())
        }
        redb::Error::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            JournalError::damaged(file, "it ends too early")
        }
        redb::Error::Io(error) => JournalError::io(format!("read or write {file}"), error),
        redb::Error::PreviousIo => JournalError::io(
            format!("read or write {file}"),
            io::Error::other("an earlier read or write of it had failed"),
        ),
        error => JournalError::damaged(file, error.to_string()),
    }
}

/// One file of the disk, as redb wants it.
struct Pages {
    file: Arc<dyn DiskFile>,
    /// Where a sync that fails is noted; none while nothing is lost with the file.
    home: Option<Arc<dyn Disk>>,
}

impl fmt::Debug for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pages")
    }
}

impl StorageBackend for Pages {
    fn len(&self) -> io::Result<u64> {
        self.file.length()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_at(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync().inspect_err(|_| {
            // It may be there already. Where not even a name can be made, nothing of flockd's can be kept safe.
            if let Some(home) = self.home.as_ref().filter(|_| !planted(Bug::SuspectStoreKept)) {
                let _ = home.create(SUSPECT);
            }
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_at(offset, data)
    }
}

#[cfg(test)]
mod tests {
    use super::super::disk::DirDisk;
    use super::*;

    const META_OF_TESTS: Meta = Meta {
        instance: 1,
        boot_id: 1 << 100,
        folded: 3,
        active: 4,
        fences: 5,
        events: 6,
        closed: true,
        lost_below: 7,
    };

    fn home() -> (tempfile::TempDir, DirDisk) {
        let place = tempfile::tempdir().unwrap();
        let disk = DirDisk::open(place.path()).unwrap();
        Store::create(&disk, &META_OF_TESTS, &[]).unwrap();
        (place, disk)
    }

    /// Changes the file as only redb can.
    fn change(place: &tempfile::TempDir, change: impl FnOnce(&WriteTransaction)) {
        let database = Database::create(place.path().join(NAME)).unwrap();
        let transaction = database.begin_write().unwrap();
        change(&transaction);
        transaction.commit().unwrap();
    }

    fn put_meta(transaction: &WriteTransaction, label: &[u8]) {
        transaction.open_table(META).unwrap().insert(META_KEY, label).unwrap();
    }

    fn open(disk: &DirDisk) -> Result<(Store, Meta), JournalError> {
        Store::open(&(Arc::new(disk.clone()) as Arc<dyn Disk>))
    }

    fn refusal(disk: &DirDisk) -> JournalError {
        open(disk).and_then(|(store, _)| store.load().map(drop)).unwrap_err()
    }

    #[test]
    fn meta_comes_back() {
        let (_place, disk) = home();
        assert_eq!(open(&disk).unwrap().1, META_OF_TESTS);
    }

    #[test]
    fn a_future_meta_or_table_is_refused_as_such() {
        let (place, disk) = home();
        let label = codec::label(META_MAGIC, META_VERSION + 1, b"of another length");
        change(&place, |transaction| put_meta(transaction, &label));
        assert!(matches!(refusal(&disk), JournalError::Future { version: 2, .. }));
        change(&place, |transaction| {
            put_meta(transaction, &META_OF_TESTS.to_label());
            transaction.open_table(Rows::new("locks.v3")).unwrap();
        });
        assert!(matches!(refusal(&disk), JournalError::Future { version: 3, .. }));
    }

    #[test]
    fn a_missing_table_and_a_damaged_meta_are_damage() {
        let (place, disk) = home();
        change(&place, |transaction| put_meta(transaction, &META_OF_TESTS.to_label()[1..]));
        assert!(matches!(refusal(&disk), JournalError::Foreign { .. }));
        let mut flipped = META_OF_TESTS.to_label();
        flipped[30] ^= 4;
        change(&place, |transaction| put_meta(transaction, &flipped));
        assert!(matches!(refusal(&disk), JournalError::Damaged { .. }));
        change(&place, |transaction| {
            put_meta(transaction, &META_OF_TESTS.to_label());
            transaction.delete_table(TABLES[2]).unwrap();
        });
        assert!(matches!(refusal(&disk), JournalError::Damaged { .. }));
    }

    #[test]
    fn a_row_in_the_wrong_place_or_of_the_future_is_refused() {
        let (place, disk) = home();
        let mut row = Vec::new();
        codec::encode(&Record::Lock(crate::model::LockId(1), None), &mut row).unwrap();
        change(&place, |transaction| {
            transaction.open_table(TABLES[0]).unwrap().insert(1, &*row).unwrap();
        });
        assert!(matches!(refusal(&disk), JournalError::Damaged { .. }), "a row that is stored as gone");
        let future = [&[3][..], &codec::crc32(&[&[3], b"new"]).to_le_bytes(), b"new"].concat();
        change(&place, |transaction| {
            transaction.open_table(TABLES[0]).unwrap().insert(1, &*future).unwrap();
        });
        assert!(matches!(refusal(&disk), JournalError::Future { version: 3, .. }));
        let past = [&[1][..], &codec::crc32(&[&[1], b"old"]).to_le_bytes(), b"old"].concat();
        change(&place, |transaction| {
            transaction.open_table(TABLES[0]).unwrap().insert(1, &*past).unwrap();
        });
        assert!(matches!(refusal(&disk), JournalError::Past { version: 1, .. }));
    }

    #[test]
    fn a_redb_file_of_another_program_is_foreign() {
        let place = tempfile::tempdir().unwrap();
        let disk = DirDisk::open(place.path()).unwrap();
        change(&place, |transaction| drop(transaction.open_table(Rows::new("theirs")).unwrap()));
        assert!(matches!(refusal(&disk), JournalError::Foreign { .. }));
    }
}
