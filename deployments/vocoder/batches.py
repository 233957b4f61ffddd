"""How work is cut into batches: pure arithmetic."""

from collections.abc import Callable
from dataclasses import dataclass

_FRAME_STEP = 128
_CHUNK_FRAMES = (32, 48, 96, 112)
_RENDERED_FRAMES = (40, 56, 104, 120)
_MEMORY_STEP = 128
_TOKEN_STEP = 64


@dataclass(frozen=True)
class Budget:
    """What one batch may hold; padded sizes count.

    encode: tokens through the conformer. solve: mel frames through the estimator; both with the prompts. render: mel
    frames through HiFT, whose last stage is wide in time.
    remember: frames of the streams in one batch, remembered and new. recall: tokens that their conformer remembers,
    for a batch to be run as a graph.
    """

    encode: int = 1024
    solve: int = 4096
    render: int = 1024
    remember: int = 4096
    recall: int = 2048


def split(lengths: list[int], cost: Callable[[int, int], int], budget: int) -> list[list[int]]:
    """Indices grouped so that cost(count, longest) stays in the budget; similar lengths together.

    An item that exceeds the budget alone is a group of its own.
    """
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda item: -lengths[item]):
        longest = lengths[groups[-1][0]] if groups else 0
        if groups and cost(len(groups[-1]) + 1, longest) <= budget:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def padded(count: int, frames: int) -> int:
    """Frames of a batch."""
    return count * frames


def shaped(count: int, frames: int) -> int:
    """Frames of a batch of whole clips, in the shape that it is padded to."""
    return batch_rows(count) * clip_frames(frames)


def remembered(count: int, frames: int) -> int:
    """Remembered and new frames of a batch of streams, in the shape that it is padded to."""
    return batch_rows(count) * (remembered_frames(frames) + _CHUNK_FRAMES[-1])


def clip_frames(frames: int) -> int:
    """A whole clip's frames, padded so that few shapes occur."""
    return _up(frames, _FRAME_STEP)


def chunk_frames(frames: int) -> int:
    """A chunk's frames, padded so that few shapes occur."""
    return next((size for size in _CHUNK_FRAMES if frames <= size), _up(frames, _FRAME_STEP))


def rendered_frames(frames: int) -> int:
    """The same for HiFT, which sees eight frames more, and for whole clips there."""
    return next((size for size in _RENDERED_FRAMES if frames <= size), _up(frames, _FRAME_STEP))


def remembered_frames(frames: int) -> int:
    """A batch's remembered frames, padded so that few shapes occur."""
    return _up(frames, _MEMORY_STEP)


def rendered(count: int, frames: int) -> int:
    """Frames of a batch for HiFT, in the shape that it is padded to."""
    return batch_rows(count) * rendered_frames(frames)


def encoded_tokens(tokens: int) -> int:
    """A whole clip's tokens, padded so that few shapes occur."""
    return _up(tokens, _TOKEN_STEP)


def remembered_tokens(tokens: int) -> int:
    """A batch's remembered tokens, padded so that few shapes occur."""
    return 0 if tokens == 0 else max(2 * _TOKEN_STEP, batch_rows(tokens))


def batch_rows(rows: int) -> int:
    """A batch's rows: the next power of two."""
    return 1 << (rows - 1).bit_length()


def _up(number: int, step: int) -> int:
    return -(-number // step) * step
