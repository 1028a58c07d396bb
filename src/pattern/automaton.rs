//! A pattern as a table of states over bytes, and the walk through two of them at once.
//!
//! regex-automata makes the table: it builds and determinises. Crossed with the shape of canonical paths, and freed
//! of states that lead nowhere, it becomes ours, so that files, subtrees and patterns are all compared with one and
//! the same thing, and a state that is not dead always means that some path still matches.

use crate::limits;
use regex_automata::dfa::{Automaton as _, StartKind, dense};
use regex_automata::nfa::thompson;
use regex_automata::util::primitives::StateID;
use regex_automata::util::{start, syntax};
use regex_automata::{Anchored, MatchKind};
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};

/// A place in an automaton: where it is after some bytes of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Spot(u16);

/// Nothing matches any more.
const DEAD: Spot = Spot(0);
/// Before the first byte.
const START: Spot = Spot(1);

impl Spot {
    /// Whether no path that goes on from here matches.
    pub fn is_dead(self) -> bool {
        self == DEAD
    }
}

/// Accepts words of the form `/a/b`: canonical paths as they go on from the fixed part of a pattern.
pub(super) struct Automaton {
    /// Which bytes are alike to it.
    class_of: [u8; 256],
    classes: usize,
    /// The state after each state and class.
    next: Box<[Spot]>,
    accepts: Box<[bool]>,
}

/// It is long and says nothing.
impl fmt::Debug for Automaton {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Automaton({} states)", self.accepts.len())
    }
}

/// Why there is no automaton.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    /// It would be too large.
    TooLarge,
    /// It would accept no path.
    Empty,
}

/// How far a byte leads through the shape of canonical paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Shape {
    Begin,
    Slash,
    Dot,
    Dots,
    Name,
}

impl Shape {
    fn after(self, byte: u8) -> Option<Shape> {
        match (self, byte) {
            (_, 0) => None,
            (Shape::Begin | Shape::Name, b'/') => Some(Shape::Slash),
            (_, b'/') | (Shape::Begin, _) => None,
            (Shape::Slash, b'.') => Some(Shape::Dot),
            (Shape::Dot, b'.') => Some(Shape::Dots),
            _ => Some(Shape::Name),
        }
    }
}

/// A state before it has a number: where the regex is, and where the path is.
type Crossed = (StateID, Shape);

impl Automaton {
    /// The automaton of a regex.
    pub(super) fn new(regex: &str) -> Result<Automaton, Unfit> {
        let dfa = dense::Builder::new()
            .configure(
                dense::Config::new()
                    .accelerate(false)
                    .start_kind(StartKind::Anchored)
                    .match_kind(MatchKind::All)
                    .dfa_size_limit(Some(limits::PATTERN_WORK_MAX))
                    .determinize_size_limit(Some(limits::PATTERN_WORK_MAX)),
            )
            .thompson(thompson::Config::new().utf8(false).nfa_size_limit(Some(limits::PATTERN_WORK_MAX)))
            .syntax(syntax::Config::new().utf8(false))
            .build(regex)
            .map_err(|_| Unfit::TooLarge)?;
        let start = start::Config::new().anchored(Anchored::Yes);
        let start = dfa.start_state(&start).expect("an anchored start needs nothing that was left out");
        let (class_of, samples) = classes(|byte| (dfa.byte_classes().get(byte), byte_of_shape(byte)));
        let mut drawing = Drawing::from((start, Shape::Begin));
        let mut at = 0;
        while at < drawing.states.len() {
            let (state, shape) = drawing.states[at];
            for &byte in &samples {
                let crossed = shape.after(byte).map(|shape| (dfa.next_state(state, byte), shape));
                drawing.add_edge(crossed.filter(|(state, _)| !dfa.is_dead_state(*state)));
            }
            drawing.accepts.push(shape == Shape::Name && dfa.is_match_state(dfa.next_eoi_state(state)));
            at += 1;
            if drawing.states.len() * samples.len() > limits::PATTERN_TABLE_MAX {
                return Err(Unfit::TooLarge);
            }
        }
        drawing.trim(class_of, samples.len())
    }

