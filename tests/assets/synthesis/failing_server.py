"""A local server with OpenAI's protocol that fails at random, by a seed, and answers deterministically.

Whether a try fails on the way depends on the request's name and how often it was sent; what is answered depends on the
request alone. Every request is counted. `let` bounds how many answers are still given: whoever asks for more waits.
"""

import json
import random
import re
import select
import socket
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

WORDS = re.findall(
    r"\w+",
    """
    ankle swelling tender bruise walking stairs cough fever chills sputum wheeze lungs clear abdomen soft pain
    nausea vomiting headache dizzy vision blurred rash itching skin dry pulse regular pressure raised glucose
    thirst urine burning back stiff lifting knee locked clicking wound healing sutures removed dressing
    changed diet review exercise sleep poor mood low anxious appetite weight loss follow visit week month
    refill inhaler tablets nightly morning clinic report therapy brace crutches film normal fracture none
    infection culture pending referred specialist daughter helps home bath rails meals delivered oxygen
    saturation room air breathless exertion ramp ladder garden kitchen fall
    """,
)
_ASKED = re.compile(r"billing code is (ICD10|CPT|HCPCS) (\S+?)(?: \(|\.\n)")

BROKEN = ("hang", "close", "cut_body", "bad_json", "no_choices", "429", "500", "503")
"""Failures on the way: the same request is answered when it is sent again."""
WRONG = ("prose", "invalid_code", "other_code", "no_reasoning", "duplicate", "torn_json")
"""Answers that must be rejected."""


class FailingServer(ThreadingHTTPServer):
    """Answers on loopback; what it got is in `sent`, by request name."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, *, seed: int = 0, broken: float = 0.0, wrong: float = 0.0, delay_s: float = 0.0) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.seed, self.broken, self.wrong, self.delay_s = seed, broken, wrong, delay_s
        self.hang_s = 0.8
        """How long it is silent before it closes the connection."""
        self.status: int | None = None
        """Answered to everything."""
        self.retry_after: str | None = "0"
        self.takes_json_mode = True
        self.content: str | None = None
        """Answered to everything, in place of an invented answer."""
        self.usage = {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150}
        self.sent: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.times: dict[str, list[float]] = {}
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.at_once = 0
        self.most_at_once = 0
        self.lock = threading.Lock()
        self._gate = threading.Condition()
        self._left: int | None = None

    @property
    def api_base(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def __enter__(self) -> "FailingServer":
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.let(None)
        self.shutdown()
        self.server_close()

    def handle_error(self, *_: object) -> None:
        """Clients are killed as they wait."""

    def let(self, answers: int | None) -> None:
        """Give so many more answers, failures not counted; None: any number. Who asks for more waits."""
        with self._gate:
            self._left = answers
            self._gate.notify_all()

    def admits(self, connection: socket.socket) -> bool:
        """Wait until one more answer may be given; False: the client is gone, and takes none away from others."""
        with self._gate:
            self._gate.wait_for(lambda: self._left is None or self._left > 0)
            readable, _, _ = select.select([connection], [], [], 0)
            if readable and not connection.recv(1, socket.MSG_PEEK):
                return False
            if self._left is not None:
                self._left -= 1
            return True

    def failure(self, name: str, tries: int) -> str | None:
        draw = random.Random(f"{self.seed} {name} {tries}")
        return draw.choice(BROKEN) if tries < 4 and draw.random() < self.broken else None

    def answer(self, name: str, body: dict[str, Any]) -> str:
        if self.content is not None:
            return self.content
        draw = random.Random(f"answer {self.seed} {name}")
        wrong = draw.choice(WRONG) if draw.random() < self.wrong else None
        return _answer(wrong, body["messages"][-1]["content"], draw)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FailingServer

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = self.headers["X-Medcode-Request"]
        server = self.server
        with server.lock:
            tries = server.sent[name]
            server.sent[name] += 1
            server.times.setdefault(name, []).append(time.monotonic())
            server.bodies.append(body)
            server.keys.append(self.headers["Authorization"])
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
        time.sleep(server.delay_s)
        try:
            self._respond(name, tries, body)
        finally:
            with server.lock:
                server.at_once -= 1

    def _respond(self, name: str, tries: int, body: dict[str, Any]) -> None:
        server = self.server
        if not server.takes_json_mode and "response_format" in body:
            return self._send(400, b'{"error": {"message": "unknown field response_format"}}')
        if server.status is not None:
            return self._send(server.status, b'{"error": {"message": "no"}}')
        failure = server.failure(name, tries)
        if failure is None:
            if not server.admits(self.connection):
                self.close_connection = True
                return None
            return self._send(200, json.dumps(_completion(server.answer(name, body), server.usage)).encode())
        with server.lock:
            server.failures[failure] += 1
        return self._fail(failure, json.dumps(_completion(server.answer(name, body), server.usage)).encode())

    def _fail(self, failure: str, whole: bytes) -> None:
        if failure.isdigit():
            self._send(int(failure), b'{"error": {"message": "not now"}}')
        elif failure == "bad_json":
            self._send(200, whole[: len(whole) // 2])
        elif failure == "no_choices":
            self._send(200, b'{"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": []}')
        else:
            self.close_connection = True
            if failure == "hang":
                time.sleep(self.server.hang_s)
            elif failure == "cut_body":
                self._head(200, len(whole))
                self.wfile.write(whole[: len(whole) // 2])

    def _send(self, status: int, content: bytes) -> None:
        self._head(status, len(content))
        self.wfile.write(content)

    def _head(self, status: int, length: int) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(length))
        if status in (429, 503) and self.server.retry_after is not None:
            self.send_header("Retry-After", self.server.retry_after)
        self.end_headers()


def _completion(content: str, usage: dict[str, int]) -> dict[str, Any]:
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}
    return {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}


def _answer(wrong: str | None, prompt: str, draw: random.Random) -> str:
    asked = _ASKED.search(prompt)
    assert asked, prompt
    words = draw.choices(WORDS, k=30) if wrong != "duplicate" else WORDS[:30]
    narrative = f"Patient seen: {' '.join(words)}."
    reply = {
        "narrative": narrative,
        "reasoning": [" ".join(words[:6]), "- " + " ".join(words[8:14])],
        "code": asked[2],
        "rejected_reasoning": ["looks like something common"],
        "rejected_code": asked[2],
    }
    if wrong == "invalid_code":
        reply["code"] = "QQ9.99"
    elif wrong == "other_code":
        reply["code"] = "I10" if asked[2] != "I10" else "E11.9"
    elif wrong == "no_reasoning":
        reply["reasoning"] = []
    text = json.dumps(reply)
    if wrong == "prose":
        return "I am sorry, but I cannot write this."
    if wrong == "torn_json":
        return text[: len(text) // 2]
    return draw.choice([text, f"```json\n{text}\n```", f"Here it is:\n{text}\nAnything else?"])
