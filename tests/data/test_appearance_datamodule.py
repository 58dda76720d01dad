"""Batches of clips of dancers: the contract, the order over ranks and workers, resume, sizes, faults."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from small_clips import FRAMES, SPARE, clip, frame_of, members, write_clips

from datamodules.appearance import AppearanceDataModule
from datamodules.appearance_corpora import AppearanceWriter
from datamodules.appearance_windows import TrainingClips, collate
from datamodules.streams.mixture import MixtureSource
from macedance.appearance_data.windows import Bucket
from macedance.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty training and five validation clips of one size."""
    return write_clips(tmp_path_factory.mktemp("clips") / "corpus", val=5)


@pytest.fixture(scope="module")
def two_sizes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips") / "sizes", val=6, sizes=((32, 32), (32, 48)))


class FakeTrainer:
    """What the data module asks a trainer."""

    def __init__(self, rank: int = 0, world_size: int = 1, accumulate: int = 1, callbacks: Any = ()) -> None:
        self.global_rank, self.world_size, self.accumulate_grad_batches = rank, world_size, accumulate
        self.callbacks = list(callbacks)
        self.strategy = type("Strategy", (), {"root_device": torch.device("cpu")})()


def data_module(folder: Path | None, trainer: FakeTrainer | None = None, **options: Any) -> AppearanceDataModule:
    options = {"global_batch_size": 4, "frames": FRAMES} | options
    data = AppearanceDataModule(None if folder is None else str(folder), **options)
    data.trainer = trainer  # type: ignore[assignment]
    return data


def signed_frame(picture: torch.Tensor) -> int:
    return frame_of(float((picture.mean() + 1) * 127.5))


def test_a_batch_of_pixels_is_what_the_contract_says(clips: Path) -> None:
    data = data_module(clips)
    batch = next(iter(data.train_dataloader()))
    assert batch["video"].shape == batch["pose_video"].shape == (4, 3, FRAMES, 32, 32)
    assert batch["reference_image"].shape == (4, 3, 32, 32)
    assert batch["mask"].shape == (4, FRAMES, 32, 32)
    assert set(batch["mask"].unique().tolist()) == {0.0, 1.0}
    assert batch["video"].dtype == batch["pose_video"].dtype == torch.float32
    assert batch["position"].tolist() == [0, 1, 2, 3]
    assert -1 <= batch["video"].min() <= batch["video"].max() <= 1
    assert batch["pose_video"].min() == -1  # black
    assert batch["prompt"] == [f"dancer number {int(key[-3:])}" for key in batch["keys"]]
    assert (data.fps, data.frames, data.buckets, data.encoder_identity) == (10.0, FRAMES, [(32, 32, FRAMES)], {})
    assert data.consumed_after(batch) == 4
    assert data.samples_per_epoch == 20
    assert data.epoch_of(20) == 1


def test_windows_and_references_are_drawn_by_seed_and_position_alone(clips: Path) -> None:
    starts, references = set(), set()
    for batch in islice(data_module(clips).train_dataloader(), 10):
        for row in range(4):
            start = signed_frame(batch["video"][row, :, 0])
            frames = [signed_frame(batch["video"][row, :, frame]) for frame in range(FRAMES)]
            assert frames == list(range(start, start + FRAMES))
            reference = signed_frame(batch["reference_image"][row])
            assert FRAMES <= reference < FRAMES + SPARE
            outside = [frame for frame in range(FRAMES, FRAMES + SPARE) if not start <= frame < start + FRAMES]
            assert reference in outside or not outside
            starts.add(start)
            references.add(reference)
    assert starts == set(range(SPARE + 1))
    assert references == set(range(FRAMES, FRAMES + SPARE))
    fixed = next(iter(data_module(clips, random_windows=False).train_dataloader()))
    assert {signed_frame(fixed["video"][row, :, 0]) for row in range(4)} == {0}


