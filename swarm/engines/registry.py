"""Choose and load an engine by name. Imports the engine's own code only when it is wanted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from swarm.engines.engine import Engine, EngineSpec

EngineName = Literal["auto", "xllamacpp", "echo"]
ENGINE_NAMES: tuple[str, ...] = get_args(EngineName)
Isolation = Literal["auto", "always", "never"]


async def load_engine(name: EngineName, spec: EngineSpec, isolation: Isolation = "auto") -> Engine:
    """Load `spec` with the engine called `name`; `auto` is xllamacpp, the only one for GGUF so far.

    Raises EngineFailed with the reason and a remedy.
    """
    match name:
        case "auto" | "xllamacpp":
            from swarm.engines.llama_cpp.xllamacpp import load_xllamacpp

            return await load_xllamacpp(spec, isolation)
        case "echo":
            from swarm.engines.echo import EchoEngine

            return EchoEngine(spec)
