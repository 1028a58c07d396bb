# Shortcuts; each is a plain command, so that nobody needs just(1). `.ci/run` is what decides.

# What there is.
default:
    @just --list

# The tests, at the scale of CI (under 8 minutes cold on 2 cores).
test *ARGS:
    cargo test --locked {{ ARGS }}

# One test binary at full scale; a piece stays under 10 minutes, or it is ended.
piece NAME SCALE="5":
    FLOCKD_SCALE={{ SCALE }} timeout --kill-after=10 600 cargo test --locked --test {{ NAME }} -- --nocapture

# More of everything that repeats: the unit tests and then every test binary, one piece after the other. The simulator
# takes eight times the scale of the rest: 20,000 seeds. What came of it last stands in docs/PROOF.md.
full SCALE="5":
    #!/usr/bin/env bash
    set -euo pipefail
    FLOCKD_SCALE={{ SCALE }} timeout --kill-after=10 600 cargo test --locked --lib -- --nocapture
    for file in tests/*.rs tests/*/main.rs; do
        [[ "$file" == tests/sim/main.rs ]] && continue
        name="$(basename "${file%/main.rs}" .rs)"
        just piece "$name" {{ SCALE }}
    done
    just piece sim $(({{ SCALE }} * 8))

# Plants one fault after the other and looks whether the test that is named for it notices (src/planted.rs).
planted:
    RUSTFLAGS="--cfg planted" cargo test --locked --target-dir target/planted --test planted -- --nocapture

# Latency, throughput and memory as ratios to their floors; `just bench socket` for some of them, `just bench --quick`.
bench *ARGS:
    cargo bench --locked -- {{ ARGS }}

# A flock of claws on one file, without and with locks.
sim *ARGS:
    cargo run --locked --release -- sim {{ ARGS }}

# Claude Code, Codex, Gemini CLI and OpenClaw themselves, with the hooks that `flockd install` writes, against a model in
# the script that says what it is to. Takes 1.6 GB from npm the first time; `just agents codex` for one of them.
agents *CLIENTS:
    cargo build --locked
    python3 .ci/agents.py target/debug/flockd "${FLOCKD_AGENTS:-target/agents}" {{ CLIENTS }}

# Format and lints, as CI asks for them.
lint:
    cargo fmt --check
    cargo clippy --locked --all-targets --all-features -- -D warnings
    cargo clippy --locked --lib --no-default-features -- -D warnings

# The library's documentation, with every warning an error.
docs:
    RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps

# Licences, advisories, banned crates and sources of the dependencies, if cargo-deny is installed.
deny:
    @if cargo deny --version >/dev/null 2>&1; then cargo deny check; else echo "cargo-deny is not installed: cargo install --locked cargo-deny"; fi

# Everything that must hold before a merge.
ci:
    .ci/run
