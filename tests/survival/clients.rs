//! Clients that go on: through a daemon that has no room for the moment, and with somebody who reads along.

use crate::util::{Done, FLOCKD, Ground, exclusive};
use flockd::client::Custodian;
use flockd::wire::VERSION;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};

/// A socket at which the test plays the daemon.
fn stage(ground: &Ground) -> UnixListener {
    fs::create_dir(&ground.home).unwrap();
    fs::set_permissions(&ground.home, fs::Permissions::from_mode(0o700)).unwrap();
    UnixListener::bind(ground.home.join("sock")).unwrap()
}

/// Takes one connection and its greeting, answers with `line`, and gives the connection and what was said.
fn take_call(listener: &UnixListener, line: &str) -> (BufReader<UnixStream>, String) {
    let mut stream = BufReader::new(listener.accept().unwrap().0);
    let mut hello = String::new();
    stream.read_line(&mut hello).unwrap();
    writeln!(stream.get_ref(), "{line}").unwrap();
    (stream, hello)
}

/// The daemon's part is played by the test: a real one has no room only beyond 8192 clients.
#[test]
fn a_session_is_not_given_up_because_the_daemon_has_no_room_for_the_moment() {
    let ground = Ground::new();
    let listener = stage(&ground);
    let hello = |session: &str| format!(r#"{{"hello":{{"protocol":1,"version":"{VERSION}","pid":1{session}}}}}"#);
    let refusal = |code: &str| format!(r#"{{"id":null,"error":{{"code":"{code}","message":"not now"}}}}"#);
    std::thread::scope(|scope| {
        let program = scope.spawn(|| {
            let client = ground.client("a", Some(Custodian::Library));
            crate::util::take(&client, exclusive("@x", 0));
            // Stays until the daemon has seen it again.
            client
        });
        let session = r#","session":{"id":"se_1","secret":"00000000000000000000000000000001"}"#;
        let (first, _) = take_call(&listener, &hello(session));
        // Nothing is asked of it in vain: the thread behind the client comes back by itself.
        drop(first);
        for code in ["too_many", "unavailable", "too_many"] {
            let (_, said) = take_call(&listener, &refusal(code));
            assert!(said.contains(r#""return":{"id":"se_1""#), "{said}");
        }
        let (mut back, said) = take_call(&listener, &hello(""));
        assert!(said.contains("se_1"), "{said}");
        let mut request = String::new();
        back.read_line(&mut request).unwrap();
        assert!(request.contains(r#""op":"lock""#), "{request}");
        let held = r#"{"id":1,"ok":{"lock":{"acquired":true,"code":null,"lock_id":"lk_1","workspace_id":"ws_1",
            "file_id":"@x","path":"@x","mode":"exclusive","agent":"a","fence":1,"ttl_ms":0,"expires_in_ms":null,
            "already_held":false,"resumed":false,"os_lock":false,"holders":[],"more_holders":0,"position":null,
            "ticket":null,"cycle":[],"advice":null}}}"#;
        writeln!(back.get_ref(), "{}", held.replace("\n            ", "")).unwrap();
        let client = program.join().unwrap();
        assert_eq!(client.session_id().as_deref(), Some("se_1"));
    });
}

/// A real daemon would have to be killed between its journal and its socket.
#[test]
fn a_release_by_scope_whose_answer_was_lost_with_the_daemon_is_no_error() {
    let hello = format!(r#"{{"hello":{{"protocol":1,"version":"{VERSION}","pid":1}}}}"#);
    for (code, says) in [("not_holder", "held by another one meanwhile"), ("not_found", "free")] {
        let ground = Ground::new();
        let listener = stage(&ground);
        std::thread::scope(|scope| {
            let program = scope.spawn(|| ground.flockd("a", "unlock x"));
            let mut line = String::new();
            let (mut first, _) = take_call(&listener, &hello);
            first.read_line(&mut line).unwrap();
            drop(first);
            let (mut second, _) = take_call(&listener, &hello);
            let mut again = String::new();
            second.read_line(&mut again).unwrap();
            assert_eq!(line, again);
            writeln!(second.get_ref(), r#"{{"id":1,"error":{{"code":"{code}","message":"{says}"}}}}"#).unwrap();
            program.join().unwrap().gives(0);
            // The same answer to what was sent once is one.
            let program = scope.spawn(|| ground.flockd("a", "unlock x"));
            let (mut only, _) = take_call(&listener, &hello);
            only.read_line(&mut line).unwrap();
            writeln!(only.get_ref(), r#"{{"id":1,"error":{{"code":"{code}","message":"{says}"}}}}"#).unwrap();
            program.join().unwrap().gives(1).says(&[says]);
        });
    }
}

#[test]
fn a_person_who_waits_for_more_than_a_second_is_told_for_whom_and_a_program_is_not() {
    let ground = Ground::new();
    ground.flockd("slow", "lock x --note thinking").gives(0);
    // A terminal of its own, as script(1) makes one.
    let has_script = Command::new("script").arg("--version").stdout(Stdio::null()).status().is_ok();
    for verb in ["lock", "wait"] {
        let words = format!("{FLOCKD} {verb} x --wait 1.5s");
        if has_script {
            let arguments = ["-q", "-e", "-c", &words, "/dev/null"];
            let done = Done::of(ground.environment(Command::new("script"), "b", &arguments)).gives(3);
            let at = done.out.find("waiting: ").unwrap_or_else(|| panic!("{done:?}"));
            assert!(done.out[at..].contains("slow") && done.out[at..].contains("thinking"), "{done:?}");
        } else {
            eprintln!("left out: there is no script(1) to make a terminal with");
        }
        let quiet = ground.flockd("b", &format!("{verb} x --wait 1.5s")).gives(3);
        assert!(!quiet.err.contains("waiting:"), "{quiet:?}");
    }
}

#[test]
fn looking_at_what_one_holds_renews_it() {
    let ground = Ground::new();
    ground.flockd("a", "lock src/ --shared --ttl 30m").gives(0);
    let left = || ground.status().locks[0].expires_in_ms.unwrap();
    for (looks, status) in [("status src/x", 0), ("ls src/", 0), ("check src/x", 1), ("wait -s src/x", 0)] {
        crate::util::until("some of the lease is gone", || (left() < 1_799_900).then_some(()));
        ground.flockd("b", looks);
        assert!(left() < 1_799_900, "others renew nothing");
        let before = left();
        ground.flockd("a", looks).gives(status);
        assert!(left() > before, "{looks}");
    }
}
