"""What `--model` may say, and what is said about names that do not exist."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.errors import SetupError
from swarm.registry.catalogue import Catalogue, Format
from swarm.registry.names import (
    CatalogueRef,
    EmbeddedRef,
    FileRef,
    HubRef,
    ModelRef,
    check_hub_file,
    matches,
    parse_model,
    resolve,
)

CATALOGUE = Catalogue.load()


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("demo", EmbeddedRef("demo")),
        ("demo:b", EmbeddedRef("demo:b")),
        ("qwen3", CatalogueRef("qwen3")),
        ("qwen3:4b", CatalogueRef("qwen3", "4b")),
        ("Qwen2.5-Coder:7B:Q4_K_M", CatalogueRef("qwen2.5-coder", "7b", "q4_k_m")),
        ("qwen3:30b-a3b:4bit", CatalogueRef("qwen3", "30b-a3b", "4bit")),
        ("model.gguf", FileRef(Path("model.gguf"))),
        ("/models/My Model.GGUF", FileRef(Path("/models/My Model.GGUF"))),
        ("./mlx-model", FileRef(Path("mlx-model"))),
        ("hf:unsloth/Qwen3-8B-GGUF/Qwen3-8B-Q4_K_M.gguf", HubRef("unsloth/Qwen3-8B-GGUF", "Qwen3-8B-Q4_K_M.gguf")),
        ("hf:o/r/Q8_0/m-00001-of-00002.gguf", HubRef("o/r", "Q8_0/m-00001-of-00002.gguf")),
        ("hf:mlx-community/Qwen3-4B-4bit", HubRef("mlx-community/Qwen3-4B-4bit", None)),
    ],
)
def test_every_form_is_understood(text: str, ref: ModelRef) -> None:
    assert parse_model(text) == ref


HUB_FILE = HubRef("unsloth/Qwen3-8B-GGUF", "Qwen3-8B-Q4_K_M.gguf")


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("hf:unsloth/Qwen3-8B-GGUF/resolve/main/Qwen3-8B-Q4_K_M.gguf", HUB_FILE),
        ("hf:unsloth/Qwen3-8B-GGUF/blob/main/Qwen3-8B-Q4_K_M.gguf", HUB_FILE),
        ("HF:unsloth/Qwen3-8B-GGUF/Qwen3-8B-Q4_K_M.gguf", HUB_FILE),
        ("hf://unsloth/Qwen3-8B-GGUF/Qwen3-8B-Q4_K_M.gguf", HUB_FILE),
        ("hf.co/unsloth/Qwen3-8B-GGUF/Qwen3-8B-Q4_K_M.gguf", HUB_FILE),
        ("huggingface.co/unsloth/Qwen3-8B-GGUF/resolve/main/Qwen3-8B-Q4_K_M.gguf", HUB_FILE),
        ("https://huggingface.co/unsloth/Qwen3-8B-GGUF/resolve/main/Qwen3-8B-Q4_K_M.gguf?download=true", HUB_FILE),
        ("https://huggingface.co/unsloth/Qwen3-8B-GGUF/blob/main/Qwen3-8B-Q4_K_M.gguf#x", HUB_FILE),
        ("hf:https://hf.co/unsloth/Qwen3-8B-GGUF/raw/main/Qwen3-8B-Q4_K_M.gguf", HUB_FILE),
        ("http://HuggingFace.co/unsloth/Qwen3-8B-GGUF/Qwen3-8B-Q4_K_M.gguf", HUB_FILE),
        ("http://mirror.example/hub/unsloth/Qwen3-8B-GGUF/resolve/main/Qwen3-8B-Q4_K_M.gguf", HUB_FILE),
        ("https://huggingface.co/o/r/resolve/main/Q8_0/m.gguf", HubRef("o/r", "Q8_0/m.gguf")),
        ("https://huggingface.co/o/r", HubRef("o/r", None)),
        ("https://huggingface.co/o/r/tree/main/", HubRef("o/r", None)),
        ("hf:o/r:Q4_K_M", HubRef("o/r", None, "q4_k_m")),
        ("hf.co/o/r:UD-Q4_K_XL", HubRef("o/r", None, "ud-q4_k_xl")),
        ("hf:o/r/M.GGUF", HubRef("o/r", "M.GGUF")),
        ("file:///models/My%20Model.gguf", FileRef(Path("/models/My Model.gguf"))),
        ("Demo:B", EmbeddedRef("demo:b")),
    ],
)
def test_the_spellings_that_people_copy_are_understood(
    text: str, ref: ModelRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://mirror.example/hub/")
    assert parse_model(text) == ref


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("https://example.com/m.gguf", r"fetched from no other address: .* --model PATH\.gguf, .*hf:OWNER/REPO/FILE"),
        ("https://ollama.com/library/qwen3", "fetched from no other address"),
        ("hf:o/r/resolve/v1.0/m.gguf", r"names the revision 'v1\.0'; only 'main' is fetched: give hf:o/r/m\.gguf"),
        ("https://huggingface.co/o/r/tree/main/Q8_0", "is a folder: give one file of it, hf:o/r/Q8_0/FILE"),
        ("https://huggingface.co/datasets/o/r", "does not name a hub repository"),
        ("hf:o/r:Q4_K_M/m.gguf", "give hf:OWNER/REPO/FILE.gguf or hf:OWNER/REPO:QUANT"),
        ("hf:o/r/model.safetensors", r"is not a \.gguf file: give hf:OWNER/REPO/FILE\.gguf, or hf:o/r"),
    ],
)
def test_what_is_spelled_otherwise_is_told_what_to_write(text: str, said: str) -> None:
    with pytest.raises(SetupError, match=said):
        parse_model(text)


def test_a_home_folder_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert parse_model("~/m.gguf") == FileRef(Path("/home/someone/m.gguf"))


@pytest.mark.parametrize(
    "text", ["", "qwen3:4b:q4_k_m:extra", "qwen3::q4", ":4b", "qwen 3", "qwen3:4b\n", "a" * 2000, "-x", "demo:4b:??"]
)
def test_what_cannot_be_a_name_is_refused_with_the_forms(text: str) -> None:
    with pytest.raises(SetupError, match=r"is not a model name: give NAME:SIZE"):
        parse_model(text)


@pytest.mark.parametrize(
    "text",
    [
        "hf:owner",
        "hf:owner/",
        "hf:../etc/passwd.gguf",
        "hf:owner/..",
        "hf:owner/repo/../../../etc/passwd.gguf",
        "hf:owner/repo//m.gguf",
        "hf:owner/repo/.hidden.gguf",
        "hf:owner/re--po/m.gguf",
        "hf:owner/repo/a\\b.gguf",
        "hf:owner/repo/C:m.gguf",
        "hf:owner/repo/a/b/c/d/e.gguf",
        "hf:owner/repo/model.safetensors",
        "hf:owner/repo/%2e%2e/m.gguf",
    ],
)
def test_a_hub_name_stays_inside_its_folder(text: str) -> None:
    with pytest.raises(SetupError):
        parse_model(text)


@given(st.text(max_size=40))
def test_no_hub_file_leaves_its_folder(file: str) -> None:
    try:
        check_hub_file(file)
    except SetupError:
        return
    root = Path("/models/owner--repo")
    assert (root / file).resolve().is_relative_to(root)


@given(st.text(max_size=60))
def test_any_text_is_a_reference_or_a_setup_error(text: str) -> None:
    with suppress(SetupError):
        assert isinstance(parse_model(text), ModelRef)


@pytest.mark.parametrize(
    ("text", "formats", "found"),
    [
        ("qwen2.5-coder:7b:4bit", ["mlx"], "qwen2.5-coder:7b:4bit"),
        ("qwen2.5-coder:7b:4bit", ["mlx", "gguf"], "qwen2.5-coder:7b:4bit"),
        ("qwen2.5-coder:7b:4bit", ["gguf", "mlx"], "qwen2.5-coder:7b:4bit"),
        ("qwen2.5-coder:7b", ["mlx", "gguf"], "qwen2.5-coder:7b:4bit"),
        ("Qwen_Qwen3-32B-Q4_K_M", ["gguf"], "qwen3:32b:q4_k_m"),
        ("qwen2.5-coder:7b:q4_k_m", ["mlx", "gguf"], "qwen2.5-coder:7b:q4_k_m"),
        ("qwen2.5-coder:7b", ["gguf"], "qwen2.5-coder:7b:q4_k_m"),
        ("qwen3:0.6b", ["gguf"], "qwen3:0.6b:q8_0"),
        ("granite4", ["gguf"], "granite4:micro:q4_k_m"),
    ],
)
def test_omissions_are_resolved(text: str, formats: list[Format], found: str) -> None:
    ref = parse_model(text)
    assert isinstance(ref, CatalogueRef)
    assert resolve(ref, CATALOGUE, formats).id == found


@pytest.mark.parametrize(
    ("ref", "formats", "said"),
    [
        (CatalogueRef("qwen3-codr", "30b-a3b"), ["gguf"], r"no model is called 'qwen3-codr'; did you mean qwen3-coder"),
        (CatalogueRef("zzzzzz"), ["gguf"], r"no model is called 'zzzzzz'; there are: qwen3\.5, gemma4"),
        (CatalogueRef("llama3.1", "7b"), ["gguf"], r"llama3\.1 does not come in size '7b'; it comes in 8b"),
        (
            CatalogueRef("qwen3", "0.6b", "q4_k_m"),
            ["gguf"],
            r"no qwen3:0\.6b:q4_k_m; there is qwen3:0\.6b:q8_0$",
        ),
        (CatalogueRef("gpt-oss", "20b", "4bit"), ["gguf"], r"no gpt-oss:20b:4bit; there is gpt-oss:20b:mxfp4$"),
        (
            CatalogueRef("qwen3", "4b", "4bit"),
            ["gguf"],
            r"qwen3:4b:4bit comes as MLX only, which no engine here runs; there is qwen3:4b:q4_k_m$",
        ),
        (CatalogueRef("gemma4", "31b"), ["mlx"], r"gemma4:31b comes as GGUF only, which no engine here runs; choose"),
        (CatalogueRef("llama3.2"), ["gguf"], r"llama3\.2 comes in 1b, 3b: name one, such as llama3\.2:1b"),
    ],
)
def test_a_name_that_does_not_exist_says_what_does(ref: CatalogueRef, formats: list[Format], said: str) -> None:
    with pytest.raises(SetupError, match=said):
        resolve(ref, CATALOGUE, formats)


def test_a_family_matches_all_its_sizes() -> None:
    sizes = {choice.entry.size for choice in matches(CatalogueRef("llama3.2"), CATALOGUE)}
    assert sizes == {"1b", "3b"}
