//! A coordinator in this process: others reach it, nobody serves its home beside it, and its locks stay.

use crate::util::{Dirs, Ground};
use flockd::{Client, Coordinator, Error, OpenError};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Lines, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

#[test]
fn the_program_sees_and_respects_the_locks_of_a_coordinator_in_another_process() {
    let ground = Ground::new();
    let workspace = ground.agent("claw-1").workspace(ground.dirs.work()).unwrap();
    let guard = workspace.lock("data.json").note("in process").acquire().unwrap();
    let status = ground.dirs.json("status data.json");
    assert_eq!(status["locks"][0]["lock_id"], guard.lock_id());
    assert_eq!(status["locks"][0]["file_id"], "data.json");
    assert_eq!(ground.dirs.json("daemon status")["pid"], std::process::id());
    let refused = ground.dirs.flockd("lock data.json -n --agent claw-2");
    assert_eq!(refused.status.code(), Some(1));
    guard.release().unwrap();
    let one_shot = ground.dirs.json("lock data.json --agent claw-2");
    assert_eq!(one_shot["acquired"], true);
    let error = workspace.lock("data.json").try_now().acquire().unwrap_err();
    assert_eq!(error.refusal().unwrap().holders[0].agent, "claw-2");
}

#[test]
fn a_home_that_is_served_is_an_error_with_the_process() {
    let ground = Ground::new();
    match Coordinator::open(ground.dirs.home()).unwrap_err() {
        OpenError::Served { pid, home } => {
            assert_eq!(pid, Some(std::process::id()));
            assert_eq!(home, ground.dirs.home().display().to_string());
        }
        other => panic!("{other}"),
    }

    let dirs = Dirs::new();
    assert!(dirs.flockd("daemon start").status.success());
    let pid = dirs.json("daemon status")["pid"].as_u64().unwrap();
    let error = Coordinator::open(dirs.home()).unwrap_err();
    assert!(matches!(error, OpenError::Served { pid: Some(found), .. } if u64::from(found) == pid), "{error}");
    assert!(error.to_string().contains(&format!("process {pid}")), "{error}");
    assert!(dirs.flockd("daemon stop").status.success());
    Coordinator::open(dirs.home()).unwrap();
}

#[test]
fn locks_stay_in_the_home_from_one_coordinator_to_the_next() {
    let dirs = Dirs::new();
    let coordinator = Coordinator::open(dirs.home()).unwrap();
    let session = coordinator.agent("claw-1").unwrap();
    let guard = session.lock("@x").ttl(Duration::from_secs(600)).acquire().unwrap();
    let (fence, id) = (guard.fence(), guard.keep().unwrap());
    drop(session);
    coordinator.close().unwrap();

    let coordinator = Coordinator::open(dirs.home()).unwrap();
    let error = coordinator.agent("claw-2").unwrap().lock("@x").try_now().acquire().unwrap_err();
    assert_eq!(error.refusal().unwrap().holders[0].lock_id, id);
    let resumed = coordinator.agent("claw-1").unwrap().lock("@x").acquire().unwrap();
    assert!(resumed.is_resumed() && resumed.fence() > fence);
}

#[test]
fn a_guard_goes_on_when_another_coordinator_takes_over_the_home() {
    let dirs = Dirs::new();
    let first = Coordinator::open(dirs.home()).unwrap();
    let session = first.agent("claw-1").unwrap();
    let guard = session.lock("@x").ttl(Duration::ZERO).acquire().unwrap();
    first.close().unwrap();
    let second = Coordinator::open(dirs.home()).unwrap();
    guard.check().unwrap();
    let error = second.agent("claw-2").unwrap().lock("@x").try_now().acquire().unwrap_err();
    assert_eq!(error.refusal().unwrap().holders[0].fence, guard.fence());
    guard.release().unwrap();
}

#[test]
fn a_release_while_nobody_serves_arrives_as_soon_as_somebody_does() {
    let dirs = Dirs::new();
    let first = Coordinator::open(dirs.home()).unwrap();
    let session = first.agent("claw-1").unwrap();
    let guard = session.lock("@x").ttl(Duration::ZERO).acquire().unwrap();
    first.close().unwrap();
    drop(guard);
    let second = Coordinator::open(dirs.home()).unwrap();
    drop(second.agent("claw-2").unwrap().lock("@x").acquire().unwrap());
    drop(session.lock("@y").acquire().unwrap());
}

#[test]
fn a_session_dropped_while_nobody_serves_ends_as_soon_as_somebody_does() {
    let dirs = Dirs::new();
    let first = Coordinator::open(dirs.home()).unwrap();
    let session = first.agent("claw-1").unwrap();
    let (guard, kept) =
        (session.lock("@x").ttl(Duration::ZERO).acquire().unwrap(), session.lock("@y").acquire().unwrap());
    kept.keep().unwrap();
    first.close().unwrap();
    drop((guard, session));
    let second = Coordinator::open(dirs.home()).unwrap();
    // Both would take a minute if the session were still expected back.
    drop(second.agent("claw-2").unwrap().lock("@x").acquire().unwrap());
    assert!(second.agent("claw-1").unwrap().lock("@y").acquire().unwrap().is_resumed());
}

#[test]
fn where_nothing_runs_and_nothing_may_be_started_there_is_no_daemon() {
    let dirs = Dirs::new();
    let error = Client::builder().home(dirs.home()).start_nothing().connect().unwrap_err();
    assert!(matches!(error, Error::NoDaemon(_)), "{error}");
    let error = Client::builder().home(dirs.home()).program("/no/such/flockd").connect().unwrap_err();
    assert!(error.to_string().contains("/no/such/flockd"), "{error}");
}

#[test]
fn thousands_of_losses_told_in_one_go_cost_the_coordinator_no_stack() {
    const LOCKS: usize = 4_000;
    let ground = Ground::new();
    let (mut holder, mut breaker) = (Wire::greeted(&ground, "a"), Wire::greeted(&ground, "b"));
    let taken = holder.ask(LOCKS, |at| json!({"id": at, "op": "lock", "scope": format!("@{at}")}));
    let id = |at: usize| taken[at]["ok"]["lock"]["lock_id"].clone();
    breaker.ask(LOCKS, |at| json!({"id": at, "op": "break", "lock_id": id(at), "reason": "in the way"}));
    let told = holder.ask(LOCKS, |at| json!({"id": LOCKS + at, "op": "status", "scope": format!("@{at}")}));
    assert!(told.iter().all(|answer| answer["lost"].as_array().is_some_and(|lost| lost.len() == 1)));
    assert_eq!(ground.dirs.json("status")["locks"], json!([]));
}

/// A connection that sends all it has to ask at once.
struct Wire {
    stream: UnixStream,
    lines: Lines<BufReader<UnixStream>>,
}

impl Wire {
    fn greeted(ground: &Ground, agent: &str) -> Wire {
        let stream = UnixStream::connect(ground.dirs.home().join("sock")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        let lines = BufReader::new(stream.try_clone().unwrap()).lines();
        let mut wire = Wire { stream, lines };
        let version = env!("CARGO_PKG_VERSION");
        wire.ask(1, |_| json!({"hello": {"protocol": 1, "version": version, "agent": agent, "cwd": "/"}}));
        wire
    }

    fn ask(&mut self, count: usize, request: impl Fn(usize) -> Value) -> Vec<Value> {
        let text: String = (0..count).map(|at| format!("{}\n", request(at))).collect();
        let Wire { stream, lines } = self;
        std::thread::scope(|scope| {
            scope.spawn(|| (&*stream).write_all(text.as_bytes()).unwrap());
            lines.take(count).map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect()
        })
    }
}
