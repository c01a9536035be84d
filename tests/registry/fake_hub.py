"""A model hub on loopback that speaks as much of the real one's protocol as downloads need, and fails on demand."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

COMMIT = "c0ffee" + "0" * 34


@dataclass
class Upload:
    """One file of a repository: `large` ones are served like LFS files, by another host and with a sha256."""

    content: bytes
    large: bool = True
    served: bytes | None = None  # what is really sent, where that is not what was announced
    etag: str | None = None

    @property
    def hash(self) -> str:
        if self.etag is not None:
            return self.etag
        if self.large:
            return hashlib.sha256(self.content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()


@dataclass
class Portal:
    """What a network answers everything with until somebody logs in; `after_asking` only the files themselves."""

    content: bytes
    kind: str = "text/html"
    after_asking: bool = False


@dataclass
class Hub:
    """The fake hub: `repos` is what it has; the rest is what goes wrong, and what it was asked."""

    repos: dict[str, dict[str, Upload]] = field(default_factory=dict)
    cuts: list[int] = field(default_factory=list)  # bytes after which the next bodies break off, one per body
    cut_rest: bool = False  # every body after those breaks off before its first byte
    ignores_ranges: bool = False
    answers: dict[str, tuple[int, str]] = field(default_factory=dict)  # repo -> status and X-Error-Code
    asked: list[str] = field(default_factory=list)  # "METHOD path [range]"
    encodings: set[str] = field(default_factory=set)  # that bodies were asked for in
    authorized: list[str] = field(default_factory=list)  # paths that came with a token
    portal: Portal | None = None  # answers instead
    url: str = ""
    storage_url: str = ""

    def put(self, repo: str, file: str, upload: Upload) -> None:
        self.repos.setdefault(repo, {})[file] = upload

    @property
    def ranges(self) -> list[str]:
        return [line.partition("bytes=")[2] for line in self.asked if "bytes=" in line]

    @property
    def bodies(self) -> int:
        return sum(line.startswith("GET /stored/") for line in self.asked)


def handler_of(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
            pass

        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            self.answer()

        def answer(self) -> None:
            wanted = self.headers.get("Range")
            hub.asked.append(f"{self.command} {self.path}" + (f" {wanted}" if wanted else ""))
            if self.headers.get("Authorization"):
                hub.authorized.append(self.path)
            portal = hub.portal
            if portal is not None and (not portal.after_asking or (self.command == "GET" and "/api/" not in self.path)):
                self.empty(200, {"Content-Type": portal.kind} if portal.kind else {}, len(portal.content))
                if self.command == "GET":
                    self.wfile.write(portal.content)
                return
            if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)", self.path.partition("?")[0]):
                self.model_info(match[1])
            elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path):
                self.resolve(match[1], match[3])
            elif match := re.fullmatch(r"/stored/([^/]+/[^/]+)/(.+)", self.path):
                self.body(hub.repos[match[1]][match[2]])
            else:
                self.empty(200 if self.path in ("/", "/api/models?limit=1") else 404)

        def model_info(self, repo: str) -> None:
            if self.refused(repo):
                return
            siblings = [{"rfilename": file} for file in hub.repos[repo]]
            body = json.dumps({"id": repo, "sha": COMMIT, "siblings": siblings}).encode()
            self.empty(200, {"Content-Type": "application/json"}, len(body))
            self.wfile.write(body)

        def resolve(self, repo: str, file: str) -> None:
            if self.refused(repo):
                return
            upload = hub.repos[repo].get(file)
            if upload is None:
                self.empty(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
                return
            if not upload.large:
                self.body(upload)
                return
            headers = {"X-Repo-Commit": COMMIT, "Location": f"{hub.storage_url}/stored/{repo}/{file}"}
            headers |= {"X-Linked-Etag": f'"{upload.hash}"', "X-Linked-Size": str(len(upload.content))}
            self.empty(302, headers)

        def refused(self, repo: str) -> bool:
            status, code = hub.answers.get(repo, (200 if repo in hub.repos else 404, "RepoNotFound"))
            if status != 200:
                self.empty(status, {"X-Error-Code": code})
            return status != 200

        def body(self, upload: Upload) -> None:
            content = upload.content if upload.served is None else upload.served
            match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
            start = int(match[1]) if match and not hub.ignores_ranges else 0
            headers = {"ETag": f'"{upload.hash}"', "X-Repo-Commit": COMMIT}
            if start:
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            rest = content[start:]
            self.empty(206 if start else 200, headers, len(rest))
            if self.command == "HEAD":
                return
            hub.encodings.add(self.headers.get("Accept-Encoding") or "")
            cut = hub.cuts.pop(0) if hub.cuts else 0 if hub.cut_rest else None
            self.wfile.write(rest if cut is None else rest[:cut])
            if cut is not None:
                self.close_connection = True

        def empty(self, status: int, headers: dict[str, str] | None = None, length: int = 0) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(length))
            self.end_headers()

    return Handler