def test_ranks_and_workers_share_the_batches_of_one(clips: Path) -> None:
    alone = list(islice(data_module(clips).train_dataloader(), 3))
    for accumulate in (1, 2):
        parts = [
            list(islice(data_module(clips, FakeTrainer(rank, 2, accumulate)).train_dataloader(), 3 * accumulate))
            for rank in range(2)
        ]
        for step, batch in enumerate(alone):
            own = [part for rank in parts for part in rank[step * accumulate : (step + 1) * accumulate]]
            assert torch.equal(torch.cat([part["video"] for part in own]), batch["video"])
            assert torch.equal(torch.cat([part["reference_image"] for part in own]), batch["reference_image"])
    loader = data_module(clips, num_workers=1).train_dataloader()
    for batch, other in zip(alone, loader, strict=False):
        assert torch.equal(batch["pose_video"], other["pose_video"])
        assert batch["keys"] == other["keys"]
    loader.stop_workers()


def test_a_run_goes_on_where_it_stopped(clips: Path) -> None:
    whole = list(islice(data_module(clips).train_dataloader(), 8))
    resumed = data_module(clips, FakeTrainer(0, 1))
    resumed.start_position = resumed.consumed_after(whole[4])
    assert resumed.start_position == 20
    for batch, other in zip(whole[5:], resumed.train_dataloader(), strict=False):
        assert torch.equal(batch["video"], other["video"])
        assert torch.equal(batch["position"], other["position"])


def test_every_batch_is_of_one_size(two_sizes: Path) -> None:
    data = data_module(two_sizes)
    batches = list(islice(data.train_dataloader(), 8))
    assert {tuple(batch["video"].shape[-2:]) for batch in batches} == {(32, 32), (32, 48)}
    assert data.buckets == [(32, 32, FRAMES), (32, 48, FRAMES)]
    assert data.samples_per_epoch == 16  # ten of each size, in batches of four
    held_out = list(data.val_dataloader())
    assert sorted(tuple(batch["video"].shape[-2:]) for batch in held_out) == [(32, 32), (32, 48)]
    assert sorted(key for batch in held_out for key in batch["keys"]) == [f"val-{n:03d}" for n in range(20, 26)]


def test_ranks_have_equally_many_held_out_batches(two_sizes: Path) -> None:
    modules = [data_module(two_sizes, FakeTrainer(rank, 2), val_batch_size=1) for rank in range(2)]
    loaders: list[Any] = [module.val_dataloader() for module in modules]
    rows = [[(row["keys"][0], int(row["position"])) for row in iter(loader)] for loader in loaders]
    assert len(rows[0]) == len(rows[1]) == 4
    real = [key for part in rows for key, position in part if position >= 0]
    assert sorted(real) == [f"val-{n:03d}" for n in range(20, 26)]


def test_asked_buckets_scale_the_clips(two_sizes: Path) -> None:
    data = data_module(two_sizes, buckets=[Bucket(16, 16), Bucket(16, 24)])
    assert data.requested_buckets == [Bucket(16, 16), Bucket(16, 24)]
    assert {tuple(b["video"].shape[-2:]) for b in islice(data.train_dataloader(), 6)} == {(16, 16), (16, 24)}
    with pytest.warns(UserWarning, match=r"10 clips .* no bucket and are left out.*\(32 x 32\).*enlarge it over 1\.15"):
        data_module(two_sizes, buckets=[Bucket(32, 48), Bucket(64, 64)]).setup("fit")
    narrow = data_module(two_sizes, buckets=[Bucket(16, 26)])
    with pytest.warns(UserWarning, match=r"10 clips .* belong to no bucket and are left out"):
        narrow.setup("fit")
    assert narrow.buckets == [(16, 26, FRAMES)]


def test_held_out_clips_show_their_first_window_and_last_reference(clips: Path) -> None:
    data = data_module(clips, max_val_clips=3)
    assert data.clip_numbers("val") == [0, 2, 4]
    assert data.clip_numbers("test") == []
    found = data.clips("val", [4])
    assert [one.key for one in found] == ["val-024"]
    window = found[0].window
    assert [frame_of(picture) for picture in window.video_THW3] == list(range(FRAMES))
    assert frame_of(window.reference_HW3) == FRAMES + SPARE - 1
    assert window.mask_THW is not None
    assert found[0].keypoints_TK3 is not None
    assert found[0].keypoints_TK3.shape == (FRAMES, 62, 3)
    assert data.test_dataloader() == []


