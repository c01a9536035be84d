"""A program that behaves as llama.cpp's own server does, for machines that have none: xllamacpp serves behind it.

    PROGRAM --version | --help | --list-devices | --model FILE --port N ...

It says what `said` has (a JSON object: `version`, `help`, `devices`, each printed on standard error as some builds do),
and serves as the real one does: the key is taken from the environment, the port is told in the log. With `dies` it
prints that and exits with `code` instead, with `dies_when_asked` over the first request once the model is loaded; with
`hangs` it answers nothing; without `any_port` it cannot choose a port.
"""

from __future__ import annotations

import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

HELP = (Path(__file__).parent / "llama_server_help.txt").read_text(encoding="utf-8")


def write_program(path: Path, **said: Any) -> Path:
    """The program at `path`, which says `said`."""
    root = Path(__file__).resolve().parents[2]
    path.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(root)!r})\n"
        f"from tests.doubles.llama_server_program import main\nmain({json.dumps(said)!r})\n",
        encoding="utf-8",
    )
    path.chmod(0o755)
    return path


def main(said_json: str) -> None:
    said: dict[str, Any] = json.loads(said_json)
    arguments = sys.argv[1:]
    if "hangs" in said:
        stay()
    for option, text in (("--version", "version: 5432 (0123abc)"), ("--help", HELP), ("--list-devices", "(none)")):
        if option in arguments:
            _say(said.get(option[2:], text))
            sys.exit(said.get("exit", 0))
    if "dies" in said:
        _say(said["dies"])
        sys.exit(said["code"])
    if "dies_when_asked" in said:
        die_when_asked(said["dies_when_asked"])
    serve(dict(zip(arguments, [*arguments[1:], ""], strict=True)), said.get("any_port", True))


def serve(options: dict[str, str], any_port: bool) -> None:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = options["--model"]
    params.model_alias = {options["--alias"]}
    params.n_ctx, params.n_parallel = int(options["--ctx-size"]), int(options["--parallel"])
    params.cpuparams.n_threads = int(options["--threads"])
    params.n_ubatch = int(options["--ubatch-size"])
    params.embedding = True
    params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    params.kv_unified = True
    params.endpoint_metrics, params.ui = True, False
    params.hostnames, params.port = ["127.0.0.1"], int(options["--port"])
    params.api_keys = [os.environ["LLAMA_API_KEY"]]
    if params.port == 0 and not any_port:
        _say("main: HTTP server is listening, hostname: 127.0.0.1, port: 0, http threads: 3")
        stay()
    try:
        server = xllamacpp.Server(params)
    except RuntimeError as error:
        _say(f"srv llama_server: exiting due to model loading error: {error}")
        sys.exit(1)
    _say(f"main: server is listening on {server.listening_address} - starting the main loop")
    stay()


def die_when_asked(words: str) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path != "/health":
                _say(words)
                os._exit(1)
            self.send_response(200)
            self.end_headers()

        do_POST = do_GET  # noqa: N815 - the library's name

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    _say(f"main: server is listening on http://127.0.0.1:{server.server_port}")
    server.serve_forever()


def stay() -> None:
    """Until it is ended; not for ever, should nobody do that."""
    time.sleep(600)


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
