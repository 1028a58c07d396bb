//! Every bound of flockd with its reason; nothing that can grow is without one.
//!
//! Durations are milliseconds, sizes are bytes. Relations between bounds are asserted at compile time at the foot.

/// One second, in the unit of this file.
pub const SECOND: u64 = 1_000;
/// One minute, in the unit of this file.
pub const MINUTE: u64 = 60 * SECOND;
/// One hour, in the unit of this file.
pub const HOUR: u64 = 60 * MINUTE;

// ── Leases ──────────────────────────────────────────────────────────────────────────────────────────────────────────

/// Longest lease. A day covers any unattended task; a longer one is a forgotten lock.
pub const TTL_MAX: u64 = 24 * HOUR;
/// Lease of a one-shot lock (CLI, hook, MCP call) that names none: longer than any single tool call, short enough
/// that a vanished agent does not cost its fellows an afternoon.
pub const TTL_ONE_SHOT: u64 = 10 * MINUTE;
/// Lease of a session's lock that names none: a restarted agent is back within it, a dead one blocks no longer.
pub const TTL_SESSION: u64 = MINUTE;
/// Longest time a one-shot lock is held, however often it is renewed: nothing watches its holder.
pub const MAX_HOLD: u64 = 60 * MINUTE;
/// How long a live but silent session keeps its ttl-0 locks after a restart of the daemon: clients reconnect within
/// milliseconds, so a minute of silence from a running process means that it has forgotten us.
pub const SESSION_SILENCE: u64 = 60 * SECOND;
/// How long a restored waiter keeps its place until its client asks again.
pub const WAITER_ABSENCE: u64 = 10 * SECOND;
/// How long a place in the queue is kept for an agent that has waited in vain: it asks again after a thought or another
/// tool call, and those behind it must not wait much longer for one that never will.
pub const TICKET_KEPT: u64 = 2 * MINUTE;
/// How long a kept place whose turn has come keeps the next one waiting. An agent needs some seconds to ask again, and
/// nobody tells it that it should.
pub const TICKET_OFFERED: u64 = 30 * SECOND;

// ── Waiting ─────────────────────────────────────────────────────────────────────────────────────────────────────────

/// Default wait of `lock`: tool calls are commonly cut at 60 s, and the answer must come well before that.
pub const WAIT_DEFAULT: u64 = 25 * SECOND;
/// Longest finite wait; longer ones should say `forever`.
pub const WAIT_MAX: u64 = 24 * HOUR;

/// First pause before a flock that a foreign program held is tried again. Nothing tells that it was let go, so it is
/// tried again and again, each pause twice the last.
pub const OS_PAUSE_FIRST: u64 = 50;
/// Longest such pause.
pub const OS_PAUSE_MAX: u64 = SECOND;

/// How often `elect` asks whether it still leads. Nobody is let in meanwhile: the next leader waits for the end of the
/// command. So this is how long a broken leadership is kept from the next one, beside the grace below.
pub const ELECT_LOOK: u64 = SECOND;
/// How long `elect` goes on without a word from the daemon: as long as the start of one may take. Nobody else can be
/// let in where no daemon answers, unless the home was replaced.
pub const ELECT_UNSURE: u64 = READY_WITHIN;
/// How long one such question may take. Several fit in the time above, so that it is not one answer that decides.
pub const ELECT_ANSWER: u64 = 5 * SECOND;
/// How long `elect` waits for the process that is to guard its command, before it starts another: a busy machine lets
/// one wait for seconds.
pub const ELECT_SILENT: u64 = 5 * SECOND;
/// How long a command that does not lead any more has between SIGTERM and SIGKILL, as containers have.
pub const ELECT_GRACE: u64 = 10 * SECOND;

/// The pauses of `on` before it tries again to start a command, where what is in the way may pass: a program that is
/// being written, no more processes. Over five seconds in all; what lasts longer does not pass by itself.
pub const SPAWN_PAUSES: [u64; 9] = [10, 30, 100, 300, SECOND, SECOND, SECOND, SECOND, SECOND];

// ── Hooks ───────────────────────────────────────────────────────────────────────────────────────────────────────────

