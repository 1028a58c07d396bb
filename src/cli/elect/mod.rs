//! `flockd elect`: of all who ask under one name one leads, and its command runs while it does.
//!
//! There are two locks, since the first can be broken or released while the command of its holder still runs: `@NAME`,
//! by which one leads, and `@NAME:command`, which hangs on the process of the command. A new leader waits for the
//! second, so two commands never run at once, whatever happened to the first and to `elect` itself. The second is held
//! in a name that is this process's own: nothing that the agent does releases it. Neither has a ttl: they end when the
//! kernel says that the process is dead, not before and not later.
//!
//! A process beside this one looks after both and ends a command that does not lead any more ([`guard`]).

mod guard;
mod post;

pub(super) use guard::guard;

use super::args::ElectArgs;
use super::child::{self, Kept};
use super::{Common, Exit, Failure, ask, print, run};
use crate::client::{Connection, Custodian, unexpected};
use crate::clock;
use crate::limits;
use crate::model::{self, Agent, Moment};
use crate::os::process;
use crate::wire::{Answer, Body, Code, LockBody, Op, Request, WireError};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use guard::{Charge, Guard, Report};
use post::{Post, Word};
use rustix::fd::{AsFd, OwnedFd};
use rustix::process::{Pid, Signal, kill_process_group};
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
    let leads = match run::take(&candidate, exclusive(name, args), !common.json)? {
        body if body.acquired => post(candidate, body)?,
        refused => return Ok(ask::refused(common, &candidate, &refused).into()),
    };
    let keeper = common.connect(Some(Agent::new(&format!("elect-{own}"))?), Some(Custodian::Command))?;
    let body = predecessor_gone(&keeper, exclusive(&of_the_command, args), &leads, !common.json)?;
    let posts = [leads, post(keeper, body)?];
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
            return Err(not_leading(post, why));
        }
    }
}

fn post(client: Connection, body: LockBody) -> Result<Post, Failure> {
    match (&body.lock_id, body.fence) {
        (Some(_), Some(_)) => Ok(Post { client: Arc::new(client), body }),
        _ => Err(unexpected(Some(&Body::Lock(Box::new(body)))).into()),
    }
}

impl Post {
    fn kept(&self) -> Kept<'_> {
        Kept { client: &self.client, lock_id: self.lock_id() }
    }

    /// Why it is not held, as its own session was told.
    fn why_lost(&self) -> Option<String> {
        self.client.loss(self.lock_id()).map(|loss| print::loss_line(&loss))
    }
}

fn why_lost(posts: &[Post], why: Option<String>) -> String {
    let told = why.or_else(|| posts.iter().find_map(Post::why_lost));
    told.unwrap_or_else(|| "another call of its agent released it or took it up".to_owned())
}

fn not_leading(post: &Post, why: Option<String>) -> Failure {
    let why = why_lost(std::slice::from_ref(post), why);
    let message = format!("no longer leads {}: {why}", post.body.file_id);
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
    let (_running, done) = bounded(0);
    let why = post::look_after(posts, &done).expect("it is listened to for as long as it looks");
    Err(not_leading(&posts[0], why))
}

/// What happens while one leads.
enum News {
    Lost(Option<String>),
    Unguarded,
    Ended,
}

/// Leads with a command, until it ends or is ended.
fn lead(common: &Common, args: &ElectArgs, posts: &[Post; 2], mut command: Command) -> Result<ExitCode, Failure> {
    let office = &posts[0].body;
    // A group of its own, so that whatever it has started is ended with it.
    command.process_group(0).env("FLOCKD_FENCE", office.fence.unwrap_or_default().to_string());
    let signals = child::signals()?;
    let (news, heard) = unbounded();
    let mut watch = None;
    let at_gate = |pidfd: OwnedFd, command: u32| {
        let bodies = posts.iter().map(|post| post.body.clone()).collect();
        let command = i32::try_from(command).expect("the number of a process");
        let charge = Charge { posts: bodies, command, grace: args.grace };
        watch = Some(Watch::begin(charge, pidfd, news.clone())?);
        Ok(())
    };
    let child = match child::start(command, &[posts[0].kept(), posts[1].kept()], at_gate)? {
        Ok(child) => child,
        Err(error) => return Ok(child::not_run(&args.command[0], &error)),
    };
    let mut watch = watch.expect("a command begins when it is watched");
    print::err(&if common.json { print::json_line(office) } else { format!("flockd: {}", print::leads(office)) });
    let forwarding = forward(signals, Pid::from_child(&child));
    let lost = watch.until_ended(&heard, posts);
    drop(watch);
    forwarding();
    end(child, posts, args, lost)
}

