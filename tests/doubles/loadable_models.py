"""What a node could load, as a list that a test writes down."""

from __future__ import annotations

from federation.advertisement import LoadableModel, list_body, parse_loadable
from swarm.routing.loadables import OwnLoadables


class WrittenList(OwnLoadables):
    """Tells these models; `models` may be replaced at any time by `become`."""

    def __init__(self, *models: LoadableModel) -> None:
        super().__init__()
        self.become(*models)

    def become(self, *models: LoadableModel) -> None:
        self._written = models

    def models(self) -> tuple[LoadableModel, ...]:
        return self._written

    def body(self) -> bytes:
        return list_body(self._written)

    @property
    def digest(self) -> str | None:
        return parse_loadable(self.body()).digest if self._written else None
