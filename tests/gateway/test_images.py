"""Images in requests of every API: who is shown them, what is refused with its size, and what is fetched from where."""

from __future__ import annotations

import asyncio
import base64
import socket
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from swarm.errors import BadRequest
from swarm.gateway.answers.request_images import NOT_FETCHED, RequestImages
from swarm.generation import GenerationRequest, JsonValue
from swarm.images import (
    MAX_IMAGE_BYTES_TOGETHER,
    MAX_IMAGES,
    MAX_SEGMENTS,
    MAX_SENT,
    ImageHeader,
    data_of,
    header_of,
    image_part,
    image_places,
    in_words,
    joined,
    refuse_images,
    url_of,
)
from swarm.tools.public_web import PublicResolver, is_public
from tests.doubles import images
from tests.doubles.clients import Client, connect
from tests.doubles.images import BLUE, gif, jpeg, png, said_to_be, shown, webp
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine, saying

NOTE = "[image left out: this model reads text only]"
RED_URL, BLUE_URL = images.url_of(png()), images.url_of(png(colour=BLUE))
LARGE_URL = images.url_of(said_to_be(12_000, 9_000))
LARGE = "has 12000 x 9000 pixels (108 megapixels); at most 50 megapixels are looked at: send a smaller one"


# What its bytes tell


@pytest.mark.parametrize(
    ("raw", "header"),
    [
        (png(30, 20), ImageHeader("png", 30, 20)),
        (said_to_be(12_000, 9_000), ImageHeader("png", 12_000, 9_000)),
        (jpeg(640, 480), ImageHeader("jpeg", 640, 480)),
        (b"\xff\xd8" + 9 * (b"\xff\xff\xe0\x00\x04\xff\xc0" + b"between") + jpeg(9, 8)[2:], ImageHeader("jpeg", 9, 8)),
        (gif(7, 5), ImageHeader("gif", 7, 5)),
        (webp(300, 200), ImageHeader("webp", 300, 200)),
    ],
    ids=lambda value: value.kind if isinstance(value, ImageHeader) else "",
)
def test_the_size_is_read_without_decoding(raw: bytes, header: ImageHeader) -> None:
    assert header_of(raw) == header
    for end in range(len(raw) if header.kind != "png" else 33):
        try:
            found = header_of(raw[:end])
        except ValueError:
            continue
        assert found == header, "a part of an image is no other image"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"GIF",
        b"<svg/>",
        b"\x89PNG\r\n\x1a\n" + bytes(40),
        said_to_be(0, 5),
        b"\xff\xd8" + b"\xff" * 50,
        b"\xff\xd8\xff\xda" + bytes(50),
        b"\xff\xd8" + MAX_SEGMENTS * b"\xff\xe0\x00\x02" + jpeg(9, 9)[2:],
    ],
    ids=range(8),
)
def test_what_is_no_image_says_what_to_send(raw: bytes) -> None:
    with pytest.raises(ValueError, match="is neither PNG, JPEG, GIF nor WebP, or is broken: send it as PNG or JPEG"):
        header_of(raw)


