//! Patterns held against a matcher that is too simple to be wrong, over all short paths, and all pairs of patterns.

mod naive;

use flockd::pattern::{Overlap, Pattern, Typed, read};
use std::time::Instant;

// ── Generated patterns, all pairs ───────────────────────────────────────────────────────────────────────────────────

/// What short paths are made of: letters, a dot, a slash, a character of two bytes, a byte that is no character.
const UNITS: [&[u8]; 6] = [b"a", b"b", b".", b"/", "é".as_bytes(), b"\xFF"];
/// Units in the longest path of those that are all tried.
const LONGEST: usize = 6;

/// Whether a component may stand in a canonical path.
fn is_name(component: &[u8]) -> bool {
    !matches!(component, b"" | b"." | b"..")
}

/// All canonical paths of few units, `/` first.
fn short_paths() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = vec![b"/".to_vec()];
    let mut from = 0;
    for _ in 1..LONGEST {
        let to = all.len();
        for at in from..to {
            let path = all[at].clone();
            all.extend(UNITS.iter().map(|unit| [&path[..], unit].concat()));
        }
        from = to;
    }
    let is_canonical = |path: &Vec<u8>| path[1..].split(|byte| *byte == b'/').all(is_name);
    all.retain(is_canonical);
    all
}

/// A small generator of its own: the same numbers on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }
}

fn some_component(random: &mut Random) -> String {
    const PARTS: [&str; 22] = [
        "a", "a", "b", "b", ".", "é", "*", "*", "*", "?", "?", "[ab]", "[!a]", "[^b.]", "[é]", "[a-é]", "\\*", "{a,b}",
        "{,a}", "{a,*b}", "{a/b,b}", "{**/a,?}",
    ];
    if random.below(4) == 0 {
        return "**".into();
    }
    (0..=random.below(3)).map(|_| PARTS[random.below(PARTS.len())]).collect()
}

/// Patterns that are taken, no two of them alike.
fn some_patterns(random: &mut Random, count: usize) -> Vec<Pattern> {
    let mut all = std::collections::BTreeSet::new();
    while all.len() < count {
        let components: Vec<String> = (0..=random.below(3)).map(|_| some_component(random)).collect();
        // What is refused (a dot alone, `a**`, nothing) has tests of its own.
        all.extend(Pattern::new(b"/", components.join("/").as_bytes()).ok());
    }
    all.into_iter().collect()
}

/// Which of the paths are matched, by place.
type Matched = Vec<u64>;

fn matched(paths: &[Vec<u8>], matches: impl Fn(&[u8]) -> bool) -> Matched {
    let mut set = vec![0; paths.len().div_ceil(64)];
    for (at, _) in paths.iter().enumerate().filter(|(_, path)| matches(path)) {
        set[at / 64] |= 1 << (at % 64);
    }
    set
}

fn scaled(count: usize) -> usize {
    let scale = std::env::var("FLOCKD_SCALE").ok().map_or(1.0, |text| text.parse::<f64>().expect("a number"));
    (count as f64 * scale.sqrt()) as usize
}

/// Every "no" of the walk is held against all short paths, every path that it names against the naive matcher.
#[test]
fn two_patterns_overlap_exactly_where_a_path_matches_both() {
    let begun = Instant::now();
    let seed = std::env::var("FLOCKD_SEED").ok().map_or(1, |text| text.parse().expect("a number"));
    let paths = short_paths();
    let patterns = some_patterns(&mut Random(seed), scaled(1_420));
    let by_hand: Vec<Matched> =
        patterns.iter().map(|pattern| matched(&paths, |path| naive::matches(pattern.rest(), path))).collect();
    for (pattern, by_hand) in patterns.iter().zip(&by_hand) {
        let found = matched(&paths, |path| pattern.matches_path(path));
        assert_eq!(&found, by_hand, "{pattern} is matched otherwise by hand");
    }
    let (mut pairs, mut overlaps, mut contained) = (0_u64, 0_u64, 0_u64);
    for (at, a) in patterns.iter().enumerate() {
        for (b, set_b) in patterns.iter().zip(&by_hand).skip(at) {
            pairs += 1;
            let is_common = by_hand[at].iter().zip(set_b).any(|(a, b)| a & b != 0);
            let found = a.overlap(a.start(), b);
            match &found {
                Overlap::No => assert!(!is_common, "{a} and {b} do overlap"),
                Overlap::At(word) => {
                    overlaps += 1;
                    assert!(naive::matches(a.rest(), word) && naive::matches(b.rest(), word), "{a}, {b}: {word:?}");
                    assert!(word[1..].split(|byte| *byte == b'/').all(is_name), "{a}, {b}: {word:?}");
                }
                Overlap::Unknown => panic!("{a} and {b} are small"),
            }
            // The same from the other side, witness and all: the table asks from either.
            if pairs % 16 == 0 {
                assert_eq!(b.overlap(b.start(), a), found, "{a} and {b}, turned round");
                let is_contained = a.matches_all_that(a.start(), b);
                contained += u64::from(is_contained);
                let is_subset = by_hand[at].iter().zip(set_b).all(|(a, b)| b & !a == 0);
                assert!(is_subset || !is_contained, "{a} does not hold all of {b}");
            }
        }
    }
    println!(
        "{} paths, {} patterns, {pairs} pairs, {overlaps} overlap, {contained} hold the other: 0 disagreements, {:?}",
        paths.len(),
        patterns.len(),
        begun.elapsed()
    );
    assert!(pairs > 1_000_000 || scaled(1_420) < 1_420);
    assert!(overlaps > pairs / 20 && overlaps < pairs * 19 / 20, "both answers are common: {overlaps} of {pairs}");
}

