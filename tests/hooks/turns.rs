//! From the first edit to the end of the turn: who gets the file, who is refused, and when it is free again.

use crate::client::{CLIENTS, Outcome, WITH_SUBAGENTS, agent, payload};
use crate::util::{Ground, until};
use flockd::wire::{Held, KeptBy};
use std::fs;
use std::process::Stdio;

fn file_of(held: &[(String, String)]) -> Vec<&str> {
    held.iter().map(|(_, file)| file.as_str()).collect()
}

#[test]
fn an_edit_takes_the_lock_and_another_agents_edit_is_refused_until_the_turn_ends() {
    for client in CLIENTS {
        let ground = Ground::new();
        fs::write(ground.work.join("data.json"), "1").unwrap();
        for name in ["before_read", "before_edit", "before_edit", "before_shell"] {
            assert_eq!(ground.hook(client, "", name, "ada"), Outcome::Runs, "{client} {name}");
        }
        let ada = agent(client, "ada");
        assert_eq!(ground.held(), [(ada.clone(), "data.json".to_owned())], "{client}");
        for name in ["before_edit", "before_shell"] {
            let why = ground.hook(client, "--wait 0", name, "bo").refused();
            assert!(why.contains(&format!("data.json is locked by {ada} (exclusive since ")), "{client}: {why}");
            assert!(why.contains("flockd wait "), "{client}: {why}");
            assert!(why.lines().count() <= 2 && why.len() < 500, "{client}: {why}");
        }
        assert_eq!(ground.hook(client, "", "before_read", "bo"), Outcome::Runs, "{client}: reading is free");
        assert_eq!(ground.hook(client, "", "turn_end", "bo"), Outcome::Runs, "{client}");
        assert_eq!(ground.held().len(), 1, "{client}: nobody ends another's turn");
        assert_eq!(ground.hook(client, "", "turn_end", "ada"), Outcome::Runs, "{client}");
        assert_eq!(ground.hook(client, "--wait 0", "before_edit", "bo"), Outcome::Runs, "{client}");
        assert_eq!(ground.hook(client, "", "session_end", "bo"), Outcome::Runs, "{client}");
        assert!(ground.held().is_empty(), "{client}");
    }
}

#[test]
fn a_refusal_says_when_to_try_again_where_many_want_the_file() {
    let ground = Ground::new();
    fs::write(ground.work.join(".flockd.toml"), "[contention]\nrequests = 1\n").unwrap();
    for client in CLIENTS {
        assert_eq!(ground.hook(client, "", "before_edit", "ada"), Outcome::Runs);
        let why = ground.hook(client, "--wait 0", "before_edit", "bo").refused();
        assert!(why.contains("Many want it: try again in about "), "{client}: {why}");
        ground.hook(client, "", "turn_end", "ada");
    }
}

#[test]
fn every_client_is_known_by_what_it_says() {
    for client in CLIENTS {
        let ground = Ground::new();
        let input = |session| payload(client, "before_edit", &ground.work, session);
        let free = ground.hook_says("auto", "", &input("ada"));
        assert_eq!(Outcome::of(client, &free), Outcome::Runs, "{client}");
        assert_eq!(ground.held()[0].0, agent(client, "ada"));
        Outcome::of(client, &ground.hook_says("auto", "--wait 0", &input("bo"))).refused();
    }
}

#[test]
fn whoever_waits_gets_the_file_when_the_turn_before_ends() {
    let ground = Ground::new();
    assert_eq!(ground.hook("claude-code", "", "before_edit", "ada"), Outcome::Runs);
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| ground.hook("codex", "--wait 100s --timeout 110s", "before_edit", "bo"));
        ground.until_waiting(&["codex-bo"]);
        // Whoever is waited for is told, and how to let go.
        let told = ground.hook("claude-code", "", "before_edit", "ada").told();
        assert!(told.contains("codex-bo waits for data.json") && told.contains("flockd unlock "), "{told}");
        assert_eq!(ground.hook("claude-code", "", "turn_end", "ada"), Outcome::Runs);
        assert_eq!(waits.join().unwrap(), Outcome::Runs);
    });
    assert_eq!(ground.held()[0].0, "codex-bo");
}

#[test]
fn whoever_has_waited_in_vain_keeps_a_place_to_the_end_of_its_turn() {
    let ground = Ground::new();
    assert_eq!(ground.hook("claude-code", "", "before_edit", "ada"), Outcome::Runs);
    for waits in [&["data.json"][..], &["data.json", "other.json"]] {
        patch(&ground, "--wait 50ms", waits).refused();
        let places = ground.status().waiters.len();
        assert_eq!(places, waits.len(), "whoever asks again goes on there");
        assert_eq!(ground.hook("codex", "", "turn_end", "ada"), Outcome::Runs);
        assert_eq!(ground.status().waiters.len(), 0);
    }
    assert_eq!(ground.hook("claude-code", "", "turn_end", "ada"), Outcome::Runs);
    assert_eq!(ground.hook("gemini", "--wait 0", "before_edit", "cy"), Outcome::Runs, "nobody is waited for in vain");
}

