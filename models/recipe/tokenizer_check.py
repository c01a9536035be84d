"""Whether the engine cuts text into the same tokens as the tokenizer that training used.

python -m models.recipe.tokenizer_check MODEL.gguf TOKENIZER.json
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import sys
import urllib.request
from pathlib import Path

from tokenizers import Tokenizer

from models.recipe.document import prompt_text
from models.recipe.mixture import documents
from swarm.engines.engine import EngineSpec
from swarm.engines.llama_cpp.xllamacpp_host import RunningServer, start_server

STRINGS = 1000
CHECK_SEED = 4711
ANY_CHARACTERS = (
    "abcXYZ019 _-.,:;!?\"'{}[]()<>/\\\n\r\t\u00e4\u00df\u00e9\u4f60\u597d\u0416\U0001f600\u00a0\u0301\u00bd\u0663"
)


def check_strings() -> list[str]:
    """Half of them prompts as the engine sees them, half characters in no order."""
    source = random.Random(CHECK_SEED)
    prompts = [prompt_text(document) for document in itertools.islice(documents(CHECK_SEED), STRINGS // 2)]
    jumbles = ["".join(source.choices(ANY_CHARACTERS, k=source.randint(1, 80))) for _ in range(STRINGS // 2)]
    return prompts + jumbles


def engine_ids(server: RunningServer, text: str) -> list[int]:
    """The tokens of `text` in the engine."""
    body = json.dumps({"content": text, "add_special": True, "parse_special": True}).encode()
    headers = {"Authorization": f"Bearer {server.key}", "Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(f"{server.address}/tokenize", body, headers)) as answer:
        return json.load(answer)["tokens"]


def different_strings(model: Path, tokenizer: Tokenizer) -> list[str]:
    """Those of the strings that are cut differently; none is what training relies on."""
    server = start_server(EngineSpec("check", model, 512, 1, threads=1))
    return [text for text in check_strings() if engine_ids(server, text) != tokenizer.encode(text).ids]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("tokenizer", type=Path)
    arguments = parser.parse_args()
    different = different_strings(arguments.model, Tokenizer.from_file(str(arguments.tokenizer)))
    sys.stdout.write(f"{STRINGS - len(different)} of {STRINGS} strings have equal ids\n")
    for text in different[:5]:
        sys.stdout.write(f"  different: {text!r}\n")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
