//! Commands and flags, wholly checked here; help, completions and errors come from this one definition.

use crate::limits;
use crate::model::{EVENT_NAMES, Invalid};
use clap::{Args, CommandFactory, Parser, Subcommand};
use std::env::VarError;
use std::time::Duration;

const EXIT_STATUSES: &str = "Exit statuses: 0 yes or done, 1 no (held, not yours, lost), 2 usage, 3 waited in vain, \
                             4 deadlock, 5 no daemon or I/O";

/// File locks for a flock of agents.
#[derive(Debug, Parser)]
#[command(
    name = "flockd",
    version,
    max_term_width = 100,
    after_help = EXIT_STATUSES,
    after_long_help = format!("\
Examples:
  flockd run data.json -- ./update.sh     hold it while a command runs
  flockd lock src/ --note refactoring     hold a directory until unlocked, at most 60 min
  flockd ls                               who holds what, who waits
  flockd unlock src/
  flockd sim                              watch eight processes ruin each other's files, then not

The daemon starts by itself and ends when nobody needs it.
{EXIT_STATUSES}")
)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) verb: Verb,

    /// Print JSON instead of text
    #[arg(long, global = true)]
    pub(super) json: bool,

    /// In whose name, PARENT/NAME for a sub-agent; defaults to $FLOCKD_AGENT, else the agent around, on a terminal to
    /// you, for `run` and `elect` to run-PID
    #[arg(long, global = true, value_name = "NAME")]
    pub(super) agent: Option<String>,
}