#[test]
fn what_an_agent_locked_by_itself_outlives_its_turn() {
    let ground = Ground::new();
    ground.flockd("claude-ada", "lock data.json").gives(0);
    assert_eq!(ground.hook("claude-code", "", "before_edit", "ada"), Outcome::Runs);
    assert_eq!(ground.hook("claude-code", "", "session_end", "ada"), Outcome::Runs);
    assert_eq!(ground.held(), [("claude-ada".to_owned(), "data.json".to_owned())]);
}

#[test]
fn what_a_command_still_has_at_the_end_of_the_turn_ends_with_the_command() {
    for client in CLIENTS {
        let ground = Ground::new();
        assert_eq!(ground.hook(client, "", "before_edit", "ada"), Outcome::Runs);
        let mut run = ground.command(&agent(client, "ada"), &["run", "data.json", "--", "cat"]);
        let mut run = run.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let has_it = |held: &Held| held.kept_by == KeptBy::Process && held.goes_back.is_some();
        until("the command has it", || ground.status().locks.iter().find(|held| has_it(held)).map(|_| ()));
        assert_eq!(ground.hook(client, "", "turn_end", "ada"), Outcome::Runs);
        assert_eq!(ground.held().len(), 1, "{client}: it goes on");
        drop(run.stdin.take());
        assert!(run.wait().unwrap().success());
        assert_eq!(ground.held(), [], "{client}");
    }
}

/// A hook before a patch of these files, in Codex's session `ada`.
fn patch<S: AsRef<str>>(ground: &Ground, flags: &str, files: &[S]) -> Outcome {
    let mut input: serde_json::Value =
        serde_json::from_str(&payload("codex", "before_edit", &ground.work, "ada")).unwrap();
    let lines: String = files.iter().map(|file| format!("*** Add File: {}\n+x\n", file.as_ref())).collect();
    input["tool_input"]["command"] = format!("*** Begin Patch\n{lines}*** End Patch\n").into();
    Outcome::of("codex", &ground.hook_says("codex", flags, &input.to_string()))
}

#[test]
fn a_patch_is_granted_as_a_whole_or_not_at_all() {
    let ground = Ground::new();
    fs::write(ground.work.join("a.txt"), "1").unwrap();
    fs::hard_link(ground.work.join("a.txt"), ground.work.join("other_name.txt")).unwrap();
    ground.flockd("bo", "lock sub/b.txt --note sorting").gives(0);
    // No set can be made of two names of one file: those are asked for one by one.
    for files in [vec!["a.txt", "sub/b.txt"], vec!["a.txt", "other_name.txt", "sub/b.txt"]] {
        let why = patch(&ground, "--wait 0", &files).refused();
        assert!(why.contains("sub/b.txt is locked by bo (exclusive since ") && why.contains("sorting"), "{why}");
        assert!(why.contains(&format!("flockd wait {}/sub/b.txt", ground.work.display())), "{why}");
        assert!(why.lines().count() <= 2, "{why}");
        assert_eq!(file_of(&ground.held()), ["sub/b.txt"], "nothing is kept for an edit that does not happen");
        ground.flockd("bo", "unlock sub/b.txt").gives(0);
        assert_eq!(patch(&ground, "--wait 0", &files), Outcome::Runs);
        assert!(file_of(&ground.held()).ends_with(&["sub/b.txt"]), "{:?}", ground.held());
        assert_eq!(ground.hook("codex", "", "turn_end", "ada"), Outcome::Runs);
        assert_eq!(ground.held(), []);
        ground.flockd("bo", "lock sub/b.txt --note sorting").gives(0);
    }
}

#[test]
fn a_patch_waits_as_one_and_holds_nothing_meanwhile() {
    let ground = Ground::new();
    ground.flockd("bo", "lock b.txt").gives(0);
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| patch(&ground, "--wait 100s --timeout 110s", &["a.txt", "b.txt", "c.txt"]));
        ground.until_waiting(&["codex-ada"; 3]);
        assert_eq!(file_of(&ground.held()), ["b.txt"]);
        ground.flockd("bo", "unlock b.txt").gives(0);
        assert_eq!(waits.join().unwrap(), Outcome::Runs);
    });
    assert_eq!(file_of(&ground.held()), ["a.txt", "b.txt", "c.txt"]);
}

