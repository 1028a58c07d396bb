//! Webhooks in the table: what an attempt changes, what is undone, what a restart means. No lock depends on any of it.

use flockd::limits;
use flockd::model::*;
use flockd::scope::{Scope, Target};
use flockd::table::LockTable;
use std::collections::BTreeMap;
use std::sync::Arc;

const CALLER: Caller = Caller { conn: 1, id: 1 };
const PROCESS: Process = Process { pid: 7, start: 70 };

fn at(ms: u64) -> Now {
    Now { mono: Moment(ms), wall: Wall(1_000_000 + ms) }
}

fn webhook(id: u64, until: Option<Process>) -> Box<Webhook> {
    Box::new(Webhook {
        id: WebhookId(id),
        url: "http://localhost/".into(),
        names: ["lock.released"].into(),
        scopes: [].into(),
        secret: Secret::new(&[7; 32]),
        allow_private: false,
        agent: Agent::new("claw-1").unwrap(),
        created: Wall(0),
        until,
        passed: EventSeq(0),
        delivered: 9,
        failing: None,
    })
}

/// A table, and the rows that its journal would hold.
struct Bench {
    table: LockTable,
    rows: BTreeMap<WebhookId, Webhook>,
    locks: Vec<Record>,
    now: u64,
}

impl Bench {
    fn new() -> Bench {
        Bench { table: LockTable::new(100, 500), rows: BTreeMap::new(), locks: Vec::new(), now: 0 }
    }

    fn with(id: u64, until: Option<Process>) -> Bench {
        let mut bench = Bench::new();
        bench.ask(WebhookCommand::Add { caller: CALLER, webhook: webhook(id, until) });
        bench
    }

    fn command(&mut self, command: Command) -> Option<Reply> {
        let mut step = self.table.apply(at(self.now), command);
        for record in &step.records {
            match record {
                Record::Webhook(id, Some(row)) => drop(self.rows.insert(*id, row.clone())),
                Record::Webhook(id, None) => drop(self.rows.remove(id)),
                Record::Lock(..) => self.locks.push(record.clone()),
                _ => {}
            }
        }
        assert!(step.replies.len() < 2);
        step.replies.pop().map(|reply| reply.answer.reply)
    }

    fn ask(&mut self, command: WebhookCommand) -> Option<Reply> {
        self.command(Command::Webhook(command))
    }

    /// Each lock is one event.
    fn event(&mut self, number: u64) -> EventSeq {
        let ask = Ask {
            target: Target::named(Scope::Resource(format!("r{number}").into())),
            mode: Mode::Exclusive,
            who: Who { agent: Agent::new("claw-2").unwrap(), session: None },
            lease: Lease { ttl: limits::TTL_MAX, max_hold: None },
            note: None,
            process: None,
            bound: None,
            request: None,
            workspace: Workspace { root: b"/w".as_slice().into() },
            os: false,
            upgrades: None,
            set: None,
        };
        let command = Command::Lock { caller: CALLER, ask: Arc::new(ask), wait: Wait::Try };
        assert!(matches!(self.command(command), Some(Reply::Granted(_))));
        EventSeq(499 + number)
    }

    fn posted(&mut self, id: u64, event: EventSeq, result: PostResult) {
        let id = WebhookId(id);
        assert_eq!(self.ask(WebhookCommand::Posted { id, event, result, random: 0 }), None);
    }

    fn failed(&mut self, id: u64, event: EventSeq) {
        self.posted(id, event, PostResult::Failed { why: "it answered 500".into(), retry_after: None });
    }

    fn one(&self, id: u64) -> &Webhook {
        let row = &self.rows[&WebhookId(id)];
        assert_eq!(self.table.webhook_named(WebhookId(id)), Some(row), "what is written is what is so");
        row
    }

    fn restart(&mut self, rebooted: bool) {
        let mut rows: Vec<Record> = self.rows.values().map(|row| Record::Webhook(row.id, Some(row.clone()))).collect();
        rows.append(&mut self.locks);
        let (table, step) = LockTable::restore(rows, at(self.now), rebooted, 1 << 20, 1 << 20);
        self.table = table;
        self.rows = self.table.webhooks().map(|row| (row.id, row.clone())).collect();
        if !rebooted {
            let changed = step.records.iter().any(|record| matches!(record, Record::Webhook(..)));
            assert!(!changed, "a restart changes no webhook");
        }
    }
}

