//! What ends a webhook, and what does not: kills of the daemon, the end of a process, good-byes.

use crate::receiver::{Post, Receiver};
use crate::util::{Ground, exclusive, kill_9, scaled, take, until};
use crate::{add, id, lock_and_unlock, show};
use flockd::client::Custodian;
use flockd::limits;
use flockd::wire::{Op, Request};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// How often the daemon is killed. Each life gets a few deliveries done.
const KILLS: u64 = 12;

#[test]
fn kill_9_of_the_daemon_loses_and_renumbers_no_delivery() {
    let ground = Ground::new();
    let arrived = Arc::new(AtomicU64::new(0));
    let count = arrived.clone();
    let receiver = Receiver::answering(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        "204 No Content".to_owned()
    });
    let webhook = add(&ground, &receiver.url);
    let mut fences = Vec::new();
    for kill in 0..scaled(KILLS) {
        for number in 0..5 {
            let lock = ground.flockd("claw-1", &format!("lock file-{kill}-{number} --json")).gives(0).json();
            fences.push(lock["fence"].as_u64().unwrap());
        }
        // Amid deliveries: some of this life's have arrived, and in most lives not all.
        let before = arrived.load(Ordering::SeqCst);
        ground.flockd("claw-1", "unlock --all").gives(0);
        until("another one arrives", || (arrived.load(Ordering::SeqCst) > before).then_some(()));
        ground.kill_daemon();
    }
    lock_and_unlock(&ground, "@last");
    let mut posts: Vec<Post> = Vec::new();
    while posts.last().is_none_or(|post| post.json()["file_id"] != "@last" || post.event() != "lock.released") {
        posts.push(receiver.next());
    }
    let mut bodies: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut newest = 0;
    for post in &posts {
        assert!(post.is_signed_with(webhook["secret"].as_str().unwrap()));
        let seq = post.json()["seq"].as_u64().expect("no gap, but events");
        let body = bodies.entry(post.id().to_owned()).or_insert_with(|| post.body.clone());
        assert_eq!(*body, post.body, "a repetition has another body");
        assert!(seq >= newest, "{seq} came after {newest}");
        newest = seq;
    }
    for event in ["lock.acquired", "lock.released"] {
        let of_kind = bodies.values().filter(|body| String::from_utf8_lossy(body).contains(event));
        let told: Vec<u64> = of_kind
            .map(|body| serde_json::from_slice::<serde_json::Value>(body).unwrap())
            .map(|body| body["fence"].as_u64().unwrap())
            .collect();
        let missing: Vec<&u64> = fences.iter().filter(|fence| !told.contains(fence)).collect();
        assert!(missing.is_empty(), "{event} of {missing:?} never arrived");
    }
    let repeated = posts.len() - bodies.len();
    println!("{} events, {repeated} posts repeated, {} kills", bodies.len(), scaled(KILLS));
    until("each is written down as delivered", || {
        let delivered = show(&ground, &webhook)["delivered"].as_u64().unwrap();
        assert!(delivered <= bodies.len() as u64, "an event was passed twice");
        (delivered == bodies.len() as u64).then_some(())
    });
}

#[test]
fn what_failed_before_a_kill_is_tried_again_after_it_on_the_same_schedule() {
    let ground = Ground::new();
    let receiver = Receiver::answering(|_| "503 Busy\r\nRetry-After: 3600".to_owned());
    let webhook = add(&ground, &receiver.url);
    lock_and_unlock(&ground, "data.json");
    let first = receiver.next();
    until("the failure is known", || Some(()).filter(|()| show(&ground, &webhook)["state"] == "failing"));
    ground.kill_daemon();
    let after = show(&ground, &webhook);
    assert_eq!(after["attempts"], 1);
    assert!((3_000_000..=3_600_000).contains(&after["next_try_in_ms"].as_u64().unwrap()), "{after}");
    ground.flockd("", &format!("webhook retry {}", id(&webhook))).gives(0);
    let second = receiver.next();
    assert_eq!((second.id(), &second.body), (first.id(), &first.body));
}