def test_a_mixture_of_corpora(clips: Path, tmp_path: Path) -> None:
    other = write_clips(tmp_path / "other", train=12, val=2, first=100)
    sources = [MixtureSource(str(clips), 3), MixtureSource(str(other), 1)]
    data = data_module(None, mixture=sources)
    for batch in islice(data.train_dataloader(), 6):
        assert sum(int(key[-3:]) >= 100 for key in batch["keys"]) == 1
    assert len(data.clip_numbers("val")) == 7
    assert data.manifest.sha256 != data_module(clips).manifest.sha256
    narrow = write_clips(tmp_path / "narrow", train=8, val=1, sizes=((32, 48),), first=200)
    with pytest.warns(UserWarning, match="only 1 of the 2 sources have clips of 48 x 32"):
        data_module(None, mixture=[MixtureSource(str(clips)), MixtureSource(str(narrow))]).setup("fit")


def test_a_faulty_clip_is_an_error_or_replaced_by_one_of_its_size(tmp_path: Path) -> None:
    folder = write_clips(tmp_path / "bad", train=20, val=1, sizes=((32, 32), (32, 48)), damaged=[6])
    with pytest.raises(DataError, match=r"can(not)? be decoded") as caught:
        list(islice(data_module(folder).train_dataloader(), 5))
    assert "train-006" in str(caught.value.where)
    recorder = type("Recorder", (), {"records_quarantine": True})()
    data = data_module(folder, FakeTrainer(callbacks=[recorder]))
    batches = list(islice(data.train_dataloader(), 4))
    events = [event for batch in batches for event in batch["quarantined"]]
    assert [event["sample"].split(":")[-1] for event in events] == ["train-006"]
    assert int(events[0]["substitute"][-3:]) % 2 == 0  # of the same size
    assert all("train-006" not in batch["keys"] for batch in batches)


def test_bad_requests_are_refused_by_name(clips: Path, corpus: Path) -> None:
    for options, told in (
        ({"global_batch_size": 0}, "global_batch_size is 0"),
        ({"frames": 0}, "frames is 0"),
        ({"mixture": [MixtureSource("x")]}, "both data.shards and data.mixture"),
    ):
        with pytest.raises(ConfigError, match=told):
            data_module(clips, **options)
    with pytest.raises(ConfigError, match=r"data\.shards is not given"):
        data_module(None)
    refused: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"frames": 10}, DataError, "clips are shorter than a window of 10 frames"),
        ({"frames": None}, ConfigError, r"data\.frames is not given"),
        ({"fps": 30.0}, ConfigError, "10.0 frames per second, the model is made for 30.0"),
        ({"global_batch_size": 50}, ConfigError, "fewer than one global batch"),
    ]
    for options, error, told in refused:
        with pytest.raises(error, match=told):
            data_module(clips, **options).setup("fit")
    with pytest.raises(DataError, match="a corpus of motion and music"):
        data_module(corpus).setup("fit")
    with pytest.raises(ConfigError, match="not divisible"):
        data_module(clips).check_ranks(3)


def test_a_clip_of_another_size_than_its_shard_says_is_refused(clips: Path, tmp_path: Path) -> None:
    facts = clip(0)
    with AppearanceWriter(tmp_path / "c", fps=10.0) as writer:
        writer.add("train", "a", facts, members(1, clip(1, height=48)))  # what the members say is another size
    with pytest.raises(DataError, match="a clip of 32 x 48 pixels"):
        next(iter(data_module(tmp_path / "c", global_batch_size=1).train_dataloader()))


def test_errors_pass_through_the_loader_as_they_are(clips: Path) -> None:
    data = data_module(clips)
    rows = TrainingClips(data.sources.train, data.order, {})
    error = DataError("x")
    assert collate(error) is error
    one, other = rows[0], rows[1] | {"video": torch.zeros(3, FRAMES, 16, 16)}
    told = collate([one, other])
    assert isinstance(told, DataError)
    assert "one shape" in str(told)
