"""Receives webhooks of a real daemon and has each judged by the standardwebhooks package, which is not ours.

Usage: webhooks.py FLOCKD; FLOCKD_HOME is the home to use. Fails with a sentence if anything is not as it should be.
"""

import json
import os
import queue
import subprocess
import sys
import tempfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

WITHIN = 60  # seconds; a guard, no measurement
posts = queue.Queue()


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        posts.put((dict(self.headers), body))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


def flockd(*arguments):
    environment = {**os.environ, "FLOCKD_AGENT": "claw-456"}
    done = subprocess.run([sys.argv[1], *arguments], env=environment, capture_output=True, text=True, timeout=WITHIN)
    if done.returncode != 0:
        sys.exit(f"flockd {' '.join(arguments)} ended with {done.returncode}: {done.stderr}")
    return done.stdout


def is_refused(judge, body, headers):
    try:
        judge.verify(body, headers)
    except WebhookVerificationError:
        return True
    return False


def main():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/hook"
    added = json.loads(flockd("webhook", "add", url, "--json"))
    judge = Webhook(added["secret"])
    with tempfile.TemporaryDirectory() as place:
        scope = os.path.join(place, "data \u00fc.json")
        flockd("lock", scope, "--note", "a \u201cquoted\u201d note")
        flockd("unlock", scope)
    flockd("webhook", "test", added["webhook_id"])
    names = []
    for _ in range(3):
        headers, body = posts.get(timeout=WITHIN)
        payload = judge.verify(body, headers)
        names.append(payload["event"])
        if payload["type"] != payload["event"] or payload["id"] != headers["webhook-id"]:
            sys.exit(f"type, event and id do not agree: {payload}, {headers}")
        if not is_refused(judge, body + b" ", headers):
            sys.exit("a changed body was accepted: this judge judges nothing")
        if not is_refused(judge, body, {**headers, "webhook-id": "ev_0"}):
            sys.exit("a changed id was accepted: this judge judges nothing")
    flockd("webhook", "rm", added["webhook_id"])
    if sorted(names) != ["lock.acquired", "lock.released", "webhook.test"]:
        sys.exit(f"these came: {names}")
    print("3 posts verified by standardwebhooks, 6 forgeries refused")


main()
