"""The bodies of answers, for the document alone: the gateway writes them without pydantic, tests hold both together.

The `swarm` object comes first (also shown in `docs/swarm-object.md`), then OpenAI's forms, the Responses API's,
Anthropic's and llama.cpp's. A field with a default is there only where it means something; fields that are not named
here may come along. What the node reports of itself is not here: `observing/view.py` has the types that it is made of.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, JsonValue, RootModel

from federation.advertisement import Capabilities
from swarm.engines.upstream.repaired_calls import Repair
from swarm.gateway.observing.view import ComputationEntry, LoadEntry
from swarm.generation import FinishReason
from swarm.routing.policy import WhyOnce
from swarm.routing.preference import REASONS


class SwarmCandidate(BaseModel):
    """One voter's part. Candidates of one `group` said the same."""

    voter: Annotated[str, Field(description="The voter and its node: Zeus@kitchen")]
    model: Annotated[str, Field(description="The model that answered")]
    group: Annotated[int | None, Field(description="0 is the winner's; null: it abstained")]
    weight: Annotated[float, Field(description="What its ballot weighed")]
    tokens: Annotated[int, Field(description="Tokens that it generated")]
    ms: Annotated[int, Field(description="Milliseconds from the question to its whole answer")]
    temperature: Annotated[
        float | None, Field(description="What it answered at: 0 is greedy; left out: its engine's own")
    ] = None
    repaired: Annotated[
        list[Repair] | None, Field(description="What was put right of its calls; left out: nothing")
    ] = None
    abstained: Annotated[str | None, Field(description="Why its answer does not count")] = None


class SwarmCascade(BaseModel):
    """What became of a cascade. Without a strong model there is only `why_not`."""

    strong: Annotated[str | None, Field(description="The model that is asked last; null: none is stronger than others")]
    asked: Annotated[bool | None, Field(description="Whether it was asked")] = None
    agreement: Annotated[
        float | None, Field(description="The share of the smaller models' voters that gave one answer, 0 to 1")
    ] = None
    threshold: Annotated[float | None, Field(description="The share from which that answer stands")] = None
    measured: Annotated[bool | None, Field(description="Whether the threshold was measured; else all must agree")] = (
        None
    )
    why_not: Annotated[str | None, Field(description="Why it was a plain vote")] = None


class SwarmRoute(BaseModel):
    """Where a single answer was made."""

    node: Annotated[str, Field(description="The node that answered")]
    reason: Annotated[str, Field(description="Why that one: " + ", ".join(REASONS))]
    tried: Annotated[list[str], Field(description="The nodes that were asked before it and failed")]
    node_id: Annotated[
        str | None, Field(description="The id of the node that answered, where the request named the node to ask")
    ] = None
    content: Annotated[
        str | None, Field(description="What that node says its model is: a sha256, else a fingerprint, else its name")
    ] = None


class SwarmResumed(BaseModel):
    """A streamed answer whose node was lost, and that went on elsewhere."""

    from_: Annotated[str, Field(alias="from", description="The node that was lost")]
    to: Annotated[str, Field(description="The node that went on")]
    at_chars: Annotated[
        int, Field(description="Characters of text, thoughts and calls that the client had; none came twice")
    ]
    gap_ms: Annotated[int, Field(description="Milliseconds from the last piece before to the first one after it")]
    how: Annotated[
        Literal["replay", "continued"],
        Field(
            description="replay: made anew from its beginning, and held against what was sent. continued: from near "
            "the end of what was sent, of which the last tokens were held against it"
        ),
    ]


class SwarmLoaded(BaseModel):
    """The model that was loaded for the request."""

    model: Annotated[str, Field(description="Its id")]
    node: Annotated[str, Field(description="Where it was loaded")]
    ms: Annotated[
        int | None, Field(description="Milliseconds that the request waited for it; null: another node loaded it")
    ]


class SchemaViolation(BaseModel):
    """Where an answer breaks a schema of the request."""

    path: Annotated[str, Field(description="In the answer's JSON ($.price), or in a call (tool_calls[0].arguments.n)")]
    keyword: Annotated[str, Field(description="The schema's keyword that is broken there")]
    message: Annotated[str, Field(description="How, in words")]
    choice: Annotated[int | None, Field(description="Which of several choices; left out where there is one")] = None


