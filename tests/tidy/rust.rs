//! How tests/tidy.rs reads Rust: code told apart from comments and strings, paths with their groups expanded.
//!
//! Not a parser: no macro is expanded and no name resolved. It errs towards seeing a name too many.

/// Splits a Rust text into its code and its comments: two texts of the same lines, the rest blanked out. The contents
/// of strings are in neither, their quotes are code.
pub fn split(text: &str) -> (String, String) {
    let (mut code, mut comments) = (String::new(), String::new());
    let mut rest = text;
    let mut after_word = false;
    while let Some(first) = rest.chars().next() {
        let (taken, kind) = token(rest, first, after_word);
        let blank: String = rest[..taken].chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect();
        match kind {
            Kind::Code => (code.push_str(&rest[..taken]), comments.push_str(&blank)),
            Kind::Comment => (code.push_str(&blank), comments.push_str(&rest[..taken])),
            Kind::Literal => {
                let inner = blank.chars().count().saturating_sub(2);
                let hidden: String = blank.chars().skip(1).take(inner).collect();
                (code.push_str(&format!("\"{hidden}\"")), comments.push_str(&blank))
            }
        };
        after_word = kind == Kind::Code && (first.is_alphanumeric() || first == '_');
        rest = &rest[taken..];
    }
    (code, comments)
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Code,
    Comment,
    /// A string or character, quotes and prefixes included.
    Literal,
}

/// The length in bytes of what `rest` begins with, and its kind. `after_word`: the `r` or `b` before a quote belongs
/// to an identifier, so it opens no raw string.
fn token(rest: &str, first: char, after_word: bool) -> (usize, Kind) {
    if rest.starts_with("//") {
        return (rest.find('\n').unwrap_or(rest.len()), Kind::Comment);
    }
    if rest.starts_with("/*") {
        return (block_comment(rest), Kind::Comment);
    }
    if !after_word && let Some(length) = raw_string(rest) {
        return (length, Kind::Literal);
    }
    match first {
        '"' => (quoted(rest, '"'), Kind::Literal),
        // A lifetime has no quote after its first letter; a character has, or begins with a backslash.
        '\'' if rest[1..].starts_with('\\') || rest.chars().nth(2) == Some('\'') => (quoted(rest, '\''), Kind::Literal),
        _ => (first.len_utf8(), Kind::Code),
    }
}

fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        let here = &rest.as_bytes()[at..];
        if here.starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if here.starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

/// The length of a raw string (`r"…"`, `br#"…"#`) that `rest` begins with.
fn raw_string(rest: &str) -> Option<usize> {
    let letters = ["br", "cr", "r"].iter().find(|letters| rest.starts_with(**letters))?.len();
    let hashes = rest[letters..].bytes().take_while(|&byte| byte == b'#').count();
    let open = letters + hashes + 1;
    if rest.as_bytes().get(open - 1) != Some(&b'"') {
        return None;
    }
    let close = format!("\"{}", "#".repeat(hashes));
    Some(rest[open..].find(&close).map_or(rest.len(), |at| open + at + close.len()))
}

/// The length of a string or character with escapes.
fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// The end of the bracket that `code` begins with, one past its partner.
pub fn closing(code: &str, open: char, close: char) -> usize {
    let mut depth = 0;
    for (at, c) in code.char_indices() {
        depth += i32::from(c == open) - i32::from(c == close);
        if depth == 0 {
            return at + 1;
        }
    }
    code.len()
}

pub fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

/// Blanks every item behind a `#[cfg(test)]` and gives the names of the modules declared so.
pub fn blank_test_items(code: &mut String) -> Vec<String> {
    const MARK: &str = "#[cfg(test)]";
    let mut modules = Vec::new();
    while let Some(start) = code.find(MARK) {
        let item = &code[start + MARK.len()..];
        let end = match item.find(['{', ';']) {
            Some(at) if item.as_bytes()[at] == b'{' => at + closing(&item[at..], '{', '}'),
            Some(at) => {
                modules.extend(item[..at].split_once("mod ").map(|(_, name)| name.trim().to_owned()));
                at + 1
            }
            None => item.len(),
        };
        let range = start..start + MARK.len() + end;
        let blank: String = code[range.clone()].chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect();
        code.replace_range(range, &blank);
    }
    modules
}

