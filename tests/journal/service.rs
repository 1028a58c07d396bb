//! The whole coordinator on a disk that fails: at every write and sync there is, once and for ever.
//!
//! Whatever fails, it comes to one of two things for whoever asks: a grant, which is then there after `kill -9`, or
//! `unavailable`, and nothing of it is ever heard of again. Releases go on, and fences grow.

use crate::mem_disk::{MemDisk, Random, Trouble};
use crate::world;
use flockd::coordinator::{Coordinator, OsLocks, Surroundings};
use flockd::journal::{JournalError, Tuning};
use flockd::limits;
use flockd::model::*;
use flockd::scope::{Scope, Target};
use std::collections::BTreeMap;
use std::sync::Arc;

const ENOSPC: i32 = 28;
const EIO: i32 = 5;

/// Nothing here has a file, so nothing is ever flocked.
struct NoFiles;

impl OsLocks for NoFiles {
    fn want(&mut self, _: LockId, _: &Target, _: Mode, _: Now) -> Option<OsAnswer> {
        unreachable!("a resource has no file")
    }

    fn release(&mut self, _: LockId) {}

    fn pass(&mut self, _: LockId, _: LockId) {
        unreachable!("a resource has no file")
    }

    fn share(&mut self, _: LockId) {}

    fn finished(&mut self, _: Now) -> Option<(LockId, OsAnswer)> {
        None
    }

    fn commit(&mut self, _: flockd::coordinator::Order, _: Now) {
        unreachable!("nothing is written here");
    }

    fn committed(&mut self, _: Now) -> Option<(CommitId, LockId, CommitAnswer)> {
        None
    }

    fn next_deadline(&self) -> Option<Moment> {
        None
    }
}

/// A coordinator, its disk, and what it has promised.
struct Service {
    disk: MemDisk,
    coordinator: Coordinator,
    now: Now,
    calls: u64,
    /// Grants since the daemon began.
    granted: u64,
    /// Locks that were granted and not released, by resource.
    held: BTreeMap<u64, Fence>,
    last_fence: Fence,
    /// Webhooks that were added, and what each has passed.
    webhooks: BTreeMap<WebhookId, EventSeq>,
}

fn tuning() -> Tuning {
    // So small that folding is among what fails; and without a thread, so that a run can be repeated.
    Tuning { segment_max: 4096, background: false }
}

fn start(disk: &MemDisk, now: Now) -> Result<Coordinator, JournalError> {
    let (journal, loaded) = world::open(disk, tuning())?;
    let surroundings = Surroundings {
        os: Box::new(NoFiles),
        // Syncs take no time, so they stay in the turn.
        stopwatch: Box::new(|| 0),
        wake: Box::new(|| unreachable!("there is no sync thread")),
        guard: Box::new(|| Ok(())),
    };
    Coordinator::new(journal, loaded, now, surroundings)
}

fn who() -> Who {
    Who { agent: Agent::new("claw-1").unwrap(), session: None }
}

impl Service {
    fn new() -> Service {
        let (disk, now) = (MemDisk::default(), Now { mono: Moment(1_000), wall: Wall(5) });
        let coordinator = start(&disk, now).unwrap();
        let (held, webhooks) = (BTreeMap::new(), BTreeMap::new());
        Service { disk, coordinator, now, calls: 0, granted: 0, held, last_fence: Fence(0), webhooks }
    }

    fn turn(&mut self, command: impl FnOnce(Caller) -> Command) -> Reply {
        self.calls += 1;
        let caller = Caller { conn: 1, id: self.calls };
        let mut answers = self.coordinator.turn(self.now, vec![command(caller)]);
        assert_eq!(answers.len(), 1, "one answer to one question");
        let (to, answer) = answers.remove(0);
        assert_eq!(to, caller);
        answer.reply
    }

    /// Asks for a resource of its own; whether it is granted.
    fn lock(&mut self, number: u64) -> bool {
        let ask = Arc::new(Ask {
            target: Target::named(resource(&number.to_string()).unwrap()),
            mode: Mode::Exclusive,
            who: who(),
            lease: Lease { ttl: limits::HOUR, max_hold: None },
            note: None,
            process: None,
            bound: None,
            upgrades: None,
            set: None,
            request: None,
            workspace: Workspace { root: b"/"[..].into() },
            os: true,
        });
        match self.turn(|caller| Command::Lock { caller, ask, wait: Wait::Try }) {
            Reply::Granted(granted) => {
                self.granted += 1;
                assert!(granted.lock.fence > self.last_fence, "{:?} again", granted.lock.fence);
                self.last_fence = granted.lock.fence;
                self.held.insert(number, granted.lock.fence);
                true
            }
            Reply::Failed(Fault::Unavailable(why)) => {
                assert!(why.contains("nothing is granted until"), "{why}");
                false
            }
            other => panic!("{other:?}"),
        }
    }

