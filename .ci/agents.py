"""Real coding agents, offline: two of a kind on one file, with the hooks that `flockd install` writes.

    agents.py FLOCKD DIRECTORY [CLIENT...]

DIRECTORY has (or gets, from npm) those that are named, else Claude Code, Codex, Gemini CLI and OpenClaw. Their model is a server in this process
that says what a script says, so nothing leaves this machine. Ada writes a file; Bo wants to write it within Ada's turn
and must be refused, told who holds it, and get in when the turn has ended. With the MCP server beside the hooks, what
one agent does by tools, edits and commands is one agent's. Python's own library is all it takes.
"""

import http.server
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

# The program of each, and the package that has it.
CLIENTS = {
    "claude-code": ("claude", "@anthropic-ai/claude-code@2.1.330"),
    "codex": ("codex", "@openai/codex@0.169"),
    "gemini": ("gemini", "@google/gemini-cli@0.61"),
    "openclaw": ("openclaw", "openclaw@2026.9.6"),
}
WITHIN = 180
# Stands in the prompt of a sub-agent, whose model is another.
BELOW = "you are below"


class Run:
    """One agent's run: what its model says, and what it was told."""

    def __init__(self, steps):
        self.steps = steps
        self.told = []
        # All that it was asked, as text.
        self.asked = []
        self.reached = threading.Condition()
        self.gates = {}
        # That of its sub-agent.
        self.below = None

    def gate(self, step):
        """The model says this step only when the gate is opened."""
        return self.gates.setdefault(step, threading.Event())

    def until(self, step):
        """Waits until the model is asked for this step."""
        with self.reached:
            assert self.reached.wait_for(lambda: len(self.told) >= step, WITHIN), f"step {step} never comes: {self.told}"

    def next(self, results):
        """What the model says after these results; none when it is done."""
        with self.reached:
            if len(results) > len(self.told):
                self.told = list(results)
            self.reached.notify_all()
        step = len(results)
        if step in self.gates:
            self.gates[step].wait(WITHIN)
        return self.steps[step] if step < len(self.steps) else None


RUNS = {}


