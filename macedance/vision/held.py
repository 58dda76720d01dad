"""A clip that is drawn as it is looked at, in memory while several look at it.

Shapes: T frames, H rows, W columns.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from macedance.vision.video import Video

#: A clip of more bytes stays one that is drawn, as often as it is looked at: two minutes of 512 x 512 at 24 a second.
MOST_BYTES = 2 * 2**30


def held(video: Video, most_bytes: int = MOST_BYTES) -> Video:
    """The video with its pictures drawn, once; files, clips in memory and long ones are given back as they are.

    Args:
        video: The video.
        most_bytes: The most that its pictures (T, H, W, 3) may take.

    Raises:
        DataError: Whatever the drawing raises.
    """
    if video.drawn is None or video.held is not None:
        return video
    most = most_bytes // (video.height * video.width * 3)
    if (video.num_frames or 0) > most:
        return video
    pictures: list[np.ndarray] = []
    for picture in video.pictures():
        if len(pictures) == most:
            return video
        pictures.append(picture)
    if not pictures:
        return video
    return replace(video, held=np.stack(pictures), drawn=None, num_frames=len(pictures))
