"""Images in a conversation: as parts of what a turn says, and what the bytes of one tell before anything decodes them.

A turn's content is a text, or in a conversation with images a list of parts, as OpenAI has them: `{"type": "text"}` and
`{"type": "image_url"}`, whose URL has the image itself (`data:image/png;base64,...`). Whoever cannot see is told so in
the place of each. An image is decoded in the engine's process, by a library in C: a few KB of PNG may become gigabytes
there. So its size is read here first, from the header and as that library (stb_image, in llama.cpp) reads it. Pure.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from swarm.errors import BadRequest
from swarm.generation import GenerationRequest, JsonObject, JsonValue

MAX_IMAGES: Final = 64  # of one conversation; agents keep dozens of screenshots
MAX_SENT: Final = 1024  # of one conversation, with those that are not looked at: each is found several times
MAX_PIXELS: Final = 50_000_000  # of one: telephones take pictures of so many; 150 MB decoded
MAX_PIXELS_TOGETHER: Final = 100_000_000  # 300 MB decoded, all at once
# As base64 they fit into what a node takes of a body, with 1 MiB to spare for words: what is fetched travels, too.
MAX_IMAGE_BYTES_TOGETHER: Final = 11 * 2**20
MAX_SEGMENTS: Final = 4096  # of a JPEG before its size: 64 KiB each hold all that cameras and editors write there
BLIND: Final = "this model reads text only"
UNREADABLE: Final = "send it as PNG or JPEG"
TOO_MANY: Final = f"is one more than the {MAX_IMAGES} that are looked at in one request: send fewer"
NO_IMAGE: Final = f"is neither PNG, JPEG, GIF nor WebP, or is broken: {UNREADABLE}"

_DATA_URL = re.compile(r"data:(?P<type>[^;,]*)(?P<options>(?:;[^;,]*)*),", re.IGNORECASE)
_STARTS_OF_FRAME = frozenset({0xC0, 0xC1, 0xC2})
_END_OF_IMAGE, _START_OF_SCAN = 0xD9, 0xDA
_MARKER = re.compile(rb"\xff[^\xff]", re.DOTALL)  # of a JPEG's segment; as many 0xFF as there are may be before it


# What a turn says


def image_part(url: str) -> JsonObject:
    """An image as a part of a turn's content."""
    return {"type": "image_url", "image_url": {"url": url}}


def joined(contents: Iterable[JsonValue], separator: str = "") -> JsonValue:
    """What several contents say, text and images in their order, as one; a text, where there is no image.

    The separator stands between two that say something.
    """
    parts: list[JsonValue] = []
    texts: list[str] = []

    def end_text() -> None:
        if text := "".join(texts):
            parts.append({"type": "text", "text": text})
        texts.clear()

    for content in contents:
        if not content:
            continue
        if separator and (parts or texts):
            texts.append(separator)
        for part in content if isinstance(content, list) else [content]:
            if isinstance(part, str):
                texts.append(part)
            elif isinstance(part, dict) and part.get("type") == "text":
                texts.append(str(part.get("text", "")))
            elif part is not None:
                end_text()
                parts.append(part)
    if not parts:
        return "".join(texts)
    end_text()
    return parts


def is_image(part: JsonValue) -> bool:
    return isinstance(part, dict) and part.get("type") == "image_url"


def url_of(part: JsonValue) -> str:
    """The URL of an image; "" where it has none."""
    image = part.get("image_url") if isinstance(part, dict) else None
    url = image.get("url") if isinstance(image, dict) else None
    return url if isinstance(url, str) else ""


@dataclass(frozen=True, slots=True)
class ImagePlace:
    """Where an image stands: which of the messages, and which part of its content. `label` is what to call it.

    `asked`: in the user's last turn, so that the request is about it. Others came before, or with a tool's result.
    """

    message: int
    part: int
    label: str
    url: str
    asked: bool

    @property
    def key(self) -> tuple[int, int]:
        return self.message, self.part

    def refused(self, why: object) -> BadRequest:
        """That the image cannot be looked at; `why` completes "the image ..."."""
        return BadRequest(f"{self.label} {why}", param="messages")


