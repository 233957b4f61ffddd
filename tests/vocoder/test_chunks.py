import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.vocoder.chunks import Chunk, Chunks


def cut(chunks: Chunks, pieces: list[np.ndarray]) -> list[Chunk]:
    found = []
    for piece in pieces:
        chunks.feed(piece)
        while chunk := chunks.next():
            found.append(chunk)
    chunks.end()
    while chunk := chunks.next():
        found.append(chunk)
    return found


@given(st.lists(st.integers(1, 120), min_size=1, max_size=20))
def test_cutting_does_not_depend_on_how_codes_arrive(sizes: list[int]) -> None:
    codes = np.arange(sum(sizes), dtype=np.int32)
    found = cut(Chunks(), np.split(codes, np.cumsum(sizes)[:-1]))
    whole = cut(Chunks(), [codes])
    assert [chunk.codes.tolist() for chunk in found] == [chunk.codes.tolist() for chunk in whole]
    assert [chunk.last for chunk in found] == [False] * (len(found) - 1) + [True]
    spoken = np.concatenate([chunk.codes if chunk.last else chunk.codes[:-5] for chunk in found])
    assert spoken.tolist() == codes.tolist()


def test_chunks_follow_the_schedule() -> None:
    chunks = cut(Chunks(), [np.zeros(400, np.int32)])
    assert [len(chunk.codes) - (0 if chunk.last else 5) for chunk in chunks] == [25, 40, 80, 80, 80, 80, 15]


def test_the_first_group_opens_the_stream_and_is_not_used_up() -> None:
    chunks = Chunks()
    chunks.feed(np.arange(4))
    assert chunks.opening() is None
    chunks.feed(np.arange(4, 7))
    opening = chunks.opening()
    assert opening is not None and opening.tolist() == [0, 1, 2, 3, 4]
    assert chunks.waiting == 7


def test_even_one_code_opens_and_ends_a_stream() -> None:
    chunks = Chunks()
    chunks.feed(np.array([3]))
    chunks.end()
    opening, chunk = chunks.opening(), chunks.next()
    assert opening is not None and opening.tolist() == [3]
    assert chunk is not None and chunk.last and chunk.codes.tolist() == [3]
    assert chunks.exhausted and chunks.next() is None


def test_a_busy_caller_gets_a_long_chunk_when_one_is_waiting() -> None:
    chunks = Chunks(busy=96)
    chunks.feed(np.zeros(200, np.int32))
    first, second = chunks.next(busy=True), chunks.next(busy=True)
    assert first is not None and len(first.codes) == 165
    assert second is None


@pytest.mark.parametrize("schedule", [(6,), (15, 20)])
def test_lengths_that_cannot_be_cut_are_refused(schedule: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="multiples of 3"):
        Chunks(schedule)
