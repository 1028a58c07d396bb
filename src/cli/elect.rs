//! `flockd elect`: of all who ask under one name one leads, and its command runs while it does.
//!
//! There are two locks, since the first can be broken or released while the command of its holder still runs: `@NAME`,
//! by which one leads, and `@NAME:command`, which hangs on the process of the command. A new leader waits for the
//! second, so two commands never run at once, whatever happened to the first and to `elect` itself. The second is held
//! in a name that is this process's own: nothing that the agent does releases it. Neither has a ttl: they end when the
//! kernel says that the process is dead, not before and not later.

use super::args::ElectArgs;
use super::child::{self, Kept};
use super::{Common, Exit, Failure, ask, print, run};
use crate::client::{ClientError, Connection, Custodian, unexpected};
use crate::clock;
use crate::limits;
use crate::model::{self, Agent, Moment};
use crate::os::process;
use crate::wire::{Answer, Body, Code, Held, LockBody, Op, Request, WireError};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use rustix::fd::AsFd;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use signal_hook::iterator::Signals;
use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode};
use std::sync::Arc;
use std::time::Duration;

/// What the name of the second lock has behind that of the first.
const OF_THE_COMMAND: &str = ":command";

pub(super) fn elect(common: &Common, args: &ElectArgs) -> Result<ExitCode, Failure> {
    let own = std::process::id();
    let agent = match common.known_agent()? {
        Some(agent) => agent,
        None => Agent::new(&format!("run-{own}"))?,
    };
    let name = args.name.strip_prefix('@').unwrap_or(&args.name);
    model::resource(name)?;
    let of_the_command = format!("{name}{OF_THE_COMMAND}");
    if of_the_command.len() > limits::RESOURCE_MAX {
        let most = limits::RESOURCE_MAX - OF_THE_COMMAND.len();
        let text = format!("the resource name has {} bytes; at most {most} are allowed for `elect`", name.len());
        return Err(Failure::new(Exit::Usage, text));
    }
    let candidate = common.connect(Some(agent.clone()), Some(Custodian::Command))?;
    let post = match run::take(&candidate, exclusive(name, args), !common.json)? {
        body if body.acquired => Post::new(candidate, body)?,
        refused => return Ok(ask::refused(common, &candidate, &refused).into()),
    };
    let keeper = common.connect(Some(Agent::new(&format!("elect-{own}"))?), Some(Custodian::Command))?;
    let body = predecessor_gone(&keeper, exclusive(&of_the_command, args), &post, !common.json)?;
    let posts = [post, Post::new(keeper, body)?];
    match args.command.split_first() {
        None => hold(common, &posts),
        Some((program, rest)) => {
            let mut command = Command::new(program);
            command.args(rest).env("FLOCKD_AGENT", agent.as_str());
            lead(common, args, &posts, command)
        }
    }
}

fn exclusive(name: &str, args: &ElectArgs) -> Request {
    let scope = Some(ask::scope(OsStr::new(&format!("@{name}")), false));
    Request { scope, ttl_ms: Some(0), note: args.note.clone(), ..Request::new(Op::Lock) }
}

/// Waits for the end of the command of whoever led before, for as long as we are next.
fn predecessor_gone(
    keeper: &Connection,
    request: Request,
    post: &Post,
    names_holders: bool,
) -> Result<LockBody, Failure> {
    let scope = request.scope.clone();
    let id = keeper.begin(request)?;
    let mut is_named = !names_holders;
    loop {
        match keeper.finish(id, Some(Duration::from_millis(limits::ELECT_LOOK)))? {
            Some(Answer { ok: Some(Body::Lock(body)), .. }) => return Ok(*body),
            Some(answer) => return Err(unexpected(answer.ok.as_ref()).into()),
            None => {}
        }
        if !std::mem::replace(&mut is_named, true) {
            ask::name_holders(keeper, scope.clone());
        }
        if let Word::Lost(why) = post.look() {
            keeper.abandon(id);
            return Err(not_leading(&post.body.file_id, why));
        }
    }
}

// ── What the daemon says ────────────────────────────────────────────────────────────────────────────────────────────