#[test]
fn what_is_missing_is_told_with_the_same_id_and_body_also_after_a_kill() {
    let ground = Ground::new();
    let takes_all = Arc::new(AtomicBool::new(false));
    let takes = takes_all.clone();
    let receiver = Receiver::answering(move |post| match post.event().as_str() {
        // What fails is tried by hand alone.
        "events.gap" => "503 Busy\r\nRetry-After: 3600".to_owned(),
        _ if !takes.load(Ordering::SeqCst) => "503 Busy\r\nRetry-After: 3600".to_owned(),
        _ => "204 No Content".to_owned(),
    });
    let webhook = add(&ground, &receiver.url);
    let fails = || until("that failed", || Some(()).filter(|()| show(&ground, &webhook)["state"] == "failing"));
    let client = ground.client("claw-1", Some(Custodian::Library));
    // A lock of a session waits for no disk.
    let lock_and_unlock = |scope: &str| {
        take(&client, exclusive(scope, 0));
        client.call(Request { scope: Some(scope.to_owned()), ..Request::new(Op::Unlock) }).unwrap();
    };
    lock_and_unlock("@first");
    receiver.next();
    fails();
    (0..=limits::EVENTS_KEPT / 2).for_each(|_| lock_and_unlock("@x"));
    drop(client);
    takes_all.store(true, Ordering::SeqCst);
    let retry = || ground.flockd("", &format!("webhook retry {}", id(&webhook))).gives(0);
    retry();
    assert_eq!(receiver.next().event(), "lock.acquired");
    let gap = receiver.next();
    let told = gap.json();
    assert_eq!((told["event"].as_str(), &told["events"]), (Some("events.gap"), &Value::Null));
    assert!(told["from"].as_u64() <= told["to"].as_u64(), "{told}");
    fails();
    ground.kill_daemon();
    retry();
    let again = receiver.next();
    assert_eq!((again.id(), String::from_utf8(again.body.clone())), (gap.id(), String::from_utf8(gap.body.clone())));
}