#[test]
fn a_pattern_reaches_into_a_directory_exactly_if_a_path_at_or_below_it_matches() {
    let paths = short_paths();
    let roots: Vec<&Vec<u8>> = paths.iter().filter(|path| path.len() <= 5).collect();
    for pattern in some_patterns(&mut Random(7), 300) {
        let by_hand: Vec<&Vec<u8>> = paths.iter().filter(|path| naive::matches(pattern.rest(), path)).collect();
        for root in &roots {
            let spot = pattern.spot_of(root).unwrap();
            let is_inside = |path: &[u8]| path.strip_prefix(&root[..]).is_some_and(|r| r.is_empty() || r[0] == b'/');
            if pattern.reaches_into(spot) {
                let path = [&root[..], &pattern.example(spot).expect("it reaches")].concat();
                assert!(naive::matches(pattern.rest(), &path), "{pattern} in {root:?}: {path:?}");
            } else {
                assert!(!by_hand.iter().any(|path| is_inside(path)), "{pattern} does reach into {root:?}");
            }
            if pattern.matches_all_of(spot) {
                let missed = paths.iter().find(|path| is_inside(path) && !by_hand.contains(path));
                assert_eq!(missed, None, "{pattern} does not match all of {root:?}");
            }
        }
    }
}

// ── By hand ─────────────────────────────────────────────────────────────────────────────────────────────────────────

fn pattern(text: &str) -> Pattern {
    match read(text.as_bytes()).unwrap() {
        Typed::Pattern { prefix, rest } => {
            let prefix = prefix.strip_prefix(b".").unwrap_or(&prefix);
            Pattern::new(if prefix == b"/" { prefix } else { prefix.strip_suffix(b"/").unwrap() }, &rest).unwrap()
        }
        Typed::Name(name) => panic!("{text} is the name {name:?}"),
    }
}

#[test]
fn each_sign_matches_what_is_written_about_it() {
    let table: &[(&str, &[&str], &[&str])] = &[
        ("src/*.rs", &["/src/a.rs", "/src/.rs", "/src/é.rs"], &["/src/a/b.rs", "/src", "/a.rs", "/src/a.rsx"]),
        ("src/**/*.rs", &["/src/a.rs", "/src/a/b.rs", "/src/a/b/c.rs"], &["/src", "/a.rs", "/src/a.md", "/srcs/a.rs"]),
        ("src/**", &["/src/a", "/src/a/b", "/src/.git"], &["/src", "/srcs/a", "/a"]),
        ("**/main.rs", &["/main.rs", "/a/main.rs", "/a/b/main.rs"], &["/xmain.rs", "/main.rs/a"]),
        ("a/**/**/b", &["/a/b", "/a/x/b", "/a/x/y/b"], &["/a", "/b"]),
        ("a?c", &["/abc", "/aéc", "/a.c"], &["/ac", "/a/c", "/abbc"]),
        ("[a-c]x", &["/ax", "/cx"], &["/dx", "/x", "/abx"]),
        ("[!a-c]x", &["/dx", "/éx", "/.x"], &["/ax", "/x", "/", "/a/x"]),
        ("[]x]", &["/]", "/x"], &["/a"]),
        ("[+-z]", &["/a", "/0", "/="], &["/", "/~"]),
        ("[é-ü]", &["/é", "/ö"], &["/a", "/e"]),
        ("{a,b}/{c,}d", &["/a/cd", "/b/d"], &["/a/c", "/c/d", "/a/ccd"]),
        ("{src/**,test}/*.rs", &["/src/a.rs", "/src/x/a.rs", "/test/a.rs"], &["/test/x/a.rs", "/a.rs"]),
        ("\\*\\[*", &["/*[", "/*[x"], &["/a[", "/*"]),
        ("app/\\[id\\]/*", &["/app/[id]/page.tsx"], &["/app/i/page.tsx"]),
        (".*", &["/.a", "/..."], &["/.", "/..", "/a"]),
        ("?//b/./*", &["/a/b/c"], &["/a/b"]),
        ("/a/*", &["/a/b"], &["/a"]),
    ];
    for (text, yes, no) in table {
        let pattern = pattern(text);
        for path in *yes {
            assert!(pattern.matches_path(path.as_bytes()), "{text} matches {path}");
        }
        for path in *no {
            assert!(!pattern.matches_path(path.as_bytes()), "{text} does not match {path}");
        }
    }
}

