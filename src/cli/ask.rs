//! The commands that ask the daemon once: lock, unlock, renew, status, wait, check, break.

use super::args::{
    BreakArgs, CheckArgs, DowngradeArgs, LockArgs, RenewArgs, StatusArgs, UpgradeArgs, WaitArgs, Which, WhichArgs,
    WhichOne,
};
use super::{Common, Exit, Failure, print};
use crate::client::{Connection, FilePlace, hash_of, unexpected};
use crate::limits;
use crate::model::Agent;
use crate::os::process;
use crate::wire::{self, Answer, Body, Code, LockBody, LocksBody, Mode, Op, Request, WaiterBody};
use rustix::fd::{AsFd, BorrowedFd};
use serde::Serialize;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

/// When whoever waits is told for whom, in milliseconds.
const NAME_HOLDER_AFTER: u64 = limits::SECOND;

/// A scope as typed, for the wire. With `--glob` it is a pattern, unless it is no file at all.
pub(super) fn scope(typed: &OsStr, glob: bool) -> String {
    let text = wire::escape(typed.as_bytes());
    let says_so = text.starts_with('@') || text.starts_with("glob:");
    if glob && !says_so { format!("glob:{text}") } else { text }
}

/// The request for one scope, or for several together.
pub(super) fn for_all(typed: &[OsString], glob: bool, request: Request) -> Request {
    match typed {
        [one] => Request { scope: Some(scope(one, glob)), ..request },
        several => Request { scopes: several.iter().map(|typed| scope(typed, glob)).collect(), ..request },
    }
}

pub(super) fn mode(shared: bool) -> Mode {
    if shared { Mode::Shared } else { Mode::Exclusive }
}

/// Asks, prints what comes along with the answer, and gives the body. A notice is told once, so that it is printed
/// also beside JSON and beside an error.
pub(super) fn ask(client: &Connection, request: Request) -> Result<Body, Failure> {
    let answer = client.call(request);
    print::losses(&client.take_losses());
    let answer = answer?;
    print::notices(&answer);
    let Answer { ok, .. } = answer;
    ok.ok_or_else(|| unexpected(None).into())
}

/// As [`ask`], for a request that may wait: after a second it is told for whom, if that is wanted.
pub(super) fn patiently(
    client: &Connection,
    request: Request,
    pidfd: Option<BorrowedFd<'_>>,
    names_holders: bool,
) -> Result<Body, Failure> {
    let wait_ms = request.wait_ms;
    let scope = request.scope.clone();
    let id = match pidfd {
        None => client.begin(request)?,
        Some(pidfd) => client.begin_with_fd(request, pidfd)?,
    };
    let within = wait_ms.map(|ms| Duration::from_millis(ms + limits::ANSWER_WITHIN));
    let first = Some(Duration::from_millis(NAME_HOLDER_AFTER)).filter(|_| {
        let is_long = wait_ms.is_none_or(|ms| ms > NAME_HOLDER_AFTER);
        names_holders && is_long
    });
    let mut answer = client.finish(id, first.or(within));
    if matches!(answer, Ok(None)) && first.is_some() {
        name_holders(client, scope);
        answer = client.finish(id, within);
    }
    print::losses(&client.take_losses());
    let Some(answer) = answer? else {
        client.abandon(id);
        let text = "the daemon does not answer; `flockd daemon status` tells more";
        return Err(Failure::new(Exit::Unavailable, text));
    };
    print::notices(&answer);
    let Answer { ok, .. } = answer;
    ok.ok_or_else(|| unexpected(None).into())
}

/// Says for whom we wait, as far as it can be told just now.
pub(super) fn name_holders(client: &Connection, scope: Option<String>) {
    let request = Request { scope, ..Request::new(Op::Status) };
    let Ok(Answer { ok: Some(Body::Status(status)), .. }) = client.call(request) else { return };
    let agent = client.agent().map(Agent::as_str);
    let mine = status.waiters.iter().filter(|waiter| Some(waiter.agent.as_str()) == agent);
    let mut holders: Vec<&wire::Held> = match agent {
        // If it waits no more, the answer is on its way.
        Some(_) => mine.flat_map(|waiter| &waiter.holders).collect(),
        // Who waits without a name is not found among those who wait.
        None => status.locks.iter().collect(),
    };
    // The rows of a set may be behind the same one.
    let mut named = std::collections::BTreeSet::new();
    holders.retain(|holder| named.insert(&holder.lock_id));
    for holder in holders {
        print::err(&format!("flockd: waiting: {}\n", print::holder_line(holder)));
    }
}