#[test]
fn until_exit_means_the_agents_process_that_is_around_the_command() {
    let (ground, receiver) = (Ground::new(), Receiver::new());
    // An agent program that runs a command of its own, and works on.
    let script =
        format!("{} webhook add {} --until-exit --json; read line", env!("CARGO_BIN_EXE_flockd"), receiver.url);
    let mut agent = ground.environment(Command::new("sh"), "", &["-c", &script]);
    agent.env("FLOCKD_AGENT_PROGRAMS", "sh").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut agent = agent.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(agent.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let webhook: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(webhook["until_pid"], agent.id(), "{webhook}");
    lock_and_unlock(&ground, "x");
    assert_eq!(receiver.next().event(), "lock.acquired");
    agent.kill().unwrap();
    agent.wait().unwrap();
    let list = || ground.flockd("", "webhook list --json").gives(0).json();
    until("it goes with its agent", || list().as_array().is_some_and(Vec::is_empty).then_some(()));
}

#[test]
fn a_410_ends_it_until_somebody_wants_it_back_and_then_nothing_is_missing() {
    let ground = Ground::new();
    let mut attempts = 0;
    let receiver = Receiver::answering(move |_| {
        attempts += 1;
        if attempts == 1 { "410 Gone".to_owned() } else { "204 No Content".to_owned() }
    });
    let webhook = add(&ground, &receiver.url);
    lock_and_unlock(&ground, "a");
    let first = receiver.next();
    let disabled = until("it is disabled", || Some(show(&ground, &webhook)).filter(|one| one["state"] == "disabled"));
    assert!(disabled["last_error"].as_str().unwrap().contains("410") && disabled["next_try_in_ms"].is_null());
    assert!(ground.flockd("", "webhook list").gives(0).out.contains("disabled"));
    lock_and_unlock(&ground, "b");
    ground.kill_daemon();
    assert_eq!(show(&ground, &webhook)["state"], "disabled", "also after a restart");
    assert!(receiver.rest().is_empty());
    ground.flockd("", &format!("webhook retry {}", id(&webhook))).gives(0);
    let all: Vec<Post> = (0..4).map(|_| receiver.next()).collect();
    assert_eq!((all[0].id(), &all[0].body), (first.id(), &first.body));
    let told: Vec<String> = all.iter().map(|post| post.json()["file_id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(told, ["a", "a", "b", "b"]);
}

#[test]
fn that_one_is_given_up_is_told_to_all_others_and_not_to_itself() {
    let (ground, other) = (Ground::new(), Receiver::new());
    let mut attempts = 0;
    let receiver = Receiver::answering(move |_| {
        attempts += 1;
        if attempts == 1 { "410 Gone".to_owned() } else { "204 No Content".to_owned() }
    });
    let script = "cat; echo $FLOCKD_WEBHOOK_ID $FLOCKD_URL";
    let mut on = ground.command("", &["on", "webhook.disabled", "--once", "--", "sh", "-c", script]);
    let on = on.stdout(Stdio::piped()).spawn().unwrap();
    until("it listens", || {
        // It starts the daemon itself.
        let status = ground.flockd("", "daemon status --json");
        (status.code == Some(0) && status.json()["subscribers"] == 1).then_some(())
    });
    let webhook = add(&ground, &receiver.url);
    add(&ground, &format!("{} --event webhook.disabled", other.url));
    lock_and_unlock(&ground, "a");
    let told = other.next();
    let body = told.json();
    let (file_id, none) = (format!("@{}", id(&webhook)), "none");
    assert_eq!((body["event"].as_str(), body["type"].as_str()), (Some("webhook.disabled"), Some("webhook.disabled")));
    assert_eq!((&body["webhook_id"], &body["url"]), (&webhook["webhook_id"], &webhook["url"]));
    assert_eq!((&body["file_id"], &body["lock_id"], &body["reason"]), (&file_id.into(), &none.into(), &"gone".into()));
    assert!(body["workspace_id"].is_string() && body["acquired_by"] == webhook["agent"], "{body}");
    let out = String::from_utf8(on.wait_with_output().unwrap().stdout).unwrap();
    let (json, variables) = out.split_once('\n').unwrap();
    assert_eq!(serde_json::from_str::<serde_json::Value>(json).unwrap(), body);
    assert_eq!(variables.trim(), format!("{} {}", id(&webhook), webhook["url"].as_str().unwrap()));
    ground.flockd("", &format!("webhook retry {}", id(&webhook))).gives(0);
    lock_and_unlock(&ground, "b");
    let heard: Vec<String> = (0..5).map(|_| receiver.next().event()).collect();
    let pair = ["lock.acquired", "lock.released"];
    assert_eq!(heard, [&pair[..1], &pair, &pair].concat(), "the first one twice, and nothing about itself");
}

#[test]
fn it_goes_with_its_process_also_if_that_ends_while_no_daemon_runs() {
    let (ground, receiver) = (Ground::new(), Receiver::new());
    let sleeper = || Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap();
    let list = || ground.flockd("", "webhook list --json").gives(0).json().as_array().unwrap().clone();
    let mut process = sleeper();
    let webhook = add(&ground, &format!("{} --pid {}", receiver.url, process.id()));
    assert_eq!(webhook["until_pid"], process.id());
    ground.kill_daemon();
    assert_eq!(list().len(), 1, "it outlives the daemon");
    kill_9(process.id());
    process.wait().unwrap();
    until("it is gone", || list().is_empty().then_some(()));
    let mut process = sleeper();
    add(&ground, &format!("{} --pid {}", receiver.url, process.id()));
    ground.kill_daemon();
    process.kill().unwrap();
    process.wait().unwrap();
    until("the new daemon has found out", || list().is_empty().then_some(()));
    lock_and_unlock(&ground, "data.json");
    assert!(receiver.rest().is_empty());
}

#[test]
fn one_that_is_removed_hears_nothing_more() {
    let (ground, removed, kept) = (Ground::new(), Receiver::new(), Receiver::new());
    let webhook = add(&ground, &removed.url);
    add(&ground, &kept.url);
    ground.flockd("", &format!("webhook rm {}", id(&webhook))).gives(0);
    lock_and_unlock(&ground, "data.json");
    for _ in 0..2 {
        kept.next();
    }
    assert!(removed.rest().is_empty());
    ground.flockd("", &format!("webhook rm {}", id(&webhook))).gives(1);
}
