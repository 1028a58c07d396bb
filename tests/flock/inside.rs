//! Mounts of one's own need a namespace of one's own: tests run themselves once more inside one.

use std::process::{Command, Stdio};

const INSIDE: &str = "FLOCKD_TEST_INSIDE";

/// Runs this test once more in a namespace where it may mount, and there returns true. In the outer run, and where the
/// machine does not allow it, which is printed, it returns false.
pub fn inside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let allowed = |flags: &str| {
        let mut probe = Command::new("unshare");
        let probe = probe.args([flags, "true"]).stderr(Stdio::null());
        probe.status().is_ok_and(|status| status.success())
    };
    let Some(flags) = ["-Urm", "-m"].into_iter().find(|flags| allowed(flags)) else {
        println!("left out: this machine gives no namespace for mounts, by unshare(1)");
        return false;
    };
    let mut again = Command::new("unshare");
    again.arg(flags).arg(std::env::current_exe().unwrap()).args(["--exact", test, "--nocapture"]).env(INSIDE, "1");
    let done = again.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success() && out.contains("1 passed"), "{out}{err}");
    out.lines().filter(|line| line.starts_with("left out")).for_each(|line| println!("{line}"));
    false
}
