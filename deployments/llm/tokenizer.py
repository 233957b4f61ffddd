"""Text and audio codes to token ids, exactly as the weights saw them in training.

The published file is a SentencePiece unigram model. Neither SentencePiece nor transformers 5 reads it as the
training set-up did, so it is rebuilt here on ``tokenizers``: user-defined pieces are split off first, the "▁"
of a leading word goes only before text that starts the string, and what no piece covers becomes bytes.
Ids of special and audio tokens are looked up, never assumed: smaller vocabularies work.
"""

from pathlib import Path
from typing import Any

import numpy as np
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from deployments.errors import CheckpointError, InvalidInputError
from deployments.llm import prompt
from deployments.types import AUDIO_CODES, ClonePrompt, EditPrompt, Prompt

_pb2: Any = sentencepiece_model_pb2  # protobuf makes its classes at import, where no type checker sees them
_Piece = _pb2.ModelProto.SentencePiece


class Step1Tokenizer:
    """Ids of texts and prompts.

    Attributes:
        bos, begin, end: ids of ``<s>``, ``<|BOT|>`` and ``<|EOT|>``.
        stops: ids that end a generation.
        audio: id of ``<audio_0>``; the other audio codes follow it.
    """

    def __init__(self, folder: Path) -> None:
        """Read tokenizer.json if the folder has one, else tokenizer.model. Raises CheckpointError."""
        converted = folder / "tokenizer.json"
        self._path = converted if converted.is_file() else folder / "tokenizer.model"
        self._tokenizer = _from_json(converted) if converted.is_file() else _from_sentencepiece(self._path)
        self.bos = self._id("<s>")
        self.begin = self._id("<|BOT|>")
        self.end = self._id("<|EOT|>")
        self.stops = (self.end, self._id("</s>"))
        self.audio = self._id("<audio_0>")
        ids = [self._tokenizer.token_to_id(f"<audio_{code}>") for code in range(AUDIO_CODES)]
        if ids != list(range(self.audio, self.audio + AUDIO_CODES)):
            raise CheckpointError([f"{self._path}: audio tokens are not {AUDIO_CODES} ids in a row"])

    @property
    def size(self) -> int:
        """One more than the largest id."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    def _id(self, piece: str) -> int:
        found = self._tokenizer.token_to_id(piece)
        if found is None:
            raise CheckpointError([f"{self._path}: has no piece {piece}"])
        return found

    def encode(self, text: str) -> list[int]:
        """Ids of a text, nothing added before or after."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def encode_prompt(self, request: Prompt) -> list[int]:
        """Ids of a whole prompt, up to where the model's answer begins. Raises InvalidInputError on bad codes."""
        tokens = audio_text(request.codes)
        match request:
            case ClonePrompt():
                system = prompt.clone_system(request.speaker, request.transcript, tokens)
                newline = self.encode("\n")
                turn = self.encode("\n" + request.text)[len(newline) :]
            case EditPrompt():
                system = prompt.edit_system()
                turn = self.encode(f"{request.instruction}\n{tokens}\n")
        return [
            *(self.bos, self.begin, *self.encode("system\n" + system), self.end),
            *(self.begin, *self.encode("human\n"), *turn, self.end),
            *(self.begin, *self.encode("assistant\n")),
        ]


def audio_text(codes: np.ndarray) -> str:
    """Audio codes (n,) as text: ``<audio_523><audio_734>...``. Raises InvalidInputError beyond 0..5119."""
    if len(codes) and not 0 <= int(np.min(codes)) <= int(np.max(codes)) < AUDIO_CODES:
        raise InvalidInputError(f"audio codes must lie in 0..{AUDIO_CODES - 1}", None, "invalid_codes")
    return "".join(f"<audio_{code}>" for code in codes)


def _from_json(path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exception for a bad file
        raise CheckpointError([f"{path}: not a tokenizer: {error}"]) from error


def _from_sentencepiece(path: Path) -> Tokenizer:
    model = _read_model(path)
    pieces = [(piece.piece, piece.score) for piece in model.pieces]
    unigram = models.Unigram(pieces, unk_id=model.trainer_spec.unk_id, byte_fallback=True)
    tokenizer = Tokenizer(unigram)
    special = (_Piece.CONTROL, _Piece.USER_DEFINED)
    tokenizer.add_tokens(
        [
            AddedToken(piece.piece, normalized=False, special=piece.type == _Piece.CONTROL)
            for piece in model.pieces
            if piece.type in special
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


def _read_model(path: Path) -> Any:
    model = _pb2.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except OSError as error:
        raise CheckpointError([f"{path}: {error.strerror}"]) from error
    except Exception as error:  # protobuf's DecodeError differs between its implementations
        raise CheckpointError([f"{path}: not a SentencePiece model: {error}"]) from error
    if not model.pieces or model.trainer_spec.model_type != _pb2.TrainerSpec.UNIGRAM:
        raise CheckpointError([f"{path}: not a SentencePiece unigram model"])
    return model
