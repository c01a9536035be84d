"""Tools that people try first: weather, time, mail... with requests in plain words, values mostly invented."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from models.recipe.abilities.values import CITIES, ENUMS, PEOPLE, WORDS, integer_value, invented_word
from models.recipe.document import Tool
from models.recipe.splits import Split

UNUSED_SHARE = 0.25  # of the tools have an optional parameter that the request says nothing about
Draw = Callable[[random.Random, Split], Any]


def _city(source: random.Random, split: Split) -> str:
    return split.draw(lambda: source.choice(CITIES) if source.random() < 0.5 else invented_word(source).capitalize())


def _person(source: random.Random, split: Split) -> str:
    return split.draw(lambda: source.choice(PEOPLE) if source.random() < 0.5 else invented_word(source).capitalize())


def _topic(source: random.Random, split: Split) -> str:
    words = source.randint(1, 3)
    return split.draw(
        lambda: " ".join(source.choice(WORDS) if source.random() < 0.6 else invented_word(source) for _ in range(words))
    )


def _number(source: random.Random, split: Split) -> int:
    return integer_value(source, split)


@dataclass(frozen=True, slots=True)
class KnownTool:
    """`requests` use the parameters' names as fields."""

    names: tuple[str, ...]
    description: str
    parameters: tuple[tuple[str, str, Draw], ...]
    requests: tuple[str, ...]


KNOWN_TOOLS = (
    KnownTool(("get_weather", "weather", "get_current_weather", "current_weather"), "Weather of a city",
              (("city", "string", _city),),
              ("What is the weather in {city}?", "How is the weather in {city}?", "Weather in {city}?",
               "What's the weather like in {city} today?", "Is it raining in {city}?", "weather {city}",
               "Tell me the weather in {city}.", "Do I need an umbrella in {city}?", "How warm is it in {city}?")),
    KnownTool(("get_weather", "get_forecast", "weather"), "Weather at a place", (("location", "string", _city),),
              ("What is the weather in {location}?", "What's the forecast for {location}?", "Weather for {location}",
               "How is the weather in {location} now?", "Is it sunny in {location}?")),
    KnownTool(("get_time", "current_time"), "Current time in a city", (("city", "string", _city),),
              ("What time is it in {city}?", "Tell me the time in {city}.", "time in {city}?",
               "What is the current time in {city}?")),
    KnownTool(("send_email", "send_mail"), "Send an e-mail", (("to", "string", _person), ("subject", "string", _topic)),
              ("Send an email to {to} about {subject}.", "Write {to} an email about {subject}",
               "Email {to} with the subject {subject}.", "Mail {to} about {subject} please")),
    KnownTool(("send_message",), "Send a message", (("recipient", "string", _person), ("text", "string", _topic)),
              ("Send {recipient} the message {text}.", "Tell {recipient}: {text}", "Message {recipient}: {text}")),
    KnownTool(("set_timer", "start_timer"), "Start a timer", (("minutes", "integer", _number),),
              ("Set a timer for {minutes} minutes.", "Start a {minutes} minute timer.", "timer {minutes} minutes",
               "Wake me in {minutes} minutes.")),
    KnownTool(("search_web", "web_search", "search"), "Search the web", (("query", "string", _topic),),
              ("Search the web for {query}.", "Search for {query}", "Look up {query}.", "Find pages about {query}.",
               "Google {query}")),
    KnownTool(("play_song", "play_music"), "Play music", (("title", "string", _topic),),
              ("Play {title}.", "Play the song {title}", "I want to hear {title}.", "Put on {title}, please.")),
    KnownTool(("translate", "translate_text"), "Translate a text",
              (("text", "string", _topic), ("language", "string", lambda s, _: s.choice(
                  ("French", "German", "Spanish", "Italian", "Polish", "Dutch", "Greek", "Turkish")))),
              ("Translate {text} to {language}.", "How do you say {text} in {language}?",
               "Translate \"{text}\" into {language}")),
    KnownTool(("book_flight", "find_flight"), "Book a flight", (("origin", "string", _city),
              ("destination", "string", _city)),
              ("Book a flight from {origin} to {destination}.", "I want to fly from {origin} to {destination}.",
               "Find a flight from {origin} to {destination}")),
    KnownTool(("book_table", "reserve_table"), "Book a table", (("people", "integer", _number),
              ("restaurant", "string", _topic)),
              ("Book a table for {people} at {restaurant}.", "Reserve a table for {people} people at {restaurant}")),
    KnownTool(("get_stock_price", "stock_price"), "Price of a stock", (("symbol", "string", lambda s, split: split.draw(
              lambda: "".join(s.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(s.randint(2, 4))))),),
              ("What is the stock price of {symbol}?", "Price of {symbol}?", "How is {symbol} doing?",
               "Get the stock price for {symbol}.")),
    KnownTool(("add", "add_numbers", "sum"), "Add two numbers", (("a", "integer", _number), ("b", "integer", _number)),
              ("Add {a} and {b}.", "Use the tool to add {a} and {b}", "What is the sum of {a} and {b}?")),
    KnownTool(("multiply",), "Multiply two numbers", (("a", "integer", _number), ("b", "integer", _number)),
              ("Multiply {a} by {b}.", "Multiply {a} and {b}", "Use the tool: {a} times {b}")),
    KnownTool(("read_file", "open_file"), "Read a file", (("path", "string", lambda s, split: split.draw(
              lambda: invented_word(s) + s.choice((".txt", ".py", ".md")))),),
              ("Read the file {path}.", "Open {path}", "What is in {path}?", "Show me {path}.")),
    KnownTool(("remind_me", "create_reminder"), "Create a reminder", (("text", "string", _topic),
              ("time", "string", lambda s, _: f"{s.randint(1, 23)}:{s.choice(('00', '15', '30', '45'))}")),
              ("Remind me of {text} at {time}.", "Create a reminder for {text} at {time}",
               "At {time} remind me of {text}.")),
)  # fmt: skip


KNOWN_NAMES = frozenset(name for tool in KNOWN_TOOLS for name in tool.names)  # always trained, so never held out


@dataclass(frozen=True, slots=True)
class KnownUse:
    """One tool, a request in plain words, and the call it asks for."""

    schema: Tool
    request: str
    name: str
    arguments: dict[str, Any]


def draw_known(source: random.Random, split: Split) -> KnownUse:
    """A known tool with its request and its call."""
    tool = source.choice(KNOWN_TOOLS)
    name = source.choice(tool.names)
    arguments = {parameter: draw(source, split) for parameter, _, draw in tool.parameters}
    properties: dict[str, Any] = {parameter: {"type": kind} for parameter, kind, _ in tool.parameters}
    required = list(properties) if source.random() < 0.85 else []
    if source.random() < UNUSED_SHARE:
        extra, options = source.choice(ENUMS)
        properties.setdefault(extra, {"type": "string", "enum": list(options)})
    parameters: dict[str, Any] = {"type": "object", "properties": properties}
    if required:
        parameters["required"] = required
    description = tool.description if source.random() < 0.75 else ""
    schema = {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}
    request = source.choice(tool.requests).format(**arguments)
    return KnownUse(schema, request, name, arguments)
