"""`swarm forget`: what was read of prompts is removed from this disk; see `engines/llama_cpp/saved_prompts.py`.

It needs no node. One that runs finds its files gone, and by their folder's mark that it may not write them again.
"""

from __future__ import annotations

import json
from pathlib import Path

from swarm.commands.output import say
from swarm.engines.llama_cpp.saved_prompts import forget
from swarm.errors import SetupError
from swarm.registry.model_memory import size_text


def forget_prompts(folder: Path, as_json: bool) -> int:
    """Remove all of `folder`, and say how much it was. Raises SetupError where that cannot be done."""
    try:
        count, size = forget(folder)
    except OSError as error:
        raise SetupError(
            f"what was kept in {folder} is not all removed: {error.strerror}; as its owner, remove the folder"
        ) from error
    if as_json:
        say(json.dumps({"folder": str(folder), "prompts": count, "bytes": size}))
    elif count:
        say(f"removed {count} prompt{'s' if count > 1 else ''} ({size_text(size)}) from {folder}")
    else:
        say(f"nothing was kept in {folder}")
    return 0
