"""One question by an SDK with its own defaults. Prints one JSON line: {"text"} or {"error"}.

python ask.py openai|openai-responses|anthropic|ollama stream|whole URL
"""

from __future__ import annotations

import json
import sys
from typing import Any

QUESTION: Any = [{"role": "user", "content": "What is the capital of France?"}]
MODEL = "swarm"


def ask(sdk: str, streams: bool, url: str) -> str:
    if sdk == "openai":
        from openai import OpenAI

        chat: Any = OpenAI(base_url=f"{url}/v1", api_key="none").chat.completions
        if not streams:
            return str(chat.create(model=MODEL, messages=QUESTION).choices[0].message.content)
        chunks = chat.create(model=MODEL, messages=QUESTION, stream=True)
        return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    if sdk == "openai-responses":
        from openai import OpenAI

        responses: Any = OpenAI(base_url=f"{url}/v1", api_key="none").responses
        if not streams:
            return str(responses.create(model=MODEL, input=QUESTION).output_text)
        events = responses.create(model=MODEL, input=QUESTION, stream=True)
        return "".join(event.delta for event in events if event.type == "response.output_text.delta")
    if sdk == "anthropic":
        from anthropic import Anthropic

        messages: Any = Anthropic(base_url=url, api_key="none").messages
        if not streams:
            return str(messages.create(model=MODEL, messages=QUESTION, max_tokens=1024).content[0].text)
        with messages.stream(model=MODEL, messages=QUESTION, max_tokens=1024) as stream:
            return "".join(stream.text_stream)
    from ollama import Client

    client: Any = Client(host=url)
    if not streams:
        return str(client.chat(MODEL, QUESTION).message.content)
    return "".join(part.message.content or "" for part in client.chat(MODEL, QUESTION, stream=True))


def main() -> None:
    sdk, how, url = sys.argv[1:]
    try:
        answer = {"text": ask(sdk, how == "stream", url)}
    except Exception as error:  # noqa: BLE001  whatever a user would see
        answer = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
