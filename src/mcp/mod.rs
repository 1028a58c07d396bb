//! The MCP server: locks as tools and resources over stdin and stdout, for whoever speaks either era of the protocol.
//!
//! It is a client of the daemon like any other, and a one-shot: nothing that it was granted ends with it. The SDK and
//! its async runtime stay in here. The runtime has one thread, which waits for nothing but messages; whatever may wait
//! for the daemon is done by a thread of a bounded pool.

mod agents;
mod answer;
mod calls;
mod handler;
mod resources;
mod tools;
mod transport;
mod work;

pub use agents::Identity;

use crate::client::{Connect, Launch, Place};
use crate::limits;
use crate::model::Agent;
use crate::os::home::Home;
use agents::Agents;
use calls::Calls;
use handler::Handler;
use rmcp::ServiceExt;
use rmcp::service::ServerInitializeError;
use rmcp::transport::async_rw::AsyncRwTransport;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use transport::Watched;

/// For whom the server asks, and whom.
#[derive(Debug)]
pub struct Setup {
    /// Whose daemon.
    pub home: Home,
    /// How it is started.
    pub launch: Launch,
    /// Where relative paths begin.
    pub place: Place,
    /// In whose name.
    pub identity: Identity,
}

impl Setup {
    fn connect(&self, agent: Option<Agent>) -> Connect {
        let Setup { home, launch, place, .. } = self;
        Connect { home: home.clone(), launch: launch.clone(), agent, place: place.clone(), session: None }
    }
}

/// Serves on stdin and stdout until stdin ends.
///
/// # Errors
/// When there can be no threads, or the client begins with what nobody can serve.
pub fn serve(setup: Setup) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .thread_name("flockd-mcp")
        .max_blocking_threads(limits::MCP_THREADS)
        .build()?;
    let served = runtime.block_on(run(setup));
    // A thread that still waits for a daemon that does not answer keeps nobody here.
    runtime.shutdown_background();
    served
}

async fn run(setup: Setup) -> io::Result<()> {
    let (calls, ended) = (Arc::new(Calls::default()), Arc::new(Notify::new()));
    let stdio = AsyncRwTransport::new_server(tokio::io::stdin(), tokio::io::stdout());
    let stdio = stdio.with_max_line_length(limits::MCP_LINE_MAX);
    let transport = Watched::new(stdio, calls.clone(), ended.clone());
    let handler = Handler::new(Agents::new(setup), calls.clone());
    let service = match handler.serve(transport).await {
        Ok(service) => service,
        // Nobody has said anything, and nobody will.
        Err(ServerInitializeError::ConnectionClosed(_)) => return Ok(()),
        Err(error) => return Err(io::Error::other(error.to_string())),
    };
    tokio::select! {
        _ = service.waiting() => {}
        () = end_of_input(&ended, &calls) => {}
    }
    Ok(())
}

/// What follows when the client has closed stdin: what was asked before is answered if that takes no time, what waits
/// is withdrawn. Returns when no more time is left.
async fn end_of_input(ended: &Notify, calls: &Calls) {
    ended.notified().await;
    tokio::time::sleep(Duration::from_millis(limits::MCP_END_GRACE)).await;
    calls.withdraw_all();
    tokio::time::sleep(Duration::from_millis(limits::MCP_END_WITHIN - limits::MCP_END_GRACE)).await;
}
