"""The videos of ``macedance generate --image``: a person of a picture dances the dances that were made."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch.keypoint_sources import KEYPOINT_SOURCES, best_keypoint_source, keypoint_source
from launch.options import say
from macedance.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np

    from macedance.motion.files import Motion
    from macedance.pipelines.motion_to_video import MotionToVideo
    from macedance.rendering.projector import CameraKind
    from macedance.rendering.reference_pose import Reference
    from macedance.vision.keypoints import KeypointSource
    from macedance.vision.video import Video

#: A picture that keeps more than this of its sides is cut without a word.
_MOST_CUT = 0.85
#: Options that a mannequin cannot follow.
_ONLY_WITH_MODEL = (
    "lora", "lora_scale", "guidance", "video_steps", "video_sampler", "prompt", "negative_prompt", "segment_frames",
    "known_frames", "offload", "precision", "encoders", "video_size", "driving", "person", "person_weights",
    "no_colour_match",
)  # fmt: skip
#: Options of the mannequin's drawing.
_ONLY_MANNEQUIN = ("size", "renderer")
#: Options that say nothing without a picture.
_ONLY_WITH_IMAGE = ("appearance", "camera", *_ONLY_WITH_MODEL)


def add_video_options(parser: argparse.ArgumentParser) -> None:
    """The options of the video, under a heading of their own."""
    group = parser.add_argument_group(
        "video of a person", "With --image the mp4 shows the person of the picture instead of the mannequin."
    )
    group.add_argument("--image", metavar="PICTURE", help="one person, best from head to feet: jpg, png, webp, ...")
    group.add_argument(
        "--appearance",
        metavar="DIR",
        help="a trained Appearance Expert, or Wan-Animate in diffusers' layout; without it a mannequin in the "
        "picture's colours dances",
    )
    group.add_argument("--encoders", metavar="DIR", help="the frozen encoders, where the model's folder has none")
    group.add_argument("--prompt", help="what is to be seen (default: a person is dancing)")
    group.add_argument("--video-steps", type=int, metavar="N", help="sampling steps (default: the model's own)")
    group.add_argument(
        "--video-sampler",
        choices=("euler", "unipc"),
        help="default: the model's own, unipc for Wan-Animate",
    )
    group.add_argument("--guidance", type=float, metavar="W", help="classifier-free guidance (default 1: none)")
    group.add_argument("--negative-prompt", help="what guidance leads away from (default: the empty prompt)")
    group.add_argument(
        "--lora", action="append", metavar="FILE[:SCALE]", help="further adapters, as for few steps; several times"
    )
    group.add_argument("--lora-scale", type=float, metavar="S", help="strength of the model's own adapters (default 1)")
    group.add_argument("--video-size", metavar="WxH", help="pixels (default: the model's, upright for such a picture)")
    group.add_argument("--camera", choices=("fixed", "follow"), help="default: the model's own, fixed for most")
    group.add_argument(
        "--driving", choices=("pose", "mesh"), help="what drives the model: a skeleton (default) or a solid body"
    )
    group.add_argument(
        "--person",
        choices=("auto", "off", *KEYPOINT_SOURCES),
        help="looks for the person, whose proportions and place the dancer takes (default auto: what is installed)",
    )
    group.add_argument("--person-weights", metavar="DIR", help="root of the weights of --person (default: the usual)")
    group.add_argument("--segment-frames", type=int, metavar="N", help="of the longest segment (default: the model's)")
    group.add_argument(
        "--known-frames", type=int, metavar="N", help="that a segment goes on from (default: the model's)"
    )
    group.add_argument(
        "--no-colour-match", action="store_true", default=None, help="leave colours that wander as they are"
    )
    group.add_argument(
        "--offload", choices=("none", "model", "blocks"), help="what waits in memory: none 80 GB, model 48, blocks 24"
    )
    group.add_argument("--precision", choices=("float32", "bfloat16"), help="default bfloat16 on a GPU, else float32")


def check_video_options(options: argparse.Namespace, formats: Sequence[str]) -> None:
    """Raise ConfigError for options that do not go together, before anything is loaded."""
    if options.image is None:
        given = _given(options, _ONLY_WITH_IMAGE)
        if given:
            raise ConfigError(f"{', '.join(given)} without a picture of the person", fix="--image PICTURE")
        return
    if "mp4" not in formats:
        raise ConfigError("--image makes videos, and --formats has no mp4", fix="add mp4 to --formats")
    if options.appearance is None:
        given = _given(options, _ONLY_WITH_MODEL)
        if given:
            raise ConfigError(f"{', '.join(given)} without a model of a person", fix="--appearance DIR")
    elif given := _given(options, _ONLY_MANNEQUIN):
        raise ConfigError(
            f"{', '.join(given)} with --appearance: no mannequin is drawn, the model makes the video",
            fix="leave it out; --video-size WxH is the size of the model's video",
        )
    _size(options.video_size)


def _given(options: argparse.Namespace, names: Sequence[str]) -> list[str]:
    """Those of the options that the user has given, as they were typed; all of them are None by default."""
    return [f"--{name.replace('_', '-')}" for name in names if getattr(options, name) is not None]


class VideoMaker:
    """What makes the videos of a run, loaded once.

    Args:
        options: Of ``macedance generate``, with an image.
        device: Where networks run.

    Raises:
        DataError: A picture that cannot be used, or shows nobody.
        CheckpointError: A model that cannot be used.
        ConfigError: Options that the model cannot follow.
    """

    def __init__(self, options: argparse.Namespace, device: str) -> None:
        from macedance.vision.pictures import read_picture

        self._options, self._device = options, device
        picture = read_picture(options.image)
        self.pipeline: MotionToVideo | None = None
        if options.appearance is None:
            say(
                "no --appearance: there is no model that could show the person; a mannequin in the outfit nearest to "
                f"{options.image} dances instead"
            )
            self._picture = picture
            return
        self.pipeline = self._loaded()
        self._choices = self._settings()
        self.reference: Reference = self.pipeline.reference(options.image, **self._choices)
        if self.reference.points_K3 is None:
            self._say_what_is_cut(picture)

    def make(
        self, motion: Motion, stem: Path, number: int, music: Path, progress: Any
    ) -> tuple[list[Path], dict[str, Any]]:
        """Write ``<stem>.mp4`` with sound and ``<stem>-driving.mp4``; returns them and what ``--json`` says.

        Args:
            motion: The dance.
            stem: Path without ending.
            number: Of the dance.
            music: The song.
            progress: Told (steps done, steps in all).
        """
        from macedance.pipelines.music_to_video import write_video

        started = time.perf_counter()
        path, driving_path = (stem.with_name(f"{stem.name}{ending}.mp4") for ending in ("", "-driving"))
        if self.pipeline is None:
            video, driving = self._mannequin(motion)
            write_video(path, video, music)
            told: dict[str, Any] = {"model": None, "reason": "no --appearance: a mannequin dances"}
        else:
            driving = self.pipeline.drive(motion, self.reference, **self._choices)
            outside = self._outside(self.pipeline, motion, path)
            portions = self.pipeline.frames(
                driving, self.reference, seed=self._options.seed, number=number, progress=progress, **self._choices
            )
            self._write(path, portions, driving, music)
            made = {**self._choices, "size": (driving.height, driving.width)}
            told = {"model": str(self._options.appearance), "settings": self.pipeline.described(**made)}
            told |= {"weights": self.pipeline.weights, "person_found": self.reference.points_K3 is not None}
            told["frames_outside"] = outside
        write_video(driving_path, driving)
        told |= {"file": str(path), "driving": str(driving_path), "frames": driving.num_frames, "fps": driving.fps}
        told |= {"size": [driving.width, driving.height], "seconds_taken": time.perf_counter() - started}
        return [path, driving_path], told

    def _outside(self, pipeline: MotionToVideo, motion: Motion, path: Path) -> int:
        """Frames in which the dancer has left the picture, which is said where there are some."""
        from macedance.rendering.reference_pose import frames_outside

        body = pipeline.points(motion, self.reference, **self._choices).body
        height, width = self.reference.image_HW3.shape[:2]
        outside = frames_outside(body, width, height)
        if outside:
            camera = self._options.camera or pipeline.video_settings.camera
            fix = "" if camera == "follow" else ": --camera follow stays with them"
            say(f"{path.name}: the dancer is outside the picture in {outside} of {len(body)} frames{fix}")
        return outside

    def _say_what_is_cut(self, picture: np.ndarray) -> None:
        """Where nobody has looked for the person, a picture of another shape may lose their head or their feet."""
        (rows, columns), (height, width) = picture.shape[:2], self.reference.image_HW3.shape[:2]
        shape = (columns / rows) / (width / height)
        if _MOST_CUT < shape < 1 / _MOST_CUT:
            return
        lost = f"{1 - min(shape, 1 / shape):.0%} of its {'height' if shape < 1 else 'width'}"
        say(
            f"{self._options.image}: the picture of {columns} x {rows} pixels is cut evenly to the video's {width} x "
            f"{height}, which leaves out {lost}: a picture of the video's shape, --video-size, or --person keeps the "
            "person whole"
        )

    @staticmethod
    def _write(path: Path, portions: Iterator[np.ndarray], driving: Video, music: Path) -> None:
        """Portion by portion: a song's video is never held whole."""
        from macedance.rendering.video import VideoWriter

        with VideoWriter(path, driving.fps, driving.width, driving.height, music=music) as writer:
            for portion in portions:
                for picture in portion:
                    writer.add(picture)

    def _mannequin(self, motion: Motion) -> tuple[Video, Video]:
        from macedance.rendering.motion_to_video import MeshDancer
        from macedance.rendering.projector import PoseProjector

        size = self._options.size
        camera: CameraKind = self._options.camera or "fixed"
        dancer = MeshDancer(size, size, fps=motion.fps, camera=camera, backend=self._options.renderer)
        driving = PoseProjector(size, size, motion.fps, camera=camera).render(motion)
        return dancer.render(motion, self._picture), driving

    def _loaded(self) -> MotionToVideo:
        from macedance.pipelines.appearance_lora import file_and_scale
        from macedance.pipelines.motion_to_video import MotionToVideo
        from macedance.rendering.mesh_driver import MeshDriver
        from macedance.rendering.projector import PoseProjector

        options = self._options
        pipeline = MotionToVideo.from_pretrained(
            options.appearance,
            encoders=options.encoders,
            device=self._device,
            precision=options.precision,
            offload=options.offload or "none",
            driver=MeshDriver if options.driving == "mesh" else PoseProjector,
            person=self._finder(),
        )
        for k, text in enumerate(options.lora or ()):
            file, scale = file_and_scale(text)
            pipeline.load_lora(file, scale, name=f"extra{k}")
        return pipeline

    def _settings(self) -> dict[str, Any]:
        """What the user chose; None for what is left to the model."""
        options = self._options
        return {
            key: value
            for key, value in {
                "size": _size(options.video_size),
                "camera": options.camera,
                "num_steps": options.video_steps,
                "lora_scale": options.lora_scale,
                "guidance_scale": options.guidance,
                "segment_frames": options.segment_frames,
                "known_frames": options.known_frames,
                "match_colours": False if options.no_colour_match else None,
                "prompt": options.prompt,
                "sampler": options.video_sampler,
                "negative_prompt": options.negative_prompt,
            }.items()
            if value is not None
        }

    def _finder(self) -> KeypointSource | None:
        options = self._options
        if options.person == "off":
            return None
        if options.person not in (None, "auto"):
            return keypoint_source(options.person, options.person_weights, self._device)
        finder, why = best_keypoint_source(options.person_weights, self._device)
        if finder is None:
            say(
                "nobody looks for the person in the picture: the dancer keeps the mannequin's proportions and stands "
                f"in the middle ({why})"
            )
        return finder


def _size(text: str | None) -> tuple[int, int] | None:
    """(height, width) of ``WxH``."""
    if text is None:
        return None
    width, cross, height = text.lower().partition("x")
    if not cross or not width.isdigit() or not height.isdigit() or not int(width) or not int(height):
        raise ConfigError(f"--video-size is {text!r}", expected="WxH in pixels, such as 832x480")
    return int(height), int(width)
