"""Talking to the model hub through huggingface_hub: where it is, what it has, and one file's bytes. All of it blocks.

huggingface_hub is imported on first use: it takes half a second, and most starts need no hub. Its `hf_hub_download`
is not used because it starts over after a cut: its session, its headers and its errors are, with our own partial file
(`download.py`).
"""

from __future__ import annotations

import errno
import http
import http.client
import importlib
import json
import logging
import os
import queue
import re
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from swarm.errors import SetupError
from swarm.registry.catalogue import Format
from swarm.registry.gguf_header import is_later_part, stem_of
from swarm.registry.names import HubRef, NoSuchName, check_hub_file

log = logging.getLogger(__name__)

# Called with the bytes done and the bytes in total (None where the hub does not say), in the downloading thread.
Progress = Callable[[int, int | None], None]

TRUE_WORDS = frozenset({"1", "ON", "YES", "TRUE"})  # as huggingface_hub reads its switches
METADATA_TIMEOUT_S = 10.0
REACHABLE_TIMEOUT_S = 2.0
TRIES = 6  # in a row that bring no byte more
RETRY_S = 1.0
ASK_AGAIN = frozenset({408, 429})  # statuses of a hub that is busy
MAX_REPO_FILES = 1000  # an MLX model has under 50
PAGES = frozenset({"text/html", "application/xhtml+xml"})  # what networks answer that want a login first
MAX_LISTED = 12  # files of a repository that a message names: most have one for each quantization
# What a repository needs to run as an MLX model. No code: nothing that is downloaded is ever executed.
MLX_SUFFIXES = (".safetensors", ".json", ".jinja", ".txt", ".model", ".tiktoken")


@dataclass(frozen=True, slots=True)
class HubFile:
    """One file as the hub has it now. `sha256` for large files, else `git_sha1`; None where the hub does not say.

    `commit` is None where the hub has not been asked: peers have the file.
    """

    repo: str
    file: str
    commit: str | None
    size_bytes: int | None
    sha256: str | None
    git_sha1: str | None


def _library(module: str = "huggingface_hub") -> Any:
    """huggingface_hub, imported on first use, with its telemetry off unless the user turned it on."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    return importlib.import_module(module)


def endpoint() -> str:
    """The hub's address: HF_ENDPOINT as it is now, else huggingface_hub's default."""
    address: str = os.environ.get("HF_ENDPOINT") or _library("huggingface_hub.constants").ENDPOINT
    return address.rstrip("/")


def hub_reachable(timeout_s: float = REACHABLE_TIMEOUT_S) -> bool:
    """Whether the hub answers at all. Never raises, and never takes longer than `timeout_s`: name resolution, which
    has no timeout of its own, is left behind in a daemon thread.
    """
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in TRUE_WORDS:
        return False
    outcome: queue.SimpleQueue[bool] = queue.SimpleQueue()
    ask = threading.Thread(target=lambda: outcome.put(_answers(timeout_s)), name="hub-reachable", daemon=True)
    ask.start()
    try:
        return outcome.get(timeout=timeout_s)
    except queue.Empty:
        return False


def _answers(timeout_s: float) -> bool:
    address = endpoint()
    if not address.startswith(("http://", "https://")):
        return False
    try:
        asked = urllib.request.Request(f"{address}/api/models?limit=1", method="HEAD")
        with through_proxies().open(asked, timeout=timeout_s) as answer:
            return answer.headers.get_content_type() not in PAGES  # no network that wants a login first
    except urllib.error.HTTPError as error:
        error.close()
        return error.code < 500
    except (OSError, ValueError, http.client.HTTPException):  # no answer, or HF_ENDPOINT is no address
        return False


def through_proxies(*handlers: urllib.request.BaseHandler) -> urllib.request.OpenerDirector:
    """By the proxies that huggingface_hub's client takes: ALL_PROXY, too, which urllib does not know."""
    named = urllib.request.getproxies()
    everything = {scheme: named["all"] for scheme in ("http", "https") if "all" in named}
    return urllib.request.build_opener(urllib.request.ProxyHandler({**everything, **named}), *handlers)


def describe(repo: str, file: str, revision: str | None = None) -> HubFile:
    """What the hub says of `file`, now or at `revision`. Raises SetupError without such a file, or an answer.

    An answer without a commit and a hash is not the hub's, whatever its status: the network answers for it, with a page
    to log in, or a proxy does.
    """
    hub = _library()
    with _hub_errors(repo, file):
        url = hub.hf_hub_url(repo, file, revision=revision, endpoint=endpoint())
        found = hub.get_hf_file_metadata(url, timeout=METADATA_TIMEOUT_S, endpoint=endpoint())
    etag: str = (found.etag or "").lower()
    if found.commit_hash is None or not etag or found.size is None:
        raise not_the_hub(f"{repo}/{file}")
    return HubFile(
        repo=repo,
        file=file,
        commit=found.commit_hash,
        size_bytes=found.size,
        sha256=etag if _is_hex(etag, 64) else None,
        git_sha1=etag if _is_hex(etag, 40) else None,
    )


