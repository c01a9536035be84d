"""Choose and load an engine by name."""

from __future__ import annotations

from typing import Literal, get_args

from swarm.engines.echo import EchoEngine
from swarm.engines.engine import Engine, EngineSpec
from swarm.engines.xllamacpp import Isolation, load_xllamacpp
from swarm.errors import SetupError

EngineName = Literal["auto", "xllamacpp", "echo"]
ENGINE_NAMES: tuple[str, ...] = get_args(EngineName)


async def load_engine(name: EngineName, spec: EngineSpec, isolation: Isolation = "auto") -> Engine:
    """Load `spec` with the engine called `name`; `auto` is xllamacpp, the only one for GGUF so far."""
    match name:
        case "auto" | "xllamacpp":
            return await load_xllamacpp(spec, isolation)
        case "echo":
            return EchoEngine(spec)
    raise SetupError(f"unknown engine {name!r}; there are: {', '.join(ENGINE_NAMES)}")