/// The agent that `$FLOCKD_AGENT` names. Read here and not by clap, whose usage would show `--agent` as if it had to be
/// given wherever the variable is set.
pub(super) fn agent_around() -> Result<Option<String>, Invalid> {
    match std::env::var("FLOCKD_AGENT") {
        Ok(name) => Ok(Some(name)),
        Err(VarError::NotPresent) => Ok(None),
        Err(VarError::NotUnicode(_)) => Err(Invalid("FLOCKD_AGENT is no text in UTF-8".to_owned())),
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Hold a lock, or several, while a command runs
    #[command(after_long_help = "\
The lock lives exactly as long as the command: killing `flockd run` alone frees nothing, and unlike with flock(1) a \
process that the command leaves behind in the background does not keep it. What this agent held before, it holds \
again afterwards, unless the hour is over for which it may. After a second of waiting the holder is named. The \
command's own exit status is passed through, also if the lock was broken or released meanwhile; a sentence on stderr \
says so then. Several scopes are locked in one step, all or none.

Examples:
  flockd run data.json -- python3 update.py
  flockd run schema.sql src/models/ -- ./migrate
  flockd run -s src/ -- cargo check
  flockd run -w 30 @port-3000 -- npm run dev
  flockd run -n -E 75 build/ -- make || echo busy")]
    Run(RunArgs),

    /// Of all who ask under one name one leads; run a command while it does
    #[command(after_long_help = "\
Waits for ever, and names the leader after a second. The command begins when it leads and when the command of the \
leader before has ended; FLOCKD_FENCE has its fencing token. It leads as long as it lives: killing `flockd elect` \
alone changes nothing. If the lock is broken or released meanwhile, or the daemon does not answer for 30 s, the \
command and all that it has started are sent SIGTERM, after --grace SIGKILL, and the status is 1 or that of -E. A \
process of its own sees to that, elect-guard, also when `flockd elect` is killed or stopped. Else the command's own \
exit status is passed through. It runs in a process group of its own, so it does not read from the terminal.

Beside @NAME, by which it leads, it holds @NAME:command, which hangs on the command: `flockd ls` shows both and the \
process.

Without a command it prints a line when it leads, and leads until it is killed.

Examples:
  flockd elect scheduler -- ./scheduler
  flockd elect scheduler --grace 30s -E 75 -- sh -c 'exec ./scheduler --fence $FLOCKD_FENCE'
  flockd elect scheduler --json | { read leader; ./announce \"$leader\"; cat; }
  flockd ls @scheduler                    who leads")]
    Elect(ElectArgs),

    /// Take a lock and keep it until it is unlocked or its lease runs out
    #[command(after_long_help = "\
SCOPE is a file (it need not exist), a directory with all below it, a name that ends in / for a directory to come, \
glob:PATTERN for all files that match, or @NAME for something that is no file. The lease is renewed by whatever its \
agent does about the scope.

Only with glob: before it, or with --glob, is a scope a pattern: app/[id]/page.tsx is a file. Quote patterns, or the \
shell puts the names in their place that there are now. * and ? stay within a name, ** as a whole component is any \
number of directories, [a-z] is one character, {a,b} either, \\ takes the next sign for itself. A pattern also keeps \
others from making new files that match.

Several scopes, up to 64, are locked in one step: all or none, waiting as one request. So nobody waits for whoever \
has one and wants the other. They must have nothing in common: a directory covers what is in it. --json has one \
object with `acquired` and `locks` then. Advisory locks are asked for one by one.

If it was not free in time, the place in the queue is kept for two minutes: the same command again goes on there. \
When its turn comes, it is kept for 30 s, then the next one is served. `flockd unlock SCOPE` gives it up, of several \
scopes by any.

With --advisory the lock is in nobody's way and nobody is in its way: it is there for agents who trust each other to \
see. It is granted at once, names who else is there, and protects no write. Those on one scope are ranked by who came \
first; the first leads, and whoever leads next is told by the event lock.leader.

A sub-agent, claw-1/w1, may take what only claw-1 holds, and gets a lock of its own; claw-1 writes there again when \
that is released.

Examples:
  flockd lock data.json
  flockd lock schema.sql src/models/      both or none
  flockd lock data.json || flockd lock data.json --wait 5m
  flockd lock src/a.rs --agent claw-1/w1  a part of what claw-1 holds
  flockd lock -s src/ --wait 2m --note \"reading the parser\"
  flockd lock -n @port-3000 --ttl 1h
  flockd lock 'glob:src/**/*.rs'          every Rust file below src, those to come included
  flockd lock build/ --pid $$             a script's own: free at the latest when the shell ends
  flockd lock --advisory docs/ --note \"fixing links\"    said to all, in nobody's way
  flockd lock data.json --json | jq .fence")]
    Lock(LockArgs),

    /// Release locks
    #[command(after_long_help = "\
A place in the queue that is kept after a wait in vain is given up as well.

Examples:
  flockd unlock data.json
  flockd unlock --id lk_3g5x
  flockd unlock --all")]
    Unlock(WhichArgs),

    /// Make a shared lock exclusive
    #[command(after_long_help = "\
It waits until nobody shares the scope any more, before all others who wait there. The lock keeps its id and gets a \
new fence. If somebody else there wants the same, both would wait for ever: the second is refused at once (status 4). \
Whatever is answered, the shared lock is kept.

Examples:
  flockd lock -s data.json && flockd upgrade data.json
  flockd upgrade --id lk_3g5x --wait 2m
  flockd upgrade -n data.json || flockd unlock data.json")]
    Upgrade(UpgradeArgs),

    /// Make an exclusive lock shared, with nobody in between
    #[command(after_long_help = "\
The lock keeps its id and its fence. Whoever waits to share the scope is let in.

Examples:
  flockd downgrade data.json
  flockd downgrade --id lk_3g5x")]
    Downgrade(DowngradeArgs),

    /// Start the lease of a lock anew
    #[command(after_long_help = "\
Examples:
  flockd renew data.json
  flockd renew --all --ttl 30m")]
    Renew(RenewArgs),

    /// Who holds what and who waits, as `ls`
    #[command(after_long_help = "\
Examples:
  flockd status
  flockd status src/ --json | jq '.locks[].agent'")]
    Status(StatusArgs),

    /// Who holds what and who waits
    #[command(after_long_help = "\
Examples:
  flockd ls
  flockd ls src/")]
    Ls(StatusArgs),

    /// How much was asked for, refused and waited for since the daemon started
    #[command(after_long_help = "\
The scopes and the agents that ask most are named, the hottest first; all others are counted together, so that the sum \
is everything. Contended is what could not be had at once. A scope is named by figures of its own as long as it is \
among the 128 that are asked for most; when it comes back it begins anew. All is counted since the daemon started, and \
it ends when nobody needs it: `flockd daemon status` says how long it has run.

Times are percentiles: half of all locks were held no longer than HELD 50%.

Examples:
  flockd stats
  flockd stats src/ --top 50              the hottest scopes below src
  flockd stats --json | jq '.scopes[] | [.file_id, .contended_percent, .waited.p95_ms]'
  flockd stats --prometheus > /var/lib/node_exporter/flockd.prom")]
    Stats(StatsArgs),

    /// Wait until a lock could be had; take nothing
    #[command(after_long_help = "\
Examples:
  flockd wait data.json && echo free
  flockd wait -s src/ --wait forever")]
    Wait(WaitArgs),

    /// May I write now? Succeeds if this agent holds the scope exclusively
    #[command(after_long_help = "\
Examples:
  flockd check data.json && cp new.json data.json
  flockd check data.json --fence 17
  flockd check data.json --hash           what `flockd write --if-unchanged` compares")]
    Check(CheckArgs),

    /// Replace a file by what comes on stdin, if this agent may write now
    #[command(after_long_help = "\
The new content is made beside FILE and put in its place by the daemon, in one step, only while this agent holds it \
exclusively: whoever lost the lock meanwhile overwrites nothing. Without a lock one is taken for the moment. Readers \
see the old file or the new one, mode and owner are kept, and it is on the disk when the command returns. Files with \
several names (hard links) and what is no regular file are refused. So is an empty stdin, by which a command that \
failed would empty the file, without --allow-empty.

HASH is BLAKE3 in hexadecimal, as `b3sum` or `flockd check --hash` prints it, or `absent` if there must be no such file.

Examples:
  date | flockd write stamp.txt
  flockd write data.json --fence 17 < new.json
  h=$(flockd check data.json --hash) || :                 # status 1: this agent does not hold it
  ./edit < data.json > new.json && flockd write data.json --if-unchanged $h < new.json")]
    Write(WriteArgs),

    /// End somebody else's lock; its holder is told
    #[command(after_long_help = "\
Examples:
  flockd ls                                              shows the ids
  flockd break lk_3g5x --reason \"claw-1 hangs since noon\"")]
    Break(BreakArgs),

    /// Tell what happens to locks, as it happens
    #[command(after_long_help = "\
Events are lock.acquired, lock.waiting, lock.released, lock.detached, lock.contention, when an advisory lock comes to \
lead lock.leader, when somebody writes to a file that readers hold lock.violation, and when a webhook is given up \
webhook.disabled. The daemon keeps the newest 10,000; what is \
missing, because it is older or was lost in a power cut, is told as such. It goes on when the daemon is restarted, and \
ends with Ctrl-C or the pipe that it writes to. On a terminal it says on stderr that it waits.

Examples:
  flockd watch
  flockd watch src/ --event lock.released
  flockd watch --by claw-1 --since 0                     from the oldest that is kept
  flockd watch --json | jq -c 'select(.event) | [.event, .file_id, .acquired_by]'")]
    Watch(WatchArgs),

    /// Start a command for each event
    #[command(after_long_help = "\
The command has the event as JSON on its stdin, and in its environment: FLOCKD_EVENT, FLOCKD_FILE_ID, FLOCKD_PATH, \
FLOCKD_LOCK_ID, FLOCKD_ACQUIRED_BY, FLOCKD_WORKSPACE_ID, FLOCKD_MODE, FLOCKD_FENCE, FLOCKD_EVENT_ID, \
FLOCKD_EVENT_SEQ, FLOCKD_EVENT_TIME, and where there is something to say FLOCKD_REASON, FLOCKD_WAITER, \
FLOCKD_FORMER_LEADER, FLOCKD_HOW, FLOCKD_NOTE, FLOCKD_REFUSED, FLOCKD_QUEUED, FLOCKD_WAITING, FLOCKD_WEBHOOK_ID, \
FLOCKD_URL. While commands run, events wait: about a thousand here, 10,000 in the daemon; what is missing then is said \
on stderr.

Examples:
  flockd on lock.released data.json -- ./analyze.sh
  flockd on lock.acquired,lock.released src/ --parallel 4 -- sh -c 'echo \"$FLOCKD_EVENT $FLOCKD_FILE_ID\" >> log'
  flockd on lock.released @deploy --once -- make smoke-test
  flockd on lock.leader @review -- sh -c 'echo \"$FLOCKD_ACQUIRED_BY follows $FLOCKD_FORMER_LEADER\"'
  flockd on lock.waiting --by claw-1 -- jq -r .waiter
  flockd on lock.contention -- sh -c 'echo \"$FLOCKD_FILE_ID is hot: $FLOCKD_REFUSED refused\" >&2'
  flockd on lock.violation -- sh -c 'echo \"$FLOCKD_PATH was $FLOCKD_HOW around $FLOCKD_ACQUIRED_BY\" >&2'
  flockd on webhook.disabled -- jq -r .note              a receiver was given up")]
    On(OnArgs),

    /// Take or check locks before an agent's edits: what coding agents call
    #[command(after_long_help = "\
What happens comes on stdin as the client tells it, and is answered in the client's own form and exit status. It is \
installed as a hook of the tools that write files, and of the ends of turns, sub-agents and sessions; then every edit \
locks its file until the end of the turn, and an edit of what somebody else holds is refused, naming the holder. Of \
shell commands only plain redirections and the usual commands with literal names are understood. Calls of \
the server's tools that do not tell whose they are, as in sub-agents, are given the name; commands are refused until \
they say it.

A workspace says in .flockd.toml what it wants: enforcement = \"off\", \"warn\" or \"deny\" (the default). Whatever \
fails, such as a daemon that does not start, lets the edit pass with a warning, unless it says strict = true.

Examples:
  flockd hook --client claude-code
  flockd hook --client gemini --mode check
  flockd hook < payload.json; echo $?")]
    Hook(super::hook::HookArgs),

    /// Put hooks and the MCP server into the settings of coding agents
    #[command(after_long_help = "\
What is there already keeps its place and form, a second call changes nothing, and --uninstall takes out what was put \
in, with objects that are empty then. Hooks make every edit take the lock of its file; the server gives agents the \
same locks as tools. Each session is an agent of its own, by the name that the client has for it, so none is to be \
set. --no-hooks and --no-mcp leave them alone: neither put in nor taken out. Settings that cannot be changed for \
certain are refused with status 5 and what to do by hand.

Examples:
  flockd install --client claude-code,codex
  flockd install --client gemini --project --mode check
  flockd install --client openclaw --dry-run
  flockd install --client codex --check          try what is installed
  flockd install --client claude-code --uninstall
  flockd install --client codex --uninstall --no-hooks   take out the server alone")]
    Install(super::install::InstallArgs),

    /// Try whether daemon, installed hooks and MCP servers work
    #[command(after_long_help = "\
Each hook in somebody's settings is called as its client would: one agent's edit must be let through and take the \
lock, another's must be refused, and the end of the session must free it; with --mode check and warn, what these do. \
Hooks must be there for all moments and tools for which `flockd install` puts them in, and not be switched off as a \
whole. Each MCP entry is started, greeted and asked for its tools. The guard of git is looked at in the repository \
around. Fails if something that is there does not work, if settings that speak of flockd cannot be read, or if nothing \
is installed for any client.

Examples:
  flockd doctor
  flockd doctor --json | jq -r '.[] | select(.state == \"broken\") | .said'")]
    Doctor,

    /// Run git while no other agent's git touches the same index
    #[command(after_long_help = "\
It holds @git-index:DIR, where DIR is the repository's or the worktree's own, so that agents that add and commit at \
once take turns instead of failing on index.lock. Commands that only read, such as log and diff, wait for nobody. \
Git's own exit status is passed through. It waits 25 s.

Examples:
  flockd git add src/main.rs
  flockd git commit -m \"the parser\" -- src/main.rs
  flockd git --wait 2m rebase main")]
    Git(super::git::GitArgs),

    /// Keep git from committing or pushing what another agent holds
    GitGuard(super::git_guard::GitGuardArgs),

    /// Have events sent to a URL, signed, at least once
    Webhook(super::webhook::WebhookArgs),

    /// Serve locks to an agent program by MCP, on stdin and stdout
    #[cfg(feature = "mcp")]
    #[command(after_long_help = "\
An agent program starts this by itself; docs/agents.md has the line for each. It asks in the name of --agent or \
FLOCKD_AGENT, else of the agent program that started it, which is the name of its shell commands and hooks as well. It \
ends when its stdin does, and the locks stay until they are released or their leases run out.

Examples:
  claude mcp add flockd -- flockd mcp
  codex mcp add flockd -- flockd mcp
  flockd mcp --agent claw-1 --workspace ~/site")]
    Mcp(McpArgs),

    /// Look after the daemon
    Daemon(DaemonArgs),

    /// Let many claws race for the same files, without locks and with them
    #[command(after_long_help = "\
Real processes read, think and replace pairs of files that must agree, first without locks, then with flockd, while \
claws and the daemon are killed. Fails if the second run lost, tore or overlapped anything.

Examples:
  flockd sim
  flockd sim --claws 16 --pairs 1 --seed 7
  flockd sim --json | jq .with.lost")]
    Sim(crate::sim::SimArgs),

    /// Print completions for a shell
    #[command(after_long_help = "\
Examples:
  flockd completions bash > ~/.local/share/bash-completion/completions/flockd
  flockd completions fish > ~/.config/fish/completions/flockd.fish")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },

    #[command(hide = true)]
    ElectGuard,

    #[command(hide = true)]
    SimClaw(crate::sim::ClawArgs),

    #[command(hide = true)]
    SimJanitor(crate::sim::JanitorArgs),
}