class SwarmLeftOut(BaseModel):
    """A model with no part in the vote."""

    model: Annotated[str, Field(description="The model")]
    nodes: Annotated[list[str], Field(description="The nodes that serve it")]
    why: Annotated[str, Field(description="Why it was not asked")]


class SwarmReport(BaseModel):
    """How the vote went. A single answer is a vote of one."""

    strategy: Annotated[str, Field(description="How the answer was chosen")]
    kind: Annotated[str, Field(description="What was compared: tool_calls, json, code, number, choice or text")]
    outcome: Annotated[
        Literal["consensus", "plurality", "undecided", "degraded", "single"] | None,
        Field(
            description="consensus: more than half of the votes counted agree, with a quorum. plurality: a quorum "
            "voted, and no answer has more than half. undecided: none came as far ahead as `stop` asks. "
            "degraded: no quorum. single: one answer stands for itself"
        ),
    ] = None
    votes: Annotated[int, Field(description="Valid ballots")]
    asked: Annotated[int, Field(description="Voters that were asked")]
    wanted: Annotated[int, Field(description="Votes that the request or the node would have")]
    saved: Annotated[
        int | None, Field(description="Votes that were not needed: never asked, or stopped before their end")
    ] = None
    agreement: Annotated[
        float | None,
        Field(description="The winning group's share of the weight, 0 to 1; null where nothing was compared. It is no "
              "probability of being right"),
    ]  # fmt: skip
    margin: Annotated[float, Field(description="The weight by which the winning group leads the next")]
    weights: Annotated[
        Literal["equal", "measured"] | None, Field(description="What the ballots' weights were taken from")
    ] = None
    stopped_by: Annotated[
        str,
        Field(
            description="all_in, unbeatable_lead, posterior, ahead, out_of_reach, agreed, strongest, deadline, first, "
            "or single: no vote"
        ),
    ]
    quorum: Annotated[bool, Field(description="Half of those asked, and half of their weight, have voted")]
    degraded: Annotated[bool, Field(description="This is the best there is, and no consensus")]
    shortfall: Annotated[str | None, Field(description="Why it is no consensus")] = None
    winner: Annotated[str | None, Field(description="The voter whose answer this is")]
    coordinator: Annotated[str, Field(description="The node that held the vote")]
    elapsed_ms: Annotated[int, Field(description="Milliseconds from the request to the outcome")]
    total_completion_tokens: Annotated[
        int, Field(description="Tokens of all answers; `usage` counts the one that was given")
    ]
    wasted_tokens: Annotated[
        int | None, Field(description="Tokens of answers that were stopped before their end, as far as known")
    ] = None
    candidates: Annotated[list[SwarmCandidate], Field(description="Every voter, the winning group first")]
    why: Annotated[str | None, Field(description="Single answers: why one: " + ", ".join(get_args(WhyOnce)))] = None
    left_out: Annotated[
        list[SwarmLeftOut] | None, Field(description="Models that could answer and had no seat, and why")
    ] = None
    routed: Annotated[SwarmRoute | None, Field(description="Single answers: who was asked, and why")] = None
    resumed: Annotated[
        SwarmResumed | None,
        Field(description="Streamed answers, of a vote the leader's: how it went on after its node was lost"),
    ] = None
    loaded: Annotated[
        SwarmLoaded | None, Field(description="What was loaded for this request; left out where it ran already")
    ] = None
    similarity: Annotated[
        float | None, Field(description="How like the winner the other answers are, where likeness decided")
    ] = None
    cascade: Annotated[
        SwarmCascade | None, Field(description="Strategy cascade: whether the smaller models agreed")
    ] = None
    judge: Annotated[str | None, Field(description="The voter that chose (strategy judge); null: none did")] = None
    stream: Annotated[
        Literal["leader", "words", "buffer", "reasoning"] | None,
        Field(description="Streamed votes: what was shown before the outcome was known"),
    ] = None
    leader: Annotated[
        str | None, Field(description="Streamed votes: of whom it was shown; null: its answer did not come in")
    ] = None
    confirmed: Annotated[
        bool | None,
        Field(description="Streamed votes: whether the vote came out for the leader's answer; null: there was no "
              "quorum, or its answer did not come in"),
    ] = None  # fmt: skip
    schema_violations: Annotated[
        list[SchemaViolation] | None,
        Field(description="What the answer breaks of the request's schemas; left out where it keeps them"),
    ] = None
    made_anew: Annotated[
        bool | None, Field(description="Single answers: the first broke a schema, and a second was made")
    ] = None
    winner_message: Annotated[
        dict[str, Any] | None,
        Field(description="Streamed votes: the winner's message, as in a chat completion, where another was shown"),
    ] = None


