"""Long text in pieces that the language model speaks well: whole sentences, packed to a target duration.

pysbd finds the ends of sentences in Latin script and Korean, with abbreviations and numbers intact; Chinese and
Japanese marks end a sentence by themselves. Nothing is dropped or changed: the pieces joined are the text, but for
the white space between them.
"""

import re
from collections.abc import Iterator
from functools import cache

import pysbd

from deployments.llm.budget import speech_seconds

_WIDE_END = re.compile(r"[。！？；…｡\n]+[”’」』）】》\"']*")
_AFTER_NUMBER = re.compile(r"(?<=\d[.!?])\s+(?=[^\W\d_a-z])")
_TERMINALS = tuple(".!?…\"')]”’")
_PAUSES = (re.compile(r"[,，、;；:：]+\s*"), re.compile(r"\s+"))


def segments(text: str, target_s: float) -> list[str]:
    """``text`` in pieces of up to about ``target_s`` seconds of speech, each of whole sentences where they fit.

    A sentence longer than that is cut at its commas, then at white space, then anywhere. No piece is empty.
    """
    pieces: list[str] = []
    for sentence in sentences(text):
        for part in _fitting(sentence, target_s):
            if pieces and speech_seconds(pieces[-1] + part) <= target_s:
                pieces[-1] += part
            else:
                pieces.append(part)
    return [piece.strip() for piece in _speakable(pieces)]


def distribute(text: str, shares: list[float]) -> list[str]:
    """``text`` over pieces of audio in proportion to their ``shares``, whole sentences where that works.

    Every piece gets some of it if there are words enough; joined, the parts are the text but for white space.
    """
    units = list(sentences(text))
    if len(units) < 2 * len(shares):
        units = re.findall(r"\s*[^\s]\s*" if _is_wide(text) else r"\s*\S+\s*", text)
    lengths = [len(unit) for unit in units]
    ends = [sum(shares[: number + 1]) / sum(shares) * sum(lengths) for number in range(len(shares))]
    parts, position = [""] * len(shares), 0.0
    for unit, length in zip(units, lengths, strict=True):
        middle = position + length / 2
        parts[next((number for number, end in enumerate(ends) if middle <= end), len(shares) - 1)] += unit
        position += length
    return [part.strip() for part in parts]


def _is_wide(text: str) -> bool:
    """Writing without spaces between its words."""
    return len(text.split()) < len(text) / 12


def sentences(text: str) -> Iterator[str]:
    """``text`` cut at the ends of its sentences, white space kept."""
    start = 0
    for end in [match.end() for match in _WIDE_END.finditer(text)] + [len(text)]:
        yield from _split(text[start:end], _ends(text[start:end]))
        start = end


def _ends(text: str) -> list[int]:
    """Where sentences end. pysbd takes "number 4. Next" for an item of a list and cuts before the 4: mended here."""
    found = {span.start for span in _segmenter().segment(text)}
    good = {cut for cut in found if text[:cut].rstrip().endswith(_TERMINALS)}
    return sorted(good | {match.end() for match in _AFTER_NUMBER.finditer(text)})


@cache
def _segmenter() -> pysbd.Segmenter:
    return pysbd.Segmenter(language="en", clean=False, char_span=True)


def _split(text: str, starts: list[int]) -> Iterator[str]:
    """``text`` cut at the given positions, in full whatever they are."""
    cuts = sorted({0, len(text), *(start for start in starts if 0 < start < len(text))})
    for start, end in zip(cuts, cuts[1:], strict=False):
        yield text[start:end]


def _fitting(text: str, target_s: float, level: int = 0) -> Iterator[str]:
    """A sentence in parts that fit, cut at the strongest pauses first."""
    if speech_seconds(text) <= target_s or len(text) <= 1:
        yield text
    elif level < len(_PAUSES):
        for part in _packed(_split(text, [match.end() for match in _PAUSES[level].finditer(text)]), target_s):
            yield from _fitting(part, target_s, level + 1)
    else:
        middle = len(text) // 2
        yield from _fitting(text[:middle], target_s, level)
        yield from _fitting(text[middle:], target_s, level)


def _packed(parts: Iterator[str], target_s: float) -> Iterator[str]:
    held = ""
    for part in parts:
        if held and speech_seconds(held + part) > target_s:
            yield held
            held = ""
        held += part
    if held:
        yield held


def _speakable(pieces: list[str]) -> list[str]:
    """Pieces without a letter or digit join the one before them, or the one after at the start."""
    joined: list[str] = []
    for piece in pieces:
        if joined and not (_has_words(piece) and _has_words(joined[-1])):
            joined[-1] += piece
        else:
            joined.append(piece)
    return joined


def _has_words(text: str) -> bool:
    return any(char.isalnum() for char in text)