def flat(value):
    """All text in a value."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return " ".join(flat(v) for v in value.values())
    if isinstance(value, list):
        return " ".join(flat(v) for v in value)
    return ""


class Model(http.server.BaseHTTPRequestHandler):
    """Four wire formats; the first component of the path says whose model this is."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def send(self, body, kind="application/json"):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        try:
            self.wfile.write(data)
        except BrokenPipeError:
            pass  # It waited at a gate, and the client has asked again meanwhile.

    def events(self, events):
        lines = []
        for name, data in events:
            data = data if isinstance(data, str) else json.dumps(data)
            lines.append((f"event: {name}\n" if name else "") + f"data: {data}\n\n")
        self.send("".join(lines).encode(), "text/event-stream")

    def do_HEAD(self):
        self.send(b"")

    def do_GET(self):
        self.send({"data": [], "models": []})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        _, run, rest = self.path.split("/", 2)
        run = RUNS[run]
        if run.below and BELOW in flat(self.prompts(body)):
            run = run.below
        run.asked.append(flat(body))
        if "count_tokens" in rest or "countTokens" in rest:
            return self.send({"input_tokens": 1, "totalTokens": 1})
        if "messages" in rest:
            return self.say_anthropic(run, body)
        if "responses" in rest:
            return self.say_responses(run, body)
        if "GenerateContent" in rest or "generateContent" in rest:
            return self.say_gemini(run, body, "stream" in rest)
        if "completions" in rest:
            return self.say_chat(run, body)
        return self.send({})

    def prompts(self, body):
        """What it was told at first: its parent says the same only in the call that begins it."""
        return body.get("messages", [])[:1] + [item for item in body.get("input", []) if item.get("type") == "message"]

    def say_anthropic(self, run, body):
        blocks = [b for m in body["messages"] if isinstance(m["content"], list) for b in m["content"]]
        results = [flat(b.get("content")) for b in blocks if b.get("type") == "tool_result"]
        step = run.next(results) if body.get("tools") else None
        message = {"id": "msg_1", "type": "message", "role": "assistant", "model": body["model"], "content": [],
                   "stop_reason": None, "stop_sequence": None, "usage": {"input_tokens": 1, "output_tokens": 1}}
        if step:
            start = {"type": "tool_use", "id": f"toolu_{len(results)}", "name": step[0], "input": {}}
            delta = {"type": "input_json_delta", "partial_json": json.dumps(step[1])}
        else:
            start, delta = {"type": "text", "text": ""}, {"type": "text_delta", "text": "done"}
        reason = "tool_use" if step else "end_turn"
        if not body.get("stream"):
            content = {**start, **({"input": step[1]} if step else {"text": "done"})}
            return self.send({**message, "content": [content], "stop_reason": reason})
        return self.events([
            ("message_start", {"type": "message_start", "message": message}),
            ("content_block_start", {"type": "content_block_start", "index": 0, "content_block": start}),
            ("content_block_delta", {"type": "content_block_delta", "index": 0, "delta": delta}),
            ("content_block_stop", {"type": "content_block_stop", "index": 0}),
            ("message_delta", {"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": None},
                               "usage": {"output_tokens": 1}}),
            ("message_stop", {"type": "message_stop"}),
        ])

    def say_responses(self, run, body):
        items = body.get("input") or []
        results = [flat(i.get("output")) for i in items if str(i.get("type")).endswith("_call_output")]
        step = run.next(results)
        if step:
            item = {"type": "function_call", "id": f"fc_{len(results)}", "call_id": f"call_{len(results)}",
                    "name": step[0], "arguments": json.dumps(step[1])}
            # Tools of servers, and those that begin sub-agents, are called by group and name.
            item.update({"namespace": step[2]} if len(step) > 2 else {})
        else:
            item = {"type": "message", "id": "m_1", "role": "assistant",
                    "content": [{"type": "output_text", "text": "done", "annotations": []}]}
        usage = {"input_tokens": 1, "input_tokens_details": None, "output_tokens": 1,
                 "output_tokens_details": None, "total_tokens": 2}
        return self.events([
            ("response.created", {"type": "response.created", "response": {"id": "r_1"}}),
            ("response.output_item.done", {"type": "response.output_item.done", "output_index": 0, "item": item}),
            ("response.completed", {"type": "response.completed", "response": {"id": "r_1", "usage": usage}}),
        ])

    def say_gemini(self, run, body, streams):
        parts = [p for c in body.get("contents", []) for p in c.get("parts", [])]
        results = [flat(p["functionResponse"].get("response")) for p in parts if "functionResponse" in p]
        step = run.next(results) if body.get("tools") else None
        # Gemini CLI has its models say this with each call of any tool, for its own scheduler.
        call = {"name": step[0], "args": {**step[1], "wait_for_previous": True}} if step else None
        part = {"functionCall": call} if step else {"text": "done"}
        answer = {"candidates": [{"content": {"role": "model", "parts": [part]}, "finishReason": "STOP", "index": 0}],
                  "usageMetadata": {"promptTokenCount": 1, "candidatesTokenCount": 1, "totalTokenCount": 2}}
        return self.events([("", answer)]) if streams else self.send(answer)

    def say_chat(self, run, body):
        results = [flat(m.get("content")) for m in body["messages"] if m["role"] == "tool"]
        step = run.next(results) if body.get("tools") else None
        delta = {"role": "assistant", "content": "done"}
        if step:
            call = {"index": 0, "id": f"call_{len(results)}", "type": "function",
                    "function": {"name": step[0], "arguments": json.dumps(step[1])}}
            delta = {"role": "assistant", "content": None, "tool_calls": [call]}
        chunk = {"id": "c_1", "object": "chat.completion.chunk", "created": 1, "model": body["model"]}
        end = {"index": 0, "delta": {}, "finish_reason": "tool_calls" if step else "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        return self.events([
            ("", {**chunk, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}),
            ("", {**chunk, "choices": [end], "usage": usage}),
            ("", "[DONE]"),
        ])