/// The definition without what is hidden: completions would offer it all the same.
pub(super) fn for_people() -> clap::Command {
    let whole = Cli::command();
    let shown = whole.get_subcommands().filter(|command| !command.is_hide_set()).cloned();
    clap::Command::new("flockd").args(whole.get_arguments().cloned()).subcommands(shown)
}

/// How long to wait, in the ways in which people say it.
#[derive(Clone, Debug, Args)]
pub(super) struct Patience {
    /// Wait this long (30s, 5m, 1h30m, a bare number is seconds), 0 to try, or `forever`; `run` waits for ever,
    /// others 25 s
    #[arg(long, value_name = "DURATION", value_parser = wait, conflicts_with_all = ["nonblock", "seconds"])]
    wait: Option<Wait>,

    /// Do not wait, as flock(1)
    #[arg(short = 'n', long, conflicts_with = "seconds")]
    nonblock: bool,

    /// Wait so many seconds, as flock(1)
    #[arg(short = 'w', long = "timeout", value_name = "SECONDS", value_parser = wait)]
    seconds: Option<Wait>,
}

/// Milliseconds to wait; none for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wait(Option<u64>);

impl Patience {
    /// With this wait, in milliseconds, where none is said.
    pub(super) fn or_wait(&self, ms: u64) -> Patience {
        let is_said = self.nonblock || self.wait.or(self.seconds).is_some();
        if is_said { self.clone() } else { Patience { wait: Some(Wait(Some(ms))), ..self.clone() } }
    }

