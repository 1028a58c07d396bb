//! The processes that hold, wait and are killed: this test program, told by its environment what to be.

use crate::util::{FLOCKD, Ground, exclusive};
use crate::witness::{Hold, Random};
use flockd::client::{Connect, Connection, Custodian, Launch, Place};
use flockd::clock::monotonic_ns;
use flockd::model::{Agent, LockId};
use flockd::os::home::Home;
use flockd::wire::LockBody;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// What a process is to be: `library SEED`, `child SCOPE`, `keeper SCOPE` or `sharer SCOPE`.
pub const ROLE: &str = "FLOCKD_TEST_ROLE";
/// The scopes that everybody wants.
pub const SCOPES: [&str; 3] = ["x", "y/", "@z"];
/// When this file is there, everybody comes to an end.
pub const STOP: &str = "stop";

/// This test program in a role, with the ground's environment.
pub fn claimant(ground: &Ground, agent: &str, role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(arguments());
    let mut command = ground.environment(command, agent, &[]);
    command.env(ROLE, role).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

pub fn arguments() -> [&'static str; 3] {
    ["--exact", "claimants::acts_as_told", "--nocapture"]
}

/// Runs in a child process only. In the test program itself it has nothing to do.
#[test]
fn acts_as_told() {
    let Ok(role) = std::env::var(ROLE) else { return };
    match role.split_once(' ').unwrap() {
        ("library", seed) => library(&mut Random(seed.parse().unwrap())),
        ("child", scope) => child(scope),
        ("keeper", scope) => keeper(scope),
        ("sharer", scope) => sharer(scope),
        ("late", which) => {
            let (number, files) = which.split_once(' ').unwrap();
            crate::late::holder(number.parse().unwrap(), files.parse().unwrap());
        }
        (role, _) => panic!("no role {role}"),
    }
}

/// A client for the home and the working directory of this process.
pub fn connect(session: Option<Custodian>) -> Connection {
    Connection::connect(Connect {
        home: Home::from_env().unwrap(),
        launch: Launch::With(FLOCKD.into()),
        agent: Some(Agent::new(&std::env::var("FLOCKD_AGENT").unwrap()).unwrap()),
        place: Place::here().unwrap(),
        session,
    })
    .unwrap()
}

fn has_ended() -> bool {
    Path::new(STOP).exists()
}

/// Takes and releases what everybody wants, until it is told to stop or killed.
fn library(random: &mut Random) {
    let client = connect(Some(Custodian::Library));
    while !has_ended() {
        let scope = SCOPES[random.below(SCOPES.len() as u64) as usize];
        let asked = monotonic_ns();
        let body = client.lock(exclusive(scope, 0)).unwrap();
        let LockBody { acquired: true, lock_id: Some(id), fence: Some(fence), .. } = body else { panic!("{body:?}") };
        let hold = Hold::enter(scope, fence, asked);
        (0..random.below(4)).for_each(|_| hold.work());
        if random.below(8) == 0 {
            think();
        }
        hold.leave();
        match random.below(2) {
            0 => client.release_later(&id),
            _ => client.unlock(&id).unwrap(),
        }
    }
}

/// The command of a `flockd run`: its lock's id is the number of its first fence.
fn child(scope: &str) {
    let around = std::env::var("FLOCKD_RUN_LOCKS").unwrap();
    let LockId(fence) = around.rsplit(' ').next().unwrap().parse().unwrap();
    let hold = Hold::enter(scope, fence, 0);
    (0..20).for_each(|_| hold.work());
    think();
    hold.leave();
}

/// Some holds are long enough to be killed in.
fn think() {
    #[expect(clippy::disallowed_methods, reason = "bounded back-off: 5 ms, once a hold, to be found inside")]
    std::thread::sleep(Duration::from_millis(5));
}

/// Takes a lock without a lease, says so, and keeps it until its input ends; then it must still have it.
fn keeper(scope: &str) {
    let client = connect(Some(Custodian::Library));
    let (id, _) = crate::util::take(&client, exclusive(scope, 0));
    say("held");
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    client.unlock(&id).unwrap();
    say("released");
}

/// Takes a lock without a lease on a socket that a child of it keeps open as well.
fn sharer(scope: &str) {
    let home = std::env::var("FLOCKD_HOME").unwrap();
    let mut stream = UnixStream::connect(Path::new(&home).join("sock")).unwrap();
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let cwd = std::env::current_dir().unwrap();
    let hello =
        format!(r#"{{"hello":{{"protocol":1,"version":"0.1.0","agent":"sharer","cwd":{cwd:?},"session":"library"}}}}"#);
    writeln!(stream, "{hello}\n{}", format_args!(r#"{{"id":1,"op":"lock","scope":"{scope}","ttl_ms":0}}"#)).unwrap();
    let (greeting, answer) = (lines.next().unwrap().unwrap(), lines.next().unwrap().unwrap());
    assert!(greeting.contains("secret") && answer.contains(r#""acquired":true"#), "{greeting} {answer}");
    // A duplicate is not closed on exec.
    let kept = rustix::io::dup(&stream).unwrap();
    let mut heir = Command::new("sleep").arg("600").stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    drop(kept);
    say(&format!("held {}", heir.id()));
    heir.wait().unwrap();
}

/// One line on a descriptor of its own: the test harness writes to stdout as well.
fn say(line: &str) {
    let mut out = File::options().append(true).create(true).open(said_by(std::process::id())).unwrap();
    writeln!(out, "{line}").unwrap();
}

/// Where a claimant says what it has to say.
pub fn said_by(pid: u32) -> String {
    format!("said-{pid}")
}

/// Waits until a claimant has said a line that begins so, and gives the line.
pub fn heard(ground: &Ground, pid: u32, word: &str) -> String {
    crate::util::until(&format!("process {pid} says {word}"), || {
        let said = std::fs::read_to_string(ground.work.join(said_by(pid))).ok()?;
        said.lines().find(|line| line.starts_with(word)).map(str::to_owned)
    })
}
