"""From a song and one picture of a person to videos of that person dancing to the song: both experts, one after the
other.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from macedance.errors import CheckpointError
from macedance.motion.files import Motion
from macedance.pipelines.motion_to_video import MotionToVideo, Picture, Progress
from macedance.pipelines.music_to_motion import MusicToMotion
from macedance.pipelines.new_folder import new_folder
from macedance.rendering.sound import Music
from macedance.rendering.video import VideoWriter
from macedance.vision.video import Video

FORMAT, SCHEMA = "macedance-music-to-video", 1
CONFIG_FILE, MOTION, APPEARANCE = "config.json", "motion", "appearance"


@dataclass(frozen=True)
class DanceVideo:
    """One dance to a song.

    Attributes:
        motion: The dance.
        driving: What drove the video, drawn as it is looked at.
        video: The person dancing; as long as the motion.
    """

    motion: Motion
    driving: Video
    video: Video


class MusicToVideo:
    """Makes dance videos with a Motion Expert and an Appearance Expert.

    Args:
        music_to_motion: The Motion Expert.
        motion_to_video: The Appearance Expert.
    """

    def __init__(self, music_to_motion: MusicToMotion, motion_to_video: MotionToVideo) -> None:
        self.music_to_motion, self.motion_to_video = music_to_motion, motion_to_video

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, device: torch.device | str = "cpu", **options: Any) -> MusicToVideo:
        """Both experts from the folder of `save_pretrained`.

        Args:
            folder: With ``motion/`` and ``appearance/``.
            device: Where both run.
            options: As of `MotionToVideo.from_pretrained`.

        Raises:
            CheckpointError: Missing, foreign or damaged.
        """
        folder = Path(folder)
        path = folder / CONFIG_FILE
        try:
            content: Any = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"cannot read the configuration: {error}", where=path) from error
        if not isinstance(content, dict) or content.get("format") != FORMAT or content.get("schema") != SCHEMA:
            raise CheckpointError(
                "the folder does not hold both experts", where=path, expected=f"format {FORMAT!r}, schema {SCHEMA}"
            )
        return cls(
            MusicToMotion.from_pretrained(folder / MOTION, device),
            MotionToVideo.from_pretrained(folder / APPEARANCE, device=device, **options),
        )

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write both experts into one folder: all of it or nothing.

        Raises:
            ConfigError: The folder exists or cannot be written.
            CheckpointError: A weight is not finite.
        """
        with new_folder(folder) as stage:
            self.music_to_motion.save_pretrained(stage / MOTION)
            self.motion_to_video.save_pretrained(stage / APPEARANCE)
            told = {"format": FORMAT, "schema": SCHEMA}
            (stage / CONFIG_FILE).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
        return Path(folder)

    def __call__(
        self,
        music: str | Path,
        reference_image: Picture,
        *,
        seconds: float | None = None,
        start_s: float = 0.0,
        seed: int = 0,
        cache_dir: Path | None = None,
        motion_options: Mapping[str, Any] | None = None,
        progress: Progress | None = None,
        **choices: Any,
    ) -> Iterator[DanceVideo]:
        """Dances of a person to a song, one after the other.

        Args:
            music: A sound file.
            reference_image: A picture of the person: a file, or (H, W, 3) uint8, RGB.
            seconds: Length; None is the whole song.
            start_s: Where in the song to begin, seconds.
            seed: Of both experts.
            cache_dir: Where the music's features are kept; None computes them.
            motion_options: As of `MusicToMotion.generate`: ``genre``, ``beta``, ``num_dances``, ...
            progress: Told (steps done, steps in all) of each video.
            choices: Fields of VideoSettings.

        Raises:
            ConfigError: An option that one of the experts cannot follow.
            DataError: The file is no usable sound, or the picture cannot be used.
        """
        # Before any music is read: a picture that cannot be used.
        reference = self.motion_to_video.reference(reference_image, **choices)
        told = {"seed": seed, **(motion_options or {})}
        motions = self.music_to_motion(music, seconds=seconds, start_s=start_s, cache_dir=cache_dir, **told)
        for number, motion in enumerate(motions):
            driving = self.motion_to_video.drive(motion, reference, **choices)
            video = self.motion_to_video.animate(
                driving, reference, seed=seed, number=number, progress=progress, **choices
            )
            yield DanceVideo(motion, driving, video)


def write_video(path: str | Path, video: Video, music: Music | None = None, music_start_s: float = 0.0) -> Path:
    """Write a video as mp4, whole or not at all; music is cut or padded with silence to its length.

    Args:
        path: The file.
        video: In memory, in another file, or drawn as it is looked at.
        music: The sound, or None.
        music_start_s: The second of the music at which the video starts.

    Raises:
        ConfigError: A size that cannot be encoded.
        DataError: Music that cannot be read, or a folder that cannot be written.
    """
    with VideoWriter(path, video.fps, video.width, video.height, music=music, music_start_s=music_start_s) as writer:
        for picture in video.pictures():
            writer.add(picture)
    return Path(path)
