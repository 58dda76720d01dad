"""A window of a clip as latents, precomputed: what a shard holds of it, and what a corpus says of its latents.

Shapes: z latent channels, t latent frames, h, w latent rows and columns, R references, N tokens of text, M of a
picture, D their width.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from macedance.appearance_data.windows import ALL_COVERING, MAX_UPSCALE, read_face
from macedance.errors import CheckpointError, DataError
from macedance.models.appearance_expert.geometry import LatentGeometry

SCHEMA = 1
ENCODED_NAME = "encoded.json"
#: Embedding of the empty prompt, which stands for a dropped one, in the corpus.
EMPTY_TEXT_NAME = "empty_text.safetensors"
LATENTS_NAME = "latents.safetensors"
FACE_NAME = "face.mp4"
#: Axes of each tensor of a sample: the clip's and its first known frames', the pose's, one for each reference.
_ALIKE = ("latents", "pose", "known")
_NEEDED = (*_ALIKE, "references", "text")


@dataclass(frozen=True)
class EncodedInfo:
    """`encoded.json`: how the latents of a corpus were made.

    Args:
        channels: z; spatial, temporal: Pixels and frames to one latent.
        spatial: See there.
        temporal: See there.
        frames: Of a window.
        known_frames: Frames at its beginning that `known` shows.
        encoders: Fingerprint of each frozen network, by name.
        buckets: (height, width) of the clips' pixels.
        precision: Of the tensors, `bfloat16` or `float32`.
        compute_dtype: Precision that each frozen network computed in, by name; not named: float32.
        windows: How many windows a clip gave at most; None: as few as cover it (``window_starts``).
        max_upscale: Clips that would have been enlarged by more were left out.
    """

    channels: int
    spatial: int
    temporal: int
    frames: int
    known_frames: int
    encoders: Mapping[str, str] = field(default_factory=dict)
    buckets: tuple[tuple[int, int], ...] = ()
    precision: str = "bfloat16"
    compute_dtype: Mapping[str, str] = field(default_factory=dict)
    windows: int | None = None
    max_upscale: float = MAX_UPSCALE

    @property
    def geometry(self) -> LatentGeometry:
        """Of the latents."""
        return LatentGeometry(self.channels, self.spatial, self.temporal, 1)

    @property
    def made_by(self) -> str:
        """A hash of what the numbers depend on; every sample carries it."""
        # Which clips and windows there are changes no numbers, and float32 is what an absent word says.
        said = {**self.to_dict(), "buckets": None}
        del said["windows"], said["max_upscale"]
        said["compute_dtype"] = {name: dtype for name, dtype in self.compute_dtype.items() if dtype != "float32"}
        if not said["compute_dtype"]:
            del said["compute_dtype"]
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:32]

    def shape(self, height: int, width: int) -> tuple[int, int, int, int]:
        """(z, t, h, w) of a window of this size."""
        return self.geometry.latent_shape(self.frames, height, width)

    def to_dict(self) -> dict[str, Any]:
        """The JSON object."""
        return {
            "schema": SCHEMA,
            "geometry": {"channels": self.channels, "spatial": self.spatial, "temporal": self.temporal},
            "frames": self.frames,
            "known_frames": self.known_frames,
            "encoders": dict(self.encoders),
            "buckets": [list(bucket) for bucket in self.buckets],
            "precision": self.precision,
            "compute_dtype": dict(self.compute_dtype),
            "windows": ALL_COVERING if self.windows is None else self.windows,
            "max_upscale": self.max_upscale,
        }

    @classmethod
    def from_dict(cls, data: Any, where: str) -> EncodedInfo:
        """From the JSON object.

        Raises:
            DataError: Another schema, or a field missing or of the wrong kind.
        """
        try:
            if data["schema"] != SCHEMA:
                raise ValueError(f"schema {data['schema']}")
            geometry = data["geometry"]
            info = cls(
                channels=int(geometry["channels"]),
                spatial=int(geometry["spatial"]),
                temporal=int(geometry["temporal"]),
                frames=int(data["frames"]),
                known_frames=int(data["known_frames"]),
                encoders={str(name): str(value) for name, value in data["encoders"].items()},
                buckets=tuple((int(height), int(width)) for height, width in data["buckets"]),
                precision=str(data["precision"]),
                compute_dtype={str(name): str(value) for name, value in data.get("compute_dtype", {}).items()},
                windows=None if data.get("windows", ALL_COVERING) == ALL_COVERING else int(data["windows"]),
                max_upscale=float(data.get("max_upscale", MAX_UPSCALE)),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(
                f"it cannot be told how the latents were made ({type(error).__name__} {error})",
                where=where,
                expected=f"an {ENCODED_NAME} of schema {SCHEMA}",
                fix="encode the corpus again with `macedance data encode`",
            ) from error
        if min(info.channels, info.spatial, info.temporal, info.frames) < 1 or info.known_frames < 0:
            raise DataError("the latents' sizes are not above 0", where=where)
        return info


def blank_name(height: int, width: int, frames: int) -> str:
    """File of the latents of a clip of which nothing is known, in the corpus."""
    return f"blank/{width}x{height}x{frames}.safetensors"


def save_tensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """A safetensors file."""
    from safetensors.torch import save

    return save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata=dict(metadata or {}))


def load_tensors(data: bytes | memoryview, where: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        DataError: Not one, or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(bytes(data))
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        told = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"the latents cannot be read ({told})", where=where, expected="a safetensors file") from error


@dataclass(frozen=True)
class FaceFile:
    """The face video of the clip that a window is of. It stays a video: as pixels it would outweigh the latents.

    Args:
        data: The mp4's bytes.
        where: `shard:key` for messages.
        clip_frames: Its frames.
        start: First frame of the window.
    """

    data: bytes | memoryview = field(repr=False)
    where: str
    clip_frames: int
    start: int

    def pictures(self, frames: Sequence[int], size: int) -> np.ndarray:
        """Some frames of the window (N, S, S, 3), uint8.

        Raises:
            DataError: A video that cannot be read, of another length, or not square.
        """
        return read_face(self.data, self.where, self.clip_frames, [self.start + frame for frame in frames], size)


class EncodedClip(dict[str, Tensor]):
    """The tensors of a window by name.

    Attributes:
        face: The video of the person's face; None where there is none.
    """

    face: FaceFile | None = None


def encoded_clip(
    members: Mapping[str, bytes | memoryview], where: str, info: EncodedInfo, height: int, width: int
) -> EncodedClip:
    """The tensors of a sample of precomputed latents, checked against what the corpus says.

    Args:
        members: Suffix -> bytes.
        where: `shard:key` for messages.
        info: Of the corpus.
        height: Pixels of the sample's bucket; ``width`` likewise.
        width: Pixels.

    Raises:
        DataError: A member or tensor is missing, of another autoencoder, shape or window, or not finite.
    """
    missing = [name for name in (LATENTS_NAME, "meta.json") if name not in members]
    if missing:
        raise DataError(f"sample lacks {', '.join(missing)}", where=where, expected="precomputed latents")
    try:
        meta = json.loads(bytes(members["meta.json"]))
        made_by, known = str(meta["made_by"]), int(meta["known_frames"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"meta.json cannot be used ({type(error).__name__} {error})", where=where) from error
    if made_by != info.made_by or known != info.known_frames:
        raise DataError(
            "the latents are of other encoders than the corpus's",
            where=where,
            expected=f"latents made by {info.made_by}, known_frames {info.known_frames}",
            fix="encode the corpus again with `macedance data encode`",
        )
    clip = EncodedClip(load_tensors(members[LATENTS_NAME], where))
    check_tensors(clip, where, info, height, width)
    if FACE_NAME in members:
        try:
            clip.face = FaceFile(members[FACE_NAME], where, int(meta["clip_frames"]), int(meta["window_start"]))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                "meta.json does not say which frames of the face video are the window's", where=where
            ) from error
    return clip


def check_tensors(tensors: Mapping[str, Tensor], where: str, info: EncodedInfo, height: int, width: int) -> None:
    """Refuse tensors that cannot be a window of a bucket.

    Raises:
        DataError: One is missing, of another shape, or not finite.
    """
    missing = [name for name in _NEEDED if name not in tensors]
    if missing:
        raise DataError(f"the latents lack {', '.join(missing)}", where=where, expected=", ".join(_NEEDED))
    shape = info.shape(height, width)
    for name in _ALIKE:
        _refuse_shape(name, tensors[name], shape, where, height, width)
    references = tensors["references"]
    one = (shape[0], 1, *shape[2:])
    if references.ndim != 5 or not len(references):
        raise DataError(f"references have shape {tuple(references.shape)}", where=where, expected=f"(R, {one})")
    _refuse_shape("references", references[0], one, where, height, width)
    if tensors["text"].ndim != 2:
        raise DataError(f"text has shape {tuple(tensors['text'].shape)}", where=where, expected="(tokens, width)")
    image = tensors.get("image")
    if image is not None and (image.ndim != 3 or len(image) != len(references)):
        raise DataError(
            f"image has shape {tuple(image.shape)}", where=where, expected=f"({len(references)}, tokens, width)"
        )
    bad = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if bad:
        raise DataError(f"{', '.join(bad)} are not finite", where=where, fix="encode the corpus again")


def _refuse_shape(name: str, tensor: Tensor, expected: Sequence[int], where: str, height: int, width: int) -> None:
    if tuple(tensor.shape) != tuple(expected):
        raise DataError(
            f"{name} have shape {tuple(tensor.shape)}",
            where=where,
            expected=f"{tuple(expected)} for {width} x {height} pixels by the corpus's autoencoder",
            fix="encode the corpus again with `macedance data encode`",
        )


def check_geometry(info: EncodedInfo, geometry: LatentGeometry, where: str) -> None:
    """Refuse latents that a network cannot read.

    Raises:
        CheckpointError: They have other channels or factors than the network's autoencoder.
    """
    ours = (info.channels, info.spatial, info.temporal)
    theirs = (geometry.channels, geometry.spatial, geometry.temporal)
    if ours != theirs:
        raise CheckpointError(
            f"the corpus holds latents of another autoencoder: channels, spatial and temporal factor {ours}",
            where=where,
            expected=f"{theirs} as the network reads",
            fix="encode the corpus again with `macedance data encode`",
        )
