"""``macedance generate``: a song in, dances out."""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch.devices import pick_device
from launch.generate_video import VideoMaker, add_video_options, check_video_options
from launch.options import (
    Parser,
    add_json_option,
    check_writable,
    emit_json,
    positive_float,
    positive_int,
    say,
    writable_folder,
)
from macedance.errors import ConfigError, DependencyError

if TYPE_CHECKING:
    from macedance.motion.files import Motion

FORMATS = ("npz", "bvh", "glb", "mp4")
#: Width and height of a mannequin's mp4, pixels.
DEFAULT_SIZE = 640
_EXAMPLES = """\
examples:
  macedance generate --music song.mp3 --model outputs/demo/model --out outputs/dance
  macedance generate --music song.mp3 --model outputs/demo/model --image me.jpg --appearance models/appearance \\
      --out outputs/dance"""


def build_parser() -> argparse.ArgumentParser:
    """The verb's options."""
    parser = Parser(
        prog="macedance generate",
        description="Dance to a song with a trained Motion Expert.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("--music", required=True, metavar="SONG", help="wav, flac, ogg, mp3, m4a, ...")
    parser.add_argument("--model", metavar="DIR|CKPT", help="a model folder or a training checkpoint")
    parser.add_argument("--motion", metavar="FILE", help="instead of --model: dance this motion, npz")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for <song>-<k>.{npz,bvh,glb,mp4}")
    parser.add_argument("--genre", help="one of the model's genres; drawn by the seed and named when left out")
    parser.add_argument(
        "--beta", type=float, help="guidance-free temperature in (0, 1], default the model's own (0.75 in the paper)"
    )
    parser.add_argument("--seconds", type=float, help="dance to the first SECONDS of the song (default: all of it)")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same dance (default 0)")
    parser.add_argument("--sampler", choices=("ddim", "dpmpp"), help="default: the model's own, ddim for most")
    parser.add_argument(
        "--steps", type=int, metavar="N", help="sampling steps (default: the model's own, or ddim 50, dpmpp 20)"
    )
    parser.add_argument("--num-dances", type=int, default=1, metavar="K", help="dances to make (default 1)")
    parser.add_argument("--formats", default="npz,bvh,glb,mp4", help="comma-separated (default npz,bvh,glb,mp4)")
    parser.add_argument("--weights", choices=("auto", "ema", "raw"), default="auto", help="of a checkpoint")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: a GPU where there is one)")
    parser.add_argument("--renderer", choices=("auto", "egl", "software"), help="draws the mp4 (default auto)")
    parser.add_argument("--size", type=int, metavar="PX", help=f"width and height of the mp4 (default {DEFAULT_SIZE})")
    add_video_options(parser)
    add_json_option(parser)
    return parser


def parse_formats(text: str) -> list[str]:
    """The file formats in the user's order, each once."""
    formats = list(dict.fromkeys(f.strip().lower() for f in text.split(",") if f.strip()))
    unknown = [f for f in formats if f not in FORMATS]
    if unknown or not formats:
        raise ConfigError(f"unknown format {', '.join(unknown) or text!r}", expected=f"some of {','.join(FORMATS)}")
    return formats


def file_stem(music: Path) -> str:
    """The song's name as a file name."""
    return re.sub(r"[^\w.-]+", "_", music.stem).strip("._") or "song"


def check_renderer(renderer: str) -> None:
    """Raise DependencyError when the mp4 could not be drawn or written, before any work is done."""
    from macedance.rendering.opengl import gl_report
    from macedance.rendering.probe import codec_report

    codecs = codec_report()
    if not codecs.available:
        raise DependencyError(codecs.reason, fix="leave mp4 out of --formats")
    if renderer == "egl" and not (report := gl_report()).available:
        raise DependencyError(f"OpenGL cannot draw here: {report.reason}", fix="--renderer software")


def write_dance(
    motion: Motion,
    stem: Path,
    formats: Sequence[str],
    *,
    music: Path | None,
    renderer: str = "auto",
    size: int = 640,
    progress: Any = None,
) -> list[Path]:
    """Write one dance in every format; each file appears whole.

    Args:
        motion: The dance.
        stem: Path without extension.
        formats: Some of npz, bvh, glb, mp4.
        music: The song, for the sound of the mp4.
        renderer: ``auto``, ``egl`` or ``software``.
        size: Width and height of the mp4 in pixels.
        progress: Called with (frames drawn, frames in all).
    """
    from macedance.motion.bvh import write_bvh
    from macedance.motion.files import save_motion
    from macedance.motion.glb import write_glb
    from macedance.rendering.video import render_dance

    written = []
    for extension in formats:
        path = stem.with_name(f"{stem.name}.{extension}")
        if extension == "npz":
            save_motion(path, motion)
        elif extension == "bvh":
            write_bvh(path, motion)
        elif extension == "glb":
            write_glb(path, motion)
        else:
            render_dance(
                motion,
                motion.fps,
                path,
                music=music,
                backend=renderer,  # type: ignore[arg-type]
                width=size,
                height=size,
                progress=progress,
            )
        written.append(path)
    return written


