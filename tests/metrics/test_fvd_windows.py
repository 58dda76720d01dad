"""Windows of videos: where they lie, that nobody's rank or portions matter, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from macedance.errors import ConfigError, DataError
from macedance.metrics.animation.windows import WindowCollector, WindowSampling, frame_count
from macedance.vision.video import Video


@settings(max_examples=60, deadline=None)
@given(
    num_frames=st.integers(1, 200),
    fps=st.sampled_from([16.0, 23.976, 25.0, 29.97, 30.0, 60.0]),
    per_clip=st.integers(1, 6),
    clip=st.integers(0, 2**40),
    native=st.booleans(),
)
def test_windows_lie_inside_the_clip_at_their_frame_rate(
    num_frames: int, fps: float, per_clip: int, clip: int, native: bool
) -> None:
    sampling = WindowSampling(fps=None if native else 16.0, per_clip=per_clip)
    windows = sampling.frames_of(num_frames, fps, clip)
    possible = max(0, num_frames - sampling.span(fps) + 1)
    assert windows.shape == (min(per_clip, possible), 16)
    if len(windows):
        assert windows.min() >= 0
        assert windows.max() < num_frames
        assert (np.diff(windows[:, 0]) > 0).all()
        at_s = (windows - windows[:, :1]) / fps
        wanted_s = np.arange(16) / (fps if native else 16.0)
        assert np.abs(at_s - wanted_s).max() <= 0.5 / fps + 1e-9


def test_windows_depend_on_seed_and_clip_alone() -> None:
    sampling = WindowSampling(per_clip=3)
    first = sampling.frames_of(300, 30.0, 7)
    assert np.array_equal(first, WindowSampling(per_clip=3).frames_of(300, 30.0, 7))
    assert not np.array_equal(first, sampling.frames_of(300, 30.0, 8))
    assert not np.array_equal(first, WindowSampling(per_clip=3, seed=1).frames_of(300, 30.0, 7))


def test_every_place_is_drawn() -> None:
    sampling = WindowSampling(frames=4, fps=None, per_clip=2)
    starts = np.array([sampling.frames_of(10, 30.0, clip)[:, 0] for clip in range(200)])
    assert set(starts[:, 0]) == {0, 1, 2}
    assert set(starts[:, 1]) == {3, 4, 5, 6}


@pytest.mark.parametrize("portion", [1, 3, 7, 50])
def test_windows_are_the_same_in_any_portions(portion: int) -> None:
    frames = torch.randint(0, 256, (50, 3, 2, 2), dtype=torch.uint8)
    wanted = WindowSampling(per_clip=4).frames_of(50, 30.0, 1)
    collector = WindowCollector(wanted)
    for part in frames.split(portion):
        collector.add(part)
    found = torch.stack(list(collector.windows()))
    assert torch.equal(found, frames[torch.from_numpy(wanted)])


def test_a_video_that_ends_early_is_said() -> None:
    collector = WindowCollector(np.arange(16)[None])
    collector.add(torch.zeros(15, 3, 2, 2, dtype=torch.uint8))
    with pytest.raises(DataError, match="after 15 frames"):
        list(collector.windows())


def test_too_low_a_frame_rate_is_refused_and_a_rounded_one_is_not() -> None:
    with pytest.raises(DataError, match="windows have 16"):
        WindowSampling().frames_of(100, 15.0, 0)
    assert WindowSampling().offsets(15.995).tolist() == list(range(16))
    assert WindowSampling(fps=None).offsets(8.0).tolist() == list(range(16))


@pytest.mark.parametrize("options", [{"frames": 0}, {"per_clip": 0}, {"fps": 0.0}, {"fps": float("inf")}])
def test_impossible_windows(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        WindowSampling(**options)  # type: ignore[arg-type]


def test_frames_are_counted_where_the_file_does_not_say() -> None:
    held = np.zeros((40, 4, 4, 3), dtype=np.uint8)
    video = Video("clip", 30.0, 4, 4, None, None, held)
    assert frame_count(video) == 40
