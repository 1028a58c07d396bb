//! Reads the sources and holds the house rules true: which part knows what, where each dependency lives, and form.
//!
//! The tables at the top are the written-down rules; to change a rule is to change a row. The sources are read as text
//! with comments and strings told apart from code, so a rule is about what the compiler sees, not about prose.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

#[path = "tidy/rust.rs"]
mod rust;
use rust::{begins_with, blank_test_items, closing, line_of, paths, split};

// ── The rules ───────────────────────────────────────────────────────────────────────────────────────────────────────

/// One part of `src/` (a file or a folder of this name), what it may name of the crate, and what it must not know.
struct Part {
    name: &'static str,
    may: &'static str,
    never: &'static str,
}

const fn part(name: &'static str, may: &'static str, never: &'static str) -> Part {
    Part { name, may, never }
}

/// The nouns that everybody shares, and the switches of faults on purpose; written `words` in the rows below.
const WORDS: &str = "model scope pattern limits planted";

/// Whoever decides or names is pure: the same calls give the same answers, on any machine, at any time.
const PURE: &str = "std::env std::fs std::io std::net std::os std::process std::thread std::time std::sync::mpsc \
                    anstream anstyle base64 basic_toml bincode clap clap_complete crossbeam_channel fastrand fs4 \
                    hdrhistogram hmac indicatif libc mio notify rand redb rustix serde serde_json sha2 tempfile \
                    toml_edit ureq";

/// The layers in the order of dependency. Every part may name itself; `*` is everything.
const PARTS: &[Part] = &[
    // words: no I/O, no clock
    part("limits", "", PURE),
    part("pattern", "words", PURE),
    part("scope", "words", PURE),
    // a constant `false` but in the build for tests/planted.rs, which asks the environment once
    part("planted", "", "std::fs std::io std::net std::os std::process std::thread std::time"),
    part("model", "words", PURE),
    // decide: pure and deterministic, owns all rules
    part("table", "words", PURE),
    // remember: bytes on disk; knows no socket and decides nothing
    part("journal", "words", "std::net mio"),
    // tell
    part("events", "words", "std::fs std::net std::process mio rustix"),
    // what has happened, as figures: fed, and asked for nothing
    part(
        "stats",
        "words table",
        "std::env std::fs std::io std::net std::os std::process std::thread std::time crossbeam_channel mio redb \
         rustix serde serde_json",
    ),
    // run: the only owner of state
    part("clock", "words", "std::net"),
    part("coordinator", "words table journal events stats clock", "std::fs std::net std::process mio rustix"),
    // carry: the only sockets, the only place where messages become bytes
    part("wire", "words events stats", "std::fs std::net std::process std::thread mio rustix"),
    part("os", "words clock", "std::net"),
    part("webhook", "words clock wire", "std::process mio rustix"),
    part("server", "words journal events clock coordinator wire os webhook", ""),
    part("client", "words clock wire os", "mio"),
    // doors: composition only
    part("mcp", "words clock wire os client", "mio"),
    part("hooks", "words clock wire os client", "mio"),
    part("daemon", "words table journal events clock coordinator wire os server", ""),
    part("embedded", "words clock os server client daemon", "mio"),
    part("cli", "*", ""),
    part("sim", "*", ""),
    part("main", "*", ""),
    part("lib", "*", ""),
];

