//! What pairs of patterns have to do with each other, as far as it was found out.
//!
//! To walk two automata together takes microseconds, and whoever asks for a pattern, or holds one, is compared with all
//! that have the same fixed part, several times a request. So what came of a pair is kept as long as the one that
//! stands in the index does. It follows from the texts of both and from how far the upper one has come, so this is a
//! memory only: it may forget anything at any time.

use super::index::Meeting;
use crate::limits;
use crate::pattern::Spot;
use std::cell::RefCell;
use std::collections::HashMap;

/// What may be asked of a pattern of the index and another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Question {
    /// Whether that of the index, gone on this far, and the other have a path in common.
    Meets(Spot),
    /// The same, where the other has gone on this far.
    MeetsBelow(Spot),
    /// Whether that of the index, gone on this far, matches all that the other does.
    Covers(Spot),
}

/// The text of a pattern behind its fixed part, as a number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Text(u64);

/// The memory.
#[derive(Debug, Default)]
pub(super) struct Compared(RefCell<Found>);

#[derive(Debug, Default)]
struct Found {
    texts: HashMap<Box<[u8]>, Text>,
    /// Numbers are not given out twice: one that a walk still has in hand must not come to mean another text.
    next: u64,
    /// By the number of the pattern in the index.
    of_pattern: HashMap<u64, HashMap<(Text, Question), Meeting>>,
    /// How many answers there are.
    kept: usize,
    /// How many had to be found out.
    #[cfg(test)]
    walks: usize,
}

impl Found {
    fn forget_all(&mut self) {
        (self.texts, self.of_pattern, self.kept) = (HashMap::new(), HashMap::new(), 0);
    }
}

impl Compared {
    /// The number of the other pattern's text.
    pub(super) fn text(&self, rest: &[u8]) -> Text {
        let mut found = self.0.borrow_mut();
        if let Some(text) = found.texts.get(rest) {
            return *text;
        }
        if found.texts.len() >= limits::PATTERN_TEXTS_MAX {
            found.forget_all();
        }
        let text = Text(found.next);
        found.next += 1;
        found.texts.insert(rest.into(), text);
        text
    }

    /// The answer, found out if it is not known.
    pub(super) fn answer(
        &self,
        pattern: u64,
        other: Text,
        question: Question,
        find: impl FnOnce() -> Meeting,
    ) -> Meeting {
        let known = self.0.borrow().of_pattern.get(&pattern).and_then(|of| of.get(&(other, question)).copied());
        if let Some(known) = known {
            return known;
        }
        let meeting = find();
        let mut found = self.0.borrow_mut();
        if found.kept >= limits::PATTERN_ANSWERS_MAX {
            found.forget_all();
        }
        found.of_pattern.entry(pattern).or_default().insert((other, question), meeting);
        found.kept += 1;
        #[cfg(test)]
        {
            found.walks += 1;
        }
        meeting
    }

    /// A pattern has left the index.
    pub(super) fn forget(&mut self, pattern: u64) {
        let found = self.0.get_mut();
        found.kept -= found.of_pattern.remove(&pattern).map_or(0, |of| of.len());
        if found.of_pattern.is_empty() {
            found.texts = HashMap::new();
        }
    }

    /// How many answers had to be found out so far.
    #[cfg(test)]
    pub(super) fn walks(&self) -> usize {
        self.0.borrow().walks
    }
}
