"""``macedance data``: corpora of tar shards."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launch.options import Parser, add_json_option, emit_json, say
from macedance.errors import ConfigError


def build_parser() -> argparse.ArgumentParser:
    """The verb's options."""
    parser = Parser(prog="macedance data", description="Make a corpus of tar shards.")
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")

    demo = kinds.add_parser("demo", help="the built-in corpus: songs and choreography made by code")
    demo.add_argument("--out", required=True, metavar="DIR", help="folder to make; it must not hold a corpus yet")
    demo.add_argument("--clips", type=int, default=400, metavar="N", help="clips in all splits, 16 or more (400)")
    demo.add_argument("--seed", type=int, default=0, help="same seed, same bytes (default 0)")
    add_json_option(demo)

    bvh = kinds.add_parser("bvh", help="motion capture in BVH files, of any skeleton")
    bvh.add_argument("--bvh", required=True, metavar="DIR", help="folder of .bvh files")
    bvh.add_argument("--music", default="none", metavar="FILE|none", help="the song they dance to (default none)")
    bvh.add_argument("--out", required=True, metavar="DIR", help="folder to make; it must not hold a corpus yet")
    bvh.add_argument("--seed", type=int, default=0, help="of the split by file (default 0)")
    add_json_option(bvh)
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run the verb."""
    options = build_parser().parse_args(arguments)
    manifest = _demo(options) if options.kind == "demo" else _bvh(options)
    splits = {name: split.samples for name, split in manifest.splits.items()}
    say(f"wrote {options.out}: " + ", ".join(f"{count} {name}" for name, count in splits.items()))
    for name, reason in manifest.absent_splits.items():
        say(f"no {name} split: {reason}")
    if options.json:
        emit_json(options.json, {"corpus": str(options.out), "samples": splits, "genres": list(manifest.genres)})
    return 0


def _demo(options: argparse.Namespace) -> Any:
    if options.clips < 16:
        raise ConfigError(f"--clips is {options.clips}", expected="16 or more, so that no split is empty")
    from datamodules.corpora import build_demo_corpus
    from macedance.report.progress import Progress

    with Progress("songs and dances", 1) as bar:
        return build_demo_corpus(Path(options.out), num_clips=options.clips, seed=options.seed, progress=bar)


def _bvh(options: argparse.Namespace) -> Any:
    from datamodules.corpora import build_bvh_corpus
    from macedance.report.progress import Progress

    music = None if options.music == "none" else Path(options.music)
    with Progress("motion capture", 1) as bar:
        return build_bvh_corpus(Path(options.bvh), Path(options.out), music=music, seed=options.seed, progress=bar)
