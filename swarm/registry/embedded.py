"""Where the embedded model is: the small one that serves with no network and no model on disk."""

from __future__ import annotations

from pathlib import Path

from swarm.errors import SetupError

_ROOT = Path(__file__).resolve().parents[2]
_PROTOTYPE = _ROOT.parent / "shared" / "models" / "demo-proto.gguf"  # stands in while a build has no model of its own


def embedded_model_path(name: str = "demo") -> Path:
    """The file of the embedded model `demo`, or of a sibling, `demo:b` or `demo:c`. Raises SetupError without one."""
    for path in (_ROOT / "models" / "demo" / f"{name.replace(':', '-')}.gguf", _PROTOTYPE):
        if path.is_file():
            return path
    raise SetupError(
        f"this build has no embedded model {name!r}: give --model NAME:SIZE, PATH.gguf or hf:OWNER/REPO/FILE"
    )