def list_mlx_model(repo: str) -> tuple[str, tuple[str, ...]]:
    """The commit and the files of an MLX model, weights and tokenizer, no code. Raises SetupError where it is none."""
    commit, listed = _repository(repo)
    files = sorted(file for file in listed if file.endswith(MLX_SUFFIXES) and "/" not in file)
    if "config.json" not in files or not any(file.endswith(".safetensors") for file in files):
        ggufs = [file for file in listed if file.endswith(".gguf")]
        hint = f"; it has {', '.join(ggufs[:8])}: name one, hf:{repo}/{ggufs[0]}" if ggufs else ""
        raise SetupError(f"{repo} is not an MLX model: no config.json with safetensors{hint}")
    if len(files) > MAX_REPO_FILES:
        raise SetupError(f"{repo} has {len(files)} files, more than the {MAX_REPO_FILES} of any model: not downloaded")
    for file in files:
        check_hub_file(file)
    return commit, tuple(files)


def not_the_hub(what: str) -> SetupError:
    """For an answer with status 200 that is no file of the hub's."""
    return SetupError(
        f"cannot download {what}: what answers for {endpoint()} is not the hub but a page or a proxy; log in to this "
        "network with a browser, or check HF_ENDPOINT and the proxy, and run it again"
    )


def file_of(ref: HubRef, formats: Sequence[Format]) -> HubRef:
    """`ref` with its file, where only its repository was named: the GGUF file with the quantization of `ref`.

    Blocks: the hub is asked what the repository has. Raises SetupError with the names to choose from where that
    leaves several, or none; a whole repository is one model only where an engine here loads MLX.
    """
    if ref.file is not None or ("mlx" in formats and ref.quant is None):
        return ref
    return HubRef(ref.repo, _chosen_file(ref, _repository(ref.repo)[1]))


def _repository(repo: str) -> tuple[str, list[str]]:
    """The commit of a repository, and the names of its files. Raises SetupError without one, or an answer."""
    with _hub_errors(repo, None):
        try:
            info = _library().HfApi(endpoint=endpoint()).model_info(repo, timeout=METADATA_TIMEOUT_S)
            return info.sha or "main", [str(sibling.rfilename) for sibling in info.siblings or ()]
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:  # a page, or some other JSON
            raise not_the_hub(repo) from error


def _chosen_file(ref: HubRef, listed: Sequence[str]) -> str:
    """Of the files of a repository the one that `ref` means. Raises SetupError where there is not exactly one."""
    names = [PurePosixPath(name) for name in sorted(listed) if name.lower().endswith(".gguf")]
    models = [name for name in names if not is_later_part(Path(name.name)) and "mmproj" not in name.name.lower()]
    if not models:
        kind = " (it is an MLX or transformers model)" if any(n.endswith(".safetensors") for n in listed) else ""
        raise SetupError(f"{ref.repo} has no .gguf file, and no engine here runs anything else{kind}")
    able = [name for name in models if ref.quant is None or _has_quant(name, ref.quant)]
    if len(able) == 1:
        return str(able[0])
    asked = "" if ref.quant is None else f" in {ref.quant.upper()}"
    shown = ", ".join(f"hf:{ref.repo}/{name}" for name in (able or models)[:MAX_LISTED])
    more = f" and {len(able or models) - MAX_LISTED} more" if len(able or models) > MAX_LISTED else ""
    raise SetupError(f"{ref.repo} has {len(able) or 'no'} model files{asked}: name one of {shown}{more}")


def _has_quant(name: PurePosixPath, quant: str) -> bool:
    """Whether a file's name, or its folder's, says `quant`: `model-UD-Q4_K_XL-00001-of-00002.gguf` has `q4_k_xl`."""
    stem = stem_of(Path(name.name)).lower()
    pieces = (name.parent.name.lower(), *re.split(r"[-.]", stem))
    return quant in pieces or stem.endswith((f"-{quant}", f".{quant}"))


def fetch(source: HubFile, into: BinaryIO, have_bytes: int, progress: Progress) -> None:
    """Append the rest of `source` to `into`, of which `have_bytes` are there. Cuts are mended by asking again.

    Raises SetupError where that does not help; what has arrived stays in `into`.
    """
    progress(have_bytes, source.size_bytes)
    if have_bytes == source.size_bytes:
        return
    errors = _library("huggingface_hub.errors")
    tries = TRIES
    with _hub_errors(source.repo, source.file):
        while True:
            try:
                for done_bytes, total_bytes in _rest(source, into, have_bytes):
                    have_bytes, tries = done_bytes, TRIES
                    progress(have_bytes, total_bytes)
                break
            except errors.HTTPError as error:
                tries -= 1
                refused = isinstance(error, errors.HfHubHTTPError) and error.response.status_code not in ASK_AGAIN
                if refused or not tries:
                    raise
                log.info("%s/%s at byte %d: %s: asking for the rest", source.repo, source.file, have_bytes, error)
                time.sleep(RETRY_S)
        if source.size_bytes not in (None, have_bytes):
            raise OSError(f"{have_bytes} bytes came of {source.size_bytes}")


