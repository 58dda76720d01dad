"""Mixtures: exact shares, random access, one integer; genres, ranges and identity over all sources."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_corpora import clip_motion, clip_music

from datamodules.motion import MotionDataModule
from datamodules.streams.manifest import load_manifest
from datamodules.streams.mixture import MixtureOrder, MixtureSource
from datamodules.streams.samples import ClipMeta
from datamodules.streams.united import unite
from datamodules.streams.windows import MotionBatch
from datamodules.streams.writer import CorpusWriter
from macedance.errors import ConfigError, DataError

MakeCorpus = Callable[..., Path]
RECORDED = [3, 17, 6, 19, 5, 10, 2, 18, 11, 4, 15, 8, 13, 0, 12, 9, 14, 7, 16, 1]


def starts(*counts: int) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def mixture(weights: list[int], sizes: list[list[int]], batch: int = 4, seed: int = 0, window: int = 5) -> MixtureOrder:
    return MixtureOrder([starts(*counts) for counts in sizes], weights, batch, seed, window)


@settings(max_examples=30, deadline=None)
@given(
    weights=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    seed=st.integers(0, 2**40),
    first=st.integers(0, 500),
)
def test_every_period_has_exact_shares(weights: list[int], seed: int, first: int) -> None:
    order = mixture(weights, [[3, 4]] * len(weights), seed=seed)
    period = sum(weights) // np.gcd.reduce(weights)
    found = Counter(order.source_at(first * period + slot)[0] for slot in range(period))
    assert [found[source] * np.gcd.reduce(weights) for source in range(len(weights))] == weights


def test_each_source_goes_through_its_own_epochs() -> None:
    order = mixture([2, 5], [[4, 3], [6, 6, 1]])
    seen: dict[int, list[int]] = {0: [], 1: []}
    for position in range(700):
        source, own = order.source_at(position)
        assert own == len(seen[source]), "the source's own positions follow one another"
        seen[source].append(order.sample_at(position))
    for source, size, base in ((0, 7, 0), (1, 13, 7)):
        for first in range(0, len(seen[source]) - size + 1, size):
            assert sorted(seen[source][first : first + size]) == list(range(base, base + size))
    assert (len(seen[0]), len(seen[1])) == (200, 500)


def test_random_access_agrees_with_reading_on() -> None:
    sizes = [[5, 2], [9], [4, 4]]
    straight = [mixture([3, 1, 2], sizes).sample_at(position) for position in range(300)]
    order = mixture([3, 1, 2], sizes)
    places = np.random.default_rng(0).permutation(300)
    assert [order.sample_at(int(place)) for place in places] == [straight[place] for place in places]


def test_the_order_is_the_recorded_one() -> None:
    """A resume after an upgrade must not silently change the order."""
    assert [mixture([1, 1], [[4, 6], [5, 5]], seed=7).sample_at(position) for position in range(20)] == RECORDED


def test_equal_sources_are_shuffled_differently() -> None:
    order = mixture([1, 1], [[40], [40]], window=40)
    seen: dict[int, list[int]] = {0: [], 1: []}
    for position in range(80):
        source, _ = order.source_at(position)
        seen[source].append(order.sample_at(position) - 40 * source)
    assert seen[0] != seen[1]


def test_an_epoch_is_all_sources_together_in_whole_batches() -> None:
    order = mixture([1, 3], [[7], [6, 6]], batch=4)
    assert (order.num_samples, order.samples_per_epoch) == (19, 16)
    assert [order.epoch_of(position) for position in (0, 15, 16, 33)] == [0, 0, 1, 2]


def test_large_mixtures_need_little_memory() -> None:
    big = np.arange(0, 10**8 + 1, 10**4, dtype=np.int64)
    order = MixtureOrder([big, big], [999, 1], 1024)
    for position in range(150_000_000, 150_000_100):
        order.sample_at(position)
    assert order.nbytes < 2**21


@pytest.mark.parametrize("weights", [[], [0, 1], [-1], [1, 2, 3], [100_001, 1]])
def test_impossible_weights_are_refused(weights: list[int]) -> None:
    with pytest.raises(ConfigError, match="mixture"):
        mixture(weights, [[8]] * min(max(len(weights), 1), 2))


def test_fewer_samples_than_a_batch() -> None:
    with pytest.raises(ConfigError, match="9 training samples are fewer"):
        mixture([1, 1], [[4], [5]], batch=10)


# ---------------------------------------------------------------- the data module
def other_corpus(folder: Path, genre: str | None = "krump", fps: float = 30.0, channels_up: float = 0.0) -> Path:
    """Nine clips of a genre that the first corpus lacks."""
    with CorpusWriter(folder, clips_per_shard=4, fps=fps) as writer:
        for number in range(12):
            motion = clip_motion(number, 30, genre)
            motion = type(motion)(motion.poses, motion.trans + channels_up, fps, genre=genre)
            split = "train" if number < 9 else "val"
            writer.add(split, f"other-{number:03d}", motion, clip_music(number, 30), ClipMeta(f"{split}-song-{number}"))
    return folder


def module(sources: list[tuple[Path, int]], **options: Any) -> MotionDataModule:
    mixed = [MixtureSource(str(path), weight) for path, weight in sources]
    return MotionDataModule(mixture=mixed, **{"global_batch_size": 8, "window_frames": 25, **options})


def take(data: MotionDataModule, count: int) -> list[MotionBatch]:
    return list(islice(iter(data.train_dataloader()), count))


def test_batches_mix_two_corpora(corpus: Path, tmp_path: Path) -> None:
    data = module([(corpus, 2), (other_corpus(tmp_path / "other", channels_up=50.0), 6)])
    assert data.genres == ("house", "waack", "krump")
    assert data.samples_per_epoch == 32
    batches = take(data, 10)
    for batch in batches:
        owners = Counter(key.split("-")[0] for key in batch["keys"])
        assert owners == {"train": 2, "other": 6}, "a batch of two periods"
        for key, label in zip(batch["keys"], batch["genre"].tolist(), strict=True):
            assert (data.genres[label] == "krump") == key.startswith("other")
    assert torch.cat([batch["position"] for batch in batches]).tolist() == list(range(80))
    assert data.consumed_after(batches[3]) == 32
    motion, _ = data.normalizers
    assert float(motion.maximum[4]) > 50
    assert float(motion.minimum[4]) < 1
    assert [clip.key for clip in data.clips("val")] == [
        *(f"val-{n:03d}" for n in range(23, 28)), *(f"other-{n:03d}" for n in range(9, 12)),
    ]  # fmt: skip
    assert {clip.genre_label for clip in data.clips("val")} == {0, 1, 2}
    assert len(data.clips("train")) == 32
    assert len(module([(corpus, 1), (tmp_path / "other", 1)], max_val_clips=4).clips("val")) == 4


@pytest.mark.parametrize(("workers", "ranks"), [(0, 1), (2, 1), (0, 2)])
def test_workers_ranks_and_resumes_do_not_change_a_mixture(
    corpus: Path, tmp_path: Path, workers: int, ranks: int
) -> None:
    from test_motion_datamodule import as_rank

    sources = [(corpus, 3), (other_corpus(tmp_path / "other"), 2)]
    straight = [key for batch in take(module(sources), 6) for key in batch["keys"]]
    parts = []
    for rank in range(ranks):
        data = module(sources, num_workers=workers)
        data.start_position = 16
        as_rank(data, rank, ranks)
        parts.append(take(data, 4))
    resumed = [key for step in zip(*parts, strict=True) for batch in step for key in batch["keys"]]
    assert resumed == straight[16:]


def test_identity_and_manifest_of_a_mixture(corpus: Path, tmp_path: Path) -> None:
    other = other_corpus(tmp_path / "other")
    both = module([(corpus, 1), (other, 1)]).manifest
    assert both.sha256 not in {load_manifest(corpus).sha256, load_manifest(other).sha256}
    assert both.sha256 == module([(corpus, 5), (other, 1)]).manifest.sha256
    assert both.sha256 != module([(other, 1), (corpus, 1)]).manifest.sha256
    assert (both.splits["train"].samples, both.splits["val"].samples, both.num_samples) == (32, 8, 43)
    assert module([(corpus, 3)]).manifest.sha256 == load_manifest(corpus).sha256


def test_clips_without_genre_count_as_unknown(corpus: Path, tmp_path: Path) -> None:
    data = module([(corpus, 1), (other_corpus(tmp_path / "other", genre=None), 1)])
    assert data.genres == ("house", "waack", "unknown")
    labels = {key[:5]: label for b in take(data, 4) for key, label in zip(b["keys"], b["genre"].tolist(), strict=True)}
    assert labels["other"] == 2


def test_other_frame_rates_and_representations_are_refused(corpus: Path, tmp_path: Path) -> None:
    other = other_corpus(tmp_path / "other", fps=60.0)
    with pytest.raises(ConfigError, match=r"60\.0 frames per second"):
        module([(corpus, 1), (other, 1)]).setup()
    with pytest.raises(ConfigError, match=r"30\.0 and 60\.0 frames per second"):
        unite([load_manifest(corpus), load_manifest(other)], ["a", "b"])
    text = (
        (other / "manifest.json").read_text().replace('"edge-151-zup"', '"other"').replace('"fps": 60.0', '"fps": 30.0')
    )
    (other / "manifest.json").write_text(text)
    with pytest.raises(DataError, match="the corpus holds other"):
        module([(corpus, 1), (other, 1)]).setup()


def test_absent_validation_of_one_source(corpus: Path, make_corpus: MakeCorpus) -> None:
    data = module([(corpus, 1), (make_corpus(train=4, val=0, test=0), 1)])
    assert len(data.clips("val")) == 5
    assert module([(make_corpus("a", train=8, val=0), 1), (make_corpus("b", train=8, val=0), 1)]).clips("val") == []


def test_music_of_one_name_in_two_corpora_is_not_guessed(make_corpus: MakeCorpus) -> None:
    folders = [make_corpus(name) for name in "ab"]
    for folder in folders:
        (folder / "music").mkdir()
        (folder / "music" / "both.flac").write_bytes(b"")
    (folders[1] / "music" / "one.flac").write_bytes(b"")
    data = module([(folder, 1) for folder in folders])
    assert data.music_file("both") is None
    assert data.music_file("one") == folders[1] / "music" / "one.flac"


def test_shards_and_mixture_together_are_refused(corpus: Path) -> None:
    with pytest.raises(ConfigError, match="both"):
        MotionDataModule(str(corpus), mixture=[MixtureSource(str(corpus))])
    with pytest.raises(ConfigError, match="empty"):
        MotionDataModule(mixture=[])


def test_a_mixture_comes_from_a_config(corpus: Path, tmp_path: Path) -> None:
    from jsonargparse import ArgumentParser

    config = tmp_path / "data.yaml"
    config.write_text(
        f"data:\n  mixture:\n    - {{shards: {corpus}, weight: 2}}\n    - {{shards: {corpus}, weight: 5}}\n"
    )
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(MotionDataModule, "data")
    built = parser.instantiate_classes(parser.parse_args([f"--config={config}"])).data
    assert built.mixture == [MixtureSource(str(corpus), 2), MixtureSource(str(corpus), 5)]