#[test]
fn a_patch_of_what_others_wait_for_waits_for_the_rest_of_it() {
    let ground = Ground::new();
    assert_eq!(patch(&ground, "", &["a.txt"]), Outcome::Runs);
    ground.flockd("bo", "lock b.txt").gives(0);
    let queued = ground.queue("cy", "a.txt");
    ground.until_waiting(&["cy"]);
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| patch(&ground, "--wait 100s --timeout 110s", &["a.txt", "b.txt"]));
        until("ada waits", || ground.status().waiters.iter().any(|row| row.agent == "codex-ada").then_some(()));
        ground.flockd("bo", "unlock b.txt").gives(0);
        let told = waits.join().unwrap().told();
        assert!(told.contains("cy waits for a.txt"), "{told}");
    });
    assert_eq!(file_of(&ground.held()), ["a.txt", "b.txt"]);
    drop(queued);
}

#[test]
fn a_patch_of_more_files_than_a_set_may_have_is_locked_as_well() {
    let ground = Ground::new();
    let files: Vec<String> = (0..70).map(|number| format!("f{number:02}")).collect();
    assert_eq!(patch(&ground, "", &files), Outcome::Runs);
    assert_eq!(file_of(&ground.held()), files);
    ground.flockd("codex-ada", "unlock --all").gives(0);
    ground.flockd("bo", "lock f69").gives(0);
    assert!(patch(&ground, "--wait 0", &files).refused().contains("f69 is locked by bo"));
    assert_eq!(file_of(&ground.held()), ["f69"]);
}

#[test]
fn what_an_agent_lost_is_told_also_when_its_edit_is_refused() {
    let ground = Ground::new();
    assert_eq!(patch(&ground, "", &["a.txt"]), Outcome::Runs);
    let id = ground.status().locks[0].lock_id.clone();
    ground.flockd("bo", &format!("break {id} --reason hanging")).gives(0);
    ground.flockd("bo", "lock b.txt").gives(0);
    let why = patch(&ground, "--wait 0", &["a.txt", "b.txt"]).refused();
    assert!(why.starts_with("flockd: b.txt is locked by bo"), "{why}");
    assert!(why.contains("your lock on a.txt ended at ") && why.contains("by bo: hanging"), "{why}");
    assert!(!why.contains("locked for you"), "{why}");
    assert_eq!(ground.hook("codex", "", "turn_start", "ada"), Outcome::Runs, "it is told once");
}

#[test]
fn modes_and_workspaces_say_how_much_a_hook_does() {
    let ground = Ground::new();
    let both = |flags: &str| {
        let free = ground.hook("claude-code", flags, "before_edit", "ada");
        let took = !ground.held().is_empty();
        ground.flockd("", "lock --agent bo data.json -n");
        let held = ground.hook("claude-code", flags, "before_edit", "ada");
        ground.flockd("bo", "unlock --all");
        ground.flockd("claude-ada", "unlock --all");
        (free, took, held)
    };
    let (free, took, held) = both("--mode check");
    assert_eq!((free, took), (Outcome::Runs, false));
    assert!(held.refused().contains("data.json is locked by bo"));
    let (free, took, held) = both("--mode warn");
    assert_eq!((free, took), (Outcome::Runs, false));
    assert!(held.told().contains("data.json is locked by bo"));

    let config = ground.work.join(".flockd.toml");
    fs::write(&config, "enforcement = 'warn'\n").unwrap();
    assert!(matches!(both(""), (Outcome::Runs, false, Outcome::RunsAndTellsModel(_))));
    fs::write(&config, "enforcement = 'off'\n").unwrap();
    assert_eq!(both(""), (Outcome::Runs, false, Outcome::Runs));
    fs::write(&config, "enforcement = 'deny'\n").unwrap();
    assert!(matches!(both("--wait 0"), (Outcome::Runs, true, _)));
}

#[test]
fn the_place_of_the_file_counts_and_not_that_of_its_writer() {
    let ground = Ground::new();
    let other = ground.work.join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join(".flockd.toml"), "enforcement = 'off'\n").unwrap();
    // From the one into the other, both ways.
    let from = |cwd: &std::path::Path, file: &std::path::Path| {
        let input = payload("claude-code", "before_edit", &ground.work, "ada");
        let mut input: serde_json::Value = serde_json::from_str(&input).unwrap();
        input["cwd"] = cwd.to_str().into();
        input["tool_input"]["file_path"] = file.to_str().into();
        Outcome::of("claude-code", &ground.hook_says("claude-code", "--wait 0", &input.to_string()))
    };
    ground.flockd("bo", "lock other/f").gives(0);
    ground.flockd("bo", "lock f").gives(0);
    assert_eq!(from(&ground.work, &other.join("f")), Outcome::Runs, "over there nobody asks for locks");
    from(&other, &ground.work.join("f")).refused();
}