pub(super) fn lock(common: &Common, args: &LockArgs) -> Result<Exit, Failure> {
    let pidfd = args.pid.map(process::pidfd_of_own).transpose();
    let pidfd = pidfd.map_err(|error| Failure::new(Exit::Usage, error.to_string()))?;
    let client = common.connect_as_agent()?;
    let request = Request {
        mode: Some(if args.advisory { Mode::Advisory } else { mode(args.shared) }),
        wait_ms: args.patience.wait_ms(Some(limits::WAIT_DEFAULT)),
        ttl_ms: args.ttl,
        note: args.note.clone(),
        request_id: args.request_id.clone(),
        no_os_lock: args.no_os_lock,
        bound: pidfd.is_some(),
        ..Request::new(Op::Lock)
    };
    let request = for_all(&args.scopes, args.glob, request);
    let answer = patiently(&client, request, pidfd.as_ref().map(AsFd::as_fd), common.tells_a_person())?;
    told(common, &client, answer)
}

/// Tells how a lock is held now, or why not.
fn told(common: &Common, client: &Connection, answer: Body) -> Result<Exit, Failure> {
    match answer {
        Body::Lock(body) if !body.acquired => Ok(refused(common, client, &body)),
        Body::Lock(body) => {
            match common.json {
                true => print::json(&body),
                false => print::out(&print::granted(&body)),
            }
            Ok(Exit::Yes)
        }
        Body::Locks(body) if !body.acquired => Ok(refused_set(common, &body)),
        Body::Locks(body) => {
            match common.json {
                true => print::json(&body),
                false => body.locks.iter().for_each(|body| print::out(&print::granted(body))),
            }
            Ok(Exit::Yes)
        }
        other => Err(unexpected(Some(&other)).into()),
    }
}

/// Tells why a lock is not held; the exit status for that.
pub(super) fn refused(common: &Common, client: &Connection, body: &LockBody) -> Exit {
    match common.json {
        true => print::json(body),
        false => print::err(&print::refused(body, &ahead(client, body))),
    }
    exit_of(body.code)
}

/// The same for several.
pub(super) fn refused_set(common: &Common, body: &LocksBody) -> Exit {
    match common.json {
        true => print::json(body),
        false => print::err(&print::refused_set(body)),
    }
    exit_of(body.code)
}

/// Who is before us, where nobody holds anything that is in our way.
fn ahead(client: &Connection, body: &LockBody) -> Vec<WaiterBody> {
    let Some(before @ 1..) = body.position.map(|position| position - 1).filter(|_| body.holders.is_empty()) else {
        return Vec::new();
    };
    let request = Request { scope: Some(body.path.clone()), ..Request::new(Op::Status) };
    let Ok(Answer { ok: Some(Body::Status(status)), .. }) = client.call(request) else { return Vec::new() };
    // By arrival; behind our own place, if we have one, nobody is before us.
    let earlier = status.waiters.into_iter().take_while(|waiter| waiter.agent != body.agent);
    earlier.filter(|waiter| body.mode == Mode::Exclusive || waiter.mode == Mode::Exclusive).take(before).collect()
}

fn about_one(which: &WhichOne, glob: bool, op: Op) -> Request {
    let scope = which.scope.as_deref().map(|typed| scope(typed, glob));
    Request { scope, lock_id: which.id.clone(), ..Request::new(op) }
}

pub(super) fn upgrade(common: &Common, args: &UpgradeArgs) -> Result<Exit, Failure> {
    let client = common.connect_as_agent()?;
    let request = Request {
        wait_ms: args.patience.wait_ms(Some(limits::WAIT_DEFAULT)),
        request_id: args.request_id.clone(),
        ..about_one(&args.which, args.glob, Op::Upgrade)
    };
    let names_holders = common.tells_a_person() && request.scope.is_some();
    let answer = patiently(&client, request, None, names_holders)?;
    told(common, &client, answer)
}

