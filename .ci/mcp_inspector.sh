#!/usr/bin/env bash
# Looks at a real `flockd mcp` with the MCP Inspector, which is not ours, in both eras of the protocol: schemas that every
# client takes, what tools answer, resources, and many calls at once.
# Usage: mcp_inspector.sh FLOCKD INSPECTOR; FLOCKD_HOME is the home to use, node 22.19 or later is on the PATH.
set -euo pipefail

flockd=$(realpath "$1")
inspector=$2
place=$(mktemp -d "${TMPDIR:-/tmp}/inspector.XXXXXX")
trap 'rm -rf -- "$place"' EXIT

# inspect ERA STATUS ARGUMENTS...: what it says, if it ends with that status.
inspect() {
    local era=$1 expected=$2 status=0
    shift 2
    timeout 60 "$inspector" --cli -e "FLOCKD_HOME=$FLOCKD_HOME" -e FLOCKD_AGENT=claw-1 \
        "$flockd" mcp --workspace "$place" --protocol-era "$era" "$@" >"$place/out" 2>"$place/err" || status=$?
    if ((status != expected)); then
        echo "mcp_inspector.sh: $era $*: ended with $status, not with $expected" >&2
        cat "$place/out" "$place/err" >&2
        exit 1
    fi
}

# says TEXT: the last one said it.
says() {
    if ! grep -qF -- "$1" "$place/out"; then
        echo "mcp_inspector.sh: \"$1\" is not in:" >&2
        cat "$place/out" >&2
        exit 1
    fi
}

call() {
    local era=$1 status=$2 tool=$3
    shift 3
    inspect "$era" "$status" --method tools/call --tool-name "$tool" "$@"
}

for era in legacy modern; do
    inspect "$era" 0 --method tools/list --strict
    says lock_file
    if [[ -s "$place/err" ]]; then
        echo "mcp_inspector.sh: $era: tools/list --strict is not content:" >&2
        cat "$place/err" >&2
        exit 1
    fi
    call "$era" 0 lock_file --tool-arg path=data.json --tool-arg wait_seconds=0
    says '"acquired": true'
    call "$era" 0 check_lock_status --tool-arg path=data.json
    says '"may_write": true'
    call "$era" 5 lock_file --tool-arg path=data.json --tool-arg mode=mine
    inspect "$era" 0 --method resources/list
    says locks://active
    inspect "$era" 0 --method resources/read --uri locks://file/data.json
    says claw-1
    call "$era" 0 unlock_file --tool-arg path=data.json
    call "$era" 5 unlock_file --tool-arg path=data.json
    echo "  $era: schemas, tools and resources are as they should be"
    call "$era" 0 check_lock_status --load --load-requests 200 --load-concurrency 8
    sed 's/^/  /' "$place/out"
done