class ErrorDetail(BaseModel):
    """`param` names the field to blame. A prompt that is too long also gets its size and that of the context.

    `died`: an engine ended over this request, which is refused for `refused_for_s` seconds from now on. `lender`: the
    node that is gone, or cannot be had, where the model is computed by several (`lender_lost`).
    """

    message: str
    type: str
    code: str
    param: str | None
    n_prompt_tokens: int | None = None
    n_ctx: int | None = None
    died: bool | None = None
    refused_for_s: int | None = None
    lender: str | None = None
    retry_after_s: int | None = None


class ErrorBody(BaseModel):
    """Every refusal and failure, in OpenAI's form."""

    error: ErrorDetail


class CachedTokens(BaseModel):
    cached_tokens: int


class UsageCount(BaseModel):
    """Tokens of the prompt, counted once, and of all choices together."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens


class CalledFunction(BaseModel):
    """`arguments` is JSON text as the model wrote it."""

    name: str
    arguments: str


class CalledTool(BaseModel):
    id: str
    type: Literal["function"]
    function: CalledFunction


class AnswerMessage(BaseModel):
    """The assistant's turn; `content` is null where there are only tool calls."""

    role: Literal["assistant"]
    content: str | None
    reasoning_content: str | None = None
    tool_calls: list[CalledTool] | None = None


class ChatChoice(BaseModel):
    """`stop_reason` is the stop sequence that was hit, as vLLM has it; else it is not there."""

    index: int
    message: AnswerMessage
    logprobs: JsonValue
    finish_reason: FinishReason
    stop_reason: str | None = None


class TextChoice(BaseModel):
    """`swarm` is here, and not beside the choices, where one request had several prompts."""

    index: int
    text: str
    logprobs: JsonValue
    finish_reason: FinishReason
    stop_reason: str | None = None
    timings: AnswerTimings | None = None
    swarm: SwarmReport | None = None


class AnswerTimings(BaseModel):
    """How long the answer took where it was computed, under llama-server's names; left out where nobody measured it.

    Of a vote it is the chosen answer's. `cache_n` tokens of the prompt were known, `prompt_n` were read.
    """

    cache_n: int
    prompt_n: int
    prompt_ms: float
    prompt_per_token_ms: float
    prompt_per_second: float
    predicted_n: int
    predicted_ms: float
    predicted_per_token_ms: float
    predicted_per_second: float


class ChatCompletion(BaseModel):
    """A whole answer. With `stream: true` it comes as events instead, `chat.completion.chunk` each."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: UsageCount
    timings: AnswerTimings | None = None
    swarm: SwarmReport | None = None


class TextCompletion(BaseModel):
    """A whole continuation. With `stream: true` it comes as events instead."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: UsageCount
    timings: AnswerTimings | None = None
    swarm: SwarmReport | None = None


class EmbeddingVector(BaseModel):
    """`embedding` is base64 of little-endian float32 where the request says so."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(BaseModel):
    prompt_tokens: int
    total_tokens: int


class EmbeddingList(BaseModel):
    object: Literal["list"]
    data: list[EmbeddingVector]
    model: str
    usage: EmbeddingUsage


ModelStateWord = Literal["ready", "loading", "draining", "unloading", "available", "failed"]


class LlamaStatus(BaseModel):
    """What llama-server's router says of a model."""

    value: Literal["loaded", "loading", "unloaded"]


