"""Renderers by the path of a function: for configs, and for ``--renderer`` of ``macedance evaluate cascade``."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from typing import Any, Literal, get_args
from weakref import WeakValueDictionary

import numpy as np
import torch

from macedance.diffusion.flow_matching import FlowSampler
from macedance.errors import ConfigError
from macedance.models.appearance_expert.network import Precision
from macedance.pipelines.appearance_lora import file_and_scale
from macedance.pipelines.appearance_memory import Offload
from macedance.pipelines.motion_to_video import Danced, MotionToVideo
from macedance.pipelines.video_settings import DEFAULT_PROMPT
from macedance.rendering.mesh_driver import MeshDriver
from macedance.rendering.projector import CameraKind, PoseProjector
from macedance.rendering.reference_pose import Reference
from macedance.vision.keypoint_sources import KEYPOINT_SOURCES, best_keypoint_source
from macedance.vision.keypoints import KeypointSource
from macedance.vision.video import Video

logger = logging.getLogger(__name__)

Driving = Literal["pose", "mesh"]
AUTO, OFF = "auto", "off"

#: Pipelines that somebody holds, by what they were loaded from: callbacks that name one model share its weights.
_HELD: WeakValueDictionary[tuple[Any, ...], MotionToVideo] = WeakValueDictionary()


class AppearanceRenderer:
    """An Appearance Expert under fixed settings, as the protocol renders with it. A MotionRenderer, a KeypointRenderer.

    Args:
        pipeline: Makes the videos; others may hold it too.
        choices: Fields of VideoSettings for every video.
        sources: Model -> where it was read from.
        reference: Who dances wherever nobody gives a picture; None: a mannequin of the first frame. Where their points
            are known, the dancer takes their proportions and place.
        finder: What found them: name -> sha256 of its weights.

    Raises:
        ConfigError: Settings that the model cannot follow.
    """

    def __init__(
        self,
        pipeline: MotionToVideo,
        choices: dict[str, Any],
        sources: dict[str, str],
        reference: Reference | None = None,
        finder: dict[str, str] | None = None,
    ) -> None:
        self.pipeline, self.sources, self.fps = pipeline, sources, pipeline.fps
        self._reference, self._finder = reference, finder or {}
        self._choices = dict(choices)
        if reference is not None:
            height, width = reference.image_HW3.shape[:2]
            self._choices["size"] = (height, width)
        pipeline.described(**self._choices)  # refuses what the model cannot follow now, not after hours

    @property
    def weights(self) -> dict[str, str]:
        """Model -> identity of its weights; adapters count as the model's."""
        return {**self.pipeline.weights, **self._finder}

    @property
    def settings(self) -> dict[str, Any]:
        """What else the videos depend on, as JSON would hold it."""
        who = self._reference
        person = who is not None and who.points_K3 is not None
        picture = None if who is None else hashlib.sha256(np.ascontiguousarray(who.image_HW3).tobytes()).hexdigest()
        own = {"own_picture": who is not None, "picture_sha256": picture, "person_found": person}
        return {**self.pipeline.described(**self._choices), **own}

    def reference_image(self, motion: Danced) -> np.ndarray:
        """The picture of who dances, or a mannequin of the motion's first frame.

        Raises:
            DataError: As `render`.
        """
        if self._reference is not None:
            return self._reference.image_HW3
        return self.pipeline.reference_image(motion, **self._choices)

    def render(self, motion: Danced, reference_image: np.ndarray, *, seed: int = 0) -> Video:
        """The dance of the person in the picture.

        Raises:
            DataError: A reference image that is no picture, or joints that cannot be drawn.
            ConfigError: Another picture than the renderer's own, whose person the driving keypoints follow.
        """
        who = self._who(reference_image)
        if who is None:
            return self.pipeline.render(motion, reference_image, seed=seed, **self._choices)
        driving = self.pipeline.drive(motion, who, **self._choices)
        return self.pipeline.animate(driving, who, seed=seed, **self._choices)

    def render_keypoints(
        self,
        keypoints_TK3: np.ndarray,
        fps: float,
        reference_image: np.ndarray,
        *,
        keypoint_size: tuple[int, int],
        seed: int = 0,
    ) -> Video:
        """See KeypointRenderer; people keep their place in the video that the keypoints are of.

        Raises:
            DataError: As `render`, or keypoints of another shape.
            ConfigError: As `render`.
        """
        self._who(reference_image)
        return self.pipeline.render_keypoints(
            keypoints_TK3, fps, reference_image, keypoint_size=keypoint_size, seed=seed, **self._choices
        )

    def driving_keypoints(self, motion: Danced) -> np.ndarray:
        """Where `render` draws the joints, (T, 17, 3); see MotionRenderer.

        Raises:
            DataError: As `render`.
        """
        return self.pipeline.driving_keypoints(motion, self._reference, **self._choices)

    def _who(self, reference_image: np.ndarray) -> Reference | None:
        who = self._reference
        if who is not None and not np.array_equal(who.image_HW3, reference_image):
            raise ConfigError(
                "the renderer was given another picture of who dances than its own reference_image",
                fix="name the picture once: the renderer's option, or --reference-images",
            )
        return who


