"""Small corpora of clips with known pictures; its own module because every room has a `conftest`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datamodules.appearance_corpora import AppearanceWriter
from macedance.appearance_data.media import encode_jpeg, encode_mp4
from macedance.appearance_data.samples import ClipFacts, raw_members
from macedance.models.appearance_expert.codec import LatentCodec
from macedance.models.appearance_expert.encoders import AppearanceEncoders
from macedance.models.appearance_expert.text_encoders import HashedText

FRAMES, SPARE, FPS = 5, 4, 10.0
#: Grey of the picture is its clip's and its frame's number: 20 + 12 frame + clip % 8, up to the codec's rounding.
FRAME_STEP = 12


def pictures(number: int, frames: int, height: int, width: int) -> np.ndarray:
    """Plain grey frames that tell the frame's number."""
    grey = 20 + FRAME_STEP * np.arange(frames) + number % 8
    return np.broadcast_to(grey[:, None, None, None], (frames, height, width, 3)).astype(np.uint8).copy()


def frame_of(picture: np.ndarray | float) -> int:
    """The frame's number from its pictures' grey."""
    return int((float(np.mean(picture)) - 20 + 1.5) // FRAME_STEP)


def keypoints(number: int, frames: int, height: int, width: int, points: int = 62) -> np.ndarray:
    """Points inside the picture, the same for the same number."""
    places = np.random.default_rng(number).random((frames, points, 2)) * (width - 1, height - 1)
    return np.concatenate([places, np.ones((frames, points, 1))], axis=-1).astype(np.float32)


def clip(number: int, frames: int = FRAMES + SPARE, height: int = 32, width: int = 32, **changed: Any) -> ClipFacts:
    """Facts of a clip whose references are the frames behind the first FRAMES."""
    facts: dict[str, Any] = {
        "fps": FPS, "frames": frames, "height": height, "width": width, "prompt": f"dancer number {number}",
        "song": f"song-{number // 2}", "source": "rendered", "licence": "CC0", "person": f"person-{number // 2}",
        "reference_times_s": tuple(frame / FPS for frame in range(FRAMES, frames)),
    }  # fmt: skip
    return ClipFacts(**facts | changed)


def members(number: int, facts: ClipFacts) -> dict[str, bytes]:
    """A whole sample."""
    size = facts.height, facts.width
    mask = np.zeros((facts.frames, *size), bool)
    mask[:, 8:24, 8:16] = True
    frames = pictures(number, facts.frames, *size)
    return raw_members(
        facts,
        encode_mp4(frames, facts.fps),
        keypoints_TK3=keypoints(number, facts.frames, *size),
        reference=encode_jpeg(frames[-1]),
        mask_THW=mask,
    )


def write_clips(
    folder: Path,
    train: int = 20,
    val: int = 4,
    sizes: Sequence[tuple[int, int]] = ((32, 32),),
    clips_per_shard: int = 4,
    damaged: Sequence[int] = (),
    first: int = 0,
    frames: int = FRAMES,
) -> Path:
    """A corpus; clip n of a split is `<split>-<n>`, of the (height, width) that comes round, SPARE frames longer."""
    with AppearanceWriter(folder, fps=FPS, clips_per_shard=clips_per_shard, seed=3) as writer:
        number = first
        for split, count in (("train", train), ("val", val)):
            for _ in range(count):
                height, width = sizes[number % len(sizes)]
                own = {"song": f"{split}-{number}", "person": f"{split}-{number}"}
                spare = tuple(frame / FPS for frame in range(frames, frames + SPARE))
                facts = clip(number, frames + SPARE, height, width, reference_times_s=spare, **own)
                parts = members(number, facts)
                if number in damaged:
                    parts["video.mp4"] = parts["video.mp4"][: len(parts["video.mp4"]) // 3]
                writer.add(split, f"{split}-{number:03d}", facts, parts)
                number += 1
    return folder


def tiny_vae(channels: int = 4, seed: int = 0) -> Any:
    """A random autoencoder of 4x4 pixels to a latent and no temporal compression."""
    from diffusers import AutoencoderKLWan

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoencoderKLWan(
            base_dim=4, z_dim=channels, dim_mult=[1, 2], num_res_blocks=1, temperal_downsample=[False], patch_size=2,
            in_channels=12, out_channels=12, scale_factor_spatial=4, scale_factor_temporal=1,
            latents_mean=[0.0] * channels, latents_std=[1.0] * channels,
        )  # fmt: skip


def tiny_encoders(channels: int = 4, seed: int = 0) -> AppearanceEncoders:
    """Encoders around it, without an image encoder."""
    return AppearanceEncoders(LatentCodec(tiny_vae(channels, seed)), HashedText(8, 4), None, 16)
