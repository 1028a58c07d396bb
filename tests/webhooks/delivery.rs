//! What arrives, how it is signed, and what becomes of a post that is not taken.

use crate::receiver::Receiver;
use crate::util::{Ground, exclusive, take, until};
use crate::{add, id, lock_and_unlock, show};
use flockd::limits::WEBHOOKS_MAX;
use flockd::wire::{Body, Op, Request};
use serde_json::{Value, json};
use std::sync::mpsc::channel;

/// The secret of the published example; any receiver's library knows it.
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

#[test]
fn an_event_arrives_signed_with_the_five_words_and_the_names_that_receivers_expect() {
    let (ground, receiver) = (Ground::new(), Receiver::new());
    let webhook = add(&ground, &receiver.url);
    let secret = webhook["secret"].as_str().unwrap();
    let lock = ground.flockd("claw-456", "lock data.json --json").gives(0).json();
    let post = receiver.next();
    assert_eq!(post.header("content-type"), "application/json");
    assert!(post.header("user-agent").starts_with("flockd/"));
    assert!(post.is_signed_with(secret) && !post.is_signed_with(SECRET));
    let body = post.json();
    assert_eq!(body["event"], "lock.acquired");
    assert_eq!(body["type"], "lock.acquired");
    assert_eq!(body["file_id"], "data.json");
    assert_eq!(body["workspace_id"], lock["workspace_id"]);
    assert_eq!(body["lock_id"], lock["lock_id"]);
    assert_eq!(body["acquired_by"], "claw-456");
    assert_eq!(body["fence"], lock["fence"]);
    assert_eq!(body["id"], post.id());
    assert!(post.id().starts_with("ev_") && !post.id().contains('.'));
    assert!(body["timestamp"].as_str().unwrap().ends_with('Z'));
    ground.flockd("claw-456", "unlock data.json").gives(0);
    let released = receiver.next();
    assert_eq!(released.event(), "lock.released");
    assert_ne!(released.id(), post.id());
}

