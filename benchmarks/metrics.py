"""Time of the motion features of 500 clips of 10 s beside a plain Python loop over frames of the same definition.

    python benchmarks/metrics.py [--clips 500] [--seconds 10] [--loop_clips 2] [--json FILE]

Kinetic and geometric features under ``clean``. Ours: the library's, in the blocks in which the metric calls them. The
loop: one frame and joint at a time with numpy vectors of three, as the published scripts are written; it is timed on a
few clips and multiplied, for all of them would take most of an hour. Both run on one thread and must give the same
numbers. Seconds are those of the process's CPU. The whole update of the metric (also feet, jerk and beats) is timed
beside them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d

from macedance.metrics.functional.geometric import HIPS_M, HUMERUS_M, SHOULDERS_M
from macedance.metrics.motion import MotionMetrics, in_blocks
from macedance.metrics.presets import CLEAN
from macedance.motion.files import JointClip, Motion
from macedance.motion.skeleton import JOINT_NAMES

FPS = 30.0
TARGET = 100.0
HALF_WINDOW = 2
INDEX = {name: i for i, name in enumerate(JOINT_NAMES)}


def make_clips(count: int, seconds: float, seed: int = 0) -> list[JointClip]:
    """Standing bodies whose joints wander smoothly."""
    rng = np.random.default_rng(seed)
    rest = Motion(np.zeros((1, 24, 3)), np.array([[0, 1.0, 0]]), FPS).joint_positions()
    frames = round(FPS * seconds)
    clips = []
    for index in range(count):
        wander = gaussian_filter1d(rng.standard_normal((frames, 24, 3)), 4, axis=0)
        path = gaussian_filter1d(rng.standard_normal((frames, 1, 3)), 8, axis=0)
        clips.append(JointClip(rest + 0.25 * wander + 0.8 * path, FPS, name=str(index)))
    return clips


def loop_kinetic(p: np.ndarray, dt: float) -> list[float]:
    frames, joints, _ = p.shape
    features: list[float] = []
    for j in range(joints):
        horizontal = vertical = acceleration = 0.0
        for i in range(1, frames):
            speeds, rates = [], []
            for k in range(i - HALF_WINDOW, i + HALF_WINDOW + 1):
                if k - 1 >= 0 and k < frames:
                    speeds.append((p[k, j] - p[k - 1, j]) / dt)
                if k - 1 >= 0 and k + 1 < frames:
                    rates.append(((p[k + 1, j] - p[k, j]) / dt - (p[k, j] - p[k - 1, j]) / dt) / dt)
            v = np.mean(speeds, axis=0)
            horizontal += v[0] ** 2 + v[2] ** 2
            vertical += v[1] ** 2
            acceleration += np.linalg.norm(np.mean(rates, axis=0)) if rates else 0.0
        features += [horizontal / (frames - 1), vertical / (frames - 1), acceleration / (frames - 1)]
    return features


class LoopFrame:
    """The 32 questions about one frame, asked of points by name."""

    def __init__(self, before: np.ndarray, now: np.ndarray, dt: float) -> None:
        self.before, self.now, self.dt = before, now, dt
        lowest = now[:, 1].min()
        self.fixed = {"zero": (0, 0, 0), "up": (0, 1, 0), "down": (0, -1, 0), "lowest": (0, lowest, 0)}

    def at(self, name: str) -> np.ndarray:
        return np.array(self.fixed[name], dtype=float) if name in self.fixed else self.now[INDEX[name]]

    def velocity(self, name: str) -> np.ndarray:
        return (self.now[INDEX[name]] - self.before[INDEX[name]]) / self.dt

    def move(self, a: str, b: str, c: str, over: float) -> bool:
        return along(self.velocity(c) - self.velocity(a), self.at(b) - self.at(a)) > over

    def normal(self, a: str, b: str, c: str) -> np.ndarray:
        return np.cross(self.at(c) - self.at(a), self.at(b) - self.at(a))

    def nmove(self, a: str, b: str, c: str, d: str, over: float) -> bool:
        return along(self.velocity(d) - self.velocity(a), self.normal(a, b, c)) > over

    def plane(self, a: str, b: str, c: str, d: str, over: float) -> bool:
        return along(self.at(d) - self.at(a), self.normal(a, b, c)) > over

    def nplane(self, a: str, b: str, c: str, d: str, over: float) -> bool:
        return along(self.at(d) - self.at(c), self.at(b) - self.at(a)) > over

    def angle(self, a: str, b: str, c: str, d: str, low: float, high: float) -> bool:
        first, second = self.at(b) - self.at(a), self.at(d) - self.at(c)
        cosine = along(first, second) / max(float(np.linalg.norm(first)), 1e-12)
        return low < np.degrees(np.arccos(np.clip(cosine, -1, 1))) < high

    def fast(self, name: str, over: float) -> bool:
        return bool(np.linalg.norm(self.velocity(name)) > over)

    def answers(self) -> list[bool]:
        h, s, w = HUMERUS_M, SHOULDERS_M, HIPS_M
        return [
            self.nmove("neck", "rhip", "lhip", "rwrist", 1.8 * h),
            self.nmove("neck", "lhip", "rhip", "lwrist", 1.8 * h),
            self.nplane("chest", "neck", "neck", "rwrist", 0.2 * h),
            self.nplane("chest", "neck", "neck", "lwrist", 0.2 * h),
            self.move("belly", "chest", "chest", 1.8 * h),
            self.move("belly", "chest", "chest", 1.8 * h),
            self.angle("relbow", "rshoulder", "relbow", "rwrist", 0, 110),
            self.angle("lelbow", "lshoulder", "lelbow", "lwrist", 0, 110),
            self.nplane("lshoulder", "rshoulder", "lwrist", "rwrist", 2.5 * s),
            self.move("lwrist", "rwrist", "rwrist", 1.4 * h),
            self.move("rwrist", "root", "lwrist", 1.4 * h),
            self.move("lwrist", "root", "rwrist", 1.4 * h),
            self.fast("rwrist", 2.5 * h),
            self.fast("lwrist", 2.5 * h),
            self.plane("root", "lhip", "ltoes", "rankle", 0.38 * h),
            self.plane("root", "rhip", "rtoes", "lankle", 0.38 * h),
            self.nplane("zero", "up", "lowest", "rankle", 1.2 * h),
            self.nplane("zero", "up", "lowest", "lankle", 1.2 * h),
            self.nplane("lhip", "rhip", "lankle", "rankle", 2.1 * w),
            self.angle("rknee", "rhip", "rknee", "rankle", 0, 110),
            self.angle("lknee", "lhip", "lknee", "lankle", 0, 110),
            self.fast("rankle", 2.5 * h),
            self.fast("lankle", 2.5 * h),
            self.angle("neck", "root", "rshoulder", "relbow", 25, 180),
            self.angle("neck", "root", "lshoulder", "lelbow", 25, 180),
            self.angle("neck", "root", "rhip", "rknee", 50, 180),
            self.angle("neck", "root", "lhip", "lknee", 50, 180),
            self.plane("rankle", "neck", "lankle", "root", 0.5 * h),
            self.angle("neck", "root", "zero", "up", 70, 110),
            self.nplane("zero", "down", "lowest", "rwrist", -1.2 * h),
            self.nplane("zero", "down", "lowest", "lwrist", -1.2 * h),
            self.fast("root", 2.3 * h),
        ]


def along(vector: np.ndarray, direction: np.ndarray) -> float:
    return float(vector @ direction) / max(float(np.linalg.norm(direction)), 1e-12)


def loop_features(clip: JointClip) -> np.ndarray:
    """The 104 kinetic and geometric features of ``clean``, a frame at a time."""
    p = clip.joints.astype(np.float64)
    p = p - p[0, 0]
    dt = 1.0 / clip.fps
    shares = np.zeros(32)
    for t in range(1, len(p)):
        shares += LoopFrame(p[t - 1], p[t], dt).answers()
    return np.array([*loop_kinetic(p, dt), *(shares / (len(p) - 1))])


def our_features(clips: list[JointClip]) -> np.ndarray:
    blocks = []
    for members in in_blocks(clips, len(clips[0].joints)):
        joints = torch.from_numpy(np.stack([clip.joints for clip in members])).double()
        blocks.append(torch.cat([CLEAN.kinetic(joints, FPS), CLEAN.geometric(joints, FPS)], dim=1))
    return torch.cat(blocks).numpy()


def measure(num_clips: int, seconds: float, loop_clips: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    clips = make_clips(num_clips, seconds)
    our_features(clips[: min(4, num_clips)])
    started = time.process_time()
    found = our_features(clips)
    ours_s = time.process_time() - started
    started = time.process_time()
    MotionMetrics(CLEAN, sync_on_compute=False).update(clips)
    update_s = time.process_time() - started
    started = time.process_time()
    loop = np.stack([loop_features(clip) for clip in clips[:loop_clips]])
    loop_s = (time.process_time() - started) * num_clips / loop_clips
    difference = float((np.abs(found[:loop_clips] - loop) / (np.abs(loop) + 1e-9)).max())
    return {
        "clips": num_clips, "seconds_per_clip": seconds, "ours_s": ours_s, "loop_s": loop_s,
        "loop_clips_timed": loop_clips, "times_faster": loop_s / ours_s, "target": TARGET,
        "largest_relative_difference": difference, "whole_update_s": update_s,
        "times_faster_whole_update": loop_s / update_s,
    }  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--loop_clips", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    result = measure(options.clips, options.seconds, min(options.loop_clips, options.clips))
    text = json.dumps(result, indent=2)
    if options.json:
        options.json.write_text(text + "\n")
    print(text)
    met = result["times_faster"] >= TARGET and result["largest_relative_difference"] < 1e-6
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
