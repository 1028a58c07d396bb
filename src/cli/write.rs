//! `flockd write`: stdin becomes the content of a file, put in place by the daemon.

use super::args::WriteArgs;
use super::{Common, Exit, Failure, ask, print};
use crate::client::{ClientError, Connection, Draft, FilePlace, unexpected};
use crate::limits;
use crate::os::process;
use crate::wire::{Body, Code, CommitBody, Mode, Op, Request};
use rustix::fd::AsFd;
use serde::Serialize;
use std::path::Path;

/// What is printed of a write with `--json`.
#[derive(Serialize)]
struct Written<'a> {
    #[serde(flatten)]
    body: &'a CommitBody,
    /// The BLAKE3 hash of the new content.
    hash: &'a str,
}

pub(super) fn write(common: &Common, args: &WriteArgs) -> Result<Exit, Failure> {
    let client = common.connect_as_agent()?;
    let cwd = std::env::current_dir()
        .map_err(|error| Failure::new(Exit::Usage, format!("the working directory cannot be told ({error})")))?;
    let place = FilePlace::of(&cwd, Path::new(&args.file))?;
    // Before anything is locked: whoever makes the content may take long.
    let mut draft = Draft::make(place, |out| std::io::copy(&mut std::io::stdin().lock(), out).map(drop))?;
    if draft.is_empty() && !args.allow_empty {
        let file = args.file.to_string_lossy();
        let text = format!("nothing came on stdin, so nothing was written; --allow-empty makes {file} empty");
        return Err(Failure::new(Exit::Usage, text));
    }
    let body = match put(&client, &mut draft, args, args.fence) {
        // Nobody of this agent's holds it: it does for the moment.
        Err(ClientError::Refused(error)) if error.code == Code::NotHolder && args.fence.is_none() => {
            match under_own_lock(common, &client, &mut draft, args)? {
                Ok(body) => body,
                Err(exit) => return Ok(exit),
            }
        }
        done => done?,
    };
    if common.json {
        print::json(&Written { body: &body, hash: draft.hash() });
    }
    Ok(Exit::Yes)
}

fn put(
    client: &Connection,
    draft: &mut Draft,
    args: &WriteArgs,
    fence: Option<u64>,
) -> Result<CommitBody, ClientError> {
    let done = draft.put(client, None, fence, args.if_unchanged.as_ref());
    print::losses(&client.take_losses());
    done
}

/// Takes a lock that ends with this process at the latest, writes, and gives it back.
fn under_own_lock(
    common: &Common,
    client: &Connection,
    draft: &mut Draft,
    args: &WriteArgs,
) -> Result<Result<CommitBody, Exit>, Failure> {
    let pidfd = process::pidfd_of_own(std::process::id())
        .map_err(|error| Failure::new(Exit::Unavailable, error.to_string()))?;
    let request = Request {
        scope: Some(ask::scope(&args.file, false)),
        mode: Some(Mode::Exclusive),
        wait_ms: args.patience.wait_ms(Some(limits::WAIT_DEFAULT)),
        ttl_ms: Some(limits::TTL_SESSION),
        note: Some(args.note.clone().unwrap_or_else(|| "writing it with flockd write".to_owned())),
        bound: true,
        ..Request::new(Op::Lock)
    };
    let body = match ask::patiently(client, request, Some(pidfd.as_fd()), common.tells_a_person())? {
        Body::Lock(body) if body.acquired => body,
        Body::Lock(body) => {
            return Ok(Err(ask::refused(common, client, &body)));
        }
        other => return Err(unexpected(Some(&other)).into()),
    };
    let done = put(client, draft, args, body.fence);
    if let Some(lock_id) = &body.lock_id {
        // It ends with this process in any case.
        let _ = client.unlock(lock_id);
    }
    Ok(Ok(done?))
}
