"""Clips animated during training by two ranks: as by one, whether the network is whole or sharded."""

from __future__ import annotations

import json
from typing import Any

import pytest
from appearance_fakes import run_config, save_base, write_config
from dist_runs import DistRun
from zygote import Zygote

from macedance.appearance_data.media import decode_mp4
from tests.data.small_clips import FRAMES, tiny_vae, write_clips

STRATEGIES: dict[str, tuple[str, ...]] = {
    "single": (),
    "ddp": ("--config=strategies/ddp",),
    "zero3": ("--config=strategies/zero3", "--trainer.strategy.init_args.keep_whole_below=0"),
}
KEYS = ("psnr_mask", "psnr", "ssim", "psnr_mask_wrong_pose", "psnr_autoencoder")


@pytest.fixture(scope="module")
def runs(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> dict[str, DistRun]:
    """Three clips, so that one rank has one more, and at the second step one alone, at one rank."""
    root = tmp_path_factory.mktemp("animation")
    clips, model = write_clips(root / "clips", train=4, val=3, sizes=((16, 16),)), save_base(root / "model")
    tiny_vae().save_pretrained(model / "vae")
    path = "macedance.models.appearance_expert.encoder_source.EncodersFrom"
    source = {"source": str(model), "text_dim": 6, "text_tokens": 16, "face_size": 16}
    made = {}
    for kind, arguments in STRATEGIES.items():
        more: dict[str, Any] = {"encoders": {"class_path": path, "init_args": source}}
        config = run_config("kinematic", model, **more)
        data = {"shards": str(clips), "global_batch_size": 2, "shuffle_window": 4, "frames": FRAMES}
        config["data"] = {"class_path": "datamodules.appearance.AppearanceDataModule", "init_args": data}
        shared = {"num_steps": 2, "resamples": 0, "weights": "/nowhere"}
        protocols = [
            {"class_path": "callbacks.animation_protocol.AnimationProtocol", "init_args": {**shared, **own}}
            for own in ({"every_n_steps": 1, "max_clips": 3}, {"every_n_steps": 2, "max_clips": 1})
        ]
        average = {"class_path": "callbacks.ema.EmaCallback", "init_args": {"decay": 0.9}}
        recorder = {"class_path": "dist_recorder.Recorder"}
        config["trainer"] |= {"max_steps": 3, "limit_val_batches": 0}
        config["trainer"]["callbacks"] = [recorder, average, *protocols]
        ranks = 1 if kind == "single" else 2
        launched = [write_config(root / kind, config), *arguments]
        made[kind] = DistRun(zygote, root / kind, launched, ranks=ranks, launcher=ranks > 1)
        made[kind].run()
    return made


def report(run: DistRun, step: int) -> dict[str, Any]:
    return json.loads((run.directory / "protocol" / f"animation-{step:08d}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("kind", ["ddp", "zero3"])
@pytest.mark.parametrize(("step", "clips"), [(1, 3), (2, 1), (3, 3)])
def test_two_ranks_show_what_one_process_does(runs: dict[str, DistRun], kind: str, step: int, clips: int) -> None:
    one, two = (report(runs[name], step) for name in ("single", kind))
    for key in KEYS:
        a, b = (found["per_clip"]["animation"].get(key) for found in (one, two))
        assert (a is None) == (clips == 1 and key == "psnr_mask_wrong_pose"), "alone there is no other's pose"
        if a is not None:
            assert list(b) == list(a)
            assert len(a) == clips
            assert b == pytest.approx(a, abs=1e-3), key
    assert one["hash"] == two["hash"]


@pytest.mark.parametrize("kind", ["ddp", "zero3"])
def test_training_goes_on_as_in_one_process(runs: dict[str, DistRun], kind: str) -> None:
    assert len(runs[kind].losses()) == 3
    assert runs[kind].losses() == pytest.approx(runs["single"].losses(), rel=1e-4)


def test_the_rows_of_all_ranks_are_one_video(runs: dict[str, DistRun]) -> None:
    for run in runs.values():
        shown = decode_mp4((run.directory / "samples" / "animation-00000001.mp4").read_bytes(), "shown")
        assert shown.shape == (FRAMES, 3 * 16, 4 * 16, 3)
        assert not list((run.directory / "samples").glob(".*"))
