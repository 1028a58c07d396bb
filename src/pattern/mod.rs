//! Patterns of paths, `src/**/*.rs`: which paths one matches, and exactly whether two could match the same.
//!
//! The leading components without a sign are the fixed part: a directory, resolved like any path. The rest becomes an
//! automaton. A file is walked through it, a subtree asks whether a path at or below its root could still match, and
//! two patterns are walked through together until one path is found that both match, or there is none.
//!
//! | sign | matches |
//! |---|---|
//! | `*` | any bytes but `/`, also none |
//! | `?` | one character but `/`, or one byte from 0x80 on, since names need not be UTF-8 |
//! | `**` as a whole component | any number of directories, also none; at the end everything below |
//! | `[a-z]` | one character of these; never `/` |
//! | `[!a-z]`, `[^a-z]` | one character that is none of these, or one byte from 0x80 on; never `/` |
//! | `{a,b}` | either; may hold slashes, signs and braces |
//! | `\` | the next byte as itself |
//!
//! Names that begin with a dot are names like any other. Only canonical paths are ever matched: what lies behind a
//! symbolic link below the fixed part is matched by its own name and not by that of the link.

mod automaton;
mod syntax;

pub use automaton::Spot;
pub use syntax::{Typed, read};

use crate::model::Invalid;
use automaton::{Automaton, Found, Unfit};
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, OnceLock};

/// A pattern whose fixed part is a canonical path.
#[derive(Clone, Debug)]
pub struct Pattern {
    prefix: Box<[u8]>,
    rest: Box<[u8]>,
    automaton: Arc<Automaton>,
}

/// Whether two patterns could match the same path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Overlap {
    /// No path matches both.
    No,
    /// This one does, and no shorter one: how it goes on from the place that was asked about, `/` first.
    At(Vec<u8>),
    /// It takes more steps to find out than are allowed ([`crate::limits::PATTERN_PAIRS_MAX`]).
    Unknown,
}

impl Pattern {
    /// The pattern of all paths that go on from `prefix`, a canonical path, as `rest` says: as [`read`] splits them.
    ///
    /// # Errors
    ///
    /// What is wrong with `rest`, and what to write instead.
    pub fn new(prefix: &[u8], rest: &[u8]) -> Result<Pattern, Invalid> {
        let automaton = Automaton::new(&syntax::regex(rest)?).map_err(|unfit| {
            let why = match unfit {
                Unfit::TooLarge => "it is too complex; use fewer alternatives and signs, or lock the directory",
                Unfit::Empty => "no path can match it",
            };
            syntax::bad(rest, why)
        })?;
        Ok(Pattern { prefix: prefix.into(), rest: rest.into(), automaton: automaton.into() })
    }

    /// The canonical path of the directory that all matches lie below.
    pub fn prefix(&self) -> &[u8] {
        &self.prefix
    }

    /// The text behind the fixed part, as [`Pattern::new`] takes it.
    pub fn rest(&self) -> &[u8] {
        &self.rest
    }

    // ── Along a path ────────────────────────────────────────────────────────────────────────────────────────────────

    /// Where the walk begins: at the directory of the fixed part.
    pub fn start(&self) -> Spot {
        self.automaton.start()
    }

    /// From a directory to one of its entries.
    pub fn down(&self, from: Spot, name: &[u8]) -> Spot {
        self.automaton.walk(self.automaton.step(from, b'/'), name)
    }

    /// Whether the path that led here matches.
    pub fn matches(&self, at: Spot) -> bool {
        self.automaton.accepts(at)
    }

    /// Whether the path that led here or one below it could match.
    pub fn reaches_into(&self, at: Spot) -> bool {
        self.matches(at) || !self.automaton.step(at, b'/').is_dead()
    }

    /// Whether the path that led here and every path below it match.
    pub fn matches_all_of(&self, at: Spot) -> bool {
        let below = everything_below();
        self.matches(at) && automaton::outside(below, below.start(), &self.automaton, at) == Found::Nothing
    }

    /// How the shortest path that goes on from here and matches does so, `/` first; empty if the path that led here
    /// matches itself.
    pub fn example(&self, at: Spot) -> Option<Vec<u8>> {
        if self.matches(at) {
            return Some(Vec::new());
        }
        let below = everything_below();
        match automaton::common(&self.automaton, at, below, below.start()) {
            Found::Word(word) => Some(word),
            Found::Nothing | Found::TooMany => None,
        }
    }

    /// Whether a path that goes on from here could also match `other`, whose fixed part ends here.
    pub fn overlap(&self, at: Spot, other: &Pattern) -> Overlap {
        match automaton::common(&self.automaton, at, &other.automaton, other.start()) {
            Found::Word(word) => Overlap::At(word),
            Found::Nothing => Overlap::No,
            Found::TooMany => Overlap::Unknown,
        }
    }

    /// Whether all that matches `other`, whose fixed part ends here, goes on from here as this pattern says. What takes
    /// too long to find out is not so.
    pub fn matches_all_that(&self, at: Spot, other: &Pattern) -> bool {
        let is_same = at == self.start() && self.rest == other.rest;
        let outside = || automaton::outside(&other.automaton, other.start(), &self.automaton, at);
        is_same || outside() == Found::Nothing
    }

    // ── By names alone ──────────────────────────────────────────────────────────────────────────────────────────────

    /// Where the canonical path leads, if it is the fixed part or lies below it.
    pub fn spot_of(&self, path: &[u8]) -> Option<Spot> {
        let root = if &*self.prefix == b"/" { b"" } else { &*self.prefix };
        let rest = path.strip_prefix(root).filter(|rest| rest.is_empty() || rest[0] == b'/')?;
        Some(if rest == b"/" { self.start() } else { self.automaton.walk(self.start(), rest) })
    }

    /// Whether it matches the canonical path.
    pub fn matches_path(&self, path: &[u8]) -> bool {
        self.spot_of(path).is_some_and(|spot| self.matches(spot))
    }
}

/// The automaton of `**`.
fn everything_below() -> &'static Automaton {
    static EVERYTHING: OnceLock<Automaton> = OnceLock::new();
    EVERYTHING.get_or_init(|| {
        let regex = syntax::regex(b"**").expect("it is well formed");
        Automaton::new(&regex).expect("it is small")
    })
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Pattern) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Pattern {}

impl Hash for Pattern {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.prefix, &self.rest).hash(state);
    }
}

impl PartialOrd for Pattern {
    fn partial_cmp(&self, other: &Pattern) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// By what was said: the automaton follows from it.
impl Ord for Pattern {
    fn cmp(&self, other: &Pattern) -> Ordering {
        (&self.prefix, &self.rest).cmp(&(&other.prefix, &other.rest))
    }
}

impl Pattern {
    /// The whole as it could be typed again, `glob:` included: absolute.
    pub fn text(&self) -> Vec<u8> {
        let root = if &*self.prefix == b"/" { b"" } else { &*self.prefix };
        [b"glob:", &syntax::escape(root)[..], b"/", &self.rest].concat()
    }

    /// The same as it could be typed in the directory `root`, if the fixed part is that or lies below it.
    pub fn text_below(&self, root: &[u8]) -> Option<Vec<u8>> {
        let below = match self.prefix.strip_prefix(root)? {
            b"" => return Some([b"glob:", &*self.rest].concat()),
            below if root == b"/" => below,
            below => below.strip_prefix(b"/")?,
        };
        Some([b"glob:", &syntax::escape(below)[..], b"/", &self.rest].concat())
    }
}

/// For people and logs: lossy, like that of scopes.
impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", String::from_utf8_lossy(&self.text()))
    }
}