pub(super) fn downgrade(common: &Common, args: &DowngradeArgs) -> Result<Exit, Failure> {
    let client = common.connect_to_give_back()?;
    let request = about_one(&args.which, args.glob, Op::Downgrade);
    // The answer is the same whether it was shared before: that is looked at, and only the word for it depends on it.
    let before = client.call(Request { op: Op::Status, lock_id: None, ..request.clone() })?;
    // Who waits comes again with the answer.
    print::losses(&before.lost);
    match ask(&client, request)? {
        Body::Lock(body) if !common.json => {
            let was = |held: &wire::Held| body.lock_id.as_ref() == Some(&held.lock_id) && held.mode == Mode::Shared;
            let was_shared = matches!(before.ok, Some(Body::Status(status)) if status.locks.iter().any(was));
            print::out(&print::shared(&body, was_shared));
            Ok(Exit::Yes)
        }
        answer => told(common, &client, answer),
    }
}

/// The requests that name what is meant: one for each scope, or one for an id, or for all.
fn each(which: &Which, glob: bool, request: &Request) -> Vec<Request> {
    if which.scopes.is_empty() {
        return vec![Request { lock_id: which.id.clone(), all: which.all, ..request.clone() }];
    }
    which.scopes.iter().map(|typed| Request { scope: Some(scope(typed, glob)), ..request.clone() }).collect()
}

pub(super) fn unlock(common: &Common, args: &WhichArgs) -> Result<Exit, Failure> {
    change(common, &args.which, args.glob, &Request::new(Op::Unlock))
}

pub(super) fn renew(common: &Common, args: &RenewArgs) -> Result<Exit, Failure> {
    change(common, &args.which, args.glob, &Request { ttl_ms: args.ttl, ..Request::new(Op::Renew) })
}

/// Releases or renews all that is named, also what comes after one that fails; the first failure counts. Where one
/// fails it is said what became of the others.
fn change(common: &Common, which: &Which, glob: bool, request: &Request) -> Result<Exit, Failure> {
    #[derive(Serialize)]
    struct Changed {
        #[serde(skip_serializing_if = "Option::is_none")]
        released: Option<Vec<wire::Held>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        renewed: Option<Vec<wire::Held>>,
    }
    let client = common.connect_to_give_back()?;
    let (mut changed, mut done, mut failed) = (Vec::new(), Vec::new(), None);
    for request in each(which, glob, request) {
        let subject = request.scope.clone().filter(|_| which.scopes.len() > 1);
        match ask(&client, request) {
            Ok(Body::Released(locks)) if locks.is_empty() => {
                done.extend(subject.map(|subject| format!("the place in the queue for {subject} is given up")));
            }
            Ok(Body::Released(locks)) => {
                done.extend(locks.iter().map(|held| format!("{} is unlocked", print::name(&held.path))));
                changed.extend(locks);
            }
            Ok(Body::Renewed(locks)) => {
                done.extend(locks.iter().map(|held| format!("{} is renewed", print::name(&held.path))));
                changed.extend(locks);
            }
            Ok(other) => return Err(unexpected(Some(&other)).into()),
            Err(failure) => {
                let failure = subject.map_or_else(|| failure.clone(), |subject| failure.about(&subject));
                match failed {
                    None => failed = Some(failure),
                    Some(_) => print::failure(&failure, common.json),
                }
            }
        }
    }
    if !common.json && failed.is_some() {
        done.iter().for_each(|what| print::out(&format!("{what}\n")));
    }
    if common.json && (failed.is_none() || !done.is_empty()) {
        print::json(&match request.op {
            Op::Unlock => Changed { released: Some(changed), renewed: None },
            _ => Changed { released: None, renewed: Some(changed) },
        });
    }
    failed.map_or(Ok(Exit::Yes), Err)
}

