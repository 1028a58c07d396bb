//! Sub-agents inside what their parent holds.

use crate::util::Ground;
use flockd::{Event, EventFilter, Session};
use std::time::Duration;

#[test]
fn workers_take_turns_inside_a_parents_guard_which_writes_again_when_they_are_done() {
    let ground = Ground::new();
    let plan = ground.dirs.work().join("plan.md");
    let [parent, one, two, stranger] = ["claw", "claw/w1", "claw/w2", "claw-2"].map(|name| ground.agent(name));
    let events = stranger.subscribe(EventFilter::new()).unwrap();
    let whole = parent.lock(&plan).acquire().unwrap();
    let refused = |session: &Session, by: &str| {
        let error = session.lock(&plan).try_now().acquire().unwrap_err();
        let holders = &error.refusal().unwrap().holders;
        assert!(holders.iter().any(|holder| holder.agent == by), "{holders:?}");
    };
    let first = one.lock(&plan).acquire().unwrap();
    assert!(first.fence() > whole.fence() && first.lock_id() != whole.lock_id());
    let told = || match events.recv_timeout(Duration::from_secs(60)).unwrap() {
        Event::Lock(event) => (event.acquired_by, event.reason),
        other => panic!("nothing is missing: {other:?}"),
    };
    assert_eq!(told(), ("claw".to_owned(), None));
    assert_eq!(told(), ("claw/w1".to_owned(), Some("delegated".to_owned())));
    refused(&two, "claw/w1");
    refused(&stranger, "claw/w1");
    let error = whole.write("by the parent").unwrap_err().to_string();
    assert!(error.contains("your sub-agent claw/w1 holds ") && error.contains("it must release first"), "{error}");
    whole.check().expect("it is held all the same");
    first.write("by the first").unwrap();
    first.release().unwrap();
    let second = two.lock(&plan).acquire().unwrap();
    assert!(whole.write("by the parent").unwrap_err().to_string().contains("claw/w2"));
    second.write("by the second").unwrap();
    refused(&stranger, "claw/w2");
    // What a worker holds stays when the parent lets go; the parent has to wait for it then.
    whole.release().unwrap();
    refused(&stranger, "claw/w2");
    let error = parent.lock(&plan).try_now().acquire().unwrap_err();
    let advice = error.refusal().unwrap().advice.clone().unwrap();
    assert!(advice.starts_with("your sub-agent claw/w2 holds "), "{advice}");
    second.release().unwrap();
    parent.lock(&plan).acquire().unwrap().write("by the parent").unwrap();
    assert_eq!(std::fs::read(&plan).unwrap(), b"by the parent");
}
