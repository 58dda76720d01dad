"""Videos of dances: h264 and aac in an mp4 that browsers play, written frame by frame.

Shapes: T frames, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from macedance.errors import DataError, DependencyError
from macedance.rendering.body import Body
from macedance.rendering.files import replacing
from macedance.rendering.frames import check_picture_size, dance_frames
from macedance.rendering.rasteriser import Backend
from macedance.rendering.scene import Stage
from macedance.rendering.sound import SAMPLE_RATE, Music, SoundTrack

if TYPE_CHECKING:
    from macedance.motion.files import Motion

#: Encoders that make h264, best first.
H264_ENCODERS: tuple[str, ...] = ("libx264", "libopenh264", "h264_videotoolbox", "h264_mf")
AAC_ENCODERS: tuple[str, ...] = ("aac", "libfdk_aac", "aac_at")
_CODEC_FIX = "pip install --upgrade --force-reinstall av (its wheels bring both encoders)"
_MAX_FPS = 240.0
#: Below this area nobody minds a larger file.
_SMALL_PX = 256 * 256


def find_encoder(names: tuple[str, ...], what: str) -> str:
    """The first encoder of ``names`` that this PyAV has.

    Raises:
        DependencyError: PyAV is missing or has none of them.
    """
    try:
        import av
    except ImportError as error:
        raise DependencyError(f"videos need PyAV: {error}", fix="pip install av") from error
    for name in names:
        try:
            av.Codec(name, "w")
        except ValueError:  # av's UnknownCodecError
            continue
        return name
    raise DependencyError(f"this PyAV has no {what} encoder", expected=" or ".join(names), fix=_CODEC_FIX)


class VideoWriter:
    """An mp4 that takes one picture after the other; a context manager.

    The file appears under its name only when the block ends without an error. Sound, if any, is cut or padded with
    silence to exactly the length of the pictures.

    Args:
        out: The file to write, ``.mp4``.
        fps: Pictures per second, above 0.
        width: Width in pixels, even. ``height`` likewise.
        height: Height in pixels.
        music: Sound track, or None for a silent video without one.
        music_start_s: Where in the music the video starts, seconds.
        quality: x264's constant rate factor: 18 is nearly lossless, 28 is small.
        repeatable: Equal pictures give an equal file in every run, for measurements; files are two thirds larger. Small
            pictures always do.

    Raises:
        ConfigError: a size that cannot be encoded.
        DataError: fps out of range, music that cannot be read, a folder that cannot be written.
        DependencyError: PyAV without h264 or aac.
    """

    def __init__(
        self,
        out: Path | str,
        fps: float,
        width: int,
        height: int,
        *,
        music: Music | None = None,
        music_start_s: float = 0.0,
        quality: int = 21,
        repeatable: bool = False,
    ) -> None:
        check_picture_size(width, height)
        if not 0 < fps <= _MAX_FPS:
            raise DataError(f"a video of {fps} frames per second cannot be written", expected=f"0 to {_MAX_FPS:g}")
        self._out = Path(out)
        self._rate = Fraction(fps).limit_denominator(1001)
        self._size = (width, height)
        self._quality = quality
        self._repeatable = repeatable or width * height < _SMALL_PX
        self._video_codec = find_encoder(H264_ENCODERS, "h264")
        self._sound = None if music is None else SoundTrack(music, music_start_s)
        self._audio_codec = "" if music is None else find_encoder(AAC_ENCODERS, "aac")
        self.num_frames = 0
        self._num_samples = 0

    def __enter__(self) -> VideoWriter:
        import av

        self._replacing = replacing(self._out)
        temporary = self._replacing.__enter__()
        try:
            self._container = av.open(str(temporary), "w", format="mp4", options={"movflags": "+faststart"})
            self._open_streams()
        except BaseException as error:
            self._replacing.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def _open_streams(self) -> None:
        # PyAV's stubs do not know the streams of a codec that is named at run time.
        video: Any = self._container.add_stream(self._video_codec, rate=self._rate)
        video.width, video.height = self._size
        video.pix_fmt = "yuv420p"
        if self._video_codec == "libx264":
            video.options = {"preset": "veryfast", "crf": str(self._quality)}
            if self._repeatable:
                # Its vectorised macroblock tree reads past the end of a row of some widths: what lies there decides.
                video.options |= {"mbtree": "0"}
        video.codec_context.time_base = 1 / self._rate
        video.codec_context.gop_size = max(1, round(2 * self._rate))
        self._video = video
        self._audio: Any = None
        if self._sound is not None:
            self._audio = self._container.add_stream(self._audio_codec, rate=SAMPLE_RATE, layout="stereo")
            self._audio.bit_rate = 160_000

    def add(self, frame_HWC: np.ndarray) -> None:
        """Append one (H, W, 3) uint8 picture, and the sound that belongs to it.

        Raises:
            DataError: a picture of another size.
        """
        import av

        if frame_HWC.shape != (self._size[1], self._size[0], 3):
            raise DataError(f"a picture of shape {frame_HWC.shape} does not fit the video", where=self._out)
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame_HWC), format="rgb24")
        frame.pts, frame.time_base = self.num_frames, 1 / self._rate
        self.num_frames += 1
        self._container.mux(self._video.encode(frame))
        self._add_sound(last=False)

    def _add_sound(self, *, last: bool) -> None:
        """Encode the sound up to the end of the pictures, in the encoder's block size; the rest with the last one."""
        if self._sound is None:
            return
        import av

        block = self._audio.codec_context.frame_size or 1024
        due = round(self.num_frames * SAMPLE_RATE / self._rate)
        while self._num_samples < due:
            count = min(block, due - self._num_samples)
            if count < block and not last:
                return
            samples_2N = np.ascontiguousarray(np.clip(self._sound.read(count), -1.0, 1.0))
            frame = av.AudioFrame.from_ndarray(samples_2N, format="fltp", layout="stereo")
            frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, self._num_samples, Fraction(1, SAMPLE_RATE)
            self._num_samples += count
            self._container.mux(self._audio.encode(frame))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        except BaseException as failure:
            kind, error, trace = type(failure), failure, failure.__traceback__
            raise
        finally:
            self._close(kind, error, trace)

    def _close(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import av

        try:
            self._container.close()
        except av.FFmpegError as failure:
            # After an earlier error the container may be unable to end its file, which nobody will see anyway.
            if kind is None:
                kind, error, trace = type(failure), failure, failure.__traceback__
        finally:
            self._replacing.__exit__(kind, error, trace)
        if isinstance(error, av.FFmpegError):
            raise DataError(f"the video cannot be written ({error})", where=self._out) from error

    def _finish(self) -> None:
        if self.num_frames == 0:
            raise DataError("a video without frames cannot be written", where=self._out)
        self._add_sound(last=True)
        self._container.mux(self._video.encode(None))
        if self._audio is not None:
            self._container.mux(self._audio.encode(None))


def render_dance(
    dance: Motion | np.ndarray,
    fps: float,
    out: Path | str,
    *,
    music: Music | None = None,
    music_start_s: float = 0.0,
    width: int = 640,
    height: int = 640,
    backend: Backend = "auto",
    progress: Callable[[int, int], None] | None = None,
    body: Body | None = None,
    stage: Stage | None = None,
    samples: int = 2,
) -> Path:
    """Draw a dance into an mp4 (h264, and aac when there is music) with exactly one picture a motion frame.

    Args:
        dance: A Motion, or joints (T, 24, 3), metres, y-up, floor at 0.
        fps: Frames per second of the dance and of the video.
        out: The mp4 to write; it appears when it is complete.
        music: A sound file or sound in memory; cut or padded with silence to the length of the dance.
        music_start_s: The second of the music at which the dance starts.
        width: Picture width in pixels, even. ``height`` likewise.
        height: Picture height in pixels.
        backend: ``egl``, ``software``, or ``auto``: the first that works.
        progress: Called with (frames done, frames in all) after each frame.
        body: What dances; by default the mannequin in the outfit of the motion's genre.
        stage: Floor, background and light.
        samples: Samples along each side of a pixel.

    Returns:
        The path of the video.

    Raises:
        DataError: no frames, joints that are not finite, unreadable music, an unwritable folder.
        ConfigError: a size that cannot be encoded, an unknown backend.
        DependencyError: missing codecs, or ``egl`` where there is none.
    """
    writer = VideoWriter(out, fps, width, height, music=music, music_start_s=music_start_s)
    count = len(dance) if isinstance(dance, np.ndarray) else dance.num_frames
    frames = dance_frames(
        dance, fps, width=width, height=height, backend=backend, body=body, stage=stage, samples=samples
    )
    with closing(frames), writer:
        for done, frame in enumerate(frames, start=1):
            writer.add(frame)
            if progress is not None:
                progress(done, count)
    return Path(out)
