"""The demo's numbers say of how many clips they are."""

from __future__ import annotations

import numpy as np
import pytest

from datamodules.appearance import AppearanceClip
from launch.demos.appearance_evaluation import compare
from macedance.appearance_data.samples import ClipFacts
from macedance.appearance_data.windows import Window
from macedance.errors import DataError


def clip(key: str, person: bool | None) -> AppearanceClip:
    """A grey clip that shows a person, nobody, or (None) does not say."""
    pictures = np.full((3, 16, 16, 3), 100, dtype=np.uint8)
    mask = None if person is None else np.full((3, 16, 16), person)
    return AppearanceClip(key, ClipFacts(10.0, 3, 16, 16), Window(pictures, pictures, pictures[0], mask, 0), None)


def test_a_clip_without_a_person_counts_for_the_whole_frame_alone() -> None:
    clips = [clip("a", True), clip("b", False), clip("c", True)]
    videos = [clips[0].window.video_THW3 + np.uint8(off) for off in (5, 50, 5)]
    entries = compare(videos, clips).entries("_x")
    assert (entries["psnr_mask_x"]["n"], entries["psnr_x"]["n"]) == (2, 3)
    assert entries["psnr_mask_x"]["value"] == pytest.approx(20 * np.log10(255 / 5), abs=1e-3)
    assert entries["psnr_x"]["value"] < entries["psnr_mask_x"]["value"] - 5


def test_clips_that_cannot_be_judged_are_refused_by_name() -> None:
    def judge(*clips: AppearanceClip) -> None:
        compare([one.window.video_THW3 for one in clips], clips)

    with pytest.raises(DataError, match="no mask of the person: b, d"):
        judge(clip("a", True), clip("b", None), clip("c", True), clip("d", None))
    with pytest.raises(DataError, match="none of 2 clips shows a person"):
        judge(clip("a", False), clip("b", False))
