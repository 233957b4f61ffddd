"""The cache: keys follow content, memory and folder stay under their limits, damage costs only time."""

import os
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deployments.checkpoint import Layout
from deployments.encoder import fingerprint
from deployments.encoder.cache import Cache
from deployments.encoder.load import open_cache
from deployments.encoder.options import EncoderOptions
from deployments.encoder.store import Store
from deployments.types import Clip, Reference
from tests.encoder.conftest import noise


def reference(seed: int = 0, frames: int = 10) -> Reference:
    random = np.random.default_rng(seed)
    vq02 = random.integers(0, 1024, 8).astype(np.int32)
    vq06 = random.integers(0, 4096, 12).astype(np.int32)
    mel = random.normal(size=(frames, 80)).astype(np.float32)
    return Reference(vq02, vq06, mel, random.normal(size=192).astype(np.float32), 0.1 * frames)


def cache_in(folder: Path | None, events: Counter[str], memory: int = 2**20, limit: int = 2**20) -> Cache:
    count = lambda event: events.update([event])  # noqa: E731
    return Cache("weights", memory, Store(folder, limit, count) if folder else None, count)


def test_what_was_kept_is_found_and_marked() -> None:
    events: Counter[str] = Counter()
    cache = cache_in(None, events)
    key = cache.key(noise(1.0))
    assert cache.find(key) is None
    cache.keep(key, reference())
    found = cache.find(key)
    assert found is not None and found.cached
    _equal(found, reference())
    assert events == {"miss": 1, "memory_hit": 1}


def test_the_key_follows_samples_rate_shape_and_weights() -> None:
    clip = noise(1.0, channels=2)
    others = [
        Clip(clip.samples, 44_100),
        Clip(clip.samples.reshape(1, -1), clip.sample_rate),
        Clip(np.where(np.arange(clip.samples.shape[1]) == 7, 0, clip.samples).astype(np.float32), clip.sample_rate),
    ]
    keys = {fingerprint.of_clip(other, "w") for other in [clip, *others]} | {fingerprint.of_clip(clip, "v")}
    assert len(keys) == 5
    transposed = np.ascontiguousarray(clip.samples.T).T
    assert fingerprint.of_clip(Clip(transposed, clip.sample_rate), "w") == fingerprint.of_clip(clip, "w")


def test_other_weights_or_precision_have_other_fingerprints(tmp_path: Path, layout: Layout) -> None:
    path = tmp_path / "weights"
    path.write_bytes(bytes(3_000_000))
    first = fingerprint.of_files([path], "")
    path.write_bytes(bytes(2_999_999) + b"\1")
    assert fingerprint.of_files([path], "") != first
    weights = {open_cache(layout, EncoderOptions(precision=p), print).weights for p in ("float32", "tf32")}
    assert len(weights) == 2


def test_memory_stays_under_its_limit_and_drops_the_least_recently_used() -> None:
    events: Counter[str] = Counter()
    cache = cache_in(None, events, memory=20_000)
    for number in range(5):
        cache.keep(str(number), reference(number))
        cache.find("0")
    assert 0 < cache.memory.size <= 20_000
    assert cache.find("0") is not None and cache.find("1") is None
    assert events["memory_eviction"] == 5 - len(cache.memory.entries) == 2


def test_an_entry_larger_than_memory_is_not_kept() -> None:
    cache = cache_in(None, Counter(), memory=1000)
    cache.keep("a", reference())
    assert cache.find("a") is None and cache.memory.size == 0


def test_a_folder_survives_a_restart_and_serves_other_replicas(tmp_path: Path) -> None:
    cache_in(tmp_path, Counter()).keep("aa11", reference())
    events: Counter[str] = Counter()
    other = cache_in(tmp_path, events)
    found = other.find("aa11")
    assert found is not None and found.cached
    _equal(found, reference())
    other.find("aa11")
    assert events == {"folder_hit": 1, "memory_hit": 1}


@pytest.mark.parametrize("damage", ["truncated", "emptied", "flipped"])
def test_a_damaged_file_is_removed_and_replaced(damage: str, tmp_path: Path) -> None:
    cache_in(tmp_path, Counter()).keep("aa11", reference())
    path = next(tmp_path.glob("*/*.safetensors"))
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes({"truncated": content[:-100], "emptied": b"", "flipped": content}[damage])
    events: Counter[str] = Counter()
    cache = cache_in(tmp_path, events)
    assert cache.find("aa11") is None and not path.exists()
    assert events == {"corrupt": 1, "miss": 1}
    cache.keep("aa11", reference())
    assert cache_in(tmp_path, events).find("aa11") is not None


def test_a_thousand_entries_stay_under_the_folder_limit_and_the_newest_remain(tmp_path: Path) -> None:
    events: Counter[str] = Counter()
    cache = cache_in(tmp_path, events, memory=0, limit=500_000)
    for number in range(1000):
        cache.keep(f"{number:04x}", reference(number))
    size = sum(path.stat().st_size for path in tmp_path.glob("*/*"))
    assert 300_000 < size <= 500_000
    assert cache.find(f"{999:04x}") is not None and cache.find(f"{0:04x}") is None
    assert events["folder_eviction"] + len(list(tmp_path.glob("*/*"))) == 1000


def test_a_used_file_outlives_one_that_is_not(tmp_path: Path) -> None:
    cache = cache_in(tmp_path, Counter(), memory=0)
    for key in ("aa", "bb"):
        cache.keep(key, reference())
        os.utime(tmp_path / key / f"{key}.safetensors", (1000, 1000))
    cache.find("aa")
    size = (tmp_path / "aa" / "aa.safetensors").stat().st_size
    cache_in(tmp_path, Counter(), limit=int(1.5 * size))
    assert [path.name for path in tmp_path.glob("*/*")] == ["aa.safetensors"]


def test_abandoned_temporary_files_are_removed_and_young_ones_left(tmp_path: Path) -> None:
    (tmp_path / "aa").mkdir()
    for name, age in ((".old.tmp", 7200), (".new.tmp", 0)):
        (tmp_path / "aa" / name).write_bytes(b"half")
        os.utime(tmp_path / "aa" / name, (time.time() - age,) * 2)
    cache_in(tmp_path, Counter())
    assert [path.name for path in (tmp_path / "aa").iterdir()] == [".new.tmp"]


def test_a_folder_that_cannot_be_written_costs_only_its_entries(tmp_path: Path) -> None:
    events: Counter[str] = Counter()
    cache = cache_in(tmp_path, events)
    (tmp_path / "aa").write_text("a file where a folder belongs")
    cache.keep("aa11", reference())
    assert cache.find("aa11") is not None
    assert events == {"folder_error": 1, "memory_hit": 1}


def _equal(found: Reference, expected: Reference) -> None:
    for name in ("vq02", "vq06", "mel", "speaker"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
        assert getattr(found, name).dtype == getattr(expected, name).dtype
    assert replace(found, cached=False).duration == expected.duration
