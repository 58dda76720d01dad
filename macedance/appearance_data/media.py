"""Clips and pictures as the bytes of mp4 and jpeg files, and back.

Shapes: T frames, H rows, W columns; RGB, uint8.
"""

from __future__ import annotations

import io
from collections.abc import Container, Sequence
from fractions import Fraction

import numpy as np

from macedance.errors import DataError

#: x264's constant rate factor: hardly a loss, because the clips are what a network learns from.
QUALITY = 12
#: Below this many pixels a side, halved colour would be half of the picture.
FULL_COLOUR_BELOW_PX = 256


def encode_mp4(frames_THW3: np.ndarray, fps: float, *, quality: int = QUALITY) -> bytes:
    """An h264 file of a clip; the same clip gives the same bytes.

    Args:
        frames_THW3: uint8, sides even.
        fps: Frames per second.
        quality: x264's constant rate factor.

    Raises:
        DataError: Sides that are odd.
    """
    import av

    height, width = frames_THW3.shape[1:3]
    if height % 2 or width % 2:
        raise DataError(f"a video of {width} x {height} pixels cannot be encoded", expected="even sides")
    stream = io.BytesIO()
    rate = Fraction(fps).limit_denominator(1001)
    with av.open(stream, "w", format="mp4") as container:
        video = container.add_stream("libx264", rate=rate)
        video.width, video.height = width, height
        video.pix_fmt = "yuv444p" if min(height, width) < FULL_COLOUR_BELOW_PX else "yuv420p"
        # One thread, or the bytes depend on the machine's cores. No macroblock tree: in small pictures it reads memory
        # that was never written, and the same clip gives other bytes now and then.
        video.options = {"preset": "veryfast", "crf": str(quality), "threads": "1", "x264-params": "mbtree=0"}
        video.codec_context.time_base = 1 / rate
        for number, picture in enumerate(frames_THW3):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = number, 1 / rate
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    return stream.getvalue()


def decode_mp4(
    data: bytes | memoryview, where: str, wanted: Sequence[int] | None = None, frames: int | None = None
) -> np.ndarray:
    """Some frames (N, H, W, 3) of a video file, in the order in which they are wanted.

    All frames before the last wanted one are decoded: a seek lands where an encoder put its key frames, which is not to
    be trusted.

    Args:
        data: The file.
        where: `shard:key` for messages.
        wanted: Numbers of the frames; None: all of them.
        frames: How many the file must hold, where that is known.

    Raises:
        DataError: No video, cut off, another number of frames than it must hold, or two sizes.
    """
    import av

    needed = None if wanted is None else set(wanted)
    to_rgb = av.video.reformatter.VideoReformatter()
    found: dict[int, np.ndarray] = {}
    count = 0
    try:
        with av.open(io.BytesIO(data), "r") as container:
            if not container.streams.video:
                raise DataError("the file holds no video", where=where)
            video = container.streams.video[0]
            video.codec_context.thread_count = 1
            if frames is not None and video.frames and video.frames != frames:
                raise DataError(
                    f"the video has {video.frames} frames", where=where, expected=f"{frames} as in meta.json"
                )
            for number, frame in enumerate(container.decode(video)):
                count = number + 1
                if needed is None or number in needed:
                    found[number] = to_rgb.reformat(frame, format="rgb24", threads=1).to_ndarray()
                    if needed is not None and len(found) == len(needed):
                        break
    except (av.FFmpegError, OSError, ValueError) as error:
        told = getattr(error, "strerror", None) or str(error)
        raise DataError(f"the video cannot be decoded ({told})", where=where, expected="an mp4 file") from error
    chosen = range(count) if wanted is None else wanted
    if not count or not needed_in(found, chosen):
        raise DataError(
            f"{count} frames of the video can be decoded", where=where, expected=f"{frames or 'one or more'}"
        )
    if len({picture.shape for picture in found.values()}) > 1:
        raise DataError("the video changes its size on the way", where=where, expected="one size throughout")
    return np.stack([found[number] for number in chosen])


def needed_in(found: Container[int], wanted: Sequence[int]) -> bool:
    """Whether every wanted frame was found."""
    return all(number in found for number in wanted)


def encode_jpeg(picture_HW3: np.ndarray, quality: int = 97) -> bytes:
    """A jpeg file of a picture."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(picture_HW3).save(stream, "jpeg", quality=quality, subsampling=0)
    return stream.getvalue()


def decode_jpeg(data: bytes | memoryview, where: str) -> np.ndarray:
    """The picture (H, W, 3) of a jpeg or png file.

    Raises:
        DataError: No picture, or cut off.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data)) as picture:
            return np.asarray(picture.convert("RGB"))
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        told = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"the picture cannot be read ({told})", where=where, expected="a jpeg file") from error