/// Longest time that a lock taken by a hook is held: its agent did not ask for it, and a turn that takes longer has
/// touched its files again, or is stuck.
pub const HOOK_MAX_HOLD: u64 = 30 * MINUTE;
/// When a client stops to listen to a hook that does not say otherwise; `flockd install` writes the same into the
/// client's settings.
pub const HOOK_TIMEOUT: u64 = 30 * SECOND;
/// How long before that a hook answers: a late answer is none, and most clients let the tool run then.
pub const HOOK_MARGIN: u64 = SECOND;
/// How long a hook that has answered waits for the daemon to read which losses it told; else they are told again.
pub const HOOK_HEARD_WITHIN: u64 = 250;
/// Most bytes that are read of what a client says: whole new files come along.
pub const HOOK_INPUT_MAX: u64 = 64 * 1024 * 1024;
/// Longest first line that is read of a transcript of Codex: the instructions to its model are in it.
pub const CODEX_META_MAX: u64 = 4 * 1024 * 1024;
/// How long a file of notes on an agent's commands grows until it is put aside, and the one before it forgotten: a
/// thousand commands at least. What goes on in the background behind so many others acts in the name that its
/// environment has.
pub const COMMANDS_BYTES: u64 = 128 * 1024;
/// How soon after its hook the shell of a command begins, in hundredths of a second: at once, unless a person has to
/// allow it.
pub const COMMAND_BEGINS_WITHIN: u64 = 200;
/// How long `flockd` that a command has left behind waits for the hook that notes it, where it may be of several.
pub const COMMAND_ENDS_WITHIN: u64 = 5 * SECOND;
/// How many files of notes are kept, two for a session at most: whoever was silent for longest has ended.
pub const COMMANDS_FILES: usize = 256;

// ── Memory of what ended ────────────────────────────────────────────────────────────────────────────────────────────

/// How long an ended lock is remembered: retries of its request are recognised, and a late release is answered
/// with when and why it ended.
pub const ENDED_KEPT: u64 = 10 * MINUTE;
/// How many ended locks are remembered at most; beyond it the oldest goes. At 300 bytes each this is 6 MB.
pub const ENDED_MAX: usize = 20_000;
/// How long the notice of a loss waits for its agent. An agent that has not called for a week is gone.
pub const NOTICE_KEPT: u64 = 7 * 24 * HOUR;
/// How many notices wait at most; beyond it the oldest goes.
pub const NOTICES_MAX: usize = 4_096;
/// How many notices a client keeps that its program has not asked for; beyond it the oldest goes. The daemon has told
/// them, and a program that never asks must not grow by them.
pub const CLIENT_NOTICES_MAX: usize = 256;

// ── Contention ──────────────────────────────────────────────────────────────────────────────────────────────────────

/// How many requests for one scope, refused or kept waiting, make it contended, where the workspace does not say: fewer
/// come together by chance where agents share files.
pub const CONTENTION_REQUESTS: u32 = 5;
/// Within which time, where the workspace does not say; also the time by which it is bounded how many scopes are told.
pub const CONTENTION_WITHIN: u64 = 10 * SECOND;
/// Most that a workspace may say: their moments are kept for each scope, 16 bytes each.
pub const CONTENTION_REQUESTS_MAX: u32 = 100;
/// Shortest time that a workspace may say: no event a second and scope is of use to anybody.
pub const CONTENTION_WITHIN_MIN: u64 = SECOND;
/// Longest.
pub const CONTENTION_WITHIN_MAX: u64 = HOUR;
/// Scopes that are counted at once; beyond it the one that was asked for longest ago is forgotten. At 300 bytes each
/// they take 3 MB, at their most 20.
pub const CONTENTION_SCOPES_MAX: usize = 10_000;
/// How many contended scopes are told in ten seconds; others are a count in the next event. Where everything is
/// contended, that is what there is to know, and all other events must not drown in it.
pub const CONTENTION_TOLD_MAX: usize = 32;
/// Scopes, and as many agents, whose statistics are kept by name; those of all others are kept together. The counts of
/// one take 2 KB where all is quick and 22 KB where something took a day: half a megabyte together, at most 6.
pub const STATS_NAMED: usize = 128;
/// How many of them an answer names where nobody says: what fits a screen.
pub const STATS_TOP: usize = 10;
/// Percentiles of holds and waits tell apart what is not longer: the longest lease.
pub const STATS_TIME_MAX: u64 = TTL_MAX;
/// The same for the journal, in microseconds: a disk that takes a minute is as good as none.
pub const STATS_LATENCY_MAX: u64 = MINUTE * 1_000;
/// Longest `.flockd.toml`: people write some lines.
pub const CONFIG_MAX: u64 = 64 * 1024;
/// Workspaces that say what counts as contended; beyond it the one unused for longest goes back to what
/// all have.
pub const CONTENTION_WORKSPACES_MAX: usize = 1_024;
/// The latest times for which a contended scope was held, whose median is taken for the usual one.
pub const CONTENTION_HOLDS: usize = 16;
/// Shortest time after which another try is advised: a client that starts a process for each has use for no shorter.
pub const RETRY_AFTER_MIN: u64 = 100;
/// Longest: beyond it nobody knows.
pub const RETRY_AFTER_MAX: u64 = 5 * MINUTE;

