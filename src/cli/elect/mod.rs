//! `flockd elect`: of all who ask under one name one leads, and its command runs while it does.
//!
//! There are two locks, since the first can be broken or released while the command of its holder still runs: `@NAME`,
//! by which one leads, and `@NAME:command`, which hangs on the process of the command. A new leader waits for the
//! second, so two commands never run at once, whatever happened to the first and to `elect` itself. The second is held
//! in a name that is this process's own: nothing that the agent does releases it. Neither has a ttl: they end when the
//! kernel says that the process is dead, not before and not later.
//!
//! A process beside this one looks after both and ends a command that does not lead any more ([`watch`], [`guard`]).

mod guard;
mod post;
mod watch;

pub(super) use guard::guard;

use super::args::ElectArgs;
use super::child::{self, Kept};
use super::{Common, Exit, Failure, ask, print, run};
use crate::client::{Connection, Custodian, Launch, unexpected};
use crate::limits;
use crate::model::{self, Agent};
use crate::os::process;
use crate::wire::{Answer, Body, Code, LockBody, Op, Request, WireError};
use crossbeam_channel::{bounded, unbounded};
use post::{Post, Word};
use rustix::fd::{AsFd, OwnedFd};
use rustix::process::{Pid, Signal, kill_process_group};
use signal_hook::iterator::Signals;
use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode};
use std::sync::Arc;
use std::time::Duration;
use watch::{Charge, Group, Told, Watch};

/// What the name of the second lock has behind that of the first.
const OF_THE_COMMAND: &str = ":command";

pub(super) fn elect(common: &Common, args: &ElectArgs) -> Result<ExitCode, Failure> {
    let own = std::process::id();
    // As it is now: the file may be replaced while this waits.
    let Launch::With(flockd) = super::launch()? else { unreachable!("the program starts daemons") };
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
            lead(common, args, &posts, flockd, command)
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

/// With the word of whoever looked, or of the sessions of the locks.
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
    let look = || posts.iter().map(Post::look).find(|word| *word != Word::Held).unwrap_or(Word::Held);
    let why = post::look_after(look, &done).expect("it is listened to for as long as it looks");
    Err(not_leading(&posts[0], why))
}

/// Leads with a command, until it ends or is ended.
fn lead(
    common: &Common,
    args: &ElectArgs,
    posts: &[Post; 2],
    flockd: PathBuf,
    mut command: Command,
) -> Result<ExitCode, Failure> {
    let office = &posts[0].body;
    // A group of its own, so that whatever it has started is ended with it.
    command.process_group(0).env("FLOCKD_FENCE", office.fence.unwrap_or_default().to_string());
    let signals = child::signals()?;
    let mut watch = None;
    let at_gate = |pidfd: OwnedFd, number: u32| {
        let command = i32::try_from(number).expect("the number of a process");
        let bodies = posts.iter().map(|post| post.body.clone()).collect();
        let charge = Charge { posts: bodies, command, grace: args.grace, program: flockd, kill_in: None };
        watch = Some(Watch::begin(charge, Group::new(pidfd, command, true)?, posts.to_vec())?);
        Ok(())
    };
    let child = match child::start(command, &[posts[0].kept(), posts[1].kept()], at_gate)? {
        Ok(child) => child,
        Err(error) => return Ok(child::not_run(&args.command[0], &error)),
    };
    // None: it was killed before it began.
    let Some(mut watch) = watch else { return end(child, posts, args, false) };
    let forwarding = forward(signals, Pid::from_child(&child));
    let leads = if common.json { print::json_line(office) } else { format!("flockd: {}", print::leads(office)) };
    let (say, to_say) = unbounded();
    let (saying, all_said) = bounded::<()>(0);
    // Beside the watch: whoever reads stderr may not read it.
    let posts_told = posts.clone();
    std::thread::spawn(move || {
        print::err(&leads);
        to_say.iter().for_each(|told| tell(&posts_told, told));
        drop(saying);
    });
    let is_lost = watch.until_ended(|told| say.send(told).unwrap_or_default());
    drop((watch, say));
    forwarding();
    let _ = all_said.recv_timeout(Duration::from_millis(limits::ELECT_LOOK));
    end(child, posts, args, is_lost)
}

fn tell(posts: &[Post; 2], told: Told) {
    match told {
        Told::Lost(why) => {
            // What the sessions were told is here when they have an answer.
            let of_its_own = |post: &Post| match post.look() {
                Word::Lost(why) => why,
                Word::Held | Word::None(_) => None,
            };
            let why = why.or_else(|| posts.iter().find_map(of_its_own));
            print::err(&ended_for(&posts[0].body.file_id, &why_lost(posts, why)));
        }
        Told::Unguarded(error) => print::err(&unguarded(&error)),
    }
}

/// The line that tells of a command's end.
fn ended_for(file_id: &str, why: &str) -> String {
    format!("flockd: no longer leads {file_id}, so the command is ended: {why}\n")
}

/// The line that tells that no guard can be started.
fn unguarded(error: &std::io::Error) -> String {
    format!("flockd: the process that guards the command cannot be started, so this one watches alone: {error}\n")
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

fn end(mut child: Child, posts: &[Post; 2], args: &ElectArgs, is_lost: bool) -> Result<ExitCode, Failure> {
    let status = child.wait()?;
    if is_lost {
        return Ok(ExitCode::from(args.lost_exit_code));
    }
    for post in posts {
        run::release(&post.client, post.lock_id(), &post.body);
    }
    Ok(child::exit_code(status))
}