/// What has one home, where that is below `src/`, and why. A path that ends in `/` is a folder. Code under
/// `#[cfg(test)]` and outside `src/` is free: a test may look at the store's bytes or parse an answer.
const HOMES: &[(&str, &str, &str)] = &[
    ("bincode", "journal/codec.rs", "it is unmaintained: one file to replace"),
    ("redb", "journal/store.rs journal/disk.rs", "one file knows the store, one the disk below it"),
    (
        "serde",
        "wire/ journal/codec.rs client/config.rs cli/ sim/ mcp/ hooks/",
        "wire and disk bytes change apart from the types",
    ),
    ("basic_toml", "client/config.rs", "one file knows how a workspace says what it wants"),
    ("serde_json", "wire/ cli/ sim/ mcp/ hooks/", "JSON is the wire and the doors, nothing else"),
    ("regex_automata", "pattern/automaton.rs", "one file knows how tables are made, the rest only walks them"),
    ("ureq", "webhook/", "one part speaks HTTP"),
    ("hmac", "wire/sign.rs", "one file knows how posts are signed"),
    ("sha2", "wire/sign.rs", "one file knows how posts are signed"),
    ("base64", "wire/sign.rs", "one file knows how posts are signed"),
    ("rmcp", "mcp/", "one part speaks MCP"),
    ("tokio", "mcp/", "the core has no async runtime"),
    ("notify", "os/watcher.rs", "one file hears of changed files"),
    ("fs4", "os/ journal/disk.rs journal/log.rs", "workspace flocks in os/, the home's own lock beside the journal"),
    ("toml_edit", "cli/", "other programs' settings"),
    ("clap", "cli/ sim/ main.rs", "arguments end at the door"),
    ("clap_complete", "cli/ main.rs", "arguments end at the door"),
    ("anstream", "cli/ sim/ main.rs", "only doors speak to people"),
    ("anstyle", "cli/ sim/ main.rs", "only doors speak to people"),
    ("indicatif", "cli/ sim/", "only doors speak to people"),
    ("hdrhistogram", "stats/times.rs sim/", "one file keeps durations in bounded memory; the simulator shows its own"),
    ("fastrand", "sim/ cli/", "only the simulator chooses at random; ids come from the kernel"),
    ("Instant::now", "clock.rs sim/ cli/", "time is asked for in one place and comes in as an argument"),
    ("SystemTime::now", "clock.rs", "time is asked for in one place and comes in as an argument"),
];

/// The one file where time passes on purpose: a simulated claw thinks, and is killed at a moment.
const PAUSES: &str = "src/sim/writer.rs";

/// What code must not say anywhere, tests included.
const UNFINISHED_CODE: &[&str] = &["todo!(", "unimplemented!(", "dbg!(", "#[ignore"];

/// What no comment and no text may say: a wish belongs in the tracker, a fault is mended.
const UNFINISHED_WORDS: &[&str] = &["FIXME", "TODO"];

/// Longest line, as in rustfmt.toml, which leaves comments, strings and macros alone.
const WIDTH: usize = 120;

// ── The tests ───────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn every_part_names_only_what_lies_above_it() {
    let mut broken = Broken::default();
    for source in product() {
        let Some(row) = PARTS.iter().find(|row| row.name == source.part()) else {
            broken.add(
                &source.name,
                1,
                "is in no layer",
                "add a row to PARTS in tests/tidy.rs and say what it may name",
            );
            continue;
        };
        for (path, line) in source.paths() {
            if let Some(named) = source.part_named(&path)
                && named != row.name
                && !may_name(row, named)
            {
                let known = PARTS.iter().any(|row| row.name == named);
                let what = if known { "" } else { ", which is no part: name it by the part it lives in" };
                let rule = format!("{} may name: {}", row.name, or_nothing(row.may));
                broken.add(&source.name, line, &format!("names crate::{named}{what}"), &rule);
            }
            for never in row.never.split_whitespace().filter(|never| begins_with(&path, never)) {
                broken.add(&source.name, line, &format!("names {never}"), &format!("{} must not know it", row.name));
            }
        }
    }
    broken.end();
}

#[test]
fn what_has_one_home_is_named_nowhere_else() {
    let mut broken = Broken::default();
    for source in product() {
        let below_src = source.name.strip_prefix("src/").expect("the product lies below src/");
        for (path, line) in source.paths() {
            for (what, homes, why) in HOMES.iter().filter(|(what, ..)| mentions(&path, what)) {
                let at_home =
                    |home: &str| if home.ends_with('/') { below_src.starts_with(home) } else { below_src == home };
                if !homes.split_whitespace().any(at_home) {
                    broken.add(&source.name, line, &format!("names {what}"), &format!("lives in {homes}: {why}"));
                }
            }
        }
    }
    broken.end();
}

#[test]
fn the_layers_have_no_cycle_but_among_the_words() {
    for (place, row) in PARTS.iter().enumerate().filter(|(_, row)| row.may != "*") {
        for later in PARTS[place + 1..].iter().filter(|later| !is_word(row.name) || !is_word(later.name)) {
            assert!(!may_name(row, later.name), "{} stands above {} and may not name it", row.name, later.name);
        }
    }
}

