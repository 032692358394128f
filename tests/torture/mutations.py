"""Spoil texts and bytes at random, as models, disks and editors do."""

import random
from collections.abc import Sequence

BRACKETS = (("(", ")"), ("[", "]"), ("{", "}"), ("<", ">"), ("$", "$"), ('"', '"'))


def mutated(text: str, pieces: Sequence[str], draw: random.Random, most: int = 3) -> str:
    """Return the text with one to `most` changes; `pieces` are what is put into it."""
    for _ in range(draw.randint(1, most)):
        text = _changed(text, pieces, draw)
    return text


def _changed(text: str, pieces: Sequence[str], draw: random.Random) -> str:
    start, end = sorted((draw.randint(0, len(text)), draw.randint(0, len(text))))
    end = min(end, start + draw.choice((1, 1, 2, 8, 64)))
    before, part, after = text[:start], text[start:end], text[end:]
    match draw.randrange(9):
        case 0:
            return before + after
        case 1:
            return before + draw.choice(pieces) + part + after
        case 2:
            return before + draw.choice(pieces) + after
        case 3:
            return before + part * draw.randint(2, 20) + after
        case 4:
            return before + part[::-1] + after
        case 5:
            opening, closing = draw.choice(BRACKETS)
            return before + opening + part + closing + after
        case 6:
            return before + "".join(any_character(draw) for _ in range(draw.randint(1, 4))) + part + after
        case 7:
            return before + part.swapcase() + after
        case _:
            return after + before  # cut and turned round


def any_character(draw: random.Random) -> str:
    """Return a character of a kind that readers trip over: a control, half a surrogate pair, a digit of any script."""
    match draw.randrange(8):
        case 0:
            return chr(draw.randrange(32))
        case 1:
            return chr(draw.randrange(0xD800, 0xE000))
        case 2:
            return chr(draw.choice((0x660, 0x966, 0x9E6, 0xFF10, 0x1D7CE)) + draw.randrange(10))
        case 3:
            return draw.choice("\u200b\u200d\u202e\u2066\ufeff\u00a0\u2028\u0085\x7f\x9b\u0301\u00b2\u00bd\u2153\u2167")
        case 4:
            return chr(draw.randrange(0x10000, 0x110000))
        case 5:
            return draw.choice("\u2212\u2013\u00d7\u00f7\u22c5\u221a\u03c0\u221e\u2248\u2260\u2264\u00b0")
        case 6:
            return draw.choice("0123456789+-*/^_=.,:;!?|&#%~`'\\<>()[]{}$ \t\n")
        case _:
            return chr(draw.randrange(0x20, 0xD800))


def mutated_bytes(content: bytes, pieces: Sequence[bytes], draw: random.Random, most: int = 3) -> bytes:
    """Return the bytes with one to `most` changes."""
    for _ in range(draw.randint(1, most)):
        start, end = sorted((draw.randint(0, len(content)), draw.randint(0, len(content))))
        end = min(end, start + draw.choice((1, 1, 4, 32, 512)))
        before, part, after = content[:start], content[start:end], content[end:]
        match draw.randrange(6):
            case 0:
                content = before + after
            case 1:
                content = before + draw.choice(pieces) + part + after
            case 2:
                content = before + draw.choice(pieces) + after
            case 3:
                content = before + part * draw.randint(2, 50) + after
            case 4:
                content = before
            case _:
                content = before + draw.randbytes(draw.randint(1, 8)) + after
    return content
