//! The text of a pattern: what each sign means, split into the fixed part and the rest, and the rest as a regex.
//!
//! Own parsing, not that of a glob crate: those differ in corners that decide here whether two may write one file
//! (whether `?` is a byte, whether `[^a]` takes a slash, what `a**b` means), and change them between releases. Where
//! they differ, or where people expect different things, the text is refused with a sentence.

use crate::limits;
use crate::model::Invalid;

/// What somebody typed behind `glob:`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Typed {
    /// Nothing in it matches more than itself: the plain path, escapes taken away.
    Name(Vec<u8>),
    /// A pattern.
    Pattern {
        /// The leading components that are fixed, as a plain path that names a directory and ends in `/`.
        prefix: Vec<u8>,
        /// The rest, from the first component with a sign in it: components joined by `/`, none empty, `.` or `..`.
        rest: Box<[u8]>,
    },
}

/// Reads what stands behind `glob:`.
///
/// # Errors
///
/// What is wrong with it, and what to write instead.
pub fn read(text: &[u8]) -> Result<Typed, Invalid> {
    if text.is_empty() {
        return Err(bad(text, "it is empty; `glob:**` is everything below the working directory"));
    }
    if text.contains(&0) {
        return Err(bad(text, "there is a zero byte in it"));
    }
    if text.len() > limits::PATH_MAX {
        return Err(bad(text, &format!("it is longer than {} bytes", limits::PATH_MAX)));
    }
    let components = components(text).map_err(|why| bad(text, why))?;
    let Some(first) = components.iter().position(|component| has_sign(component)) else {
        return Ok(Typed::Name(unescape(text)));
    };
    let mut prefix = if text[0] == b'/' { b"/".to_vec() } else { b"./".to_vec() };
    for component in components[..first].iter().filter(|component| !component.is_empty()) {
        prefix.extend(unescape(component));
        prefix.push(b'/');
    }
    if components.last().is_some_and(|last| last.is_empty()) {
        return Err(bad(text, "it ends in a slash; write `/**` for everything below, `/*` for one level"));
    }
    let rest = components[first..].iter().filter(|component| !says_nothing(component));
    let rest = rest.copied().collect::<Vec<_>>().join(&b'/');
    if rest.len() > limits::PATTERN_MAX {
        let why = format!("what follows its fixed part is longer than {} bytes", limits::PATTERN_MAX);
        return Err(bad(text, &why));
    }
    Ok(Typed::Pattern { prefix, rest: rest.into() })
}

/// The regex of all paths that a pattern's rest matches, each component with a slash before it.
///
/// It may also match words that are no canonical paths (`//`, `/..`): the automaton takes those out.
pub(super) fn regex(rest: &[u8]) -> Result<String, Invalid> {
    let mut text = String::new();
    for (number, alternative) in expand(rest).map_err(|why| bad(rest, why))?.iter().enumerate() {
        if number > 0 {
            text.push('|');
        }
        write_alternative(alternative, &mut text).map_err(|why| bad(rest, why))?;
    }
    Ok(text)
}

/// Why a text is no pattern.
type Why = &'static str;

pub(super) fn bad(text: &[u8], why: &str) -> Invalid {
    /// Bytes of a pattern shown in a sentence: enough to recognise it.
    const SHOWN: usize = 200;
    let cut = if text.len() > SHOWN { "…" } else { "" };
    Invalid(format!("the pattern `{}{cut}` is refused: {why}", String::from_utf8_lossy(&text[..text.len().min(SHOWN)])))
}

// ── Lexical units ───────────────────────────────────────────────────────────────────────────────────────────────────

/// How many bytes from `at` on belong together: an escaped byte with its backslash, a class with its brackets.
fn unit(text: &[u8], at: usize) -> Result<usize, Why> {
    match text[at] {
        b'\\' => match text.get(at + 1) {
            None => Err("it ends in a backslash, which escapes nothing; write `\\\\` for the backslash itself"),
            Some(b'/') => Err("an escaped slash cannot be part of a name; write `/`"),
            Some(_) => Ok(2),
        },
        b'[' => class_length(&text[at..]),
        _ => Ok(1),
    }
}