    /// Milliseconds to wait, none for ever.
    pub(super) fn wait_ms(&self, default: Option<u64>) -> Option<u64> {
        match (self.nonblock, self.wait.or(self.seconds)) {
            (true, _) => Some(0),
            (false, Some(Wait(wait))) => wait,
            (false, None) => default,
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// Share it with other readers
    #[arg(short, long)]
    pub(super) shared: bool,

    #[command(flatten)]
    pub(super) patience: Patience,

    /// Exit status if the lock is not got
    #[arg(short = 'E', long, value_name = "NUM")]
    pub(super) conflict_exit_code: Option<u8>,

    /// Do not flock(2) the file as well: its programs do that themselves
    #[arg(long)]
    pub(super) no_os_lock: bool,

    /// Why, for whoever waits
    #[arg(long, value_name = "TEXT")]
    pub(super) note: Option<String>,

    /// Each SCOPE is a pattern, as with `glob:` before it; quote it
    #[arg(long)]
    pub(super) glob: bool,

    /// Files, directories, 'glob:PATTERN's or @names: all or none
    #[arg(value_name = "SCOPE", required = true)]
    pub(super) scopes: Vec<std::ffi::OsString>,

    /// Command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(super) command: Vec<std::ffi::OsString>,

    /// Variables for it, where another command of ours runs it
    #[arg(skip)]
    pub(super) environment: Vec<(&'static str, String)>,
}

#[derive(Debug, Args)]
pub(super) struct ElectArgs {
    /// What there is one leader of; it holds @NAME
    #[arg(value_name = "NAME")]
    pub(super) name: String,

    /// Time between SIGTERM and SIGKILL for a command that does not lead any more
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = grace)]
    pub(super) grace: u64,

    /// Exit status if the command was ended because it did not lead any more
    #[arg(short = 'E', long, value_name = "NUM", default_value_t = 1)]
    pub(super) lost_exit_code: u8,

    /// Why, for whoever waits
    #[arg(long, value_name = "TEXT")]
    pub(super) note: Option<String>,

    /// Command and its arguments
    #[arg(last = true, value_name = "COMMAND")]
    pub(super) command: Vec<std::ffi::OsString>,
}

#[derive(Debug, Args)]
pub(super) struct LockArgs {
    /// Share it with other readers
    #[arg(short, long)]
    pub(super) shared: bool,

