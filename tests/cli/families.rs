//! Sub-agents at the command line: turns inside what their parent holds, and what everybody is told.

use crate::util::{Done, Ground};
use std::fs;
use std::io::Write;
use std::process::Stdio;

/// Writes to `docs/plan.md`.
fn write(ground: &Ground, agent: &str, content: &str) -> Done {
    let mut command = ground.command(agent, &["write", "-n", "docs/plan.md"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let _ = child.stdin.take().unwrap().write_all(content.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Done { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

#[test]
fn two_workers_take_turns_inside_what_their_parent_holds_and_a_stranger_stays_out() {
    let ground = Ground::new();
    fs::create_dir(ground.work.join("docs")).unwrap();
    let plan = || fs::read_to_string(ground.work.join("docs/plan.md")).unwrap();
    ground.flockd("claw", "lock docs/").gives(0);
    let mut stranger = ground.queue("bo", "docs/plan.md");
    ground.until_waiting(&["bo"]);
    let one = ground.hold("claw/w1", "docs/plan.md");
    let mut two = ground.queue("claw/w2", "docs/plan.md");
    ground.until_waiting(&["bo", "claw/w2"]);
    write(&ground, "claw", "parent").gives(1).says(&[
        "your sub-agent claw/w1 holds docs/plan.md",
        "it must release first; nothing was written",
        "claw/w1 holds docs/plan.md exclusive",
    ]);
    ground.flockd("claw", "check docs/plan.md").gives(1).says(&["your sub-agent claw/w1 holds"]);
    write(&ground, "claw/w1", "one").gives(0);
    assert_eq!(plan(), "one");
    assert_eq!(one.end(), Some(0));
    two.granted();
    write(&ground, "claw", "parent").gives(1).says(&["your sub-agent claw/w2 holds docs/plan.md"]);
    write(&ground, "claw/w1", "one").gives(1).says(&["claw/w2"]);
    write(&ground, "claw/w2", "two").gives(0);
    assert_eq!(plan(), "two");
    assert_eq!(two.end(), Some(0));
    write(&ground, "claw", "parent").gives(0);
    assert_eq!(plan(), "parent");
    ground.until_waiting(&["bo"]);
    ground.flockd("claw", "unlock docs/").gives(0);
    stranger.granted();
    assert_eq!(stranger.end(), Some(0));
}

#[test]
fn everybody_is_told_whose_sub_agent_holds_what() {
    let ground = Ground::new();
    ground.flockd("bo", "lock other").gives(0);
    ground.flockd("claw", "lock plan.md").gives(0);
    ground.flockd("claw/w1", "check plan.md").gives(1).says(&["a parent's lock lets you in and is not yours"]);
    let own = ground.flockd("claw/w1", "lock plan.md --json").gives(0).json();
    assert_eq!((own["already_held"].as_bool(), own["agent"].as_str()), (Some(false), Some("claw/w1")));
    ground.flockd("bo", "lock -n plan.md").gives(1).says(&[
        "claw holds plan.md",
        "claw/w1 holds plan.md",
        "ask claw to release",
        "and its sub-agents what they hold there",
    ]);
    ground.flockd("claw", "unlock --all").gives(0);
    ground.flockd("bo", "lock other2").gives(0);
    ground.flockd("claw", "lock third").gives(0);
    ground
        .flockd("claw", "lock -n plan.md")
        .gives(1)
        .says(&["your sub-agent claw/w1 holds plan.md", "it must release first"]);
    // For people a family stands together.
    let listed = ground.flockd("", "ls").gives(0).out;
    let agents: Vec<&str> = listed.lines().skip(1).filter_map(|line| line.split_whitespace().nth(2)).collect();
    assert_eq!(agents, ["bo", "bo", "claw", "claw/w1"]);
    for name in ["/", "claw/", "/w1", "claw//w1", "1/2/3/4/5/6/7/8/9"] {
        ground.flockd("", &format!("lock x --agent {name}")).gives(2).says(&["part"]);
    }
}
