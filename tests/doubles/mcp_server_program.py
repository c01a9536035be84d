"""An MCP server of others, for tests: a program of the standard library alone, so that it runs in a sandbox.

Its argument is JSON: `era` "old", "new" or "both", and how it misbehaves. One message a line on its input and output.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

NEW = "2026-07-28"
VERSION_KEY = "io.modelcontextprotocol/protocolVersion"
SCHEMA = {"type": "object", "properties": {"text": {"type": "string", "description": "what to say"}}}
TOLD = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}
ERA = TOLD.get("era", "old")
cancelled: list[Any] = []
asked: list[str] = []
tools: list[dict[str, Any]] = TOLD.get("tools") or [
    {"name": "echo", "description": "Say it again.", "inputSchema": SCHEMA, "annotations": {"readOnlyHint": True}},
    {"name": "see", "description": "What is there.", "inputSchema": SCHEMA},
    {"name": "hang", "description": "Never answer.", "inputSchema": SCHEMA},
    {"name": "die", "description": "End.", "inputSchema": SCHEMA},
    {"name": "flood", "description": "Say too much.", "inputSchema": SCHEMA},
    {"name": "long", "description": "Say a very long line.", "inputSchema": SCHEMA},
    {"name": "rubbish", "description": "Say what is no message.", "inputSchema": SCHEMA},
    {"name": "grow", "description": "Have one tool more.", "inputSchema": SCHEMA},
    {"name": "fail", "description": "Fail.", "inputSchema": SCHEMA},
    {"name": "refuse", "description": "Refuse arguments.", "inputSchema": SCHEMA},
    {"name": "ask", "description": "Ask the client.", "inputSchema": SCHEMA},
    {"name": "seen", "description": "What was asked so far.", "inputSchema": SCHEMA},
    {"name": "large", "description": "A large text.", "inputSchema": SCHEMA},
    {"name": "dotted.name/x", "description": "A name that APIs refuse.", "inputSchema": SCHEMA},
]


def send(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


def answer(message: dict[str, Any], result: dict[str, Any], new: bool) -> None:
    send({"id": message["id"], "result": {"resultType": "complete", **result} if new else result})


def refuse(message: dict[str, Any], code: int, words: str) -> None:
    send({"id": message["id"], "error": {"code": code, "message": words}})


def said(text: str, **more: Any) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": text}], **more}


def is_reached(path: str) -> bool:
    try:
        Path(path).read_bytes()
    except OSError:
        return False
    return True


def is_connected(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def is_written(path: str) -> bool:
    try:
        Path(path).write_text("x")
    except OSError:
        return False
    return True


def call(message: dict[str, Any], new: bool) -> None:
    name, arguments = message["params"]["name"], message["params"].get("arguments", {})
    text = arguments.get("text", "")
    match name:
        case "echo" | "dotted.name/x" | "another":
            answer(message, said(text), new)
        case "see":
            wanted = json.loads(text)
            found = {
                "variables": sorted(os.environ),
                "folder": str(Path.cwd()),
                "read": {path: is_reached(path) for path in wanted.get("read", [])},
                "connected": {str(port): is_connected(port) for port in wanted.get("ports", [])},
                "written": {path: is_written(path) for path in wanted.get("write", [])},
                "value": os.environ.get(wanted.get("value", ""), None),
                "pid": os.getpid(),
            }
            answer(message, said(json.dumps(found)), new)
        case "hang":
            if text == "all":
                signal.pause()
        case "die":
            sys.stderr.write("\x1b[31mit cannot go on\x1b[0m\n")
            sys.stderr.flush()
            os._exit(3)
        case "flood":
            while True:
                send({"method": "notifications/message", "params": {"level": "info", "data": "x"}})
        case "long":
            sys.stdout.write("[" * (16 << 20))
            sys.stdout.flush()
        case "rubbish":
            while True:
                sys.stdout.write("this is no message\n")
        case "grow":
            tools.append({"name": "another", "description": "One more.", "inputSchema": SCHEMA})
            answer(message, said("grown"), new)
            send({"method": "notifications/tools/list_changed"})
        case "fail":
            answer(message, said("it failed", isError=True), new)
        case "refuse":
            refuse(message, -32602, "`text` must be\u202e another")
        case "ask":
            send({"id": "a", "method": "ping"})
            send({"id": "b", "method": "sampling/createMessage", "params": {}})
            heard = [json.loads(sys.stdin.readline()) for _ in range(2)]
            answer(message, said(json.dumps(heard, sort_keys=True)), new)
        case "seen":
            answer(message, said(json.dumps({"asked": asked, "cancelled": cancelled})), new)
        case "large":
            answer(message, said("\x1b[1m" + "x" * (1 << 20) + "\x1b[0mend"), new)
        case _:
            refuse(message, -32602, f"Unknown tool: {name}")


def take(message: dict[str, Any]) -> None:
    method, params = message.get("method"), message.get("params", {})
    asked.append(str(method))
    if method == "notifications/cancelled":
        cancelled.append(params["requestId"])
        return
    if "id" not in message:
        return
    new = params.get("_meta", {}).get(VERSION_KEY) == NEW and method != "initialize"
    if new and TOLD.get("ends_over_discover"):
        os._exit(9)
    if new and TOLD.get("silent_over_discover"):
        return
    if new and ERA == "old":
        refuse(message, -32601, f"no method {method}")
    elif method == "server/discover":
        answer(message, {"supportedVersions": [NEW], "capabilities": {"tools": {}}}, new)
    elif method == "initialize":
        if ERA == "new":
            refuse(message, -32022, "only the new era")
            return
        revision = TOLD.get("revision", params["protocolVersion"])
        answer(message, {"protocolVersion": revision, "capabilities": {"tools": {}}, "serverInfo": {}}, new)
    elif method == "ping":
        answer(message, {}, new)
    elif method == "tools/list":
        at = int(params.get("cursor", 0))
        size = TOLD.get("page", 1000)
        more = {"nextCursor": str(at + size)} if at + size < len(tools) else {}
        answer(message, {"tools": tools[at : at + size], **more}, new)
    elif method == "tools/call":
        call(message, new)
    else:
        refuse(message, -32601, f"no method {method}")


def main() -> None:
    if "greeting" in TOLD:
        sys.stdout.write(TOLD["greeting"] + "\n")
    if TOLD.get("does_not_start"):
        sys.stderr.write("ImportError: no module named left_pad\n")
        sys.exit(1)
    if TOLD.get("never_answers"):
        signal.pause()
    for line in sys.stdin:
        take(json.loads(line))


if __name__ == "__main__":
    main()
