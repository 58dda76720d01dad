"""The demo's numbers: videos of held-out clips against the true ones, and losses on held-out latents."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from datamodules.appearance import AppearanceClip, AppearanceDataModule
from launch.demos.appearance_training import (
    ABLATION,
    FRAMES,
    SHIFTED,
    SHIFTED_NAMES,
    TOY,
    ZERO_SHOT,
    corpus,
    latents,
    model,
)
from macedance.errors import DataError
from macedance.models.appearance_expert.vae_training import dilated, psnr
from macedance.pipelines.appearance_sampling import as_pixels
from macedance.report.progress import Progress
from macedance.vision.video import Video

if TYPE_CHECKING:
    from macedance.pipelines.motion_to_video import MotionToVideo

Entry = dict[str, Any]
Videos = list[np.ndarray]
_SEED = 0
#: Noise levels that every clip's loss is averaged over.
_LOSS_DRAWS = 2
_HELD_OUT_NUMBERS = 2**41


@dataclass(frozen=True)
class Judged:
    """Mean PSNR over clips, dB: ``mask`` over the dilated person, ``whole`` over the frames; clips that each is of."""

    mask: float
    whole: float
    mask_count: int
    count: int

    def entries(self, suffix: str = "") -> dict[str, Entry]:
        """As ``metrics.json`` holds them."""
        return {
            f"psnr_mask{suffix}": {"value": self.mask, "n": self.mask_count},
            f"psnr{suffix}": {"value": self.whole, "n": self.count},
        }


def judge(out: Path, *, smoke: bool) -> dict[str, Entry]:
    """All numbers of ``metrics.json``; the shifted corpus's videos go to ``eval``."""
    toy, shifted = test_clips(out, TOY), test_clips(out, SHIFTED)
    steps = 1 if smoke else None
    numbers = reconstruction(out, toy)
    ours = pipeline(out, ZERO_SHOT)
    others = toy[len(toy) // 2 :] + toy[: len(toy) // 2]  # two clips of one dancer lie side by side
    numbers |= compare(animate(ours, toy, toy, "held-out clips", steps), toy).entries()
    numbers |= compare(animate(pipeline(out, "untrained"), toy, toy, "untrained", steps), toy).entries("_untrained")
    repeated = [np.repeat(clip.window.reference_HW3[None], len(clip.window.video_THW3), axis=0) for clip in toy]
    numbers |= compare(repeated, toy).entries("_repeat_reference")
    numbers |= compare(animate(ours, toy, others, "driven by another's pose", steps), toy).entries("_wrong_pose")
    write_clips(out / "eval" / "reference", [clip.window.video_THW3 for clip in shifted], shifted)
    for name in ABLATION:
        suffix = f"_shifted_{SHIFTED_NAMES[name]}"
        videos = animate(pipeline(out, name), shifted, shifted, f"shifted clips, {name}", steps)
        numbers |= compare(videos, shifted).entries(suffix)
        write_clips(out / "eval" / name, videos, shifted)
        loss, count = held_out_loss(model(out, name), latents(out, SHIFTED))
        numbers[f"val_loss{suffix}"] = {"value": loss, "n": count}
    loss, count = held_out_loss(model(out, ZERO_SHOT), latents(out, TOY))
    return numbers | {"val_loss": {"value": loss, "n": count}}


def test_clips(out: Path, name: str) -> list[AppearanceClip]:
    """The held-out clips of a corpus."""
    return AppearanceDataModule(shards=str(corpus(out, name)), global_batch_size=1, frames=FRAMES).clips("test")


def pipeline(out: Path, name: str) -> MotionToVideo:
    """One of the demo's models."""
    from macedance.pipelines.motion_to_video import MotionToVideo
    from macedance.pipelines.video_settings import VideoSettings

    # One segment: there is nothing from which colours could wander.
    return MotionToVideo.from_pretrained(model(out, name), settings=VideoSettings(match_colours=False))


def animate(
    pipeline: MotionToVideo,
    clips: Sequence[AppearanceClip],
    driving: Sequence[AppearanceClip],
    what: str,
    num_steps: int | None = None,
) -> Videos:
    """Videos (T, H, W, 3) uint8 of the clips' people and prompts, moving as the driving clips' pose drawings do."""
    made = []
    with Progress(what, len(clips)) as bar:
        for number, (clip, driver) in enumerate(zip(clips, driving, strict=True)):
            drawn = Video.from_frames(driver.window.pose_THW3, driver.facts.fps)
            options: dict[str, Any] = {"prompt": clip.facts.prompt, "num_steps": num_steps}
            video = pipeline.animate(drawn, clip.window.reference_HW3, seed=_SEED, number=number, **options)
            made.append(video.frames())
            bar(number + 1, len(clips))
    return made


def compare(videos: Sequence[np.ndarray], clips: Sequence[AppearanceClip]) -> Judged:
    """PSNR of videos against the clips' own; clips without a person in them do not count for the mask's.

    Raises:
        DataError: A clip without a mask, or none with a person.
    """
    masks = {clip.key: mask for clip in clips if (mask := clip.window.mask_THW) is not None}
    bare = [clip.key for clip in clips if clip.key not in masks]
    if bare:
        raise DataError(f"clips have no mask of the person: {', '.join(bare)}", expected="mask.npy in each sample")
    mask_psnr, whole = [], []
    for video, clip in zip(videos, clips, strict=True):
        made, true = as_pixels(video), as_pixels(clip.window.video_THW3)
        person = dilated(torch.from_numpy(masks[clip.key])[None])
        mask_psnr.append(float(psnr(made, true, person)))
        whole.append(float(psnr(made, true)))
    over_person = [value for value in mask_psnr if np.isfinite(value)]
    if not over_person:
        raise DataError(f"none of {len(clips)} clips shows a person", expected="a clip whose mask is not empty")
    return Judged(float(np.mean(over_person)), float(np.mean(whole)), len(over_person), len(whole))


def reconstruction(out: Path, clips: Sequence[AppearanceClip]) -> dict[str, Entry]:
    """How well the autoencoder alone gives the clips back."""
    codec = pipeline(out, ZERO_SHOT).encoders.codec
    made = []
    for clip in clips:
        pixels = codec.decode(codec.encode(as_pixels(clip.window.video_THW3)))
        made.append(((pixels[0].permute(1, 2, 3, 0) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy())
    found = compare(made, clips)
    return {
        "vae_psnr": {"value": found.whole, "n": found.count},
        "vae_psnr_mask": {"value": found.mask, "n": found.mask_count},
    }


@torch.no_grad()
def held_out_loss(folder: Path, shards: Path) -> tuple[float, int]:
    """(mean loss of the validation clips, their number) of a model with everything given but the clip itself.

    Draws are the clips' own, the same for every model; the precision is the training's.
    """
    from launch.training_cli import cpu_multiplies_bf16
    from macedance.diffusion.flow_matching import draw_flow
    from macedance.models.appearance_expert.training import training_conditions, velocity_loss
    from macedance.pipelines.appearance_folder import load_network, read_config

    network, config = load_network(folder), read_config(folder)
    loaders = AppearanceDataModule(shards=str(shards), global_batch_size=1).val_dataloader()
    if isinstance(loaders, list):
        raise DataError("the corpus has no validation clips", where=shards)
    total, count = 0.0, 0
    for batch in loaders:
        _, channels, frames, rows, columns = batch["latents"].shape
        real_B = batch["position"] >= 0
        for draw in range(_LOSS_DRAWS):
            numbers = batch["position"] + _HELD_OUT_NUMBERS + draw * 2**20
            draws = draw_flow(_SEED, numbers, (channels, frames + 1, rows, columns))
            conditions = training_conditions(batch, draws, network.face_size)
            with torch.autocast("cpu", torch.bfloat16, enabled=cpu_multiplies_bf16()):
                loss = velocity_loss(network, config.flow, batch["latents"], conditions, draws, real_B=real_B)
            total += float(loss) * int(real_B.sum())
        count += int(real_B.sum())
    return total / (count * _LOSS_DRAWS), count


def write_clips(folder: Path, videos: Sequence[np.ndarray], clips: Sequence[AppearanceClip]) -> None:
    """One mp4 a clip, by the clip's name."""
    from macedance.appearance_data.media import encode_mp4

    folder.mkdir(parents=True, exist_ok=True)
    for video, clip in zip(videos, clips, strict=True):
        (folder / f"{clip.key}.mp4").write_bytes(encode_mp4(video, clip.facts.fps))


def judge_animation(out: Path) -> dict[str, dict[str, Entry]]:
    """``macedance evaluate animation`` of the ablation's models: name -> key -> entry."""
    from launch.evaluation.command import main

    table: dict[str, dict[str, Entry]] = {}
    for name in ABLATION:
        file = out / "eval" / f"{name}.json"
        folders = [f"--generated={out / 'eval' / name}", f"--reference={out / 'eval' / 'reference'}"]
        main(["animation", *folders, f"--json={file}", "--floor-draws=0", "--skip-frames=0"])
        presets = json.loads(file.read_text(encoding="utf-8"))["presets"]
        table[name] = {key: entry for preset in presets.values() for key, entry in preset.items()}
    return table
