import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.llm.budget import speech_seconds
from serve_app.text import segments, sentences


def squeezed(text: str) -> str:
    return re.sub(r"\s+", "", text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Dr. Smith paid $3.50 at 5 p.m. yesterday. Was it fine? Yes!",
         ["Dr. Smith paid $3.50 at 5 p.m. yesterday.", "Was it fine?", "Yes!"]),
        ("今天天气很好。我们去公园吧！好不好？", ["今天天气很好。", "我们去公园吧！", "好不好？"]),
        ("“真的吗？”她说。是的。", ["“真的吗？”", "她说。", "是的。"]),
        ("今日はいい天気です。散歩に行きましょう！", ["今日はいい天気です。", "散歩に行きましょう！"]),
        ("안녕하세요. 반갑습니다! 잘 지내세요?", ["안녕하세요.", "반갑습니다!", "잘 지내세요?"]),
        ("版本3.14已经发布。It costs 2.5 dollars. 很便宜！",
         ["版本3.14已经发布。", "It costs 2.5 dollars.", "很便宜！"]),
        ("Go to number 4. Then to gate 12! It costs 3.5 euros.",
         ["Go to number 4.", "Then to gate 12!", "It costs 3.5 euros."]),
        ("Hello [Laughter] there. Again.", ["Hello [Laughter] there.", "Again."]),
    ],
)  # fmt: skip
def test_sentences_end_where_a_reader_ends_them(text: str, expected: list[str]) -> None:
    assert [sentence.strip() for sentence in sentences(text)] == expected


def test_short_text_stays_whole() -> None:
    assert segments("Hello. How are you?", 15) == ["Hello. How are you?"]


def test_pieces_are_packed_to_the_target() -> None:
    text = "This is one sentence of the book. " * 40
    pieces = segments(text, 15)
    assert all(10 < speech_seconds(piece) <= 15 for piece in pieces[:-1])
    assert all(piece.endswith("book.") for piece in pieces)


def test_a_sentence_too_long_is_cut_at_commas_then_words() -> None:
    clauses = segments("one two three four five six, " * 20, 10)
    assert all(piece.endswith(",") and speech_seconds(piece) <= 10 for piece in clauses)
    words = segments("word " * 400, 10)
    assert all(set(piece.split()) == {"word"} for piece in words)


def test_4096_mixed_characters_every_sentence_once_in_order() -> None:
    spoken = [f"第{number}句话说完了。 Sentence number {number} is over." for number in range(200)]
    text = " ".join(spoken)[:4096]
    pieces = segments(text, 15)
    assert squeezed("".join(pieces)) == squeezed(text)
    assert [int(n) for n in re.findall(r"第(\d+)句", "".join(pieces))] == [
        int(n) for n in re.findall(r"第(\d+)句", text)
    ]


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=200), target_s=st.floats(0.5, 20))
def test_nothing_is_lost_whatever_the_text(text: str, target_s: float) -> None:
    pieces = segments(text, target_s)
    assert squeezed("".join(pieces)) == squeezed(text)
    assert len(pieces) <= 1 or all(any(char.isalnum() for char in piece) for piece in pieces)
