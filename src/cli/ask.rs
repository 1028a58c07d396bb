//! The commands that ask the daemon once: lock, unlock, renew, status, wait, check, break.

use super::args::{BreakArgs, CheckArgs, LockArgs, RenewArgs, StatusArgs, WaitArgs, Which, WhichArgs};
use super::{Common, Exit, Failure, print};
use crate::client::{Connection, unexpected};
use crate::limits;
use crate::wire::{self, Answer, Body, Code, Mode, Op, Request};
use serde::Serialize;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// A scope as typed, for the wire.
pub(super) fn scope(typed: &OsStr) -> String {
    wire::escape(typed.as_bytes())
}

pub(super) fn mode(shared: bool) -> Mode {
    if shared { Mode::Shared } else { Mode::Exclusive }
}

/// Asks, prints what comes along with the answer, and gives the body. A notice is told once, so that it is printed
/// also beside JSON and beside an error.
fn ask(client: &Connection, request: Request) -> Result<Body, Failure> {
    let answer = client.call(request);
    print::losses(&client.take_losses());
    let answer = answer?;
    print::notices(&answer);
    let Answer { ok, .. } = answer;
    ok.ok_or_else(|| unexpected(None).into())
}

pub(super) fn lock(common: &Common, args: &LockArgs) -> Result<Exit, Failure> {
    let client = common.connect_as_agent()?;
    let request = Request {
        scope: Some(scope(&args.scope)),
        mode: Some(mode(args.shared)),
        wait_ms: args.patience.wait_ms(Some(limits::WAIT_DEFAULT)),
        ttl_ms: args.ttl,
        note: args.note.clone(),
        request_id: args.request_id.clone(),
        no_os_lock: args.no_os_lock,
        ..Request::new(Op::Lock)
    };
    match ask(&client, request)? {
        Body::Lock(body) => {
            match (common.json, body.acquired) {
                (true, _) => print::json(&body),
                (false, true) => print::out(&print::granted(&body)),
                (false, false) => print::err(&print::refused(&body)),
            }
            Ok(body.code.map_or(Exit::Yes, Exit::of))
        }
        other => Err(unexpected(Some(&other)).into()),
    }
}

/// The requests that name what is meant: one for each scope, or one for an id, or for all.
fn each(which: &Which, request: &Request) -> Vec<Request> {
    if which.scopes.is_empty() {
        return vec![Request { lock_id: which.id.clone(), all: which.all, ..request.clone() }];
    }
    which.scopes.iter().map(|typed| Request { scope: Some(scope(typed)), ..request.clone() }).collect()
}

pub(super) fn unlock(common: &Common, args: &WhichArgs) -> Result<Exit, Failure> {
    change(common, &args.which, &Request::new(Op::Unlock))
}

pub(super) fn renew(common: &Common, args: &RenewArgs) -> Result<Exit, Failure> {
    change(common, &args.which, &Request { ttl_ms: args.ttl, ..Request::new(Op::Renew) })
}

/// Releases or renews all that is named, also what comes after one that fails; the first failure counts.
fn change(common: &Common, which: &Which, request: &Request) -> Result<Exit, Failure> {
    #[derive(Serialize)]
    struct Changed {
        #[serde(skip_serializing_if = "Option::is_none")]
        released: Option<Vec<wire::Held>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        renewed: Option<Vec<wire::Held>>,
    }
    let client = common.connect_as_agent()?;
    let (mut changed, mut failed) = (Vec::new(), None);
    for request in each(which, request) {
        let subject = request.scope.clone().filter(|_| which.scopes.len() > 1);
        match ask(&client, request) {
            Ok(Body::Released(locks) | Body::Renewed(locks)) => changed.extend(locks),
            Ok(other) => return Err(unexpected(Some(&other)).into()),
            Err(failure) => {
                let message =
                    subject.map_or_else(|| failure.message.clone(), |it| format!("{it}: {}", failure.message));
                let failure = Failure { message, ..failure };
                match failed {
                    None => failed = Some(failure),
                    Some(_) => print::failure(&failure, common.json),
                }
            }
        }
    }
    if let Some(failure) = failed {
        return Err(failure);
    }
    if common.json {
        print::json(&match request.op {
            Op::Unlock => Changed { released: Some(changed), renewed: None },
            _ => Changed { released: None, renewed: Some(changed) },
        });
    }
    Ok(Exit::Yes)
}

pub(super) fn status(common: &Common, args: &StatusArgs) -> Result<Exit, Failure> {
    let client = common.connect_to_read()?;
    let request = Request { scope: args.scope.as_deref().map(scope), ..Request::new(Op::Status) };
    match ask(&client, request)? {
        Body::Status(body) => {
            if common.json {
                print::json(&body);
            } else {
                print::out(&print::status(&body));
            }
            Ok(Exit::Yes)
        }
        other => Err(unexpected(Some(&other)).into()),
    }
}

pub(super) fn wait(common: &Common, args: &WaitArgs) -> Result<Exit, Failure> {
    let client = common.connect_to_read()?;
    let request = Request {
        scope: Some(scope(&args.scope)),
        mode: Some(mode(args.shared)),
        wait_ms: args.patience.wait_ms(Some(limits::WAIT_DEFAULT)),
        ..Request::new(Op::Wait)
    };
    match ask(&client, request)? {
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
    let client = common.connect_as_agent()?;
    let request = Request { scope: Some(scope(&args.scope)), fence: args.fence, ..Request::new(Op::Check) };
    match ask(&client, request)? {
        Body::Check(body) => {
            if common.json {
                print::json(&body);
            } else if !body.allowed {
                print::err(&format!("flockd: you do not hold {} exclusively", args.scope.to_string_lossy()));
                print::err(if args.fence.is_some() { " under this fence\n" } else { "\n" });
                for holder in &body.holders {
                    print::err(&format!("  {}\n", print::holder_line(holder)));
                }
            }
            Ok(if body.allowed { Exit::Yes } else { Exit::No })
        }
        other => Err(unexpected(Some(&other)).into()),
    }
}

pub(super) fn break_lock(common: &Common, args: &BreakArgs) -> Result<Exit, Failure> {
    let client = common.connect_as_agent()?;
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
pub(super) fn exit_of(code: Option<Code>) -> Exit {
    code.map_or(Exit::No, Exit::of)
}