/// A lock that must be held.
#[derive(Clone)]
struct Post {
    client: Arc<Connection>,
    lock_id: String,
    body: LockBody,
}

/// The daemon's word on a lock.
#[derive(PartialEq, Eq)]
enum Word {
    Held,
    Lost(String),
    /// There is none.
    None,
}

impl Post {
    fn new(client: Connection, body: LockBody) -> Result<Post, Failure> {
        let id = body.lock_id.clone().filter(|_| body.fence.is_some());
        let lock_id = id.ok_or_else(|| Failure::from(unexpected(Some(&Body::Lock(Box::new(body.clone()))))))?;
        Ok(Post { client: Arc::new(client), lock_id, body })
    }

    fn kept(&self) -> Kept<'_> {
        Kept { client: &self.client, lock_id: &self.lock_id }
    }

    /// Asks whether the lock is held, under its fence. This only reads, so it is answered also while the daemon's disk
    /// is full. `check` would not do: it says who may write, and while a sub-agent holds the name its parent may not,
    /// yet leads.
    fn look(&self) -> Word {
        let scope = Some(self.body.file_id.clone());
        let is_it = |held: &Held| held.lock_id == self.lock_id && Some(held.fence) == self.body.fence;
        match self.client.call(Request { scope, ..Request::new(Op::Status) }) {
            Ok(Answer { ok: Some(Body::Status(status)), .. }) if status.locks.iter().any(is_it) => Word::Held,
            Ok(_) => Word::Lost(match self.client.loss(&self.lock_id) {
                Some(loss) => print::loss_line(&loss),
                None => "another call of its agent released it or took it up".to_owned(),
            }),
            Err(ClientError::SessionLost(why)) => Word::Lost(why),
            Err(ClientError::Refused(error)) if error.code != Code::Unavailable => Word::Lost(error.message),
            Err(_) => Word::None,
        }
    }
}

/// What happens while one leads.
enum News {
    Lost(String),
    Ended,
}

