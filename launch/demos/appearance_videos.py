"""The demo's videos: held-out clips side by side, and a dance of any length from one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from launch.demos.appearance_evaluation import animate, pipeline, test_clips
from launch.demos.appearance_training import ABLATION, SHIFTED, TOY, ZERO_SHOT
from macedance.rendering.video import VideoWriter

_ZOOM = 4
_ROWS = 4
_SONG_SEED = 990_002
_DANCE_S = 6.0


def write_videos(out: Path, *, smoke: bool) -> list[Path]:
    """Files: the dance, held-out clips of the first corpus, the ablation on the second."""
    folder = out / "videos"
    folder.mkdir(exist_ok=True)
    steps = 1 if smoke else None
    toy, shifted = (test_clips(out, name)[::2][:_ROWS] for name in (TOY, SHIFTED))
    ours = animate(pipeline(out, ZERO_SHOT), toy, toy, "clips to look at", steps)
    rows = [
        [_still(clip.window.reference_HW3, video), clip.window.pose_THW3, video, clip.window.video_THW3]
        for clip, video in zip(toy, ours, strict=True)
    ]
    files = [write_grid(folder / "held_out.mp4", rows, toy[0].facts.fps)]
    made = [animate(pipeline(out, name), shifted, shifted, name, steps) for name in ABLATION]
    rows = [
        [_still(clip.window.reference_HW3, clip.window.video_THW3), *(videos[place] for videos in made),
         clip.window.video_THW3]
        for place, clip in enumerate(shifted)
    ]  # fmt: skip
    files.append(write_grid(folder / "shifted.mp4", rows, shifted[0].facts.fps))
    return [dance(out, folder / "dance.mp4", toy[0].window.reference_HW3, toy[0].facts.prompt, smoke=smoke), *files]


def _still(picture_HW3: np.ndarray, like_THW3: np.ndarray) -> np.ndarray:
    return np.broadcast_to(picture_HW3, (len(like_THW3), *picture_HW3.shape))


def write_grid(path: Path, rows: Sequence[Sequence[np.ndarray]], fps: float) -> Path:
    """Videos (T, H, W, 3) in rows, enlarged, as one."""
    grid = np.concatenate([np.concatenate(list(row), axis=2) for row in rows], axis=1)
    grid = grid.repeat(_ZOOM, axis=1).repeat(_ZOOM, axis=2)
    with VideoWriter(path, fps, grid.shape[2], grid.shape[1]) as writer:
        for picture in grid:
            writer.add(np.ascontiguousarray(picture))
    return path


def dance(out: Path, path: Path, reference_HW3: np.ndarray, prompt: str, *, smoke: bool) -> Path:
    """A song, a dance to it and one picture: a video with sound, made in as many segments as it takes."""
    from macedance.demo.choreography import make_dance
    from macedance.demo.songs import GENRES, make_song, random_spec
    from macedance.music.audio import write_audio

    song = make_song(random_spec("unseen", GENRES[0], _SONG_SEED))
    music = path.with_suffix(".flac")
    write_audio(music, song.samples, song.sample_rate)
    motion = make_dance(song, _SONG_SEED)
    motion = motion.slice(0, round((1.0 if smoke else _DANCE_S) * motion.fps))
    video = pipeline(out, ZERO_SHOT)(motion, reference_HW3, prompt=prompt, num_steps=1 if smoke else None)
    frames = video.frames().repeat(_ZOOM, axis=1).repeat(_ZOOM, axis=2)
    with VideoWriter(path, video.fps, frames.shape[2], frames.shape[1], music=music) as writer:
        for picture in frames:
            writer.add(np.ascontiguousarray(picture))
    return path