def appearance_expert(
    folder: str,
    device: str | None = None,
    encoders: str | None = None,
    offload: Offload = "none",
    precision: Precision | None = None,
    size: list[int] | None = None,
    camera: CameraKind = "fixed",
    num_steps: int | None = None,
    lora_scale: float = 1.0,
    guidance_scale: float = 1.0,
    segment_frames: int | None = None,
    known_frames: int | None = None,
    match_colours: bool = True,
    prompt: str = DEFAULT_PROMPT,
    sampler: FlowSampler | None = None,
    negative_prompt: str = "",
    reference_image: str | None = None,
    person: str = AUTO,
    person_weights: str | None = None,
    lora: list[str] | None = None,
    driving: Driving = "pose",
) -> AppearanceRenderer:
    """An Appearance Expert from a model folder and plain values.

    Renderers of one model, however they sample, share its weights while one of them is held.

    Args:
        folder: As of `MotionToVideo.from_pretrained`; ``encoders``, ``offload``, ``precision`` likewise.
        device: Where to run; None: a GPU where there is one. Without a number that of this process: where several ranks
            share a machine, each takes its own.
        encoders: Folder of the frozen encoders.
        offload: What waits in the host's memory; ``model`` leaves a GPU to training between two evaluations.
        precision: Of the weights.
        size: [height, width]; this and what follows: fields of VideoSettings.
        camera: ``fixed`` or ``follow``.
        num_steps: Sampling steps.
        lora_scale: Strength of the model's own adapters.
        guidance_scale: 1: none.
        segment_frames: Of the longest segment.
        known_frames: That each segment goes on from.
        match_colours: Correct colours that wander.
        prompt: What the text encoder is told.
        sampler: ``euler`` or ``unipc``.
        negative_prompt: What guidance leads away from.
        reference_image: A picture file of who dances wherever the caller has none; None: a mannequin.
        person: Looks for the person in that picture: ``auto``, ``off``, ``vitpose`` or ``blazepose``.
        person_weights: Root of its weights.
        lora: Further adapters, files or FILE:SCALE, as for few steps.
        driving: ``pose``: a skeleton; ``mesh``: a solid body, for models driven by those.

    Raises:
        CheckpointError: As of `MotionToVideo.from_pretrained`.
        ConfigError: Settings that the model cannot follow, or a device that is not there.
        DataError: A picture that cannot be used, or in which nobody is seen.
        DependencyError: A person that is looked for by what is not there.
    """
    if size is not None and len(size) != 2:
        raise ConfigError(f"size is {size}", expected="[height, width]")
    if driving not in get_args(Driving):
        raise ConfigError(f"driving is {driving!r}", expected=" or ".join(get_args(Driving)))
    where = device_of_process(device)
    pipeline = _loaded(folder, where, encoders, offload, precision, lora or (), driving)
    choices = {
        "size": None if size is None else (int(size[0]), int(size[1])),
        "camera": camera,
        "num_steps": num_steps,
        "lora_scale": lora_scale,
        "guidance_scale": guidance_scale,
        "segment_frames": segment_frames,
        "known_frames": known_frames,
        "match_colours": match_colours,
        "prompt": prompt,
        "sampler": sampler,
        "negative_prompt": negative_prompt,
    }
    sources = {"appearance_expert": str(folder)} | ({} if encoders is None else {"encoders": str(encoders)})
    sources |= {f"lora_{number}": str(file) for number, file in enumerate(lora or ())}
    pipeline.described(**choices)
    if reference_image is None:
        return AppearanceRenderer(pipeline, choices, sources)
    sources["reference_image"] = str(reference_image)
    finder = _finder(person, person_weights, where)
    reference = pipeline.reference(reference_image, person=finder, **choices)
    return AppearanceRenderer(pipeline, choices, sources, reference, None if finder is None else dict(finder.weights))


def device_of_process(name: str | None) -> str:
    """A device that can be used; a GPU without a number is the one that a launcher gives this process.

    Raises:
        ConfigError: There is no such device here.
    """
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    rank = os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or "0"
    if name == "cuda" and torch.cuda.device_count() > 1 and rank.isdigit():
        name = f"cuda:{int(rank) % torch.cuda.device_count()}"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"the device {name!r} cannot be used: {reason}", fix="leave the option device out") from error
    return name


def _loaded(
    folder: str,
    device: str,
    encoders: str | None,
    offload: Offload,
    precision: Precision | None,
    lora: Sequence[str],
    driving: Driving,
) -> MotionToVideo:
    """The pipeline that somebody holds already, or a new one."""
    key = (folder, _version(folder), device, encoders, offload, precision, tuple(lora), driving)
    held = _HELD.get(key)
    if held is not None:
        return held
    # Networks are drawn before their weights are read: a training that this renderer judges must not notice.
    with torch.random.fork_rng(devices=[]):
        pipeline = MotionToVideo.from_pretrained(
            folder,
            encoders=encoders,
            device=device,
            precision=precision,
            offload=offload,
            driver=MeshDriver if driving == "mesh" else PoseProjector,
        )
        for number, text in enumerate(lora):
            file, scale = file_and_scale(text)
            pipeline.load_lora(file, scale, name=f"extra{number}")
    _HELD[key] = pipeline
    return pipeline


def _version(folder: str) -> tuple[int, int] | None:
    """What is another number when the folder has been replaced; None: no folder, but an id of a hub."""
    try:
        found = os.stat(folder)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _finder(person: str, weights: str | None, device: str) -> KeypointSource | None:
    if person == OFF:
        return None
    if person == AUTO:
        finder, why = best_keypoint_source(weights, device)
        if finder is None:
            logger.warning("nobody looks for the person in the renderer's reference_image: %s", why)
        return finder
    if person not in KEYPOINT_SOURCES:
        raise ConfigError(f"person is {person!r}", expected=" or ".join((AUTO, OFF, *KEYPOINT_SOURCES)))
    return KEYPOINT_SOURCES[person](weights, device)
