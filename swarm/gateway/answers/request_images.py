"""The images of a request, looked at before anybody is asked, and fetched from the web where the node's owner wants it.

What is asked about must be there: an image of the user's last turn that is broken, too large or cannot be had is
refused with the reason. Of one that came before, the model is told so in its place: else no later turn could be
answered.

A web address is fetched only from public addresses of the internet, whoever names it (`tools/public_web.py`): however
it is written, it does not lead into the network that a node stands in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import aiohttp

from swarm.gateway.http.bodies import ON_LOOP_BYTES, off_loop
from swarm.generation import GenerationRequest, JsonValue
from swarm.images import (
    MAX_IMAGE_BYTES_TOGETHER,
    MAX_IMAGES,
    TOO_MANY,
    ImageBudget,
    ImagePlace,
    data_of,
    data_url,
    header_of,
    image_part,
    image_places,
    left_out,
    with_images,
)
from swarm.tools.public_web import READ_BYTES, REDIRECTS, is_public, public_session, web_address

FETCH_S = 10.0
MAX_REDIRECTS = 3
NOT_FETCHED = (
    "has a web address, and this node fetches nothing: send the image itself, as data:image/png;base64,..., or start "
    "the node with --fetch-images"
)
WEB = ("http://", "https://")

Fetched = Mapping[str, bytes | str]  # by address: the bytes, or why there are none


@dataclass(frozen=True, slots=True)
class RequestImages:
    """Looks at the images of requests. Web addresses are fetched where it `fetches`, and the address `is_allowed`.

    All of one request within `fetch_s`.
    """

    fetches: bool = False
    is_allowed: Callable[[str], bool] = is_public
    fetch_s: float = FETCH_S

    async def looked_at(self, request: GenerationRequest, may_fetch: bool = True) -> GenerationRequest:
        """`request` for who can see: every image is there, and as large as it may be, or has a note in its place.

        Raises BadRequest where that is one that the request is about.
        """
        places = image_places(request.messages or ())
        latest_first = (place.url for place in reversed(places) if place.url.lower().startswith(WEB))
        web = list(dict.fromkeys(latest_first))
        fetched: Fetched = dict.fromkeys(web, NOT_FETCHED)
        if web and self.fetches and may_fetch:
            fetched = {**dict.fromkeys(web, TOO_MANY), **await self._fetched(web[:MAX_IMAGES])}
        if sum(len(place.url) for place in places) > ON_LOOP_BYTES or web:
            return await off_loop(lambda: checked(request, places, fetched))
        return checked(request, places, fetched)

    async def _fetched(self, urls: Sequence[str]) -> Fetched:
        """What is at each of `urls`, all at once and in time, and in memory no more than they may have together."""
        room = _Room(MAX_IMAGE_BYTES_TOGETHER)
        found: dict[str, bytes | str] = {}
        headers = {"Accept": "image/png, image/jpeg, image/gif", "Accept-Encoding": "identity"}
        async with public_session(self.is_allowed, headers, self.fetch_s) as session:

            async def fetch(url: str) -> None:
                try:
                    found[url] = await self._fetch(session, url, room)
                except TimeoutError:
                    found[url] = f"was not fetched within {self.fetch_s:g} s"
                except (aiohttp.ClientError, OSError) as error:
                    found[url] = f"cannot be fetched: {getattr(error, 'os_error', error)}"
                except UnicodeError:
                    found[url] = "cannot be fetched: its address names no host that there can be"
                except ValueError as error:
                    found[url] = str(error)

            async with asyncio.TaskGroup() as group:
                for url in urls:
                    group.create_task(fetch(url))
        return found

    async def _fetch(self, session: aiohttp.ClientSession, url: str, room: _Room) -> bytes:
        """What is at `url`. Raises ValueError with the reason where it is not given."""
        base = ""
        for _ in range(MAX_REDIRECTS + 1):
            address = web_address(base, url, self.is_allowed)
            async with session.get(address, allow_redirects=False) as response:
                if response.status in REDIRECTS and "Location" in response.headers:
                    base, url = str(address), response.headers["Location"]
                    continue
                if response.status != 200:
                    raise ValueError(f"cannot be fetched: {response.url.host} answered {response.status}")
                return await room.read(response)
        raise ValueError(f"cannot be fetched: it was passed on more than {MAX_REDIRECTS} times")


@dataclass
class _Room:
    """What may still be read of all that are fetched together."""

    left_bytes: int

    async def read(self, response: aiohttp.ClientResponse) -> bytes:
        """All of it. Raises ValueError where it has more than there is room for, which others have then."""
        raw = bytearray()
        try:
            async for piece in response.content.iter_chunked(READ_BYTES):
                if len(piece) > self.left_bytes:
                    most = f"{(len(raw) + self.left_bytes) / 2**20:.1f} MiB"
                    raise ValueError(f"at {response.url.host} has more than {most}")
                self.left_bytes -= len(piece)
                raw += piece
        except BaseException:
            self.left_bytes += len(raw)
            raise
        return bytes(raw)


def checked(request: GenerationRequest, places: Sequence[ImagePlace], fetched: Fetched) -> GenerationRequest:
    """`request` with its images as data, the latest of them first to be taken; see `RequestImages.looked_at`."""
    budget = ImageBudget()
    instead: dict[tuple[int, int], JsonValue] = {}
    for place in sorted(places, key=lambda place: place.key, reverse=True):
        try:
            found = fetched.get(place.url)
            if isinstance(found, str):
                raise ValueError(found)
            raw = data_of(place.url) if found is None else found
            header = header_of(raw)
            budget.take(header, len(raw))
        except ValueError as error:
            if place.asked:
                raise place.refused(error) from error
            instead[place.key] = left_out("image", f"it {error}")
        else:
            instead[place.key] = image_part(data_url(raw, header))
    return with_images(request, instead)
