"""``macedance convert``: released checkpoints into model folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from launch.options import Parser, add_json_option, emit_json, say


def main(arguments: Sequence[str]) -> int:
    """Run the verb."""
    parser = Parser(
        prog="macedance convert",
        description="Turn the released MACE-Dance Motion Expert into a model folder; nothing in the file is run.",
        epilog="example:\n  macedance convert mace-motion train-3750.pt --out models/mace",
    )
    parser.add_argument("kind", choices=("mace-motion",), help="what the checkpoint is")
    parser.add_argument("checkpoint", metavar="CHECKPOINT")
    parser.add_argument("--out", required=True, metavar="DIR", help="the model folder to write")
    parser.add_argument(
        "--weights", choices=("raw", "ema"), default="raw", help="default raw, which the authors sample with"
    )
    add_json_option(parser)
    options = parser.parse_args(arguments)

    from macedance.pipelines.convert import convert_mace_motion

    folder = convert_mace_motion(Path(options.checkpoint), Path(options.out), options.weights)
    say(f"wrote {folder}")
    if options.json:
        emit_json(options.json, {"model": str(folder), "weights": options.weights})
    return 0
