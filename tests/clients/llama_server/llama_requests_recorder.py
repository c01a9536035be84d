"""A plugin for pytest under which llama.cpp's own server tests only ask: each request and its answer is written down.

    RECORD=FILE REFERENCE=URL python -O -m pytest -p llama_requests_recorder --assert=plain unit/test_completion.py

Their servers all are the one at REFERENCE, behind a proxy that writes. What their own tiny models would answer is
nobody's business here, so `-O` leaves their assertions out.
"""

from __future__ import annotations

import http.client
import json
import os
import threading
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import utils  # llama.cpp's

REFERENCE = urlsplit(os.environ["REFERENCE"])
ANSWER_S = 60.0
_SENT = ("content-type", "accept")


class Proxy(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    test = ""  # that runs now
    writing = threading.Lock()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class calls it that
        """Nothing: what is asked is in the record."""

    def pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        reference = http.client.HTTPConnection(REFERENCE.hostname or "", REFERENCE.port, timeout=ANSWER_S)
        headers = {name: value for name, value in self.headers.items() if name.lower() in _SENT}
        reference.request(self.command, self.path, body, headers)
        answer = reference.getresponse()
        data = answer.read()
        reference.close()
        line = {
            "test": Proxy.test,
            "method": self.command,
            "path": self.path,
            "body": body.decode("utf-8", "replace"),
            "status": answer.status,
        }
        with Proxy.writing, Path(os.environ["RECORD"]).open("a") as record:
            record.write(json.dumps(line) + "\n")
        self.send_response(answer.status)
        self.send_header("content-type", answer.headers.get("content-type") or "text/plain")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_DELETE = do_OPTIONS = pass_on  # noqa: N815 - http.server's names


def pytest_configure() -> None:
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()

    def start(server: utils.ServerProcess, timeout_seconds: float = 0) -> None:
        server.server_host, server.server_port = "127.0.0.1", proxy.server_port

    utils.ServerProcess.start = start
    utils.ServerProcess.stop = lambda server: None
    utils.ServerPreset.load_all = staticmethod(lambda: None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    Proxy.test = item.nodeid
    return (yield)