// ── Writes around the locks ─────────────────────────────────────────────────────────────────────────────────────────

/// For how long after an exclusive lock has ended a write counts as its holder's: the kernel's word of it goes through
/// two threads and waits for [`WATCH_PAUSE`], a moment altogether, or a second where the machine is busy.
pub const VIOLATION_GRACE: u64 = 2 * SECOND;
/// Ended exclusive locks that are remembered for that. Each is compared with each file that is seen to be written, all
/// together in a fraction of a millisecond; where more end, no violation is told until all of them are so long ago.
pub const VIOLATION_WRITERS_MAX: usize = 512;
/// A violation of a lock is told once in this time: whoever writes once mostly writes again, and one word is enough.
pub const VIOLATION_WITHIN: u64 = 10 * SECOND;
/// How many violations are told in that time: whoever overwrites a whole tree must not drown all other events.
pub const VIOLATIONS_TOLD_MAX: usize = 256;
/// How long after something was seen the next look comes: somebody who writes all the time costs twenty rounds a
/// second.
pub const WATCH_PAUSE: u64 = 50;
/// Directories that are watched at once. Older kernels give a user 8,192 watches, and editors want most of them.
pub const WATCHED_DIRS_MAX: usize = 1_024;
/// Of those, how many stay watched that nobody needs now: agents come back to where they were.
pub const WATCHED_IDLE_MAX: usize = 16;
/// How long after it was said why not all is seen it is said again, if it goes on: a burst of writes lasts seconds, and
/// each is worth a line of the log, not more.
pub const WATCH_TROUBLE_WITHIN: u64 = 10 * MINUTE;

// ── Counts ──────────────────────────────────────────────────────────────────────────────────────────────────────────

/// Most locks in one home. At about 600 bytes each the table stays below 150 MB.
pub const LOCKS_MAX: usize = 200_000;
/// Most waiting requests in one home.
pub const WAITERS_MAX: usize = 50_000;
/// Most places kept in one home for agents that are not there. Half the queue, so that those who wait find room.
pub const TICKETS_MAX: usize = WAITERS_MAX / 2;
/// Most places kept for one agent. It will hardly come back for more, and each keeps others waiting.
pub const TICKETS_OF_AGENT: usize = 64;
/// Most scopes that are asked for together. A commit of that many files is a large one; each is a row of its own in
/// the queue, and whether all are free is looked up for all whenever one of them may be. Whoever wants more takes a
/// directory.
pub const SET_MAX: usize = 64;
/// Most sessions in one home.
pub const SESSIONS_MAX: usize = 20_000;
/// Most holders that one refusal names; the rest is a count.
pub const HOLDERS_NAMED: usize = 64;
/// Most names remembered of one agent process, to find two processes of one name. A process with more gives names to
/// workers, and knows what it does.
pub const NAMES_OF_PROCESS: usize = 64;
/// Most of an agent's own locks that are looked through for waiters when it is answered.
pub const WANTED_LOOKED_AT: usize = 16;
/// The same when it asks for nothing but news: sixteen full sets. Each costs a look-up, on the loop.
pub const NEWS_LOOKED_AT: usize = 1_024;
/// Most losses in one answer to that, so that a model reads what it is told; the rest is told by the next ones.
pub const NEWS_LOSSES: usize = 50;
/// Fences and event numbers reserved at a time: one synced write for each 65,536 grants, and a restart skips at most
/// one block, so 2^53 lasts for 2^37 restarts.
pub const NUMBERS_RESERVED: u64 = 65_536;
/// No fence reaches this: JSON numbers are exact only below it.
pub const FENCE_END: u64 = 1 << 53;
/// Events kept for later readers; beyond it the oldest go at the next fold.
pub const EVENTS_KEPT: u64 = 10_000;

// ── Words ───────────────────────────────────────────────────────────────────────────────────────────────────────────