#[test]
fn every_file_says_what_it_is_for_and_keeps_its_form() {
    let mut broken = Broken::default();
    for source in sources(&["src", "tests", "benches", "examples"]) {
        if !source.text.starts_with("//! ") {
            broken.add(&source.name, 1, "begins without `//! `", "the first line is a sentence on the file's job");
        }
        if !source.text.ends_with('\n') || source.text.ends_with("\n\n") {
            broken.add(&source.name, source.text.lines().count(), "ends oddly", "exactly one line end closes a file");
        }
        for (number, line) in source.text.lines().enumerate() {
            let mut check = |bad: bool, what: &str, rule: &str| {
                if bad {
                    broken.add(&source.name, number + 1, what, rule);
                }
            };
            check(line.ends_with([' ', '\t', '\r']), "ends in a blank", "no trailing blanks, line feeds only");
            check(line.contains('\t'), "holds a tab", "spaces only; write \\t in a string");
            check(line.chars().count() > WIDTH, "is too long", &format!("{WIDTH} characters a line"));
        }
    }
    broken.end();
}

#[test]
fn nothing_is_left_unfinished() {
    let mut broken = Broken::default();
    for source in sources(&["src", "tests", "benches", "examples"]) {
        for (number, (code, comment)) in source.code.lines().zip(source.comments.lines()).enumerate() {
            for word in UNFINISHED_CODE.iter().filter(|word| code.contains(*word)) {
                broken.add(
                    &source.name,
                    number + 1,
                    &format!("says {word}"),
                    "what is not built or not run is not here",
                );
            }
            for word in UNFINISHED_WORDS.iter().filter(|word| comment.contains(*word)) {
                broken.add(&source.name, number + 1, &format!("says {word}"), "mend it, or put it in the tracker");
            }
        }
    }
    for (name, text) in prose() {
        for (number, line) in text.lines().enumerate() {
            for word in UNFINISHED_WORDS.iter().filter(|word| line.contains(*word)) {
                broken.add(&name, number + 1, &format!("says {word}"), "mend it, or put it in the tracker");
            }
        }
    }
    broken.end();
}

#[test]
fn every_exception_to_a_lint_has_a_reason() {
    let mut broken = Broken::default();
    for source in sources(&["src", "tests", "benches", "examples"]) {
        for (line, attribute) in source.attributes() {
            let exception = ["allow(", "expect("].iter().any(|word| attribute.contains(word));
            if exception && !attribute.contains("reason =") {
                broken.add(&source.name, line, "silences a lint", "write `reason = \"…\"` beside it");
            }
        }
    }
    broken.end();
}

#[test]
fn nobody_sleeps_but_in_a_bounded_back_off() {
    let mut broken = Broken::default();
    let all = sources(&["src", "tests", "benches", "examples"]);
    for source in all.iter().filter(|source| source.name != PAUSES) {
        let lines: Vec<&str> = source.text.lines().collect();
        for (_, line) in source.paths().iter().filter(|(path, _)| mentions(path, "thread::sleep")) {
            let above = &lines[line.saturating_sub(4)..line - 1];
            if !above.iter().any(|line| line.contains("bounded back-off:")) {
                let rule = "wait for an event, or say `bounded back-off: …` with its bound in the three lines above";
                broken.add(&source.name, *line, "sleeps", rule);
            }
        }
    }
    broken.end();
}

#[test]
fn every_dependency_and_every_lint_has_its_reason_beside_it() {
    let mut broken = Broken::default();
    let manifest = read("Cargo.toml");
    let mut section = "";
    let mut seen = 0;
    for (number, line) in manifest.lines().enumerate() {
        if line.starts_with('[') {
            section = line.trim_matches(['[', ']']);
            continue;
        }
        let judged = section.ends_with("dependencies") || section.starts_with("lints");
        if !judged || line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        seen += 1;
        if line.rsplit_once(" # ").is_none_or(|(_, reason)| reason.trim().len() < 10) {
            broken.add("Cargo.toml", number + 1, "gives no reason", "end the line with `# why it is here`");
        }
    }
    assert!(seen > 10, "only {seen} dependencies and lints seen in Cargo.toml: the reader of this test is broken");
    broken.end();
}

#[test]
fn the_unmaintained_codec_is_pinned_and_excused_in_one_place() {
    assert!(
        read("Cargo.toml").contains("\nbincode = { version = \"=2.0.1\""),
        "bincode is pinned: 3.0.0 is a tombstone"
    );
    assert!(read("deny.toml").contains("RUSTSEC-2025-0141"), "deny.toml says why bincode stays");
}

