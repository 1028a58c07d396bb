//! Requests for locks as the table takes them: canonical paths with an identity for each directory on the way.

use flockd::model::*;
use flockd::pattern::Pattern;
use flockd::scope::{FileId, Scope, Target};
use std::sync::Arc;

/// The one moment at which everything happens.
pub const NOW: Now = Now { mono: Moment(1_000), wall: Wall(0) };

fn agent(name: &str) -> Agent {
    Agent::new(name).expect("a name")
}

/// A scope all of which exists. The identities are made from the path: the same path is the same file.
pub fn target(path: &str, is_tree: bool) -> Target {
    let parts = path.split('/').skip(1).count();
    let number =
        |end: usize| path[..end].bytes().fold(7u64, |n, byte| n.wrapping_mul(1_000_003).wrapping_add(byte.into()));
    let mut ends: Vec<usize> = path.match_indices('/').map(|(at, _)| at).skip(1).collect();
    ends.push(path.len());
    let mut ids = vec![FileId { device: 1, inode: 1, birth: 0 }];
    ids.extend(ends.iter().map(|end| FileId { device: 1, inode: number(*end), birth: 0 }));
    assert_eq!(ids.len(), parts + 1);
    let path = path.as_bytes().into();
    Target { scope: if is_tree { Scope::Subtree(path) } else { Scope::File(path) }, ids: ids.into() }
}

/// A pattern below a directory that exists.
#[allow(dead_code, reason = "not every bench asks for patterns")]
pub fn pattern(prefix: &str, rest: &str) -> Target {
    let Target { ids, .. } = target(prefix, true);
    let pattern = Pattern::new(prefix.as_bytes(), rest.as_bytes()).expect("it is well formed");
    Target { scope: Scope::Pattern(pattern), ids }
}

/// A request for an exclusive lock that outlives its holder by a minute, without a flock.
pub fn ask(name: &str, target: Target) -> Arc<Ask> {
    Arc::new(Ask {
        target,
        mode: Mode::Exclusive,
        who: Who { agent: agent(name), session: None },
        lease: Lease { ttl: 60_000, max_hold: None },
        note: None,
        process: None,
        bound: None,
        upgrades: None,
        set: None,
        request: None,
        workspace: Workspace { root: b"/w"[..].into() },
        os: false,
    })
}
