"""The Python package index that is used on this machine: where pip and uv are told it is, and what it has.

Nothing is ever installed from it. The file of a wheel is asked for by its name and known by its hash, so that any index
may give it: a company's mirror as well as pypi.org. `sources_of` and `listed_files` are pure; all else blocks.
"""

from __future__ import annotations

import ast
import base64
import http.client
import importlib
import json
import logging
import os
import ssl
import subprocess
import sys
import tomllib
import urllib.error
import urllib.request
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urldefrag, urljoin, urlsplit, urlunsplit

from pydantic import BaseModel, ConfigDict

from swarm.registry.catalogue import Wheel
from swarm.registry.hub import PAGES, TRUE_WORDS, through_proxies

PYPI = "https://pypi.org/simple"
PAGE_KINDS = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"
MAX_PAGE_BYTES = 8 << 20  # of one package, with thousands of files, far less
TIMEOUT_S = 15.0  # without a byte
PIP_ANSWERS_S = 20.0  # a cold start of pip on a slow disk

log = logging.getLogger(__name__)


class IndexProblem(Exception):
    """Why an index cannot give a file, in words. `passing`: the same question may be answered a moment later."""

    def __init__(self, words: str, *, passing: bool = False) -> None:
        super().__init__(words)
        self.passing = passing


@dataclass(frozen=True, slots=True)
class Index:
    """An index by its address, which has no user and no password in it; those are in `authorization`."""

    url: str
    authorization: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class PackageSources:
    """Where wheels are to be had, in this order; `ca_file` is the certificates that pip is told to trust."""

    folders: tuple[Path, ...]
    indexes: tuple[Index, ...]
    ca_file: str | None = None


class _UvIndex(BaseModel):
    url: str
    default: bool = False


class UvFile(BaseModel):
    """What a `uv.toml` says of indexes."""

    model_config = ConfigDict(alias_generator=lambda name: name.replace("_", "-"))
    index: tuple[_UvIndex, ...] = ()
    index_url: str = ""
    extra_index_url: tuple[str, ...] = ()
    find_links: tuple[str, ...] = ()
    no_index: bool = False


@dataclass(frozen=True, slots=True)
class ListedFile:
    """A file as an index lists it; `sha256` is None where it does not say."""

    url: str
    sha256: str | None


def configured_sources() -> PackageSources:
    """What pip and uv would use here, by their environment and their configuration. Blocks for a second or so."""
    return sources_of(os.environ, _pip_configuration(), _uv_configuration(os.environ))


def sources_of(environment: Mapping[str, str], pip: Mapping[str, str], uv: Sequence[UvFile] = ()) -> PackageSources:
    """What `environment`, the answer of `pip config list` and uv's files come to.

    The indexes that are named instead of PyPI come first, then those named beside it. pypi.org is asked only where none
    is named instead of it, and no index at all where that is said.
    """

    def of_pip(name: str) -> str:
        variable = environment.get(f"PIP_{name.upper().replace('-', '_')}")
        return variable or next(
            (pip[key] for kind in ("download", "install", "global") if (key := f"{kind}.{name}") in pip), ""
        )

    listed = [entry for file in uv for entry in file.index]
    instead = [
        environment.get("UV_DEFAULT_INDEX", ""),
        environment.get("UV_INDEX_URL", ""),
        of_pip("index-url"),
        *(entry.url for entry in listed if entry.default),
        *(file.index_url for file in uv),
    ]
    beside = [
        *environment.get("UV_INDEX", "").split(),
        *environment.get("UV_EXTRA_INDEX_URL", "").split(),
        *of_pip("extra-index-url").split(),
        *(entry.url for entry in listed if not entry.default),
        *(url for file in uv for url in file.extra_index_url),
    ]
    links = [*of_pip("find-links").split(), *(link for file in uv for link in file.find_links)]
    here = [unquote(urlsplit(link).path) if link.startswith("file://") else link for link in links]
    none = of_pip("no-index").upper() in TRUE_WORDS | {"Y", "T"} or any(file.no_index for file in uv)
    named = [] if none else [*([url for url in instead if url] or [PYPI]), *beside]
    indexes = dict.fromkeys(index for url in named if (index := _index(url)) is not None)
    folders = dict.fromkeys(Path(text).expanduser() for text in here if "://" not in text)
    return PackageSources(tuple(folders), tuple(indexes), of_pip("cert") or None)


def _index(text: str) -> Index | None:
    """An index by its address, or by NAME=ADDRESS as uv writes it; None for what is no web address (a folder)."""
    name, separator, rest = text.partition("=")
    address = rest if separator and "/" not in name else text
    split = urlsplit(address)
    if split.scheme not in ("http", "https") or not split.hostname:
        log.info("%s is no index that is asked over HTTP: left out", split._replace(netloc="").geturl())
        return None
    authorization = None
    host = split.netloc.rpartition("@")[2]
    if split.username is not None:
        pair = f"{unquote(split.username)}:{unquote(split.password or '')}"
        authorization = f"Basic {base64.b64encode(pair.encode()).decode()}"
    return Index(urlunsplit((split.scheme, host, split.path.rstrip("/"), "", "")), authorization)


