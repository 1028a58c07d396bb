//! Holders that sleep past their leases and wake up when others have written: all that they write then is refused.

use crate::claimants::connect;
use crate::draft::{Draft, commit, put};
use crate::util::{Ground, exclusive, scaled, signal, take, until};
use flockd::Client;
use flockd::wire::{Code, Request};
use rustix::process::Signal;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Stdio};

const HOLDERS: u64 = 10;
/// Files of each holder in CI: 200 late writes; 1,000 at scale 5.
const FILES: u64 = 20;
const ROLE: &str = "late";
/// Long enough to be granted, so short that it runs out while its holder is stopped.
const LEASE: u64 = 1_000;

fn name(holder: u64, file: u64) -> String {
    format!("f-{holder}-{file}")
}

/// Takes its locks, prepares what it is going to write, and is stopped then. It wakes up and writes.
pub fn holder(number: u64, files: u64) {
    let client = connect(None);
    let here = Path::new(".");
    let held: Vec<(String, u64, Draft)> = (0..files)
        .map(|file| {
            let name = name(number, file);
            let (_, fence) = take(&client, exclusive(&name, LEASE));
            (name.clone(), fence, Draft::make(here, &format!(".flockd-{name}.tmp"), b"late"))
        })
        .collect();
    println!("\nready");
    std::io::stdin().lock().read_line(&mut String::new()).unwrap();
    let mut refused = 0;
    for (number, (name, fence, draft)) in held.iter().enumerate() {
        // By the fence, and by its agent's name alone, which has lost the lock and does not know.
        let fence = Some(*fence).filter(|_| number % 2 == 0);
        let answer = put(&client, commit(name, fence, &draft.file));
        refused += u64::from(answer.is_err_and(|error| error.code == Code::Lost && error.loss.is_some()));
    }
    println!("refused {refused}");
}

struct Holder {
    process: Child,
    out: BufReader<ChildStdout>,
}

impl Holder {
    fn start(ground: &Ground, number: u64, files: u64) -> Holder {
        let mut command =
            crate::claimants::claimant(ground, &format!("holder-{number}"), &format!("{ROLE} {number} {files}"));
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(process.stdout.take().unwrap());
        Holder { process, out }
    }

    /// Its next line that begins so.
    fn says(&mut self, begin: &str) -> String {
        let mut lines = self.out.by_ref().lines().map_while(Result::ok);
        lines.find(|line| line.starts_with(begin)).unwrap_or_else(|| panic!("it ended before it said {begin}"))
    }
}

#[test]
fn a_holder_that_slept_past_its_lease_overwrites_nothing() {
    let ground = Ground::new();
    let files = scaled(FILES);
    for (holder, file) in (0..HOLDERS).flat_map(|holder| (0..files).map(move |file| (holder, file))) {
        fs::write(ground.work.join(name(holder, file)), "before").unwrap();
    }
    let client = Client::builder().home(&ground.home).program(crate::util::FLOCKD).connect().unwrap();
    let winner = client.agent("winner").unwrap().workspace(&ground.work).unwrap();
    let mut holders: Vec<Holder> = (0..HOLDERS).map(|number| Holder::start(&ground, number, files)).collect();
    for holder in &mut holders {
        holder.says("ready");
        signal(holder.process.id(), Signal::STOP);
    }
    until("their leases have run out", || ground.status().locks.is_empty().then_some(()));
    for (holder, file) in (0..HOLDERS).flat_map(|holder| (0..files).map(move |file| (holder, file))) {
        winner.write(name(holder, file), "theirs").unwrap();
    }
    let mut refused = 0;
    for holder in &mut holders {
        signal(holder.process.id(), Signal::CONT);
        holder.process.stdin.take().unwrap().write_all(b"go\n").unwrap();
    }
    for holder in &mut holders {
        refused += holder.says("refused ").trim_start_matches("refused ").parse::<u64>().unwrap();
        assert!(holder.process.wait().unwrap().success());
    }
    eprintln!("{refused} of {} late writes were refused", HOLDERS * files);
    assert_eq!(refused, HOLDERS * files);
    for (holder, file) in (0..HOLDERS).flat_map(|holder| (0..files).map(move |file| (holder, file))) {
        assert_eq!(fs::read(ground.work.join(name(holder, file))).unwrap(), b"theirs");
    }
}

/// The program itself, stopped while it reads what it is to write.
#[test]
fn a_write_that_was_stopped_amid_its_work_overwrites_nothing() {
    let ground = Ground::new();
    let path = ground.work.join("data");
    for round in 0..scaled(5) {
        let lock = ground.flockd("slow", "lock data --json --ttl 0.3").gives(0).json();
        let args = ["write", "data", "--fence", &lock["fence"].to_string()];
        let mut command = ground.command("slow", &args);
        let mut slow = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdin = slow.stdin.take().unwrap();
        stdin.write_all(b"half of it, ").unwrap();
        signal(slow.id(), Signal::STOP);
        until("its lease has run out", || ground.status().locks.is_empty().then_some(()));
        let client = ground.client("winner", None);
        let (id, fence) = take(&client, exclusive("data", 60_000));
        let theirs = format!("theirs {round}");
        let draft = Draft::make(&ground.work, ".flockd-winner.tmp", theirs.as_bytes());
        put(&client, Request { id: None, ..commit("data", Some(fence), &draft.file) }).unwrap();
        client.unlock(&id).unwrap();
        signal(slow.id(), Signal::CONT);
        stdin.write_all(b"and the rest").unwrap();
        drop(stdin);
        let done = slow.wait_with_output().unwrap();
        assert_eq!(done.status.code(), Some(1), "{done:?}");
        assert!(String::from_utf8_lossy(&done.stderr).contains("its lease ran out"), "{done:?}");
        assert_eq!(fs::read_to_string(&path).unwrap(), theirs);
    }
}
