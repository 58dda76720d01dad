"""``macedance data``: corpora of tar shards."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from launch import data_appearance, data_encode
from launch.options import Parser, add_json_option, emit_json, say
from macedance.errors import ConfigError

_KEYS_AT_ONCE = 1000
_ORDER_HELP = """\
stdout holds keys only, one a line. Rank R holds the R-th part of every global batch of N samples.

--epoch and --start together are the position that a checkpoint keeps: position = E x samples per epoch + K, where an
epoch is the corpus in whole global batches (the last incomplete one is dropped; of a mixture, as many samples as its
sources hold together). K counts samples of all ranks, at most one epoch's. With --count the order goes on into the
next epochs, as training does.

example:
  macedance data order --shards data/demo --global-batch 16 --world-size 4 --rank 1 --epoch 2 --start 64"""


def build_parser() -> argparse.ArgumentParser:
    """The verb's options."""
    parser = Parser(
        prog="macedance data", description="Make corpora of tar shards, and see the order of their samples."
    )
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
    _add_order_parser(kinds)
    data_appearance.add_parser(kinds)
    data_encode.add_parser(kinds)
    return parser


def _add_order_parser(kinds: Any) -> None:
    order = kinds.add_parser(
        "order", help="the keys of the samples that a rank trains on, in order", epilog=_ORDER_HELP
    )
    order.add_argument(
        "--shards", required=True, nargs="+", metavar="DIR|URL", help="corpus or split's folder; several are a mixture"
    )
    order.add_argument("--weights", nargs="+", type=int, metavar="N", help="of a mixture's sources (default 1 each)")
    order.add_argument("--global-batch", type=int, required=True, metavar="N", help="samples of one optimizer step")
    order.add_argument("--world-size", type=int, required=True, metavar="W", help="ranks")
    order.add_argument("--rank", type=int, required=True, metavar="R", help="which of them, from 0")
    order.add_argument("--epoch", type=int, default=0, metavar="E", help="data epoch, from 0 (default 0)")
    order.add_argument(
        "--start", type=int, default=0, metavar="K", help="samples of the epoch's global order already consumed (0)"
    )
    order.add_argument("--count", type=int, metavar="M", help="keys of this rank (default: to the end of the epoch)")
    order.add_argument("--seed", type=int, default=0, help="the run's seed_everything (default 0)")
    order.add_argument(
        "--shuffle-window", type=int, metavar="N", help="the run's data.shuffle_window (default: as there, 4096)"
    )
    add_json_option(order)


def main(arguments: Sequence[str]) -> int:
    """Run the verb."""
    options = build_parser().parse_args(arguments)
    if options.kind == "order":
        return _order(options)
    if options.kind in ("appearance-demo", "encode"):
        return (data_encode if options.kind == "encode" else data_appearance).run(options)
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


def _order(options: argparse.Namespace) -> int:
    """Print a rank's keys."""
    from datamodules.streams.bucket_order import BucketOrder
    from datamodules.streams.manifest import APPEARANCE_FORMAT
    from datamodules.streams.mixture import MixtureOrder
    from datamodules.streams.order import DEFAULT_SHUFFLE_WINDOW, ElasticBatchSampler, GlobalOrder, check_ranks
    from datamodules.streams.plan import rank_keys, training_order
    from datamodules.streams.shards import open_shards

    for name, least in (("global_batch", 1), ("world_size", 1), ("epoch", 0), ("start", 0), ("count", 0), ("seed", 0)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise ConfigError(f"--{name.replace('_', '-')} is {value}", expected=f"{least} or more")
    if not 0 <= options.rank < options.world_size:
        raise ConfigError(f"--rank is {options.rank}", expected=f"0 to {options.world_size - 1}, of --world-size ranks")
    weights = options.weights or [1] * len(options.shards)
    if len(weights) != len(options.shards):
        raise ConfigError(f"{len(weights)} --weights for {len(options.shards)} --shards", expected="one for each")
    opened = [open_shards(shards, check=False) for shards in options.shards]
    indices = [shards.index() for shards in opened]
    check_ranks(sum(map(len, indices)), options.global_batch, options.world_size)
    window = DEFAULT_SHUFFLE_WINDOW if options.shuffle_window is None else options.shuffle_window
    order: GlobalOrder | MixtureOrder | BucketOrder
    if opened[0].manifest.format == APPEARANCE_FORMAT:
        from datamodules.appearance_clips import order_of_own_sizes

        order = order_of_own_sizes(opened, weights, options.global_batch, options.seed, window)
    else:
        order = training_order(indices, weights, options.global_batch, options.seed, window)
    if options.start > order.samples_per_epoch:
        raise ConfigError(
            f"--start {options.start} lies beyond the epoch", expected=f"at most {order.samples_per_epoch} samples"
        )
    sampler = ElasticBatchSampler(
        options.global_batch,
        start_position=options.epoch * order.samples_per_epoch + options.start,
        rank=options.rank,
        world_size=options.world_size,
    )
    # The end of an epoch is also the start of the next one: with nothing left of it, nothing is printed.
    count = 0 if options.count is None and options.start == order.samples_per_epoch else options.count
    keys = rank_keys(indices, order, sampler, count)
    if options.json:
        found = list(keys)
        result = {"keys": found, "samples_per_epoch": order.samples_per_epoch, "position": sampler.start_position}
        emit_json(options.json, result)
        keys = iter(() if options.json == "-" else found)
    while lines := "".join(f"{key}\n" for key in islice(keys, _KEYS_AT_ONCE)):
        sys.stdout.write(lines)
    sys.stdout.flush()
    return 0