    pub(super) fn start(&self) -> Spot {
        START
    }

    pub(super) fn step(&self, from: Spot, byte: u8) -> Spot {
        self.next[usize::from(from.0) * self.classes + usize::from(self.class_of[usize::from(byte)])]
    }

    pub(super) fn walk(&self, from: Spot, bytes: &[u8]) -> Spot {
        bytes.iter().fold(from, |spot, &byte| self.step(spot, byte))
    }

    pub(super) fn accepts(&self, spot: Spot) -> bool {
        self.accepts[usize::from(spot.0)]
    }
}

/// The bytes that the shape of a path tells apart.
fn byte_of_shape(byte: u8) -> u8 {
    if matches!(byte, 0 | b'/' | b'.') { byte } else { 1 }
}

/// Numbers the classes of bytes that have the same `kind`; answers with each byte's class and each class's first byte.
fn classes<K: Eq + std::hash::Hash>(kind: impl Fn(u8) -> K) -> ([u8; 256], Vec<u8>) {
    let mut known = HashMap::new();
    let mut samples = Vec::new();
    let mut class_of = [0; 256];
    for byte in 0..=255_u8 {
        let class = *known.entry(kind(byte)).or_insert_with(|| {
            samples.push(byte);
            u8::try_from(samples.len() - 1).expect("there are no more classes than bytes")
        });
        class_of[usize::from(byte)] = class;
    }
    (class_of, samples)
}

/// An automaton while its states are found.
struct Drawing {
    states: Vec<Crossed>,
    numbers: HashMap<Crossed, usize>,
    /// For each state its edges by class; none is dead.
    edges: Vec<Option<usize>>,
    accepts: Vec<bool>,
}

impl Drawing {
    fn from(start: Crossed) -> Drawing {
        Drawing { states: vec![start], numbers: HashMap::from([(start, 0)]), edges: Vec::new(), accepts: Vec::new() }
    }

    fn add_edge(&mut self, to: Option<Crossed>) {
        let number = to.map(|crossed| {
            *self.numbers.entry(crossed).or_insert_with(|| {
                self.states.push(crossed);
                self.states.len() - 1
            })
        });
        self.edges.push(number);
    }

    /// Leaves out what leads to no match, so that whatever is left leads to one.
    fn trim(self, class_of: [u8; 256], classes: usize) -> Result<Automaton, Unfit> {
        let mut comes_from = vec![Vec::new(); self.states.len()];
        for (at, to) in self.edges.iter().enumerate().filter_map(|(at, to)| to.map(|to| (at, to))) {
            comes_from[to].push(at / classes);
        }
        let mut is_alive = self.accepts.clone();
        let mut open: Vec<usize> = (0..is_alive.len()).filter(|&state| is_alive[state]).collect();
        while let Some(state) = open.pop() {
            for &before in &comes_from[state] {
                if !std::mem::replace(&mut is_alive[before], true) {
                    open.push(before);
                }
            }
        }
        if !is_alive[0] {
            return Err(Unfit::Empty);
        }
        let mut spots = vec![DEAD; self.states.len()];
        let mut count = 1_u16;
        for state in (0..spots.len()).filter(|&state| is_alive[state]) {
            spots[state] = Spot(count);
            count = count.checked_add(1).ok_or(Unfit::TooLarge)?;
        }
        assert_eq!(spots[0], START, "the first state found is the start");
        let alive = || (0..spots.len()).filter(|&state| is_alive[state]);
        let rows = alive().flat_map(|state| &self.edges[state * classes..(state + 1) * classes]);
        let rows = rows.map(|to| to.map_or(DEAD, |to| spots[to]));
        Ok(Automaton {
            class_of,
            classes,
            next: std::iter::repeat_n(DEAD, classes).chain(rows).collect(),
            accepts: std::iter::once(false).chain(alive().map(|state| self.accepts[state])).collect(),
        })
    }
}

