"""What a video file holds, and whether this machine can write one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from macedance.errors import DataError, DependencyError
from macedance.rendering.video import AAC_ENCODERS, H264_ENCODERS, find_encoder


@dataclass(frozen=True)
class VideoFacts:
    """Facts of a video file, from decoding all of it.

    Attributes:
        num_frames: Pictures that decode.
        fps: Pictures per second as the file states them.
        duration_s: Pictures times their duration.
        width, height: Pixels.
        video_codec, pixel_format: For example ``h264`` and ``yuv420p``.
        audio_codec: For example ``aac``; None without sound.
        audio_duration_s: Length of the sound that a player hears, seconds; None without sound.
        audio_start_s: When the sound starts, seconds; None without sound.
        fast_start: True when the index comes before the pictures, so that a browser plays while it loads.
    """

    num_frames: int
    fps: float
    duration_s: float
    width: int
    height: int
    video_codec: str
    pixel_format: str
    audio_codec: str | None
    audio_duration_s: float | None
    audio_start_s: float | None
    fast_start: bool


def probe_video(path: Path | str) -> VideoFacts:
    """Decode a video and say what is in it.

    Raises:
        DataError: the file is missing, is no video, or cannot be decoded.
    """
    import av

    path = Path(path)
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise DataError("the file holds no video", where=path)
            video = container.streams.video[0]
            count = sum(1 for _ in container.decode(video))
            fps = float(video.average_rate or 0)
            context = video.codec_context
            facts = (count, fps, count / fps if fps else 0.0, context.width, context.height, context.name)
            pixel_format = str(context.pix_fmt)
        codec, length_s, start_s = _sound_facts(path)
    except (av.FFmpegError, OSError) as error:
        raise DataError(f"the video cannot be read ({error})", where=path, expected="an mp4 file") from error
    return VideoFacts(*facts, pixel_format, codec, length_s, start_s, _index_first(path))


def _sound_facts(path: Path) -> tuple[str | None, float | None, float | None]:
    """Codec, seconds heard and time of the first sample.

    The encoder's lead-in before time 0 is not heard, and the last block is padded beyond the end that the file states:
    what is heard is what decodes, up to there.
    """
    import av

    with av.open(str(path)) as container:
        if not container.streams.audio:
            return None, None, None
        stream = container.streams.audio[0]
        ends = [packet.pts + (packet.duration or 0) for packet in container.demux(stream) if packet.pts is not None]
        stated_s = float(max(ends, default=0) * (stream.time_base or 0))
    with av.open(str(path)) as container:
        decoded, rate, first_s = 0, 1, 0.0
        for frame in container.decode(audio=0):
            if decoded == 0 and frame.pts is not None and frame.time_base is not None:
                first_s = float(frame.pts * frame.time_base)
            decoded, rate = decoded + frame.samples, frame.sample_rate
        codec = container.streams.audio[0].codec_context.name
    return codec, min(decoded / rate, stated_s - first_s), first_s


def _index_first(path: Path) -> bool:
    """Whether the mp4's ``moov`` box comes before its ``mdat``."""
    size = path.stat().st_size
    with path.open("rb") as file:
        place = 0
        while place + 8 <= size:
            file.seek(place)
            header = file.read(16)
            length, kind = int.from_bytes(header[:4], "big"), header[4:8]
            if kind in (b"moov", b"mdat"):
                return kind == b"moov"
            if length == 1:
                length = int.from_bytes(header[8:16], "big")
            if length < 8:
                return False
            place += length
    return False


@dataclass(frozen=True)
class CodecReport:
    """Encoders for the videos.

    Attributes:
        h264, aac: Name of the encoder that would be used, or None.
        reason: What is missing and how to mend it; empty when both are there.
    """

    h264: str | None
    aac: str | None
    reason: str

    @property
    def available(self) -> bool:
        """True when videos with sound can be written."""
        return self.h264 is not None and self.aac is not None


def codec_report() -> CodecReport:
    """Look for the encoders that the videos need."""
    found: list[str | None] = []
    reasons: list[str] = []
    for names, what in ((H264_ENCODERS, "h264"), (AAC_ENCODERS, "aac")):
        try:
            found.append(find_encoder(names, what))
        except DependencyError as error:
            found.append(None)
            reasons.append(str(error))
    return CodecReport(found[0], found[1], "; ".join(reasons))
