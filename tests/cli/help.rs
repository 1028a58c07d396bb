//! What the program says about itself: the commands that are built and no others, examples, completions.

use crate::util::Ground;

/// Every command that is built; the contract has more names, and none of those is shown.
const COMMANDS: &str = "run elect lock unlock upgrade downgrade renew status ls stats wait check write break watch on \
                        hook install doctor git git-guard webhook mcp daemon sim completions";

#[test]
fn help_lists_exactly_the_commands_that_are_built() {
    let ground = Ground::new();
    for flag in ["--help", "-h"] {
        let help = ground.flockd("", flag).gives(0).out;
        let list = help.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
        let names = list.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
        let mut names: Vec<&str> = names.filter_map(|line| line.split_whitespace().next()).collect();
        names.retain(|name| *name != "help");
        assert_eq!(names, COMMANDS.split(' ').collect::<Vec<_>>(), "{help}");
        assert!(help.contains("Exit statuses: 0 yes or done"), "{help}");
    }
    assert!(!ground.home.exists(), "help needs no daemon");
}

#[test]
fn every_command_has_examples_and_json() {
    let ground = Ground::new();
    let below = ["daemon run", "daemon start", "daemon stop", "daemon status", "webhook add", "webhook list"];
    let below = below.into_iter().chain(["webhook show", "webhook test", "webhook retry", "webhook rm"]);
    let below = below.chain(["git-guard install", "git-guard uninstall", "git-guard pre-commit", "git-guard pre-push"]);
    let below = below.chain(["git-guard pre-merge-commit"]);
    for command in COMMANDS.split(' ').filter(|name| !["daemon", "webhook", "git-guard"].contains(name)).chain(below) {
        let help = ground.flockd("", &format!("{command} --help")).gives(0).out;
        assert!(help.contains("Examples:"), "{command}: {help}");
        assert!(help.contains("--json"), "{command}: {help}");
        assert!(help.lines().all(|line| line.chars().count() <= 120), "{command}: {help}");
    }
}

#[test]
fn completions_are_printed_for_every_shell() {
    let ground = Ground::new();
    for (shell, contains) in [("bash", "_flockd()"), ("zsh", "#compdef flockd"), ("fish", "complete -c flockd")] {
        let script = ground.flockd("", &format!("completions {shell}")).gives(0).out;
        assert!(script.contains(contains) && script.contains("unlock"), "{shell}");
        for hidden in ["sim-claw", "sim-janitor"] {
            assert!(!script.contains(hidden), "{shell} offers {hidden}");
        }
    }
    ground.flockd("", "completions tcsh").gives(2);
    assert!(!ground.home.exists());
}

#[test]
fn the_version_is_that_of_the_package() {
    let ground = Ground::new();
    assert_eq!(ground.flockd("", "--version").gives(0).out, format!("flockd {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn output_into_a_closed_pipe_is_no_error() {
    let ground = Ground::new();
    ground.flockd("a", "lock x").gives(0);
    for args in [["ls", "--json"], ["completions", "bash"], ["--help", "--json"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = ground.command("", &args);
        let output = command.stdout(writer).stderr(std::process::Stdio::piped()).spawn().unwrap();
        let output = output.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{args:?}");
        assert!(output.status.code().is_some(), "{args:?}: {:?}", output.status);
    }
}
