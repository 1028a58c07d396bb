//! One machine in one thread: clocks, disk, daemon, connections, clients; every step is drawn from the seed.

use crate::auditor::{Auditor, Start};
use crate::flocks::Machine;
use crate::log::{Log, counters};
use crate::mem_disk::{MemDisk, Random};
use crate::server::{Around, Pipe, Server};
use crate::subscribers::{self, Subscriber};
use crate::webhooks::{self, Receiver};
use crate::workload::{self, Client, Kind};
use flockd::coordinator::{Coordinator, Surroundings};
use flockd::journal::{Journal, JournalError, Loaded, Tuning};
use flockd::model::*;
use flockd::scope::Target;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const FLOOR: u64 = 1_700_000_000 << 20;

/// What the coordinator asks of its surroundings, as the simulator sets it.
#[derive(Clone, Default)]
pub struct Knobs {
    /// Milliseconds that a sync takes.
    pub sync_ms: Arc<AtomicU64>,
    /// The home is not ours any more.
    pub tampered: Arc<AtomicBool>,
}

counters! {
    /// How often each thing was tried.
    Seen {
        kills,
        stops,
        cuts,
        reboots,
        disk_faults,
        tampered,
        dropped,
        deaths,
        half_open,
        foreigners,
        kept_out,
        stalls,
        jumps,
        suspends,
        by_hand,
        bound_asked,
        children_died,
        deaths_unseen,
        starts,
        starts_failed,
        troubled_turns,
        posts_taken,
        posts_repeated,
        posts_failed,
    }
}

pub struct World {
    pub random: Random,
    pub now: Now,
    pub boot: u128,
    pub disk: MemDisk,
    pub machine: Machine,
    pub server: Option<Server>,
    /// How the next daemon comes to be started.
    pub how: Start,
    pub pipes: BTreeMap<u64, Pipe>,
    pub clients: Vec<Client>,
    pub subscribers: [Subscriber; subscribers::COUNT],
    pub receivers: [Receiver; webhooks::COUNT],
    pub children: Vec<Process>,
    pub dead: BTreeSet<Process>,
    pub auditor: Auditor,
    pub knobs: Knobs,
    pub log: Log,
    pub seen: Seen,
    pub targets: Vec<Target>,
    pub rumours: VecDeque<LockId>,
    pub next_conn: u64,
    pub next_request: u64,
    pub next_pid: u32,
    pub next_foreigner: u32,
    next_probe: u64,
    /// No daemon has come up yet, so nobody knows on which boot the journal was made.
    is_fresh: bool,
    segment_max: u64,
    /// When a scope counts as contended.
    threshold: Threshold,
}