    /// Releases what is held the longest: that always goes.
    fn unlock(&mut self) {
        let Some((&number, _)) = self.held.iter().min_by_key(|(_, fence)| **fence) else { return };
        let scope = resource(&number.to_string()).unwrap();
        let which = Which::Scope(Target::named(scope));
        let reply = self.turn(|caller| Command::Unlock { caller: Some(caller), who: who(), which, leaves_loan: false });
        assert!(matches!(reply, Reply::Released(_)), "{reply:?}");
        self.held.remove(&number);
    }

    /// Adds a webhook; whether it is there. All that are there pass the newest event.
    fn webhook(&mut self, number: u64) -> bool {
        let event = EventSeq(self.coordinator.bus().newest());
        for (id, passed) in self.webhooks.iter_mut().filter(|(_, passed)| **passed < event) {
            let command = Command::Webhook(WebhookCommand::Passed { id: *id, event });
            assert!(self.coordinator.turn(self.now, vec![command]).is_empty());
            *passed = event;
        }
        let webhook = Box::new(world::webhook(&mut Random(number), number));
        match self.turn(|caller| Command::Webhook(WebhookCommand::Add { caller, webhook })) {
            Reply::Webhook(webhook) => {
                self.webhooks.insert(webhook.id, webhook.passed);
                true
            }
            Reply::Failed(Fault::Unavailable(_)) => false,
            other => panic!("{other:?}"),
        }
    }

    fn work(&mut self, steps: std::ops::Range<u64>) {
        for step in steps {
            if step % 5 == 4 {
                self.webhook(step);
            }
            if step % 3 == 2 {
                self.unlock();
            } else {
                self.lock(step);
            }
            self.is_true(step);
        }
    }

    /// The table holds what was granted and nothing else.
    fn is_true(&mut self, step: u64) {
        assert_eq!(webhooks_of(&self.coordinator), self.webhooks, "at step {step}");
        // What was answered is counted, and nothing else.
        assert_eq!(self.coordinator.stats().total.granted, self.granted, "at step {step}");
        assert_eq!(fences_of(&mut self.coordinator, self.now), self.held, "at step {step}");
    }

    /// Killed and started again, with whatever is written by then.
    fn restart(&mut self) {
        self.disk = self.disk.after_kill();
        self.coordinator = start(&self.disk, self.now).unwrap();
        self.granted = 0;
    }
}

fn webhooks_of(coordinator: &Coordinator) -> BTreeMap<WebhookId, EventSeq> {
    coordinator.table().webhooks().map(|webhook| (webhook.id, webhook.passed)).collect()
}

/// Who holds what, as anybody is told who asks.
fn fences_of(coordinator: &mut Coordinator, now: Now) -> BTreeMap<u64, Fence> {
    let caller = Caller { conn: 2, id: 1 };
    let mut answers = coordinator.turn(now, vec![Command::Status { caller, who: None, target: None }]);
    match answers.pop().map(|(_, answer)| answer.reply) {
        Some(Reply::Status { locks, .. }) => {
            let number = |lock: &Lock| match &lock.ask.target.scope {
                Scope::Resource(name) => name.parse().unwrap(),
                other => panic!("{other:?}"),
            };
            locks.iter().map(|lock| (number(lock), lock.fence)).collect()
        }
        other => panic!("{other:?}"),
    }
}

const STEPS: u64 = 60;

/// One fault at the call after `spared`; false if there is no such call any more.
fn one_fault(spared: u64, trouble: Trouble, for_ever: bool) -> bool {
    let mut service = Service::new();
    service.disk.plant(spared, "", trouble, for_ever);
    service.work(0..STEPS);
    let has_failed = service.disk.has_failed();
    if for_ever && has_failed {
        assert!(service.coordinator.trouble().is_some());
        // Each try again fails as well, and changes nothing.
        for step in 0..3 {
            service.now.mono = service.now.mono.after(limits::JOURNAL_RETRY);
            assert!(!service.lock(1_000 + step), "granted on a broken disk");
            service.unlock();
            service.is_true(step);
        }
    }
    service.disk.heal();
    service.now.mono = service.now.mono.after(limits::JOURNAL_RETRY);
    assert!(service.lock(2_000), "service does not come back");
    assert_eq!(service.coordinator.trouble(), None);
    service.work(3_000..3_006);
    service.restart();
    service.is_true(0);
    service.work(4_000..4_006);
    has_failed
}

