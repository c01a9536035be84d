"""The index that has an engine's wheels: which file is for this machine, where it is, and how large.

It is asked before anything is downloaded, so that whoever is asked knows the size. Both forms of a simple index are
read: JSON, which gives sizes, and HTML, where the file's server is asked. What an index says is not believed further
than that: pip checks the file against the hash, and the engine is tried.
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Any, Final, cast
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.tags import Tag, sys_tags
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import Version

from federation.printable_text import one_line
from swarm import program_version

ACCEPT: Final = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"
MAX_PAGE_BYTES: Final = 16 * 2**20
MAX_FILES: Final = 50_000
LIMIT_S: Final = 30.0  # for one page, all in all; an index that takes longer is given up
_CHUNK_BYTES: Final = 65536


class IndexFailed(Exception):
    """An index that does not answer, or has nothing for this machine; in a sentence."""


@dataclass(frozen=True, slots=True)
class IndexFile:
    """One file of an index. `size_bytes` and `sha256` are None where neither page nor server says."""

    name: str
    url: str
    version: str
    sha256: str | None = None
    size_bytes: int | None = None

    @property
    def url_with_hash(self) -> str:
        """As pip takes it: what has another hash is refused."""
        return self.url if self.sha256 is None else f"{self.url}#sha256={self.sha256}"


def find_wheel(index: str, project: str, wanted_version: str | None, limit_s: float = LIMIT_S) -> IndexFile:
    """The wheel of `project` for this machine in the simple index at `index`: in `wanted_version`, else the newest.

    Blocks. Raises IndexFailed.
    """
    page_url = f"{index.rstrip('/')}/{project}/"
    body, content_type, final_url = _get(page_url, limit_s)
    found = best_file(read_page(body, content_type, final_url), project, wanted_version, tuple(sys_tags()))
    if found is None:
        raise IndexFailed(f"{page_url} has no wheel for this Python and processor")
    if found.size_bytes is not None:
        return found
    return IndexFile(found.name, found.url, found.version, found.sha256, size_of(found.url, limit_s))


def read_page(body: str, content_type: str, url: str) -> list[tuple[IndexFile, str | None]]:
    """The files that a page of a simple index lists, with the Python versions that each is for. Pure.

    Raises IndexFailed for a page that is none.
    """
    if "json" in content_type:
        try:
            listed = cast("Mapping[str, Any]", json.loads(body))["files"]
            return [_of_json(entry, url) for entry in listed[:MAX_FILES] if not entry.get("yanked")]
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise IndexFailed(f"{url} is no page of an index ({one_line(str(error))})") from error
    anchors = _Anchors()
    anchors.feed(body)
    return [_of_anchor(anchor, url) for anchor in anchors.found[:MAX_FILES] if "data-yanked" not in anchor]


def best_file(
    files: Iterable[tuple[IndexFile, str | None]], project: str, wanted_version: str | None, tags: tuple[Tag, ...]
) -> IndexFile | None:
    """The wheel that pip would take: of the wanted version where it is there, else the newest; of its builds the one
    whose tag comes first in `tags`. Pure."""
    order = {tag: number for number, tag in reversed(list(enumerate(tags)))}
    able: list[tuple[tuple[bool, Version, int], IndexFile]] = []
    for file, requires_python in files:
        try:
            name, version, _, of_file = parse_wheel_filename(file.name)
        except InvalidWheelFilename:  # a source, or something else
            continue
        ranks = [order[tag] for tag in of_file if tag in order]
        if name != canonicalize_name(project) or not ranks or not _runs(requires_python):
            continue
        is_wanted = wanted_version is not None and version.public == Version(wanted_version).public
        whole = IndexFile(file.name, file.url, str(version), file.sha256, file.size_bytes)
        able.append(((is_wanted, version, -min(ranks)), whole))
    return max(able, key=lambda pair: pair[0])[1] if able else None


def size_of(url: str, limit_s: float = LIMIT_S) -> int | None:
    """The bytes of a file that a server has, by its word; None where it does not tell. Blocks, never raises."""
    for method, header in (("HEAD", {}), ("GET", {"Range": "bytes=0-0"})):
        try:
            with _open(url, limit_s, method=method, **header) as response:
                total = response.headers.get("Content-Range", "").rpartition("/")[2]
                length = total if method == "GET" else response.headers.get("Content-Length", "")
                if length.isdecimal() and len(length) < 16:
                    return int(length)
        except (OSError, ValueError):
            continue
    return None


def _runs(requires_python: str | None) -> bool:
    import platform

    try:
        return requires_python is None or SpecifierSet(requires_python).contains(platform.python_version())
    except InvalidSpecifier:
        return True


def _of_json(entry: Mapping[str, Any], url: str) -> tuple[IndexFile, str | None]:
    size, sha256 = entry.get("size"), entry.get("hashes", {}).get("sha256")
    file = IndexFile(
        str(entry["filename"]),
        urljoin(url, str(entry["url"])),
        "",
        sha256 if isinstance(sha256, str) else None,
        size if isinstance(size, int) and size > 0 else None,
    )
    return file, entry.get("requires-python")


def _of_anchor(anchor: Mapping[str, str], url: str) -> tuple[IndexFile, str | None]:
    whole, fragment = urldefrag(urljoin(url, anchor.get("href", "")))
    kind, _, digest = fragment.partition("=")
    name = unquote(urlsplit(whole).path.rpartition("/")[2])
    return IndexFile(name, whole, "", digest if kind == "sha256" and digest else None), anchor.get(
        "data-requires-python"
    )


class _Anchors(HTMLParser):
    """The attributes of each link of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[dict[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.found.append({name: value or "" for name, value in attrs})


def _get(url: str, limit_s: float, clock: Callable[[], float] = time.monotonic) -> tuple[str, str, str]:
    """The page's text, its type, and where it was found in the end."""
    deadline_s = clock() + limit_s
    body = bytearray()
    try:
        with _open(url, limit_s) as response:
            while chunk := response.read1(_CHUNK_BYTES):
                body += chunk
                if len(body) > MAX_PAGE_BYTES:
                    raise IndexFailed(f"{url} is larger than a page of an index")
                if clock() > deadline_s:
                    raise TimeoutError("timed out")
            return body.decode("utf-8", "replace"), response.headers.get("Content-Type", ""), response.geturl()
    except urllib.error.HTTPError as error:
        with error:
            raise IndexFailed(f"{url} answered {error.code} {one_line(str(error.reason))}") from error
    except (OSError, ValueError) as error:
        why = getattr(error, "reason", None) or error
        late = isinstance(why, TimeoutError)
        raise IndexFailed(
            f"{url} did not answer within {limit_s:g} s" if late else f"{url} cannot be reached ({one_line(str(why))})"
        ) from error


def _open(url: str, limit_s: float, method: str = "GET", **headers: str) -> Any:
    if urlsplit(url).scheme not in ("http", "https"):
        raise ValueError("it is no address of the web")
    request = urllib.request.Request(
        url, method=method, headers={"Accept": ACCEPT, "User-Agent": f"local-swarm/{program_version()}", **headers}
    )
    return urllib.request.urlopen(request, timeout=limit_s)