#[test]
fn names_that_are_not_utf8_are_matched_byte_by_byte() {
    assert!(pattern("a*").matches_path(b"/a\xFF\xFE"));
    assert!(pattern("a?").matches_path(b"/a\xFF"));
    assert!(!pattern("a?").matches_path(b"/a\xFF\xFE"));
    assert!(pattern("a[!b]").matches_path(b"/a\xFF"));
    assert!(!pattern("[a-z]").matches_path(b"/\xFF"));
    let literal = Pattern::new(b"/", b"\xFF*").unwrap();
    assert!(literal.matches_path(b"/\xFFx") && !literal.matches_path(b"/x"));
}

#[test]
fn a_text_without_signs_is_a_name() {
    for (text, name) in [("src/main.rs", "src/main.rs"), ("app/\\[id\\]/page.tsx", "app/[id]/page.tsx"), ("a]", "a]")] {
        assert_eq!(read(text.as_bytes()), Ok(Typed::Name(name.into())));
    }
}

#[test]
fn the_fixed_part_is_all_before_the_first_component_with_a_sign() {
    let table = [
        ("src/**/*.rs", "./src/", "**/*.rs"),
        ("/a/\\[b\\]/c*/d", "/a/[b]/", "c*/d"),
        ("*", "./", "*"),
        ("/*", "/", "*"),
        ("../x/{a,b/c}", "./../x/", "{a,b/c}"),
        ("a//./*//.//b", "./a/./", "*/b"),
        ("@x/*", "./@x/", "*"),
    ];
    for (text, prefix, rest) in table {
        let expected = Typed::Pattern { prefix: prefix.into(), rest: rest.as_bytes().into() };
        assert_eq!(read(text.as_bytes()), Ok(expected), "{text}");
    }
}

#[test]
fn bad_syntax_is_refused_by_name() {
    let long = "?".repeat(1_025);
    let many = "{a,b}".repeat(9);
    let table = [
        ("", "empty"),
        ("a\0*", "zero byte"),
        ("a[b", "`[`"),
        ("a[]", "`[`"),
        ("a[\\", "`[`"),
        ("a[b/c]", "slash"),
        ("[[:alpha:]]", "named classes"),
        ("[z-a]", "backwards"),
        ("{a,b", "`{`"),
        ("a}", "`}`"),
        ("*{a,{b,c}", "`{`"),
        ("*\\", "backslash"),
        ("*\\/", "escaped slash"),
        ("**.rs", "whole component"),
        ("a**/b", "whole component"),
        ("***", "whole component"),
        ("src/*/", "slash"),
        ("{a/,b}", "slash"),
        ("{a,}", "empty"),
        ("*/../a", "`..`"),
        ("{..,a}/b", "`..`"),
        ("[.]", "no path"),
        (&long, "1024 bytes"),
        (&many, "256 alternatives"),
        ("*a?????????????????", "too complex"),
    ];
    for (text, word) in table {
        let refused = read(text.as_bytes()).and_then(|typed| match typed {
            Typed::Pattern { rest, .. } => Pattern::new(b"/", &rest).map(drop),
            Typed::Name(_) => Ok(()),
        });
        let sentence = refused.expect_err(text).0;
        assert!(sentence.contains(word), "{text}: {sentence}");
    }
    assert!(Pattern::new(b"/", b"[\xFF]").unwrap_err().0.contains("UTF-8"));
}

#[test]
fn a_witness_reads_like_a_path() {
    let found = |a: &str, b: &str| match pattern(a).overlap(pattern(a).start(), &pattern(b)) {
        Overlap::At(word) => String::from_utf8(word).unwrap(),
        other => format!("{other:?}"),
    };
    assert_eq!(found("*.rs", "a*"), "/a.rs");
    assert_eq!(found("[l]ib/*.rs", "**/main*"), "/lib/main.rs");
    assert_eq!(found("*.rs", "*.md"), "No");
    assert_eq!(found("a?", "[b-z]*"), "No");
}

#[test]
fn what_takes_too_many_steps_is_not_guessed() {
    let pair = |n: usize| (pattern(&format!("*a{}x", "?".repeat(n))), pattern(&format!("*b{}y", "?".repeat(n))));
    let (a, b) = pair(4);
    assert_eq!(a.overlap(a.start(), &b), Overlap::No);
    let (a, b) = pair(6);
    assert_eq!((a.overlap(a.start(), &b), b.overlap(b.start(), &a)), (Overlap::Unknown, Overlap::Unknown));
    assert!(!a.matches_all_that(a.start(), &b), "what is not known does not hold");
}

#[test]
fn a_pattern_can_be_typed_as_it_is_shown() {
    for text in ["/src/**/*.rs", "/*", "/a\\[b\\]/c\\\\/{x,y}\\*", "/a b/?"] {
        let shown = pattern(text).text();
        let again = read(shown.strip_prefix(b"glob:").unwrap()).unwrap();
        let Typed::Pattern { prefix, rest } = again else { panic!("{text}") };
        let prefix = if prefix == b"/" { &prefix[..] } else { prefix.strip_suffix(b"/").unwrap() };
        assert_eq!(Pattern::new(prefix, &rest).unwrap(), pattern(text));
    }
}