/// `.ci/run` runs the commands that the README shows, so that the two cannot drift; the markers are how it finds them.
#[test]
fn the_readme_marks_the_commands_that_ci_runs() {
    let Ok(readme) = fs::read_to_string(root().join("README.md")) else { return };
    for marker in ["<!-- test command -->", "<!-- main command -->"] {
        let (_, rest) = readme.split_once(marker).unwrap_or_else(|| panic!("README.md lacks the line {marker}"));
        let mut lines = rest.lines().skip_while(|line| line.trim().is_empty());
        let fence = lines.next().unwrap_or_default();
        assert!(fence.starts_with("```"), "README.md: a fenced block stands right below {marker}");
        let block = lines.take_while(|line| !line.starts_with("```"));
        assert!(block.filter(|line| !line.is_empty()).count() > 0, "README.md: the block below {marker} is empty");
    }
}

/// The page is the map of a newcomer: a file that is not on it cannot be found, one that is gone leads astray.
#[test]
fn the_tree_in_the_architecture_page_has_every_file_and_no_other() {
    let page = read("ARCHITECTURE.md");
    let (_, tree) = page.split_once("## The tree").expect("the page has a tree");
    let tree = tree.split("```").nth(1).expect("the tree is a fenced block");
    let shown: BTreeSet<&str> = tree.split_whitespace().filter(|word| word.ends_with(".rs")).collect();
    let product = product();
    let there: BTreeSet<&str> = product.iter().filter_map(|source| source.name.strip_prefix("src/")).collect();
    assert_eq!(there.difference(&shown).collect::<Vec<_>>(), [] as [&&str; 0], "not in the tree of ARCHITECTURE.md");
    assert_eq!(shown.difference(&there).collect::<Vec<_>>(), [] as [&&str; 0], "in the tree and not in src/");
}

// ── What is read ────────────────────────────────────────────────────────────────────────────────────────────────────

/// One Rust file: its text, and the same text with everything but code, or everything but comments, blanked out.
struct Source {
    /// Path from the root of the package, with `/`.
    name: String,
    text: String,
    code: String,
    comments: String,
}

impl Source {
    fn new(name: String, text: String) -> Source {
        let (code, comments) = split(&text);
        Source { name, text, code, comments }
    }

    /// The file or folder right below `src/` that this file belongs to.
    fn part(&self) -> &str {
        let below = self.name.strip_prefix("src/").unwrap_or(&self.name);
        below.split(['/', '.']).next().unwrap_or_default()
    }

    /// How many `super::` lead from this file's module to the root of the crate.
    fn depth(&self) -> usize {
        let below = self.name.strip_prefix("src/").unwrap_or(&self.name).trim_end_matches(".rs");
        below.split('/').filter(|module| !["mod", "lib", "main"].contains(module)).count()
    }

    /// Every path that the code names, with its line.
    fn paths(&self) -> Vec<(String, usize)> {
        paths(&self.code)
    }

    /// The part of the crate that `path` leads to, if it leads to the crate at all.
    fn part_named<'a>(&self, path: &'a str) -> Option<&'a str> {
        if let Some(rest) = path.strip_prefix("crate::") {
            return rest.split("::").next();
        }
        let mut rest = path;
        let mut steps = 0;
        while let Some(shorter) = rest.strip_prefix("super::") {
            rest = shorter;
            steps += 1;
        }
        let first = rest.split("::").next()?;
        // From an inline module one `super` is the file itself, so only names that are parts are believed.
        (steps > 0 && steps == self.depth() && PARTS.iter().any(|row| row.name == first)).then_some(first)
    }

    /// Every `#[…]` and `#![…]`, as one line of code, with the line it begins on.
    fn attributes(&self) -> Vec<(usize, String)> {
        let mut found = Vec::new();
        for (at, _) in self.code.match_indices('#') {
            let rest = self.code[at + 1..].trim_start_matches('!');
            if rest.starts_with('[') {
                let end = closing(rest, '[', ']');
                found.push((line_of(&self.code, at), rest[..end].replace('\n', " ")));
            }
        }
        found
    }
}

/// All Rust files below `folders`, in a fixed order.
fn sources(folders: &[&str]) -> Vec<Source> {
    let mut files = Vec::new();
    folders.iter().for_each(|folder| walk(&root().join(folder), &mut files));
    let rust = files.into_iter().filter(|path| path.extension().is_some_and(|end| end == "rs"));
    let sources: Vec<Source> = rust.map(|path| Source::new(relative(&path), read_path(&path))).collect();
    assert!(sources.iter().any(|source| source.name == "src/model.rs"), "src/model.rs was not read: wrong directory?");
    sources
}