// ── Two at once ─────────────────────────────────────────────────────────────────────────────────────────────────────

/// What a walk through two automata found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A word; there is no shorter one.
    Word(Vec<u8>),
    /// There is none.
    Nothing,
    /// More than [`limits::PATTERN_PAIRS_MAX`] pairs of states would have to be looked at.
    TooMany,
}

/// Looks for a word that both accept, from where each is.
pub(super) fn common(a: &Automaton, from_a: Spot, b: &Automaton, from_b: Spot) -> Found {
    let both_live = |(a, b): (Spot, Spot)| !a.is_dead() && !b.is_dead();
    search(a, b, (from_a, from_b), both_live, |(at_a, at_b)| a.accepts(at_a) && b.accepts(at_b))
}

/// Looks for a word that `inner` accepts and `outer` does not.
pub(super) fn outside(inner: &Automaton, from: Spot, outer: &Automaton, from_outer: Spot) -> Found {
    let is_open = |(inner, _): (Spot, Spot)| !inner.is_dead();
    search(inner, outer, (from, from_outer), is_open, |(at, at_outer)| inner.accepts(at) && !outer.accepts(at_outer))
}

/// Looks through the pairs of states that one word leads to, shortest words first. The order, and so what counts as
/// too many, is the same whichever of the two is named first.
fn search(
    a: &Automaton,
    b: &Automaton,
    from: (Spot, Spot),
    is_open: impl Fn((Spot, Spot)) -> bool,
    is_goal: impl Fn((Spot, Spot)) -> bool,
) -> Found {
    let bytes = joint_bytes(a, b);
    let mut seen: HashSet<(Spot, Spot), BuildHasherDefault<PairHasher>> = HashSet::from_iter([from]);
    // Each pair with the pair it was reached from and the byte that led there.
    let mut pairs = vec![(from, 0, 0_u8)];
    let mut at = 0;
    while at < pairs.len() {
        let (pair, _, _) = pairs[at];
        if is_goal(pair) {
            return Found::Word(trace(&pairs, at));
        }
        for &byte in &bytes {
            let next = (a.step(pair.0, byte), b.step(pair.1, byte));
            if is_open(next) && seen.insert(next) {
                pairs.push((next, at, byte));
            }
        }
        if pairs.len() > limits::PATTERN_PAIRS_MAX {
            return Found::TooMany;
        }
        at += 1;
    }
    Found::Nothing
}

/// Pairs of small numbers need no protection from chosen collisions, and comparing is mostly this.
#[derive(Default)]
struct PairHasher(u64);

impl Hasher for PairHasher {
    fn write_u16(&mut self, number: u16) {
        self.0 = (self.0 << 16 | u64::from(number)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u16(byte.into()));
    }

    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 32
    }
}

fn trace(pairs: &[((Spot, Spot), usize, u8)], mut at: usize) -> Vec<u8> {
    let mut word = Vec::new();
    while at > 0 {
        let (_, before, byte) = pairs[at];
        word.push(byte);
        at = before;
    }
    word.reverse();
    word
}

/// One byte of each class that the two tell apart together, the ones that read well in a name first: a witness is
/// shown to people.
fn joint_bytes(a: &Automaton, b: &Automaton) -> Vec<u8> {
    let letters = b'a'..=b'z';
    let others = (b'0'..=b'9').chain(b'A'..=b'Z').chain(*b"_-./").chain(b' '..=b'~').chain(1..=255);
    let mut seen = [0_u64; 1024];
    let mut bytes = Vec::with_capacity(a.classes + b.classes);
    for byte in letters.chain(others) {
        let joint = usize::from(a.class_of[usize::from(byte)]) << 8 | usize::from(b.class_of[usize::from(byte)]);
        let bit = 1 << (joint % 64);
        if seen[joint / 64] & bit == 0 {
            seen[joint / 64] |= bit;
            bytes.push(byte);
        }
    }
    bytes
}
