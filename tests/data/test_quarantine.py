"""Faulty samples while training: replaced by the next readable one, recorded, counted, refused; nothing silent."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_corpora import clip_motion, clip_music

from callbacks.quarantine import QUARANTINE_NAME, Quarantine, cut_from
from datamodules.motion import MotionDataModule
from datamodules.streams.manifest import file_sha256
from datamodules.streams.samples import ClipMeta, MotionSample, decode_sample, encode_members, split_members
from datamodules.streams.windows import MotionBatch
from macedance.errors import DataError

MakeCorpus = Callable[..., Path]


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array.astype(np.float32))
    return stream.getvalue()


def spoil(folder: Path, key: str, changes: dict[str, bytes | None]) -> None:
    """Rewrite the shard that holds a sample with other members, and its manifest so that the shard itself is sound."""
    for shard in (folder / "train").glob("*.tar"):
        with tarfile.open(shard) as archive:
            members = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
        if f"{key}.meta.json" not in members:
            continue
        members |= {f"{key}.{name}": data for name, data in changes.items()}  # type: ignore[misc]
        with tarfile.open(shard, "w", format=tarfile.USTAR_FORMAT) as archive:
            for name, data in members.items():
                if data is not None:
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
        manifest = json.loads((folder / "manifest.json").read_text())
        for entry in manifest["splits"]["train"]["shards"]:
            if entry["file"] == f"train/{shard.name}":
                entry.update(bytes=shard.stat().st_size, sha256=file_sha256(shard))
        (folder / "manifest.json").write_text(json.dumps(manifest))
        return
    raise KeyError(key)


def meta(**changes: object) -> bytes:
    found = encode_members(MotionSample("k", clip_motion(5, 30), clip_music(5, 30), ClipMeta("s")))["meta.json"]
    return json.dumps({**json.loads(found), **changes}).encode()


FAULTS: dict[str, tuple[dict[str, bytes | None], str]] = {
    "NaN motion": ({"poses.npy": npy(np.full((30, 24, 3), np.nan))}, "NaN"),
    "missing array": ({"music.npy": None}, "lacks music.npy"),
    "bad json": ({"meta.json": b"{"}, "meta.json cannot be used"),
    "unreadable member": ({"poses.npy": b"\x93NUMPY junk"}, "poses.npy cannot be used"),
    "wrong length": ({"trans.npy": npy(np.zeros((7, 3)))}, "trans 7"),
    "wrong fps": ({"meta.json": meta(fps=60.0)}, "60.0 frames per second"),
    "unknown genre": ({"meta.json": meta(genre="polka")}, "unknown genre 'polka'"),
}


def module(folder: Path | str, recorded: bool = True, **options: Any) -> MotionDataModule:
    data = MotionDataModule(str(folder), **{"global_batch_size": 4, "window_frames": 20, "cache_mb": 0, **options})
    callbacks = [Quarantine()] if recorded else []
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        global_rank=0,
        world_size=1,
        accumulate_grad_batches=1,
        callbacks=callbacks,
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )
    return data


def take(data: MotionDataModule, count: int) -> list[MotionBatch]:
    return list(islice(iter(data.train_dataloader()), count))


def flat(batches: list[MotionBatch], name: str) -> list[Any]:
    return [item for batch in batches for item in batch[name]]  # type: ignore[literal-required]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("workers", [0, 2])
def test_a_faulty_sample_is_replaced_and_nothing_else_changes(
    make_corpus: MakeCorpus, fault: str, workers: int
) -> None:
    folder = make_corpus()
    sound = take(module(folder), 12)
    changes, reason = FAULTS[fault]
    spoil(folder, "train-005", changes)
    data = module(folder, num_workers=workers)
    assert data.samples_per_epoch == 20
    batches = take(data, 12)
    assert torch.equal(
        torch.cat([batch["position"] for batch in batches]), torch.cat([batch["position"] for batch in sound])
    )
    before, after = flat(sound, "keys"), flat(batches, "keys")
    places = [place for place, key in enumerate(before) if key == "train-005"]
    assert 2 <= len(places) <= 3
    events = flat(batches, "quarantined")
    assert [event["position"] for event in events] == places
    for place, (one, other) in enumerate(zip(before, after, strict=True)):
        if place not in places:
            assert one == other
            row, column = divmod(place, 4)
            assert torch.equal(sound[row]["poses"][column], batches[row]["poses"][column])
        else:
            assert other == before[place + 1], "the next of the order stands in its place"
    for event in events:
        assert event["sample"] == f"{folder}/train/000001.tar:train-005"
        assert event["substitute"].endswith(f":{before[event['position'] + 1]}")
        assert reason in event["reason"]


def test_substitutes_depend_on_the_position_alone(make_corpus: MakeCorpus) -> None:
    """Half of the corpus is faulty: another start and other workers give the same rows."""
    folder = make_corpus()
    for number in range(0, 23, 2):
        spoil(folder, f"train-{number:03d}", {"poses.npy": b""})
    straight = take(module(folder), 10)
    data = module(folder, num_workers=2)
    data.start_position = 12
    for one, other in zip(straight[3:], take(data, 7), strict=True):
        assert one["keys"] == other["keys"]
        assert one["quarantined"] == other["quarantined"]
        assert torch.equal(one["poses"], other["poses"])
    assert {int(key[-3:]) % 2 for key in flat(straight, "keys")} == {1}


def test_a_shard_that_vanishes_mid_run(make_corpus: MakeCorpus) -> None:
    folder = make_corpus()
    sound = take(module(folder), 10)
    data = module(folder)
    batches = iter(data.train_dataloader())
    (folder / "train" / "000003.tar").unlink()
    seen = list(islice(batches, 10))
    lost = {f"train-{number:03d}" for number in range(12, 16)}
    assert not lost & set(flat(seen, "keys"))
    expected = [place for place, key in enumerate(flat(sound, "keys")) if key in lost]
    assert [event["position"] for event in flat(seen, "quarantined")] == expected
    assert all("cannot be read" in event["reason"] for event in flat(seen, "quarantined"))


def test_a_shard_that_is_cut_mid_run(make_corpus: MakeCorpus) -> None:
    folder = make_corpus()
    data = module(folder)
    _ = data.order
    shard = folder / "train" / "000003.tar"
    shard.write_bytes(shard.read_bytes()[:30_000])
    reasons = {event["reason"] for event in flat(take(data, 5), "quarantined")}
    assert reasons
    assert reasons <= {"shard became shorter"}


def test_other_bytes_at_the_place_of_a_sample(make_corpus: MakeCorpus) -> None:
    """A shard overwritten by another one of the same size: the key tells."""
    folder = make_corpus()
    data = module(folder)
    _ = data.order
    shards = sorted((folder / "train").glob("*.tar"), key=lambda path: path.stat().st_size)
    raw = shards[-1].read_bytes()
    shards[0].write_bytes(raw)
    assert {event["reason"] for event in flat(take(data, 5), "quarantined")}


def test_nothing_readable_is_an_error(make_corpus: MakeCorpus) -> None:
    folder = make_corpus(train=4, val=0, test=0)
    for number in range(4):
        spoil(folder, f"train-{number:03d}", {"poses.npy": b""})
    with pytest.raises(DataError, match="no readable sample"):
        take(module(folder), 1)


def test_without_a_recorder_a_fault_is_an_error(make_corpus: MakeCorpus) -> None:
    folder = make_corpus()
    spoil(folder, "train-005", {"poses.npy": b""})
    with pytest.raises(DataError, match=r"poses\.npy cannot be used.*train-005"):
        take(module(folder, recorded=False), 12)


def test_validation_and_clips_replace_nothing(make_corpus: MakeCorpus) -> None:
    folder = make_corpus()
    spoil(folder, "train-005", {"poses.npy": b""})
    with pytest.raises(DataError, match="train-005"):
        module(folder).clips("train")
    with pytest.raises(DataError, match="train-005"):
        list(module(folder, val_shards=str(folder / "train")).val_dataloader())  # type: ignore[arg-type]


def test_damage_at_the_start_lists_every_shard(make_corpus: MakeCorpus) -> None:
    """Missing, short and damaged inside: all in one error."""
    folder = make_corpus()
    train = folder / "train"
    (train / "000000.tar").unlink()
    (train / "000002.tar").write_bytes((train / "000002.tar").read_bytes()[:5000])
    raw = bytearray((train / "000004.tar").read_bytes())
    raw[3] ^= 64
    (train / "000004.tar").write_bytes(raw)
    with pytest.raises(DataError) as caught:
        module(folder).setup("fit")
    message = str(caught.value)
    for part in (
        "3 of 6 shards cannot be used",
        "train/000000.tar is missing",
        "train/000002.tar has 5000 bytes",
        "train/000004.tar truncated or damaged tar",
    ):
        assert part in message
    assert caught.value.exit_code == 2


@settings(max_examples=150, deadline=None)
@given(place=st.floats(0, 1), value=st.integers(0, 255), length=st.floats(0.2, 1))
def test_any_damage_of_a_sample_is_a_data_error_or_none(place: float, value: int, length: float) -> None:
    block = bytearray(_BLOCK[: int(len(_BLOCK) * length)] if value % 3 == 0 else _BLOCK)
    # Headers and small members more often than the wide arrays.
    block[min(int(place**3 * len(block)), len(block) - 1)] = value
    with suppress(DataError):
        decode_sample(split_members(bytes(block), "s:k", "k"), "k", "s:k", 30.0)


def _tar_block() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in encode_members(MotionSample("k", clip_motion(0, 4), clip_music(0, 4), ClipMeta("s"))).items():
            member = tarfile.TarInfo(f"k.{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        return stream.getvalue()


_BLOCK = _tar_block()


# ---------------------------------------------------------------- the callback
class Recorder(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch: MotionBatch, batch_idx: int) -> torch.Tensor:
        return self.weight * batch["poses"].mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(folder: Path, run: Path, steps: int, callback: Quarantine, start: int = 0, **options: Any) -> None:
    data = MotionDataModule(str(folder), global_batch_size=4, window_frames=20, **options)
    data.start_position = start
    trainer = pl.Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=run,
        callbacks=[callback],
        limit_val_batches=0,
    )
    trainer.fit(Recorder(), datamodule=data)


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / QUARANTINE_NAME).read_text().splitlines()]


def test_the_callback_writes_says_and_counts(
    make_corpus: MakeCorpus, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_corpus()
    for number in (5, 9):
        spoil(folder, f"train-{number:03d}", {"poses.npy": b""})
    callback = Quarantine()
    with caplog.at_level("INFO"):
        fit(folder, tmp_path, 15, callback)
    written = lines(tmp_path)
    assert {event["sample"].rpartition(":")[2] for event in written} == {"train-005", "train-009"}
    assert len(written) > 2, "every substitution is written"
    assert sorted(event["position"] for event in written) == [event["position"] for event in written]
    assert len(callback.samples) == 2, "and every sample counts once"
    assert caplog.text.count("quarantined ") == 2
    assert "2 of at most 16" in caplog.text


@pytest.mark.parametrize("budget", [0, 1])
def test_one_fault_too_many_is_one_clear_error(make_corpus: MakeCorpus, tmp_path: Path, budget: int) -> None:
    folder = make_corpus()
    for number in (5, 9, 13)[: budget + 1]:
        spoil(folder, f"train-{number:03d}", {"poses.npy": b""})
    with pytest.raises(DataError, match=rf"{budget + 1} training samples cannot be used.*max_quarantined") as caught:
        fit(folder, tmp_path, 15, Quarantine(), max_quarantined=budget)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    assert len(lines(tmp_path)) >= budget + 1


def test_a_resume_forgets_what_it_takes_again_and_goes_on_counting(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    folder = make_corpus()
    for number in (5, 9):
        spoil(folder, f"train-{number:03d}", {"poses.npy": b""})
    first = Quarantine()
    fit(folder, tmp_path, 15, first)
    whole = lines(tmp_path)
    second = Quarantine()
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    fit(folder, tmp_path, 9, second, start=24)
    assert lines(tmp_path) == whole
    assert second.samples == first.samples


def test_a_line_cut_short_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text('{"position": 3}\n{"position": 8}\n{"posi')
    cut_from(path, 5)
    assert path.read_text() == '{"position": 3}\n'
    cut_from(tmp_path / "absent", 5)