def main(arguments: Sequence[str]) -> int:
    """Run the verb."""
    options = build_parser().parse_args(arguments)
    formats = parse_formats(options.formats)
    positive_float("--seconds", options.seconds)
    positive_int("--steps", options.steps)
    positive_int("--num-dances", options.num_dances)
    if options.beta is not None and not 0 < options.beta <= 1:
        raise ConfigError(f"--beta is {options.beta}", expected="a number above 0 and at most 1")
    if options.size is not None and (not 64 <= options.size <= 4096 or options.size % 2):
        raise ConfigError(f"--size is {options.size}", expected="an even number of pixels from 64 to 4096")
    if (options.model is None) == (options.motion is None):
        raise ConfigError("what dances?", expected="either --model DIR or --motion FILE")
    check_video_options(options, formats)
    options.renderer, options.size = options.renderer or "auto", options.size or DEFAULT_SIZE
    result = generate(options, formats)
    if options.json:
        emit_json(options.json, result)
    return 0


def generate(options: argparse.Namespace, formats: Sequence[str]) -> dict[str, Any]:
    """Make the dances and their files; returns what ``--json`` prints."""
    from macedance.report.progress import Progress

    music = Path(options.music)
    check_writable(Path(options.out))
    if "mp4" in formats:
        check_renderer(options.renderer)
    device = pick_device(options.device)
    maker = None if options.image is None else VideoMaker(options, device)
    started = time.perf_counter()
    motions = [read_motion(options, music)] if options.motion is not None else make_dances(options, music, device)
    seconds = time.perf_counter() - started
    # The folder is made only now: a bad song or model leaves nothing behind.
    out = writable_folder(Path(options.out))
    files: list[str] = []
    videos: list[dict[str, Any]] = []
    drawn = [f for f in formats if maker is None or f != "mp4"]
    for k, motion in enumerate(motions):
        stem = out / f"{file_stem(music)}-{k}"
        with Progress(f"drawing dance {k}", motion.num_frames) as bar:
            made = write_dance(
                motion, stem, drawn, music=music, renderer=options.renderer, size=options.size, progress=bar
            )
        if maker is not None:
            with Progress(f"showing dance {k}", 1) as bar:
                more, told = maker.make(motion, stem, k, music, bar)
            made += more
            videos.append(told)
        files += map(str, made)
    for path in files:
        say(path)
    return {
        "files": files,
        "genre": motions[0].genre,
        "seed": options.seed,
        "frames": motions[0].num_frames,
        "fps": motions[0].fps,
        "seconds": motions[0].duration_s,
        "frames_per_second": len(motions) * motions[0].num_frames / seconds,
        **({"videos": videos} if maker is not None else {}),
    }


def make_dances(options: argparse.Namespace, music: Path, device: str) -> list[Motion]:
    """The Motion Expert's dances to the song."""
    from macedance.music.cache import cache_root
    from macedance.pipelines.music_to_motion import MusicToMotion
    from macedance.report.progress import Progress

    pipeline = MusicToMotion.load(options.model, weights=options.weights, device=device)
    choices = {
        "genre": options.genre,
        "beta": options.beta,
        "seed": options.seed,
        "sampler": options.sampler,
        "num_steps": options.steps,
        "num_dances": options.num_dances,
    }
    with Progress("denoising", 1) as bar:
        motions = pipeline(music, seconds=options.seconds, cache_dir=cache_root() / "music", progress=bar, **choices)
    genre = motions[0].genre
    if genre is not None and options.genre is None:
        say(f"genre: {genre} (drawn by seed {options.seed}; name one of {', '.join(pipeline.genres)} with --genre)")
    return motions


def read_motion(options: argparse.Namespace, music: Path) -> Motion:
    """The motion of a file; that it lasts longer or shorter than the song is said.

    Raises:
        ConfigError: An option that only a Motion Expert could follow.
        DataError: No motion, or no sound.
    """
    from macedance.motion.files import load_motion
    from macedance.music.audio import load_audio

    given = [name for name in ("genre", "beta", "seconds", "sampler", "steps") if getattr(options, name) is not None]
    if given or options.num_dances != 1:
        names = ", ".join(f"--{name}" for name in given or ["num-dances"])
        raise ConfigError(f"{names} with --motion: there is nothing to generate", fix="leave it out, or --model DIR")
    motion = load_motion(options.motion)
    song_s = load_audio(music).duration_s
    if abs(song_s - motion.duration_s) > 1 / motion.fps:
        what = "the rest of the song is cut off" if song_s > motion.duration_s else "the end is silent"
        say(f"the motion lasts {motion.duration_s:.2f} s, the song {song_s:.2f} s: {what}")
    return motion
