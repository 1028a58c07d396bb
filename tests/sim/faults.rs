//! Everything that can go wrong around a daemon: kills, power cuts, disks, connections, clients, clocks.

use crate::auditor::Start;
use crate::flocks::Temper;
use crate::mem_disk::Trouble;
use crate::server::Death;
use crate::world::World;
use flockd::journal::Journal;
use flockd::model::{Mode, Wall};
use flockd::scope::{FileId, Target};
use std::sync::atomic::Ordering;

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

impl World {
    /// One thing goes wrong, or right again.
    pub fn fault(&mut self) {
        match self.random.below(100) {
            0..=9 => self.kill(),
            10..=19 => self.kill_within_a_round(),
            20..=24 => self.cut_power(),
            25..=27 => self.stop_in_order(),
            28..=29 => self.reboot(),
            30..=41 => self.disk_trouble(),
            42..=44 => self.tamper(),
            45..=52 => self.slow_disk(),
            53..=58 => self.slow_files(),
            59..=61 => self.rights_change(),
            62..=72 => self.drop_connection(),
            73..=84 => self.client_dies(),
            85..=90 => self.client_stalls(),
            91..=94 => self.pipe_fills(),
            95..=97 => self.wall_jumps(),
            _ => self.suspend(),
        }
    }

    /// All connections of the daemon are closed; what it had sent is still there to be read.
    fn daemon_gone(&mut self) {
        self.server = None;
        for pipe in self.pipes.values_mut() {
            pipe.server_closed = true;
            pipe.to_server.clear();
        }
    }

    /// `kill -9` between two steps: nothing is closed in order.
    pub fn kill(&mut self) {
        if self.server.is_none() {
            return;
        }
        self.log.note(|| "the daemon is killed".to_owned());
        self.seen.kills += 1;
        self.daemon_gone();
        self.disk.keep_trying();
        self.disk = self.disk.after_kill();
    }

    /// `kill -9` between writing and telling.
    fn kill_within_a_round(&mut self) {
        let death = if self.random.chance(50) { Death::AfterTheTurn } else { Death::AmidTheAnswers };
        let Some(server) = &mut self.server else { return };
        server.dies = Some(death);
        self.log.note(|| format!("the daemon is about to die: {death:?}"));
        self.serve();
        self.kill();
    }

    fn stop_in_order(&mut self) {
        let Some(server) = self.server.take() else { return };
        self.log.note(|| "the daemon stops".to_owned());
        self.seen.stops += 1;
        let is_taken_away = self.knobs.tampered.load(Ordering::Relaxed);
        let had_trouble = self.auditor.is_troubled() || self.disk.has_trouble() || is_taken_away;
        let closed = server.coordinator.close();
        assert!(closed.is_ok() || had_trouble, "it cannot close: {closed:?}");
        self.daemon_gone();
        self.disk.keep_trying();
        self.disk = self.disk.after_kill();
    }

    fn everybody_dies(&mut self) {
        self.boot += 1;
        self.machine.foreigners().into_iter().for_each(|pid| self.machine.foreign_goes(pid));
        // Numbers of processes are not used twice: a request from before the restart names one that is dead.
        self.dead.extend(self.children.drain(..));
        self.dead.extend(self.clients.iter().map(|client| client.process));
        self.pipes.clear();
        for at in 0..self.clients.len() {
            self.starts_anew(at);
        }
        // The monotonic clock begins anew with the boot.
        self.now.mono.0 = 1_000 + self.random.below(10_000);
    }

    /// The machine is restarted in order: everything written reaches the disk.
    fn reboot(&mut self) {
        self.log.note(|| "the machine is restarted".to_owned());
        self.seen.reboots += 1;
        self.daemon_gone();
        self.disk.keep_trying();
        self.disk = self.disk.after_kill();
        self.everybody_dies();
        // A reboot after a power cut finds what the cut has left.
        self.how = if self.how == Start::PowerCut { Start::PowerCut } else { Start::Reboot };
    }

    /// Of what was not synced any part survives.
    pub fn cut_power(&mut self) {
        self.log.note(|| "the power is cut".to_owned());
        self.seen.cuts += 1;
        self.daemon_gone();
        self.disk = self.disk.after_power_cut(&mut self.random);
        self.everybody_dies();
        self.how = Start::PowerCut;
    }

    pub fn disk_trouble(&mut self) {
        let (spared, for_ever) = (self.random.below(8), self.random.chance(50));
        let on = ["", "log.", "journal.redb", "fences"][self.random.below(4) as usize];
        let trouble = match self.random.below(10) {
            0 => Trouble::PowerCut,
            1..=5 => Trouble::Error(EIO),
            _ => Trouble::Error(ENOSPC),
        };
        self.log.note(|| format!("the disk: {trouble:?} after {spared} on {on:?}, for ever {for_ever}"));
        self.seen.disk_faults += 1;
        self.disk.plant(spared, on, trouble, for_ever);
    }

    pub fn heal(&mut self) {
        self.log.note(|| "the disk is well".to_owned());
        self.disk.heal();
        self.knobs.tampered.store(false, Ordering::Relaxed);
    }

    fn tamper(&mut self) {
        self.log.note(|| "somebody tampers with the home".to_owned());
        self.seen.tampered += 1;
        self.knobs.tampered.store(true, Ordering::Relaxed);
    }

    fn slow_disk(&mut self) {
        let slow = if self.random.chance(70) { 20 } else { 0 };
        self.log.note(|| format!("a sync takes {slow} ms"));
        self.knobs.sync_ms.store(slow, Ordering::Relaxed);
    }

