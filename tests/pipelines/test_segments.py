"""Videos of any length as segments, and their colours."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from macedance.errors import ConfigError, DataError
from macedance.models.appearance_expert.geometry import LatentGeometry
from macedance.pipelines.appearance_colours import ColourKeeper, ColourMap, fit_colours
from macedance.pipelines.appearance_segments import Segment, driving_segments, plan_segments
from macedance.vision.video import Video

WAN = LatentGeometry(16, 8, 4)
TOY = LatentGeometry(8, 4, 1)


@pytest.mark.parametrize("frames", [1, 10, 77, 78, 81, 153, 154, 300])
@pytest.mark.parametrize("known", [0, 1, 5])
def test_every_frame_is_shown_once(frames: int, known: int) -> None:
    segments = plan_segments(frames, 77, known, WAN)
    shown = [frame for s in segments for frame in range(s.start + s.known, s.start + s.known + s.shown)]
    assert shown == list(range(frames))


@given(st.integers(1, 400), st.integers(0, 30), st.integers(0, 40), st.sampled_from([1, 2, 4, 8]))
def test_any_plan(frames: int, latent_frames: int, known: int, temporal: int) -> None:
    geometry = LatentGeometry(4, 8, temporal)
    longest = geometry.frames(latent_frames + 1)
    if known >= longest:
        with pytest.raises(ConfigError, match="known frames"):
            plan_segments(frames, longest, known, geometry)
        return
    segments = plan_segments(frames, longest, known, geometry)
    assert [s.number for s in segments] == list(range(len(segments)))
    assert sum(s.shown for s in segments) == frames
    for before, segment in zip([None, *segments], segments, strict=False):
        assert segment.known == (0 if before is None else known)
        assert segment.frames <= longest
        # No more than the next whole latent frame, and whole latent frames.
        assert 0 <= segment.frames - segment.known - segment.shown < max(temporal, 1)
        assert geometry.frames(geometry.latent_frames(segment.frames)) == segment.frames
        if before is not None:
            assert segment.start + segment.known == before.start + before.known + before.shown
    # What is longer begins with the same segments.
    more = plan_segments(frames + 7, longest, known, geometry)
    assert more[: len(segments) - 1] == segments[:-1]


def test_ten_frames_cost_ten_and_not_seventy_seven() -> None:
    assert plan_segments(10, 77, 1, WAN) == [Segment(0, 0, 13, 0, 10)]
    assert plan_segments(78, 77, 1, WAN) == [Segment(0, 0, 77, 0, 77), Segment(1, 76, 5, 1, 1)]
    assert plan_segments(10, 9, 1, TOY)[1] == Segment(1, 8, 2, 1, 1)


@pytest.mark.parametrize(("frames", "known"), [(76, 1), (77, 77), (77, -1), (0, 0)])
def test_segments_that_cannot_be(frames: int, known: int) -> None:
    with pytest.raises(ConfigError):
        plan_segments(100, frames, known, WAN)


def test_a_video_without_frames_is_refused() -> None:
    with pytest.raises(DataError, match="without frames"):
        plan_segments(0, 77, 1, WAN)


def numbered(frames: int) -> Video:
    pictures = np.zeros((frames, 4, 6, 3), dtype=np.uint8)
    pictures += np.arange(frames, dtype=np.uint8)[:, None, None, None]
    return Video("", 15.0, 6, 4, frames, drawn=lambda: iter(pictures))


@pytest.mark.parametrize(("frames", "known"), [(10, 1), (23, 3), (23, 0), (30, 8)])
def test_driving_frames_of_the_segments(frames: int, known: int) -> None:
    segments = plan_segments(frames, 9, known, LatentGeometry(4, 8, 4))
    for segment, pictures in driving_segments(numbered(frames), segments):
        assert len(pictures) == segment.frames
        expected = np.minimum(
            segment.start + np.arange(segment.frames), segment.start + segment.known + segment.shown - 1
        )
        assert pictures[:, 0, 0, 0].tolist() == expected.tolist()


def test_a_driving_video_that_ends_too_soon_is_named() -> None:
    with pytest.raises(DataError, match="ends after 8 frames"):
        list(driving_segments(numbered(8), plan_segments(12, 9, 1, TOY)))


# ---------------------------------------------------------------- colours
def scene(frames: int = 8, seed: int = 0) -> torch.Tensor:
    """A textured wall before which something moves, (3, T, 32, 32)."""
    generator = torch.Generator().manual_seed(seed)
    wall = torch.rand(3, 8, 8, generator=generator).repeat_interleave(4, 1).repeat_interleave(4, 2) * 1.2 - 0.6
    clip = wall[:, None].repeat(1, frames, 1, 1)
    for frame in range(frames):
        clip[:, frame, 8:24, 2 + frame : 10 + frame] = torch.tensor([0.8, -0.7, 0.1])[:, None, None]
    return clip


def drifted(clip: torch.Tensor, start: float, end: float) -> torch.Tensor:
    share = torch.linspace(start, end, clip.shape[1]).view(1, -1, 1, 1)
    gain, offset = torch.tensor([0.9, 1.0, 1.1]), torch.tensor([0.08, -0.05, 0.03])
    return clip * (1 + share * (gain.view(3, 1, 1, 1) - 1)) + share * offset.view(3, 1, 1, 1)


def test_a_colour_map_is_found_and_undone() -> None:
    clip = scene()
    other = drifted(clip, 1, 1)
    found = fit_colours(other[:, 0], clip[:, 5])  # another pose: the wall tells
    assert found is not None
    assert torch.allclose(found(other), clip, atol=1e-3)
    assert torch.allclose(found.inverse()(found(other)), other, atol=1e-5)
    both = found.then(found.inverse())
    assert torch.allclose(both.gain, torch.ones(3), atol=1e-6)
    assert torch.allclose(both.offset, torch.zeros(3), atol=1e-6)


def test_pictures_of_different_things_tell_nothing() -> None:
    assert fit_colours(scene(seed=0)[:, 0], scene(seed=1)[:, 0]) is None


@pytest.mark.parametrize("known", [0, 1, 2])
def test_colours_that_wander_are_brought_back(known: int) -> None:
    truth = scene(12)
    keeper = ColourKeeper(truth[:, 3])
    assert torch.equal(keeper.corrected(truth[:, :6], None), truth[:, :6])
    given = truth[:, 6 - known : 6] if known else None
    made = drifted(truth[:, 6 - known :], 0.0, 1.0) if known else drifted(truth[:, 6:], 0.8, 1.0)
    better = keeper.corrected(made, given)
    assert better.shape[1] == 6
    before, after = ((clip - truth[:, 6:]).abs().mean() for clip in (made[:, known:], better))
    assert after < 0.25 * before
    assert (better[:, -1] - truth[:, -1]).abs().mean() < 5e-3


def test_a_step_at_the_seam_is_taken_out() -> None:
    truth = scene(12)
    elsewhere = scene(12, seed=5)  # the reference picture shows another room: there is no drift to be measured
    keeper = ColourKeeper(elsewhere[:, 0])
    keeper.corrected(truth[:, :6], None)
    made = drifted(truth[:, 5:], 1.0, 1.0)
    better = keeper.corrected(made, truth[:, 5:6])
    assert (better - truth[:, 6:]).abs().max() < 0.02


def test_what_is_right_stays_right() -> None:
    truth = scene(12)
    keeper = ColourKeeper(truth[:, 0])
    keeper.corrected(truth[:, :6], None)
    assert torch.allclose(keeper.corrected(truth[:, 5:], truth[:, 5:6]), truth[:, 6:], atol=1e-3)


def test_a_plain_wall_has_no_gain() -> None:
    flat = torch.full((3, 8, 8), 0.3)
    found = fit_colours(flat, flat + 0.1)
    assert found is not None
    assert torch.equal(found.gain, torch.ones(3))
    assert torch.allclose(found.offset, torch.full((3,), 0.1))
    assert torch.equal(ColourMap.identity()(flat), flat)
