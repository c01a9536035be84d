"""Images for tests: of one colour, small or said to be large, sound or broken."""

from __future__ import annotations

import base64
import struct
import zlib

from swarm.generation import JsonObject

RED, BLUE = (255, 0, 0), (0, 0, 255)


def png(width: int = 8, height: int = 8, colour: tuple[int, int, int] = RED) -> bytes:
    """A picture of one colour; hundreds of megapixels of it are some 100 KB."""
    row = b"\0" + bytes(colour) * width
    packer = zlib.compressobj(1)
    packed = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = (_chunk(b"IHDR", header), _chunk(b"IDAT", packed), _chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def said_to_be(width: int, height: int) -> bytes:
    """A PNG that says it is so large, and has the pixels of a small one."""
    small = png()
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return small[:8] + _chunk(b"IHDR", header) + small[33:]


def jpeg(width: int, height: int) -> bytes:
    """The beginning of a JPEG, as far as its frame: with a thumbnail of another size in its metadata."""
    thumbnail = b"\xff\xd8\xff\xc0\x00\x0b\x08" + struct.pack(">HH", 3, 4) + b"\x01\x01\x11\x00"
    metadata = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    frame = b"\xff\xc2\x00\x11\x08" + struct.pack(">HH", height, width) + b"\x03" + bytes(9)
    return b"\xff\xd8" + metadata + b"\x00\xff" + frame + bytes(16)


def gif(width: int, height: int) -> bytes:
    """The beginning of a GIF."""
    return b"GIF89a" + struct.pack("<HH", width, height) + bytes(8)


def webp(width: int, height: int) -> bytes:
    """The beginning of a WebP with features (VP8X)."""
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF" + bytes(4) + b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + size + bytes(8)


def url_of(raw: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(raw).decode()}"


def shown(raw: bytes, kind: str = "png") -> JsonObject:
    """An image as a part of a turn's content."""
    return {"type": "image_url", "image_url": {"url": url_of(raw, kind)}}


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