class Modalities(BaseModel):
    """What a model takes, text or images, too, and what it gives: text, embeddings or scores (of documents)."""

    input: list[Literal["text", "image"]]
    output: list[Literal["text", "embeddings", "scores"]]


class ModelArchitecture(BaseModel):
    """The same as `modalities`, under llama-server's names."""

    input_modalities: list[str]
    output_modalities: list[str]


class ModelSizes(BaseModel):
    """What is known of a model's sizes, under llama-server's names."""

    n_ctx: int | None = None
    size: int | None = None


class ModelEntry(BaseModel):
    """A model that lies or runs on `nodes`: `states` is how it is on each, `state` the best of these.

    One that is `available` is loaded when somebody asks for it. `context_tokens` is the largest there is, of those that
    run it where somebody does. `tools`: whether its chat template knows them (`native`), or they are shown and called
    in a `general` form. `aliases` are those of this node's configuration. `pinned` and `loading` are of this node, and
    `engine` is what computes the model there; `engines` says so in words of each node that tells. `pooled`: on which
    machines it lies, the host first, of each node that runs it over several; such a node answers as one.
    """

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    state: ModelStateWord
    status: LlamaStatus
    nodes: list[str]
    states: dict[str, ModelStateWord]
    context_tokens: int | None
    size_bytes: int | None
    modalities: Modalities
    architecture: ModelArchitecture
    meta: ModelSizes
    tools: Literal["native", "general"] | None = None
    aliases: list[str] | None = None
    pinned: bool | None = None
    loading: LoadEntry | None = None
    engine: ComputationEntry | None = None
    engines: dict[str, str] | None = None
    pooled: dict[str, list[str]] | None = None


class ModelListing(BaseModel):
    object: Literal["list"]
    data: list[ModelEntry]


class ModelManaged(BaseModel):
    """What became of the model on `node`. `load_ms`: how long its load took, 0 where it was loaded already."""

    model: str
    node: str
    state: ModelStateWord
    success: Literal[True]
    load_ms: int | None = None
    pinned: bool | None = None


class Cancelled(BaseModel):
    """How many requests with this id were ended: more than one where clients give the same."""

    id: str
    cancelled: int


class Start(BaseModel):
    """What answers here, and the paths of what there is."""

    name: Literal["local-swarm"]
    about: str
    api: str
    documentation: str
    openapi: str
    models: str
    health: str


class Alive(BaseModel):
    status: Literal["ok"]


class NotReady(BaseModel):
    """Why the node cannot answer now."""

    status: Literal["unavailable"]
    reason: str


class OpenApiDocument(BaseModel):
    """This document."""

    openapi: str
    info: dict[str, Any]
    paths: dict[str, Any]


class ResponseUsage(BaseModel):
    input_tokens: int
    output_tokens: int
    total_tokens: int


class IncompleteDetails(BaseModel):
    reason: str


class Response(BaseModel):
    """A whole response. With `stream: true` it comes as OpenAI's events instead, the last `response.completed`.

    The items of `output` are of type message, function_call or reasoning. Nothing is kept to be fetched later.
    """

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    incomplete_details: IncompleteDetails | None
    model: str
    output: list[dict[str, Any]]
    usage: ResponseUsage | None
    swarm: SwarmReport | None = None


class MessageUsage(BaseModel):
    """`input_tokens` are those that were not read from the cache."""

    input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int


class AnthropicMessage(BaseModel):
    """A whole message. With `stream: true` it comes as Anthropic's events instead.

    The blocks of `content` are of type text, tool_use or thinking.
    """

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[dict[str, Any]]
    stop_reason: Literal["end_turn", "max_tokens", "stop_sequence", "tool_use", "refusal"] | None
    stop_sequence: str | None
    usage: MessageUsage
    swarm: SwarmReport | None = None


class InputTokens(BaseModel):
    input_tokens: int


class ChatInputTokens(InputTokens):
    object: Literal["response.input_tokens"]


class AnthropicErrorDetail(BaseModel):
    type: str
    message: str


class AnthropicErrorBody(BaseModel):
    """Every refusal and failure, in Anthropic's form."""

    type: Literal["error"]
    error: AnthropicErrorDetail