    /// Only say so to all: never waits, keeps nobody out, protects no write; ranked by who came first
    #[arg(long, conflicts_with = "shared")]
    pub(super) advisory: bool,

    #[command(flatten)]
    pub(super) patience: Patience,

    /// The lease: how long the lock lives after its agent's last call about it [default: 10m]
    #[arg(long, value_name = "DURATION", value_parser = ttl)]
    pub(super) ttl: Option<u64>,

    /// Why, for whoever waits
    #[arg(long, value_name = "TEXT")]
    pub(super) note: Option<String>,

    /// Do not flock(2) the file as well: its programs do that themselves
    #[arg(long)]
    pub(super) no_os_lock: bool,

    /// End the lock with this process as well, however much of the lease is left
    #[arg(long, value_name = "PID")]
    pub(super) pid: Option<u32>,

    /// Name this request: repeated with it, it gets the same locks
    #[arg(long, value_name = "ID")]
    pub(super) request_id: Option<String>,

    /// Each SCOPE is a pattern, as with `glob:` before it; quote it
    #[arg(long)]
    pub(super) glob: bool,

    /// Files, directories, 'glob:PATTERN's or @names: all or none
    #[arg(value_name = "SCOPE", required = true)]
    pub(super) scopes: Vec<std::ffi::OsString>,
}

#[derive(Debug, Args)]
pub(super) struct StatsArgs {
    /// Only scopes that overlap one of these: files, directories, 'glob:PATTERN's or @names; agents are all listed
    #[arg(value_name = "SCOPE")]
    pub(super) scopes: Vec<std::ffi::OsString>,