#[test]
fn a_lost_lock_is_told_before_the_next_write() {
    for client in CLIENTS {
        let ground = Ground::new();
        let breaks = |reason: &str| {
            let id = ground.status().locks[0].lock_id.clone();
            assert!(ground.command("bo", &["break", &id, "--reason", reason]).status().unwrap().success());
        };
        assert_eq!(ground.hook(client, "", "before_edit", "ada"), Outcome::Runs);
        breaks("it hangs");
        let why = ground.hook(client, "", "before_edit", "ada").refused();
        assert!(why.contains("your lock on data.json ended at ") && why.contains("by bo: it hangs"), "{why}");
        assert_eq!(ground.hook(client, "", "before_edit", "ada"), Outcome::Runs, "it is told once, and locked");

        // Whoever has nothing to write just now is told when a turn begins.
        breaks("again");
        assert_eq!(ground.hook(client, "", "turn_end", "ada"), Outcome::Runs, "nobody listens there");
        let outcome = ground.hook(client, "", "turn_start", "ada");
        assert!(matches!(outcome, Outcome::RunsAndTellsModel(_)), "{client}: {outcome:?}");
        let told = outcome.told();
        assert!(told.contains("read it again before you write"), "{client}: {told}");
        assert_eq!(ground.hook(client, "", "turn_start", "ada"), Outcome::Runs);
    }
}

#[test]
fn who_waits_is_told_when_a_turn_begins() {
    for client in CLIENTS {
        let ground = Ground::new();
        ground.flockd(&agent(client, "ada"), "lock data.json").gives(0);
        assert_eq!(ground.hook(client, "", "turn_start", "ada"), Outcome::Runs);
        let waits = ground.queue("bo", "data.json");
        ground.until_waiting(&["bo"]);
        let outcome = ground.hook(client, "", "turn_start", "ada");
        assert!(matches!(outcome, Outcome::RunsAndTellsModel(_)), "{client}: {outcome:?}");
        let told = outcome.told();
        assert!(told.contains("bo waits for data.json. Done with it? `flockd unlock "), "{client}: {told}");
        drop(waits);
    }
}

#[test]
fn two_agents_that_wait_for_each_other_are_told_the_cycle() {
    let ground = Ground::new();
    for (name, file) in [("claude-ada", "data.json"), ("bo", "other.json")] {
        ground.flockd(name, &format!("lock {file}")).gives(0);
    }
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| ground.flockd("claude-ada", "lock other.json --wait 100s"));
        ground.until_waiting(&["claude-ada"]);
        let input = payload("claude-code", "before_edit", &ground.work, "x");
        let mut command = ground.hook_command("claude-code", "");
        command.env("FLOCKD_AGENT", "bo");
        let why = Outcome::of("claude-code", &crate::client::fed(command, &input)).refused();
        assert!(why.contains("would never end") && why.contains("flockd unlock"), "{why}");
        ground.flockd("bo", "unlock --all").gives(0);
        waits.join().unwrap().gives(0);
    });
}

#[test]
fn a_subagent_ends_with_its_own_locks_and_a_session_with_all() {
    for client in WITH_SUBAGENTS {
        let ground = Ground::new();
        assert_eq!(ground.hook(client, "", "before_edit_of_subagent", "ada"), Outcome::Runs, "{client}");
        let below = format!("{}/a1b2c3", agent(client, "ada"));
        assert_eq!(ground.held(), [(below, "data.json".to_owned())], "{client}");
        assert_eq!(ground.hook(client, "", "turn_end", "ada"), Outcome::Runs);
        assert_eq!(ground.held().len(), 1, "{client}: it may work on in the background");
        assert_eq!(ground.hook(client, "", "subagent_end", "ada"), Outcome::Runs);
        assert!(ground.held().is_empty(), "{client}");
        assert_eq!(ground.hook(client, "", "before_edit_of_subagent", "ada"), Outcome::Runs, "{client}");
        assert_eq!(ground.hook(client, "", "session_end", "ada"), Outcome::Runs);
        assert!(ground.held().is_empty(), "{client}");
    }
}

#[test]
fn a_new_session_hears_how_it_works() {
    for client in CLIENTS {
        let told = Ground::new().hook(client, "", "session_start", "ada").told();
        for words in ["flockd lock PATH", "flockd lock A B", "flockd run A B -- COMMAND", "lock_files"] {
            assert!(told.contains(words), "{client}: {words}: {told}");
        }
    }
}
