"""A package index on loopback with one wheel, and the host that has its file, which fail on demand."""

from __future__ import annotations

import hashlib
import io
import json
import random
import re
import threading
import zipfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from swarm.registry.catalogue import Catalogue, CatalogueChoice, CatalogueEntry, Variant, Wheel
from swarm.registry.package_index import IndexClient
from swarm.registry.wheel import TAIL_BYTES

PACKAGE, VERSION = "small-model", "1.2"
WHEEL_NAME = "small_model-1.2-py3-none-any.whl"
MEMBER = "small_model/Small-Q4_1.gguf"
# A header that reads as a GGUF's without anything in it, then what compresses by half.
CONTENT = b"GGUF" + (3).to_bytes(4, "little") + bytes(16) + random.Random(1).randbytes(300_000).hex().encode()


def wheel_of(
    content: bytes = CONTENT, how: int = zipfile.ZIP_DEFLATED, member: str = MEMBER, comment: bytes = b""
) -> bytes:
    """A wheel with `content` in the middle."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", how) as archive:
        archive.writestr("small_model/__init__.py", "raise SystemExit('nothing of a package is run')\n" * 1000)
        archive.writestr(member, content)
        archive.writestr("small_model-1.2.dist-info/METADATA", "Name: small-model\n")
        archive.comment = comment
    return file.getvalue()


def choice_of(wheel: bytes, content: bytes = CONTENT, **changed: object) -> CatalogueChoice:
    """The model in `wheel`, as a catalogue would have it."""
    pinned = Wheel(
        package=PACKAGE,
        version=VERSION,
        file=WHEEL_NAME,
        sha256=hashlib.sha256(wheel).hexdigest(),
        size_bytes=len(wheel),
        member=MEMBER,
        licence="MIT",
    ).model_copy(update=changed)
    variant = Variant(
        quant="q4_1",
        format="gguf",
        repo=None,
        file="Small-Q4_1.gguf",
        sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
        wheel=pinned,
    )
    entry: CatalogueEntry = Catalogue.load().models[-1]
    return CatalogueChoice(entry.model_copy(update={"variants": (variant,)}), variant)


@dataclass
class FakeIndex:
    """`wheel` is what it has; the rest is what goes wrong, and what it was asked."""

    wheel: bytes = field(default_factory=wheel_of)
    announced: str | None = ""  # the sha256 that it tells: of the wheel; None: it tells none
    kind: str = "application/vnd.pypi.simple.v1+json"
    page: bytes | None = None  # instead of the list of files
    status: int = 200  # of the page
    file_statuses: list[int] = field(default_factory=list)  # of the next answers of the file's host
    file_kind: str = "application/octet-stream"
    redirects: bool = False
    ranges: bool = True
    shifted: bool = False  # other ranges come than were asked for
    cuts: list[int] = field(default_factory=list)  # bytes after which the next bodies break off
    cut_rest: bool = False  # every body after those breaks off before its first byte
    asked: list[str] = field(default_factory=list)  # "path [range]"
    authorized: list[str] = field(default_factory=list)  # "path authorization"
    sent_bytes: int = 0  # of the wheel
    url: str = ""
    host: str = ""  # of the files

    @property
    def sha256(self) -> str | None:
        return hashlib.sha256(self.wheel).hexdigest() if self.announced == "" else self.announced

    @property
    def bodies(self) -> list[str]:
        return [line.partition(" ")[2] for line in self.asked if WHEEL_NAME in line]

    def listing(self) -> bytes:
        where = f"{self.host}/files/{WHEEL_NAME}"
        if self.page is not None:
            return self.page
        if self.kind.endswith("html"):
            fragment = f"#sha256={self.sha256}" if self.sha256 else ""
            return f'<!DOCTYPE html><a href="/other.whl">x</a><a href="{where}{fragment}">{WHEEL_NAME}</a>'.encode()
        hashes = {"sha256": self.sha256} if self.sha256 else {}
        files = [{"filename": "other.whl", "url": "../o.whl", "hashes": {}}]
        return json.dumps({"files": [*files, {"filename": WHEEL_NAME, "url": where, "hashes": hashes}]}).encode()


def handler_of(index: FakeIndex) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
            pass

        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            index.asked.append(f"{self.path}" + (f" {wanted}" if wanted else ""))
            if authorization := self.headers.get("Authorization"):
                index.authorized.append(f"{self.path} {authorization}")
            if self.path == f"/simple/{PACKAGE}/":
                self.answer(index.status, index.listing(), {"Content-Type": index.kind})
            elif self.path == f"/files/{WHEEL_NAME}" and index.redirects:
                self.answer(302, b"", {"Location": f"{index.host}/stored/{WHEEL_NAME}"})
            elif self.path in (f"/files/{WHEEL_NAME}", f"/stored/{WHEEL_NAME}"):
                self.file(wanted)
            else:
                self.answer(404, b"", {})

        def file(self, wanted: str | None) -> None:
            status = index.file_statuses.pop(0) if index.file_statuses else 200
            if status != 200:
                self.answer(status, b"", {})
                return
            match = re.fullmatch(r"bytes=(\d+)-(\d+)", wanted or "")
            start, end = (int(match[1]), int(match[2]) + 1) if match and index.ranges else (0, len(index.wheel))
            headers = {"Content-Type": index.file_kind}
            if match and index.ranges:
                headers["Content-Range"] = f"bytes {start + index.shifted}-{end - 1}/{len(index.wheel)}"
            body = index.wheel[start:end]
            is_tail = start == len(index.wheel) - TAIL_BYTES  # the table of contents comes whole
            cut = None if is_tail else index.cuts.pop(0) if index.cuts else 0 if index.cut_rest else None
            self.answer(206 if "Content-Range" in headers else 200, body, headers, cut)

        def answer(self, status: int, body: bytes, headers: dict[str, str], cut: int | None = None) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            sent = body if cut is None else body[:cut]
            if WHEEL_NAME in self.path:
                index.sent_bytes += len(sent)  # before anybody can have them all
            self.wfile.write(sent)
            if cut is not None:
                self.close_connection = True

    return Handler


@contextmanager
def serving(index: FakeIndex) -> Generator[FakeIndex]:
    """The index, and as another host that of the files."""
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler_of(index)) for _ in range(2)]
    threads = [threading.Thread(target=server.serve_forever, args=(0.02,)) for server in servers]
    for thread in threads:
        thread.start()
    index.url, index.host = (
        f"http://127.0.0.1:{servers[0].server_port}/simple",
        f"http://127.0.0.1:{servers[1].server_port}",
    )
    try:
        yield index
    finally:
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            server.server_close()
            thread.join()


def in_pieces(monkeypatch: pytest.MonkeyPatch, most_bytes: int) -> None:
    """What comes from an index comes in pieces of so many bytes."""
    read = IndexClient.read
    monkeypatch.setattr(
        IndexClient, "read", lambda client, response, size: read(client, response, min(size, most_bytes))
    )