fn class_length(text: &[u8]) -> Result<usize, Why> {
    const OPEN: Why = "`[` begins a class and has no `]`; write `\\[` for the bracket itself";
    let mut at = if matches!(text.get(1), Some(b'!' | b'^')) { 2 } else { 1 };
    // A bracket that comes first stands for itself.
    let mut is_first = true;
    loop {
        match text.get(at) {
            None => return Err(OPEN),
            Some(b']') if !is_first => return Ok(at + 1),
            Some(b'/') => return Err("a class `[…]` never matches a slash, so there can be none in it"),
            Some(b'[') if text.get(at + 1) == Some(&b':') => {
                return Err("named classes such as `[:alpha:]` are not known here; write `a-zA-Z`");
            }
            Some(b'\\') => at += if text.get(at + 1).is_some() { 2 } else { return Err(OPEN) },
            Some(_) => at += 1,
        }
        is_first = false;
    }
}

/// The components of a text; braces may hold slashes, which separate nothing here.
fn components(text: &[u8]) -> Result<Vec<&[u8]>, Why> {
    let (mut all, mut from, mut at, mut depth) = (Vec::new(), 0, 0, 0_usize);
    while at < text.len() {
        match text[at] {
            b'{' => depth += 1,
            b'}' => {
                depth = depth.checked_sub(1).ok_or("`}` closes no brace; write `\\}` for the brace itself")?;
            }
            b'/' if depth == 0 => {
                all.push(&text[from..at]);
                from = at + 1;
            }
            _ => {}
        }
        at += unit(text, at)?;
    }
    if depth > 0 {
        return Err("`{` begins alternatives and has no `}`; write `\\{` for the brace itself");
    }
    all.push(&text[from..]);
    Ok(all)
}

/// Whether a component stands for more than itself.
fn has_sign(component: &[u8]) -> bool {
    let mut at = 0;
    while at < component.len() {
        match component[at] {
            b'*' | b'?' | b'[' | b'{' => return true,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    false
}

/// Takes the backslashes away.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut bytes = text.iter();
    while let Some(&byte) = bytes.next() {
        let byte = if byte == b'\\' { bytes.next().copied() } else { Some(byte) };
        plain.extend(byte);
    }
    plain
}

/// Puts backslashes before all that would not stand for itself: a pattern that matches exactly this path.
pub(super) fn escape(path: &[u8]) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(path.len());
    for &byte in path {
        if matches!(byte, b'*' | b'?' | b'[' | b']' | b'{' | b'}' | b'\\') {
            escaped.push(b'\\');
        }
        escaped.push(byte);
    }
    escaped
}

/// Empty and single-dot components lead nowhere.
fn says_nothing(component: &[u8]) -> bool {
    !has_sign(component) && matches!(&unescape(component)[..], b"" | b".")
}

// ── Alternatives ────────────────────────────────────────────────────────────────────────────────────────────────────

/// All texts that come of taking one alternative of each brace, as a shell does before it matches anything.
fn expand(text: &[u8]) -> Result<Vec<Vec<u8>>, Why> {
    let mut all = vec![Vec::new()];
    let mut at = 0;
    while at < text.len() {
        let length = if text[at] == b'{' { brace(&text[at..])? } else { unit(text, at)? };
        let here = &text[at..at + length];
        let tails = if text[at] == b'{' { alternatives(here)? } else { vec![here.to_vec()] };
        all = all.iter().flat_map(|head| tails.iter().map(move |tail| [&head[..], tail].concat())).collect();
        if all.len() > limits::PATTERN_ALTERNATIVES_MAX {
            return Err("its braces stand for more than 256 alternatives; lock the directory, or several patterns");
        }
        at += length;
    }
    Ok(all)
}

/// The length of what begins with a brace, to the brace that closes it.
fn brace(text: &[u8]) -> Result<usize, Why> {
    let (mut at, mut depth) = (0, 0);
    while at < text.len() {
        match text[at] {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => {}
        }
        at += unit(text, at)?;
        if depth == 0 {
            return Ok(at);
        }
    }
    Err("`{` begins alternatives and has no `}`; write `\\{` for the brace itself")
}

