"""From a dance and one picture of a person to the video of that person dancing: the Appearance Expert with everything
that it needs to run.

Shapes: T frames, H, W rows and columns, K = 20 points of BODY_20, 17 keypoints of COCO.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from macedance.errors import ConfigError, DataError
from macedance.models.appearance_expert.encoders import AppearanceEncoders
from macedance.models.appearance_expert.network import AppearanceExpert, Precision
from macedance.models.appearance_expert.text_encoders import weights_identity
from macedance.motion.files import JointClip, Motion
from macedance.pipelines.appearance_colours import ColourKeeper
from macedance.pipelines.appearance_config import AppearanceModelConfig
from macedance.pipelines.appearance_lora import LoraWeights, attach_lora, check_trained_on, read_lora
from macedance.pipelines.appearance_memory import MemoryPlan, Offload
from macedance.pipelines.appearance_pretrained import check_encoders, read_pretrained, write_pretrained
from macedance.pipelines.appearance_sampling import Noise, SegmentSampler, as_frames, as_pixels
from macedance.pipelines.appearance_segments import Segment, driving_segments, plan_segments
from macedance.pipelines.video_settings import CompleteSettings, VideoSettings
from macedance.rendering.motion_to_video import MeshDancer
from macedance.rendering.pose_drawing import PoseKeypoints, draw_pose
from macedance.rendering.pose_parts import FEET, HANDS
from macedance.rendering.projector import CameraKind, DrivingRenderer, PoseProjector
from macedance.rendering.reference_outfit import check_reference_image
from macedance.rendering.reference_pose import (
    FindsKeypoints,
    Reference,
    body_from_coco,
    coco_from_body,
    find_person,
    place_reference,
)
from macedance.vision.pictures import read_picture
from macedance.vision.video import Video

logger = logging.getLogger(__name__)

Danced = Motion | JointClip
Picture = np.ndarray | str | Path
#: Told (sampling steps done, steps in all).
Progress = Callable[[int, int], None]
#: The adapters that lie in the model's folder.
OWN_LORA = "default"


class MakesDriver(Protocol):
    """Makes what draws the driving video: ``PoseProjector`` and ``MeshDriver`` are called like this."""

    def __call__(
        self, width: int, height: int, fps: float, *, camera: CameraKind, reference_K3: np.ndarray | None
    ) -> DrivingRenderer:
        """The renderer of a picture size, a frame rate, and a reference person's points or None."""


