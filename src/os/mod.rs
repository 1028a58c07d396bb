//! Everything that only the operating system can say or do: paths, processes, the home, file threads.

#[cfg(feature = "cli")]
pub(crate) mod commands;
pub mod commit;
pub mod files;
pub mod flocks;
pub mod home;
pub mod leases;
pub mod mounts;
pub mod paths;
pub mod process;
pub mod watcher;

/// The user this process acts for.
pub fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// A random number from the kernel.
pub fn random_u64() -> u64 {
    u64::from_le_bytes(random())
}

/// A random number from the kernel, long enough to be a secret.
pub fn random_u128() -> u128 {
    u128::from_le_bytes(random())
}

/// A random key from the kernel.
pub fn random_u256() -> [u8; 32] {
    random()
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // Up to 256 bytes come whole once the kernel has seeded itself, and until then the call waits.
    let got = rustix::io::retry_on_intr(|| rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()));
    assert_eq!(got, Ok(N), "the kernel gives random bytes");
    bytes
}