class TokenPiece(BaseModel):
    """`piece` is a list of bytes where the token is no whole character."""

    id: int
    piece: str | list[int]


class TokenList(BaseModel):
    """Numbers, or with `with_pieces` objects."""

    tokens: list[int] | list[TokenPiece]


class DetokenizedText(BaseModel):
    content: str


class AppliedTemplate(BaseModel):
    """The chat as the text that the model sees."""

    prompt: str


class RankedText(BaseModel):
    text: str


class RankedDocument(BaseModel):
    """`index` is the document's place in the request."""

    index: int
    relevance_score: float
    document: RankedText | None = None


class RerankResults(BaseModel):
    object: Literal["list"]
    model: str
    results: list[RankedDocument]
    usage: EmbeddingUsage


class ScoredText(BaseModel):
    index: int
    score: float
    text: str | None = None


class Reranking(RootModel[RerankResults | list[ScoredText]]):
    """Best first. Where the request had `texts` for `documents`, the list of text-embeddings-inference."""


class GenerationDefaults(BaseModel):
    n_ctx: int


class PropertiesInTheSwarm(BaseModel):
    """The node that answered, and what can be asked of the model there."""

    node: str
    slots_free: int
    can: Capabilities


class ModelProperties(BaseModel):
    """Facts of a model, with llama.cpp's names for them."""

    model_alias: str
    total_slots: int
    default_generation_settings: GenerationDefaults
    chat_template: str
    bos_token: str
    eos_token: str
    swarm: PropertiesInTheSwarm


class ModelSlot(BaseModel):
    """A slot of one of this node's models. What else it has are numbers and switches under llama-server's names."""

    model_config = ConfigDict(extra="allow")
    id: int
    model: str
    n_ctx: int
    is_processing: bool


class SlotList(RootModel[list[ModelSlot]]):
    """Every slot of the loaded models that were meant."""


class PlainAnswer(BaseModel):
    """A text in llama.cpp's own form; a list of them for several prompts. With `stream: true` it comes as events."""

    content: str
    stop: bool
    stop_type: Literal["eos", "limit", "word"]
    stopping_word: str
    model: str
    tokens_predicted: int
    tokens_evaluated: int
    tokens_cached: int
    timings: AnswerTimings | None = None
    swarm: SwarmReport | None = None


class PlainVector(BaseModel):
    """Of the vectors of one text: one, in a list."""

    index: int
    embedding: list[list[float]]


class PlainVectors(RootModel[list[PlainVector]]):
    """A vector for each text, in order."""


class ToolFunction(BaseModel):
    name: Annotated[str, Field(description="What a call names")]
    description: Annotated[str, Field(description="What models are told of it")]
    parameters: Annotated[dict[str, JsonValue], Field(description="The JSON schema of its arguments, an object")]


class ToolEntry(BaseModel):
    """A tool in OpenAI's form: as the `tools` of a request take it."""

    type: Literal["function"]
    function: ToolFunction


class ToolListing(BaseModel):
    object: Literal["list"]
    data: list[ToolEntry]


class ExecutedTool(BaseModel):
    """What came of a call, be it that the tool failed."""

    output: Annotated[str, Field(description="Text for a model, at most 3,000 characters and a line on what was cut")]
    exit_code: Annotated[int, Field(description="0: the tool did what it was asked")]
    truncated: Annotated[bool, Field(description="Whether something of the output was cut")]
    timed_out: Annotated[bool, Field(description="Whether it was ended because its time was up")]
    ms: Annotated[int, Field(description="Milliseconds that it took")]


class McpError(BaseModel):
    code: Annotated[int, Field(description="One of JSON-RPC's, or of MCP's")]
    message: str
    data: JsonValue = None


class McpAnswer(BaseModel):
    """A message of JSON-RPC: `result`, or `error`."""

    jsonrpc: Literal["2.0"]
    id: str | int | None
    result: dict[str, JsonValue] | None = None
    error: McpError | None = None


class McpAnswers(RootModel[McpAnswer | list[McpAnswer]]):
    """One answer; several to a batch, which revision 2025-03-26 has."""


class McpRefusal(RootModel[McpAnswer | ErrorBody]):
    """The protocol's own error, or this node's."""
