"""``macedance data encode``: a corpus of videos as latents, once instead of in every epoch."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from launch.options import add_json_option, emit_json, say
from macedance.errors import ConfigError

_HELP = """\
Autoencoder, text and image encoder come from MODEL in diffusers' layout: an Appearance Expert's folder, a pretrained
pipeline, or a folder with vae/ alone. Frames and known frames stand in its config.json, or are given here.
A run that was stopped goes on where it stopped: a shard is whole or not there. Several machines share the work with
--part; the last one to end writes the manifest.

example:
  macedance data encode --shards data/toy --model outputs/vae --text-dim 16 --frames 9 --out data/toy-latents
  macedance data encode --shards CORPUS --model Wan-AI/Wan2.2-Animate-14B-Diffusers --out DIR \\
    --size 832x480 480x832 --frames 77 --device cuda --part $((SLURM_ARRAY_TASK_ID + 1))/64"""


def add_parser(kinds: Any) -> None:
    """The options of the kind."""
    parser = kinds.add_parser(
        "encode",
        help="clips of dancers as latents, for the Appearance Expert",
        epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--shards", required=True, metavar="DIR|URL", help="the corpus of videos; all of its splits")
    parser.add_argument("--model", required=True, metavar="DIR|ID", help="the frozen encoders")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to make, or to go on with")
    parser.add_argument("--frames", type=int, metavar="N", help="of a window (the model's)")
    parser.add_argument("--known-frames", type=int, metavar="N", help="shown at a window's start (the model's, or 1)")
    parser.add_argument("--size", nargs="+", default=[], metavar="WxH", help="buckets (the clips' own sizes)")
    parser.add_argument("--precision", default="bfloat16", metavar="P", help="bfloat16 or float32 (bfloat16)")
    parser.add_argument(
        "--compute-dtype",
        choices=("float32", "bfloat16"),
        metavar="D",
        help="float32 or bfloat16, in which the encoders compute (float32; on a GPU text and image encoder bfloat16)",
    )
    parser.add_argument(
        "--windows",
        default="all-covering",
        metavar="N",
        help="windows of a clip at most, evenly spread, or all-covering: as few as cover it (all-covering)",
    )
    parser.add_argument(
        "--max-upscale",
        type=float,
        default=1.15,
        metavar="X",
        help="clips to be enlarged by more for every --size are left out (1.15)",
    )
    parser.add_argument("--max-references", type=int, metavar="N", help="references of a window (all)")
    parser.add_argument("--max-faulty", type=int, default=16, metavar="N", help="clips that may be unreadable (16)")
    parser.add_argument(
        "--text-dim", type=int, metavar="N", help="width of the weightless text encoder, where MODEL has none"
    )
    parser.add_argument("--text-tokens", type=int, default=16, metavar="N", help="its tokens (16)")
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="windows that are encoded together (1)")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1... (auto: cuda where there is one)")
    parser.add_argument("--part", default="1/1", metavar="I/N", help="share of the shards, from 1/N to N/N (1/1)")
    add_json_option(parser)


def run(options: argparse.Namespace) -> int:
    """Encode the corpus."""
    part, buckets = _part(options.part), tuple(_size(text) for text in options.size)
    import torch

    from datamodules.appearance_encoding import EncodeSettings, encode_corpus
    from macedance.appearance_data.windows import Bucket
    from macedance.models.appearance_expert.encoders import AppearanceEncoders, model_folder
    from macedance.pipelines.appearance_folder import is_model_folder, read_config
    from macedance.report.progress import Progress

    folder = model_folder(options.model)
    config = read_config(folder) if is_model_folder(folder) else None
    frames = options.frames or (None if config is None else config.frames)
    if frames is None:
        raise ConfigError("--frames is not given and the model does not say it", expected="the frames of a window")
    known = options.known_frames
    if known is None:
        known = 1 if config is None else config.known_frames
    settings = EncodeSettings(
        frames=frames,
        known_frames=known,
        buckets=tuple(Bucket(height, width) for width, height in buckets),
        precision=options.precision,
        batch=options.batch,
        max_references=options.max_references,
        max_faulty=options.max_faulty,
        part=part,
        windows=_windows(options.windows),
        max_upscale=options.max_upscale,
    )
    device = _device(options.device, torch)
    # Text and image encoders are far larger than the autoencoder, which Wan keeps in float32; so do generated videos.
    encoders = AppearanceEncoders.from_folder(
        folder,
        text_dim=options.text_dim,
        text_tokens=options.text_tokens,
        precision=options.compute_dtype or ("float32" if device.type == "cpu" else "bfloat16"),
        vae_precision=options.compute_dtype or "float32",
    )
    encoders.to(device)
    with Progress("clips encoded", 1) as bar:
        report = encode_corpus(options.shards, Path(options.out), encoders, settings, bar)
    _tell(report, options)
    if options.json:
        emit_json(
            options.json,
            {
                "corpus": str(options.out),
                "shards": report.shards,
                "done_before": report.done_before,
                "samples": report.samples,
                "left_out": report.left_out,
                "missing": report.missing,
                "encoded": report.info.to_dict(),
                "pose_parts": report.pose_parts,
            },
        )
    return 0


def _tell(report: Any, options: argparse.Namespace) -> None:
    from macedance.rendering.pose_parts import lacking_said

    before = f", {report.done_before} of them before" if report.done_before else ""
    say(f"encoded {report.samples} windows of {report.shards} shards{before}: {options.out}")
    if lacking := lacking_said(report.pose_parts):
        say(lacking)
    for key, why in list(report.left_out.items())[:20]:
        say(f"left out {key}: {why}")
    if len(report.left_out) > 20:
        say(f"left out {len(report.left_out) - 20} more clips; all stand in {options.out}/.encoding")
    if report.missing:
        say(f"{report.missing} shards of the corpus are still missing: run the other parts, or this one again")


def _part(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise ConfigError(f"--part is {text!r}", expected="I/N with I from 1 to N, for example 3/8")
    return int(match[1]) - 1, int(match[2])


def _windows(text: str) -> int | None:
    """A number of windows; None: all-covering."""
    if text == "all-covering":
        return None
    try:
        return int(text)
    except ValueError as error:
        raise ConfigError(f"--windows is {text!r}", expected="a number, or all-covering") from error


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    if match is None:
        raise ConfigError(f"--size is {text!r}", expected="WIDTHxHEIGHT, for example 832x480")
    return int(match[1]), int(match[2])


def _device(name: str, torch: Any) -> Any:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"--device is {name!r}", expected="cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device is cuda and there is no GPU here", fix="--device cpu")
    return device
