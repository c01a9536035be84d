"""An index of packages on this machine, with stand-ins that a test makes: what pip and `swarm engines install` ask."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import threading
import zipfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BACKEND = """\
def prepare_metadata_for_build_wheel(folder, settings=None):
    import pathlib
    made = pathlib.Path(folder, "{stem}.dist-info")
    made.mkdir()
    (made / "METADATA").write_text("Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n")
    return made.name
"""


def wheel(name: str, version: str, files: Mapping[str, str | bytes], tag: str = "py3-none-any") -> tuple[str, bytes]:
    """A wheel's file name and its bytes."""
    stem = f"{name.replace('-', '_')}-{version}"
    inside = {
        **files,
        f"{stem}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{stem}.dist-info/WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: false\nTag: {tag}\n",
    }
    record = "".join(f"{path},,\n" for path in (*inside, f"{stem}.dist-info/RECORD"))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for path, content in {**inside, f"{stem}.dist-info/RECORD": record}.items():
            archive.writestr(path, content)
    return f"{stem}-{tag}.whl", out.getvalue()


def source(name: str, version: str, files: Mapping[str, str]) -> tuple[str, bytes]:
    """A package of source that pip can look into without any other: its file name and its bytes."""
    stem = f"{name.replace('-', '_')}-{version}"
    toml = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    backend = BACKEND.format(stem=stem, name=name, version=version)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for path, content in {**files, "pyproject.toml": toml, "backend.py": backend}.items():
            entry = tarfile.TarInfo(f"{stem}/{path}")
            entry.size, entry.mode = len(content.encode()), 0o644
            archive.addfile(entry, io.BytesIO(content.encode()))
    return f"{stem}.tar.gz", out.getvalue()


@dataclass
class WheelIndex:
    """Serves `files` by the folder of the index and the project. `asked` are the paths that were asked for.

    With a `status` other than 200 every page is that error; `hangs` until it is closed; `wrong_hash`: what a page says
    of a file is not true; `as_json` in the newer form, which gives sizes.
    """

    files: dict[tuple[str, str], list[tuple[str, bytes]]] = field(default_factory=dict)
    status: int = 200
    hangs: bool = False
    hangs_in_files: bool = False
    wrong_hash: bool = False
    as_json: bool = False
    url: str = ""
    asked: list[str] = field(default_factory=list)
    reached: threading.Event = field(default_factory=threading.Event)  # something hangs now
    over: threading.Event = field(default_factory=threading.Event)

    def add(self, folder: str, project: str, file: tuple[str, bytes]) -> None:
        self.files.setdefault((folder, project), []).append(file)

    def page(self, folder: str, project: str) -> tuple[str, str] | None:
        files = self.files.get((folder, project))
        if files is None:
            return None
        listed = [
            (
                name,
                f"../../../files/{name}",
                "0" * 64 if self.wrong_hash else hashlib.sha256(content).hexdigest(),
                content,
            )
            for name, content in files
        ]
        if self.as_json:
            entries = [
                {"filename": name, "url": url, "hashes": {"sha256": digest}, "size": len(content)}
                for name, url, digest, content in listed
            ]
            return json.dumps({"meta": {"api-version": "1.1"}, "name": project, "files": entries}), (
                "application/vnd.pypi.simple.v1+json"
            )
        links = "".join(f'<a href="{url}#sha256={digest}">{name}</a>\n' for name, url, digest, _ in listed)
        return f"<!DOCTYPE html><html><body>{links}</body></html>", "text/html"


class _Handler(BaseHTTPRequestHandler):
    index: WheelIndex

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        index = self.index
        index.asked.append(f"{self.command} {self.path}")
        parts = self.path.strip("/").split("/")
        is_file = parts[0] == "files"
        if index.hangs or (index.hangs_in_files and is_file and body):
            if is_file:  # begins, and stops in the middle
                self.send_response(200)
                self.send_header("Content-Length", "1000000")
                self.end_headers()
                self.wfile.write(b"x" * 1000)
            index.reached.set()
            index.over.wait()
            return
        if index.status != 200:
            self.send_error(index.status)
            return
        if is_file:
            contents = {name: content for files in index.files.values() for name, content in files}
            content, kind = contents.get(parts[1]), "application/octet-stream"
        else:
            page = index.page("/".join(parts[:-1]), parts[-1])
            content, kind = (None, "") if page is None else (page[0].encode(), page[1])
        if content is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as the base class calls it
        pass


@contextmanager
def serving(index: WheelIndex) -> Generator[WheelIndex]:
    """`index.url` answers within the block."""
    handler = type("Handler", (_Handler,), {"index": index})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    index.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield index
    finally:
        index.over.set()
        server.shutdown()
        server.server_close()
        thread.join()