/// Longest agent name: it stands in every row, refusal and event.
pub const AGENT_MAX: usize = 128;
/// Most parts of an agent name, `claw-456/worker-1` has two. Agents start agents that start agents, each level a
/// program with a task of its own; what is deeper is a loop.
pub const AGENT_DEPTH_MAX: usize = 8;
/// Longest note ("why"): one sentence for whoever waits.
pub const NOTE_MAX: usize = 500;
/// Longest request id.
pub const REQUEST_ID_MAX: usize = 128;
/// Longest resource name after its `@`.
pub const RESOURCE_MAX: usize = 255;
/// Longest path: PATH_MAX of Linux less its terminating zero.
pub const PATH_MAX: usize = 4_095;
/// Longest component of a path: NAME_MAX of Linux.
pub const NAME_MAX: usize = 255;

// ── Patterns ────────────────────────────────────────────────────────────────────────────────────────────────────────

/// Longest pattern behind its fixed part. People write some dozen bytes; what is longer is a list of files, and those
/// can be locked as such.
pub const PATTERN_MAX: usize = 1_024;
/// Most alternatives that the braces of one pattern stand for.
pub const PATTERN_ALTERNATIVES_MAX: usize = 256;
/// Most bytes that each step of making an automaton may take (its graph, its table, the work on it): a few
/// milliseconds of the loop at most.
pub const PATTERN_WORK_MAX: usize = 1024 * 1024;
/// Most entries of the table of a pattern, two bytes each. `src/**/*.rs` has about a hundred.
pub const PATTERN_TABLE_MAX: usize = 64 * 1024;
/// Most different patterns that are held or waited for in one home. At their largest they take a quarter gigabyte, as
/// people write them a few megabytes.
pub const PATTERNS_MAX: usize = 2_048;
/// Most pairs of states looked at to compare two patterns. Common ones take some dozen; whoever comes with a pattern
/// that takes more is refused, since a wrong answer would be a race or a wait for nothing.
pub const PATTERN_PAIRS_MAX: usize = 10_000;

// ── Wire ────────────────────────────────────────────────────────────────────────────────────────────────────────────

/// Longest line of a request: scope, working directory and workspace at PATH_MAX, every byte escaped fourfold, and
/// room for the rest.
pub const LINE_MAX: usize = 64 * 1024;
/// Longest line of an answer. `status` lists everything, so it may be long; a client reads no further.
pub const ANSWER_MAX: usize = 256 * 1024 * 1024;
/// Most bytes of answers kept for a peer that does not read; beyond it the peer is cut off, nobody waits for it.
pub const OUTBOX_MAX: usize = 1024 * 1024;
/// Events wait for a peer that has so many bytes unread: its answers have the rest of the outbox for themselves.
pub const EVENTS_OUTBOX: usize = 64 * 1024;
/// Events whose lines are kept for further subscribers that want them.
pub const EVENT_LINES_KEPT: usize = 256;
/// Most names, scopes, agents and workspaces that a subscriber may list, each: every event is held against them.
pub const FILTER_MAX: usize = 256;
/// Most connections at once; each costs a descriptor and about a kilobyte.
pub const CONNECTIONS_MAX: usize = 8_192;
/// How long a new connection may take to say hello.
pub const HELLO_WITHIN: u64 = 10 * SECOND;
/// How often a client connects, and starts a daemon that is not there, before it gives up. A daemon that was ready may
/// be killed or replaced before it greets, and its successor as well; one that dies of every greeting is told of within
/// a second or two.
pub const CONNECT_ATTEMPTS: u32 = 20;
/// How long a client waits to be greeted: a loop that runs does so within milliseconds, one that does not is stopped or
/// hangs.
pub const GREETED_WITHIN: u64 = 10 * SECOND;
/// How long a client waits for the answer to a request that does not wait for a lock.
pub const ANSWER_WITHIN: u64 = 30 * SECOND;
/// How long git's hooks wait for an answer: somebody sits before `git commit`, which goes ahead then.
pub const GIT_GUARD_WITHIN: u64 = 10 * SECOND;
/// How long a client waits for a daemon it started to become ready: loading 200,000 locks takes under two seconds,
/// a cold and busy machine ten times that.
pub const READY_WITHIN: u64 = 30 * SECOND;
/// How long a client waits for others that start a daemon: two starts of the longest kind.
pub const START_WITHIN: u64 = 2 * READY_WITHIN;

// ── Webhooks ────────────────────────────────────────────────────────────────────────────────────────────────────────