def image_places(messages: Sequence[JsonObject]) -> list[ImagePlace]:
    """Every image, in the order of the conversation."""
    last = max((place for place, message in enumerate(messages) if message.get("role") == "user"), default=-1)
    found = [
        (place, number, part)
        for place, message in enumerate(messages)
        for number, part in enumerate(_parts(message))
        if is_image(part)
    ]
    return [
        ImagePlace(
            place, number, "the image" if len(found) == 1 else f"image {count}", url_of(part), asked=place == last
        )
        for count, (place, number, part) in enumerate(found, 1)
    ]


def refuse_too_many(request: GenerationRequest) -> None:
    """Raises BadRequest for more images than anybody sends, which would take the loop seconds; counting takes none."""
    count = sum(is_image(part) for message in request.messages or () for part in _parts(message))
    if count > MAX_SENT:
        raise BadRequest(
            f"the conversation has {count} images, and {MAX_SENT} may be sent: leave out the first ones",
            param="messages",
        )


def asks_about_images(request: GenerationRequest) -> bool:
    """Whether the user's last turn has an image: an answer of whoever cannot see it would be none."""
    return any(place.asked for place in image_places(request.messages or ()))


def with_images(request: GenerationRequest, instead: Mapping[tuple[int, int], JsonValue]) -> GenerationRequest:
    """`request` with other parts at the places of some images, by message and part."""
    turns = list(request.messages or ())
    for place in {message for message, _ in instead}:
        parts = [instead.get((place, number), part) for number, part in enumerate(_parts(turns[place]))]
        turns[place] = {**turns[place], "content": joined([[part] for part in parts])}
    return request.model_copy(update={"messages": tuple(turns)})


def in_words(request: GenerationRequest) -> GenerationRequest:
    """`request` for a model that cannot see: a note in the place of each image."""
    places = image_places(request.messages or ())
    return with_images(request, {place.key: left_out("image", BLIND) for place in places})


def left_out(kind: str, why: str) -> str:
    """The note that stands in the place of what the model is not shown."""
    return f"[{kind} left out: {why}]"


def _parts(message: JsonObject) -> list[JsonValue]:
    content = message.get("content")
    return content if isinstance(content, list) else []


