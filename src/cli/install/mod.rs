//! `flockd install`: hooks and the MCP server in the settings of coding agents, put in, taken out, and tried.
//!
//! Settings are other programs' and people's: what is not ours stays as it is, in its order, and what is ours is known
//! again, so that a second call changes nothing and `--uninstall` leaves nothing of it.

mod claude_code;
mod codex;
mod doctor;
mod gemini;
mod json;
mod openclaw;
mod place;
mod server;
mod text;
mod trial;

pub(super) use doctor::doctor;
use place::{Change, Places};

use super::{Common, Exit, Failure, print};
use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The clients whose settings are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Name {
    ClaudeCode,
    Codex,
    Gemini,
    Openclaw,
}

/// How one client is served: what to change, and what a person has to do besides.
struct Client {
    name: Name,
    /// As `flockd hook --client` has it.
    word: &'static str,
    /// What has to change so that flockd is in the settings, or out of them.
    changes: fn(&Places, &Wish) -> Result<Vec<Change>, String>,
    /// What is in the settings to be called as hooks; an error if they cannot be understood.
    hooks: fn(&Places) -> Result<Hooks, String>,
    /// The switches by which somebody keeps the client from calling hooks at all, or ours.
    off: fn(&Places) -> Vec<String>,
    /// The entry of an MCP server under our name, as JSON; null if there is none.
    server: fn(&Places) -> Result<Value, String>,
    /// What it takes besides.
    note: &'static str,
}

/// A client more is a file and a row.
const CLIENTS: [Client; 4] = [claude_code::CLIENT, codex::CLIENT, gemini::CLIENT, openclaw::CLIENT];

/// Hooks that are in somebody's settings.
#[derive(Default)]
struct Hooks {
    /// What is called, at whatever moment.
    commands: Vec<String>,
    /// What is not as `flockd install` would have it, so that less is guarded; nothing where nothing of ours is.
    lacks: Vec<String>,
    /// Somebody has switched off ours alone.
    is_off: bool,
}

/// What is to be in the settings.
struct Wish {
    /// Whether it is to be there at all.
    wanted: bool,
    /// The program, by its absolute path.
    program: PathBuf,
    /// `--mode` of the hooks, if it is not the usual one.
    mode: Option<String>,
    /// Whether this is about the hooks, and about the server; what it is not about stays as it is.
    hooks: bool,
    server: bool,
}

impl Wish {
    /// What is put in if nothing else is said, to compare with; which program it is does not matter then.
    fn usual() -> Wish {
        Wish { wanted: true, program: SERVER.into(), mode: None, hooks: true, server: true }
    }

    /// The command of a hook, for a shell.
    fn hook(&self, word: &str) -> String {
        let mode = self.mode.as_ref().map_or_else(String::new, |mode| format!(" --mode {mode}"));
        format!("{} hook --client {word}{mode}", quoted(&self.program))
    }

    fn program(&self) -> String {
        self.program.to_string_lossy().into_owned()
    }
}

/// How hooks of ours are called by those who say which client they are.
const CALLED: &str = " hook --client ";

/// Whether a command in somebody's settings is a hook of ours, whatever path and flags it has: a program of our name
/// with that command, also for another client, or anything that calls us for this one.
fn is_our_hook(command: &str, word: &str) -> bool {
    let command = command.trim_start();
    let end = match command.chars().next() {
        Some(quote @ ('\'' | '"')) => command[1..].find(quote).map(|end| end + 2),
        _ => command.find(' '),
    };
    let (program, args) = command.split_at(end.unwrap_or(command.len()));
    let program = Path::new(program.trim_matches(['\'', '"'])).file_name();
    let is_named = program.is_some_and(|name| name == "flockd");
    is_named && args.split_whitespace().find(|arg| !arg.starts_with('-')) == Some("hook")
        || command.contains("flockd") && client_of(command) == Some(word)
}

/// Whether a command looks like a hook of ours with another program: a name that is mistyped, or one that somebody has
/// given it. Nobody knows, so it is tried, and left alone.
fn is_doubtful_hook(command: &str, word: &str) -> bool {
    command.contains(CALLED) && !is_our_hook(command, word)
}

/// The client for which a hook is called, if it says so.
fn client_of(command: &str) -> Option<&str> {
    command.split_once(CALLED)?.1.split_whitespace().next()
}

/// What our server is called in everybody's settings.
const SERVER: &str = "flockd";

/// Whether a server in somebody's settings is ours, whatever path and flags it has.
fn is_our_server<'a>(command: Option<&str>, mut args: impl Iterator<Item = &'a str>) -> bool {
    let program = command.and_then(|command| Path::new(command).file_name()).unwrap_or_default();
    program.to_string_lossy().contains("flockd") && args.any(|arg| arg == "mcp")
}

/// Why nothing is put where somebody has a server of that name.
fn another_server(key: &str) -> String {
    format!("{key}.{SERVER} is there and starts another program than `flockd mcp`; rename it, or give --no-mcp")
}

