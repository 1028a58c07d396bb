//! The rules of patterns, and of names that are files first and directories later, one claim a test.

use crate::rules::{Desk, target};
use flockd::limits;
use flockd::model::*;
use flockd::pattern::Pattern;
use flockd::scope::{FileId, Scope, Target};

/// A pattern whose fixed part exists.
fn pattern(prefix: &str, rest: &str) -> Target {
    let Target { ids, .. } = target(&format!("{prefix}/"));
    Target { scope: Scope::Pattern(Pattern::new(prefix.as_bytes(), rest.as_bytes()).unwrap()), ids }
}

/// A file that is not there yet.
fn missing(path: &str) -> Target {
    let mut ids = target(path).ids.into_vec();
    ids.pop();
    Target { scope: Scope::File(path.as_bytes().into()), ids: ids.into() }
}

#[test]
fn a_pattern_excludes_exactly_what_could_match() {
    let mut desk = Desk::new();
    assert_eq!(desk.ask_for("ada", "x", pattern("/w", "src/**/*.rs")), "granted");
    for held in ["x /w/src/a.rs", "s /w/src/a/b.rs", "x /w/src/", "x /w/", "x /", "x /w/src/deep/", "x /w"] {
        assert_eq!(desk.ask("bo", held), "held by ada", "{held}");
    }
    for free in ["x /w/src/a.md", "x /w/lib/", "x /v/src/a.rs", "x @src"] {
        assert_eq!(desk.ask("bo", free), "granted", "{free}");
    }
    for (prefix, rest) in [("/w/src", "m*"), ("/w", "**"), ("/", "w/*/a.rs"), ("/w/src/x", "?.rs")] {
        let said = desk.ask_for("cy", "x", pattern(prefix, rest));
        assert!(said.starts_with("held by ada"), "{prefix} {rest}: {said}");
    }
    for (prefix, rest) in [("/w/src", "*.md"), ("/w", "*.rs"), ("/", "v/**")] {
        assert_eq!(desk.ask_for("bo", "x", pattern(prefix, rest)), "granted", "{prefix} {rest}");
    }
}

#[test]
fn readers_share_a_pattern_and_its_queue_is_fair() {
    let mut desk = Desk::new();
    assert_eq!(desk.ask_for("ada", "s", pattern("/w", "*.rs")), "granted");
    assert_eq!(desk.ask("bo", "s /w/a.rs"), "granted");
    assert_eq!(desk.wait("cy", "x /w/a.rs"), "waits");
    assert_eq!(desk.ask_for("di", "s", pattern("/w", "a*")), "held by ", "the writer came first");
    assert_eq!(desk.ask_for("di", "s", pattern("/w", "b*")), "granted");
    assert_eq!(desk.free_by("ada", pattern("/w", "*.rs")), "released 1");
    assert_eq!(desk.free_by("bo", target("/w/a.rs")), "released 1");
    assert_eq!(desk.news(), ["cy: granted"]);
}

#[test]
fn a_pattern_answers_its_own_agent_for_what_it_covers() {
    let mut desk = Desk::new();
    assert_eq!(desk.ask_for("ada", "x", pattern("/w", "**")), "granted");
    for mine in ["x /w/a.rs", "s /w/d/", "x /w/d/e/f"] {
        assert_eq!(desk.ask("ada", mine), "already held", "{mine}");
    }
    assert_eq!(desk.ask_for("ada", "x", pattern("/w/d", "*.rs")), "already held");
    assert_eq!(desk.ask("ada", "x /w/"), "granted", "a directory itself is not among what lies in it");
    assert_eq!(desk.ask_for("bo", "x", pattern("/v", "*.rs")), "granted");
    assert_eq!(desk.ask_for("bo", "x", pattern("/v", "*")), "granted", "beside its own, which is a part of it");
}

#[test]
fn a_directory_with_two_names_is_one_fixed_part() {
    let mut desk = Desk::new();
    let mut mounted = pattern("/m", "*.rs");
    mounted.ids[1] = target("/w/src/").own_id().unwrap();
    assert_eq!(desk.ask_for("ada", "x", mounted.clone()), "granted");
    assert_eq!(desk.ask("bo", "x /w/src/a.rs"), "held by ada");
    assert_eq!(desk.ask("bo", "x /w/src/a.md"), "granted");
    assert_eq!(desk.ask_for("bo", "x", pattern("/w/src", "[ab]*")), "held by ada");
    assert_eq!(desk.free_by("ada", pattern("/w/src", "*.rs")), "released 1", "the same by its other name");
}

