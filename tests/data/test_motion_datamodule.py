from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from small_corpora import clip_motion

from datamodules import motion as motion_module
from datamodules.motion import MotionDataModule
from datamodules.streams.order import crop_start
from datamodules.streams.windows import MotionBatch
from macedance.errors import ConfigError, DataError

MakeCorpus = Callable[..., Path]


def module(corpus: Path, **options: Any) -> MotionDataModule:
    return MotionDataModule(str(corpus), **{"global_batch_size": 8, "window_frames": 25, **options})


def as_rank(data: MotionDataModule, rank: int, world_size: int, accumulate: int = 1, sampler: bool = False) -> None:
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        global_rank=rank,
        world_size=world_size,
        accumulate_grad_batches=accumulate,
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
        _accelerator_connector=SimpleNamespace(use_distributed_sampler=sampler),
    )


def take(data: MotionDataModule, count: int) -> list[MotionBatch]:
    return list(islice(iter(data.train_dataloader()), count))


def positions(batches: list[MotionBatch]) -> list[int]:
    return [number for batch in batches for number in batch["position"].tolist()]


class Recorder(pl.LightningModule):
    """Trains one number and writes down what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[int] = []
        self.validated: list[str] = []

    def training_step(self, batch: MotionBatch, batch_idx: int) -> torch.Tensor:
        self.seen += batch["position"].tolist()
        return self.weight * batch["poses"].mean()

    def validation_step(self, batch: MotionBatch, batch_idx: int) -> None:
        self.validated += batch["keys"]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(data: MotionDataModule, folder: Path, steps: int, **options: Any) -> Recorder:
    model = Recorder()
    trainer = pl.Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
        **options,
    )
    trainer.fit(model, datamodule=data)
    return model


def test_batch_has_the_agreed_shapes(corpus: Path) -> None:
    batch = take(module(corpus), 1)[0]
    assert set(batch) == {"poses", "trans", "music", "genre", "mask", "position", "keys", "quarantined"}
    described = {
        name: (tuple(value.shape), value.dtype) for name, value in batch.items() if name not in ("keys", "quarantined")
    }
    assert described == {
        "poses": ((8, 25, 24, 3), torch.float32),
        "trans": ((8, 25, 3), torch.float32),
        "music": ((8, 25, 35), torch.float32),
        "genre": ((8,), torch.int64),
        "mask": ((8, 25), torch.bool),
        "position": ((8,), torch.int64),
    }
    assert batch["position"].tolist() == list(range(8))


def test_rows_are_windows_of_their_clips(corpus: Path) -> None:
    data = module(corpus)
    for batch in take(data, 12):
        for row, key in enumerate(batch["keys"]):
            number = int(key[-3:])
            clip = clip_motion(number, 20 + 7 * number % 25)
            start = int(batch["music"][row, 0, 0])
            assert start == crop_start(0, int(batch["position"][row]), clip.num_frames - 24)
            length = min(25, clip.num_frames - start)
            np.testing.assert_array_equal(batch["poses"][row, :length], clip.poses[start : start + length])
            np.testing.assert_array_equal(batch["trans"][row, :length], clip.trans[start : start + length])
            assert batch["mask"][row].tolist() == [frame < length for frame in range(25)]
            assert data.genres[batch["genre"][row]] == ("house", "waack")[number % 2]


def test_short_clips_hold_their_last_pose(corpus: Path) -> None:
    batch = take(module(corpus, window_frames=60), 1)[0]
    for row in range(8):
        length = int(batch["mask"][row].sum())
        assert length < 60
        assert torch.equal(batch["poses"][row, length:], batch["poses"][row, length - 1].expand(60 - length, 24, 3))
        assert float(batch["music"][row, length:].abs().sum()) == 0


def test_windows_move_from_epoch_to_epoch(corpus: Path) -> None:
    starts: dict[str, set[float]] = {}
    for batch in take(module(corpus, window_frames=20), 40):
        for row, key in enumerate(batch["keys"]):
            starts.setdefault(key, set()).add(float(batch["music"][row, 0, 0]))
    assert len(starts["train-003"]) > 5


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_start_position_continues_exactly(corpus: Path, workers: int) -> None:
    straight = take(module(corpus), 7)
    data = module(corpus, num_workers=workers)
    data.start_position = 32
    for one, other in zip(straight[4:], take(data, 3), strict=True):
        assert one["keys"] == other["keys"]
        assert torch.equal(one["poses"], other["poses"])
        assert torch.equal(one["position"], other["position"])
    assert data.consumed_after(straight[4]) == 40


@pytest.mark.parametrize(("world", "accumulate"), [(2, 1), (4, 1), (2, 2)])
def test_ranks_share_the_batches_of_one_process(corpus: Path, world: int, accumulate: int) -> None:
    alone = take(module(corpus), 3)
    parts = []
    for rank in range(world):
        data = module(corpus)
        as_rank(data, rank, world, accumulate)
        assert data.micro_batch_size == 8 // world // accumulate
        parts.append(take(data, 3 * accumulate))
    for step, whole in enumerate(alone):
        mine = [batch for rank in parts for batch in rank[step * accumulate : (step + 1) * accumulate]]
        assert torch.equal(torch.cat([batch["poses"] for batch in mine]), whole["poses"])
        assert positions(mine) == whole["position"].tolist()


def test_epoch_length_and_dropped_clips_are_said(corpus: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = module(corpus)
    with caplog.at_level("INFO"):
        assert data.samples_per_epoch == 16
        data.setup()
    assert [data.epoch_of(position) for position in (0, 15, 16, 40)] == [0, 0, 1, 2]
    assert caplog.text.count("the last 7 do not fill a batch of 8") == 1


def test_iterating_leaves_the_global_generator_alone(corpus: Path) -> None:
    data = module(corpus)
    before = torch.get_rng_state()
    take(data, 2)
    list(data.val_dataloader())
    assert torch.equal(torch.get_rng_state(), before)


def test_validation_takes_each_clip_once_in_order(corpus: Path) -> None:
    batches = list(module(corpus, val_batch_size=2).val_dataloader())
    assert [key for batch in batches for key in batch["keys"]] == [f"val-{n:03d}" for n in range(23, 28)]
    assert positions(batches) == list(range(5))
    assert all(float(batch["music"][0, 0, 0]) == 0 for batch in batches)


def test_validation_over_ranks_has_equally_many_batches(corpus: Path) -> None:
    seen: list[int] = []
    shapes = set()
    for rank in range(3):
        data = module(corpus, val_batch_size=2)
        as_rank(data, rank, 3)
        batches = list(data.val_dataloader())
        shapes.add(tuple(len(batch["keys"]) for batch in batches))
        seen += positions(batches)
        for batch in batches:
            assert torch.equal(batch["mask"].any(dim=1), batch["position"] >= 0)
    assert shapes == {(2,)}
    assert sorted(seen) == [-1, 0, 1, 2, 3, 4]


def test_max_val_clips_are_spread(corpus: Path) -> None:
    data = module(corpus, max_val_clips=3)
    assert [clip.key for clip in data.clips("val")] == ["val-023", "val-025", "val-027"]
    assert positions(list(data.val_dataloader())) == [0, 1, 2]


def test_clips_are_whole(corpus: Path) -> None:
    clips = module(corpus).clips("test")
    assert [clip.key for clip in clips] == ["test-028", "test-029", "test-030"]
    clip, expected = clips[1], clip_motion(29, 20 + 7 * 29 % 25, "waack")
    np.testing.assert_array_equal(clip.poses, expected.poses)
    np.testing.assert_allclose(clip.beats_s, expected.music_beats_s)
    assert (clip.song, clip.genre, clip.genre_label, clip.start_s) == ("test-song-14", "waack", 1, 14.5)
    assert clip.music.shape == (expected.num_frames, 35)
    assert len(module(corpus).clips("train")) == 23


def test_validation_shards_of_another_corpus(corpus: Path, make_corpus: MakeCorpus) -> None:
    other = make_corpus(train=3, val=2, test=0)
    assert [clip.key for clip in module(corpus, val_shards=str(other)).clips("val")] == ["val-003", "val-004"]
    assert len(module(corpus, val_shards=str(other / "train")).clips("val")) == 3


def test_split_folder_may_be_trained_on(corpus: Path) -> None:
    data = module(corpus / "val", global_batch_size=2)
    assert data.order.num_samples == 5
    assert [clip.key for clip in data.clips("val")] == [f"val-{n:03d}" for n in range(23, 28)]


def test_absent_validation_is_said_once(make_corpus: MakeCorpus, caplog: pytest.LogCaptureFixture) -> None:
    data = module(make_corpus(train=9, val=0, test=0))
    with caplog.at_level("INFO"):
        assert data.val_dataloader() == []
        assert data.val_dataloader() == []
        assert data.clips("val") == []
    assert caplog.text.count("no 'val' split (no clips); validation is skipped") == 1


def test_trainer_runs_on_endlessly_and_skips_absent_validation(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    model = fit(module(make_corpus(train=9, val=0, test=0)), tmp_path, steps=5)
    assert model.seen == list(range(40))
    assert model.validated == []


def test_trainer_validates_between_steps_and_accumulates(corpus: Path, tmp_path: Path) -> None:
    options = {"val_check_interval": 4, "check_val_every_n_epoch": None, "num_sanity_val_steps": 0}
    model = fit(module(corpus, num_workers=1), tmp_path, steps=2, accumulate_grad_batches=2, **options)
    assert model.seen == list(range(16))
    assert model.validated == [f"val-{n:03d}" for n in range(23, 28)]


def test_lightnings_own_sampler_is_refused_on_several_ranks(corpus: Path) -> None:
    data = module(corpus)
    as_rank(data, 0, 2, sampler=True)
    with pytest.raises(ConfigError, match="use_distributed_sampler"):
        data.train_dataloader()


def test_workers_ignore_the_schedulers_signals(corpus: Path) -> None:
    loader = module(corpus, num_workers=1).train_dataloader()
    batches = iter(loader)
    next(batches)
    worker = loader._iterator._workers[0]  # type: ignore[attr-defined]
    for number in (signal.SIGUSR1, signal.SIGTERM):
        os.kill(worker.pid, number)
    assert [next(batches)["position"][0].item() for _ in range(5)] == [8, 16, 24, 32, 40]
    assert worker.is_alive()
    loader.stop_workers()
    assert not worker.is_alive()


def test_program_ends_while_workers_wait(corpus: Path) -> None:
    """multiprocessing ends its children by SIGTERM, which loader workers ignore."""
    code = """