/// Most webhooks in one home, and most posts of events on their way at once. Each webhook may have one, and looks at
/// every event; that of a removed webhook counts until it ends, so that threads do not add up where many come and go.
pub const WEBHOOKS_MAX: usize = 64;
/// Most posts on their way at once: one event and one test for each webhook.
pub const WEBHOOK_POSTS: usize = 2 * WEBHOOKS_MAX;
/// Longest URL of a webhook; what is longer is refused by many servers as well.
pub const WEBHOOK_URL_MAX: usize = 2_048;
/// Most scopes that one webhook names; a row of the journal holds them all. Whoever wants more takes a directory.
pub const WEBHOOK_SCOPES_MAX: usize = 8;
/// Shortest secret, as the Standard Webhooks have it.
pub const WEBHOOK_SECRET_MIN: usize = 24;
/// Longest secret, as the Standard Webhooks have it.
pub const WEBHOOK_SECRET_MAX: usize = 64;
/// How long one attempt may take in all: a receiver should answer first and work then.
pub const WEBHOOK_WITHIN: u64 = 20 * SECOND;
/// How much of that may go by until the name is resolved, and again until the connection stands.
pub const WEBHOOK_CONNECT_WITHIN: u64 = 10 * SECOND;
/// Most that is read of an answer, head and body each: only its status says anything.
pub const WEBHOOK_ANSWER_MAX: u64 = 64 * 1024;
/// Longest `Retry-After` that is heeded; beyond a day it is a good-bye, which has a status of its own.
pub const WEBHOOK_RETRY_AFTER_MAX: u64 = 24 * HOUR;
/// The pauses between attempts: soon while a receiver restarts, then as the Standard Webhooks suggest. After the last
/// one, five days in all, the webhook is disabled.
pub const WEBHOOK_PAUSES: [u64; 12] = [
    5 * SECOND,
    30 * SECOND,
    5 * MINUTE,
    30 * MINUTE,
    2 * HOUR,
    5 * HOUR,
    10 * HOUR,
    14 * HOUR,
    20 * HOUR,
    24 * HOUR,
    24 * HOUR,
    24 * HOUR,
];

// ── MCP ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

/// Most calls of tools at once in one server: each has a thread while it waits. Agents call one at a time, or a few.
pub const MCP_CALLS: usize = 32;
/// Most threads of a server: a call and what is said meanwhile, stdin and stdout, and some that read resources.
pub const MCP_THREADS: usize = 2 * MCP_CALLS + 8;
/// Longest wait of a call. Most clients cut calls at 60 s; those that do not are told to call again all the same.
pub const MCP_WAIT_MAX: u64 = 10 * MINUTE;
/// Most agents for whom one server asks at once, each with a connection.
pub const MCP_AGENTS: usize = 64;
/// Longest message of a client: the text of a file that is written, escaped.
pub const MCP_LINE_MAX: usize = 16 * 1024 * 1024;
/// How long a call takes at most beside what it waits for a lock: what hangs on a mount is answered within this, and
/// with the usual wait all is over well before clients cut calls, at 60 s.
pub const MCP_ANSWER_WITHIN: u64 = FILE_WITHIN + 2 * SECOND;
/// How long an answer that is ready waits for what its agent has to hear beside.
pub const MCP_NEWS_WITHIN: u64 = 2 * SECOND;
/// Most locks and requests that one answer lists: a model reads each. The rest is a count.
pub const MCP_ROWS: usize = 50;
/// Scopes that the tool for statistics names: a model that chooses where to work next needs no more.
pub const MCP_HOTTEST: usize = 5;
/// Most resources that one client subscribes to.
pub const MCP_SUBSCRIPTIONS: usize = 64;
/// Events that a subscription may be behind; beyond it, it says that all has changed.
pub const MCP_EVENTS: usize = 256;
/// How often a waiting call tells its progress, if the client asked for that.
pub const MCP_PROGRESS_EVERY: u64 = 2 * SECOND;
/// How long calls have after the end of stdin until those that wait are withdrawn.
pub const MCP_END_GRACE: u64 = 250;
/// How long until the server ends, whatever is still open.
pub const MCP_END_WITHIN: u64 = 750;

// ── Daemon ──────────────────────────────────────────────────────────────────────────────────────────────────────────