/// Looks at the locks once a second until one is lost or nobody listens any more: no daemon tells a client anything
/// that it did not ask for.
fn look_after(posts: &[Post; 2], news: Sender<News>, done: Receiver<()>) {
    let posts = posts.clone();
    std::thread::spawn(move || {
        let (mut sure, mut looks_in_vain) = (clock::now().mono, 0);
        loop {
            let begun = clock::now().mono;
            match posts.iter().map(Post::look).find(|word| *word != Word::Held) {
                None => (sure, looks_in_vain) = (begun, 0),
                Some(Word::Lost(why)) => return news.send(News::Lost(why)).unwrap_or_default(),
                Some(_) => looks_in_vain += 1,
            }
            // A look during which this process was stopped says nothing about the daemon: one in vain is not enough.
            if looks_in_vain > 1 && sure.after(limits::ELECT_UNSURE) <= clock::now().mono {
                let text = format!("the daemon has not answered for {} s", limits::ELECT_UNSURE / limits::SECOND);
                return news.send(News::Lost(text)).unwrap_or_default();
            }
            if done.recv_timeout(Duration::from_millis(limits::ELECT_LOOK)) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
    });
}

fn not_leading(file_id: &str, why: String) -> Failure {
    let message = format!("no longer leads {file_id}: {why}");
    let error = WireError::new(Code::Lost, message.clone());
    Failure { exit: Exit::No, message, error: Some(Box::new(error)) }
}

// ── Leading ─────────────────────────────────────────────────────────────────────────────────────────────────────────

/// Leads without a command: until this process is killed, or does not lead any more.
fn hold(common: &Common, posts: &[Post; 2]) -> Result<ExitCode, Failure> {
    let own = process::pidfd_of_child(std::process::id())?;
    for post in posts {
        post.kept().bind(own.as_fd())?;
    }
    let office = &posts[0].body;
    print::out(&if common.json { print::json_line(office) } else { print::leads(office) });
    let (news, heard) = unbounded();
    let (_running, done) = bounded(0);
    look_after(posts, news, done);
    match heard.recv() {
        Ok(News::Lost(why)) => Err(not_leading(&office.file_id, why)),
        Ok(News::Ended) | Err(_) => unreachable!("without a command only a loss is news, and it is always told"),
    }
}

/// Leads with a command, until it ends or is ended.
fn lead(common: &Common, args: &ElectArgs, posts: &[Post; 2], mut command: Command) -> Result<ExitCode, Failure> {
    let office = &posts[0].body;
    // A group of its own, so that whatever it has started is ended with it.
    command.process_group(0).env("FLOCKD_FENCE", office.fence.unwrap_or_default().to_string());
    let signals = child::signals()?;
    let child = match child::start(command, &[posts[0].kept(), posts[1].kept()])? {
        Ok(child) => child,
        Err(error) => return Ok(child::not_run(&args.command[0], &error)),
    };
    print::err(&if common.json { print::json_line(office) } else { format!("flockd: {}", print::leads(office)) });
    let group = Pid::from_child(&child);
    let (news, heard) = unbounded();
    let (running, done) = bounded(0);
    look_after(posts, news.clone(), done);
    std::thread::spawn(move || {
        // It is not collected, so that its number stays that of its group until nobody sends signals there any more.
        let ended =
            rustix::io::retry_on_intr(|| waitid(WaitId::Pid(group), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT));
        ended.expect("a child can be waited for");
        news.send(News::Ended).unwrap_or_default();
    });
    let forwarding = forward(signals, group);
    let lost = until_ended(&heard, group, &office.file_id, args.grace);
    drop(running);
    forwarding();
    end(child, posts, args, lost)
}

/// Passes signals on to the command's group, until what is returned is called.
fn forward(mut signals: Signals, group: Pid) -> impl FnOnce() {
    let handle = signals.handle();
    let thread = std::thread::spawn(move || {
        for signal in signals.forever().filter_map(Signal::from_named_raw) {
            // Gone already: nothing to pass it to.
            let _ = kill_process_group(group, signal);
        }
    });
    move || {
        handle.close();
        thread.join().expect("the forwarding thread does not panic");
    }
}

/// Waits for the end of the command, and ends it if it is not to lead any more; why.
fn until_ended(heard: &Receiver<News>, group: Pid, file_id: &str, grace: u64) -> Option<String> {
    let mut lost = None;
    let mut kill_at: Option<Moment> = None;
    loop {
        let left = kill_at.map_or(u64::MAX, |at| at.left(clock::now().mono));
        match heard.recv_timeout(Duration::from_millis(left)) {
            Ok(News::Ended) => break,
            // The locks hang on the command: without it they are gone, and the daemon may say so first.
            Ok(News::Lost(_)) if has_ended(group) => break,
            Ok(News::Lost(why)) => {
                print::err(&format!("flockd: no longer leads {file_id}, so the command is ended: {why}\n"));
                lost = Some(why);
                signal(group, Signal::TERM);
                // Or a stopped one would not hear of it.
                signal(group, Signal::CONT);
                kill_at = Some(clock::now().mono.after(grace));
            }
            Err(RecvTimeoutError::Timeout) => {
                signal(group, Signal::KILL);
                kill_at = None;
            }
            Err(RecvTimeoutError::Disconnected) => unreachable!("the end of the command is always told"),
        }
    }
    if lost.is_some() {
        // Whoever leads now may begin: what the command has left behind ends with it.
        signal(group, Signal::KILL);
    }
    lost
}

/// Whether a child has ended; it is not collected.
fn has_ended(child: Pid) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    matches!(waitid(WaitId::Pid(child), options), Ok(Some(_)))
}

fn signal(group: Pid, signal: Signal) {
    // Gone already is as good, and what may not be signalled has another user's rights.
    let _ = kill_process_group(group, signal);
}

fn end(mut child: Child, posts: &[Post; 2], args: &ElectArgs, lost: Option<String>) -> Result<ExitCode, Failure> {
    let status = child.wait()?;
    if lost.is_some() {
        return Ok(ExitCode::from(args.lost_exit_code));
    }
    for post in posts {
        run::release(&post.client, &post.lock_id, &post.body);
    }
    Ok(child::exit_code(status))
}
