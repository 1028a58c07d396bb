//! Statistics as programs read them.

use crate::util::Ground;

#[test]
fn a_program_reads_what_its_guards_came_to() {
    let ground = Ground::new();
    let client = ground.coordinator.client();
    let (one, two) = (ground.agent("claw-1"), ground.agent("claw-2"));
    let guard = one.lock("@x").acquire().unwrap();
    assert!(two.lock("@x").try_now().acquire().is_err());
    guard.release().unwrap();
    let kept = one.lock("@y").acquire().unwrap();
    let stats = one.stats().unwrap();
    let total = &stats.total;
    assert_eq!((total.requests, total.contended, total.contended_percent), (3, 1, 33));
    assert_eq!((total.granted, total.refused, total.released, total.held.count), (2, 1, 1, 1));
    assert_eq!((stats.now.locks, stats.now.sessions), (1, 2));
    assert_eq!(stats.scopes[0].path, "@x");
    assert_eq!(stats.agents.iter().map(|one| &*one.agent).collect::<Vec<_>>(), ["claw-1", "claw-2"]);
    assert_eq!((stats.other_agents.requests, stats.events["lock.acquired"]), (0, 2));
    assert!(stats.journal.appends.count > 0 && stats.journal.failures == 0);
    let here = one.workspace(ground.dirs.work()).unwrap();
    let narrowed = here.stats("@y").unwrap();
    assert_eq!(narrowed.scopes.iter().map(|one| &*one.path).collect::<Vec<_>>(), ["@y"]);
    assert_eq!(narrowed.other_scopes.requests, 2, "what is not named is counted all the same");
    assert_eq!(client.stats().unwrap().total, narrowed.total);
    kept.release().unwrap();
}
