//! `flockd watch`: what happens to locks, as it happens.

use super::args::{EventArgs, WatchArgs};
use super::{Common, Exit, Failure, ask, launch, place_anyway, print};
use crate::client::{Connect, Heard, Subscription};
use crate::os::home::Home;
use crate::wire::{Op, Request};
use crossbeam_channel::{Receiver, bounded, select};
use rustix::event::{PollFd, PollFlags};

pub(super) fn watch(common: &Common, args: &WatchArgs) -> Result<Exit, Failure> {
    let told = subscribe(&args.which, args.events.clone())?;
    let closed = stdout_closed()?;
    if common.tells_a_person() {
        // Until something happens there is nothing else to see.
        print::err("waiting for events; Ctrl-C ends it\n");
    }
    loop {
        let heard = select! {
            recv(told) -> heard => heard.map_err(|_| gone())?,
            // Whoever closed the pipe has seen enough.
            recv(closed) -> _ => return Ok(Exit::Yes),
        };
        match (&heard, common.json) {
            (Heard::Event(event), true) => print::json(event),
            (Heard::Gap(_), true) => print::json(&GapLine::of(&heard)),
            (Heard::Event(event), false) => print::out(&print::event(event)),
            (Heard::Gap(gap), false) => print::out(&print::gap(gap)),
        }
        if print::is_cut_off() {
            return Ok(Exit::Unavailable);
        }
    }
}

/// A gap as a line of its own, told from events by its only key.
#[derive(serde::Serialize)]
struct GapLine<'a> {
    gap: Option<&'a crate::wire::GapBody>,
}

impl GapLine<'_> {
    fn of(heard: &Heard) -> GapLine<'_> {
        GapLine { gap: if let Heard::Gap(gap) = heard { Some(gap) } else { None } }
    }
}

/// Subscribes to what is wanted, from where this program stands.
pub(super) fn subscribe(which: &EventArgs, events: Vec<String>) -> Result<Receiver<Heard>, Failure> {
    let place = place_anyway()?;
    let connect = Connect { home: Home::from_env()?, launch: launch()?, agent: None, place, session: None };
    let request = Request {
        id: Some(1),
        events,
        scopes: which.scopes.iter().map(|scope| ask::scope(scope, false)).collect(),
        agents: which.by.clone(),
        ..Request::new(Op::Subscribe)
    };
    Ok(Subscription::begin(connect, request, which.since)?.into_channel()?)
}

/// The subscription has ended by itself.
pub(super) fn gone() -> Failure {
    let text = "the daemon does not go on telling, or does not come back; `flockd daemon status` tells more";
    Failure::new(Exit::Unavailable, text)
}

/// Tells when nobody can read stdout any more, which a program that has nothing to write would not find out.
fn stdout_closed() -> Result<Receiver<()>, Failure> {
    let (tell, closed) = bounded(1);
    let look = move || {
        let stdout = rustix::stdio::stdout();
        loop {
            // Nothing is asked for: only that the other end is closed is told.
            match rustix::event::poll(&mut [PollFd::new(&stdout, PollFlags::empty())], None) {
                Err(rustix::io::Errno::INTR) => {}
                // Nobody listens any more when the program is ending.
                _ => return tell.send(()).unwrap_or(()),
            }
        }
    };
    std::thread::Builder::new()
        .name("flockd-stdout".into())
        .spawn(look)
        .map_err(|error| Failure::new(Exit::Unavailable, error.to_string()))?;
    Ok(closed)
}