@pytest.mark.parametrize(
    ("url", "wrong"),
    [
        ("", "has no data: URL"),
        ("data:image/png,abc", "is not in base64"),
        ("data:image/png;base64,", "has no data"),
        ("data:image/png;base64,a?b=", "is not base64"),
        ("file:///etc/passwd", "has no data: URL"),
    ],
)
def test_what_is_no_data_url_says_what_to_send(url: str, wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        data_of(url)


def test_base64_is_read_as_clients_write_it() -> None:
    text = base64.b64encode(b"0123456").decode()
    for written in (text, text.rstrip("="), f"{text[:4]}\n{text[4:]}\n"):
        assert data_of(f"data:;charset=x;base64,{written}") == b"0123456"


def test_contents_are_joined_in_their_order() -> None:
    image = image_part("x")
    assert joined(["a", "", None, "b"], "-") == "a-b"
    assert joined(["a", [image], "b"], "-") == [text("a-"), image, text("-b")]
    assert joined([[text("a"), image], [text("b")]]) == [text("a"), image, text("b")]
    assert joined([]) == ""


# What of a conversation is looked at


def text(words: str) -> dict[str, JsonValue]:
    return {"type": "text", "text": words}


def asked(*turns: tuple[str, list[JsonValue]]) -> GenerationRequest:
    messages = tuple({"role": role, "content": parts} for role, parts in turns)
    return GenerationRequest.model_validate({"model": "eyes", "messages": messages})


def urls(request: GenerationRequest) -> list[str]:
    return [place.url for place in image_places(request.messages or ())]


async def looked_at(request: GenerationRequest, **more: Any) -> GenerationRequest:
    return await RequestImages(**more).looked_at(request)


async def test_an_image_that_is_asked_about_must_be_there() -> None:
    for url, why in (
        (LARGE_URL, LARGE),
        ("data:image/png;base64,AAAA", "is neither PNG"),
        ("https://example.org/cat.png", NOT_FETCHED),
        ("ftp://example.org/cat.png", "has no data: URL"),
    ):
        with pytest.raises(BadRequest) as refused:
            await looked_at(asked(("user", [image_part(RED_URL), image_part(url)])))
        assert str(refused.value).startswith(f"image 2 {why}")
        assert refused.value.param == "messages"


async def test_one_that_came_before_has_a_note_in_its_place() -> None:
    """No later turn could be answered else."""
    request = await looked_at(
        asked(
            ("user", [text("see"), image_part(LARGE_URL), image_part(RED_URL)]),
            ("tool", [image_part("http://example.org/x")]),
            ("user", [text("and?")]),
        )
    )
    assert urls(request) == [RED_URL]
    first, tool, _ = request.messages or ()
    assert first["content"] == [text(f"see[image left out: it {LARGE}]"), image_part(RED_URL)]
    assert str(tool["content"]).startswith("[image left out: it has a web address, and this node fetches nothing")


async def test_the_last_ones_are_taken_first() -> None:
    many = [image_part(RED_URL)] * MAX_IMAGES
    request = await looked_at(asked(("user", [image_part(BLUE_URL), *many]), ("user", [text("and?")])))
    assert urls(request) == [RED_URL] * MAX_IMAGES
    with pytest.raises(BadRequest, match=f"image 1 is one more than the {MAX_IMAGES}"):
        await looked_at(asked(("user", [image_part(BLUE_URL), *many])))
    half = image_part(images.url_of(said_to_be(7000, 7000)))
    with pytest.raises(BadRequest, match=r"image 1 has 7000 x 7000 pixels \(49 megapixels\), 147 with"):
        await looked_at(asked(("user", [half, half, half])))


async def test_an_image_is_given_on_as_what_it_is() -> None:
    request = await looked_at(asked(("user", [image_part(images.url_of(gif(3, 3), "png"))])))
    assert urls(request) == [images.url_of(gif(3, 3), "gif")]


def test_an_engine_is_given_none_that_is_too_large_whoever_sends_it() -> None:
    kinds = frozenset({"png"})
    refuse_images(asked(("user", [image_part(RED_URL)])), "it", kinds)
    for url, why in ((LARGE_URL, "108 megapixels"), (images.url_of(gif(3, 3)), "is GIF, which it does not read")):
        with pytest.raises(BadRequest, match=why):
            refuse_images(asked(("user", [image_part(url)]), ("user", [text("and?")])), "it", kinds)


def test_who_cannot_see_is_told_so() -> None:
    request = in_words(asked(("user", [text("a "), image_part(RED_URL), text(" b")])))
    assert request.messages == ({"role": "user", "content": f"a {NOTE} b"},)


# From the web


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1:248:1893:25c8:1946", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::", False),
        ("fe80::1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("fec0::1", False),
        ("ff02::1", False),
        ("::ffff:127.0.0.1", False),
        ("::127.0.0.1", False),
        ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False),
        ("2001:0:1::", False),
        ("nonsense", False),
    ],
)
def test_which_addresses_are_of_the_internet(address: str, public: bool) -> None:
    assert is_public(address) is public


