//! `flockd webhook`: URLs that hear of events by signed posts.

use super::agent;
use super::ask::scope;
use super::{Common, Exit, Failure, print};
use crate::client::{Connection, unexpected};
use crate::limits;
use crate::os::process;
use crate::wire::webhooks::{PostedBody, WebhookBody, WebhookState};
use crate::wire::{Answer, Body, Op, Request};
use clap::{Args, Subcommand};
use rustix::fd::{AsFd, OwnedFd};
use std::ffi::OsString;
use std::fmt::Write as _;
use std::time::Duration;

#[derive(Debug, Args)]
pub(super) struct WebhookArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Send events to a URL from now on
    #[command(after_long_help = "\
Each event is a POST with a JSON body, signed as Standard Webhooks have it (webhook-id, webhook-timestamp, \
webhook-signature). It is delivered at least once, in order, also if the daemon is killed meanwhile: a repetition has \
the same webhook-id and body. Anything but a 2xx within 20 s is tried again, after 5 s at first and for five days, \
then the webhook is disabled; 410 disables it at once. Redirects are not followed.

It may be on this machine, over http or https, or in the Internet, over https. Addresses of private networks need \
--allow-private.

Examples:
  flockd webhook add http://127.0.0.1:8080/hook --event lock.released
  flockd webhook add http://localhost:8080/ --event lock.released --scope data.json --until-exit
  flockd webhook add https://example.com/hook --json | jq -r .secret")]
    Add(AddArgs),
    /// Which there are, and whether posts arrive
    #[command(after_long_help = "\
Examples:
  flockd webhook list
  flockd webhook list --json | jq -r '.[] | select(.state != \"active\") | .last_error'")]
    List,
    /// One of them
    #[command(after_long_help = "\
Examples:
  flockd webhook show wh_3g5x
  flockd webhook show wh_3g5x --secret")]
    Show(ShowArgs),
    /// Send a test now; succeeds if it arrives
    #[command(after_long_help = "\
Examples:
  flockd webhook test wh_3g5x && echo it listens")]
    Test(OneArgs),
    /// Send what waits now, also if it was disabled
    #[command(after_long_help = "\
What could not be sent while it was disabled follows, as far as events are kept; what is not is told as a gap.

Examples:
  flockd webhook retry wh_3g5x")]
    Retry(OneArgs),
    /// Send no more
    #[command(after_long_help = "\
Examples:
  flockd webhook rm wh_3g5x")]
    Rm(OneArgs),
}

#[derive(Debug, Args)]
struct AddArgs {
    /// Where to, http://… or https://…
    url: String,

    /// Only these events, such as lock.released; several with commas, or given again
    #[arg(long = "event", value_name = "NAME", value_delimiter = ',', value_parser = super::args::event)]
    events: Vec<String>,

    /// Only events about this file, directory or @name; may be repeated
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<OsString>,

    /// What to sign with, whsec_ and base64; `generated`, or nothing said, makes one
    #[arg(long, value_name = "SECRET", env = "FLOCKD_WEBHOOK_SECRET", hide_env_values = true)]
    secret: Option<String>,

    /// It may be in a private network
    #[arg(long)]
    allow_private: bool,

    /// Until the agent ends whose process is around this one
    #[arg(long, conflicts_with = "pid")]
    until_exit: bool,

    /// Until this process ends
    #[arg(long, value_name = "PID")]
    pid: Option<u32>,
}

#[derive(Debug, Args)]
struct ShowArgs {
    #[command(flatten)]
    one: OneArgs,

    /// The secret as well
    #[arg(long)]
    secret: bool,
}

#[derive(Debug, Args)]
struct OneArgs {
    /// Its id
    #[arg(value_name = "ID")]
    id: String,
}

pub(super) fn webhook(common: &Common, args: &WebhookArgs) -> Result<Exit, Failure> {
    match &args.verb {
        Verb::Add(args) => add(common, args),
        Verb::List => list(common),
        Verb::Show(args) => show(common, args),
        Verb::Test(args) => test(common, args),
        Verb::Retry(args) => retry(common, args),
        Verb::Rm(args) => remove(common, args),
    }
}

/// The process whose end is the webhook's.
fn until(args: &AddArgs) -> Result<Option<OwnedFd>, Failure> {
    if let Some(pid) = args.pid {
        let pidfd = process::pidfd_of_own(pid).map_err(|error| Failure::new(Exit::Usage, error.to_string()))?;
        return Ok(Some(pidfd));
    }
    if !args.until_exit {
        return Ok(None);
    }
    let text = "no agent's process is around this command, so there is no exit to wait for; name one by --pid PID";
    agent::process().map(Some).ok_or_else(|| Failure::new(Exit::Usage, text))
}

fn add(common: &Common, args: &AddArgs) -> Result<Exit, Failure> {
    let until = until(args)?;
    let client = common.connect_as_agent()?;
    let request = Request {
        url: Some(args.url.clone()),
        events: args.events.clone(),
        scopes: args.scopes.iter().map(|typed| scope(typed, false)).collect(),
        secret: args.secret.clone().filter(|secret| secret != "generated"),
        allow_private: args.allow_private,
        bound: until.is_some(),
        ..Request::new(Op::WebhookAdd)
    };
    let body = ask(&client, request, until.as_ref())?;
    match body {
        Body::Webhook(body) if common.json => print::json(&body),
        Body::Webhook(body) => print::out(&sentence_and_secret(&body)),
        other => return Err(unexpected(Some(&other)).into()),
    }
    Ok(Exit::Yes)
}

