"""tokenizer.model: a SentencePiece unigram model with byte fallback and the 5 120 audio codes as its last pieces.

Built piece by piece rather than trained: small, the same everywhere, and at full size ``<audio_0>`` can be put at
the published id. Text pieces are the words and characters of a few sentences; at full size also the ideographs,
kana and hangul, then unused pieces up to the audio codes.
"""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from sentencepiece import sentencepiece_model_pb2

from deployments.types import AUDIO_CODES
from scripts.checkpoints.presets import Step1Sizes

SPACE = "\u2581"
RARE = -14.0
SCRIPTS = ((0x3041, 0x30FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3))
SENTENCES = """
Generate audio with the following timbre, prosody and speaking style
speaker name: clone_0123456789abcdef speaker prompt text: speaker audio tokens: system human assistant
As a highly skilled audio editing and tuning specialist, you excel in interpreting user instructions and applying
precise adjustments to meet their needs. Your expertise spans a wide range of enhancement capabilities.
Make the following audio more happy. The text corresponding to the audio is: remove any noise from the given audio
while preserving the voice content clearly. Ensure that the speech quality remains intact with minimal distortion,
and eliminate all noise and silence from the audio. Add some non-verbal sounds to make the audio more natural.
The quick brown fox jumps over the lazy dog. Once upon a time, in a small house by the sea, there lived an old man.
What time is it now? I would like to hear it again, please! Thank you for coming; we have waited for you all day.
一二三四五六七八九十百千万年月日时分秒，今天天气很好，我们一起去公园散步吧。测试语音合成效果！
你好，请问现在几点了？从前有一个小村庄，住着一位老人和他的女儿。春眠不觉晓，处处闻啼鸟。
これはテストです。今日はいい天気ですね。안녕하세요, 오늘 날씨가 좋네요. 감사합니다.
0123456789 abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ .,:;!?'"()[]{}<>|_-+*/#@&%$=~ 、。！？《》“”
"""


class Piece(NamedTuple):
    """One entry of the vocabulary; ``type`` is SentencePiece's name of its kind."""

    piece: str
    score: float
    type: str


def write(folder: Path, sizes: Step1Sizes) -> tuple[int, int]:
    """tokenizer.model and tokenizer_config.json; returns the id of <audio_0> and the language model's vocabulary."""
    pieces = [*_control_pieces(), *_byte_pieces(), *_text_pieces(), *(_script_pieces() if sizes.first_audio else [])]
    first_audio = sizes.first_audio or len(pieces)
    filler = [Piece(f"<unused_{index}>", RARE, "UNUSED") for index in range(first_audio - len(pieces))]
    audio = [Piece(f"<audio_{code}>", 0.0, "USER_DEFINED") for code in range(AUDIO_CODES)]
    pieces = [*pieces, *filler, *audio]
    (folder / "tokenizer.model").write_bytes(_serialize(pieces))
    (folder / "tokenizer_config.json").write_text(json.dumps(_config(), indent=2), encoding="utf-8")
    return first_audio, sizes.vocab or math.ceil(len(pieces) / 64) * 64


def _serialize(pieces: list[Piece]) -> bytes:
    proto: Any = sentencepiece_model_pb2
    model = proto.ModelProto(pieces=[proto.ModelProto.SentencePiece(**piece._asdict()) for piece in pieces])
    trainer = model.trainer_spec
    trainer.model_type = proto.TrainerSpec.UNIGRAM
    trainer.vocab_size = len(pieces)
    trainer.byte_fallback = True
    trainer.hard_vocab_limit = False
    trainer.unk_id, trainer.bos_id, trainer.eos_id = 0, 1, 2
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.remove_extra_whitespaces = False
    return model.SerializeToString(deterministic=True)


def _control_pieces() -> list[Piece]:
    control = [Piece("<s>", 0.0, "CONTROL"), Piece("</s>", 0.0, "CONTROL")]
    turns = [Piece(text, 0.0, "USER_DEFINED") for text in ("<|EOT|>", "<|BOT|>")]
    return [Piece("<unk>", 0.0, "UNKNOWN"), *control, *turns]


def _byte_pieces() -> list[Piece]:
    return [Piece(f"<0x{value:02X}>", 0.0, "BYTE") for value in range(256)]


def _text_pieces() -> list[Piece]:
    """Words as they start (with the space before them) and single characters, by log frequency, most frequent first."""
    words = [SPACE + word for word in SENTENCES.split() if word.isascii() and word.isalpha() and len(word) > 1]
    characters = [character for character in SENTENCES.replace(" ", SPACE) if character != "\n"]
    counts = Counter(words) + Counter(characters) + Counter(["\n", SPACE])
    total = counts.total()
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [Piece(text, math.log(count / total), "NORMAL") for text, count in ordered]


def _script_pieces() -> list[Piece]:
    present = set(SENTENCES)
    every = (chr(code) for first, last in SCRIPTS for code in range(first, last + 1))
    return [Piece(character, RARE, "NORMAL") for character in every if character not in present]


def _config() -> dict[str, object]:
    return {
        "tokenizer_class": "LlamaTokenizer",
        "legacy": False,
        "add_bos_token": False,
        "add_eos_token": False,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "<unk>",
        "clean_up_tokenization_spaces": False,
        "use_default_system_prompt": False,
    }