/// A path as one word of a shell.
fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy();
    match text.chars().all(|c| c.is_alphanumeric() || "/._-+".contains(c)) {
        true => text.into_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

#[derive(Debug, Args)]
pub(super) struct InstallArgs {
    /// Whose settings
    #[arg(long, value_name = "NAME", required = true, value_delimiter = ',')]
    client: Vec<Name>,

    /// In the settings of the project around this directory instead of the user's
    #[arg(long)]
    project: bool,

    /// How hooks behave: auto, check or warn
    #[arg(long, value_name = "MODE", value_parser = ["auto", "check", "warn"])]
    mode: Option<String>,

    /// Leave hooks as they are, there or not
    #[arg(long)]
    no_hooks: bool,

    /// Leave the MCP server as it is, there or not
    #[arg(long, conflicts_with = "no_hooks")]
    no_mcp: bool,

    /// Take it out again
    #[arg(long)]
    uninstall: bool,

    /// Only show what would change
    #[arg(long)]
    dry_run: bool,

    /// Try what is installed instead, as `flockd doctor` does
    #[arg(long, conflicts_with_all = ["uninstall", "dry_run"])]
    check: bool,
}

/// One file, and what became of it.
#[derive(Serialize)]
struct Told {
    client: &'static str,
    path: String,
    /// `written`, `unchanged` or `removed`; with `--dry-run` `would_write` and `would_remove`.
    done: &'static str,
}

pub(super) fn install(common: &Common, args: &InstallArgs) -> Result<Exit, Failure> {
    let program = std::env::current_exe()
        .map_err(|error| Failure::new(Exit::Unavailable, format!("this program's own path is unknown: {error}")))?;
    let places = Places::here(args.project).map_err(|why| Failure::new(Exit::Usage, why))?;
    let wish = Wish {
        wanted: !args.uninstall,
        program,
        mode: args.mode.clone().filter(|mode| mode != "auto"),
        hooks: !args.no_hooks,
        server: !args.no_mcp,
    };
    let clients = CLIENTS.iter().filter(|client| args.client.contains(&client.name));
    if args.check {
        return doctor::of(common, &places, clients.collect());
    }
    // All files of all clients are read and understood before the first of them is written.
    let (mut planned, mut refused) = (Vec::new(), Vec::new());
    for client in clients {
        match (client.changes)(&places, &wish) {
            Ok(changes) => planned.push((client, changes)),
            Err(why) => refused.push(format!("{}: {why}", client.word)),
        }
    }
    if !refused.is_empty() {
        let others = if planned.is_empty() { "" } else { "\nnothing was written, not for the other clients either" };
        return Err(Failure::new(Exit::Unavailable, refused.join("\n") + others));
    }
    if wish.hooks {
        planned.iter().for_each(|(client, _)| warn(client, &places, &wish));
    }
    let mut told = Vec::new();
    let carried_out = carry_out(common, args, &planned, &mut told);
    // Where a file cannot be written, those before it were.
    if common.json {
        print::json(&told);
    } else {
        for Told { path, done, .. } in told {
            print::out(&format!("{} {path}\n", done.replace('_', " ")));
        }
    }
    carried_out.map(|()| Exit::Yes)
}

/// What is not ours to change in somebody's settings, and keeps hooks from being of use or looks like one.
fn warn(client: &Client, places: &Places, wish: &Wish) {
    let word = client.word;
    let off = (client.off)(places).into_iter().filter(|_| wish.wanted);
    off.for_each(|off| print::err(&format!("{word}: hooks are not called as long as {off}\n")));
    let mut there = (client.hooks)(places).unwrap_or_default().commands;
    there.sort();
    there.dedup();
    for command in there.iter().filter(|command| is_doubtful_hook(command, word)) {
        let text = format!("{word}: `{command}` stays: its program is not called flockd; take it out by hand");
        print::err(&format!("{text}\n"));
    }
}

/// Makes the changes, or shows them, as far as that goes.
fn carry_out(
    common: &Common,
    args: &InstallArgs,
    planned: &[(&Client, Vec<Change>)],
    told: &mut Vec<Told>,
) -> Result<(), Failure> {
    for (client, changes) in planned {
        for change in changes {
            let done = match args.dry_run {
                true => change.would(),
                false => change.carry_out().map_err(|why| Failure::new(Exit::Unavailable, why))?,
            };
            if args.dry_run && !common.json {
                print::out(&change.shown());
            }
            if let Some(remark) = &change.remark {
                print::err(&format!("{}: {remark}\n", client.word));
            }
            told.push(Told { client: client.word, path: change.path.display().to_string(), done });
        }
        let is_written = told.iter().any(|told| told.client == client.word && told.done == "written");
        if !common.json && !args.uninstall && is_written && !client.note.is_empty() {
            print::err(&format!("{}: {}\n", client.word, client.note));
        }
    }
    Ok(())
}
