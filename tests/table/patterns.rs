//! What patterns have in common, found by trying: each path of a few names goes through the naive matcher.

#[path = "../patterns/naive.rs"]
mod naive;

use std::cell::RefCell;
use std::collections::HashMap;

/// Every name that the commands use, and two that no pattern names.
const NAMES: [&[u8]; 13] = [b"a", b"b", b"d", b"e", b"f", b"h", b"l", b"m", b"new", b"deep", b"x", b"z", b"other"];

/// A question that was answered before: pattern, way to it, the other pattern, and which question it was.
type Asked = (Vec<u8>, Vec<u8>, Vec<u8>, u8);

thread_local! {
    /// The model asks the same few questions over and over.
    static ANSWERS: RefCell<HashMap<Asked, bool>> = RefCell::default();
}

/// The path that these names lead along, from some directory.
fn path(names: &[&[u8]]) -> Vec<u8> {
    names.iter().flat_map(|name| [b"/", *name].concat()).collect()
}

/// All ways on by at most two names, none included.
fn further() -> Vec<Vec<u8>> {
    let mut all = vec![Vec::new()];
    for first in NAMES {
        all.push(path(&[first]));
        all.extend(NAMES.iter().map(|second| path(&[first, second])));
    }
    all
}

fn is_match(rest: &[u8], path: &[u8]) -> bool {
    !path.is_empty() && naive::matches(rest, path)
}

fn answer(rest: &[u8], way: &[&[u8]], other: &[u8], question: u8, find: impl Fn(&[u8]) -> bool) -> bool {
    let way = path(way);
    let asked = (rest.to_vec(), way, other.to_vec(), question);
    ANSWERS.with_borrow_mut(|answers| match answers.get(&asked) {
        Some(answer) => *answer,
        None => {
            let found = find(&asked.1);
            answers.insert(asked, found);
            found
        }
    })
}

/// Whether the pattern matches what its fixed part leads to by these names.
pub fn matches(rest: &[u8], way: &[&[u8]]) -> bool {
    is_match(rest, &path(way))
}

/// Whether it matches that or something below.
pub fn some_match(rest: &[u8], way: &[&[u8]]) -> bool {
    answer(rest, way, b"", 0, |way| further().iter().any(|more| is_match(rest, &[way, more].concat())))
}

/// Whether it matches that and all below.
pub fn all_match(rest: &[u8], way: &[&[u8]]) -> bool {
    answer(rest, way, b"", 1, |way| further().iter().all(|more| is_match(rest, &[way, more].concat())))
}

/// Whether it matches something that the other pattern matches, whose fixed part is there.
pub fn two_match(rest: &[u8], way: &[&[u8]], other: &[u8]) -> bool {
    let both = |way: &[u8], more: &[u8]| is_match(other, more) && is_match(rest, &[way, more].concat());
    answer(rest, way, other, 2, |way| further().iter().any(|more| both(way, more)))
}

/// Whether it matches all that the other pattern matches, whose fixed part is there.
pub fn all_that_match(rest: &[u8], way: &[&[u8]], other: &[u8]) -> bool {
    let both = |way: &[u8], more: &[u8]| !is_match(other, more) || is_match(rest, &[way, more].concat());
    answer(rest, way, other, 3, |way| further().iter().all(|more| both(way, more)))
}