#[test]
fn a_webhook_begins_behind_the_newest_event_with_nothing_of_its_own_past() {
    let mut bench = Bench::new();
    bench.event(1);
    let newest = bench.event(2);
    let Some(Reply::Webhook(added)) = bench.ask(WebhookCommand::Add { caller: CALLER, webhook: webhook(1, None) })
    else {
        panic!("it was not added")
    };
    assert_eq!((added.passed, added.delivered, added.created), (newest, 0, at(0).wall));
    assert_eq!(*added, *bench.one(1));
}

#[test]
fn only_a_delivery_passes_an_event_and_it_ends_the_failing() {
    let mut bench = Bench::with(1, None);
    let event = bench.event(1);
    bench.failed(1, event);
    let failing = bench.one(1).failing.clone().unwrap();
    assert_eq!((failing.attempts, failing.again), (1, Some(Moment(limits::WEBHOOK_PAUSES[0]))));
    assert!(bench.one(1).passed < event);
    bench.now = 5_000;
    bench.failed(1, event);
    let failing = bench.one(1).failing.clone().unwrap();
    assert_eq!((failing.attempts, failing.since), (2, at(0).wall));
    assert_eq!(failing.again, Some(Moment(5_000 + limits::WEBHOOK_PAUSES[1])));
    bench.posted(1, event, PostResult::Delivered { status: 204 });
    let row = bench.one(1);
    assert_eq!((row.passed, row.delivered, row.failing.is_none()), (event, 1, true));
}

#[test]
fn after_the_last_pause_it_is_disabled_and_retry_begins_the_schedule_anew() {
    let mut bench = Bench::with(1, None);
    let event = bench.event(1);
    for attempt in 0..limits::WEBHOOK_PAUSES.len() {
        bench.failed(1, event);
        assert!(!bench.one(1).is_disabled(), "after attempt {attempt}");
        bench.now = bench.one(1).failing.as_ref().and_then(|failing| failing.again).unwrap().0;
    }
    assert!(bench.now > 5 * 24 * limits::HOUR);
    bench.failed(1, event);
    assert!(bench.one(1).is_disabled());
    bench.ask(WebhookCommand::Retry { caller: CALLER, id: WebhookId(1) });
    let failing = bench.one(1).failing.clone().unwrap();
    assert_eq!((failing.attempts, failing.again), (0, Some(Moment(bench.now))));
    bench.posted(1, event, PostResult::Gone);
    assert!(bench.one(1).is_disabled(), "a good-bye ends it at once");
    assert!(bench.one(1).passed < event, "and loses nothing");
}

#[test]
fn what_comes_of_a_post_to_one_that_was_removed_changes_nothing() {
    let mut bench = Bench::with(1, None);
    let event = bench.event(1);
    assert!(matches!(
        bench.ask(WebhookCommand::Remove { caller: CALLER, id: WebhookId(1) }),
        Some(Reply::WebhookRemoved(_))
    ));
    bench.posted(1, event, PostResult::Delivered { status: 200 });
    bench.ask(WebhookCommand::Passed { id: WebhookId(1), event });
    assert!(bench.rows.is_empty());
    for command in [
        WebhookCommand::Remove { caller: CALLER, id: WebhookId(1) },
        WebhookCommand::Retry { caller: CALLER, id: WebhookId(1) },
        WebhookCommand::List { caller: CALLER, id: Some(WebhookId(1)) },
    ] {
        assert_eq!(bench.ask(command), Some(Reply::Failed(Fault::NoWebhook(WebhookId(1)))));
    }
}

#[test]
fn what_is_not_wanted_is_passed_and_never_backwards() {
    let mut bench = Bench::with(1, None);
    let (first, second) = (bench.event(1), bench.event(2));
    bench.ask(WebhookCommand::Passed { id: WebhookId(1), event: second });
    assert_eq!((bench.one(1).passed, bench.one(1).delivered), (second, 0));
    bench.ask(WebhookCommand::Passed { id: WebhookId(1), event: first });
    assert_eq!(bench.one(1).passed, second);
}

#[test]
fn a_step_about_a_webhook_is_taken_back_like_any_other() {
    let mut bench = Bench::with(1, None);
    let event = bench.event(1);
    let before: Vec<Webhook> = bench.table.webhooks().cloned().collect();
    let steps = [
        WebhookCommand::Posted { id: WebhookId(1), event, result: PostResult::Delivered { status: 200 }, random: 0 },
        WebhookCommand::Posted { id: WebhookId(1), event, result: PostResult::Gone, random: 0 },
        WebhookCommand::Add { caller: CALLER, webhook: webhook(2, None) },
        WebhookCommand::Remove { caller: CALLER, id: WebhookId(1) },
    ];
    for command in steps {
        let step = bench.table.apply(at(1), Command::Webhook(command));
        assert_ne!(bench.table.webhooks().cloned().collect::<Vec<_>>(), before);
        bench.table.undo(step);
        assert_eq!(bench.table.webhooks().cloned().collect::<Vec<_>>(), before);
    }
}