    /// Each SCOPE is a pattern, as with `glob:` before it; quote them
    #[arg(long)]
    pub(super) glob: bool,

    /// Name so many scopes and agents, at most 128 [default: 10]
    #[arg(long, value_name = "NUMBER")]
    pub(super) top: Option<usize>,

    /// Print the text that Prometheus reads
    #[arg(long, conflicts_with = "json")]
    pub(super) prometheus: bool,
}

#[derive(Debug, Args)]
pub(super) struct WhichArgs {
    #[command(flatten)]
    pub(super) which: Which,

    /// Each SCOPE is a pattern, as with `glob:` before it; quote them
    #[arg(long)]
    pub(super) glob: bool,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct Which {
    /// Files, directories, 'glob:PATTERN's or @names, exactly as locked
    #[arg(value_name = "SCOPE")]
    pub(super) scopes: Vec<std::ffi::OsString>,

    /// The lock with this id
    #[arg(long, value_name = "ID")]
    pub(super) id: Option<String>,

    /// All of this agent's
    #[arg(long)]
    pub(super) all: bool,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct WhichOne {
    /// File, directory, 'glob:PATTERN' or @name, exactly as locked
    #[arg(value_name = "SCOPE")]
    pub(super) scope: Option<std::ffi::OsString>,

    /// The lock with this id
    #[arg(long, value_name = "ID")]
    pub(super) id: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct UpgradeArgs {
    #[command(flatten)]
    pub(super) which: WhichOne,

    /// SCOPE is a pattern, as with `glob:` before it; quote it
    #[arg(long)]
    pub(super) glob: bool,

    #[command(flatten)]
    pub(super) patience: Patience,

    /// Name this request: repeated with it, it gets the same answer
    #[arg(long, value_name = "ID")]
    pub(super) request_id: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct DowngradeArgs {
    #[command(flatten)]
    pub(super) which: WhichOne,

    /// SCOPE is a pattern, as with `glob:` before it; quote it
    #[arg(long)]
    pub(super) glob: bool,
}

#[derive(Debug, Args)]
pub(super) struct RenewArgs {
    #[command(flatten)]
    pub(super) which: Which,

    /// Each SCOPE is a pattern, as with `glob:` before it; quote them
    #[arg(long)]
    pub(super) glob: bool,

    /// The new lease; the old one's length if absent
    #[arg(long, value_name = "DURATION", value_parser = ttl)]
    pub(super) ttl: Option<u64>,
}

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// SCOPE is a pattern, as with `glob:` before it; quote it
    #[arg(long)]
    pub(super) glob: bool,

    /// Only what overlaps this
    #[arg(value_name = "SCOPE")]
    pub(super) scope: Option<std::ffi::OsString>,
}

#[derive(Debug, Args)]
pub(super) struct WaitArgs {
    /// Until it could be shared with other readers
    #[arg(short, long)]
    pub(super) shared: bool,

    #[command(flatten)]
    pub(super) patience: Patience,

    /// SCOPE is a pattern, as with `glob:` before it; quote it
    #[arg(long)]
    pub(super) glob: bool,

    /// File, directory, 'glob:PATTERN' or @name
    #[arg(value_name = "SCOPE")]
    pub(super) scope: std::ffi::OsString,
}

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// SCOPE is a pattern, as with `glob:` before it; quote it
    #[arg(long)]
    pub(super) glob: bool,

    /// File, directory, 'glob:PATTERN' or @name
    #[arg(value_name = "SCOPE")]
    pub(super) scope: std::ffi::OsString,

    /// Only under this fencing token
    #[arg(long, value_name = "N")]
    pub(super) fence: Option<u64>,

    /// Print the BLAKE3 hash of the file as it is now, or `absent`
    #[arg(long)]
    pub(super) hash: bool,
}

#[derive(Debug, Args)]
pub(super) struct WriteArgs {
    /// The file; it need not exist
    #[arg(value_name = "FILE")]
    pub(super) file: std::ffi::OsString,

    /// Only if the file still has this BLAKE3 hash, or is `absent`
    #[arg(long, value_name = "HASH", value_parser = expected)]
    pub(super) if_unchanged: Option<crate::client::Expected>,

    /// Only under this fencing token
    #[arg(long, value_name = "N")]
    pub(super) fence: Option<u64>,

    /// Make the file empty if nothing comes on stdin, instead of leaving it as it is
    #[arg(long)]
    pub(super) allow_empty: bool,

    #[command(flatten)]
    pub(super) patience: Patience,

    /// Why, for whoever waits meanwhile
    #[arg(long, value_name = "TEXT")]
    pub(super) note: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct BreakArgs {
    /// The lock's exact id, from `flockd ls`
    #[arg(value_name = "ID")]
    pub(super) id: String,

    /// Why; the holder is told
    #[arg(long, value_name = "TEXT")]
    pub(super) reason: String,
}

/// Which events, in the ways in which `watch` and `on` have in common.
#[derive(Debug, Args)]
pub(super) struct EventArgs {
    /// Only locks and waits of this agent; may be given again
    #[arg(long, value_name = "NAME")]
    pub(super) by: Vec<String>,

    /// From behind the event with this number instead of from now on
    #[arg(long, value_name = "SEQ")]
    pub(super) since: Option<u64>,

    /// Only what overlaps these files, directories or @names
    #[arg(value_name = "SCOPE")]
    pub(super) scopes: Vec<std::ffi::OsString>,
}

#[derive(Debug, Args)]
pub(super) struct WatchArgs {
    /// Only these events, such as lock.released; several with commas, or given again
    #[arg(long = "event", value_name = "NAME", value_delimiter = ',', value_parser = event)]
    pub(super) events: Vec<String>,

    #[command(flatten)]
    pub(super) which: EventArgs,
}

/// Names of events, given with commas.
#[derive(Clone, Debug)]
pub(super) struct EventNames(pub(super) Vec<String>);

#[derive(Debug, Args)]
pub(super) struct OnArgs {
    /// Which events, such as lock.released; several with commas
    #[arg(value_name = "EVENT", value_parser = events)]
    pub(super) events: EventNames,

    #[command(flatten)]
    pub(super) which: EventArgs,

    /// So many commands at once; the order of their ends is anybody's then
    #[arg(long, value_name = "N", default_value = "1", value_parser = parallel)]
    pub(super) parallel: usize,

    /// Only for the first event; the command's exit status is passed through
    #[arg(long, conflicts_with = "parallel")]
    pub(super) once: bool,

    /// Command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(super) command: Vec<std::ffi::OsString>,
}

#[cfg(feature = "mcp")]
#[derive(Debug, Args)]
pub(super) struct McpArgs {
    /// Where relative paths begin; without it the working directory
    #[arg(long, value_name = "DIR")]
    pub(super) workspace: Option<std::path::PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct DaemonArgs {
    #[command(subcommand)]
    pub(super) verb: DaemonVerb,
}

#[derive(Debug, Subcommand)]
pub(super) enum DaemonVerb {
    /// Serve in the foreground until told to stop
    #[command(after_long_help = "\
For a service manager, or to see why the daemon does not start. SIGTERM ends it in order.

Examples:
  flockd daemon run --idle-exit never
  FLOCKD_HOME=/tmp/try flockd daemon run        beside the one that serves you")]
    Run {
        #[command(flatten)]
        options: DaemonOptions,

        /// Started by `daemon start`: leave the terminal, log to a file, say ready on stdout
        #[arg(long, hide = true)]
        detached: bool,
    },
    /// Start it in the background, if it does not run already
    #[command(after_long_help = "\
Every command that needs the daemon does this by itself.

Examples:
  flockd daemon start
  flockd daemon start --fresh        the journal cannot be read: set it aside, start without its locks")]
    Start {
        #[command(flatten)]
        options: DaemonOptions,
    },
    /// End it in order; locks stay in its journal
    #[command(after_long_help = "\
Examples:
  flockd daemon stop
  flockd daemon stop && flockd daemon start --idle-exit never")]
    Stop,
    /// Whether and how it runs
    #[command(after_long_help = "\
Examples:
  flockd daemon status
  flockd daemon status --json | jq .pid")]
    Status,
}

#[derive(Clone, Debug, Args)]
pub(super) struct DaemonOptions {
    /// End after so long without locks, sessions and clients, or `never`
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = idle)]
    pub(super) idle_exit: Idle,

    /// Set a journal that cannot be read aside, and start without its locks
    #[arg(long)]
    pub(super) fresh: bool,
}

/// Milliseconds; none never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Idle(pub(super) Option<u64>);

/// Reads what a file must be.
fn expected(text: &str) -> Result<crate::client::Expected, String> {
    match text {
        "absent" => Ok(crate::client::Expected::Absent),
        hash if hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            Ok(crate::client::Expected::Hash(hash.to_owned()))
        }
        _ => Err("a BLAKE3 hash has 64 hexadecimal digits, as `b3sum` prints it; or say `absent`".to_owned()),
    }
}

// ── Durations ───────────────────────────────────────────────────────────────────────────────────────────────────────

/// Reads a duration: `30s`, `5m`, `1h30m`; a bare number is seconds. Milliseconds.
pub(super) fn duration(text: &str) -> Result<u64, String> {
    let seconds = text.parse::<f64>().ok();
    let parsed = match seconds {
        Some(seconds) if seconds.is_nan() => return Err("not a number is no duration".to_owned()),
        Some(seconds) if seconds < 0.0 => return Err("a duration is not negative".to_owned()),
        Some(seconds) => Duration::try_from_secs_f64(seconds).ok(),
        None => Some(humantime::parse_duration(text).map_err(|error| format!("{error}; write 30s, 5m or 1h30m"))?),
    };
    let ms = parsed.and_then(|parsed| u64::try_from(parsed.as_millis()).ok());
    ms.ok_or_else(|| "that is longer than anything lasts".to_owned())
}

fn bounded(text: &str, max: u64, what: &str) -> Result<u64, String> {
    let ms = duration(text)?;
    if ms > max { Err(format!("{what} is at most 24h")) } else { Ok(ms) }
}

fn ttl(text: &str) -> Result<u64, String> {
    bounded(text, limits::TTL_MAX, "a lease")
}

fn grace(text: &str) -> Result<u64, String> {
    bounded(text, limits::WAIT_MAX, "the grace")
}

fn wait(text: &str) -> Result<Wait, String> {
    match text {
        "forever" => Ok(Wait(None)),
        text => bounded(text, limits::WAIT_MAX, "a finite wait").map(|ms| Wait(Some(ms))),
    }
}

/// An event's name; one that is mistyped would never come.
pub(super) fn event(text: &str) -> Result<String, String> {
    match EVENT_NAMES.contains(&text) {
        true => Ok(text.to_owned()),
        false => Err(format!("there is no such event; there are {}", EVENT_NAMES.join(", "))),
    }
}

fn events(text: &str) -> Result<EventNames, String> {
    text.split(',').map(event).collect::<Result<_, _>>().map(EventNames)
}

fn parallel(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number @ 1..=limits::COMMANDS_AT_ONCE) => Ok(number),
        _ => Err(format!("1 to {} commands run at once", limits::COMMANDS_AT_ONCE)),
    }
}

