"""Samples in a file, one JSON object a line, so that a run can go on where it was interrupted."""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path

from pydantic import ValidationError

from swarm.errors import SetupError
from swarm.evaluation.samples import Sample, SampleKey

_BEGINNING = b'{"key":{'  # of every line, so that no other file is taken for a damaged one of ours


class SampleStore:
    """All samples drawn so far; those that come are appended to the file, if there is one."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._file: TextIOWrapper | None = None
        self._samples: dict[SampleKey, Sample] = {} if path is None else read_samples(path)

    @property
    def samples(self) -> Mapping[SampleKey, Sample]:
        return self._samples

    @contextmanager
    def recording(self) -> Generator[None]:
        """Within the block what is added goes to the file, too. Raises SetupError where it cannot be written."""
        if self._path is None:
            yield
            return
        try:
            self._file = self._path.open("a", encoding="utf-8")
        except OSError as error:
            raise SetupError(f"cannot write the samples to {self._path}: {error.strerror}") from error
        with self._file:
            yield
        self._file = None

    def add(self, sample: Sample) -> None:
        """Keep `sample`: in memory, and in the file before the next one is drawn."""
        self._samples[sample.key] = sample
        if self._file is not None:
            self._file.write(sample.model_dump_json(exclude_defaults=True) + "\n")
            self._file.flush()


def read_samples(path: Path) -> dict[SampleKey, Sample]:
    """The samples in a file; none where it does not exist yet. A last line that an interruption cut off is removed.

    Raises SetupError naming the line for anything else that is no sample.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise SetupError(f"cannot read the samples in {path}: {error.strerror}") from error
    *lines, rest = data.split(b"\n")
    samples: dict[SampleKey, Sample] = {}
    for number, line in enumerate(lines, 1):
        try:
            sample = Sample.model_validate_json(line)
        except ValidationError as error:
            raise _foreign(path, number) from error
        samples[sample.key] = sample
    if rest and not (rest.startswith(_BEGINNING) or _BEGINNING.startswith(rest)):
        raise _foreign(path, len(lines) + 1)
    if rest:
        os.truncate(path, len(data) - len(rest))
    return samples


def _foreign(path: Path, number: int) -> SetupError:
    return SetupError(f"{path} line {number} is no sample of `swarm bench votes`: name another file with --store")