/// The files below `src/` without what is compiled for tests only.
fn product() -> Vec<Source> {
    let mut all = sources(&["src"]);
    let mut tests_only = BTreeSet::new();
    for source in &mut all {
        let folder = module_folder(&source.name);
        for module in blank_test_items(&mut source.code) {
            tests_only.insert(format!("{folder}{module}.rs"));
            tests_only.insert(format!("{folder}{module}/"));
        }
    }
    let is_test = |name: &str| {
        tests_only.iter().any(|test| if test.ends_with('/') { name.starts_with(test) } else { name == test })
    };
    all.retain(|source| !is_test(&source.name));
    all
}

/// Where the modules declared in `file` lie: `src/a/mod.rs` and `src/a.rs` both give `src/a/`.
fn module_folder(file: &str) -> String {
    let stem = file.trim_end_matches(".rs");
    let stem = stem
        .strip_suffix("/mod")
        .or_else(|| stem.strip_suffix("/lib"))
        .or_else(|| stem.strip_suffix("/main"))
        .unwrap_or(stem);
    format!("{stem}/")
}

/// Texts beside the Rust files: what people and tools read at the root, in `.ci` and in `docs`.
fn prose() -> Vec<(String, String)> {
    let mut files: Vec<PathBuf> = Vec::new();
    for folder in [".ci", "docs", "clients", "examples", "tests"] {
        walk(&root().join(folder), &mut files);
    }
    let entries = fs::read_dir(root()).expect("the package has a root").map(|entry| entry.expect("readable").path());
    files.extend(entries.filter(|path| path.is_file()));
    let known = |path: &PathBuf| {
        let end = path.extension().map(|end| end.to_string_lossy().into_owned()).unwrap_or_default();
        ["md", "toml", "py", "sh", "json", "yml"].contains(&end.as_str())
            || path.ends_with(".ci/run")
            || path.ends_with("justfile")
    };
    files.iter().filter(|path| known(path)).map(|path| (relative(path), read_path(path))).collect()
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("a readable directory").path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() { walk(&path, files) } else { files.push(path) }
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).expect("found below the root").to_string_lossy().replace('\\', "/")
}

fn read(name: &str) -> String {
    read_path(&root().join(name))
}

fn read_path(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{} cannot be read: {error}", path.display()))
}

// ── How it is judged ────────────────────────────────────────────────────────────────────────────────────────────────

/// Everything that is wrong, told at once: one rule is usually broken in several places.
#[derive(Default)]
struct Broken {
    text: String,
    count: usize,
}

impl Broken {
    fn add(&mut self, file: &str, line: usize, what: &str, rule: &str) {
        self.count += 1;
        writeln!(self.text, "  {file}:{line}: {what} (rule: {rule})").expect("a String takes everything");
    }

    fn end(self) {
        assert!(self.count == 0, "{} places break a rule of tests/tidy.rs:\n{}", self.count, self.text);
    }
}

fn is_word(name: &str) -> bool {
    WORDS.split(' ').any(|word| word == name)
}

fn may_name(row: &Part, named: &str) -> bool {
    row.may.split_whitespace().any(|may| may == "*" || may == named || (may == "words" && is_word(named)))
}

fn or_nothing(may: &str) -> &str {
    if may.is_empty() { "nothing" } else { may }
}

/// Whether `path` names the crate `what`, or, for a `Type::method`, ends in it.
fn mentions(path: &str, what: &str) -> bool {
    if what.contains("::") {
        path.strip_suffix(what).is_some_and(|rest| rest.is_empty() || rest.ends_with("::"))
    } else {
        begins_with(path, what)
    }
}

#[test]
fn a_file_knows_its_part_its_module_and_what_a_step_up_leads_to() {
    let at = |name: &str| Source::new(name.to_owned(), String::new());
    assert_eq!(at("src/table/mod.rs").part_named("super::journal::Log"), Some("journal"));
    assert_eq!(at("src/table/queue.rs").part_named("super::super::journal"), Some("journal"));
    assert_eq!(at("src/table/queue.rs").part_named("super::journal"), None);
    assert_eq!(at("src/table/queue.rs").part_named("crate::client"), Some("client"));
    assert_eq!(at("src/table/queue.rs").part(), "table");
    assert_eq!(at("src/clock.rs").part(), "clock");
    assert_eq!(module_folder("src/table/mod.rs"), "src/table/");
    assert_eq!(module_folder("src/table.rs"), "src/table/");
    assert_eq!(module_folder("src/lib.rs"), "src/");
}
