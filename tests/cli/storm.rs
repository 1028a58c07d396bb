//! Many at once: 100,000 pairs from eight processes, fifty that start the daemon together, a writer among readers.

use crate::util::{Ground, StopAtEnd, a_try, exclusive, scaled, shared, take};
use flockd::client::{Connection, Custodian};
use flockd::wire::Mode;
use std::fs;
use std::io::ErrorKind;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const WORKERS: u64 = 8;
const SCOPES: u64 = 64;
/// Set in the workers: their number and how many pairs they are to make.
const WORKER: &str = "FLOCKD_TEST_WORKER";

#[test]
fn a_hundred_thousand_pairs_from_eight_processes_go_without_an_error() {
    let ground = Ground::new();
    let each = scaled(100_000) / WORKERS;
    // The daemon is started by whoever comes first.
    let workers: Vec<_> = (0..WORKERS)
        .map(|number| {
            let args = ["--exact", "storm::works_as_one_of_the_eight_if_told_to", "--nocapture"];
            let mut worker = ground.environment(Command::new(std::env::current_exe().unwrap()), "", &args);
            worker.env(WORKER, format!("{number} {each}")).stdout(Stdio::piped()).stderr(Stdio::piped());
            worker.spawn().unwrap()
        })
        .collect();
    for worker in workers {
        let output = worker.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let pairs: u64 = (0..WORKERS).map(|number| count(&ground, number)).sum();
    assert_eq!(pairs, each * WORKERS);
    let daemon = ground.daemon_status();
    assert_eq!((daemon.locks, daemon.waiters, daemon.sessions), (0, 0, 0));
    assert_eq!(daemon.trouble, None);
    assert_eq!(ground.daemon_log().matches("serves as process").count(), 1, "it was never started again");
}

fn count(ground: &Ground, worker: u64) -> u64 {
    fs::read_to_string(ground.work.join(format!("count-{worker}"))).unwrap().parse().unwrap()
}

/// One of the eight processes. In the test program itself it has nothing to do.
#[test]
fn works_as_one_of_the_eight_if_told_to() {
    let Ok(told) = std::env::var(WORKER) else { return };
    let (number, pairs) = told.split_once(' ').unwrap();
    let (number, pairs): (u64, u64) = (number.parse().unwrap(), pairs.parse().unwrap());
    let client = flockd_client(&format!("worker-{number}"));
    let mut random = number + 1;
    let mut last = 0;
    for pair in 0..pairs {
        // xorshift64: repeatable, and different in each worker
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        // One in sixteen wants what everybody wants.
        let scope = if random.is_multiple_of(16) { "hot".to_owned() } else { format!("f{}", random / 16 % SCOPES) };
        let is_reader = random / 1024 % 4 == 0;
        let request = if is_reader { shared(&scope, 0) } else { exclusive(&scope, 0) };
        let (id, fence) = take(&client, request);
        assert!(fence > last, "{fence} after {last}");
        last = fence;
        // Readers only see that no writer is in.
        match is_reader {
            true => assert_eq!(fs::metadata(format!("{scope}.in")).unwrap_err().kind(), ErrorKind::NotFound),
            false => {
                fs::OpenOptions::new().write(true).create_new(true).open(format!("{scope}.in")).unwrap();
                fs::remove_file(format!("{scope}.in")).unwrap();
            }
        }
        if pair % 2 == 0 { client.release_later(&id) } else { client.unlock(&id).unwrap() }
    }
    fs::write(format!("count-{number}"), pairs.to_string()).unwrap();
}

/// A client with a session, for the home and the working directory of this process.
fn flockd_client(agent: &str) -> Connection {
    use flockd::client::{Connect, Launch, Place};
    Connection::connect(Connect {
        home: flockd::os::home::Home::from_env().unwrap(),
        launch: Launch::With(crate::util::FLOCKD.into()),
        agent: Some(flockd::model::Agent::new(agent).unwrap()),
        place: Place::here().unwrap(),
        session: Some(Custodian::Library),
    })
    .unwrap()
}

#[test]
fn fifty_clients_on_an_empty_home_start_one_daemon() {
    let ground = Ground::new();
    let clients: Vec<_> = (0..50)
        .map(|number| {
            let scope = format!("@{number}");
            let mut command = ground.command(&format!("a{number}"), &["lock", &scope, "--json"]);
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    let mut fences = Vec::new();
    for client in clients {
        let output = client.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let lock: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        fences.push(lock["fence"].as_u64().unwrap());
    }
    fences.sort_unstable();
    fences.dedup();
    assert_eq!(fences.len(), 50);
    assert_eq!(ground.status().locks.len(), 50);
    let log = ground.daemon_log();
    assert_eq!(log.matches("serves as process").count(), 1, "{log}");
    assert!(!log.contains("not started"), "{log}");
    assert_eq!(ground.processes(), [ground.daemon_pid()]);
}

/// Order is judged by the daemon's own fences: whoever asked after the writer was seen waiting has a larger one.
#[test]
fn a_writer_gets_in_among_eight_looping_readers_before_all_who_asked_after_it() {
    let ground = Ground::new();
    let (queued, stop, began_after) = (AtomicU64::new(0), AtomicBool::new(false), Mutex::new(Vec::new()));
    let writer = ground.client("writer", Some(Custodian::Library));
    let anchor = ground.client("anchor", Some(Custodian::Library));
    std::thread::scope(|scope| {
        let ended = StopAtEnd(&stop);
        for number in 0..8 {
            let client = ground.client(&format!("reader-{number}"), Some(Custodian::Library));
            let (queued, stop, began_after) = (&queued, &stop, &began_after);
            scope.spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    let writers_before = queued.load(Ordering::SeqCst);
                    let (id, fence) = take(&client, shared("x", 0));
                    began_after.lock().unwrap().push((writers_before, fence));
                    client.unlock(&id).unwrap();
                }
            });
        }
        let mut writes = Vec::new();
        for round in 1..=scaled(20) {
            // One reader stays until the writer waits for certain.
            let (anchored, _) = take(&anchor, shared("x", 0));
            let asked = writer.begin(exclusive("x", 0)).unwrap();
            crate::util::until("the writer waits", || {
                let waiters = ground.status().waiters;
                waiters.iter().any(|waiter| waiter.mode == Mode::Exclusive).then_some(())
            });
            queued.store(round, Ordering::SeqCst);
            // At least one reader asks after it, and does not get in although only readers hold.
            crate::util::until("readers queue behind the writer", || {
                let status = ground.status();
                (status.waiters.len() > 8 && status.locks.len() == 1).then_some(())
            });
            assert!(!anchor.lock(a_try(shared("x", 0))).unwrap().acquired, "nobody overtakes the writer");
            anchor.unlock(&anchored).unwrap();
            let answer = writer.finish(asked, None).unwrap().unwrap();
            let Some(flockd::wire::Body::Lock(body)) = answer.ok else { panic!("{answer:?}") };
            assert!(body.acquired, "{body:?}");
            writes.push(body.fence.unwrap());
            writer.unlock(&body.lock_id.unwrap()).unwrap();
        }
        drop(ended);
        for (writers_before, fence) in began_after.lock().unwrap().iter() {
            let overtaken = writes[..*writers_before as usize].iter().find(|write| *write > fence);
            assert_eq!(overtaken, None, "a reader that asked after the writer has {fence}");
        }
    });
    let reads = began_after.into_inner().unwrap();
    assert!(reads.iter().filter(|(writers_before, _)| *writers_before > 0).count() >= 8, "{reads:?}");
}
