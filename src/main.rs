//! The program `flockd`.

use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "flockd", version)]
struct Line {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Let many claws race for the same files, without locks and with them
    Sim(flockd::sim::SimArgs),
    #[command(hide = true)]
    SimClaw(flockd::sim::ClawArgs),
    #[command(hide = true)]
    SimJanitor(flockd::sim::JanitorArgs),
}

fn main() -> ExitCode {
    match Line::parse().verb {
        Verb::Sim(args) => flockd::sim::run(args),
        Verb::SimClaw(args) => flockd::sim::run_claw(args),
        Verb::SimJanitor(args) => flockd::sim::run_janitor(args),
    }
}
