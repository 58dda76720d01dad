"""``macedance checkpoint``: export, look into and cut training checkpoints."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from launch.options import Parser, add_json_option, emit_json, say
from macedance.errors import ConfigError

_CKPT_HELP = "a folder step-<n>.ckpt, last.ckpt, or a run directory: its newest good one"
_EXAMPLES = """\
examples:
  macedance checkpoint inspect outputs/runs/mine/checkpoints/last.ckpt
  macedance checkpoint export outputs/runs/mine --out models/mine --weights ema
  macedance checkpoint export outputs/runs/aesthetic --out lora --format lora
  macedance checkpoint reshape outputs/runs/mine --out step-100-on-2.ckpt --ranks 2"""


def build_parser() -> argparse.ArgumentParser:
    """The verb's options."""
    parser = Parser(
        prog="macedance checkpoint",
        description="Export, look into and cut training checkpoints; nothing in them is run.",
        epilog=_EXAMPLES,
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    export = actions.add_parser("export", help="one model folder from a checkpoint of any strategy")
    export.add_argument("checkpoint", metavar="CKPT", help=_CKPT_HELP)
    export.add_argument(
        "--out",
        required=True,
        metavar="DIR|FILE",
        help="the folder to write, or the .safetensors file; it must not exist",
    )
    export.add_argument(
        "--weights",
        choices=("auto", "ema", "raw"),
        default="auto",
        help="the moving average, the last weights, or what the run samples with (default auto)",
    )
    export.add_argument(
        "--format",
        default="pretrained",
        metavar="FORMAT",
        help="pretrained: the whole model's folder, which `generate` and --init_from read (default). Of the Appearance "
        "Expert also body_adapter: what the kinematic stage trained; lora: the aesthetic stage's adapters as diffusers "
        "loads them; comfyui: the same in ComfyUI's layout",
    )
    export.add_argument(
        "--base",
        metavar="DIR|CKPT",
        help="of a checkpoint that holds what was trained only: its --init_from or base weights, where they moved",
    )
    export.add_argument(
        "--encoders",
        metavar="DIR",
        help="of the Appearance Expert: folder with vae/ and the text and image encoders, for the model folder "
        "(default: that of the base weights)",
    )
    add_json_option(export)

    inspect = actions.add_parser("inspect", help="verify a checkpoint and say what it holds")
    inspect.add_argument("checkpoint", metavar="CKPT", help=_CKPT_HELP)
    add_json_option(inspect)

    reshape = actions.add_parser("reshape", help="a ZeRO checkpoint for another number of ranks; fit does it by itself")
    reshape.add_argument("checkpoint", metavar="CKPT", help=_CKPT_HELP)
    reshape.add_argument("--out", required=True, metavar="DIR", help="the checkpoint to write; it must not exist")
    reshape.add_argument("--ranks", type=int, required=True, metavar="N", help="ranks that will load it")
    add_json_option(reshape)
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run the verb."""
    options = build_parser().parse_args(arguments)
    run = {"export": _export, "inspect": _inspect, "reshape": _reshape}[options.action]
    result = run(options)
    if options.json:
        emit_json(options.json, result)
    return 0


def _export(options: argparse.Namespace) -> dict[str, Any]:
    from macedance.pipelines.checkpoint_folder import find_checkpoint
    from macedance.pipelines.export import Format, export_checkpoint

    if options.format not in get_args(Format):
        raise ConfigError(
            f"--format {options.format} is not a format of this version",
            expected=f"one of: {', '.join(get_args(Format))}",
        )
    checkpoint = find_checkpoint(options.checkpoint)
    written = export_checkpoint(
        checkpoint, options.out, options.format, options.weights, options.base, options.encoders
    )
    say(f"wrote {written} from {checkpoint}")
    if (written / "transformer").is_dir() and not (written / "vae").is_dir():
        say("it has no autoencoder, as there is none beside the base weights: name one with --encoders to make videos")
    return {"model": str(written), "checkpoint": str(checkpoint), "weights": options.weights, "format": options.format}


def _reshape(options: argparse.Namespace) -> dict[str, Any]:
    from launch.reshape import needs_reshape, reshape
    from macedance.pipelines.checkpoint_folder import find_checkpoint, read_manifest

    checkpoint = find_checkpoint(options.checkpoint)
    manifest = read_manifest(checkpoint)
    cut = needs_reshape(manifest, options.ranks)
    folder = reshape(checkpoint, options.out, options.ranks)
    if cut:
        say(f"wrote {folder}: {checkpoint.name} of {manifest.world_size} ranks, cut for {options.ranks}")
    else:
        of = f"{manifest.world_size} ranks already" if manifest.sharded else f"any number ({manifest.strategy})"
        say(f"wrote {folder}, a copy: {checkpoint.name} is for {of}")
    return {"checkpoint": str(folder), "source": str(checkpoint), "ranks": options.ranks, "cut": cut}


# ---------------------------------------------------------------- inspect
def _inspect(options: argparse.Namespace) -> dict[str, Any]:
    """Verify first: what is damaged raises, which ends with exit code 2."""
    from macedance.pipelines.checkpoint_folder import find_checkpoint, scan_pickles, verify

    folder = find_checkpoint(options.checkpoint)
    manifest = verify(folder)
    scan_pickles(folder)
    content = _content(folder)
    result = {
        "checkpoint": str(folder),
        "verified": True,
        "step": manifest.step,
        "position": manifest.position,
        "epoch": manifest.epoch,
        "strategy": manifest.strategy,
        "ranks": manifest.world_size,
        "validation_due": manifest.validation_missing,
        "ended": manifest.ended,
        "bytes": manifest.total_bytes,
        "files": {name: entry.bytes for name, entry in sorted(manifest.files.items())},
        "code_version": manifest.code_version,
        "data_manifest_sha256": manifest.data_manifest_sha256,
        "normalizer_sha256": manifest.normalizer_sha256,
        "config_sha256": manifest.config_sha256,
        **content,
        "trained_with": _training(folder),
    }
    if not options.json:
        print("\n".join(_lines(result)))
    return result


def _content(folder: Path) -> dict[str, Any]:
    from macedance.pipelines.checkpoint_content import read_content

    content = read_content(folder)
    base = content.ours.get("base")
    config = content.ours["config"]
    return {
        "weights": sum(value.numel() for value in content.tensors.values()),
        "averaged": sum(value.numel() for value in content.average.values()),
        "base": {"source": base["source"], "sha256": base["sha256"]} if isinstance(base, Mapping) else None,
        "lora": config.get("lora"),
        "model": {key: config.get(key) for key in ("network", "objective", "fps", "window_frames", "sample_weights")},
    }


#: Keys of config.yaml that say what a run was.
_TELLING = (
    "data.init_args.shards",
    "data.init_args.global_batch_size",
    "trainer.max_steps",
    "trainer.precision",
    "trainer.accumulate_grad_batches",
    "model.init_args.optimizer.class_path",
    "model.init_args.init_from",
    "seed_everything",
)


def _training(folder: Path) -> dict[str, Any] | None:
    """The telling keys of the checkpoint's config."""
    import yaml

    path = folder / "config.yaml"
    config = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else None
    if not isinstance(config, Mapping):
        return None
    found = {}
    for key in _TELLING:
        value: Any = config
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        found[key] = value
    return found


def _lines(result: Mapping[str, Any]) -> list[str]:
    """The same for a reader."""
    epoch = "" if result["epoch"] is None else f", data epoch {result['epoch']}"
    validation = "still to come, a resume runs it first" if result["validation_due"] else "done, or not due"
    end = ", the end of the run" if result["ended"] else ""
    average = f"{result['averaged']:,} of them averaged" if result["averaged"] else "no average"
    lines = [
        result["checkpoint"],
        f"  step        {result['step']} ({result['position']} samples{epoch}){end}",
        f"  strategy    {result['strategy']}, {result['ranks']} rank{'s' * (result['ranks'] > 1)}",
        f"  weights     {result['weights']:,} numbers, {average}",
    ]
    if result["base"]:
        lines.append(f"  base        the frozen weights are those of {result['base']['source']}")
    lines += [
        f"  size        {result['bytes'] / 2**20:.1f} MiB in {len(result['files'])} files",
        f"  validation  {validation}",
        f"  written by  macedance {result['code_version']}",
    ]
    lines += [f"  {key}: {value}" for key, value in (result["trained_with"] or {}).items() if value is not None]
    return [*lines, "  verified    every file has its size and sha256"]
