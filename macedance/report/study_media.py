"""Videos, songs and pictures as raters get them: without what files tell of their maker."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from macedance.errors import DataError
from macedance.motion.atomic import write_atomically
from macedance.rendering.files import replacing

#: What browsers play in an mp4.
_PICTURES = ("h264",)
_SOUNDS = ("aac", "mp3")
SONG_SUFFIXES = (".wav", ".mp3", ".m4a", ".flac", ".ogg")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_CONVERT = "ffmpeg -i IN -c:v libx264 -pix_fmt yuv420p -c:a aac OUT.mp4"


@dataclass(frozen=True)
class Format:
    """What a rater may tell a system by: frame rate, size and length of its videos, and whether they have sound."""

    fps: float
    width: int
    height: int
    seconds: float
    sound: bool


def probe_format(path: Path) -> Format:
    """What a video is, and whether browsers play it.

    Raises:
        DataError: It cannot be read, or is encoded in a way that browsers do not play.
    """
    import av

    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise DataError("no video in it", where=path)
            video = container.streams.video[0]
            sound = bool(container.streams.audio)
            codecs: list[tuple[str, tuple[str, ...]]] = [(video.codec_context.name, _PICTURES)]
            codecs += [(stream.codec_context.name, _SOUNDS) for stream in container.streams.audio[:1]]
            for codec, known in codecs:
                if codec not in known:
                    raise DataError(
                        f"browsers do not play {codec}", where=path, expected=" or ".join(known), fix=_CONVERT
                    )
            seconds = container.duration / av.time_base if container.duration else 0.0
            fps = float(video.average_rate or 0)
            return Format(round(fps, 3), video.width, video.height, round(float(seconds), 2), sound)
    except (av.FFmpegError, OSError) as error:
        raise DataError(f"the video cannot be read ({error})", where=path) from error


def copy_video(source: Path, out: Path, *, sound: bool = True) -> None:
    """The same pictures and sound in a new mp4, without title, encoder, dates and other streams.

    Args:
        source: An mp4 or another container of h264.
        out: The file to write.
        sound: Keep the sound.

    Raises:
        DataError: It cannot be read or written.
    """
    import av

    try:
        with (
            replacing(out) as temporary,
            av.open(str(source)) as container,
            av.open(
                str(temporary), "w", format="mp4", options={"movflags": "+faststart", "fflags": "+bitexact"}
            ) as new,
        ):
            kept: list[Any] = [container.streams.video[0], *(container.streams.audio[:1] if sound else ())]
            streams: dict[int, Any] = {stream.index: new.add_stream_from_template(stream) for stream in kept}
            for stream in streams.values():
                stream.metadata.clear()
            for packet in container.demux(kept):
                if packet.dts is not None:
                    packet.stream = streams[packet.stream.index]
                    new.mux(packet)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise DataError(f"the video cannot be copied ({error})", where=source) from error


def copy_image(source: Path, out: Path) -> None:
    """The same picture as a png, without what cameras and programs write into files.

    Raises:
        DataError: It cannot be read or written.
    """
    from io import BytesIO

    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(source) as image:
            pixels = image.convert("RGB")
    except (OSError, UnidentifiedImageError) as error:
        raise DataError(f"the picture cannot be read ({error})", where=source) from error
    plain = Image.frombytes("RGB", pixels.size, pixels.tobytes())
    content = BytesIO()
    plain.save(content, format="PNG")
    write_atomically(out, content.getvalue())


def copy_song(source: Path, out: Path) -> None:
    """A song as it is; both systems share it, so that it tells nothing.

    Raises:
        DataError: It cannot be read or written.
    """
    try:
        with replacing(out) as temporary:
            shutil.copyfile(source, temporary)
    except OSError as error:
        raise DataError(f"the song cannot be copied ({error.strerror or error})", where=source) from error


def by_stem(folder: Path, suffixes: tuple[str, ...], what: str) -> dict[str, Path]:
    """The files of a folder with these endings, by stem.

    Raises:
        DataError: No folder, none of them, or two of one stem.
    """
    if not folder.is_dir():
        raise DataError("no such folder", where=folder, expected=f"a folder of {what}")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes and path.is_file())
    if not paths:
        raise DataError(f"no {what}", where=folder, expected=f"files ending in {' '.join(suffixes)}")
    found: dict[str, Path] = {}
    twins = [path.name for path in paths if found.setdefault(path.stem, path) is not path]
    if twins:
        raise DataError(f"several {what} of one name: {', '.join(twins)}", where=folder, expected="one for each name")
    return found


def fingerprint_file(path: Path) -> str:
    """Sha256 of a file.

    Raises:
        DataError: It cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=path) from error
    return digest.hexdigest()
