"""From windows of clips to their latents: what training would otherwise compute again in every epoch.

Shapes: B windows, R references of a window, T frames, H, W pixels; z, t, h, w of the latents.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from macedance.appearance_data.latents import FACE_NAME, LATENTS_NAME, EncodedInfo, save_tensors
from macedance.appearance_data.samples import RawClip
from macedance.appearance_data.windows import (
    MAX_UPSCALE,
    Bucket,
    Decoded,
    read_face,
    read_window,
    reference_choices,
    references_of,
)
from macedance.errors import CheckpointError, ConfigError, DataError
from macedance.models.appearance_expert.encoders import AppearanceEncoders

#: Longest key that fits into a tar header with the members' suffixes.
_KEY_LENGTH = 80
_DIGEST_LENGTH = 12
#: References that are encoded together for each window of a batch: as many as Wan's autoencoder takes frames at once.
_STILLS_PER_WINDOW = 4
#: Frames of a clip are decoded once for all of its windows up to so many bytes: of 1280 x 720 pixels, 180 frames.
_DECODED_BYTES = 500_000_000


@dataclass(frozen=True)
class PixelWindow:
    """A window that is to be encoded.

    Attributes:
        key: Of the sample that it becomes.
        facts: What its meta.json says beside the encoding.
        video_THW3: uint8; ``pose_THW3`` likewise.
        pose_THW3: See there.
        references_RHW3: uint8.
        face: The face video of the whole clip, or None.
    """

    key: str
    facts: dict[str, object]
    prompt: str
    video_THW3: np.ndarray
    pose_THW3: np.ndarray
    references_RHW3: np.ndarray
    face: bytes | memoryview | None = None


def signed_pixels(pictures: np.ndarray) -> Tensor:
    """Pictures (..., H, W, 3) uint8 as (3, ..., H, W) float32 in [-1, 1]."""
    channels_first = np.ascontiguousarray(np.moveaxis(pictures, -1, 0))
    return torch.from_numpy(channels_first).float().div_(127.5).sub_(1.0)


def pixel_windows(
    clip: RawClip, starts: Sequence[int], bucket: Bucket, frames: int, max_references: int | None = None
) -> list[PixelWindow]:
    """The windows of a clip with their pictures.

    Args:
        clip: The clip.
        starts: First frames of the windows.
        bucket: The size that they are brought to.
        frames: Of a window.
        max_references: At most so many references of a window, spread evenly; None: all.

    Raises:
        DataError: Files that cannot be read, or no reference.
    """
    references = {start: _spread(reference_choices(clip.facts, start, frames), max_references) for start in starts}
    needed = {frame for start in starts for frame in (*range(start, start + frames), *references[start])}
    # A long clip's frames are not all held at once: its windows decode their own.
    small = len(needed) * clip.facts.height * clip.facts.width * 3 <= _DECODED_BYTES
    decoded = Decoded(clip, sorted(needed)) if small else None
    windows = []
    for number, (start, choices) in enumerate(references.items()):
        window = read_window(clip, start, bucket, frames, choices[0] if choices else None, decoded=decoded)
        key = clip.key if len(starts) == 1 else window_key(clip.key, number)
        facts = {
            **clip.facts.to_dict(),
            "frames": frames,
            "height": bucket.height,
            "width": bucket.width,
            "clip": clip.key,
            "clip_frames": clip.facts.frames,
            "window_start": start,
            "reference_frames": list(choices),
        }
        stills = np.stack(references_of(clip, choices, bucket, decoded))
        if clip.face is not None:  # found out now, and not in training
            read_face(clip.face, clip.where, clip.facts.frames, range(start, start + frames), None)
        windows.append(
            PixelWindow(key, facts, clip.facts.prompt, window.video_THW3, window.pose_THW3, stills, clip.face)
        )
    return windows


def window_key(clip: str, number: int) -> str:
    """Key of a window of a clip; one that would be too long is cut and told from its like by a hash of the clip's."""
    suffix = f"_w{number:03d}"
    if len(clip) + len(suffix) > _KEY_LENGTH:
        suffix = f"-{hashlib.sha256(clip.encode()).hexdigest()[:_DIGEST_LENGTH]}{suffix}"
        clip = clip[: _KEY_LENGTH - len(suffix)]
    return clip + suffix


def _spread(choices: Sequence[int], count: int | None) -> tuple[int, ...]:
    if count is None or len(choices) <= count:
        return tuple(choices)
    return tuple(choices[int(place)] for place in np.linspace(0, len(choices) - 1, count).round())


