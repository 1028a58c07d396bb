"""Speaks to a real `flockd mcp` with the Python MCP SDK, which is not ours, in both eras of the protocol.

Usage: mcp_sdk.py FLOCKD; FLOCKD_HOME is the home to use. Fails with a sentence if anything is not as it should be.
"""

import asyncio
import os
import subprocess
import sys
import tempfile
import time
import warnings

from mcp import Client, MCPError, StdioServerParameters

FLOCKD = os.path.abspath(sys.argv[1])
WITHIN = 60  # seconds; a guard, no measurement
warnings.simplefilter("ignore")  # what the newer era lacks is deprecated in the older


def check(fact, *said):
    if not fact:
        sys.exit(f"mcp_sdk.py: not so: {' '.join(map(str, said))}")


def environment(agent):
    return {"FLOCKD_HOME": os.environ["FLOCKD_HOME"], "FLOCKD_AGENT": agent, "FLOCKD_AGENT_PROGRAMS": ""}


def flockd(place, agent, *arguments):
    command = [FLOCKD, *arguments]
    known = {**os.environ, **environment(agent)}
    return subprocess.run(command, env=known, cwd=place, capture_output=True, text=True, timeout=WITHIN)


def server(place, agent):
    return StdioServerParameters(command=FLOCKD, args=["mcp", "--workspace", place], env=environment(agent))


async def refused(client, tool, arguments):
    answer = await client.call_tool(tool, arguments)
    check(answer.is_error, f"{tool} {arguments} is an error:", answer)
    return answer.structured_content["code"]


async def serves(place, mode, told):
    progress = []

    async def heard(done, total, message):
        progress.append((done, total, message))

    async def notified(message):
        if getattr(message, "method", "") == "notifications/resources/updated":
            await told.put(message.params.uri)

    # The SDK holds each structured answer against the schema of its tool.
    async with Client(server(place, "claw-1"), mode=mode, message_handler=notified, cache=None) as client:
        print(f"  {mode}: speaks {client.protocol_version}")
        check(client.protocol_version == ("2025-11-25" if mode == "legacy" else "2026-07-28"), client.protocol_version)
        names = [tool.name for tool in (await client.list_tools()).tools]
        check(names[:4] == ["lock_file", "unlock_file", "check_lock_status", "lock_files"], names)

        held = (await client.call_tool("lock_file", {"path": "data.json", "note": "from Python"})).structured_content
        check(held["acquired"] and held["agent"] == "claw-1", held)
        check(flockd(place, "claw-1", "check", "data.json").returncode == 0, "the shell of the same agent may write")
        check(flockd(place, "claw-2", "lock", "-n", "data.json").returncode == 1, "another may not")
        write = {"path": "data.json", "content": "{}\n", "fence": held["fence"]}
        check((await client.call_tool("write_file", write)).structured_content["written"], "written under the lock")
        await client.call_tool("unlock_file", {"path": "data.json"})

        both = {"paths": ["one.json", "two.json"], "wait_seconds": 0}
        held = (await client.call_tool("lock_files", both)).structured_content
        check(held["acquired"] and len(held["locks"]) == 2, held)
        check(flockd(place, "claw-2", "lock", "-n", "two.json").returncode == 1, "both are held")
        await client.call_tool("unlock_file", {"path": "one.json"})
        await client.call_tool("unlock_file", {"path": "two.json"})
        flockd(place, "claw-2", "lock", "two.json")
        answer = await client.call_tool("lock_files", both)
        check(not answer.is_error and answer.structured_content["locks"] == [], answer)
        check(answer.structured_content["holders"][0]["agent"] == "claw-2", answer)
        check(flockd(place, "claw-2", "lock", "-n", "one.json").returncode == 0, "none of a refused set is held")
        flockd(place, "claw-2", "unlock", "--all")

        flockd(place, "claw-2", "lock", "data.json", "--note", "mine")
        wait = {"path": "data.json", "wait_seconds": 4}
        answer = await client.call_tool("lock_file", wait, progress_callback=heard)
        check(not answer.is_error and answer.structured_content["acquired"] is False, answer)
        check(answer.structured_content["holders"][0]["note"] == "mine", answer)
        check(progress and "claw-2" in progress[0][2], "progress while it waited:", progress)
        flockd(place, "claw-2", "unlock", "data.json")
        # Of another file: the place that the first wait left behind would be kept whatever becomes of a second.
        flockd(place, "claw-2", "lock", "other.json")
        other = {"path": "other.json"}
        try:
            await client.call_tool("lock_file", {**other, "wait_seconds": 60}, read_timeout_seconds=1)
            check(False, "the SDK gave up waiting")
        except MCPError:
            pass
        while (status := (await client.call_tool("check_lock_status", other)).structured_content)["waiters"]:
            pass
        flockd(place, "claw-2", "unlock", "other.json")
        status = (await client.call_tool("check_lock_status", other)).structured_content
        check(status["locks"] == [], "what was given up is not granted:", status)

        check(await refused(client, "lock_file", {"path": "x", "mode": "mine"}) == "invalid", "a bad mode")
        check(await refused(client, "lock_files", {"paths": ["d/", "d/x"]}) == "invalid", "one lies in the other")
        check(await refused(client, "unlock_file", {"path": "x"}) == "not_found", "nothing is held there")
        check("locks://active" in [str(it.uri) for it in (await client.list_resources()).resources], "resources")
        await hears(client, place, mode, told)
        await client.call_tool("lock_file", {"path": "left.json"})
    flockd(place, "claw-1", "check", "left.json")
    check(flockd(place, "claw-1", "unlock", "left.json").returncode == 0, "the lock lived on when its server ended")


