from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from macedance.vision.held import held
from macedance.vision.video import Video


@pytest.mark.parametrize("says", [True, False])
def test_what_is_drawn_is_drawn_once_unless_it_is_too_large(says: bool) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (5, 8, 6, 3)).astype(np.uint8)
    times = []

    def draw() -> Iterator[np.ndarray]:
        times.append(1)
        yield from frames

    video = Video("a", 30.0, 6, 8, 5 if says else None, drawn=draw)
    one = held(video, frames.nbytes)
    np.testing.assert_array_equal(one.frames(), frames)
    np.testing.assert_array_equal(np.concatenate(list(one.chunks(2))), frames)
    assert (one.name, one.fps, one.num_frames, one.drawn, len(times)) == ("a", 30.0, 5, None, 1)
    large = held(video, frames.nbytes - 1)
    assert large is video
    np.testing.assert_array_equal(large.frames(), frames)
    assert held(one) is one
    nothing = Video("b", 30.0, 6, 8, drawn=lambda: iter(()))
    assert held(nothing) is nothing