pub(super) fn status(common: &Common, args: &StatusArgs) -> Result<Exit, Failure> {
    let client = common.connect_to_read()?;
    let request =
        Request { scope: args.scope.as_deref().map(|typed| scope(typed, args.glob)), ..Request::new(Op::Status) };
    match ask(&client, request)? {
        Body::Status(body) => {
            if common.json {
                print::json(&body);
            } else {
                print::out(&print::status(&body, args.scope.as_deref()));
            }
            Ok(Exit::Yes)
        }
        other => Err(unexpected(Some(&other)).into()),
    }
}

pub(super) fn wait(common: &Common, args: &WaitArgs) -> Result<Exit, Failure> {
    let client = common.connect_to_read()?;
    let request = Request {
        scope: Some(scope(&args.scope, args.glob)),
        mode: Some(mode(args.shared)),
        wait_ms: args.patience.wait_ms(Some(limits::WAIT_DEFAULT)),
        ..Request::new(Op::Wait)
    };
    match patiently(&client, request, None, common.tells_a_person())? {
        Body::Wait(body) => {
            if common.json {
                print::json(&body);
            } else if !body.free {
                let advice = body.advice.as_deref().unwrap_or("wait longer");
                print::err(&format!("flockd: {} is not free\n", args.scope.to_string_lossy()));
                for holder in &body.holders {
                    print::err(&format!("  {}\n", print::holder_line(holder)));
                }
                print::err(&format!("  {advice}\n"));
            }
            Ok(body.code.map_or(Exit::Yes, Exit::of))
        }
        other => Err(unexpected(Some(&other)).into()),
    }
}

pub(super) fn check(common: &Common, args: &CheckArgs) -> Result<Exit, Failure> {
    #[derive(Serialize)]
    struct Checked<'a> {
        #[serde(flatten)]
        body: &'a wire::CheckBody,
        #[serde(skip_serializing_if = "Option::is_none")]
        hash: Option<String>,
    }
    let client = common.connect_to_give_back()?;
    let request = Request { scope: Some(scope(&args.scope, args.glob)), fence: args.fence, ..Request::new(Op::Check) };
    match ask(&client, request)? {
        Body::Check(body) => {
            // After the answer: what is read under the lock nobody changes who honours it.
            let hash = if args.hash { Some(hash(&args.scope)?) } else { None };
            if common.json {
                print::json(&Checked { body: &body, hash });
            } else if let Some(hash) = hash {
                print::out(&(hash + "\n"));
            }
            if !common.json && !body.allowed {
                print::err(&format!("flockd: you do not hold {} exclusively", args.scope.to_string_lossy()));
                print::err(if args.fence.is_some() { " under this fence\n" } else { "\n" });
                for holder in &body.holders {
                    print::err(&format!("  {}\n", print::holder_line(holder)));
                }
                if let Some(advice) = &body.advice {
                    print::err(&format!("  {advice}\n"));
                }
            }
            Ok(if body.allowed { Exit::Yes } else { Exit::No })
        }
        other => Err(unexpected(Some(&other)).into()),
    }
}

/// The hash of a file as it is now, to be compared when it is written.
fn hash(typed: &OsStr) -> Result<String, Failure> {
    let cwd = std::env::current_dir().map_err(|error| Failure::new(Exit::Unavailable, error.to_string()))?;
    let place = FilePlace::of(&cwd, Path::new(typed))?;
    hash_of(&place).map_err(|error| Failure::new(Exit::Unavailable, format!("{}: {error}", typed.to_string_lossy())))
}

pub(super) fn break_lock(common: &Common, args: &BreakArgs) -> Result<Exit, Failure> {
    let client = common.connect_to_give_back()?;
    let request =
        Request { lock_id: Some(args.id.clone()), reason: Some(args.reason.clone()), ..Request::new(Op::Break) };
    match ask(&client, request)? {
        Body::Broken(loss) => {
            if common.json {
                print::json(&loss);
            }
            Ok(Exit::Yes)
        }
        other => Err(unexpected(Some(&other)).into()),
    }
}

/// The exit status of a request for a lock that was not granted.
fn exit_of(code: Option<Code>) -> Exit {
    code.map_or(Exit::No, Exit::of)
}