    fn some_file(&mut self) -> Option<FileId> {
        let files: Vec<FileId> = self.targets.iter().filter_map(Target::own_id).collect();
        if files.is_empty() { None } else { Some(files[self.random.below(files.len() as u64) as usize]) }
    }

    /// A program that knows nothing but flock tries to take a file.
    pub fn foreigner_comes(&mut self) {
        let Some(file) = self.some_file() else { return };
        self.next_foreigner += 1;
        let mode = if self.random.chance(60) { Mode::Exclusive } else { Mode::Shared };
        let has_it = self.machine.foreign_comes(file, mode, self.next_foreigner);
        self.log.note(|| format!("a foreigner wants {} {}: {has_it}", file.inode, mode.as_str()));
        self.seen.foreigners += u64::from(has_it);
        self.seen.kept_out += u64::from(!has_it);
    }

    pub fn foreigner_goes(&mut self) {
        let there: Vec<u32> = self.machine.foreigners().into_iter().collect();
        if !there.is_empty() {
            let pid = there[self.random.below(there.len() as u64) as usize];
            self.log.note(|| format!("foreigner {pid} lets go"));
            self.machine.foreign_goes(pid);
        }
    }

    fn slow_files(&mut self) {
        let temper = match self.random.below(10) {
            0..=5 => Temper::Slow(1 + self.random.below(2_000)),
            6..=7 => Temper::Hangs,
            _ => Temper::Quick,
        };
        self.log.note(|| format!("the files: {temper:?}"));
        self.machine.set_temper(temper);
    }

    fn rights_change(&mut self) {
        let Some(file) = self.some_file() else { return };
        let is_allowed = self.random.chance(40);
        self.log.note(|| format!("{} may be opened: {is_allowed}", file.inode));
        self.machine.allow(file, is_allowed);
    }

    fn some_conn(&mut self) -> Option<u64> {
        let open: Vec<u64> = self.pipes.iter().filter(|(_, pipe)| !pipe.server_closed).map(|(conn, _)| *conn).collect();
        if open.is_empty() { None } else { Some(open[self.random.below(open.len() as u64) as usize]) }
    }

    /// The connection breaks under its client: what was on its way to it is gone.
    fn drop_connection(&mut self) {
        let Some(conn) = self.some_conn() else { return };
        self.log.note(|| format!("connection {conn} breaks"));
        self.seen.dropped += 1;
        let pipe = self.pipes.get_mut(&conn).expect("it was found just now");
        pipe.client_closed = true;
        let lost_anyway = self.random.chance(50);
        if lost_anyway {
            pipe.to_server.clear();
        }
        for client in self.clients.iter_mut().filter(|client| client.conn == Some(conn)) {
            client.connection_broke();
        }
    }

    /// A client dies; where a child of its keeps the socket open, only its death itself tells.
    fn client_dies(&mut self) {
        let at = self.random.below(self.clients.len() as u64) as usize;
        let half_open = self.random.chance(40);
        let client = &mut self.clients[at];
        if !client.alive {
            return;
        }
        self.log.note(|| format!("{} ({at}) dies, half open {half_open}", client.agent));
        self.seen.deaths += 1;
        client.alive = false;
        self.dead.insert(client.process);
        if let Some(pipe) = client.conn.and_then(|conn| self.pipes.get_mut(&conn)) {
            pipe.client_closed = !half_open;
            self.seen.half_open += u64::from(half_open);
        }
    }

    fn client_stalls(&mut self) {
        let at = self.random.below(self.clients.len() as u64) as usize;
        let stall = [500, 5_000, 90_000, 700_000][self.random.below(4) as usize];
        let client = &mut self.clients[at];
        client.stalled_until = self.now.mono.0 + stall;
        self.log.note(|| format!("{} ({at}) stalls for {stall} ms", client.agent));
        self.seen.stalls += 1;
    }

    fn pipe_fills(&mut self) {
        let Some(conn) = self.some_conn() else { return };
        let pipe = self.pipes.get_mut(&conn).expect("it was found just now");
        pipe.full = !pipe.full;
        let full = pipe.full;
        self.log.note(|| format!("connection {conn} is full: {full}"));
    }

    fn wall_jumps(&mut self) {
        let jump = self.random.below(1 << 40);
        self.now.wall =
            Wall(if self.random.chance(50) { self.now.wall.0 + jump } else { self.now.wall.0.saturating_sub(jump) });
        self.log.note(|| "the wall clock jumps".to_owned());
        self.seen.jumps += 1;
    }

    /// The machine sleeps: the wall clock goes on, the monotonic one does not, nobody acts.
    fn suspend(&mut self) {
        self.now.wall.0 += self.random.below(1 << 35);
        self.log.note(|| "the machine was suspended".to_owned());
        self.seen.suspends += 1;
    }

    /// What a power cut now would leave must hold every grant that was told to outlive one.
    pub fn audit_durable(&mut self) {
        if !self.auditor.wants_durable() || self.disk.is_synced("log.") {
            return;
        }
        self.auditor.counts.durable += 1;
        let copy = self.disk.synced_only();
        let (journal, loaded) =
            self.load(&copy, self.boot).unwrap_or_else(|error| panic!("after a power cut: {error}"));
        drop::<Journal>(journal);
        self.auditor.image(&loaded, true);
    }

    /// What a kill now would leave must hold everything that was told.
    pub fn audit_image(&mut self) {
        if self.disk.is_dead() {
            return;
        }
        let copy = self.disk.after_kill();
        let (journal, loaded) = self.load(&copy, self.boot).unwrap_or_else(|error| panic!("after a kill: {error}"));
        drop::<Journal>(journal);
        self.auditor.image(&loaded, false);
    }
}