def encoded_info(
    encoders: AppearanceEncoders,
    frames: int,
    known_frames: int,
    buckets: Sequence[Bucket],
    precision: str = "bfloat16",
    windows: int | None = None,
    max_upscale: float = MAX_UPSCALE,
) -> EncodedInfo:
    """What a corpus says of latents that these encoders make.

    Raises:
        ConfigError: Frames or pixels that do not come out even, more known frames than frames, an unknown precision.
    """
    geometry = encoders.codec.geometry
    if not 0 <= known_frames < frames:
        raise ConfigError(f"{known_frames} known of {frames} frames", expected="fewer known frames than frames")
    if precision not in ("bfloat16", "float32"):
        raise ConfigError(f"precision is {precision!r}", expected="bfloat16 or float32")
    for bucket in buckets:
        geometry.check(frames, bucket.height, bucket.width)
    return EncodedInfo(
        channels=geometry.channels,
        spatial=geometry.spatial,
        temporal=geometry.temporal,
        frames=frames,
        known_frames=known_frames,
        encoders=encoders.fingerprint,
        buckets=tuple(sorted({(bucket.height, bucket.width) for bucket in buckets})),
        precision=precision,
        compute_dtype=encoders.compute_dtype,
        windows=windows,
        max_upscale=max_upscale,
    )


@torch.no_grad()
def encode_windows(
    encoders: AppearanceEncoders, windows: Sequence[PixelWindow], info: EncodedInfo
) -> list[dict[str, bytes]]:
    """Member suffix -> bytes of each window's sample.

    Args:
        encoders: On the device to compute on.
        windows: Of one size; they are encoded together.
        info: What the corpus says.

    Raises:
        DataError: Encoders that give numbers that are not finite.
        CheckpointError: An autoencoder whose latents are not what its configuration says.
    """
    device, dtype = encoders.device, getattr(torch, info.precision)
    video, pose = (
        torch.stack([signed_pixels(getattr(window, name)) for window in windows]).to(device)
        for name in ("video_THW3", "pose_THW3")
    )
    together = {
        "latents": encoders.encode_video(video),
        "pose": encoders.encode_video(pose),
        "known": encoders.known(video[:, :, : info.known_frames], *video.shape[:1], *video.shape[2:]),
        "text": encoders.text([window.prompt for window in windows]),
    }
    made, expected = tuple(together["latents"].shape[1:]), info.shape(*windows[0].video_THW3.shape[1:3])
    if made != expected:
        raise CheckpointError(
            f"the autoencoder makes latents of shape {made} of {info.frames} frames",
            expected=f"{expected}, as its configuration says",
        )
    stills = torch.stack([signed_pixels(picture) for window in windows for picture in window.references_RHW3]).to(
        device
    )
    counts = [len(window.references_RHW3) for window in windows]
    parts = stills.split(_STILLS_PER_WINDOW * len(windows))
    references = torch.cat([encoders.reference(part) for part in parts]).split(counts)
    features = [encoders.image_features(part) for part in parts]
    images = None if features[0] is None else torch.cat([part for part in features if part is not None]).split(counts)
    samples = []
    for row, window in enumerate(windows):
        tensors = {name: values[row] for name, values in together.items()} | {"references": references[row]}
        if images is not None:
            tensors["image"] = images[row]
        bad = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
        if bad:
            raise DataError(f"the encoders give {', '.join(bad)} that are not finite", where=window.key)
        kept = {name: tensor.to("cpu", dtype) for name, tensor in tensors.items()}
        meta = {**window.facts, "made_by": info.made_by, "known_frames": info.known_frames}
        sample = {
            LATENTS_NAME: save_tensors(kept),
            "meta.json": json.dumps(meta, sort_keys=True, allow_nan=False).encode(),
        }
        if window.face is not None:
            sample[FACE_NAME] = bytes(window.face)
        samples.append(sample)
    return samples


@torch.no_grad()
def encode_blank(encoders: AppearanceEncoders, bucket: Bucket, info: EncodedInfo) -> bytes:
    """File of the latents of a clip of which nothing is known."""
    blank = encoders.codec.blank(1, info.frames, bucket.height, bucket.width)[0]
    return save_tensors({"blank": blank.to("cpu", getattr(torch, info.precision))})


def encode_empty_text(encoders: AppearanceEncoders, info: EncodedInfo) -> bytes:
    """File of the embedding (N, D) of the empty prompt."""
    return save_tensors({"text": encoders.no_text(1)[0].to("cpu", getattr(torch, info.precision))})
