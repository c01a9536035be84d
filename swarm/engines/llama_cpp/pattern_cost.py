"""What a regular expression costs llama.cpp, which matches it by trying every way through it.

A grammar has no table of states: all the places where a text may stand in an expression are held beside each other, and
a token that fits none of them is followed along every way before it is refused. So `(a|a)*` doubles the work with each
character of a token, and `a?` three hundred times holds three hundred places. What is computed here is an upper bound
of both, from the parts of an expression outward, in one pass. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from swarm.engines.patterns import Anchor, Chars, Choice, Pattern, Ranges, Repeat, Sequence

MAX_WAYS = 65**2  # through one token: two places that each may end behind any of 64 characters; 100 tokens took 0.1 s
MAX_PLACES = 64  # held beside each other; two hundred took 27 ms a token
MAX_REPEATS = 2000  # of one part: llama.cpp's own limit
TOKEN_CHARS = 64  # the longest tokens that repeat one character: rulers of dashes and indentation
ENDLESS = 10**9  # where ways are no longer counted
OTHERS = 64  # characters beyond ASCII are told apart by their number modulo this
EVERY = (1 << (128 + OTHERS)) - 1


@dataclass(frozen=True, slots=True)
class PatternPiece:
    """A part of an expression: characters it may begin with, those by which it may go on where it could also end.

    `any` are all of its characters, `ends` the places in a token where it may end, `ways` how many ways one text can
    be matched, `places` how many positions it may begin with, `most_places` the most of them anywhere in it, `rules`
    what it adds to a grammar. Characters are bits.
    """

    first: int = 0
    goes_on: int = 0
    any: int = 0
    nullable: bool = True
    ends: int = 1
    ways: int = 1
    places: int = 0
    most_places: int = 0
    rules: int = 0


def pattern_cost(pattern: Pattern) -> PatternPiece | None:
    """What a pattern without anchors costs; None where that is too much for it to be enforced."""
    piece = _piece(pattern)
    return None if piece is None or piece.ways > MAX_WAYS or piece.most_places > MAX_PLACES else piece


def _piece(part: Pattern) -> PatternPiece | None:
    """What a part costs; None for what repeats more often than llama.cpp can, and for anchors."""
    match part:
        case Chars():
            bits = _bits(part.ranges)
            return PatternPiece(first=bits, any=bits, nullable=False, places=1, most_places=1, rules=1)
        case Repeat():
            inside = None if max(part.least, part.most or 0) > MAX_REPEATS else _piece(part.part)
            return None if inside is None else _repeated(inside, part.least, part.most)
        case Sequence():
            pieces = [_piece(inside) for inside in part.parts]
            return None if None in pieces else _sequence([piece for piece in pieces if piece is not None])
        case Choice():
            pieces = [_piece(inside) for inside in part.branches]
            return None if None in pieces else _either([piece for piece in pieces if piece is not None])
        case Anchor():
            return None


def _bits(ranges: Ranges) -> int:
    bits = 0
    for low, high in ranges:
        if low < 128:
            bits |= ((1 << (min(high, 127) - low + 1)) - 1) << low
        if high > 127:
            first = max(low, 128)
            codes = range(first, min(high, first + OTHERS) + 1)
            bits |= EVERY & ~((1 << 128) - 1) if len(codes) > OTHERS else sum(1 << (128 + c % OTHERS) for c in codes)
    return bits


def _after(before: PatternPiece, after: PatternPiece) -> PatternPiece:
    """One piece and then another."""
    unsure = (before.goes_on | (before.first if before.nullable else 0)) & after.first
    ways = before.ways * after.ways * (before.ends + before.nullable if unsure else 1)
    return PatternPiece(
        first=before.first | (after.first if before.nullable else 0),
        goes_on=after.goes_on | (before.goes_on | after.first if after.nullable else 0),
        any=before.any | after.any,
        nullable=before.nullable and after.nullable,
        ends=min(before.ends * after.ends, TOKEN_CHARS),
        ways=min(ways, ENDLESS),
        places=before.places + (after.places if before.nullable else 0),
        most_places=max(before.most_places, after.most_places),
        rules=before.rules + after.rules,
    )


def _sequence(pieces: list[PatternPiece]) -> PatternPiece:
    whole = PatternPiece()
    waiting = 0  # positions that a text may stand at, having skipped what may be skipped
    most = 0
    for piece in pieces:
        whole = _after(whole, piece)
        open_ended = piece.nullable or piece.goes_on
        waiting += piece.places
        most = max(most, waiting, piece.most_places)
        waiting = waiting if open_ended else 0
    return replace(whole, most_places=max(most, whole.most_places))


def _either(members: list[PatternPiece]) -> PatternPiece:
    if len(members) == 1:
        return members[0]
    first = everything = goes_on = 0
    overlap = False
    for member in members:
        overlap = overlap or bool(first & member.first)
        first |= member.first
        everything |= member.any
        goes_on |= member.goes_on
    together = sum if overlap else max
    nullable = any(member.nullable for member in members)
    return PatternPiece(
        first=first,
        goes_on=everything if overlap else goes_on | (first if nullable else 0),
        any=everything,
        nullable=nullable,
        ends=min(sum(member.ends for member in members), TOKEN_CHARS),
        ways=min(together(member.ways for member in members), ENDLESS),
        places=sum(member.places for member in members),
        most_places=sum(member.most_places for member in members)
        if overlap
        else max(sum(member.places for member in members), *(member.most_places for member in members)),
        rules=1 + sum(member.rules for member in members),
    )


def _repeated(piece: PatternPiece, least: int, most: int | None) -> PatternPiece:
    unsure = bool((piece.goes_on | (piece.first if piece.nullable else 0)) & piece.first)
    each = piece.ways * (piece.ends + piece.nullable if unsure else 1)
    times = TOKEN_CHARS if most is None else most
    bounded = min(times, 30)  # 2 to the 30th is endless, too
    varies = most != least
    return PatternPiece(
        first=piece.first,
        goes_on=piece.goes_on | (piece.first if varies and most != 1 else 0) | (piece.any if unsure else 0),
        any=piece.any,
        nullable=least == 0 or piece.nullable,
        ends=min(piece.ends ** min(bounded, 6) * (TOKEN_CHARS if most is None else most - least + 1), TOKEN_CHARS),
        ways=min(each ** (bounded if times > 1 else 1), ENDLESS),
        places=piece.places,
        most_places=min(piece.most_places * (times if unsure and times else 1), ENDLESS),
        rules=piece.rules + (least + 1 if most is None else max(least, most)),
    )
