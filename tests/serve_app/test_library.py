"""The library: what one process stores all have at once, damage costs one voice, and no name leaves the folder."""

import fcntl
import logging
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from deployments.errors import InvalidInputError, NotFoundError, StageError
from deployments.types import Clip, Reference
from serve_app.library import Caps, Library, checked_name
from serve_app.voice_file import Label, Voice

ROOM = Caps(100, 2**24)


def voice(name: str = "anna", seed: int = 0, seconds: float = 0.1) -> Voice:
    random = np.random.default_rng(seed)
    clip = Clip(random.normal(0, 0.1, (1, int(24_000 * seconds))).astype(np.float32), 24_000)
    reference = Reference(
        vq02=random.integers(0, 1024, 4).astype(np.int32),
        vq06=random.integers(0, 4096, 6).astype(np.int32),
        mel=random.normal(size=(10, 80)).astype(np.float32),
        speaker=random.normal(size=192).astype(np.float32),
        duration=clip.duration,
    )
    label = Label(name, f"words of {seed}", clip.duration, description="who", consent="yes", created=1_700_000_000)
    return Voice(label, clip, reference)


def library(folder: Path, weights: str = "w1", caps: Caps = ROOM) -> Library:
    return Library(folder / "voices", weights, caps)


def assert_same(found: Voice | None, expected: Voice) -> None:
    assert found is not None and found.reference is not None and expected.reference is not None
    assert found.label == expected.label and found.clip.sample_rate == expected.clip.sample_rate
    assert np.array_equal(found.clip.samples, expected.clip.samples)
    for name in ("vq02", "vq06", "mel", "speaker"):
        first, second = getattr(found.reference, name), getattr(expected.reference, name)
        assert first.dtype == second.dtype and np.array_equal(first, second)
    assert found.reference.duration == expected.reference.duration


def test_a_voice_survives_a_restart_whole(tmp_path: Path) -> None:
    library(tmp_path).put(voice("小明"))
    again = library(tmp_path)
    assert_same(again.get("小明"), voice("小明"))
    assert again.labels() == [voice("小明").label]


def test_an_empty_library_has_nothing_and_makes_no_folder(tmp_path: Path) -> None:
    empty = library(tmp_path)
    assert (empty.get("anna"), empty.labels(), empty.delete("anna")) == (None, [], False)
    assert list(tmp_path.iterdir()) == []


def test_two_libraries_over_one_folder_see_each_other_s_changes_at_once(tmp_path: Path) -> None:
    first, second = library(tmp_path), library(tmp_path)
    for seed in range(4):
        first.put(voice(seed=seed))
        assert_same(second.get("anna"), voice(seed=seed))
        assert second.labels() == [voice(seed=seed).label]
        first, second = second, first
    assert first.delete("anna")
    assert (second.get("anna"), second.labels(), second.delete("anna")) == (None, [], False)


def test_an_unchanged_voice_is_read_once(tmp_path: Path) -> None:
    stored = library(tmp_path)
    stored.put(voice())
    assert stored.get("anna") is stored.get("anna")


def test_other_weights_get_the_clip_alone_until_it_is_refreshed(tmp_path: Path) -> None:
    old, new = library(tmp_path, "w1"), library(tmp_path, "w2")
    old.put(voice())
    stale = new.get("anna")
    assert stale is not None and stale.stale and stale.reference is None
    made = voice(seed=7).reference
    assert made is not None
    new.refresh(stale, made)
    assert_same(new.get("anna"), replace(voice(), reference=made))
    assert new.labels() == [voice().label]


def test_a_refresh_brings_back_nothing_that_was_replaced_or_deleted(tmp_path: Path) -> None:
    old, new = library(tmp_path, "w1"), library(tmp_path, "w2")
    old.put(voice())
    stale, made = new.get("anna"), voice(seed=7).reference
    assert stale is not None and made is not None
    new.put(voice(seed=1))
    new.refresh(stale, made)
    assert_same(new.get("anna"), voice(seed=1))
    new.delete("anna")
    new.refresh(stale, made)
    assert new.get("anna") is None