/// The line that tells of a command's end.
fn ended_for(file_id: &str, why: &str) -> String {
    format!("flockd: no longer leads {file_id}, so the command is ended: {why}\n")
}

/// A command that is watched by a guard.
struct Watch {
    charge: Charge,
    command: Arc<OwnedFd>,
    guard: Option<Guard>,
    news: Sender<News>,
}

impl Watch {
    fn begin(charge: Charge, command: OwnedFd, news: Sender<News>) -> std::io::Result<Watch> {
        let command = Arc::new(command);
        let mut watch = Watch { charge, command: command.clone(), guard: None, news: news.clone() };
        watch.post_guard()?;
        // The command is not collected meanwhile, so that its number stays that of its group until nobody sends
        // signals there any more.
        std::thread::Builder::new().name("command".into()).spawn(move || {
            guard::until_ended(&*command).expect("a pidfd can be waited for");
            news.send(News::Ended).unwrap_or_default();
        })?;
        Ok(watch)
    }

    fn post_guard(&mut self) -> std::io::Result<()> {
        let news = self.news.clone();
        let tell = move |report| {
            let told = match report {
                Some(Report::Watching) => return,
                Some(Report::Lost(why)) => News::Lost(why),
                None => News::Unguarded,
            };
            news.send(told).unwrap_or_default();
        };
        self.guard = Some(Guard::start(&self.charge, self.command.as_fd(), tell)?);
        Ok(())
    }

    /// Waits for the end of the command; why it did not lead any more, if so.
    fn until_ended(&mut self, heard: &Receiver<News>, posts: &[Post; 2]) -> Option<String> {
        let mut lost = None;
        let mut has_ended = false;
        let mut look_up: Option<Moment> = None;
        loop {
            let left = look_up.map_or(u64::MAX, |at| at.left(clock::now().mono));
            match heard.recv_timeout(Duration::from_millis(left)) {
                // The guard's last word may still be on its way; a stopped one has none.
                Ok(News::Ended) => {
                    has_ended = true;
                    look_up = Some(clock::now().mono.after(limits::ELECT_LOOK));
                }
                Ok(News::Lost(why)) if lost.is_none() => lost = Some(tell_of_loss(posts, why)),
                Ok(News::Lost(_)) => {}
                Ok(News::Unguarded) => {
                    self.guard = None;
                    // Not in a circle, if it is killed each time.
                    look_up = Some(clock::now().mono.after(limits::ELECT_LOOK));
                }
                Err(RecvTimeoutError::Timeout) if has_ended => break,
                Err(RecvTimeoutError::Timeout) => {
                    let is_done = self.post_guard().is_ok();
                    look_up = (!is_done).then(|| clock::now().mono.after(limits::ELECT_LOOK));
                }
                Err(RecvTimeoutError::Disconnected) => unreachable!("the end of the command is always told"),
            }
            if has_ended && self.guard.is_none() {
                break;
            }
        }
        if lost.is_some() {
            // The guard does that as well, and is not waited for.
            let group = Pid::from_raw(self.charge.command).expect("the number of a process");
            let _ = kill_process_group(group, Signal::KILL);
        }
        lost
    }
}

/// Says that the command is ended, and why: with the word of the guard, or of this session, which has it when it has an
/// answer.
fn tell_of_loss(posts: &[Post; 2], why: Option<String>) -> String {
    let of_its_own = |post: &Post| match post.look() {
        Word::Lost(why) => why,
        Word::Held | Word::None => None,
    };
    let why = why_lost(posts, why.or_else(|| posts.iter().find_map(of_its_own)));
    print::err(&ended_for(&posts[0].body.file_id, &why));
    why
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

fn end(mut child: Child, posts: &[Post; 2], args: &ElectArgs, lost: Option<String>) -> Result<ExitCode, Failure> {
    let status = child.wait()?;
    if lost.is_some() {
        return Ok(ExitCode::from(args.lost_exit_code));
    }
    for post in posts {
        run::release(&post.client, post.lock_id(), &post.body);
    }
    Ok(child::exit_code(status))
}
