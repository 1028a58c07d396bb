//! Processes that sessions and locks hang on, each watched by a pidfd: the kernel says when one is dead, exactly.

use crate::model::Process;
use crate::os::process;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

struct Watched {
    process: Process,
    pidfd: OwnedFd,
    /// How many need the watch. Only connections of sessions say when they no longer do; for what a lock hangs on, the
    /// watch stays until the process ends.
    users: usize,
}

/// The watches of a server.
#[derive(Default)]
pub(super) struct Watches {
    by_token: HashMap<Token, Watched>,
    tokens: HashMap<Process, Token>,
}

impl Watches {
    /// Watches a process for one user more. `token` is used if it is not watched yet.
    ///
    /// # Errors
    /// When the loop cannot take another descriptor.
    pub(super) fn add(
        &mut self,
        registry: &Registry,
        process: Process,
        pidfd: OwnedFd,
        token: Token,
    ) -> io::Result<()> {
        if let Some(known) = self.tokens.get(&process) {
            self.by_token.get_mut(known).expect("both maps have it").users += 1;
            return Ok(());
        }
        registry.register(&mut SourceFd(&pidfd.as_raw_fd()), token, Interest::READABLE)?;
        self.tokens.insert(process, token);
        self.by_token.insert(token, Watched { process, pidfd, users: 1 });
        Ok(())
    }

    /// One user less; the last one ends the watch.
    pub(super) fn release(&mut self, registry: &Registry, process: Process) {
        let Some(&token) = self.tokens.get(&process) else { return };
        let watched = self.by_token.get_mut(&token).expect("both maps have it");
        watched.users -= 1;
        if watched.users == 0 {
            self.remove(registry, token);
        }
    }

    /// The process behind a token that became readable, if it is dead; its watch is over then.
    pub(super) fn ended(&mut self, registry: &Registry, token: Token) -> Option<Process> {
        let watched = self.by_token.get(&token)?;
        // Life that cannot be disproved is life.
        if !process::is_dead(&watched.pidfd).unwrap_or(false) {
            return None;
        }
        Some(self.remove(registry, token))
    }

    fn remove(&mut self, registry: &Registry, token: Token) -> Process {
        let watched = self.by_token.remove(&token).expect("only known tokens are removed");
        self.tokens.remove(&watched.process);
        // Closing the descriptor ends the registration anyway.
        let _ = registry.deregister(&mut SourceFd(&watched.pidfd.as_raw_fd()));
        watched.process
    }
}
