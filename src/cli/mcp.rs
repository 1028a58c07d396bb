//! `flockd mcp`: the locks as an MCP server, for whatever agent program starts it.

use super::args::McpArgs;
use super::{Common, Exit, Failure, launch, warned};
use crate::client::{Place, agent};
use crate::mcp::{Identity, Setup, serve};
use crate::os::home::Home;

pub(super) fn mcp(common: &Common, args: &McpArgs) -> Result<Exit, Failure> {
    let identity = Identity {
        given: common.named_agent()?,
        surrounding: agent::surrounding(),
        program: agent::program(),
        process: agent::process(),
    };
    let place = warned(args.workspace.as_deref().map_or_else(Place::here_anyway, Place::at_anyway)?);
    let setup = Setup { home: Home::from_env()?, launch: launch()?, place, identity };
    serve(setup).map_err(|error| Failure::new(Exit::Unavailable, error.to_string()))?;
    Ok(Exit::Yes)
}