fn idle(text: &str) -> Result<Idle, String> {
    match text {
        "never" => Ok(Idle(None)),
        text => duration(text).map(|ms| Idle(Some(ms))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_are_read_as_people_write_them() {
        let cases = [("30s", 30_000), ("5m", 300_000), ("1h30m", 5_400_000), ("2", 2_000), ("0.25", 250), ("0", 0)];
        for (text, ms) in cases {
            assert_eq!(duration(text), Ok(ms), "{text}");
        }
        for text in ["", "NaN", "inf", "-1", "-5s", "1e300", "5 apples", "18446744073709551616s"] {
            assert!(duration(text).is_err(), "{text}");
        }
        assert_eq!(wait("forever"), Ok(Wait(None)));
        assert!(ttl("25h").unwrap_err().contains("24h"));
        assert_eq!(grace("10s"), Ok(limits::ELECT_GRACE), "the default of `elect --grace`");
    }

    #[test]
    fn every_command_that_people_see_has_an_example() {
        for command in Cli::command().get_subcommands().filter(|command| !command.is_hide_set()) {
            let has_own = |command: &clap::Command| command.get_after_long_help().is_some();
            let below_all = command.has_subcommands() && command.get_subcommands().all(has_own);
            assert!(has_own(command) || below_all, "{} has no example", command.get_name());
        }
    }
}
