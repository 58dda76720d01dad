"""``macedance demo appearance``: the Appearance Expert's whole job at toy size, from nothing to a video."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launch.options import Parser, add_json_option, check_writable, emit_json

#: What the demo makes in its folder, and replaces when it is run again.
PARTS = ("corpora", "encoders", "runs", "models", "eval", "videos", "metrics.json", "index.html")
_EPILOG = """\
Made by code: people of many builds and clothes who dance before textured rooms, twice, in two styles of filming. Then
an autoencoder, the Appearance Expert from nothing on the first corpus, the two stages of fine-tuning on the second.
metrics.json holds the numbers, index.html shows them with the videos. About twenty minutes on two cores.

example:
  macedance demo appearance --out outputs/demo-appearance"""


def build_parser() -> argparse.ArgumentParser:
    """The options of the demo."""
    parser = Parser(
        prog="macedance demo appearance",
        description="Make two corpora, train a small Appearance Expert in all of its stages, and judge its videos.",
        epilog=_EPILOG,
    )
    parser.add_argument(
        "--out",
        default="outputs/demo-appearance",
        metavar="DIR",
        help="default outputs/demo-appearance; its parts are replaced",
    )
    parser.add_argument("--smoke", action="store_true", help="every part in two steps on a few clips: does it run?")
    parser.add_argument("--seed", type=int, default=0, help="of corpora and trainings (default 0)")
    parser.add_argument(
        "--workers", type=int, default=2, metavar="N", help="processes that draw and encode the corpora (2)"
    )
    add_json_option(parser)
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run the demo."""
    from launch.demos.parts import clear_demo

    options = build_parser().parse_args(arguments)
    out = Path(options.out)
    check_writable(out)
    clear_demo(out, PARTS)
    result = run_demo(out, smoke=options.smoke, seed=options.seed, workers=options.workers, quiet=options.json == "-")
    if options.json:
        emit_json(options.json, result)
    return 0


def run_demo(out: Path, *, smoke: bool, seed: int, workers: int, quiet: bool = False) -> dict[str, Any]:
    """Everything the demo does; returns what ``metrics.json`` holds."""
    from launch.demos.appearance_bounds import APPEARANCE_BOUNDS
    from launch.demos.appearance_evaluation import judge, judge_animation
    from launch.demos.appearance_page import write_page
    from launch.demos.appearance_training import encode_corpora, make_corpora, train_base, train_stages, train_vae
    from launch.demos.appearance_videos import write_videos
    from launch.demos.bounds import bounds_table, check_bounds
    from launch.demos.parts import Clock, tell_result

    clock = Clock()
    make_corpora(out, smoke=smoke, seed=seed, workers=workers)
    clock.lap("corpora")
    train_vae(out, smoke=smoke, seed=seed)
    clock.lap("autoencoder")
    encode_corpora(out, workers=workers)
    clock.lap("encoding")
    train_base(out, smoke=smoke, seed=seed)
    clock.lap("training")
    train_stages(out, smoke=smoke, seed=seed)
    clock.lap("stages")
    numbers = judge(out, smoke=smoke)
    table = judge_animation(out)
    clock.lap("evaluation")
    videos = write_videos(out, smoke=smoke)
    clock.lap("videos")
    bounds = check_bounds(numbers, APPEARANCE_BOUNDS)
    result = {
        **numbers,
        "animation": table,
        "bounds": bounds,
        "seconds": {name: round(value, 1) for name, value in clock.parts.items()},
    }
    emit_json(str(out / "metrics.json"), result)
    write_page(out, numbers, table, bounds, videos, clock.parts)
    files = (out / "index.html", out / "metrics.json", out / "models", *videos)
    tell_result(bounds_table(numbers, bounds), clock, files, quiet=quiet)
    return result