class Web:
    """A server with images, and some that lead elsewhere."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        self.asked.append(name)
        if name == "red":
            assert "Cookie" not in request.headers
            return web.Response(body=png(), content_type="text/plain")
        if name == "never":
            await asyncio.Event().wait()
        if name == "endless":
            response = web.StreamResponse()
            await response.prepare(request)
            while True:
                await response.write(bytes(2**20))
        if name == "packed":
            return web.Response(body=png(), headers={"Content-Encoding": "gzip"})
        if name.startswith("to-"):
            raise web.HTTPFound(name.removeprefix("to-"))
        if name == "inside":
            raise web.HTTPFound("http://169.254.169.254/latest/meta-data")
        if name == "torn":
            return web.Response(status=302, headers={"Location": "http://[::1"})
        if name == "long":
            raise web.HTTPFound(f"http://{'a' * 300}/")
        if name == "file":
            raise web.HTTPFound("file:///etc/passwd")
        raise web.HTTPNotFound


@pytest.fixture
async def site() -> AsyncIterator[tuple[Web, str]]:
    site, app = Web(), web.Application()
    app.router.add_get("/{name}", site.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    listening = web.TCPSite(runner, "127.0.0.1", 0)
    await listening.start()
    yield site, f"http://localhost:{runner.addresses[0][1]}"
    await runner.cleanup()


def allowing_loopback(address: str) -> bool:
    return is_public(address) or address in ("127.0.0.1", "::1")


@pytest.mark.parametrize("name", ["red", "to-red", "to-to-to-red"])
async def test_a_web_address_is_fetched_where_the_owner_wants_it(site: tuple[Web, str], name: str) -> None:
    request = asked(("user", [image_part(f"{site[1]}/{name}")]))
    assert urls(await looked_at(request, fetches=True, is_allowed=allowing_loopback)) == [RED_URL]
    with pytest.raises(BadRequest, match="the image has a web address, and this node fetches nothing"):
        await looked_at(request)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("nothing", "localhost answered 404"),
        ("inside", "169.254.169.254 is not in the internet"),
        ("file", "is no http:// or https:// address"),
        ("torn", "the image cannot be fetched: its address is no http:// or https:// address"),
        ("long", "the image cannot be fetched: its address names no host that there can be"),
        ("to-to-to-to-red", "passed on more than 3 times"),
        ("endless", "at localhost has more than 11.0 MiB"),
    ],
)
async def test_what_cannot_be_fetched_says_why(site: tuple[Web, str], name: str, why: str) -> None:
    request = asked(("user", [image_part(f"{site[1]}/{name}")]))
    with pytest.raises(BadRequest, match=why):
        await looked_at(request, fetches=True, is_allowed=allowing_loopback)


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "127.0.0.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "2130706433",
        "0x7f.1",
        "\uff11\uff12\uff17.0.0.1",  # full-width digits, which are digits to the client
        "\u2460\u2461\u2466.0.0.1",  # in circles
        "127\u30020\u30020\u30021",  # ideographic full stops
    ],
)
async def test_no_name_and_no_spelling_leads_to_this_machine(site: tuple[Web, str], host: str) -> None:
    port = site[1].rpartition(":")[2]
    with pytest.raises(
        BadRequest, match=r"cannot be fetched: (.* is not in the internet|2130706433 - is not a canonical IPv4 address)"
    ):
        await looked_at(asked(("user", [image_part(f"http://{host}:{port}/red")])), fetches=True)
    assert site[0].asked == []


async def test_no_socket_is_made_for_what_is_not_public_whoever_resolved_it(
    site: tuple[Web, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def resolve(self: object, host: str, port: int, family: int) -> list[dict[str, Any]]:
        more = {"family": socket.AF_INET, "proto": 0, "flags": socket.AI_NUMERICHOST}
        return [{"hostname": host, "host": "127.0.0.1", "port": port, **more}]

    monkeypatch.setattr(PublicResolver, "resolve", resolve)
    port = site[1].rpartition(":")[2]
    with pytest.raises(BadRequest, match=r"cannot be fetched: .*127\.0\.0\.1 is not in the internet"):
        await looked_at(asked(("user", [image_part(f"http://example.org:{port}/red")])), fetches=True)
    assert site[0].asked == []


async def test_no_more_are_fetched_than_are_looked_at(site: tuple[Web, str]) -> None:
    many = [image_part(f"{site[1]}/nothing-{number}") for number in range(3 * MAX_IMAGES)]
    request = asked(("user", many), ("user", [text("and?")]))
    seen = await looked_at(request, fetches=True, is_allowed=allowing_loopback)
    assert set(site[0].asked) == {f"nothing-{number}" for number in range(2 * MAX_IMAGES, 3 * MAX_IMAGES)}
    said = str((seen.messages or ())[0]["content"])
    assert said.count("localhost answered 404") == MAX_IMAGES
    assert said.count(f"is one more than the {MAX_IMAGES}") == 2 * MAX_IMAGES


async def test_what_is_read_at_once_is_no_more_than_they_may_have_together(site: tuple[Web, str]) -> None:
    """Each of many that never end would take as much as all of them may."""
    endless = [image_part(f"{site[1]}/endless?{number}") for number in range(8)]
    request = asked(("user", [image_part(f"{site[1]}/red"), *endless]), ("user", [text("and?")]))
    tracemalloc.start()
    try:
        seen = await looked_at(request, fetches=True, is_allowed=allowing_loopback)
        most_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    said = (seen.messages or ())[0]["content"]
    assert str(said).count("at localhost has more than") == len(endless)
    assert most_bytes < 4 * MAX_IMAGE_BYTES_TOGETHER


async def test_a_name_that_cannot_be_resolved_is_told() -> None:
    with pytest.raises(BadRequest, match="cannot be fetched: "):
        await looked_at(asked(("user", [image_part("http://no-such-host.invalid/x")])), fetches=True)


async def test_what_takes_too_long_is_given_up(site: tuple[Web, str]) -> None:
    request = asked(("user", [image_part(f"{site[1]}/never")]))
    with pytest.raises(BadRequest, match=r"the image was not fetched within 0.1 s"):
        await looked_at(request, fetches=True, is_allowed=allowing_loopback, fetch_s=0.1)


# Who is asked


def anthropic_image(url: str) -> dict[str, Any]:
    return {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": url.partition(",")[2]}}


APIS: dict[str, tuple[str, Any]] = {
    "chat": (
        "/v1/chat/completions",
        lambda url: {"messages": [{"role": "user", "content": [text("what?"), image_part(url)]}]},
    ),
    "responses": (
        "/v1/responses",
        lambda url: {
            "input": [
                {
                    "role": "user",
                    "content": [{"type": "input_text", "text": "what?"}, {"type": "input_image", "image_url": url}],
                }
            ]
        },
    ),
    "messages": (
        "/v1/messages",
        lambda url: {"max_tokens": 9, "messages": [{"role": "user", "content": [text("what?"), anthropic_image(url)]}]},
    ),
    "count": (
        "/v1/messages/count_tokens",
        lambda url: {"messages": [{"role": "user", "content": [text("what?"), anthropic_image(url)]}]},
    ),
}
EVERY_API = pytest.mark.parametrize("api", APIS)


class House:
    """A node with a model that sees and one that does not, and a node that has neither; engines by their models."""

    def __init__(self) -> None:
        self.engines: dict[str, ScriptedEngine] = {}

    async def opened(self, stack: AsyncExitStack, *models: str) -> Client:
        for name in models:
            self.engines[name] = ScriptedEngine(saying(f"{name} says"), model_id=name, slots=2)
            self.engines[name].can = {"vision": name.startswith("eyes")}
        loaders = [ready(self.engines[name]) for name in models]
        study = await stack.enter_async_context(RunningNode("study", *loaders))
        peer = await stack.enter_async_context(RunningNode("kitchen", options=NodeOptions(peers=[study.address])))
        self.study = await stack.enter_async_context(connect(study.url))
        return await stack.enter_async_context(connect(peer.url))

    def seen(self, model: str) -> list[str]:
        """The URLs of the images in the last request to a model."""
        return urls(self.engines[model].requests[-1])


@asynccontextmanager
async def opened_house() -> AsyncIterator[tuple[House, Client]]:
    house = House()
    async with AsyncExitStack() as stack:
        yield house, await house.opened(stack, "eyes", "blind")


def send(client: Client, api: str, url: str, model: str, **more: Any) -> Any:
    path, body = APIS[api]
    return client.post(path, {"model": model, **body(url), **more})


@EVERY_API
@pytest.mark.parametrize("through_a_peer", [False, True])
async def test_a_model_that_sees_is_shown_it(api: str, through_a_peer: bool) -> None:
    async with opened_house() as house:
        client = house[1] if through_a_peer else house[0].study
        reply = await send(client, api, RED_URL, "eyes")
        assert reply.status == 200, reply.text
        if api != "count":
            assert house[0].seen("eyes") == [RED_URL]
            assert "eyes says" in reply.text


@EVERY_API
@pytest.mark.parametrize("through_a_peer", [False, True])
async def test_one_that_does_not_says_so_and_names_one_that_does(api: str, through_a_peer: bool) -> None:
    async with opened_house() as house:
        client = house[1] if through_a_peer else house[0].study
        reply = await send(client, api, RED_URL, "blind")
        assert reply.status == 400
        assert reply.error["message"] == "model 'blind' cannot see images; these can: eyes"


@EVERY_API
@pytest.mark.parametrize("through_a_peer", [False, True])
async def test_one_of_a_hundred_megapixels_is_refused_with_its_size(api: str, through_a_peer: bool) -> None:
    async with opened_house() as house:
        client = house[1] if through_a_peer else house[0].study
        reply = await send(client, api, LARGE_URL, "eyes")
        assert reply.status == 400
        assert reply.error["message"] == f"the image {LARGE}"
        assert not house[0].engines["eyes"].requests


async def test_more_than_anybody_sends_are_refused_before_each_is_looked_at() -> None:
    turn: dict[str, Any] = {"role": "user", "content": [image_part("x")] * 600}
    async with opened_house() as house:
        for model in ("eyes", "blind", "swarm"):
            body = {"model": model, "messages": [turn, turn, {"role": "user", "content": "and?"}]}
            reply = await house[1].post("/v1/chat/completions", body)
            assert reply.status == 400
            assert reply.error["message"].startswith(f"the conversation has 1200 images, and {MAX_SENT} may be sent")


async def test_the_alias_means_models_that_see() -> None:
    async with opened_house() as house:
        for votes in (1, 2):
            reply = await send(house[1], "chat", RED_URL, "swarm", swarm={"votes": votes})
            assert reply.status == 200, reply.text
            assert reply.json["choices"][0]["message"]["content"] == "eyes says"
        assert not house[0].engines["blind"].requests
        assert house[0].seen("eyes") == [RED_URL]


async def test_what_came_before_is_a_note_to_who_cannot_see() -> None:
    async with opened_house() as house:
        turns: list[Any] = [
            {"role": "user", "content": [text("what? "), image_part(RED_URL)]},
            {"role": "assistant", "content": "a cat"},
            {"role": "user", "content": "sure?"},
        ]
        for client in house[1], house[0].study:
            reply = await client.post("/v1/chat/completions", {"model": "blind", "messages": turns})
            assert reply.status == 200, reply.text
            (request,) = house[0].engines["blind"].requests
            assert (request.messages or ())[0]["content"] == f"what? {NOTE}"
            house[0].engines["blind"].requests.clear()
        reply = await house[1].post("/v1/chat/completions", {"model": "swarm", "messages": turns})
        assert reply.status == 200, reply.text
        assert house[0].seen("eyes") == [RED_URL]


async def test_where_nobody_sees_it_is_said_what_it_takes() -> None:
    async with AsyncExitStack() as stack:
        client = await House().opened(stack, "blind")
        for model in ("blind", "swarm"):
            reply = await send(client, "chat", RED_URL, model)
            assert reply.status == 400
            assert reply.error["message"] == (
                f"model {model!r} cannot see images; it takes a vision model with its image part (mmproj) beside it"
            )


async def test_the_list_and_the_facts_say_who_sees() -> None:
    async with opened_house() as house:
        listed = (await house[1].get("/v1/models")).json["data"]
        inputs = {model["id"]: model["modalities"]["input"] for model in listed}
        assert inputs == {"swarm": ["text", "image"], "eyes": ["text", "image"], "blind": ["text"]}
        for model, sees in (("eyes", True), ("blind", False)):
            facts = (await house[1].get(f"/v1/props?model={model}")).json
            assert facts["modalities"]["vision"] is sees


def test_an_image_is_known_by_its_url() -> None:
    assert url_of(shown(png())) == RED_URL
    assert url_of({"type": "image_url", "image_url": "x"}) == url_of("x") == ""
