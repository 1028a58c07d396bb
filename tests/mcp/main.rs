//! The MCP server as its clients find it: a real process spoken to in raw lines, in both eras of the protocol.
#![cfg(feature = "mcp")]

mod client;
mod endings;
mod eras;
mod names;
mod news;
mod resources;
mod sets;
mod tools;
#[path = "../cli/util.rs"]
#[expect(dead_code, reason = "the tests of the program need more of it")]
mod util;
mod waits;
