//! Hook, shell command and session are one agent: nobody stands in their own way.

use crate::client::{Outcome, fed};
use crate::util::{Done, Ground};

/// The variable in which a program names its session to its commands.
const SESSIONS: [(&str, &str); 3] =
    [("claude-code", "CLAUDE_CODE_SESSION_ID"), ("codex", "CODEX_SESSION_ID"), ("openclaw", "FLOCKD_OPENCLAW_SESSION")];

/// A command in a shell of the agent.
fn shell(ground: &Ground, variable: &str, session: &str, script: &str) -> Done {
    let mut command = ground.environment(std::process::Command::new("sh"), "", &["-c", script]);
    command.env(variable, session).env("FLOCKD", crate::util::FLOCKD);
    Done::of(command)
}

#[test]
fn what_a_hook_took_is_held_already_for_the_commands_of_its_agent() {
    for (client, variable) in SESSIONS {
        let ground = Ground::new();
        assert_eq!(ground.hook(client, "", "before_edit", "5e55"), Outcome::Runs, "{client}");
        let lock = shell(&ground, variable, "5e55", "$FLOCKD lock -n data.json --json").gives(0);
        assert_eq!(lock.json()["already_held"], true, "{client}: {lock:?}");
        shell(&ground, variable, "5e55", "echo 3 | $FLOCKD write data.json -n && $FLOCKD check data.json").gives(0);
        shell(&ground, variable, "0dd5", "$FLOCKD lock -n data.json").gives(1).says(&["5e55"]);
        shell(&ground, variable, "5e55", "$FLOCKD run -n data.json -- true").gives(0);
    }
}

#[test]
fn what_its_commands_took_is_no_obstacle_to_an_agents_edits() {
    for (client, variable) in SESSIONS {
        let ground = Ground::new();
        shell(&ground, variable, "5e55", "$FLOCKD lock -n data.json").gives(0);
        assert_eq!(ground.hook(client, "--wait 0", "before_edit", "5e55"), Outcome::Runs, "{client}");
        shell(&ground, variable, "5e55", "$FLOCKD unlock data.json && $FLOCKD lock -n ./").gives(0);
        assert_eq!(ground.hook(client, "--wait 0", "before_edit", "5e55"), Outcome::Runs, "{client}");
        assert_eq!(ground.held().len(), 1, "{client}: the directory covers the file");
        ground.hook(client, "--wait 0", "before_edit", "0dd5").refused();
    }
}

#[test]
fn a_name_that_is_given_counts_for_hook_and_command_alike() {
    let ground = Ground::new();
    let input = crate::client::payload("claude-code", "before_edit_of_subagent", &ground.work, "5e55");
    let mut command = ground.hook_command("claude-code", "");
    command.env("FLOCKD_AGENT", "ada");
    assert_eq!(Outcome::of("claude-code", &fed(command, &input)), Outcome::Runs);
    assert_eq!(ground.held()[0].0, "ada/a1b2c3");
    let flag = ground.hook_says("claude-code", "--agent cy --wait 0", &input);
    Outcome::of("claude-code", &flag).refused();
}