#[test]
fn it_goes_with_its_process_and_with_the_boot_that_the_process_was_of() {
    let mut bench = Bench::with(1, Some(PROCESS));
    bench.ask(WebhookCommand::Add { caller: CALLER, webhook: webhook(2, None) });
    bench.restart(false);
    assert_eq!(bench.table.processes().collect::<Vec<_>>(), [PROCESS], "to be watched after a restart");
    bench.command(Command::ProcessGone(Process { start: 71, ..PROCESS }));
    assert_eq!(bench.rows.len(), 2, "another process of that number");
    bench.command(Command::ProcessGone(PROCESS));
    assert_eq!(bench.rows.keys().collect::<Vec<_>>(), [&WebhookId(2)]);
    bench.ask(WebhookCommand::Add { caller: CALLER, webhook: webhook(3, Some(PROCESS)) });
    bench.restart(true);
    assert_eq!(bench.rows.keys().collect::<Vec<_>>(), [&WebhookId(2)]);
}

#[test]
fn after_a_reboot_what_failed_is_tried_at_once_and_what_was_disabled_is_not() {
    let mut bench = Bench::with(1, None);
    bench.ask(WebhookCommand::Add { caller: CALLER, webhook: webhook(2, None) });
    let event = bench.event(1);
    bench.now = 1_000_000;
    bench.failed(1, event);
    bench.posted(2, event, PostResult::Gone);
    bench.now = 10;
    bench.restart(true);
    let failing = bench.one(1).failing.clone().unwrap();
    assert_eq!((failing.attempts, failing.again), (1, Some(Moment(10))));
    assert!(bench.one(2).is_disabled());
}

#[test]
fn there_are_bounds_and_none_is_added_while_nothing_can_be_written() {
    let mut bench = Bench::new();
    for id in 0..limits::WEBHOOKS_MAX as u64 {
        bench.ask(WebhookCommand::Add { caller: CALLER, webhook: webhook(id, None) });
    }
    let add = WebhookCommand::Add { caller: CALLER, webhook: webhook(1_000, None) };
    assert!(matches!(bench.ask(add.clone()), Some(Reply::Failed(Fault::TooMany(_)))));
    bench.ask(WebhookCommand::Remove { caller: CALLER, id: WebhookId(0) });
    bench.table.pause("the disk is full".into());
    assert!(matches!(bench.ask(add.clone()), Some(Reply::Failed(Fault::Unavailable(_)))));
    bench.table.resume(at(0));
    assert!(matches!(bench.ask(add), Some(Reply::Webhook(_))));
}

#[test]
fn one_that_is_given_up_is_told_to_the_others_once() {
    let mut bench = Bench::with(1, None);
    let event = bench.event(1);
    let told = |bench: &mut Bench, result: PostResult| {
        let command = WebhookCommand::Posted { id: WebhookId(1), event, result, random: 0 };
        let step = bench.table.apply(at(bench.now), Command::Webhook(command));
        let of = |record: &Record| if let Record::Event(event) = record { Some(event.clone()) } else { None };
        step.records.iter().filter_map(of).collect::<Vec<_>>()
    };
    let failed = |why: &str| PostResult::Failed { why: why.into(), retry_after: None };
    for _ in 0..limits::WEBHOOK_PAUSES.len() {
        assert_eq!(told(&mut bench, failed("it answered 500")), []);
    }
    let events = told(&mut bench, failed("it answered 502"));
    let [Event { kind: EventKind::WebhookDisabled(disabled), lock, ask, .. }] = &events[..] else {
        panic!("{events:?}")
    };
    assert_eq!((disabled.webhook, disabled.is_gone, &*disabled.why), (WebhookId(1), false, "it answered 502"));
    assert_eq!((*lock, ask.who.agent.as_str()), (LockId::NONE, "claw-1"), "no lock, and whoever added it");
    bench.table.apply(at(0), Command::Webhook(WebhookCommand::Retry { caller: CALLER, id: WebhookId(1) }));
    let events = told(&mut bench, PostResult::Gone);
    let is_gone = |event: &Event| matches!(&event.kind, EventKind::WebhookDisabled(disabled) if disabled.is_gone);
    assert!(events.len() == 1 && is_gone(&events[0]), "{events:?}");
    assert_eq!(told(&mut bench, PostResult::Gone), [], "it was given up before");
}
