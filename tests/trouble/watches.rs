//! A system that lets no file be watched: locks are what they are, and the log says what is missing.

use crate::inside::inside;
use crate::util::{Ground, until};
use std::fs;

#[test]
fn where_nothing_may_be_watched_that_is_said_once_and_all_else_goes_on() {
    if !inside("watches::where_nothing_may_be_watched_that_is_said_once_and_all_else_goes_on") {
        return;
    }
    let users = fs::read_to_string("/proc/self/uid_map").unwrap();
    if users.split_whitespace().eq(["0", "0", "4294967295"]) {
        println!("left out: this is no namespace of its own for users, and the machine's limits are not ours");
        return;
    }
    fs::write("/proc/sys/user/max_inotify_instances", "0").unwrap();
    let ground = Ground::new();
    for name in ["a", "b"] {
        fs::create_dir(ground.work.join(name)).unwrap();
        ground.flockd("reader", &format!("lock -s {name}/data")).gives(0);
        until("it is said", || said(&ground).then_some(()));
        ground.flockd("writer", &format!("lock -n {name}/data")).gives(1);
    }
    ground.flockd("reader", "unlock --all").gives(0);
    ground.flockd("writer", "lock -n a/data").gives(0);
    assert_eq!(ground.daemon_log().matches(SENTENCE).count(), 1, "{}", ground.daemon_log());
}

const SENTENCE: &str = "the system lets no more directories be watched";

fn said(ground: &Ground) -> bool {
    ground.daemon_log().contains(SENTENCE)
}