# What its bytes tell


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What an image says of itself: its `kind` ("png", "jpeg", "gif", "webp"), and its size in pixels."""

    kind: str
    width: int
    height: int

    @property
    def pixels(self) -> int:
        return self.width * self.height


def data_of(url: str) -> bytes:
    """The bytes in a `data:` URL. Raises ValueError with what is wrong with it, to be said of an image."""
    found = _DATA_URL.match(url)
    if found is None:
        raise ValueError("has no data: URL: send the image itself, as data:image/png;base64,...")
    if not found["options"].lower().endswith(";base64"):
        raise ValueError("is not in base64, as a data: URL has to be here: data:image/png;base64,...")
    text = url[found.end() :]
    try:
        text = "".join(text.split())  # some break it into lines
        raw = binascii.a2b_base64(text + "=" * (-len(text) % 4), strict_mode=True)
    except ValueError as error:
        raise ValueError(f"is not base64, as its data: URL says: {error}") from None
    if not raw:
        raise ValueError("has no data in its data: URL")
    return raw


def data_url(raw: bytes, header: ImageHeader) -> str:
    """An image as a URL that has all of it, of the type that it is."""
    return f"data:image/{header.kind};base64,{binascii.b2a_base64(raw, newline=False).decode()}"


def header_of(raw: bytes) -> ImageHeader:
    """What `raw` is. Raises ValueError where it is no image, or one without pixels."""
    found: ImageHeader | None = None
    if raw.startswith(b"\x89PNG\r\n\x1a\n"):
        if raw[12:16] == b"IHDR" and len(raw) >= 33:
            found = ImageHeader("png", int.from_bytes(raw[16:20]), int.from_bytes(raw[20:24]))
    elif raw.startswith(b"\xff\xd8"):
        found = _jpeg_header(raw)
    elif raw.startswith((b"GIF87a", b"GIF89a")):
        if len(raw) >= 13:
            found = ImageHeader("gif", int.from_bytes(raw[6:8], "little"), int.from_bytes(raw[8:10], "little"))
    elif raw[:4] == b"RIFF" and raw[8:12] == b"WEBP":
        found = _webp_header(raw)
    if found is None or not found.pixels:
        raise ValueError(NO_IMAGE)
    return found


def _jpeg_header(raw: bytes) -> ImageHeader | None:
    """The size in the first start of a frame; what stands between two segments is passed over, as stb_image does."""
    at = 2
    for _ in range(MAX_SEGMENTS):
        found = _MARKER.search(raw, at)
        if found is None or (at := found.end()) + 2 > len(raw):
            return None
        marker, length = found[0][1], int.from_bytes(raw[at : at + 2])
        if marker in (_END_OF_IMAGE, _START_OF_SCAN):
            return None
        if marker in _STARTS_OF_FRAME:
            if len(raw) < at + 7:
                return None
            return ImageHeader("jpeg", int.from_bytes(raw[at + 5 : at + 7]), int.from_bytes(raw[at + 3 : at + 5]))
        at += length
    return None


def _webp_header(raw: bytes) -> ImageHeader | None:
    form, data = raw[12:16], raw[20:30]
    if len(data) < 10:
        return None
    if form == b"VP8 " and data[3:6] == b"\x9d\x01\x2a":
        width, height = (int.from_bytes(data[at : at + 2], "little") & 0x3FFF for at in (6, 8))
        return ImageHeader("webp", width, height)
    if form == b"VP8L" and data[0] == 0x2F:
        bits = int.from_bytes(data[1:5], "little")
        return ImageHeader("webp", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    if form == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (4, 7))
        return ImageHeader("webp", width, height)
    return None


def refuse_images(request: GenerationRequest, engine: str, kinds: frozenset[str]) -> None:
    """Raises BadRequest for images that an engine which reads such `kinds` is not given: broken, too large, too many.

    It decodes them from base64: some 10 ms for all that there may be.
    """
    budget = ImageBudget()
    for place in image_places(request.messages or ()):
        try:
            raw = data_of(place.url)
            header = header_of(raw)
            if header.kind not in kinds:
                raise ValueError(f"is {header.kind.upper()}, which {engine} does not read: {UNREADABLE}")
            budget.take(header, len(raw))
        except ValueError as error:
            raise place.refused(error) from error


class ImageBudget:
    """What the images of one request may be together: each is taken or, with a ValueError that says why, is not."""

    def __init__(self) -> None:
        self._images = self._pixels = self._bytes = 0

    def take(self, header: ImageHeader, size_bytes: int) -> None:
        """Count an image of `size_bytes`. What is too large is not counted, so that others may have its place."""
        size = f"{header.width} x {header.height} pixels ({_mega(header.pixels)} megapixels)"
        if header.pixels > MAX_PIXELS:
            raise ValueError(f"has {size}; at most {_mega(MAX_PIXELS)} megapixels are looked at: send a smaller one")
        if self._images >= MAX_IMAGES:
            raise ValueError(TOO_MANY)
        if self._pixels + header.pixels > MAX_PIXELS_TOGETHER:
            raise ValueError(
                f"has {size}, {_mega(self._pixels + header.pixels)} with the other images; at most "
                f"{_mega(MAX_PIXELS_TOGETHER)} are looked at in one request: send smaller ones, or fewer"
            )
        if self._bytes + size_bytes > MAX_IMAGE_BYTES_TOGETHER:
            raise ValueError(
                f"has {size_bytes / 2**20:.1f} MiB, {(self._bytes + size_bytes) / 2**20:.1f} with the other images; at "
                f"most {MAX_IMAGE_BYTES_TOGETHER // 2**20} MiB are taken in one request: send smaller ones, or fewer"
            )
        self._images += 1
        self._pixels += header.pixels
        self._bytes += size_bytes


def _mega(pixels: int) -> str:
    return f"{pixels / 1e6:.1f}".removesuffix(".0")
