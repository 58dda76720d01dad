"""The demo's numbers: dances to the test songs, judged beside references, a still pose and an untrained network."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.motion import Clip
from launch.demos.bounds import Bound, Numbers
from macedance.metrics.motion import check_plausibility, evaluate_clips
from macedance.motion.files import JointClip, Motion, save_motion
from macedance.pipelines.music_to_motion import MusicToMotion
from macedance.report.progress import Progress

BOUNDS: tuple[Bound, ...] = (
    Bound("bas_reference", "at least 0.7", lambda v: 0.7, True),
    Bound(
        "bas_reference - bas_reference_shuffled", "at least 0.15", lambda v: 0.15, True,
        lambda v: v["bas_reference"] - v["bas_reference_shuffled"],
    ),
    Bound(
        "bas - bas_shuffled", "at least 0.6 of the reference's",
        lambda v: 0.6 * (v["bas_reference"] - v["bas_reference_shuffled"]), True,
        lambda v: v["bas"] - v["bas_shuffled"],
    ),
    Bound("fid_k", "at most 0.25 fid_k_untrained", lambda v: 0.25 * v["fid_k_untrained"], False),
    Bound("fid_k", "at most 0.1 fid_k_still", lambda v: 0.1 * v["fid_k_still"], False),
    Bound("jerk", "at most 2 jerk_reference", lambda v: 2 * v["jerk_reference"], False),
    Bound(
        "foot_skating", "at most the larger of 2 x the reference's and the reference's + 0.05",
        lambda v: max(2 * v["foot_skating_reference"], v["foot_skating_reference"] + 0.05), False,
    ),
    Bound("bone_length_variation", "at most 0.001", lambda v: 0.001, False),
    Bound("floor_penetration_m", "at most 0.03 m", lambda v: 0.03, False),
    Bound("max_root_speed_m_s", "at most 2 x the reference's", lambda v: 2 * v["max_root_speed_m_s_reference"], False),
)  # fmt: skip


def dance_to(
    pipeline: MusicToMotion, clips: Sequence[Clip], what: str, *, seed: int, num_steps: int | None
) -> tuple[list[Motion], float]:
    """A dance for each clip's music in its genre, as the model samples by default, and frames made per second."""
    started = time.perf_counter()
    with Progress(what, 1) as bar:
        motions = pipeline.generate_batch(
            [clip.music for clip in clips],
            genres=[clip.genre for clip in clips],
            seed=seed,
            num_steps=num_steps,
            music_beats_s=[clip.beats_s for clip in clips],
            songs=[clip.song for clip in clips],
            progress=bar,
        )
    return motions, sum(m.num_frames for m in motions) / (time.perf_counter() - started)


def as_clips(motions: Sequence[Motion], clips: Sequence[Clip]) -> list[JointClip]:
    """Dances as the metrics read them, named after the clips that they belong to."""
    return [JointClip.from_motion(replace(m, song=c.song), c.key) for m, c in zip(motions, clips, strict=True)]


def choose_beta(
    pipeline: MusicToMotion, clips: Sequence[Clip], candidates: Sequence[float], *, seed: int, num_steps: int | None
) -> float:
    """The temperature whose dances to validation clips are nearest to them by fid_k: how timid a short run comes out
    differs from run to run."""
    reference = as_clips([clip.motion for clip in clips], clips)
    found: dict[float, float] = {}
    for beta in candidates:
        with Progress(f"validation, beta {beta}", 1) as bar:
            motions = pipeline.generate_batch(
                [clip.music for clip in clips],
                genres=[clip.genre for clip in clips],
                beta=beta,
                seed=seed,
                num_steps=num_steps,
                progress=bar,
            )
        found[beta] = evaluate_clips(as_clips(motions, clips), reference, allow_small_n=True)["fid_k"]["value"]
    return min(found, key=lambda beta: found[beta])


def held_still(reference: Sequence[JointClip]) -> list[JointClip]:
    """As many clips of the reference's mean pose, which never moves."""
    rooted = [clip.joints - clip.joints[:1, :1] for clip in reference]
    pose = np.mean([joints.mean(0) for joints in rooted], axis=0, dtype=np.float64).astype(np.float32)
    return [replace(clip, joints=np.broadcast_to(pose, clip.joints.shape).copy()) for clip in reference]


def drawn_others(clips: Sequence[Clip], count: int, seed: int) -> list[JointClip]:
    """``count`` of the clips, drawn without repetition by the seed."""
    chosen = np.random.default_rng(seed).choice(len(clips), size=min(count, len(clips)), replace=False)
    picked = [clips[int(i)] for i in sorted(chosen)]
    return as_clips([clip.motion for clip in picked], picked)


def write_dances(folder: Path, motions: Sequence[Motion], clips: Sequence[Clip]) -> None:
    """One npz a clip, with its beats."""
    folder.mkdir(parents=True, exist_ok=True)
    for motion, clip in zip(motions, clips, strict=True):
        save_motion(folder / f"{clip.key}.npz", replace(motion, song=clip.song, music_beats_s=clip.beats_s))


def judge(
    trained: Sequence[JointClip],
    untrained: Sequence[JointClip],
    reference: Sequence[JointClip],
    others: Sequence[JointClip],
    *,
    allow_small_n: bool,
) -> Numbers:
    """The numbers of ``metrics.json``, each ``{"value", "n"}``, and their reasons where there is none."""
    ours = evaluate_clips(trained, reference, allow_small_n=allow_small_n)

    def fid(clips: Sequence[JointClip]) -> dict[str, Any]:
        return evaluate_clips(clips, reference, allow_small_n=allow_small_n)["fid_k"]

    names = {
        "bas": "bas",
        "bas_shuffled": "bas_shuffled",
        "bas_reference": "bas_reference",
        "bas_reference_shuffled": "bas_shuffled_reference",
        "fid_k": "fid_k",
        "foot_skating": "foot_skating",
        "foot_skating_reference": "foot_skating_reference",
        "jerk": "jerk",
        "jerk_reference": "jerk_reference",
        "fid_g": "fid_g",
        "div_k": "div_k",
        "div_k_reference": "div_k_reference",
        "div_g": "div_g",
        "div_g_reference": "div_g_reference",
    }
    numbers = {ours_name: dict(ours[name]) for ours_name, name in names.items() if name in ours}
    for suffix, judged in (("", trained), ("_reference", reference)):
        numbers |= {f"{name}{suffix}": dict(entry) for name, entry in check_plausibility(judged).items()}
    numbers["fid_k_untrained"] = dict(fid(untrained))
    numbers["fid_k_still"] = dict(fid(held_still(reference)))
    numbers["fid_k_floor"] = dict(fid(others))
    return numbers