/// The alternatives of `{…}`, each expanded in turn.
fn alternatives(braced: &[u8]) -> Result<Vec<Vec<u8>>, Why> {
    let inner = &braced[1..braced.len() - 1];
    let (mut all, mut from, mut at) = (Vec::new(), 0, 0);
    while at < inner.len() {
        if inner[at] == b',' {
            all.extend(expand(&inner[from..at])?);
            from = at + 1;
        }
        at += if inner[at] == b'{' { brace(&inner[at..])? } else { unit(inner, at)? };
    }
    all.extend(expand(&inner[from..])?);
    Ok(all)
}

// ── The regex ───────────────────────────────────────────────────────────────────────────────────────────────────────

/// Any byte of a name.
const BYTE: &str = "(?-u:[^/\\x00])";
/// A whole component.
const COMPONENT: &str = "(?:/(?-u:[^/\\x00])+)";

fn write_alternative(text: &[u8], regex: &mut String) -> Result<(), Why> {
    let components = components(text)?;
    if components.last().is_some_and(|last| last.is_empty()) {
        return Err("an alternative of it is empty or ends in a slash, which names no file");
    }
    let components: Vec<&[u8]> = components.into_iter().filter(|component| !says_nothing(component)).collect();
    if components.is_empty() {
        return Err("an alternative of it names nothing");
    }
    for (number, component) in components.iter().enumerate() {
        let is_last = number + 1 == components.len();
        match *component {
            b"**" if is_last => regex.extend([COMPONENT, "+"]),
            b"**" => regex.extend([COMPONENT, "*"]),
            _ => write_component(component, regex)?,
        }
    }
    Ok(())
}

fn write_component(text: &[u8], regex: &mut String) -> Result<(), Why> {
    if !has_sign(text) && unescape(text) == b".." {
        return Err("`..` cannot be worked out behind a sign; write the path without it");
    }
    regex.push('/');
    let mut at = 0;
    while at < text.len() {
        let length = unit(text, at)?;
        match text[at] {
            b'*' if text.get(at + 1) == Some(&b'*') => {
                return Err("`**` crosses directories only as a whole component, as in `src/**/*.rs`; \
                            within a name write `*`");
            }
            b'*' => regex.extend([BYTE, "*"]),
            b'?' => regex.extend(["(?:[^/\\x00]|", BYTE, ")"]),
            b'[' => write_class(&text[at + 1..at + length - 1], regex)?,
            b'\\' => write_byte(text[at + 1], regex),
            byte => write_byte(byte, regex),
        }
        at += length;
    }
    Ok(())
}

fn write_byte(byte: u8, regex: &mut String) {
    regex.push_str(&format!("(?-u:\\x{byte:02X})"));
}

/// A class, given without its brackets. One that begins with `!` or `^` takes every other character, and bytes that
/// are none.
fn write_class(text: &[u8], regex: &mut String) -> Result<(), Why> {
    let (is_negated, text) = match text.first() {
        Some(b'!' | b'^') => (true, &text[1..]),
        _ => (false, text),
    };
    let text = std::str::from_utf8(text).map_err(|_| "a class `[…]` must be UTF-8: it is one of characters")?;
    let mut ranges = String::new();
    let mut chars = text.chars().peekable();
    while let Some(first) = next_of_class(&mut chars) {
        let mut ahead = chars.clone();
        let last = match (ahead.next(), next_of_class(&mut ahead)) {
            (Some('-'), Some(last)) => {
                chars = ahead;
                last
            }
            _ => first,
        };
        if last < first {
            return Err("a range in a class runs backwards; write the smaller end first, as in `[a-z]`");
        }
        ranges.push_str(&format!("\\x{{{:X}}}-\\x{{{:X}}}", u32::from(first), u32::from(last)));
    }
    // A range such as `[+-z]` runs over the slash, which no class matches.
    match is_negated {
        true => regex.push_str(&format!("(?:[^/\\x00{ranges}]|(?-u:[\\x80-\\xFF]))")),
        false => regex.push_str(&format!("[{ranges}&&[^/\\x00]]")),
    }
    Ok(())
}

fn next_of_class(chars: &mut impl Iterator<Item = char>) -> Option<char> {
    match chars.next() {
        Some('\\') => chars.next(),
        next => next,
    }
}
