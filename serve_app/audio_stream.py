"""Encoding samples as they come, for answers that begin before they are complete."""

import numpy as np

from serve_app.audio_format import Muxer


class Encoder:
    """``write`` returns the bytes that are ready, ``close`` the rest.

    What is sent cannot be changed any more: WAV and FLAC say that their length is unknown, and MP3 lacks the header
    that would let players cut its delay (46 ms) off.

    Args:
        name: a format of MEDIA_TYPES.
    """

    def __init__(self, name: str) -> None:
        self._pipe = _Pipe()
        self._muxer = Muxer(self._pipe, name)

    def write(self, samples: np.ndarray) -> bytes:
        """float32 (n,) in [-1, 1] at 24 kHz, any n."""
        self._muxer.write(samples)
        return self._pipe.drain()

    def close(self) -> bytes:
        """The end of the file; nothing can be written afterwards."""
        self._muxer.close()
        return self._pipe.drain()


class _Pipe:
    """A file that can only be appended to, emptied by its reader."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def write(self, data: bytes, /) -> int:
        self._buffer += data
        return len(data)

    def drain(self) -> bytes:
        data = bytes(self._buffer)
        self._buffer.clear()
        return data
