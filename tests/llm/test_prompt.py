import subprocess
import sys

import pytest

from deployments.errors import InvalidInputError
from deployments.llm.prompt import clone_system, edit_instruction, edit_system, edit_types


def test_edit_types_are_those_of_the_model():
    assert list(edit_types()) == ["emotion", "style", "speed", "denoise", "vad", "paralinguistic"]
    assert "happy" in edit_types()["emotion"]
    assert edit_types()["vad"] == []


def test_an_option_goes_into_the_instruction_and_white_space_goes():
    text = edit_instruction("emotion", "slightly happy", "  Hello. ")
    assert text == "Make the following audio more slightly happy. The text corresponding to the audio is: Hello.\n"


def test_braces_in_a_transcript_stay_as_they_are():
    assert edit_instruction("speed", "faster", "{text} {0}").endswith("is: {text} {0}\n")
    assert "speaker prompt text: \n{x}\n" in clone_system("clone_0", "{x}", "<audio_1>")


@pytest.mark.parametrize(
    ("mode", "start"),
    [("emotion", "Remove any emotion"), ("speed", "Remove any emotion"), ("style", "Remove any speaking styles")],
)
def test_remove_has_instructions_of_its_own(mode: str, start: str):
    assert edit_instruction(mode, "remove", "Hello.").startswith(start)


@pytest.mark.parametrize(
    ("mode", "param"),
    [("shout", "step_audio.mode"), ("style", "step_audio.edit_info"), ("paralinguistic", "input")],
)
def test_what_is_missing_is_named(mode: str, param: str):
    with pytest.raises(InvalidInputError) as caught:
        edit_instruction(mode, None, "Hello.")
    assert caught.value.param == param


def test_edits_share_one_system_text():
    assert edit_system().startswith("As a highly skilled audio editing")


def test_prompts_are_imported_without_torch():
    code = "import sys, deployments.llm.prompt; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
