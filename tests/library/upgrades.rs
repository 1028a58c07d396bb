//! Three processes and one file: two share it and both want it alone, a third wants it alone from the start.

use crate::daemon::Stopped;
use crate::util::{Dirs, wait_until};
use flockd::{Client, Code, Mode};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

/// Rounds of one CI run; ten times as many are a matter of half a minute.
const ROUNDS: usize = 1_000;
const ROLE: &str = "FLOCKD_TEST_UPGRADES";

fn rounds() -> usize {
    let scale =
        std::env::var("FLOCKD_SCALE").map_or(1.0, |text| text.parse::<f64>().expect("FLOCKD_SCALE is a number"));
    ((ROUNDS as f64 * scale).ceil() as usize).max(1)
}

/// A process that does as it is told, a word a line, and answers each with a word.
struct Claw {
    process: Child,
    orders: ChildStdin,
    words: BufReader<ChildStdout>,
}

impl Claw {
    fn start(dirs: &Dirs, role: &str) -> Claw {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "upgrades::acts_as_told", "--nocapture"]).env(ROLE, role);
        command.env("FLOCKD_HOME", dirs.home()).current_dir(dirs.work());
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (orders, words) = (process.stdin.take().unwrap(), BufReader::new(process.stdout.take().unwrap()));
        Claw { process, orders, words }
    }

    fn tell(&mut self, order: &str) {
        self.orders.write_all(format!("{order}\n").as_bytes()).unwrap();
    }

    /// The next word; what the test harness of the process says is passed over.
    fn hear(&mut self) -> String {
        loop {
            let mut line = String::new();
            assert!(self.words.read_line(&mut line).unwrap() > 0, "the process ended");
            if let Some(word) = line.trim_end().strip_prefix("! ") {
                return word.to_owned();
            }
        }
    }
}

impl Drop for Claw {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn of_two_who_share_and_want_it_alone_one_is_refused_at_once_and_a_third_never_comes_between() {
    let dirs = Dirs::new();
    let _stopped = Stopped(&dirs);
    std::fs::write(dirs.work().join("data"), "0").unwrap();
    let mut pair = [Claw::start(&dirs, "one"), Claw::start(&dirs, "two")];
    let mut third = Claw::start(&dirs, "third");
    let looks = Client::builder().home(dirs.home()).program(env!("CARGO_BIN_EXE_flockd")).connect().unwrap();
    let rounds = rounds();
    let (mut refused, mut first_was_refused) = (0, 0);
    for round in 0..rounds {
        for claw in &mut pair {
            claw.tell("share");
            assert_eq!(claw.hear(), "shared");
        }
        third.tell("write");
        // Now and then it is certain that the third waits already; else they race.
        if round % 8 == 0 {
            assert_eq!(third.hear(), "asks");
            wait_until("the third waits", || {
                looks.status().unwrap().waiters.iter().any(|waiter| waiter.agent == "third")
            });
        }
        let (order, other) = if round % 2 == 0 { (0, 1) } else { (1, 0) };
        pair[order].tell("upgrade");
        pair[other].tell("upgrade");
        let words = [pair[0].hear(), pair[1].hear()];
        let is_refused = words.iter().filter(|word| *word == "refused").count();
        assert_eq!((is_refused, words.contains(&"upgraded".to_owned())), (1, true), "round {round}: {words:?}");
        refused += is_refused;
        first_was_refused += usize::from(words[order] == "refused");
        if round % 8 != 0 {
            assert_eq!(third.hear(), "asks");
        }
        assert_eq!(third.hear(), "written");
    }
    // Each round was written to twice: by whoever was upgraded, and by the third.
    let written: usize = std::fs::read_to_string(dirs.work().join("data")).unwrap().parse().unwrap();
    assert_eq!((refused, written), (rounds, 2 * rounds));
    println!("{rounds} rounds, {first_was_refused} of them with the refusal for whoever was told first");
}

/// No test by itself: what the processes of the test above do.
#[test]
fn acts_as_told() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let client = Client::builder().program(env!("CARGO_BIN_EXE_flockd")).connect().unwrap();
    let session = client.agent(role).unwrap();
    let data = || std::fs::read_to_string("data").unwrap().parse::<usize>().unwrap();
    let add = || std::fs::write("data", (data() + 1).to_string()).unwrap();
    let say = |word: &str| println!("! {word}");
    let request = || session.lock("data").ttl(Duration::ZERO).wait_forever();
    let mut shared = None;
    for order in std::io::stdin().lines().map_while(Result::ok) {
        match order.as_str() {
            "share" => {
                shared = Some((request().shared().acquire().unwrap(), data()));
                say("shared");
            }
            "write" => {
                say("asks");
                let guard = request().acquire().unwrap();
                add();
                guard.release().unwrap();
                say("written");
            }
            _ => {
                let (mut guard, seen) = shared.take().unwrap();
                let fence = guard.fence();
                match guard.upgrade(None) {
                    Ok(()) => {
                        assert!(guard.fence() > fence && guard.mode() == Mode::Exclusive);
                        assert_eq!(data(), seen, "somebody came in between");
                        add();
                        say("upgraded");
                    }
                    Err(error) => {
                        assert_eq!(error.refusal().unwrap().code, Code::Deadlock);
                        assert!(guard.fence() == fence && guard.mode() == Mode::Shared);
                        guard.check().unwrap();
                        assert_eq!(data(), seen, "it is still shared, and somebody has written");
                        say("refused");
                    }
                }
                guard.release().unwrap();
            }
        }
    }
}