def _rest(source: HubFile, into: BinaryIO, have_bytes: int) -> Generator[tuple[int, int | None]]:
    """Writes what one answer of the hub brings, and yields how many bytes are there then, of how many.

    A hub that knows no ranges sends the file from its beginning: `into` starts over then.
    """
    hub, utils = _library(), _library("huggingface_hub.utils")
    # A range of a compressed body would not be a range of the file.
    headers = {**utils.build_hf_headers(), "Accept-Encoding": "identity"}
    if have_bytes:
        headers["Range"] = f"bytes={have_bytes}-"
    url: str = hub.hf_hub_url(source.repo, source.file, revision=source.commit, endpoint=endpoint())
    timeout_s: float = _library("huggingface_hub.constants").HF_HUB_DOWNLOAD_TIMEOUT
    with hub.get_session().stream("GET", url, headers=headers, timeout=timeout_s, follow_redirects=True) as response:
        utils.hf_raise_for_status(response)
        length = response.headers.get("Content-Length", "")
        _check_answer(source, response, int(length) if length.isdecimal() else None)
        if have_bytes and response.status_code != http.HTTPStatus.PARTIAL_CONTENT:
            into.seek(0)
            into.truncate()
            have_bytes = 0
        announced = have_bytes + int(length) if length.isdecimal() else None
        for piece in response.iter_bytes():
            into.write(piece)
            have_bytes += len(piece)
            yield have_bytes, source.size_bytes or announced


def _check_answer(source: HubFile, response: Any, length: int | None) -> None:
    """Raises SetupError for an answer that cannot be the file, before a byte of it is kept or one kept is lost."""
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    is_page = kind in PAGES or (kind == "application/json" and not source.file.endswith(".json"))
    if is_page:
        raise not_the_hub(f"{source.repo}/{source.file}")
    is_whole = response.status_code == http.HTTPStatus.OK and length is not None and source.size_bytes is not None
    if is_whole and length != source.size_bytes:
        raise SetupError(
            f"cannot download {source.repo}/{source.file}: {endpoint()} sends {length} bytes instead of "
            f"{source.size_bytes}: the file was just replaced, or a page or a proxy answers; run it again"
        )


@contextmanager
def _hub_errors(repo: str, file: str | None) -> Generator[None]:
    """Turns what huggingface_hub and its HTTP client raise into SetupError, most specific first."""
    errors = _library("huggingface_hub.errors")
    what = f"{repo}/{file}" if file else repo
    try:
        yield
    except errors.GatedRepoError as error:
        raise SetupError(
            f"{repo} is gated: accept its terms on {endpoint()}/{repo}, then log in with `hf auth login`"
        ) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise NoSuchName(f"{endpoint()} has no repository {repo}, or it is private: check the name") from error
    except errors.EntryNotFoundError as error:
        raise NoSuchName(f"{endpoint()}/{repo} has no file {file}: check the name") from error
    except errors.OfflineModeIsEnabled as error:
        raise SetupError(f"cannot download {what}: HF_HUB_OFFLINE is set; unset it, or give a local .gguf") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        raise SetupError(f"cannot download {what}: {endpoint()} answered {status}; try again later") from error
    except errors.HTTPError as error:
        raise SetupError(
            f"cannot download {what}: {endpoint()} does not answer ({type(error).__name__}: {error}); "
            "check the network or HF_ENDPOINT and run it again: it goes on where it stopped"
        ) from error
    except ImportError as error:  # of the HTTP client: its support for SOCKS is a package of its own
        raise SetupError(
            f"cannot download {what}: the environment names a SOCKS proxy, which needs a package more: "
            f"{sys.executable} -m pip install socksio; or name an HTTP proxy in HTTPS_PROXY"
        ) from error
    except OSError as error:
        raise _from_os_error(error, what) from error
    except ValueError as error:  # names or sizes that huggingface_hub refuses
        raise SetupError(f"cannot download {what}: {error}") from error


def _from_os_error(error: OSError, what: str) -> SetupError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return SetupError(f"cannot download {what}: the disk is full; free some space, or give another --data-dir")
    if error.errno is None:  # huggingface_hub's own: a body shorter or longer than announced
        return SetupError(f"cannot download {what}: it broke off; run it again: it goes on where it stopped")
    return SetupError(f"cannot download {what}: {error.strerror or error}")


def _is_hex(text: str, digits: int) -> bool:
    return len(text) == digits and all(character in "0123456789abcdef" for character in text)
