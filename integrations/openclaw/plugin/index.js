// Tells `flockd hook` what an agent is about to do, and OpenClaw what it says. Plain JavaScript without dependencies.
//
// OpenClaw blocks a tool when a handler throws or takes too long, so nothing here throws, and every call ends by
// itself: what fails lets the tool run, unless flockd, which knows whether the workspace is strict, said otherwise.

import { spawn } from "node:child_process";

// When OpenClaw stops to wait for us; flockd answers a second before, and is ended in between.
const TIMEOUT_MS = 30_000;
const GRACE_MS = 500;
// A prompt that waits for us is a person who waits; OpenClaw itself would give us 15 s.
const PROMPT_MS = 10_000;
// At shutdown OpenClaw gives all handlers two seconds together.
const ENDING_MS = 2_500;

// The variable by which commands that an agent starts know whose they are.
const SESSION = "FLOCKD_OPENCLAW_SESSION";

// So many sessions are remembered; one that is forgotten is told again how locks work.
const SESSIONS_MAX = 1_000;

// How flockd says who waits.
const WAITS = /^flockd: .* waits for .* Done with it\?/;

// What is told along with tools and not yet with a prompt: so many lines a session.
const UNTOLD_MAX = 50;

const WRITERS = ["write", "edit", "apply_patch", "exec"];
// One server serves all sessions and is told none, so its tools are told in whose name they are called.
const OURS = ["lock_file", "lock_files", "unlock_file", "renew_lock", "check_lock_status", "lock_stats", "write_file"];

// Numbers that JSON has no form for are not worth a refusal.
const plain = (_key, value) => (typeof value === "bigint" ? String(value) : value);

function parsed(out, code, signal) {
  if (!out.trim()) return code === 0 ? {} : { warn: `flockd could not be asked: it ended with ${signal ?? code}` };
  try {
    const answer = JSON.parse(out);
    if (answer && typeof answer === "object") return answer;
  } catch {
    // Said below.
  }
  return { warn: "flockd could not be asked: it said something that is no JSON object" };
}

function call(command, args, payload, timeout, abort) {
  return new Promise((resolve) => {
    let out = "";
    let child;
    let rest;
    const end = (answer) => {
      clearTimeout(timer);
      clearTimeout(rest);
      abort?.removeEventListener?.("abort", leave);
      // Whatever it has started may keep these open.
      child?.stdout?.destroy();
      child?.stdin?.destroy();
      resolve(answer);
    };
    const stop = (answer) => {
      child?.kill("SIGKILL");
      end(answer);
    };
    const leave = () => stop({});
    const fail = (error) => end({ warn: `flockd cannot be run: ${error.message}` });
    const late = { warn: "flockd could not be asked: it did not answer in time" };
    const timer = setTimeout(() => stop(late), timeout - GRACE_MS);
    if (abort?.aborted) return leave();
    try {
      const input = JSON.stringify(payload, plain);
      child = spawn(command, [...args, "--timeout", `${timeout}ms`], { stdio: ["pipe", "pipe", "ignore"] });
      child.on("error", fail);
      child.stdin.on("error", () => {});
      child.stdout.on("error", () => {});
      child.stdout.setEncoding("utf8");
      child.stdout.on("data", (data) => (out += data));
      child.on("exit", (code, signal) => (rest = setTimeout(() => end(parsed(out, code, signal)), GRACE_MS)));
      child.on("close", (code, signal) => end(parsed(out, code, signal)));
      abort?.addEventListener?.("abort", leave);
      child.stdin.end(input);
    } catch (error) {
      fail(error);
    }
  });
}

