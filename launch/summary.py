"""``macedance summary``: parameters and FLOPs of a config, without weights or data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from launch.options import Parser, add_json_option, emit_json


def summarise(arguments: Sequence[str]) -> dict[str, Any]:
    """Build the config's network on the meta device and count.

    Args:
        arguments: ``--config NAME|FILE`` and any key, as for ``macedance fit``.
    """
    import torch

    from launch.config_files import resolve_arguments
    from launch.options import quiet_libraries
    from launch.training_cli import ParsingCLI, build_cli
    from lightning_modules.base import ExpertModule
    from macedance.models.flops import forward_flops

    with quiet_libraries():
        cli = build_cli(resolve_arguments(arguments), kind=ParsingCLI)
        model = cli.model
        assert isinstance(model, ExpertModule)
        model.init_from = None  # counting needs no weights
        with torch.device("meta"):
            model.configure_model()
    network = model.built_network
    frames = int(cli.datamodule.window_frames)  # type: ignore[union-attr]
    forward = forward_flops(network, frames)
    return {
        "parameters": sum(p.numel() for p in network.parameters()),
        "trainable_parameters": sum(p.numel() for p in network.parameters() if p.requires_grad),
        "flops_per_sample": 3 * forward,
        "forward_flops_per_sample": forward,
        "frames_per_sample": frames,
        "network": f"{type(network).__module__}.{type(network).__qualname__}",
    }


def main(arguments: Sequence[str]) -> int:
    """Run the verb."""
    parser = Parser(
        prog="macedance summary",
        description="Parameters and FLOPs of a config. flops_per_sample counts a training step: one forward and a "
        "backward of twice its cost.",
        epilog="example:\n  macedance summary --config mace_motion_released --json",
    )
    parser.add_argument("--config", action="append", metavar="NAME|FILE", help="as for fit; other keys pass through")
    add_json_option(parser)
    options, rest = parser.parse_known_args(arguments)
    configs = [f"--config={name}" for name in options.config or []]
    result = summarise([*configs, *rest])
    if options.json:
        emit_json(options.json, result)
    if options.json != "-":
        for key, value in result.items():
            print(f"{key:<26}{value:,}" if isinstance(value, int) else f"{key:<26}{value}")
    return 0
