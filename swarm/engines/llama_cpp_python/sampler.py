"""How one answer draws its tokens: llama.cpp's own samplers in a chain, and before them the form that it must keep."""

from __future__ import annotations

import ctypes
import importlib
import math
from collections.abc import Sequence
from typing import Any

from swarm.engines.hosted.generator import JobSampling, Logprobs, TokenLogprob
from swarm.engines.hosted.json_forms import Form
from swarm.engines.llama_cpp_python.library import Vocabulary
from swarm.generation import SEED_MASK

PENALIZED_TOKENS = 64  # how far back penalties look: llama.cpp's own default


class TokenSampler:
    """One answer's. `free` it when the answer has ended."""

    def __init__(
        self,
        llama: Any,
        vocabulary: Vocabulary,
        sampling: JobSampling,
        choice: int,
        form: Form | None,
        before: Sequence[int],
    ) -> None:
        self._llama = llama
        self._vocabulary = vocabulary
        self._form = form
        self._chain = llama.llama_sampler_chain_init(llama.llama_sampler_chain_default_params())
        for made in _samplers(llama, vocabulary, sampling, choice):
            llama.llama_sampler_chain_add(self._chain, made)
        if _has_penalties(sampling):
            for token in before[-PENALIZED_TOKENS:]:
                llama.llama_sampler_accept(self._chain, token)

    def sample(self, context: Any, row: int) -> int:
        """The next token, from the logits of the batch's token number `row`."""
        if self._form is None:
            return int(self._llama.llama_sampler_sample(self._chain, context, row))
        token = self._within_form(logits_of(self._llama, context, row, self._vocabulary.size))
        self._form.accept(token)
        self._llama.llama_sampler_accept(self._chain, token)
        return token

    def free(self) -> None:
        self._llama.llama_sampler_free(self._chain)

    def _within_form(self, logits: Any) -> int:
        assert self._form is not None
        numpy = importlib.import_module("numpy")
        ids = numpy.flatnonzero(self._form.allowed(self._vocabulary.size))
        candidates = numpy.zeros(len(ids), dtype=[("id", "i4"), ("logit", "f4"), ("p", "f4")])
        candidates["id"], candidates["logit"] = ids, logits[ids]
        pointer = candidates.ctypes.data_as(ctypes.POINTER(self._llama.llama_token_data))
        array = self._llama.llama_token_data_array(pointer, len(ids), -1, False)
        self._llama.llama_sampler_apply(self._chain, ctypes.byref(array))
        return int(array.data[array.selected].id)


def _has_penalties(sampling: JobSampling) -> bool:
    return bool(sampling.repeat_penalty != 1 or sampling.presence_penalty or sampling.frequency_penalty)


def _samplers(llama: Any, vocabulary: Vocabulary, sampling: JobSampling, choice: int) -> list[Any]:
    """In llama.cpp's own order."""
    made: list[Any] = []
    biases = {token: value for token, value in sampling.logit_bias if 0 <= token < vocabulary.size}
    biases |= dict.fromkeys(vocabulary.never_made(), -math.inf)
    if biases:
        array = (llama.llama_logit_bias * len(biases))(*(llama.llama_logit_bias(*bias) for bias in biases.items()))
        made.append(llama.llama_sampler_init_logit_bias(vocabulary.size, len(biases), array))
    if _has_penalties(sampling):
        made.append(
            llama.llama_sampler_init_penalties(
                vocabulary.size,
                PENALIZED_TOKENS,
                sampling.repeat_penalty,
                sampling.frequency_penalty,
                sampling.presence_penalty,
            )
        )
    temperature = sampling.temperature_of(choice)
    if temperature == 0:
        return [*made, llama.llama_sampler_init_greedy()]
    return [
        *made,
        llama.llama_sampler_init_top_k(sampling.top_k),
        llama.llama_sampler_init_top_p(sampling.top_p, 1),
        llama.llama_sampler_init_min_p(sampling.min_p, 1),
        llama.llama_sampler_init_temp(temperature),
        llama.llama_sampler_init_dist((sampling.seed + choice) & SEED_MASK),
    ]


def logits_of(llama: Any, context: Any, row: int, size: int) -> Any:
    """The logits of the batch's token number `row`: a numpy array over llama.cpp's own memory, until its next step."""
    numpy = importlib.import_module("numpy")
    return numpy.ctypeslib.as_array(llama.llama_get_logits_ith(context, row), shape=(size,))


def logprobs_of(logits: Any, drawn: int, top: int, vocabulary: Vocabulary) -> Logprobs:
    """The log-probabilities of `drawn` and of the `top` likeliest, by the model alone."""
    numpy = importlib.import_module("numpy")
    most = float(logits.max())
    total = most + math.log(float(numpy.exp(logits.astype(numpy.float64) - most).sum()))

    def told(token: int) -> TokenLogprob:
        return TokenLogprob(token, vocabulary.piece(token), float(logits[token]) - total)

    best = numpy.argpartition(logits, -top)[-top:] if top else ()
    ranked = sorted(map(int, best), key=lambda token: -float(logits[token]))
    return Logprobs(told(drawn), tuple(map(told, ranked)))
