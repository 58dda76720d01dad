"""``macedance data appearance-demo``: the toy corpus of clips of dancers."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from launch.options import add_json_option, emit_json, say

_HELP = """\
Clips of --frames frames are followed by --spare frames of the same take, from which references are drawn. Splits share
no dancer, song or room. In val and test, body or camera travels by at least a body's width. --shifted is a second
domain for fine-tuning: darker rooms with other textures, another camera, another order of the pose drawing's colours.

example:
  macedance data appearance-demo --out data/toy
  macedance data appearance-demo --out data/toy-shifted --shifted --train 400"""


def add_parser(kinds: Any) -> None:
    """The options of the kind."""
    parser = kinds.add_parser(
        "appearance-demo",
        help="toy clips of dancers made by code, for the Appearance Expert",
        epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to make; it must not hold a corpus yet")
    parser.add_argument("--train", type=int, default=1500, metavar="N", help="training clips (1500)")
    parser.add_argument("--val", type=int, default=48, metavar="N", help="validation clips (48)")
    parser.add_argument("--test", type=int, default=48, metavar="N", help="test clips (48)")
    parser.add_argument("--size", type=int, nargs="+", default=[64], metavar="PX", help="width and height (64 64)")
    parser.add_argument("--frames", type=int, default=9, metavar="N", help="frames of a clip (9)")
    parser.add_argument("--spare", type=int, default=6, metavar="N", help="frames after it, for references (6)")
    parser.add_argument("--fps", type=float, default=10.0, help="frames per second (10)")
    parser.add_argument("--shifted", action="store_true", help="the second domain")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes that draw (1)")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same bytes (0)")
    add_json_option(parser)


def run(options: argparse.Namespace) -> int:
    """Make the corpus."""
    from datamodules.appearance_corpora import build_toy_corpus
    from macedance.appearance_data.toy.corpus import ToySettings
    from macedance.errors import ConfigError
    from macedance.report.progress import Progress

    if len(options.size) > 2:
        raise ConfigError(f"--size has {len(options.size)} numbers", expected="width and height, or one for both")
    settings = ToySettings(
        train=options.train,
        val=options.val,
        test=options.test,
        width=options.size[0],
        height=options.size[-1],
        frames=options.frames,
        spare_frames=options.spare,
        fps=options.fps,
        shifted=options.shifted,
        seed=options.seed,
    )
    with Progress("clips", 1) as bar:
        manifest = build_toy_corpus(Path(options.out), settings, options.workers, bar)
    splits = {name: split.samples for name, split in manifest.splits.items()}
    say(f"wrote {options.out}: " + ", ".join(f"{count} {name}" for name, count in splits.items()))
    if options.json:
        emit_json(options.json, {"corpus": str(options.out), "samples": splits, "frames": manifest.num_frames})
    return 0