#[test]
fn only_what_was_asked_for_is_sent_from_the_next_event_on() {
    let (ground, named, scoped) = (Ground::new(), Receiver::new(), Receiver::new());
    std::fs::create_dir(ground.work.join("src")).unwrap();
    lock_and_unlock(&ground, "before.txt");
    let both = add(&ground, &format!("{} --event lock.released,lock.detached --event lock.released", named.url));
    assert_eq!(both["events"], json!(["lock.detached", "lock.released"]));
    add(&ground, &format!("{} --scope src/ --scope @port-3000", scoped.url));
    for scope in ["a.txt", "src/lib.rs", "@port-3000", "@port-3001"] {
        lock_and_unlock(&ground, scope);
    }
    let told: Vec<String> = (0..4).map(|_| named.next().json()["file_id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(told, ["a.txt", "src/lib.rs", "@port-3000", "@port-3001"]);
    let told: Vec<(Value, String)> =
        (0..4).map(|_| scoped.next()).map(|post| (post.json()["file_id"].clone(), post.event())).collect();
    let both = |file: &str| [(json!(file), "lock.acquired".to_owned()), (json!(file), "lock.released".to_owned())];
    assert_eq!(told, [both("src/lib.rs"), both("@port-3000")].concat());
    assert!(named.rest().is_empty() && scoped.rest().is_empty());
}

#[test]
fn what_is_not_taken_is_sent_again_with_the_same_id_and_body_and_all_behind_it_in_order() {
    let ground = Ground::new();
    let mut attempts = 0;
    let receiver = Receiver::answering(move |_| {
        attempts += 1;
        if attempts == 1 { "500 Internal Server Error".to_owned() } else { "200 OK".to_owned() }
    });
    let webhook = add(&ground, &format!("{} --secret {SECRET}", receiver.url));
    lock_and_unlock(&ground, "data.json");
    let first = receiver.next();
    let failing =
        until("the failure is known", || Some(show(&ground, &webhook)).filter(|one| one["state"] == "failing"));
    assert_eq!(failing["attempts"], 1);
    assert!(failing["last_error"].as_str().unwrap().contains("500"), "{failing}");
    let next = failing["next_try_in_ms"].as_u64().unwrap();
    assert!(next <= 6_000, "{next}");
    // Nobody asks: it comes by itself.
    let second = receiver.next();
    assert_eq!((second.id(), &second.body), (first.id(), &first.body));
    assert!(second.is_signed_with(SECRET));
    let times = [&first, &second].map(|post| post.header("webhook-timestamp").parse::<u64>().unwrap());
    assert!(times[1] >= times[0] + 5, "{times:?}");
    assert_eq!(receiver.next().event(), "lock.released");
    until("it is well again", || Some(show(&ground, &webhook)).filter(|one| one["state"] == "active"));
    let figures = || ground.flockd("", "stats --json").gives(0).json()["deliveries"].clone();
    let deliveries = until("both are counted", || Some(figures()).filter(|found| found["posted"] == 2));
    assert_eq!(deliveries["posts_failed"], 1, "{deliveries}");
}

#[test]
fn a_receiver_that_asks_for_time_gets_it_and_retry_sends_at_once() {
    let ground = Ground::new();
    let mut attempts = 0;
    let receiver = Receiver::answering(move |_| {
        attempts += 1;
        if attempts == 1 {
            "503 Service Unavailable\r\nRetry-After: 7200".to_owned()
        } else {
            "204 No Content".to_owned()
        }
    });
    let webhook = add(&ground, &receiver.url);
    lock_and_unlock(&ground, "data.json");
    let first = receiver.next();
    let failing =
        until("the failure is known", || Some(show(&ground, &webhook)).filter(|one| one["state"] == "failing"));
    let next = failing["next_try_in_ms"].as_u64().unwrap();
    assert!((7_000_000..=7_200_000).contains(&next), "{next}");
    let retry = || ground.flockd("", &format!("webhook retry {}", id(&webhook))).gives(0).out;
    let said = retry();
    assert!(said.starts_with(&format!("{} is sent what waits now", id(&webhook))), "{said}");
    let second = receiver.next();
    assert_eq!((second.id(), &second.body), (first.id(), &first.body));
    assert_eq!(receiver.next().event(), "lock.released");
    until("both are taken", || Some(()).filter(|()| show(&ground, &webhook)["delivered"] == 2));
    assert!(retry().contains("nothing that failed"));
}

#[test]
fn a_redirect_is_not_followed() {
    let ground = Ground::new();
    let elsewhere = Receiver::new();
    let target = elsewhere.url.clone();
    let receiver = Receiver::answering(move |_| format!("307 Temporary Redirect\r\nLocation: {target}"));
    let webhook = add(&ground, &receiver.url);
    let tested = ground.flockd("", &format!("webhook test {} --json", id(&webhook))).gives(1).json();
    assert_eq!(tested["delivered"], false);
    assert!(tested["error"].as_str().unwrap().contains("redirect"), "{tested}");
    assert!(elsewhere.rest().is_empty());
}

#[test]
fn a_test_is_a_signed_post_of_its_own_and_changes_nothing() {
    let (ground, receiver) = (Ground::new(), Receiver::new());
    let webhook = add(&ground, &format!("{} --event lock.released", receiver.url));
    let tested = ground.flockd("", &format!("webhook test {} --json", id(&webhook))).gives(0).json();
    assert_eq!((&tested["delivered"], &tested["status"]), (&json!(true), &json!(204)));
    let post = receiver.next();
    assert_eq!(post.event(), "webhook.test");
    assert!(post.is_signed_with(webhook["secret"].as_str().unwrap()));
    assert_eq!(show(&ground, &webhook)["delivered"], 0);
    ground.flockd("", "webhook test wh_7").gives(1).says(&["there is no webhook wh_7"]);
}

#[test]
fn a_receiver_that_does_not_answer_delays_nobody() {
    let (ground, quick) = (Ground::new(), Receiver::new());
    let (hold, held) = channel::<()>();
    let slow = Receiver::answering(move |_| {
        // Until the test is over.
        let _ = held.recv();
        "204 No Content".to_owned()
    });
    let stuck = add(&ground, &slow.url);
    let well = add(&ground, &quick.url);
    for number in 0..20 {
        lock_and_unlock(&ground, &format!("file-{number}"));
    }
    for _ in 0..40 {
        quick.next();
    }
    until("all have arrived", || Some(()).filter(|()| show(&ground, &well)["delivered"] == 40));
    assert_eq!(show(&ground, &stuck)["delivered"], 0, "its first post is on its way still");
    drop(hold);
}

#[test]
fn posts_of_removed_webhooks_count_until_they_end() {
    let (ground, quick) = (Ground::new(), Receiver::new());
    let (hold, held) = channel::<()>();
    let slow = Receiver::answering(move |_| {
        let _ = held.recv();
        "204 No Content".to_owned()
    });
    let client = ground.client("claw-1", None);
    let call = |request: Request| client.call(request).unwrap().ok.expect("it is answered");
    let posts = || {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", ground.daemon_pid())).unwrap().flatten();
        let names = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
        names.filter(|name| name.starts_with("flockd-webhook")).count()
    };
    for number in 1..=WEBHOOKS_MAX + 8 {
        let added = call(Request { url: Some(slow.url.clone()), ..Request::new(Op::WebhookAdd) });
        let Body::Webhook(webhook) = added else { panic!("{added:?}") };
        take(&client, exclusive("@busy", 60_000));
        call(Request { scope: Some("@busy".to_owned()), ..Request::new(Op::Unlock) });
        until("its post is on its way", || (posts() >= number.min(WEBHOOKS_MAX)).then_some(()));
        call(Request { webhook_id: Some(webhook.webhook_id), ..Request::new(Op::WebhookRemove) });
    }
    assert_eq!(posts(), WEBHOOKS_MAX);
    add(&ground, &quick.url);
    lock_and_unlock(&ground, "data.json");
    // The first of them that ends makes room.
    drop(hold);
    assert_eq!([quick.next().event(), quick.next().event()], ["lock.acquired", "lock.released"]);
}

#[test]
fn secrets_are_told_only_to_who_asks() {
    let (ground, receiver) = (Ground::new(), Receiver::new());
    let given = add(&ground, &format!("{} --secret {SECRET}", receiver.url));
    let made = add(&ground, &receiver.url);
    assert_eq!(given["secret"], SECRET);
    let secret = made["secret"].as_str().unwrap();
    assert!(secret.starts_with("whsec_") && secret != SECRET);
    for command in ["webhook list", "webhook list --json", &format!("webhook show {}", id(&made))] {
        let out = ground.flockd("", command).gives(0).out;
        assert!(out.contains(id(&made)) && !out.contains("whsec_"), "{out}");
    }
    let shown = ground.flockd("", &format!("webhook show {} --secret --json", id(&made))).gives(0).json();
    assert_eq!(shown["secret"], secret);
    let refused = ground.flockd("claw-1", &format!("webhook add {} --secret hunter2", receiver.url)).gives(2);
    assert!(!refused.err.contains("hunter2"), "{refused:?}");
}

#[test]
fn an_address_that_may_not_be_sent_to_is_refused_when_added_or_when_resolved() {
    let ground = Ground::new();
    for url in ["http://10.0.0.1/", "http://169.254.169.254/latest", "http://[fd00::1]/", "http://93.184.216.34/"] {
        ground.flockd("claw-1", &format!("webhook add {url}")).gives(2);
    }
    assert_eq!(ground.flockd("", "webhook list --json").gives(0).json(), json!([]));
    // No address as it stands, so that it can be added; the system's resolver makes one of it.
    for (url, why) in
        [("http://0x0a000001:9/", "private"), ("http://0xa9fea9fe/", "link-local"), ("http://0/", "unspecified")]
    {
        let webhook = add(&ground, url);
        let tested = ground.flockd("", &format!("webhook test {} --json", id(&webhook))).gives(1).json();
        assert!(tested["error"].as_str().unwrap().contains(why), "{tested}");
    }
}

#[test]
fn what_makes_no_sense_is_refused_by_name() {
    let (ground, receiver) = (Ground::new(), Receiver::new());
    let url = &receiver.url;
    ground.flockd("claw-1", "webhook add ftp://localhost/").gives(2).says(&["neither with http:// nor with https://"]);
    ground
        .flockd("claw-1", &format!("webhook add {url} --event lock.eaten"))
        .gives(2)
        .says(&["no such event", "lock.released"]);
    ground.flockd("claw-1", &format!("webhook add {url} --until-exit")).gives(2).says(&["--pid"]);
    ground.flockd("", &format!("webhook add {url}")).gives(2).says(&["--agent"]);
    for verb in ["show", "test", "retry", "rm"] {
        for id in ["wh_7", "wh_nope"] {
            let says = [&format!("there is no webhook {id}"), "`flockd webhook list`"];
            ground.flockd("", &format!("webhook {verb} {id}")).gives(1).says(&says);
        }
        ground.flockd("", &format!("webhook {verb} lk_7")).gives(2).says(&["expected wh_"]);
    }
}

#[cfg(feature = "tls")]
#[test]
fn https_is_for_those_whom_a_trusted_certificate_vouches_for() {
    let (ground, receiver) = (Ground::new(), Receiver::through_tls());
    let webhook = add(&ground, &receiver.url);
    let test = format!("webhook test {} --json", id(&webhook));
    let tested = ground.flockd("", &test).gives(1).json();
    assert!(tested["error"].as_str().unwrap().contains("certificate"), "nobody vouches for it: {tested}");
    let roots = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/webhooks/tls/ca.pem");
    for (roots, arrives) in [(ground.work.join("none.pem"), false), (roots, true)] {
        ground.stop_daemon();
        let mut start = ground.command("", &["daemon", "start"]);
        assert!(start.env("SSL_CERT_FILE", &roots).status().unwrap().success());
        let tested = ground.flockd("", &test).gives(i32::from(!arrives)).json();
        assert_eq!(tested["delivered"], arrives, "{tested}");
        if !arrives {
            assert!(tested["error"].as_str().unwrap().contains("none.pem"), "{tested}");
        }
    }
    assert!(receiver.next().is_signed_with(webhook["secret"].as_str().unwrap()));
}