async def hears(client, place, mode, told):
    """What another process does to a file is told."""
    uri = "locks://file/heard.json"
    if mode == "legacy":
        await client.subscribe_resource(uri)
        flockd(place, "claw-2", "lock", "heard.json")
        check(str(await told.get()) == uri, "a change was told")
        await client.unsubscribe_resource(uri)
    else:
        async with client.listen(resource_subscriptions=[uri]) as changes:
            # Once for what may have changed before.
            first = await anext(changes)
            flockd(place, "claw-2", "lock", "heard.json")
            second = await anext(changes)
            check(str(first.uri) == uri and str(second.uri) == uri, "changes were told:", first, second)
    check("claw-2" in (await client.read_resource(uri)).contents[0].text, "and can be read")
    flockd(place, "claw-2", "unlock", "heard.json")


def ends(place):
    """The end of stdin is the end of the server, within a second, also while a call waits."""
    flockd(place, "claw-2", "lock", "slow.json")
    known = {**os.environ, **environment("claw-1")}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen([FLOCKD, "mcp", "--workspace", place], env=known, **pipes)
    meta = '{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}'
    arguments = '{"path":"slow.json","wait_seconds":600}'
    call = f'{{"name":"lock_file","arguments":{arguments},"_meta":{meta}}}'
    process.stdin.write(f'{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{call}}}\n')
    process.stdin.flush()
    while '"waiters":[]' in flockd(place, "claw-2", "status", "--json").stdout:
        pass
    began = time.monotonic()
    process.stdin.close()
    status = process.wait(WITHIN)
    took = time.monotonic() - began
    check(status == 0 and took < 1, f"it ended with {status} after {took:.3f} s")
    print(f"  stdin closed while a call waits: ended with 0 after {took:.3f} s")
    flockd(place, "claw-2", "unlock", "slow.json")


async def main():
    with tempfile.TemporaryDirectory() as place:
        for mode in ["legacy", "auto"]:
            await asyncio.wait_for(serves(place, mode, asyncio.Queue()), WITHIN)
        ends(place)
    print("mcp_sdk.py: the Python SDK locks, waits, writes and is told, in both eras")


asyncio.run(main())