def test_a_damaged_file_is_reported_once_and_costs_its_own_voice_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stored = library(tmp_path)
    for name in ("anna", "berta", "cesar"):
        stored.put(voice(name))
    path = tmp_path / "voices" / "berta.safetensors"
    content = path.read_bytes()
    for damage in (content[: len(content) // 2], b"", b"\xff" * 100, b"{}", content[:8] + b"x" + content[9:]):
        path.write_bytes(damage)
        caplog.clear()
        with caplog.at_level(logging.ERROR):
            assert [label.name for label in stored.labels()] == ["anna", "cesar"]
            assert [label.name for label in stored.labels()] == ["anna", "cesar"]
        assert len(caplog.records) == 1 and "berta" in caplog.text
        with pytest.raises(NotFoundError) as error:
            stored.get("berta")
        assert error.value.code == "voice_damaged"
    stored.put(voice("berta", seed=3))
    assert_same(stored.get("berta"), voice("berta", seed=3))


def test_one_flipped_bit_is_noticed(tmp_path: Path) -> None:
    stored = library(tmp_path)
    stored.put(voice())
    path = tmp_path / "voices" / "anna.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(NotFoundError):
        stored.get("anna")
    assert stored.delete("anna")


def test_files_that_are_no_voices_are_left_alone(tmp_path: Path) -> None:
    stored = library(tmp_path)
    stored.put(voice())
    folder = tmp_path / "voices"
    for name in ("notes.txt", "a b.safetensors", "%2e%2e.safetensors", ".safetensors"):
        (folder / name).write_bytes(b"mine")
    assert [label.name for label in stored.labels()] == ["anna"]
    assert (folder / "notes.txt").read_bytes() == b"mine"


def test_the_caps_count_voices_and_bytes_and_spare_replacements(tmp_path: Path) -> None:
    two = library(tmp_path, caps=Caps(2, 2**24))
    two.put(voice("anna"))
    two.put(voice("berta"))
    with pytest.raises(InvalidInputError, match="full") as error:
        two.put(voice("cesar"))
    assert error.value.code == "voices_full"
    two.put(voice("anna", seed=1))
    two.delete("berta")
    two.put(voice("cesar"))
    small = library(tmp_path, caps=Caps(100, 30_000))
    with pytest.raises(InvalidInputError, match="full"):
        small.put(voice("dora"))


def test_the_cap_holds_among_writers_at_the_same_time(tmp_path: Path) -> None:
    def store(number: int) -> bool:
        try:
            library(tmp_path, caps=Caps(5, 2**24)).put(voice(f"voice{number}"))
        except InvalidInputError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(store, range(20))) == 5
    assert len(library(tmp_path).labels()) == 5


def test_readers_meet_the_old_voice_or_the_new_one_whole(tmp_path: Path) -> None:
    library(tmp_path).put(voice(seed=0))

    def overwrite(seed: int) -> None:
        library(tmp_path).put(voice(seed=seed))

    with ThreadPoolExecutor(2) as pool:
        writing = [pool.submit(overwrite, seed) for seed in range(20)]
        while not all(each.done() for each in writing):
            found = library(tmp_path).get("anna")
            assert found is not None
            assert_same(found, voice(seed=int(found.transcript.split()[-1])))
    assert all(each.exception() is None for each in writing)


def test_a_write_that_fails_leaves_the_old_voice_and_no_rubbish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = library(tmp_path)
    stored.put(voice())

    def full(_file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StageError, match="No space left"):
        stored.put(voice(seed=1))
    assert_same(stored.get("anna"), voice())
    assert sorted(path.name for path in (tmp_path / "voices").iterdir()) == [".lock", "anna.safetensors"]


def test_a_writer_that_hangs_is_not_waited_for_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = library(tmp_path)
    stored.put(voice())
    monkeypatch.setattr("serve_app.shared_files.PATIENCE_S", 0.05)
    with (tmp_path / "voices" / ".lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(StageError, match="another writer"):
            stored.put(voice(seed=1))
        with pytest.raises(StageError, match="another writer"):
            stored.delete("anna")
        assert_same(stored.get("anna"), voice())
    stored.put(voice(seed=1))


def test_what_a_killed_writer_left_is_swept_by_the_next(tmp_path: Path) -> None:
    stored = library(tmp_path)
    stored.put(voice())
    (tmp_path / "voices" / ".0123.tmp").write_bytes(b"half")
    stored.put(voice("berta"))
    assert not list((tmp_path / "voices").glob(".*.tmp"))


@pytest.mark.parametrize("name", ["anna", "Anna_2", "v1.0", "小明", "é", " padded ", "x" * 64, "字" * 21])
def test_good_names(name: str) -> None:
    assert checked_name(name) == name.strip()


@pytest.mark.parametrize(
    "name", ["", " ", ".", "..", "../x", "/etc/passwd", "a/b", "a\\b", "a\0", "-a", ".a", "a b", "x" * 65, "字" * 22]
)
def test_bad_names(name: str) -> None:
    with pytest.raises(InvalidInputError) as error:
        checked_name(name)
    assert (error.value.param, error.value.code) == ("name", "invalid_name")


def test_one_name_in_two_spellings_of_unicode_is_one_voice(tmp_path: Path) -> None:
    stored = library(tmp_path)
    stored.put(voice(checked_name("e\u0301")))
    assert stored.get("\u00e9") is not None and stored.get("e\u0301") is not None


PARTS = st.sampled_from(["..", "/", "\\", "%2e%2e", "%2F", "\0", "a", ".", "~", "C:", "\n", "\ud800", "名", ".lock"])


@settings(max_examples=150, deadline=None)
@given(text=st.text(max_size=30) | st.lists(PARTS, max_size=8).map("".join))
@example(text="../../etc/passwd")
@example(text="a" * 300)
def test_no_name_reaches_outside_the_folder(text: str) -> None:
    with tempfile.TemporaryDirectory() as outer:
        stored = library(Path(outer))
        beside = Path(outer) / "beside.safetensors"
        beside.write_bytes(b"mine")
        try:
            name = checked_name(text)
        except InvalidInputError:
            assert stored.get(text) is None and not stored.delete(text)
            assert sorted(Path(outer).iterdir()) == [beside]
            return
        stored.put(voice(name))
        assert len(list((Path(outer) / "voices").glob("*.safetensors"))) == 1
        assert stored.get(text) is not None and [label.name for label in stored.labels()] == [name]
        assert stored.delete(text) and stored.labels() == []
        assert sorted(path.name for path in Path(outer).iterdir()) == ["beside.safetensors", "voices"]
