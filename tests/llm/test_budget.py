import numpy as np
import pytest

from deployments.errors import InvalidInputError
from deployments.llm.budget import MAX_LENGTH, new_tokens, speech_seconds
from deployments.types import ClonePrompt, EditPrompt, Sampling


def clone(text: str) -> ClonePrompt:
    return ClonePrompt(text, "", np.zeros(0, dtype=np.int32), "clone_0")


def test_chinese_takes_longer_per_character_than_latin_writing():
    assert speech_seconds("测试语音合成效果") == pytest.approx(8 * 0.45)
    assert speech_seconds("hello") == pytest.approx(5 * 0.12)
    assert speech_seconds("2024") == pytest.approx(4 * 0.45)


def test_a_clone_may_take_as_long_as_its_text():
    assert new_tokens(clone("测试语音合成效果"), Sampling(0), 400) == 47 * 5


def test_an_edit_may_take_twice_its_source():
    prompt = EditPrompt("", np.zeros(500, dtype=np.int32))
    assert new_tokens(prompt, Sampling(0), 900) == 5 * (200 + 17)


def test_the_whole_never_exceeds_the_published_length():
    assert new_tokens(clone("长" * 9000), Sampling(0), 400) == (MAX_LENGTH - 400) // 5 * 5
    assert new_tokens(clone("x"), Sampling(0, max_new_tokens=100_000), 400) == MAX_LENGTH - 400


def test_a_request_may_set_its_own_budget():
    assert new_tokens(clone("x"), Sampling(0, max_new_tokens=7), 400) == 7


def test_a_prompt_without_room_for_an_answer_is_refused():
    with pytest.raises(InvalidInputError, match="no room"):
        new_tokens(clone("x"), Sampling(0), MAX_LENGTH - 4)