fn list(common: &Common) -> Result<Exit, Failure> {
    match ask(&common.connect_to_read()?, Request::new(Op::WebhookList), None)? {
        Body::Webhooks(all) if common.json => print::json(&all),
        Body::Webhooks(all) if all.is_empty() => print::out("no webhooks; `flockd webhook add --help` has examples\n"),
        Body::Webhooks(all) => print::out(&all.iter().map(lines).collect::<String>()),
        other => return Err(unexpected(Some(&other)).into()),
    }
    Ok(Exit::Yes)
}

fn show(common: &Common, args: &ShowArgs) -> Result<Exit, Failure> {
    let request = Request { with_secret: args.secret, ..about(Op::WebhookList, &args.one) };
    match ask(&common.connect_to_read()?, request, None)? {
        Body::Webhook(body) if common.json => print::json(&body),
        Body::Webhook(body) => print::out(&sentence_and_secret(&body)),
        other => return Err(unexpected(Some(&other)).into()),
    }
    Ok(Exit::Yes)
}

fn test(common: &Common, args: &OneArgs) -> Result<Exit, Failure> {
    let client = common.connect_to_read()?;
    let id = client.begin(about(Op::WebhookTest, args))?;
    let within = Duration::from_millis(limits::WEBHOOK_WITHIN + limits::ANSWER_WITHIN);
    let Some(answer) = client.finish(id, Some(within))? else {
        let text = "the daemon does not answer; `flockd daemon status` tells more";
        return Err(Failure::new(Exit::Unavailable, text));
    };
    let body = match answer.ok {
        Some(Body::Posted(body)) => body,
        other => return Err(unexpected(other.as_ref()).into()),
    };
    match common.json {
        true => print::json(&body),
        false if body.delivered => print::out(&arrived(&body)),
        false => {
            print::err(&format!("flockd: it did not arrive: {}\n", body.error.as_deref().unwrap_or("nobody knows why")))
        }
    }
    Ok(if body.delivered { Exit::Yes } else { Exit::No })
}

fn retry(common: &Common, args: &OneArgs) -> Result<Exit, Failure> {
    match ask(&common.connect_to_read()?, about(Op::WebhookRetry, args), None)? {
        Body::Webhook(body) if common.json => print::json(&body),
        Body::Webhook(body) => print::out(&retried(&body)),
        other => return Err(unexpected(Some(&other)).into()),
    }
    Ok(Exit::Yes)
}

fn remove(common: &Common, args: &OneArgs) -> Result<Exit, Failure> {
    match ask(&common.connect_to_read()?, about(Op::WebhookRemove, args), None)? {
        Body::WebhookRemoved(body) if common.json => print::json(&body),
        Body::WebhookRemoved(body) => print::out(&format!("{} is gone\n", body.webhook_id)),
        other => return Err(unexpected(Some(&other)).into()),
    }
    Ok(Exit::Yes)
}

fn about(op: Op, args: &OneArgs) -> Request {
    Request { webhook_id: Some(args.id.clone()), ..Request::new(op) }
}

fn ask(client: &Connection, request: Request, pidfd: Option<&OwnedFd>) -> Result<Body, Failure> {
    let id = match pidfd {
        None => client.begin(request)?,
        Some(pidfd) => client.begin_with_fd(request, pidfd.as_fd())?,
    };
    match client.finish(id, Some(Duration::from_millis(limits::ANSWER_WITHIN)))? {
        Some(Answer { ok: Some(body), .. }) => Ok(body),
        Some(_) => Err(unexpected(None).into()),
        None => {
            let text = "the daemon does not answer; `flockd daemon status` tells more";
            Err(Failure::new(Exit::Unavailable, text))
        }
    }
}

// ── For people ──────────────────────────────────────────────────────────────────────────────────────────────────────

fn arrived(body: &PostedBody) -> String {
    format!(
        "it arrived: {} after {} ms\n",
        body.status.map_or_else(String::new, |status| status.to_string()),
        body.took_ms
    )
}

fn retried(body: &WebhookBody) -> String {
    let id = &body.webhook_id;
    match body.state {
        WebhookState::Active => format!("{id} has nothing that failed: events are sent as they come\n"),
        _ => format!(
            "{id} is sent what waits now, and what fails is tried again from the beginning of the schedule; flockd \
             webhook show {id} tells what came of it\n"
        ),
    }
}

fn sentence_and_secret(body: &WebhookBody) -> String {
    let secret = body.secret.as_ref().map(|secret| format!("  secret: {secret}\n"));
    lines(body) + &secret.unwrap_or_default()
}

/// A webhook, and in a second line what is wrong with it.
fn lines(body: &WebhookBody) -> String {
    let all = |names: &[String], all: &str| if names.is_empty() { all.to_owned() } else { names.join(", ") };
    let what = all(&body.events, "all events");
    let of = if body.scopes.is_empty() { String::new() } else { format!(" of {}", body.scopes.join(", ")) };
    let until = body.until_pid.map(|pid| format!(", until process {pid} ends")).unwrap_or_default();
    let mut text = format!("{}  {what}{of} to {}{until}; {} delivered\n", body.webhook_id, body.url, body.delivered);
    let wrong = body.last_error.as_deref().unwrap_or_default();
    let since = body.failing_since.as_deref().unwrap_or_default();
    let added = match (body.state, body.next_try_in_ms) {
        (WebhookState::Active, _) => Ok(()),
        (WebhookState::Failing, Some(ms)) => {
            let next = crate::wire::render::duration(ms);
            writeln!(text, "  failing since {since}, attempt {}: {wrong}; next try in {next}", body.attempts)
        }
        (WebhookState::Failing | WebhookState::Disabled, _) => {
            let id = &body.webhook_id;
            writeln!(text, "  disabled, failing since {since}: {wrong}; mend it, then: flockd webhook retry {id}")
        }
    };
    added.expect("a string takes everything");
    text
}