/// How long a daemon without locks, waiters and connections stays before it exits.
pub const IDLE_EXIT: u64 = 10 * MINUTE;
/// Largest journal segment before it is folded into the store.
pub const SEGMENT_MAX: u64 = 4 * 1024 * 1024;
/// Largest daemon log; then it is renamed to `daemon.log.1` and begun anew.
pub const DAEMON_LOG_MAX: u64 = 1024 * 1024;
/// How long after a failed write or sync the journal is tried again.
pub const JOURNAL_RETRY: u64 = SECOND;
/// Threads that touch workspace files, of each kind: those that look paths up, that flock and that write. Each can hang
/// on a dead mount; the loop never does. With those of one mount bounded as below, seven hung mounts leave four to
/// others.
pub const FILE_THREADS: usize = 32;
/// How many of them may be inside one mount that waits for a server: enough to keep a healthy one busy.
pub const FILE_THREADS_A_MOUNT: usize = 4;
/// Jobs put aside for such a mount while its threads are inside; beyond it the answer is `unavailable` at once.
pub const FILE_ASIDE: usize = 64;
/// Path look-ups that wait for a file thread at most; beyond it the answer is `unavailable`.
pub const FILE_QUEUE: usize = 1_024;
/// How long a path look-up may take before its request is answered `unavailable`.
pub const FILE_WITHIN: u64 = 10 * SECOND;
/// How long a file may take to be put in place before its client is told that the file system does not answer. The
/// client has synced the content already, without a bound, so that little is left to do; hashing for `--if-unchanged`
/// runs at a gigabyte a second and more.
pub const COMMIT_WITHIN: u64 = FILE_WITHIN;
/// How long a directory is not searched again for prepared files that killed clients left: reading a large one takes
/// longer than a write.
pub const SWEPT_FOR: u64 = 10 * MINUTE;
/// Most directories of which that is remembered.
pub const SWEPT_MAX: usize = 1_024;
/// Fold jobs that may wait for the fold thread; one at a time is in flight, the next segment simply grows.
pub const FOLD_QUEUE: usize = 4;
/// Most commands that `flockd on` runs at once, each with a thread that waits for it.
pub const COMMANDS_AT_ONCE: usize = 256;
/// Events that a program's channel holds before its subscription waits for it, and then falls behind in the daemon.
pub const SUBSCRIBER_QUEUE: usize = 1_024;
/// How often the daemon looks whether its home is still its own, and ends if not: whoever deletes the home of a daemon
/// and starts anew must not meet the old one for long.
pub const HOME_LOOK: u64 = SECOND;

const _: () = assert!(TTL_ONE_SHOT <= MAX_HOLD && MAX_HOLD <= TTL_MAX);
const _: () = assert!(WAIT_DEFAULT <= MCP_WAIT_MAX && MCP_ANSWER_WITHIN < ANSWER_WITHIN);
const _: () = assert!(GREETED_WITHIN + WAIT_DEFAULT + MCP_ANSWER_WITHIN + MCP_NEWS_WITHIN < 60 * SECOND);
const _: () = assert!(MCP_END_GRACE < MCP_END_WITHIN && MCP_END_WITHIN < SECOND);
const _: () = assert!(WAIT_DEFAULT < 60 * SECOND && WAIT_DEFAULT + 2 * HOOK_MARGIN < HOOK_TIMEOUT);
const _: () = assert!(TTL_ONE_SHOT <= HOOK_MAX_HOLD && HOOK_MAX_HOLD <= MAX_HOLD);
const _: () = assert!(WAITER_ABSENCE < SESSION_SILENCE);
const _: () = assert!(TICKET_OFFERED < TICKET_KEPT && TICKET_KEPT < ENDED_KEPT);
const _: () = assert!(3 * 4 * PATH_MAX + 4 * (NOTE_MAX + REQUEST_ID_MAX + AGENT_MAX) < LINE_MAX);
const _: () = assert!(EVENTS_OUTBOX + LINE_MAX < OUTBOX_MAX / 2);
const _: () = assert!(LINE_MAX < OUTBOX_MAX && OUTBOX_MAX < ANSWER_MAX);
const _: () = assert!(WAITER_ABSENCE < ENDED_KEPT && COMMIT_WITHIN < ANSWER_WITHIN);
const _: () = assert!(CONTENTION_REQUESTS <= CONTENTION_REQUESTS_MAX && CONTENTION_WITHIN_MIN <= CONTENTION_WITHIN);
const _: () = assert!(8 * FILE_THREADS_A_MOUNT <= FILE_THREADS && FILE_ASIDE < FILE_QUEUE);
