//! Objects and the many ways to name them.

use crate::util::Ground;
use std::fmt;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// What is typed, and where.
#[derive(Clone, Debug)]
pub struct Spelling {
    pub cwd: PathBuf,
    pub text: Vec<u8>,
}

impl fmt::Display for Spelling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = &self.text[..self.text.len().min(80)];
        write!(f, "{:?} in {}", String::from_utf8_lossy(text), self.cwd.display())
    }
}

pub fn from(cwd: &Path, text: impl AsRef<[u8]>) -> Spelling {
    Spelling { cwd: cwd.into(), text: text.as_ref().into() }
}

pub fn absolute(text: impl AsRef<[u8]>) -> Spelling {
    from(Path::new("/"), text)
}

/// A file that is there.
pub fn here(work: &Path, name: &str) -> PathBuf {
    let path = work.join(name);
    fs::write(&path, name).unwrap();
    path
}

/// A small tree, and what is said about it.
pub struct World {
    /// The spellings of one object each.
    pub objects: Vec<Vec<Spelling>>,
    /// One spelling of each of many objects.
    pub apart: Vec<Spelling>,
    /// Names of `d/e/f`, a file with one link.
    pub written: Vec<Spelling>,
    /// What names nothing, and a word of the sentence that says so.
    pub refused: Vec<(Spelling, &'static str)>,
}

impl World {
    pub fn new(ground: &Ground) -> World {
        let work = ground.work.clone();
        build(&work);
        let written = of_the_file(&work);
        let mut objects = vec![written.clone(), of_the_directory(&work)];
        let of = |texts: &[&str]| texts.iter().map(|text| from(&work, text)).collect::<Vec<_>>();
        let bytes = |texts: &[&[u8]]| texts.iter().map(|text| from(&work, text)).collect::<Vec<_>>();
        objects.extend([
            // Hard links, and a link to one.
            of(&["h1", "h2", "d/h3", "way/h3", "to-h2"]),
            // Not there yet, by way of links and of dangling ones.
            of(&["d/new", "way/new", "./d//new", "d/e/../new", "dangling", "to-dangling"]),
            of(&["d/m1/m2/f", "way/m1/m2/f", "d/m1/./m2//f", "dangling-deep/f"]),
            // A directory to come.
            of(&["d/next/", "d/next//", "way/next/", "d/next/."]),
            // Letters that mean something elsewhere.
            of(&["./@x", "d/../@x"]),
            of(&["~/f", "./~/f"]),
            of(&["-n", "./-n", "d/../-n"]),
            of(&["$HOME", "./$HOME"]),
            of(&["...", "./...", "d/../..."]),
            of(&["x (deleted)", "./x (deleted)"]),
            of(&["a b", "./a b"]),
            of(&["./glob:x*", "d/../glob:x*"]),
            of(&["app/[id]/page.tsx", "./app//[id]/page.tsx", "glob:app/\\[id\\]/page.tsx"]),
            of(&["glob:src/**/*.rs", "glob:./src//**/./*.rs", "glob:d/../src/**/*.rs"]),
            of(&["@port-3000", "@port-3000"]),
            // Bytes.
            bytes(&[b"d/\xff\xfe", b"way/\xff\xfe", b"./d/\xff\xfe"]),
            bytes(&[b"d/a\nb", b"way/a\nb"]),
            bytes(&["caf\u{e9}".as_bytes(), "./caf\u{e9}".as_bytes()]),
        ]);
        let name = "n".repeat(255);
        objects.push(of(&[&name, &format!("./{name}"), &format!("d/../{name}")]));
        let long = path_of(4_095);
        objects.push(vec![absolute(&long), absolute(&long[1..])]);
        World { objects, apart: apart(&work), written, refused: refused(&work) }
    }
}

/// A path of so many bytes that does not exist.
fn path_of(length: usize) -> Vec<u8> {
    let mut path = b"/no such directory".to_vec();
    while path.len() + 200 < length {
        path.extend([b"/", &[b'm'; 199][..]].concat());
    }
    path.push(b'/');
    path.resize(length, b'f');
    path
}

fn build(work: &Path) {
    for dir in ["d/e", "~", "app/[id]"] {
        fs::create_dir_all(work.join(dir)).unwrap();
    }
    for file in ["d/e/f", "d/e/F", "h1", "@x", "~/f", "x (deleted)", "a b", "caf\u{e9}", "cafe\u{301}", "a"] {
        fs::write(work.join(file), file).unwrap();
    }
    fs::hard_link(work.join("h1"), work.join("h2")).unwrap();
    fs::hard_link(work.join("h1"), work.join("d/h3")).unwrap();
    let whole = work.join("d/e");
    let links: &[(&Path, &str)] = &[
        (Path::new("d"), "way"),
        (Path::new("d/e"), "deepway"),
        (Path::new("deepway"), "chain"),
        (&whole, "whole"),
        (Path::new("d/e/f"), "last"),
        (Path::new("last"), "lastlast"),
        (Path::new("h2"), "to-h2"),
        (Path::new("d/new"), "dangling"),
        (Path::new("dangling"), "to-dangling"),
        (Path::new("way/m1/m2"), "dangling-deep"),
        (Path::new("loop-b"), "loop-a"),
        (Path::new("loop-a"), "loop-b"),
    ];
    for (to, name) in links {
        symlink(to, work.join(name)).unwrap();
    }
}

/// The ways to name the file `d/e/f`.
fn of_the_file(work: &Path) -> Vec<Spelling> {
    let whole = work.join("d/e/f").as_os_str().as_bytes().to_vec();
    let doubled = String::from_utf8(whole.clone()).unwrap().replace('/', "//");
    let mut all: Vec<Spelling> = [
        "d/e/f",
        "./d/e/f",
        "d//e///f",
        "d/./e/./f",
        "d/../d/e/../e/f",
        "way/e/f",
        "way/../d/e/f",
        "deepway/f",
        "deepway/../e/f",
        "chain/f",
        "whole/f",
        "last",
        "./lastlast",
        "deepway/../../last",
    ]
    .iter()
    .map(|text| from(work, text))
    .collect();
    all.extend([absolute(&whole), absolute(&whole[1..]), absolute(doubled)]);
    for (cwd, text) in
        [("d/e", "f"), ("d/e", "../e/./f"), ("deepway", "../../last"), ("d", "e/f"), ("way", "../lastlast")]
    {
        all.push(from(&work.join(cwd), text));
    }
    all
}

/// The ways to name the directory `d/e`.
fn of_the_directory(work: &Path) -> Vec<Spelling> {
    let texts =
        ["d/e", "d/e/", "d/e//", "d/e/.", "way/e", "way/e/.", "deepway", "deepway/", "chain/.", "d/e/../e", "whole/"];
    let mut all: Vec<Spelling> = texts.iter().map(|text| from(work, text)).collect();
    for (cwd, text) in [("d/e", "."), ("d/e", "./"), ("d/e", "../e"), ("d", "e")] {
        all.push(from(&work.join(cwd), text));
    }
    all.push(absolute(work.join("d/e/").as_os_str().as_bytes()));
    all
}

/// What looks alike and is not.
fn apart(work: &Path) -> Vec<Spelling> {
    let texts: &[&[u8]] = &[
        b"d/e/f",
        b"d/e/F",
        b"d/e/f ",
        b"d/e/f.",
        b"d/e/\xff",
        b"d/e/\xfe",
        b"d/e/\xc3\xbf",
        b"d/e/a\nb",
        b"d/e/a\\nb",
        "caf\u{e9}".as_bytes(),
        "cafe\u{301}".as_bytes(),
        b"a",
        b"a b",
        b"x",
        b"x (deleted)",
        b"@x",
        b"./@x",
        b"~/f",
        b"h1",
        b"$HOME",
        b"...",
        b"app/[id]/page.tsx",
        b"app/i/page.tsx",
        b"app/[id]/page",
        b"./glob:a",
        b"*",
        b"glob:src/*.rs",
        b"glob:src/*.md",
        b"d/new",
        b"d/newer",
        b"d/next/",
        b"@port-3000",
        b"@port-3001",
    ];
    texts.iter().map(|text| from(work, text)).collect()
}

fn refused(work: &Path) -> Vec<(Spelling, &'static str)> {
    let over = "n".repeat(256);
    vec![
        (from(work, ""), "empty"),
        (from(work, &over), "255"),
        (from(work, format!("missing/{over}/x")), "255"),
        (absolute(path_of(4_096)), "4095"),
        (from(work, "loop-a"), "circle"),
        (from(work, "loop-b/x"), "circle"),
        (from(work, "d/e/f/"), "directory"),
        (from(work, "d/e/f/x"), "directory"),
        (from(work, "missing/../f"), "does not exist"),
        (from(work, "/proc/self/cwd/f"), "/proc"),
        (from(work, "@two words"), "resource name"),
        (from(work, "glob:[a"), "`[`"),
    ]
}