/// Every path in `code`, groups expanded (`std::{fs, io::Read}` is two), with its line. `core::` counts as `std::`.
pub fn paths(code: &str) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    let bytes = code.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let word = ident(&code[at..]);
        if word == 0 {
            at += 1;
            continue;
        }
        let used = code[..at].trim_end_matches([' ', '\n', ':']).ends_with("use");
        if used || code[at + word..].starts_with("::") {
            at = path(code, at, "", &mut found);
        } else {
            at += word;
        }
    }
    for (path, _) in &mut found {
        if begins_with(path, "core") {
            path.replace_range(..4, "std");
        }
    }
    found
}

/// Reads one path at `at` with `prefix` before it, adds what it leads to, and gives the place behind it.
fn path(code: &str, at: usize, prefix: &str, found: &mut Vec<(String, usize)>) -> usize {
    let word = ident(&code[at..]);
    let full = format!("{prefix}{}", &code[at..at + word]);
    let end = at + word;
    let Some(after) = code[end..].strip_prefix("::") else {
        found.push((full, line_of(code, at)));
        return end;
    };
    if ident(after) > 0 {
        return path(code, end + 2, &format!("{full}::"), found);
    }
    if !after.starts_with('{') {
        // `::*` and `::<…>` end the path; what stands in the angle brackets is read as paths of its own.
        found.push((full, line_of(code, at)));
        return end + 2;
    }
    let close = end + 2 + closing(after, '{', '}');
    let mut inner = end + 3;
    while inner < close {
        // Renamed with `as`: the new name leads nowhere.
        let renames = code[inner..].starts_with("as ");
        match ident(&code[inner..]) {
            0 => inner += 1,
            word if renames => inner += word + 1 + ident(&code[inner + word + 1..]),
            word if code[inner..inner + word] == *"self" => {
                found.push((full.clone(), line_of(code, inner)));
                inner += word;
            }
            _ => inner = path(code, inner, &format!("{full}::"), found),
        }
    }
    close
}

/// The length of the identifier that `code` begins with.
fn ident(code: &str) -> usize {
    if code.starts_with(|c: char| c.is_ascii_digit()) {
        return 0;
    }
    code.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(code.len())
}

/// Whether `path` is `what` or something inside it.
pub fn begins_with(path: &str, what: &str) -> bool {
    path.strip_prefix(what).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

#[test]
fn comments_and_strings_are_told_apart_from_code() {
    let (code, comments) = split("a /* b /* c */ d */ \"e // f\" 'g' '\"' <'h> // i\nr#\"j\"k\"# br\"l\" error\"m\"");
    for kept in ["a", "<'h>", "error"] {
        assert!(code.contains(kept), "{kept} is code: {code}");
    }
    for blanked in ["b", "c", "d", "f", "i", "j", "k", "l", "m"] {
        assert!(!code.split_whitespace().any(|word| word.trim_matches('"') == blanked), "{blanked} is no code: {code}");
    }
    assert!(comments.contains("/* b /* c */ d */") && comments.contains("// i") && !comments.contains("// f"));
    assert_eq!(code.lines().count(), comments.lines().count());
}

#[test]
fn groups_of_names_are_read_as_single_paths() {
    let names = |code: &str| paths(code).into_iter().map(|(path, _)| path).collect::<Vec<_>>();
    assert_eq!(names("use std::{fs, io::{self, Read as _}};"), ["std::fs", "std::io", "std::io::Read"]);
    assert_eq!(names("use crate::table::*;"), ["crate::table"]);
    assert_eq!(names("use serde as s; let a = b.c();"), ["serde"]);
    assert_eq!(names("core::time::Duration::ZERO"), ["std::time::Duration::ZERO"]);
    assert_eq!(names("Vec::<std::fs::File>::new()"), ["Vec", "std::fs::File"]);
    assert_eq!(paths("use a::{\n b,\n c::d\n};"), [("a::b".to_owned(), 2), ("a::c::d".to_owned(), 3)]);
}

#[test]
fn what_is_compiled_for_tests_only_is_not_judged_as_product() {
    let mut code =
        "use a::b;\n#[cfg(test)]\nmod slow;\n#[cfg(test)]\nmod tests { use c::d; fn e() {} }\nuse f::g;".to_owned();
    assert_eq!(blank_test_items(&mut code), ["slow"]);
    let left: Vec<_> = paths(&code).into_iter().map(|(path, _)| path).collect();
    assert_eq!(left, ["a::b", "f::g"]);
}
