"""What programs and libraries of engines said of themselves, kept, so that a node's start asks them nothing twice.

    DATA_DIR/engines.json   {"version": 1, "answers": {"devices /usr/bin/llama-server": {
                                "modified_ns": ..., "size_bytes": ..., "machine": "NVIDIA ... driver 555.42",
                                "answer": {"devices": [...]}}}}

An answer holds for as long as the file that gave it is the same, and the GPUs of the machine and their drivers are: one
that was rebuilt, or sees another card, is asked again. The file is not needed: whatever is wrong with it, they are
asked.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, cast

from federation.small_files import TextFileError, read_text_file, write_atomically
from swarm.engines.engine import EnginePlaces

ANSWERS_FILE: Final = "engines.json"
MAX_FILE_BYTES: Final = 1 << 20
MAX_ANSWERS: Final = 256  # those asked last stay: a machine has a dozen
_VERSION: Final = 1

log = logging.getLogger(__name__)

Answer = Mapping[str, Any]  # a JSON object


def kept_answer(
    places: EnginePlaces, file: Path, question: str, ask: Callable[[], Answer], most: int = MAX_ANSWERS
) -> Answer:
    """What `ask` answers to `question`, from the last time it was asked while `file` (and the machine) was the same.

    `file` is the program, or whichever file changes with the library. `ask` answers a JSON object; what it raises is
    raised, and not kept. At most `most` are kept of all. Blocks: `ask` may start a program.
    """
    try:
        status = file.stat()
    except OSError:
        return ask()
    stamp = {"modified_ns": status.st_mtime_ns, "size_bytes": status.st_size, "machine": places.machine}
    key = f"{question} {os.path.abspath(file)}"  # noqa: PTH100 - a link to a program is another way to call it
    kept = _object(_read(places.answers).get(key))
    if kept.get("answer") is not None and all(kept.get(name) == value for name, value in stamp.items()):
        return _object(kept["answer"])
    answer = ask()
    _keep(places.answers, key, {**stamp, "answer": dict(answer)}, most)
    return answer


def _read(path: Path | None) -> dict[str, Any]:
    """What is kept, by question and file; nothing where it cannot be read."""
    if path is None or not path.exists():
        return {}
    try:
        kept: Any = json.loads(read_text_file(path, "the engines' answers", MAX_FILE_BYTES))
        return _object(kept["answers"]) if kept["version"] == _VERSION else {}
    except (TextFileError, ValueError, RecursionError, TypeError, KeyError) as error:
        log.info("engines are asked anew: %s: %s", path, error)
        return {}


def _object(value: object) -> dict[str, Any]:
    """`value` itself; an empty one for what is none."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _keep(path: Path | None, key: str, entry: Mapping[str, Any], most: int) -> None:
    """A disk that takes nothing costs the time to ask again, and no more."""
    if path is None:
        return
    answers = {**{other: value for other, value in _read(path).items() if other != key}, key: entry}
    while len(answers) > most:
        del answers[next(iter(answers))]
    with suppress(OSError):
        write_atomically(path, json.dumps({"version": _VERSION, "answers": answers}, indent=1).encode() + b"\n")