class Ground:
    """A workspace, and for each agent a home with the client's settings."""

    def __init__(self, flockd, programs, client, port):
        self.flockd, self.programs, self.client, self.port = flockd, programs, client, port
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="flockd-agents-"))
        self.work = self.dir / "work"
        self.work.mkdir()
        (self.work / ".flockd.toml").write_text("")
        self.file = self.work / "data.txt"
        self.processes = []

    def environment(self, home):
        keep = {name: os.environ[name] for name in ["PATH", "LANG", "TERM", "TMPDIR"] if name in os.environ}
        path = f"{self.programs}/node_modules/.bin:{pathlib.Path(self.flockd).parent}:{keep['PATH']}"
        return {**keep, "PATH": path, "HOME": str(home), "FLOCKD_HOME": str(self.dir / "flockd"), "CI": "1"}

    def ours(self, *args, home=None):
        done = subprocess.run([self.flockd, *args], env=self.environment(home or self.dir), cwd=self.work,
                              capture_output=True, text=True, timeout=WITHIN)
        assert done.returncode == 0, (args, done)
        return done.stdout

    def start(self, name, steps, *flags):
        """An agent's process, with a model that says these steps and settings that `install` writes with these flags."""
        run = RUNS[f"{self.client}-{name}"] = Run(steps)
        home = self.dir / name
        home.mkdir()
        url = f"http://127.0.0.1:{self.port}/{self.client}-{name}"
        environment = self.environment(home)
        command, more = getattr(self, self.client.replace("-", "_"))(home, url, name)
        self.ours("install", "--client", self.client, *flags, home=home)
        self.hurry(home)
        return self.run(name, command, {**environment, **more}), run

    def run(self, name, command, environment):
        """A process of an agent whose settings are there."""
        log = open(self.dir / f"{name}.log", "w", encoding="utf-8")
        process = subprocess.Popen(command, env=environment, cwd=self.work, stdin=subprocess.DEVNULL,
                                   stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        self.processes.append(process)
        return process

    def hurry(self, home):
        """The installed hook, with a wait of a second instead of 25."""
        for path in home.rglob("*"):
            if path.suffix == ".json" and path.is_file() and "node_modules" not in path.parts:
                text = path.read_text()
                path.write_text(re.sub(r"(hook --client [a-z-]+)", r"\1 --wait 1s", text))
            if path.name == "index.js" and "flockd" in path.parts:
                path.write_text(path.read_text().replace('"--mode",', '"--wait", "1s", "--mode",'))

    def claude_code(self, home, url, _name):
        binary = f"{self.programs}/node_modules/@anthropic-ai/claude-code-linux-x64/claude"
        command = [binary, "-p", "go", "--allowedTools", "Write,Read,Bash"]
        return command, {"ANTHROPIC_BASE_URL": url, "ANTHROPIC_API_KEY": "none",
                         "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_AUTOUPDATER": "1"}

    def codex(self, home, url, _name):
        (home / ".codex").mkdir()
        (home / ".codex/config.toml").write_text(
            'model = "fake"\nmodel_provider = "fake"\n\n[model_providers.fake]\nname = "fake"\n'
            f'base_url = "{url}/v1"\nwire_api = "responses"\n')
        return ["codex", "exec", "--skip-git-repo-check", "--dangerously-bypass-hook-trust", "-s",
                "danger-full-access", "go"], {}

    def gemini(self, home, url, _name):
        (home / ".gemini").mkdir()
        (home / ".gemini/settings.json").write_text(
            '{"security": {"auth": {"selectedType": "gemini-api-key"}, "folderTrust": {"enabled": false}}}')
        return ["gemini", "-m", "gemini-2.5-flash", "--yolo", "-p", "go"], {"GOOGLE_GEMINI_BASE_URL": url, "GEMINI_API_KEY": "none",
                                                  "GEMINI_CLI_TRUST_WORKSPACE": "true"}

    def openclaw(self, home, url, name):
        (home / ".openclaw").mkdir()
        provider = {"baseUrl": f"{url}/v1", "apiKey": "none", "api": "openai-completions",
                    "models": [{"id": "fake", "name": "fake", "contextWindow": 200000, "maxTokens": 8000}]}
        config = {"models": {"providers": {"mock": provider}},
                  "agents": {"defaults": {"model": {"primary": "mock/fake"}, "workspace": str(self.work)}}}
        (home / ".openclaw/openclaw.json").write_text(json.dumps(config, indent=2))
        return ["openclaw", "agent", "--local", "--agent", "main", "--session-id", name, "--message", "go",
                "--json"], {}

    def writes(self, text):
        """How the client's model writes the file."""
        path = str(self.file)
        return {
            "claude-code": ("Write", {"file_path": path, "content": text}),
            "codex": ("exec_command", {"cmd": f"echo -n {text} > {path}"}),
            "gemini": ("write_file", {"file_path": path, "content": text}),
            "openclaw": ("write", {"path": path, "content": text}),
        }[self.client]

    def reads(self):
        path = str(self.file)
        return {
            "claude-code": ("Read", {"file_path": path}),
            "codex": ("exec_command", {"cmd": f"cat {path}"}),
            "gemini": ("read_file", {"file_path": path}),
            "openclaw": ("read", {"path": path}),
        }[self.client]

    def holders(self):
        return [lock["agent"] for lock in json.loads(self.ours("ls", "--json"))["locks"]]

    def play(self):
        ada, ada_run = self.start("ada", [self.writes("ada")], "--no-mcp")
        ada_may_end = ada_run.gate(1)
        ada_run.until(1)
        assert self.file.read_text() == "ada", ada_run.told
        holders = self.holders()
        assert len(holders) == 1, holders
        print(f"  ada has written; {holders[0]} holds the file")

        bo, bo_run = self.start("bo", [self.reads(), self.writes("bo"), self.writes("bo")], "--no-mcp")
        bo_may_go_on = bo_run.gate(2)
        bo_run.until(2)
        said = bo_run.told[1]
        assert f"is locked by {holders[0]}" in said, bo_run.told
        assert self.file.read_text() == "ada", "it was refused and written all the same"
        print("  bo is refused: " + " ".join(said.split())[:160])

        ada_may_end.set()
        assert ada.wait(WITHIN) == 0, (self.dir / "ada.log").read_text()
        assert holders[0] not in self.holders(), "the end of the turn released it"
        bo_may_go_on.set()
        assert bo.wait(WITHIN) == 0, (self.dir / "bo.log").read_text()
        assert self.file.read_text() == "bo", bo_run.told
        assert self.holders() == []
        print("  ada's turn has ended; bo is let in, has written, and holds nothing")

    def lose(self):
        """OpenClaw alone: what was lost in one turn is told with the prompt of the next."""
        eve, run = self.start("eve", [self.writes("eve")], "--no-mcp")
        may_end = run.gate(1)
        run.until(1)
        assert "flockd: other agents may work on the same files" in run.asked[0], run.asked
        lock = json.loads(self.ours("ls", "--json"))["locks"][0]
        self.ours("--agent", "somebody", "break", lock["lock_id"], "--reason", "it hangs")
        may_end.set()
        assert eve.wait(WITHIN) == 0, (self.dir / "eve.log").read_text()
        lost = f"your lock on {self.file.name} ended"
        assert not any(lost in asked for asked in run.asked), "nobody has told it yet"
        before, run.steps = len(run.asked), []
        home = self.dir / "eve"
        command = ["openclaw", "agent", "--local", "--agent", "main", "--session-id", "eve", "--message", "go", "--json"]
        eve = self.run("eve", command, self.environment(home))
        assert eve.wait(WITHIN) == 0, (self.dir / "eve.log").read_text()
        assert len(run.asked) > before and lost in run.asked[before] and "it hangs" in run.asked[before], run.asked
        print("  eve's lock is broken; the prompt of her next turn says so")

    def tools(self):
        """Gemini CLI alone: the server takes calls as Gemini's models make them."""
        path = {"path": str(self.file)}
        lock, unlock = ("mcp_flockd_lock_file", path), ("mcp_flockd_unlock_file", path)
        dan, run = self.start("dan", [lock, self.writes("dan"), unlock])
        assert dan.wait(WITHIN) == 0, (self.dir / "dan.log").read_text()
        assert len(run.told) == 3 and "locked: " in run.told[0], run.told
        assert self.file.read_text() == "dan", run.told
        assert self.holders() == []
        print("  dan locks, writes and unlocks by tools")

    def clear(self):
        """Claude Code alone: after `/clear` hook, command and server are the agent of the new session."""
        run = RUNS["claude-code-cy"] = Run([])
        home = self.dir / "cy"
        home.mkdir()
        command, more = self.claude_code(home, f"http://127.0.0.1:{self.port}/claude-code-cy", "cy")
        self.ours("install", "--client", "claude-code", home=home)
        streams = ["--input-format", "stream-json", "--output-format", "stream-json", "--verbose"]
        command = [command[0], "-p", *streams, "--allowedTools", "Write,Read,Bash,mcp__flockd"]
        with open(self.dir / "cy.log", "w", encoding="utf-8") as log:
            cy = subprocess.Popen(command, env={**self.environment(home), **more}, cwd=self.work, text=True,
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True)
        self.processes.append(cy)

        def turn(text):
            """Says something; the session in which it was heard."""
            content = [{"type": "text", "text": text}]
            cy.stdin.write(json.dumps({"type": "user", "message": {"role": "user", "content": content}}) + "\n")
            cy.stdin.flush()
            for line in cy.stdout:
                message = json.loads(line)
                if message["type"] == "result":
                    return message["session_id"]
            raise AssertionError((self.dir / "cy.log").read_text())

        lock = ("mcp__flockd__lock_file", {"path": str(self.file), "wait_seconds": 0})
        unlock = ("mcp__flockd__unlock_file", {"all": True})
        run.steps = [lock, unlock]
        first = turn("go")
        assert f"claude-{first}" in run.told[0], run.told
        turn("/clear")
        run.told, run.steps = [], [lock, self.writes("cy"), ("Bash", {"command": f"flockd check {self.file}"}), unlock]
        second = turn("go")
        assert first != second, "it is another session"
        assert f"claude-{second}" in run.told[0], run.told
        assert self.file.read_text() == "cy", run.told
        assert "do not hold" not in run.told[2], run.told
        cy.stdin.close()
        assert cy.wait(WITHIN) == 0, (self.dir / "cy.log").read_text()
        assert self.holders() == []
        print("  cy is another agent after /clear, in hooks, commands and tools alike")

    def is_kept_out(self, name, path):
        """Whether an agent of this name is refused."""
        done = subprocess.run([self.flockd, "--agent", name, "lock", "-n", str(path)], cwd=self.work,
                              env=self.environment(self.dir), capture_output=True, text=True, timeout=WITHIN)
        return done.returncode == 1

    def kin(self):
        """Claude Code, Codex: agent and sub-agent are each one in hooks, commands and tools, and two to each other."""
        mine, below = self.work / "mine.txt", self.work / "below.txt"
        is_claude = self.client == "claude-code"

        def ours(name, **given):
            return (f"mcp__flockd__{name}", given) if is_claude else (name, given, "mcp__flockd")

        # Codex runs a login shell, which has a PATH of its own.
        flockd = "flockd" if is_claude else self.flockd

        look = self.work / "look.sh"
        look.write_text(f"#!/bin/sh\n{flockd} check $1 && {flockd} lock -n $1 --json\n")
        look.chmod(0o755)

        # The same text for both, one after the other; in Claude Code also in what a command leaves behind.
        who = self.work / "who.sh"
        who.write_text(f"#!/bin/sh\n{flockd} lock -n @who --json && {flockd} unlock @who\n")
        who.chmod(0o755)
        leave, left = self.work / "leave.sh", self.work / "left.out"
        leave.write_text(f"#!/bin/sh\n{{ ./who.sh > {left}.new; mv {left}.new {left}; }} > /dev/null 2>&1 &\n")
        leave.chmod(0o755)

        def steps(path):
            command = f"{flockd} check {path} && {flockd} lock -n {path} --json" if path is mine else f"./look.sh {path}"
            lock = ours("lock_file", path=str(path), wait_seconds=0)
            if not is_claude:
                return [lock, ("exec_command", {"cmd": f"echo -n x > {path}"}), ("exec_command", {"cmd": command})]
            return [lock, ("Write", {"file_path": str(path), "content": "x"}),
                    ("Bash", {"command": command, "description": "look"}),
                    ("Bash", {"command": "./who.sh; true", "description": "who"})]

        unlock = ours("unlock_file", all=True)
        begin = ("Agent", {"description": "help", "prompt": BELOW, "subagent_type": "general-purpose"})
        begin = begin if is_claude else ("spawn_agent", {"message": BELOW}, "multi_agent_v1")
        run = RUNS[f"{self.client}-kim"] = Run([*steps(mine), begin, unlock])
        last_step = ("Bash", {"command": "./leave.sh", "description": "leave"})
        run.below = Run([*steps(below), *([last_step] if is_claude else []), unlock])
        last, last_below = len(run.steps) - 1, len(run.below.steps) - 1
        home = self.dir / "kim"
        home.mkdir()
        url = f"http://127.0.0.1:{self.port}/{self.client}-kim"
        command, more = getattr(self, self.client.replace("-", "_"))(home, url, "kim")
        self.ours("install", "--client", self.client, home=home)
        self.hurry(home)
        may_unlock, may_end = run.gate(last), run.below.gate(last_below)
        if is_claude:
            # Rules for the commands as the model says them.
            command = [*command[:3], "--allowedTools", "Write,Agent,Bash(flockd:*),Bash(./look.sh:*),"
                       "Bash(./who.sh),Bash(true),Bash(./leave.sh),mcp__flockd"]
        kim = self.run("kim", command, {**self.environment(home), **more})
        run.until(last)
        run.below.until(last_below)
        locks = {lock["file_id"]: lock["agent"] for lock in json.loads(self.ours("ls", "--json"))["locks"]}
        assert set(locks) == {"mine.txt", "below.txt"}, (locks, run.told, run.below.told)
        assert locks["below.txt"].startswith(locks["mine.txt"] + "/"), locks
        for agent, told, path in [(locks["mine.txt"], run.told, mine), (locks["below.txt"], run.below.told, below)]:
            assert agent in told[0] and '"acquired":true' in told[0], told
            assert path.read_text() == "x", told
            assert f"{agent}\"" in told[2] and '"already_held":true' in told[2], told
            assert self.is_kept_out("somebody", path), told
            if is_claude:
                assert f"{agent}\"" in told[3], told
        if is_claude:
            assert f"you are {locks['below.txt']};" in run.below.asked[0], run.below.asked[0][:2000]
            by = time.monotonic() + WITHIN
            while not left.exists():
                assert time.monotonic() < by, "what was left behind does not end"
                time.sleep(0.05)
            assert f"{locks['below.txt']}\"" in left.read_text(), left.read_text()
        # Codex ends what is below with the session.
        may_end.set()
        run.below.until(last_below + 1)
        may_unlock.set()
        assert kim.wait(WITHIN) == 0, (self.dir / "kim.log").read_text()
        assert self.holders() == [], self.holders()
        print(f"  kim and {locks['below.txt']} are each one agent by tools, edits and commands")

    def review(self):
        """Codex: a review, which runs in a thread of its own, is one agent in hooks, commands and tools."""
        path = self.work / "reviewed.txt"
        subprocess.run(["git", "init", "-q", str(self.work)], check=True)
        lock = ("lock_file", {"path": str(path), "wait_seconds": 0}, "mcp__flockd")
        look = f"{self.flockd} check {path} && {self.flockd} lock -n {path} --json"
        run = RUNS["codex-rey"] = Run([("exec_command", {"cmd": f"echo -n x > {path}"}), lock,
                                       ("exec_command", {"cmd": look}), ("unlock_file", {"all": True}, "mcp__flockd")])
        home = self.dir / "rey"
        home.mkdir()
        command, more = self.codex(home, f"http://127.0.0.1:{self.port}/codex-rey", "rey")
        self.ours("install", "--client", "codex", home=home)
        self.hurry(home)
        command = [*command[:2], "review", "--uncommitted", "--skip-git-repo-check", "--dangerously-bypass-hook-trust",
                   "--dangerously-bypass-approvals-and-sandbox"]
        may_end = run.gate(3)
        rey = self.run("rey", command, {**self.environment(home), **more})
        run.until(3)
        holders = self.holders()
        assert len(holders) == 1 and re.fullmatch(r"codex-[0-9a-f-]+/[0-9a-f-]+", holders[0]), (holders, run.told)
        assert path.read_text() == "x", run.told
        for told in run.told[1:]:
            assert f'{holders[0]}"' in told and '"already_held":true' in told, run.told
        may_end.set()
        assert rey.wait(WITHIN) == 0, (self.dir / "rey.log").read_text()
        assert self.holders() == [], self.holders()
        print(f"  rey's review is {holders[0]} by tools, edits and commands")

    def codex_alone(self):
        self.kin()
        self.review()

    def claude_alone(self):
        self.clear()
        self.kin()

    def session(self):
        """OpenClaw alone: a session is one agent in hooks, commands and tools."""
        path = self.work / "session.txt"

        def ours(name, **given):
            """OpenClaw shows its models what servers offer in a catalog only."""
            return "tool_call", {"id": f"flockd__{name}", "args": given}

        lock = ours("lock_file", path=str(path), wait_seconds=0)
        command = ("exec", {"command": f"flockd check {path} && flockd lock -n {path} --json"})
        fay, run = self.start("fay", [lock, ("write", {"path": str(path), "content": "fay"}), command,
                                      ours("unlock_file", all=True)])
        may_end = run.gate(3)
        run.until(3)
        holders = self.holders()
        assert len(holders) == 1 and holders[0].startswith("openclaw-"), (holders, run.told)
        assert '"acquired":true' in run.told[0].replace(" ", "") and holders[0] in run.told[0], run.told
        assert path.read_text() == "fay", run.told
        assert holders[0] in run.told[2] and '"already_held":true' in run.told[2], run.told
        assert self.is_kept_out("somebody", path)
        may_end.set()
        assert fay.wait(WITHIN) == 0, (self.dir / "fay.log").read_text()
        assert self.holders() == []
        print(f"  {holders[0]} is one agent by tools, edits and commands")

    def openclaw_alone(self):
        self.lose()
        self.session()

    def end(self):
        """Nothing of it is left, however it ended."""
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        subprocess.run([self.flockd, "daemon", "stop"], env=self.environment(self.dir), check=False, timeout=30)


def install(directory, clients):
    """The clients that are missing, from npm, with a node that is new enough for all of them."""
    programs = directory / "node_modules/.bin"
    packages = [package for program, package in map(CLIENTS.get, clients) if not (programs / program).exists()]
    if not packages:
        return
    npm = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(directory)]
    subprocess.run([*npm, "node@24"], check=True)
    subprocess.run([*npm, *packages], check=True, env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"})


def main():
    flockd, directory = str(pathlib.Path(sys.argv[1]).resolve()), pathlib.Path(sys.argv[2]).resolve()
    clients = sys.argv[3:] or list(CLIENTS)
    install(directory, clients)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Model)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    failed = []
    for client in clients:
        begun = time.monotonic()
        print(client, flush=True)
        ground = Ground(flockd, directory, client, server.server_address[1])
        try:
            ground.play()
            # What is to be seen in some of them alone.
            more = {"claude-code": ground.claude_alone, "codex": ground.codex_alone, "gemini": ground.tools,
                    "openclaw": ground.openclaw_alone}
            more.get(client, lambda: None)()
            print(f"  held in {time.monotonic() - begun:.0f} s", flush=True)
            shutil.rmtree(ground.dir, ignore_errors=True)
        except AssertionError as error:
            failed.append(client)
            print(f"  FAILED: {error}\n  logs are in {ground.dir}", flush=True)
        finally:
            ground.end()
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