impl World {
    pub fn new(seed: u64, aloud: bool) -> World {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9).wrapping_add(1));
        let agents =
            ["ann", "bob", "ann/x", "ann/y", "cyd", "ann/x/p"].map(|name| Agent::new(name).expect("it is short"));
        let kinds =
            [Kind::Session(SessionKind::Library), Kind::Session(SessionKind::Command), Kind::OneShot, Kind::OneShot];
        let count = 3 + random.below(5);
        let clients = (0..count).map(|at| {
            let agent = agents[random.below(agents.len() as u64) as usize].clone();
            let process = Process { pid: 100 + at as u32, start: 1 };
            Client::new(agent, kinds[random.below(4) as usize], process)
        });
        let clients = clients.collect();
        let machine = Machine::new(random.next());
        let mut targets = workload::targets();
        let left_out = random.below(targets.len() as u64 - 1);
        for _ in 0..left_out {
            let at = random.below(targets.len() as u64) as usize;
            targets.swap_remove(at);
        }
        World {
            now: Now { mono: Moment(1_000), wall: Wall(1_700_000_000_000) },
            boot: 7,
            disk: MemDisk::default(),
            machine: machine.clone(),
            server: None,
            how: Start::Again,
            pipes: BTreeMap::new(),
            clients,
            subscribers: Default::default(),
            receivers: Default::default(),
            children: Vec::new(),
            dead: BTreeSet::new(),
            auditor: Auditor::new(machine),
            knobs: Knobs::default(),
            log: Log::new(aloud),
            seen: Seen::default(),
            targets,
            rumours: VecDeque::new(),
            next_conn: 16,
            next_request: 0,
            next_pid: 0,
            next_foreigner: 50_000,
            next_probe: 0,
            is_fresh: true,
            segment_max: 1024 << random.below(7),
            threshold: Threshold { requests: 2 + (seed % 3) as u32, within: 5_000 << (seed % 4) },
            random,
        }
    }

    /// One step.
    pub fn step(&mut self) {
        if self.disk.is_dead() {
            return self.cut_power();
        }
        if self.server.is_none() {
            match self.random.below(100) {
                0..=39 => return self.start(),
                40..=49 => return self.child_dies(),
                _ => {}
            }
        }
        match self.random.below(1_000) {
            0..=9 => self.subscriber_acts(),
            10..=29 => self.webhook_acts(),
            30..=449 => {
                let at = self.random.below(self.clients.len() as u64) as usize;
                self.client_acts(at);
            }
            450..=699 => self.serve(),
            700..=714 => self.foreigner_comes(),
            715..=729 => self.foreigner_goes(),
            730..=819 => self.time_passes(),
            820..=869 => self.sync_by_hand(),
            870..=899 => self.sync_done(),
            900..=919 => self.tell_death(),
            920..=932 => self.revive(),
            933..=949 => self.child_dies(),
            950..=959 => self.heal(),
            960..=979 => self.look(),
            _ => self.fault(),
        }
    }

    /// Opens the journal and starts a daemon on it, if the disk lets it.
    pub fn start(&mut self) {
        self.seen.starts += 1;
        self.subscribers_lose_the_daemon();
        if self.random.chance(8) {
            self.disk_trouble();
        }
        let (disk, had_trouble) = (self.disk.clone(), self.disk.has_trouble());
        let (journal, loaded) = match self.load(&disk, self.boot) {
            Ok(opened) => opened,
            Err(error) => return self.not_started(&error, had_trouble),
        };
        self.log.note(|| format!("a daemon starts, {:?}: {} rows", self.how, loaded.records.len()));
        let rebooted = self.how != Start::Again;
        assert!(loaded.rebooted == rebooted || self.is_fresh, "the journal takes the boot for another");
        if self.random.chance(3) {
            self.log.note(|| "it is killed while it starts".to_owned());
            self.disk.keep_trying();
            self.disk = self.disk.after_kill();
            return;
        }
        let (sync_ms, tampered, ticks) = (self.knobs.sync_ms.clone(), self.knobs.tampered.clone(), AtomicU64::new(0));
        let guard = move || match tampered.load(Ordering::Relaxed) {
            true => Err(JournalError::Tampered { file: "daemon.lock".into() }),
            false => Ok(()),
        };
        let surroundings = Surroundings {
            os: self.machine.for_daemon(),
            // It is asked before and after an append and a sync, and only then.
            stopwatch: Box::new(move || ticks.fetch_add(sync_ms.load(Ordering::Relaxed) * 1_000, Ordering::Relaxed)),
            wake: Box::new(|| unreachable!("there is no thread")),
            guard: Box::new(guard),
        };
        match Coordinator::new(journal, loaded.clone(), self.now, surroundings) {
            Ok(coordinator) => {
                self.auditor.started(self.now.mono, &loaded, self.how);
                (self.how, self.is_fresh) = (Start::Again, false);
                self.server = Some(Server::new(coordinator.without_thread(), &self.dead, self.threshold));
            }
            Err(error) => self.not_started(&error, had_trouble),
        }
    }

    fn not_started(&mut self, error: &JournalError, had_trouble: bool) {
        self.log.note(|| "a daemon cannot start".to_owned());
        self.seen.starts_failed += 1;
        self.auditor.not_started();
        assert!(had_trouble, "refused without a reason: {error}");
        self.disk.keep_trying();
        if self.random.chance(50) {
            self.disk.heal();
        }
    }

    pub fn load(&self, disk: &MemDisk, boot: u128) -> Result<(Journal, Loaded), JournalError> {
        let tuning = Tuning { segment_max: self.segment_max, background: false };
        Journal::open_tuned(Arc::new(disk.clone()), boot, 0xABCD, FLOOR, tuning)
    }

    /// Lends the server what it needs, and looks after each turn whether what had to be synced is.
    pub fn with_server<T>(&mut self, run: impl FnOnce(&mut Server, &mut Around) -> T) -> Option<T> {
        let server = self.server.as_mut()?;
        if self.machine.has_answered(self.now.mono) {
            server.wake();
        }
        let random = &mut self.random;
        let mut draw = || random.next();
        let mut around = Around {
            now: self.now,
            pipes: &mut self.pipes,
            machine: &self.machine,
            dead: &self.dead,
            auditor: &mut self.auditor,
            log: &mut self.log,
            draw: &mut draw,
        };
        let result = run(server, &mut around);
        self.seen.troubled_turns += u64::from(server.coordinator.trouble().is_some());
        if !self.disk.is_dead() {
            self.audit_durable();
            self.subscriber_reads(0, usize::MAX);
        }
        self.webhooks_are_promised();
        Some(result)
    }

    /// One round of the daemon over some of its connections.
    pub fn serve(&mut self) {
        let all = self.random.chance(50);
        let mut ready: Vec<u64> = Vec::new();
        for (conn, pipe) in &self.pipes {
            if !pipe.server_closed && (all || self.random.chance(50)) {
                ready.push(*conn);
            }
        }
        let probe = self.random.chance(40).then(|| self.fresh_probe());
        self.log.note(|| format!("at {} a round", self.now.mono.0));
        self.with_server(|server, around| server.round(around, &ready, probe));
    }

    fn fresh_probe(&mut self) -> u64 {
        self.next_probe += 1;
        self.next_probe
    }

    fn time_passes(&mut self) {
        let due = self.server.as_ref().and_then(|server| server.coordinator.next_deadline());
        let to = match (self.random.below(10), due) {
            (0..=3, Some(due)) if due.0 < self.now.mono.0 + 1_000_000 => due.0 + self.random.below(2),
            (4..=8, _) => self.now.mono.0 + self.random.below(50),
            (9, _) => self.now.mono.0 + self.random.below(20_000),
            _ => self.now.mono.0 + 1,
        };
        let passed = to.saturating_sub(self.now.mono.0);
        self.now.mono.0 += passed;
        self.now.wall.0 += passed;
        if self.random.chance(40) {
            self.serve();
        } else if self.random.chance(50) {
            self.with_server(Server::flush_all);
        }
    }

    fn sync_by_hand(&mut self) {
        let took = self.knobs.sync_ms.load(Ordering::Relaxed);
        let done = self.server.as_mut().is_some_and(|server| server.coordinator.sync_by_hand(took * 1_000));
        self.seen.by_hand += u64::from(done);
        if done {
            self.log.note(|| "a sync is carried out".to_owned());
            if self.random.chance(60) {
                self.sync_done();
            }
        }
    }

    fn sync_done(&mut self) {
        self.with_server(Server::sync_done);
    }

    fn tell_death(&mut self) {
        let dead = &self.dead;
        if self.server.as_mut().is_some_and(|server| server.tell_death(dead)) && self.random.chance(70) {
            self.serve();
        }
    }

    fn revive(&mut self) {
        let dead: Vec<usize> = (0..self.clients.len()).filter(|at| !self.clients[*at].alive).collect();
        if !dead.is_empty() {
            let at = dead[self.random.below(dead.len() as u64) as usize];
            self.starts_anew(at);
        }
    }

    fn child_dies(&mut self) {
        if self.children.is_empty() {
            return;
        }
        let process = self.children.swap_remove(self.random.below(self.children.len() as u64) as usize);
        self.log.note(|| format!("the command {} ends", process.pid));
        self.dead.insert(process);
        self.seen.children_died += 1;
        self.seen.deaths_unseen += u64::from(self.server.is_none());
    }

    /// Compares status and journal just now.
    fn look(&mut self) {
        if self.disk.is_dead() || self.server.is_none() {
            return;
        }
        let probe = self.fresh_probe();
        self.with_server(|server, around| server.round(around, &[], Some(probe)));
        self.audit_image();
    }

    /// Nothing goes wrong any more: everybody is heard, and whoever only waits goes on waiting.
    pub fn come_to_rest(&mut self) {
        if self.disk.is_dead() {
            self.cut_power();
        }
        self.heal();
        self.knobs.sync_ms.store(0, Ordering::Relaxed);
        self.machine.comes_to_rest(self.now.mono);
        self.pipes.values_mut().for_each(|pipe| pipe.full = false);
        self.clients.iter_mut().for_each(|client| client.stalled_until = 0);
        for _ in 0..40 {
            // The daemon that started last may have met the end of the power.
            if self.disk.is_dead() {
                self.cut_power();
            }
            while self.server.is_none() {
                self.disk.heal();
                if self.disk.is_dead() {
                    self.cut_power();
                }
                self.start();
            }
            self.disk.heal();
            self.now.mono.0 += 100;
            let all: Vec<u64> =
                self.pipes.iter().filter(|(_, pipe)| !pipe.server_closed).map(|(conn, _)| *conn).collect();
            let (probe, dead) = (self.fresh_probe(), self.dead.clone());
            while self.server.as_mut().is_some_and(|server| server.tell_death(&dead)) {}
            self.with_server(|server, around| server.round(around, &all, Some(probe)));
            self.with_server(Server::flush_all);
            self.sync_by_hand();
            self.sync_done();
            for at in 0..self.clients.len() {
                while self.has_to_read(at) {
                    let before = self.clients[at].conn;
                    self.read_one(at);
                    if self.clients[at].conn != before {
                        self.dial(at);
                    }
                }
            }
        }
        let trouble = self.server.as_ref().map(|server| server.coordinator.trouble());
        assert_eq!(trouble, Some(None), "the disk is well and the daemon or its journal is not");
        let unanswered = self.auditor.unanswered();
        assert!(unanswered.is_empty(), "never answered: {unanswered:?}");
        self.webhooks_come_to_rest();
        // Each that was added just now is answered when it is synced, and what is asked next is answered behind it.
        for _ in 0..webhooks::COUNT {
            self.sync_by_hand();
            self.sync_done();
        }
        self.look();
        for at in 0..subscribers::COUNT {
            self.subscriber_reads(at, usize::MAX);
        }
        let (journal, loaded) = self.load(&self.disk.after_kill(), self.boot).expect("the disk is well");
        drop::<Journal>(journal);
        self.auditor.all_is_heard(&loaded);
        self.all_is_posted(&loaded);
        self.auditor.no_flock_is_missed();
        self.auditor.all_dead_are_gone(&self.dead);
    }
}