#[test]
fn what_cannot_be_compared_in_time_is_refused_by_name() {
    let mut desk = Desk::new();
    assert_eq!(desk.ask_for("ada", "x", pattern("/w", "*a??????x")), "granted");
    assert_eq!(desk.ask_for("bo", "x", pattern("/w", "*b??????y")), "invalid");
    let Some(Reply::Failed(Fault::Invalid(text))) = desk.last.take().map(|answer| answer.reply) else { panic!() };
    assert!(text.contains("glob:/w/*a??????x") && text.contains("lock the directory"), "{text}");
    assert_eq!(desk.ask_for("bo", "x", pattern("/v", "*b??????y")), "granted", "elsewhere there is nothing to compare");
}

#[test]
fn only_so_many_patterns_are_held() {
    let mut desk = Desk::new();
    for n in 0..limits::PATTERNS_MAX {
        assert_eq!(desk.ask_for("ada", "x", pattern(&format!("/w/{n}"), "*")), "granted");
    }
    assert_eq!(desk.ask_for("bo", "x", pattern("/v", "*")), "refused");
    assert_eq!(desk.ask_for("ada", "x", pattern("/w/7", "*")), "already held");
    assert_eq!(desk.ask("bo", "x /v/a"), "granted");
    assert_eq!(desk.free_by("ada", pattern("/w/7", "*")), "released 1");
    assert_eq!(desk.ask_for("bo", "x", pattern("/v", "*")), "granted");
}

#[test]
fn a_file_keeps_others_from_what_is_put_below_its_name() {
    let mut desk = Desk::new();
    assert_eq!(desk.ask_for("ada", "x", missing("/w/new")), "granted");
    for held in ["x /w/new", "x /w/new/", "x /w/new/a", "s /w/new/d/e"] {
        assert_eq!(desk.ask("bo", held), "held by ada", "{held}");
    }
    assert_eq!(desk.ask_for("bo", "x", pattern("/w/new", "*")), "held by ada");
    assert_eq!(desk.ask_for("bo", "x", pattern("/w", "*/x")), "granted", "from above only the name itself counts");
    assert_eq!(desk.ask("bo", "x /w/newer"), "granted");
    // And from the other side.
    assert_eq!(desk.ask("cy", "x /v/d/f"), "granted");
    assert_eq!(desk.ask_for("bo", "x", missing("/v/d")), "held by cy");
}

#[test]
fn a_lock_is_found_by_its_name_whatever_became_of_it() {
    let mut desk = Desk::new();
    assert_eq!(desk.ask_for("ada", "x", missing("/w/new")), "granted");
    assert_eq!(desk.ask("ada", "x /w/new/a"), "granted", "it does not cover what is below: a pattern from above could");
    assert_eq!(desk.ask("ada", "x /w/new/"), "granted");
    assert_eq!(desk.free_by("ada", target("/w/new/")), "released 2");
    assert_eq!(desk.ask_for("ada", "x", missing("/w/new")), "granted");
    assert_eq!(desk.free_by("ada", target("/w/new/")), "released 1");
    assert_eq!(desk.ask("ada", "x /w/dir/"), "granted");
    assert_eq!(desk.free_by("ada", target("/w/dir")), "released 1", "a directory that was replaced by a file");
}

#[test]
fn a_directory_mounted_in_itself_names_each_holder_once() {
    let mut desk = Desk::new();
    let id = |inode| FileId { device: 1, inode, birth: 0 };
    let ids = [id(1), target("/w/").own_id().unwrap(), target("/w/").own_id().unwrap(), id(99)];
    let inner = Target { scope: Scope::File(b"/w/self/a"[..].into()), ids: ids.into() };
    assert_eq!(desk.ask("ada", "x /w/"), "granted");
    assert_eq!(desk.ask_for("bo", "x", inner), "held by ada");
}