def _pip_configuration() -> dict[str, str]:
    """What `pip config list` says, which reads pip's files by pip's own rules; nothing where there is no pip."""
    try:
        asked = subprocess.run(
            [sys.executable, "-m", "pip", "config", "list"],
            capture_output=True, text=True, timeout=PIP_ANSWERS_S, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        log.info("pip was not asked which index it uses: %s", error)
        return {}
    return parse_pip_configuration(asked.stdout)


def parse_pip_configuration(text: str) -> dict[str, str]:
    """The lines `name='value'` of `pip config list`. What is none is passed over."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        name, separator, value = line.partition("=")
        try:
            parsed = ast.literal_eval(value) if separator else None
        except (ValueError, SyntaxError):
            continue
        if isinstance(parsed, str):
            found[name.strip()] = parsed
    return found


def _uv_configuration(environment: Mapping[str, str]) -> list[UvFile]:
    """uv's files that hold for all that a user does; those of projects say nothing of this program."""
    if explicit := environment.get("UV_CONFIG_FILE"):
        places = [Path(explicit)]
    elif sys.platform == "win32":
        places = [
            Path(environment[name]) / "uv" / "uv.toml" for name in ("APPDATA", "PROGRAMDATA") if name in environment
        ]
    else:
        own = environment.get("XDG_CONFIG_HOME") or "~/.config"
        places = [Path(own).expanduser() / "uv" / "uv.toml", Path("/etc/uv/uv.toml")]
    found: list[UvFile] = []
    for place in places:
        try:
            found.append(UvFile.model_validate(tomllib.loads(place.read_text(encoding="utf-8"))))
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            log.info("%s does not say which index uv uses: %s", place, error)
    return found


class IndexClient:
    """Asks one index. Every method blocks, and raises IndexProblem for whatever it or its files' host does."""

    def __init__(self, index: Index, ca_file: str | None = None) -> None:
        self._index = index
        self._opener = through_proxies(urllib.request.HTTPSHandler(context=_tls(ca_file)))

    def find(self, wheel: Wheel) -> str:
        """Where the file of `wheel` is."""
        page = f"{self._index.url}/{quote(wheel.package)}/"
        with self.opened(page, {"Accept": PAGE_KINDS}) as response, self._heard(page):
            kind = response.headers.get_content_type()
            body = response.read(MAX_PAGE_BYTES)
            where = response.geturl()
        listed = listed_files(body, kind, where).get(wheel.file)
        if listed is None:
            raise IndexProblem(f"{self._index.url} lists no {wheel.file}")
        if listed.sha256 not in (None, wheel.sha256):
            raise IndexProblem(
                f"{self._index.url} has another {wheel.file} (sha256 {listed.sha256}, not {wheel.sha256}): not taken"
            )
        return listed.url

    @contextmanager
    def opened(self, url: str, headers: Mapping[str, str]) -> Generator[Any]:
        """The answer to a GET. The index's credentials go to its own host and to no other."""
        try:
            asked = urllib.request.Request(url, headers={"Accept-Encoding": "identity", **headers})
            if self._index.authorization and urlsplit(url).netloc == urlsplit(self._index.url).netloc:
                asked.add_unredirected_header("Authorization", self._index.authorization)
            if asked.type not in ("http", "https"):
                raise IndexProblem(f"{self._index.url} names {url}, which is no web address")
            with self._heard(url):
                response = self._opener.open(asked, timeout=TIMEOUT_S)
        except ValueError as error:
            raise IndexProblem(f"{url[:200]} is no address: {error}") from error
        with response:
            yield response

    def read(self, response: Any, most_bytes: int) -> bytes:
        """What comes next of an answer; nothing at its end."""
        with self._heard(response.geturl()):
            data: bytes = response.read(most_bytes)
        return data

    @contextmanager
    def _heard(self, url: str) -> Generator[None]:
        split = urlsplit(url)
        host = f"{split.scheme}://{split.netloc.rpartition('@')[2]}"
        try:
            yield
        except urllib.error.HTTPError as error:
            error.close()
            wants = {401: ": it wants a user and a password", 403: ": it refuses", 407: ": the proxy wants a password"}
            words = f"{host}{split.path} answered {error.code}{wants.get(error.code, '')}"
            raise IndexProblem(words, passing=error.code >= 500 or error.code in (408, 429)) from error
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            raise IndexProblem(f"{host} does not answer ({reason or type(error).__name__})", passing=True) from error


def _tls(ca_file: str | None) -> ssl.SSLContext:
    """Trusts what pip is told to trust; else what the system does, by the package that pip does it with."""
    if ca_file is None and not {"SSL_CERT_FILE", "SSL_CERT_DIR"} & os.environ.keys():
        try:
            truststore: Any = importlib.import_module("truststore")  # comes with huggingface_hub
            context: ssl.SSLContext = truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            return context
        except ImportError:
            pass
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise IndexProblem(f"the certificates that pip is told to trust cannot be read: {ca_file} ({error})") from error


def listed_files(body: bytes, kind: str, where: str) -> dict[str, ListedFile]:
    """The files that the page of a package lists, by name: as JSON (PEP 691) or as HTML (PEP 503), found at `where`.

    What is neither lists nothing. Raises IndexProblem for a page that says it is JSON and is none.
    """
    if kind in PAGES or kind.endswith("+html"):
        parser = _Links()
        parser.feed(body.decode("utf-8", "replace"))
        return {name: ListedFile(urljoin(where, url), sha256) for name, url, sha256 in parser.found()}
    try:
        files = json.loads(body)["files"]
        return {
            str(file["filename"]): ListedFile(urljoin(where, file["url"]), file.get("hashes", {}).get("sha256"))
            for file in files
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise IndexProblem(f"{where} answers with something else than an index's page") from error


class _Links(HTMLParser):
    """The links of a page."""

    def __init__(self) -> None:
        super().__init__()
        self._links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        href = dict(attrs).get("href")
        if tag == "a" and href:
            self._links.append(href)

    def found(self) -> Generator[tuple[str, str, str | None]]:
        for link in self._links:
            url, fragment = urldefrag(link)
            algorithm, _, digest = fragment.partition("=")
            yield unquote(urlsplit(url).path).rpartition("/")[2], url, digest if algorithm == "sha256" else None