class MotionToVideo:
    """Makes videos with an Appearance Expert. A MotionRenderer and a KeypointRenderer.

    A video has as many frames as the motion lasts at the model's frame rate, whatever its length: longer ones are made
    in segments. It is determined by (motion, picture, settings, seed), up to rounding.

    Args:
        network: The transformer. Its mode (training or evaluation) is left as it is.
        encoders: Its frozen encoders.
        config: The content of ``config.json``.
        settings: How videos are made.
        device: Where networks run; None: where the network is.
        offload: What waits in the host's memory (appearance_memory.py).
        driver: Makes the driving video's renderer: ``PoseProjector``, or ``MeshDriver`` for networks driven by bodies.
        person: Finds the person in a reference picture, whose proportions and place the dancer then takes; None:
            nobody looks.
        lora: Low-rank adapters that the network carries as ``default``, for `save_pretrained`.

    Raises:
        CheckpointError: Encoders of another model.
        ConfigError: Settings that the model cannot follow.
    """

    def __init__(
        self,
        network: AppearanceExpert,
        encoders: AppearanceEncoders,
        config: AppearanceModelConfig,
        *,
        settings: VideoSettings | None = None,
        device: torch.device | str | None = None,
        offload: Offload = "none",
        driver: MakesDriver = PoseProjector,
        person: FindsKeypoints | None = None,
        lora: LoraWeights | None = None,
    ) -> None:
        self.network, self.encoders, self.config = network, encoders, config
        self.video_settings = settings or VideoSettings()
        self.driver, self.person, self.lora = driver, person, lora
        check_encoders(encoders, network, config)
        where = next(network.parameters()).device if device is None else torch.device(device)
        self._extra: dict[str, float] = {}
        self._sampler = SegmentSampler(network, encoders, config.flow, MemoryPlan(network, encoders, where, offload))
        self.fps = config.fps
        self._complete({})

    # ---------------------------------------------------------------- loading and saving
    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        encoders: str | Path | None = None,
        device: torch.device | str = "cpu",
        precision: Precision | None = None,
        offload: Offload = "none",
        **options: Any,
    ) -> MotionToVideo:
        """A model from the folder of `save_pretrained` or of ``macedance checkpoint export``, or Wan-Animate's own.

        Args:
            folder: The model folder; or a folder in diffusers' layout, or a hub id whose files lie in the cache:
                Wan-Animate as it was released.
            encoders: Folder or id of the frozen encoders, where the model's folder has none.
            device: Where to run.
            precision: Of the weights; None: bfloat16 on a GPU and float32 elsewhere. The autoencoder stays in float32.
            offload: See appearance_memory.py.
            options: As of the class: ``settings``, ``driver``, ``person``.

        Raises:
            CheckpointError: Missing, foreign or damaged; encoders or adapters of another model.
        """
        kind = precision or ("bfloat16" if torch.device(device).type == "cuda" else "float32")
        parts = read_pretrained(folder, encoders, kind)
        return cls(
            parts.network, parts.encoders, parts.config, lora=parts.lora, device=device, offload=offload, **options
        )

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write a model folder with the encoders in it: all of it or nothing.

        Adapters of ``load_lora`` are no part of the model; a warning names them.

        Raises:
            ConfigError: The folder exists or cannot be written.
            CheckpointError: A weight is not finite.
        """
        written = write_pretrained(folder, self.network, self.encoders, self.config, self.lora)
        if self._extra:
            logger.warning(
                "%s is without the further adapters %s: attach them again where it is loaded (load_lora)",
                written,
                ", ".join(self._extra),
            )
        return written

    def load_lora(self, path: str | Path, scale: float = 1.0, name: str = "extra") -> None:
        """Attach further adapters, such as ones that were distilled for few steps, with a strength of their own.

        A warning tells of adapters that were trained on other weights, or do not say on which.

        Args:
            path: safetensors in diffusers' or ComfyUI's layout.
            scale: Their strength.
            name: What they are called; not ``default``.

        Raises:
            CheckpointError: Damaged, or of another model.
            ConfigError: There are adapters of that name, or no such strength.
        """
        if not math.isfinite(scale):
            raise ConfigError(f"the strength of adapters is {scale}", where=path, expected="a finite number")
        if name == OWN_LORA or name in self._extra:
            raise ConfigError(f"there are adapters called {name!r}", fix="another name")
        lora = read_lora(path)
        attach_lora(self.network, lora, path, name)
        check_trained_on(self.network, lora, path)
        self._extra[name] = scale

    # ---------------------------------------------------------------- videos
    def __call__(
        self,
        motion: Danced,
        reference_image: Picture,
        *,
        seed: int = 0,
        number: int = 0,
        progress: Progress | None = None,
        **choices: Any,
    ) -> Video:
        """The video of the person in a picture dancing a motion, in memory; see `frames` for long ones.

        Args:
            motion: The dance, at any frame rate.
            reference_image: A file, or a picture (H, W, 3) uint8, RGB.
            seed: Of the noise.
            number: Of the video, where several are made with one seed.
            progress: Told (steps done, steps in all).
            choices: Fields of VideoSettings for this call: ``num_steps``, ``lora_scale``, ``prompt``, ...

        Raises:
            DataError: A picture that cannot be read or shows nobody, or a motion that is not finite.
            ConfigError: Settings that the model cannot follow.
            NumericsError: The network gives numbers that are not finite.
        """
        reference = self.reference(reference_image, **choices)
        driving = self.drive(motion, reference, **choices)
        return self.animate(driving, reference, seed=seed, number=number, progress=progress, **choices)

    def animate(self, driving: Video, reference: Reference | np.ndarray, **options: Any) -> Video:
        """The video of a driving video, in memory; arguments and errors as those of `frames`."""
        return Video.from_frames(np.concatenate(list(self.frames(driving, reference, **options))), driving.fps)

    def reference(self, reference_image: Picture, *, person: FindsKeypoints | None = None, **choices: Any) -> Reference:
        """A picture at the size of the videos that are made of it, with its person where somebody looks for them.

        Args:
            reference_image: As of a call.
            person: Who looks; None: the pipeline's own, if it has one.
            choices: Fields of VideoSettings.

        Raises:
            DataError: As of a call.
            ConfigError: A size that the model cannot make.
        """
        where = None if isinstance(reference_image, np.ndarray) else str(reference_image)
        image = check_reference_image(
            reference_image if isinstance(reference_image, np.ndarray) else read_picture(reference_image)
        )
        finder = person or self.person
        points = None if finder is None else find_person(image, finder, where)
        height, width = self.size_for(image, **choices)
        if min(image.shape[:2]) * 2 < min(height, width):
            logger.warning("the picture has %d x %d pixels, the video %d x %d", *image.shape[1::-1], width, height)
        return place_reference(image, width, height, points)

    def size_for(self, image_HW3: np.ndarray, **choices: Any) -> tuple[int, int]:
        """(height, width) of the video of a picture: the settings', or the model's, upright for an upright picture.

        Raises:
            ConfigError: Settings that the model cannot follow.
        """
        height, width = self._complete(choices).size
        if self.video_settings.chosen(choices).size is not None:
            return height, width
        rows, columns = image_HW3.shape[:2]
        turned = (rows > columns) != (height > width) and rows != columns
        return (width, height) if turned else (height, width)

    def drive(self, motion: Danced, reference: Reference | None = None, **choices: Any) -> Video:
        """The driving video of a motion: as many seconds as the motion has.

        Raises:
            DataError: Joints that are not finite, or no frame.
        """
        (height, width), points, camera = self._place(reference, self._complete(choices))
        if self.driver is PoseProjector:
            return self._projector(width, height, camera, points).render(motion)
        return self.driver(width, height, self.fps, camera=camera, reference_K3=points).render(motion)

    def points(self, motion: Danced, reference: Reference | None = None, **choices: Any) -> PoseKeypoints:
        """Where `drive` draws the dancer: pixels of the driving video, outside of it too, and confidence.

        Raises:
            DataError: As `drive`.
        """
        (height, width), points, camera = self._place(reference, self._complete(choices))
        return self._projector(width, height, camera, points).keypoints(motion)

    def frames(
        self,
        driving: Video,
        reference: Reference | np.ndarray,
        *,
        seed: int = 0,
        number: int = 0,
        progress: Progress | None = None,
        **choices: Any,
    ) -> Iterator[np.ndarray]:
        """The frames (t, H, W, 3) uint8 of a video, one segment after the other: as many as the driving video has.

        Args:
            driving: The driving video; its size is the video's.
            reference: The reference picture at that size; see `reference`.
            seed: Of the noise.
            number: Of the video, where several are made with one seed.
            progress: Told (steps done, steps in all).
            choices: Fields of VideoSettings.

        Raises:
            DataError: Sizes that do not belong together, or a driving video that cannot be read.
            ConfigError: Settings that the model cannot follow.
            NumericsError: The network gives numbers that are not finite.
        """
        settings = self._complete(choices)
        image = reference.image_HW3 if isinstance(reference, Reference) else check_reference_image(reference)
        if image.shape[:2] != (driving.height, driving.width):
            raise DataError(
                f"the driving video has {driving.width} x {driving.height} pixels, the reference picture "
                f"{image.shape[1]} x {image.shape[0]}",
                expected="one size",
            )
        self.config.geometry.check(1, driving.height, driving.width)
        count = driving.num_frames or sum(1 for _ in driving.pictures())
        segments = plan_segments(count, settings.segment_frames, settings.known_frames, self.config.geometry)
        return self._made(driving, image, segments, settings, (seed, number), progress)

    def _made(
        self,
        driving: Video,
        image: np.ndarray,
        segments: list[Segment],
        settings: CompleteSettings,
        drawn: tuple[int, int],
        progress: Progress | None,
    ) -> Iterator[np.ndarray]:
        self._set_adapters(settings.lora_scale)
        steps = settings.num_steps
        told = self._sampler.tell(image, settings.prompt, self._away_from(settings))
        keeper = ColourKeeper(as_pixels(image[None])[0, :, 0]) if settings.match_colours else None
        before: torch.Tensor | None = None  # the last frames that were shown, (3, k, H, W)
        for segment, pictures in driving_segments(driving, segments):
            given = None if before is None or not segment.known else before[:, -segment.known :]
            pixels = self._sampler.sample(
                told,
                pictures,
                None if given is None else given[None],
                Noise(drawn[0], segment.number, drawn[1]),
                steps,
                settings.guidance_scale,
                _after(progress, segment.number * steps, len(segments) * steps),
                settings.sampler,
            )[:, : segment.known + segment.shown]
            shown = pixels[:, segment.known :] if keeper is None else keeper.corrected(pixels, given)
            before = shown if before is None else torch.cat([before, shown], dim=1)
            before = before[:, -max(1, segments[-1].known) :]
            yield as_frames(shown)

    # ---------------------------------------------------------------- as a renderer of the protocol
    @cached_property
    def weights(self) -> dict[str, str]:
        """Model -> identity of its weights."""
        return {"appearance_expert": weights_identity(self.network, exact=True), **self.encoders.fingerprint}

    @property
    def settings(self) -> dict[str, Any]:
        """What else the videos depend on, as JSON would hold it."""
        return self.described()

    def described(self, **choices: Any) -> dict[str, Any]:
        """The settings of a call with these choices, as JSON would hold them.

        Raises:
            ConfigError: Settings that the model cannot follow.
        """
        told = self._complete(choices)
        return {
            "size": [told.size[1], told.size[0]],
            "camera": told.camera,
            "driving": getattr(self.driver, "__name__", type(self.driver).__name__),
            "pose_parts": None if self.config.pose_parts is None else list(self.config.pose_parts),
            "steps": told.num_steps,
            "lora_scale": told.lora_scale if self.lora is not None else None,
            "adapters": dict(self._extra),
            "guidance_scale": told.guidance_scale,
            "segment_frames": told.segment_frames,
            "known_frames": told.known_frames,
            "match_colours": told.match_colours,
            "prompt": told.prompt,
            "sampler": told.sampler,
            "negative_prompt": self._away_from(told),
        }

    def reference_image(self, motion: Danced, **choices: Any) -> np.ndarray:
        """A mannequin in the first frame's pose, under the camera of the whole dance, in the outfit of its genre.

        Raises:
            DataError: As `render`.
        """
        told = self._complete(choices)
        dancer = MeshDancer(told.size[1], told.size[0], fps=self.fps, camera=told.camera)
        return next(iter(dancer.render(motion, dancer.reference_image(motion)).pictures()))

    def render(self, motion: Danced, reference_image: np.ndarray, *, seed: int = 0, **choices: Any) -> Video:
        """As a call, always of the settings' size and without a look for the person: see `driving_keypoints`.

        Raises:
            DataError: A reference image that is no picture, or joints that cannot be drawn.
        """
        driving = self.drive(motion, **choices)
        reference = place_reference(check_reference_image(reference_image), driving.width, driving.height)
        return self.animate(driving, reference, seed=seed, **choices)

    def render_keypoints(
        self,
        keypoints_TK3: np.ndarray,
        fps: float,
        reference_image: np.ndarray,
        *,
        keypoint_size: tuple[int, int],
        seed: int = 0,
        **choices: Any,
    ) -> Video:
        """As `render`, driven by COCO's keypoints (T, 17, 3) at ``fps``, in pixels of a picture of ``keypoint_size``.

        Raises:
            DataError: A reference image that is no picture, or keypoints of another shape or rate.
        """
        points = np.asarray(keypoints_TK3, dtype=np.float64)
        if points.ndim != 3 or points.shape[1:] != (17, 3) or not len(points) or not np.isfinite(points).all():
            raise DataError(f"keypoints of shape {points.shape}", expected="(T, 17, 3), finite")
        height, width = self._complete(choices).size
        image = check_reference_image(reference_image)
        body = body_from_coco(points)
        scale = max(width / keypoint_size[0], height / keypoint_size[1])
        body[..., 0] = (body[..., 0] - keypoint_size[0] / 2) * scale + width / 2
        body[..., 1] = (body[..., 1] - keypoint_size[1] / 2) * scale + height / 2
        # Keypoints at another rate: the frame that is nearest in time, so that a second stays a second.
        count = max(1, round(len(body) / fps * self.fps))
        chosen = np.minimum(np.round(np.arange(count) * fps / self.fps).astype(int), len(body) - 1)
        drawn = np.stack([draw_pose(body[frame], height, width) for frame in chosen])
        reference = place_reference(image, width, height)
        driving = Video.from_frames(drawn, self.fps)
        return self.animate(driving, reference, seed=seed, **choices)

    def driving_keypoints(self, motion: Danced, reference: Reference | None = None, **choices: Any) -> np.ndarray:
        """Where `drive` draws the joints: COCO's (T, 17, 3); see MotionRenderer.

        Raises:
            DataError: As `render`.
        """
        (height, width), _, _ = self._place(reference, self._complete(choices))
        return coco_from_body(self.points(motion, reference, **choices).body, width, height).astype(np.float32)

    # ---------------------------------------------------------------- inside
    def _place(
        self, reference: Reference | None, settings: CompleteSettings
    ) -> tuple[tuple[int, int], np.ndarray | None, CameraKind]:
        """Size of the driving video, the person whose place the dancer takes, and the camera."""
        if reference is None:
            return settings.size, None, settings.camera
        height, width = reference.image_HW3.shape[:2]
        return (height, width), reference.points_K3, settings.camera

    def _projector(self, width: int, height: int, camera: CameraKind, points: np.ndarray | None) -> PoseProjector:
        """Draws what the model's training drew."""
        parts = self.config.pose_parts
        hands, feet = (parts is None or part in parts for part in (HANDS, FEET))
        return PoseProjector(width, height, self.fps, camera=camera, reference_K3=points, hands=hands, feet=feet)

    def _complete(self, choices: Mapping[str, Any]) -> CompleteSettings:
        return self.video_settings.chosen(choices).completed(self.config, self.lora is not None)

    def _away_from(self, settings: CompleteSettings) -> str | None:
        """The prompt that guidance leads away from; None: no text at all, or no guidance."""
        if settings.guidance_scale == 1:
            return None
        untold = not settings.negative_prompt and self.config.dropped_text == "zeros"
        return None if untold else settings.negative_prompt

    def _set_adapters(self, scale: float) -> None:
        scales = {**({} if self.lora is None else {OWN_LORA: scale}), **self._extra}
        if scales:
            self.network.transformer.set_adapters(list(scales), list(scales.values()))


def _after(progress: Progress | None, done: int, total: int) -> Callable[[int], None] | None:
    """Progress of one segment as part of all of them."""
    if progress is None:
        return None
    report = progress
    return lambda step: report(done + step, total)