function register(api) {
  const settings = api.pluginConfig ?? {};
  const command = settings.command || "flockd";
  const args = ["hook", "--client", "openclaw", "--mode", settings.mode || "auto"];

  // Relative paths begin in the agent's own workspace.
  const cwd = (agentId) => {
    try {
      return api.runtime.agent.resolveAgentWorkspaceDir(api.config, agentId || "main");
    } catch {
      return process.cwd();
    }
  };

  // By session: the run whose prompt was built last and what it was told, and what is still to be told.
  const sessions = new Map();
  const about = (key) => {
    const session = sessions.get(key) ?? { id: null, untold: new Set(), more: 0 };
    sessions.delete(key);
    sessions.set(key, session);
    if (sessions.size > SESSIONS_MAX) sessions.delete(sessions.keys().next().value);
    return session;
  };

  const tell = async (name, event, context, timeout) => {
    const { abortSignal, agentId, sessionKey, sessionId } = context;
    const payload = {
      openclaw_event: name,
      sessionKey: event.sessionKey ?? sessionKey ?? "",
      sessionId: event.sessionId ?? sessionId,
      agentId,
      cwd: cwd(agentId),
      toolName: event.toolName,
      toolCallId: event.toolCallId,
      params: event.params,
    };
    const answer = await call(command, args, payload, timeout, abortSignal);
    if (answer.warn) api.logger?.warn?.(answer.warn);
    return answer;
  };

  // What is told along with a tool has no way to the model there. Losses are kept for the next prompt; who waits
  // is said anew then.
  const keep = (answer, event, context) => {
    const key = event.sessionKey ?? context.sessionKey;
    if (!answer.tell) return;
    api.logger?.info?.(answer.tell);
    if (!key) return;
    const session = about(key);
    for (const line of answer.tell.split("\n").filter((line) => !WAITS.test(line))) {
      if (session.untold.size < UNTOLD_MAX) session.untold.add(line);
      else session.more += session.untold.has(line) ? 0 : 1;
    }
  };

  // OpenClaw blocks what throws.
  const on = (name, handler, options) => {
    const safe = async (event, context) => {
      try {
        return await handler(event ?? {}, context ?? {});
      } catch (error) {
        api.logger?.warn?.(`flockd could not be asked: ${error?.message}`);
        return undefined;
      }
    };
    api.on(name, safe, options);
  };

  // OpenClaw tells of new sessions on some ways only, beside their first prompt, and takes no text for it: the first
  // prompt of a session is its begin.
  const begin = async (session, event, context) => {
    const name = session.id === context.sessionId ? "before_prompt_build" : "session_start";
    const answer = await tell(name, event, context, PROMPT_MS);
    // What could not be said when the session began is said with its next prompt.
    if (!answer.warn) session.id = context.sessionId;
    const more = session.more ? [`flockd: ${session.more} more of that kind; read what you write again.`] : [];
    // flockd tells of a loss until a prompt has told it.
    const untold = [...session.untold].filter((line) => !answer.tell?.split("\n").includes(line));
    const lines = [...(answer.tell ? [answer.tell] : []), ...untold, ...more];
    session.untold.clear();
    session.more = 0;
    return lines.join("\n");
  };

  on(
    "before_prompt_build",
    async (event, context) => {
      if (!context.sessionKey) return undefined;
      const session = about(context.sessionKey);
      // A prompt that is built anew for the same run is the one that may reach the model.
      if (!context.runId || session.run !== context.runId) {
        session.run = context.runId;
        session.said = begin(session, event, context);
      }
      const said = await session.said;
      return said ? { prependContext: said } : undefined;
    },
    { timeoutMs: PROMPT_MS },
  );

  on(
    "before_tool_call",
    async (event, context) => {
      const answer = await tell("before_tool_call", event, context, TIMEOUT_MS - 2 * GRACE_MS);
      keep(answer, event, context);
      if (answer.block) return { block: true, blockReason: answer.reason };
      return answer.params ? { params: answer.params } : undefined;
    },
    // Before others, so that nobody approves what is refused; and longer than the 15 s that are usual.
    { matcher: [...WRITERS, ...OURS.map((name) => `flockd__${name}`)], priority: 50, timeoutMs: TIMEOUT_MS },
  );

  const observe = (name, timeout, options) =>
    on(name, async (event, context) => keep(await tell(name, event, context, timeout), event, context), options);
  observe("after_tool_call", TIMEOUT_MS, { matcher: WRITERS });
  observe("agent_end", TIMEOUT_MS - GRACE_MS);
  observe("session_end", ENDING_MS);

  api.on("resolve_exec_env", (event, context) => {
    const session = event?.sessionKey ?? context?.sessionKey;
    return session ? { [SESSION]: session } : undefined;
  });
}

export default { id: "flockd", name: "flockd", description: "File locks between agents", register };
