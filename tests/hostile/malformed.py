"""What a hostile peer says: honest messages that were damaged, in values, in bytes and in how HTTP frames them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from federation.file_exchange import PIECE_BYTES
from tests.doubles.damage import damaged_bodies

USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 1}}
LOGPROBS = {"content": [{"token": "a", "logprob": -0.5, "top_logprobs": [{"token": "b", "logprob": -1}]}]}
CALL = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
SHA256 = "ab" * 32

NODE: dict[str, Any] = {
    "id": "id-attic", "name": "attic", "version": "0.1.0", "protocol": 1, "url": "http://127.0.0.1:1", "mode": "open",
    "models": [{"id": "m", "context_tokens": 4096, "params": 9, "slots": 2, "slots_free": 1, "tokens_per_s": 5.5,
                "fingerprint": SHA256, "state": "ready", "sha256": None}],
    "slots_free": 1, "draining": False, "hardware": {"cpu": "x", "cores": 4}, "instance": "run-1", "roster": None,
    "loadable": "5",
}  # fmt: skip
PEERS: dict[str, Any] = {"peers": [{"id": "id-study", "name": "study", "host": "192.168.1.9", "port": 17615}]}
LOADABLE: dict[str, Any] = {
    "models": [
        {
            "id": "qwen3:4b", "fingerprint": SHA256, "sha256": None, "size_bytes": 5, "params": 9, "context_tokens": 96,
            "slots": 3, "tools": True, "load_s": 1.5, "prefill_tokens_per_s": None, "state": "available", "fits": True,
            "also": ["a", "b"],
        }
    ],
    "left_out": 5,
}  # fmt: skip
ROSTER: dict[str, Any] = {
    "swarm": "0123456789abcdef",
    "entries": [{"id": "id-study", "epoch": 2, "certificate": None, "name": "study", "places": PEERS["peers"]}],
}
FILES: dict[str, Any] = {"files": [{"sha256": SHA256, "size_bytes": 5, "name": "owner/repo/model.gguf"}]}
PIECES: dict[str, Any] = {"size_bytes": PIECE_BYTES + 5, "piece_bytes": PIECE_BYTES, "pieces": [SHA256, SHA256]}
CANDIDATE: dict[str, Any] = {
    "voter": "Rex@attic", "node": "attic", "model": "m", "text": "hello", "reasoning": "hm", "finish_reason": "stop",
    "tool_calls": [{"id": "c", "name": "f", "arguments": "{}"}], "usage": USAGE, "elapsed_ms": 5, "mean_logprob": -0.5,
    "logprobs": LOGPROBS,
}  # fmt: skip
STEP: dict[str, Any] = {"leader": {"text": "he", "reasoning": "", "logprobs": LOGPROBS}}
REFUSAL: dict[str, Any] = {
    "error": {"message": "no", "code": "context_length_exceeded", "n_prompt_tokens": 9, "n_ctx": 5}
}
BUSY: dict[str, Any] = {"error": {"message": "full", "code": "unavailable", "retry_after_s": 3}}
CHUNK: dict[str, Any] = {
    "id": "x",
    "choices": [
        {
            "index": 0,
            "delta": {"role": "assistant", "content": "he", "reasoning_content": "", "tool_calls": [CALL]},
            "finish_reason": None,
            "logprobs": LOGPROBS,
        }
    ],
}
LAST_CHUNK: dict[str, Any] = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": USAGE}
UTILITIES: dict[str, tuple[Any, ...]] = {
    "tokenize": ({"ids": [1, 2], "pieces": ["a", [200]]},),
    "detokenize": ("text",),
    "apply-template": ("text",),
    "count-tokens": (7,),
    "embeddings": ({"vectors": [[0.5, 0.25]], "prompt_tokens": 3},),
    "rerank": ({"scores": [0.5], "prompt_tokens": 3},),
    "props": ({"slots": 2, "context_tokens": 9, "tools": True, "chat_template": "x"},),
}

ODD_BYTES: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    lambda _, raw: raw.decode("utf-8", "replace").encode("utf-16"),
    lambda _, raw: b"\xef\xbb\xbf" + raw,
    lambda _, raw: raw.replace(b"e", b"\xff"),
    lambda _, raw: raw.replace(b"a", b"\xed\xa0\x80"),  # half of a surrogate pair, as no UTF-8 has it
    lambda _, raw: raw.replace(b"a", b"\xc0\xaf"),  # an overlong slash
    lambda _, raw: raw.replace(b'"', b"\x00"),
    lambda _, raw: raw.replace(b"{", b'{"id":5,"index":1,"text":[],"id":{},', 1),  # keys twice
    lambda _, raw: raw[:-1] + b"," + raw[1:],
    lambda _, raw: raw + raw,
    lambda _, raw: raw.replace(b":", b":\n", 3),
    lambda _, raw: raw.replace(b":", b":NaN,", 1),
    lambda _, raw: raw.replace(b"1", b"-Infinity").replace(b"5", b"1e999"),
    lambda _, raw: raw.replace(b"5", b"9" * 5000, 9).replace(b"3", b"0x10"),
    lambda source, raw: raw[: source.randrange(len(raw) + 1)],
    lambda source, raw: b"[" * source.choice((100, 500, 990, 100_000)) + raw,
    lambda source, raw: b'{"a":' * source.choice((100, 500, 990, 50_000)) + raw,
    lambda _, raw: b" " * 300_000 + raw,
    lambda _, raw: raw.replace(b"a", b"a" * 40_000, 3),
    lambda source, _: source.randbytes(source.randrange(200)),
    lambda _, __: b"",
)


def messages(seed: int, *honest: Any) -> Iterator[bytes]:
    """Endlessly many versions of `honest` messages: damaged in their values, and half of them in their bytes."""
    source = random.Random(seed)
    for raw in damaged_bodies(seed, honest, {}):
        yield source.choice(ODD_BYTES)(source, raw) if source.randrange(2) else raw


def cut_up(source: random.Random, raw: bytes) -> list[bytes]:
    """`raw` in pieces, as a network delivers it."""
    cuts = sorted(source.randrange(len(raw) + 1) for _ in range(source.randrange(4)))
    return [raw[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(raw)], strict=True)]


JSON_TYPE: Mapping[str, str] = {"Content-Type": "application/json"}


def answer(body: bytes, status: str = "200 OK", headers: Mapping[str, str] = JSON_TYPE, length: object = None) -> bytes:
    """One HTTP answer. `length` is what it claims, the truth by default."""
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {text}" for name, text in headers.items())]
    claimed = len(body) if length is None else length
    return "\r\n".join([*lines, f"Content-Length: {claimed}", "Connection: close", "", ""]).encode("latin-1") + body


def chunked(body: bytes, size: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + size + b"\r\n" + body + b"\r\n"


FRAMES: tuple[Callable[[bytes], bytes], ...] = (
    answer,
    answer,
    answer,
    lambda body: answer(body, length=len(body) + 9),  # the end is missing
    lambda body: answer(body, length=max(0, len(body) - 9)),
    lambda body: answer(body, length=-5),
    lambda body: answer(body, length="9" * 30),
    lambda body: answer(body, length="5, 6"),
    lambda body: answer(body, "206 Partial Content", {"Content-Range": "bytes 0-4/5"}),
    lambda body: answer(body, headers={"Content-Type": "text/html"}),
    lambda body: answer(body, headers={"Content-Type": "application/json; charset=nonsense"}),
    lambda body: answer(body, headers={"Content-Type": "\x01\x02;;;=,"}),
    lambda body: answer(body, headers={}),
    lambda body: answer(body, headers={**JSON_TYPE, "Content-Encoding": "gzip"}),
    lambda body: answer(body, headers={**JSON_TYPE, "Content-Encoding": "rot13"}),
    lambda body: answer(body, headers={**JSON_TYPE, "X-Large": "x" * 20_000}),
    lambda body: answer(body, headers={**JSON_TYPE, **{f"X-{number}": "x" for number in range(300)}}),
    lambda body: answer(body, headers={**JSON_TYPE, "X-Odd": "a\r\n folded\x00"}),
    lambda body: answer(body, headers={**JSON_TYPE, "Set-Cookie": "a=b; Domain=.; Path=../.."}),
    lambda body: answer(body, "302 Found", {"Location": "file:///etc/passwd"}),
    lambda body: answer(body, "500 No"),
    lambda body: answer(body, "503 Busy", {**JSON_TYPE, "Retry-After": "-1e9"}),
    lambda body: answer(body, "404 Not Found"),
    lambda body: answer(body, "99999 Odd"),
    lambda body: answer(body, "-1 Odd"),
    lambda body: answer(body, "204 No Content"),
    lambda body: b"HTTP/1.1 100 Continue\r\n\r\n" * 50 + answer(body),
    lambda body: b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n" + body,
    lambda body: chunked(body, b"%x" % len(body)) + b"0\r\n\r\n",
    lambda body: chunked(body, b"%x" % len(body)),  # the last chunk is missing
    lambda body: chunked(body, b"-5"),
    lambda body: chunked(body, b"f" * 40),
    lambda body: chunked(body, b"5;x=" + b"y" * 9000),
    lambda body: body,
    lambda _: b"",
    lambda _: b"\x16\x03\x01\x02\x00\x01\x00",
    lambda _: b"HTTP/9.9 200 OK\r\n\r\n",
    lambda _: b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked, chunked\r\nContent-Length: 3\r\n\r\nabc",
)

# Ten thousand messages in all; each test counts its own.
PARSED, OVER_SOCKETS, THROUGH_A_NODE, REQUESTS = 6750, 1250, 300, 1700
ROUNDS = 50  # Hypothesis gives each a seed, the same ones in every run
