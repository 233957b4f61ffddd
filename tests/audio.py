"""Small clips as files, for tests that send audio."""

import base64
import io
import wave

import numpy as np


def tone(seconds: float = 1.2345, hertz: float = 440.0, rate: int = 24_000) -> np.ndarray:
    """A sine, float32 (n,)."""
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def wav(samples: np.ndarray, rate: int = 24_000, channels: int = 1) -> bytes:
    """A WAV of int16 from float (n,), the same in every channel."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.repeat((samples * 32767).astype("<i2"), channels).tobytes())
    return buffer.getvalue()


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()