import sys
from datamodules.streams.dataset import MotionSamples
from datamodules.streams.shards import open_shards
from datamodules.streams.order import ElasticBatchSampler, GlobalOrder
from datamodules.streams.windows import MotionLoader, TrainingWindows
samples = MotionSamples(open_shards(sys.argv[1]))
windows = TrainingWindows(samples, GlobalOrder(samples.index.starts_S1, 8), 25, samples.shards.manifest.genres)
cycle = [iter(MotionLoader(windows, num_workers=2, batch_sampler=ElasticBatchSampler(8)))]
cycle.append(cycle)
next(cycle[0])
"""
    done = subprocess.run([sys.executable, "-c", code, str(corpus)], timeout=60, capture_output=True, text=True)
    assert done.returncode == 0
    assert "Error" not in done.stderr


@pytest.mark.parametrize("workers", [0, 1])
def test_damaged_sample_is_one_line_that_names_shard_and_key(make_corpus: MakeCorpus, workers: int) -> None:
    folder = make_corpus(train=8, val=0, test=0)
    shard = folder / "train" / "000001.tar"
    raw = shard.read_bytes()
    shard.write_bytes(raw.replace(b'"frames": 23', b'"frames": 24'))
    with pytest.raises(DataError) as caught:
        take(module(folder, num_workers=workers), 1)
    message = str(caught.value)
    assert f"{shard}:train-004" in message
    assert "23 frames" in message
    assert "\n" not in message
    assert "Traceback" not in message
    assert caught.value.where == f"{shard}:train-004"


def test_unknown_genre_of_other_shards_is_refused(corpus: Path, make_corpus: MakeCorpus) -> None:
    data = module(corpus, val_shards=str(make_corpus(train=2, val=2, test=0, genres=False)))
    with pytest.raises(DataError, match=r"unknown genre 'unknown'.*house, waack"):
        data.clips("val")


@pytest.mark.parametrize(
    "options",
    [
        {"global_batch_size": 0},
        {"window_frames": 0},
        {"val_batch_size": -1},
        {"max_val_clips": 0},
        {"shuffle_window": 0},
        {"num_workers": -1},
        {"seed": -1},
    ],
)
def test_impossible_sizes_are_refused(corpus: Path, options: dict[str, int]) -> None:
    with pytest.raises(ConfigError) as caught:
        module(corpus, **options)
    assert caught.value.exit_code == 2


def test_batch_that_does_not_divide_is_refused(corpus: Path) -> None:
    data = module(corpus)
    as_rank(data, 0, 3)
    with pytest.raises(ConfigError, match="not divisible by 3 ranks"):
        data.train_dataloader()


def test_more_batch_than_clips_is_refused(corpus: Path) -> None:
    with pytest.raises(ConfigError, match="23 training samples are fewer"):
        module(corpus, global_batch_size=24).setup()


def test_small_corpus_may_be_validated(corpus: Path) -> None:
    data = module(corpus, global_batch_size=24)
    data.setup("validate")
    assert len(list(data.val_dataloader())) == 1
    assert positions(list(data.test_dataloader())) == [0, 1, 2]


def test_other_frame_rate_is_refused(corpus: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.fps is 60"):
        module(corpus, fps=60.0).setup()


def test_built_in_corpus_is_made_without_shards(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(motion_module, "cached_demo_corpus", lambda *request: asked.append(request) or corpus)
    data = MotionDataModule(global_batch_size=8, demo_clips=40, demo_seed=2)
    data.prepare_data()
    data.setup("fit")
    assert asked == [(40, 2), (40, 2)]
    assert data.manifest.num_samples == 31