#[test]
fn whichever_write_or_sync_fails_grants_stop_and_come_back_and_no_fence_repeats() {
    for (errno, for_ever) in [(ENOSPC, false), (ENOSPC, true), (EIO, false), (EIO, true)] {
        let mut spared = 0;
        while one_fault(spared, Trouble::Error(errno), for_ever) {
            spared += 1;
        }
        assert!(spared > 2 * STEPS, "only {spared} calls");
    }
}

/// Killed amid the trouble, nothing that was answered before it is gone. Of what was refused, the one grant that was
/// written and could not be synced may be there: its agent has it then until its lease ends, and nobody else.
#[test]
fn a_daemon_killed_while_it_cannot_write_comes_back_with_what_it_had_granted() {
    for spared in 0..STEPS {
        let mut service = Service::new();
        service.disk.plant(spared, "", Trouble::Error(EIO), true);
        for number in 0..STEPS {
            service.lock(number);
        }
        service.restart();
        let there = fences_of(&mut service.coordinator, service.now);
        assert!(service.held.iter().all(|(number, fence)| there.get(number) == Some(fence)), "spared {spared}");
        assert!(there.len() <= service.held.len() + 1, "spared {spared}: {there:?}");
        service.held = there;
        service.last_fence = service.held.values().copied().max().unwrap_or(Fence(0));
        service.work(100..106);
    }
}

/// A power cut may take what was never synced; all that was answered here was.
#[test]
fn after_a_failed_sync_and_a_power_cut_every_answered_grant_is_there() {
    for seed in 0..40 * crate::scale() {
        let mut random = Random(seed);
        let mut service = Service::new();
        service.disk.plant(random.below(150), "", Trouble::Error(EIO), random.chance(50));
        for number in 0..STEPS {
            service.lock(number);
            if number % 5 == 4 {
                service.webhook(number);
            }
        }
        service.disk.heal();
        if random.chance(50) {
            service.now.mono = service.now.mono.after(limits::JOURNAL_RETRY);
            assert!(service.lock(2_000));
        }
        let disk = service.disk.after_power_cut(&mut random);
        let mut coordinator = start(&disk, service.now).unwrap();
        let there = fences_of(&mut coordinator, service.now);
        assert!(service.held.iter().all(|(number, fence)| there.get(number) == Some(fence)), "seed {seed}");
        // What was passed may be forgotten: it is delivered once more.
        let there = webhooks_of(&coordinator);
        let is_there = |(id, passed)| there.get(id).is_some_and(|there| there <= passed);
        assert!(service.webhooks.iter().all(is_there), "seed {seed}: {there:?}, {:?}", service.webhooks);
    }
}

/// It is no grant: nobody waits for the disk, and what a power cut takes of it keeps others out for longer, never in.
#[test]
fn a_lock_made_shared_is_told_before_it_is_synced_and_may_be_exclusive_again_after_a_power_cut() {
    let mut service = Service::new();
    assert!(service.lock(1));
    let (fence, newest) = (service.held[&1], service.coordinator.bus().newest());
    let which = Which::Scope(Target::named(resource("1").unwrap()));
    let reply = service.turn(|caller| Command::Downgrade { caller, who: who(), which });
    assert!(matches!(reply, Reply::Downgraded(_)), "{reply:?}");
    assert!(service.coordinator.bus().newest() > newest, "it is told at once");
    for (disk, mode) in [(service.disk.after_kill(), Mode::Shared), (service.disk.synced_only(), Mode::Exclusive)] {
        service.coordinator = start(&disk, service.now).unwrap();
        let reply = service.turn(|caller| Command::Status { caller, who: None, target: None });
        let Reply::Status { locks, .. } = reply else { panic!("{reply:?}") };
        let held: Vec<(Mode, Fence)> = locks.iter().map(|lock| (lock.ask.mode, lock.fence)).collect();
        assert_eq!(held, [(mode, fence)]);
    }
}
