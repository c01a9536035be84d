"""How one answer's tokens are drawn with mlx: penalties and forms bend the logits, then one token is chosen.

mlx-lm has all parts of it and draws every sequence of a batch from one source of chance, which makes an answer depend
on its neighbours. Here each answer has a key of its own, split anew for each token.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from typing import Any

from swarm.engines.hosted.generator import JobSampling
from swarm.engines.hosted.json_forms import Form
from swarm.errors import BadRequest

PENALIZED_TOKENS = 64  # of prompt and answer, the last ones: as llama.cpp has it
LEAST_TOP_P = 1e-9  # which leaves the likeliest alone; of 0 mlx-lm would leave none

Array = Any  # of mlx, which may not be installed where types are checked
Sampler = Callable[[Array], Array]
Processor = Callable[[Array, Array], Array]


def sampler(mx: Any, sample_utils: Any, sampling: JobSampling, choice: int, vocabulary: int) -> Sampler | None:
    """What draws from log-probabilities (1, vocabulary) answer number `choice`; None where the likeliest is taken."""
    temperature = sampling.temperature_of(choice)
    if temperature <= 0:
        return None
    key = mx.random.key((sampling.seed + choice) % 2**64)
    sharpness = 1.0 / temperature

    def drawn(logprobs: Array) -> Array:
        nonlocal key
        logprobs = logprobs.astype(mx.float32)  # in halves, chance itself is coarse
        if 0 < sampling.top_k < vocabulary:
            logprobs = sample_utils.apply_top_k(logprobs, sampling.top_k)
        if sampling.top_p < 1:
            logprobs = sample_utils.apply_top_p(logprobs, max(sampling.top_p, LEAST_TOP_P))
        if 0 < sampling.min_p <= 1:
            logprobs = sample_utils.apply_min_p(logprobs, sampling.min_p)
        key, now = mx.random.split(key)
        return mx.random.categorical(logprobs * sharpness, key=now)

    return drawn


def penalties(sample_utils: Any, sampling: JobSampling, vocabulary: int) -> list[Processor]:
    """What changes the logits (1, vocabulary) by the tokens so far."""
    bias = {token: value for token, value in sampling.logit_bias if 0 <= token < vocabulary}
    made: list[Processor] = sample_utils.make_logits_processors(
        logit_bias=bias or None,
        repetition_penalty=None if sampling.repeat_penalty == 1 else sampling.repeat_penalty,
        repetition_context_size=PENALIZED_TOKENS,
        presence_penalty=sampling.presence_penalty or None,
        presence_context_size=PENALIZED_TOKENS,
        frequency_penalty=sampling.frequency_penalty or None,
        frequency_context_size=PENALIZED_TOKENS,
    )
    return made


class RawLogprobs:
    """Remembers what the model thought of each token, before anything else changes the logits."""

    def __init__(self, mx: Any) -> None:
        self._mx = mx
        self._waiting: deque[Array] = deque()  # of tokens that are drawn and not yet told

    def __call__(self, tokens: Array, logits: Array) -> Array:
        exact = logits.astype(self._mx.float32)
        self._waiting.append((exact - self._mx.logsumexp(exact, axis=-1, keepdims=True))[0])
        return logits

    def take(self, token: int, most: int) -> tuple[float, list[tuple[int, float]]]:
        """The log-probability of the next token told, which is `token`, and the `most` likeliest with theirs."""
        mx, logprobs = self._mx, self._waiting.popleft()
        top: list[tuple[int, float]] = []
        if most:
            chosen = mx.argpartition(-logprobs, kth=min(most, logprobs.size) - 1)[:most]
            pairs = zip(chosen.tolist(), logprobs[chosen].tolist(), strict=True)
            top = sorted(pairs, key=lambda pair: (-pair[1], pair[0]))
        return logprobs[token].item(), top


class HeldToForm:
    """Keeps an answer to its `form`, until one of the tokens that are its `ends`.

    A processor is called once for each token, the first time before any was drawn. The mask is made on the CPU and
    goes to the device as booleans: llguidance's own kernel is Metal's, and this is the same everywhere. `broken` says
    why the form could not be kept any longer: raised here it would end every answer of the batch.
    """

    def __init__(self, mx: Any, form: Form, ends: Collection[int]) -> None:
        self._mx = mx
        self._form = form
        self._ends = ends
        self._begun = False
        self._over = False  # what is drawn now is told to nobody
        self.broken: str | None = None

    def __call__(self, tokens: Array, logits: Array) -> Array:
        try:
            return self._held(tokens, logits)
        except BadRequest as error:
            self.broken, self._over = str(error), True
            return logits

    def _held(self, tokens: Array, logits: Array) -> Array:
        if self._begun and not self._over:
            token: int = tokens[-1].item()
            self._over = token in self._ends
            if not self._over:
                self._form.accept(token)
        self._begun = True
        if self._over:
            return logits
        allowed = self._form.allowed(logits.shape[-1])
        return self._mx.where(self._mx.array(allowed), logits, -float("inf"))
