"""``macedance summary``: parameters and FLOPs of a config, without weights or data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from launch.options import Parser, add_json_option, emit_json, positive_float, positive_int


def summarise(arguments: Sequence[str], **appearance: Any) -> dict[str, Any]:
    """Build the config's network on the meta device and count.

    Args:
        arguments: ``--config NAME|FILE`` and any key, as for ``macedance fit``.
        appearance: Options of the Appearance Expert's page; see ``summarise_appearance``.
    """
    import torch

    from launch.config_files import resolve_arguments
    from launch.options import quiet_libraries
    from launch.training_cli import ParsingCLI, build_cli
    from lightning_modules.base import ExpertModule

    with quiet_libraries():
        cli = build_cli(resolve_arguments(arguments), kind=ParsingCLI)
        model = cli.model
        assert isinstance(model, ExpertModule)
        model.init_from = None  # counting needs no weights
        # Counted with and without it, so that the network is built without.
        checkpointed, model.activation_checkpointing = model.activation_checkpointing, None
        with torch.device("meta"):
            model.configure_model()
        from launch.summary_appearance import is_appearance, summarise_appearance

        if is_appearance(model):
            return summarise_appearance(cli, checkpointed=checkpointed, **appearance)
    return _summarise_motion(cli)


def _summarise_motion(cli: Any) -> dict[str, Any]:
    from macedance.models.flops import forward_flops

    network = cli.model.built_network
    frames = int(cli.datamodule.window_frames)
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
        "backward of twice its cost. For the Appearance Expert also tokens, activations, and the memory of each GPU "
        "under DDP and ZeRO; its backward is counted as far as what trains needs it.",
        epilog="examples:\n  macedance summary --config mace_motion_released --json\n"
        "  macedance summary --config appearance_aesthetic720_madata --ranks 8 64",
    )
    parser.add_argument("--config", action="append", metavar="NAME|FILE", help="as for fit; other keys pass through")
    parser.add_argument(
        "--ranks", type=int, nargs="+", metavar="N", help="Appearance Expert: GPUs to plan memory for (8 16 64)"
    )
    parser.add_argument(
        "--gpu-gb",
        type=float,
        metavar="G",
        help="Appearance Expert: 10^9 bytes of a GPU (84.9, a card of 80 GB)",
    )
    add_json_option(parser)
    options, rest = parser.parse_known_args(arguments)
    for count in options.ranks or []:
        positive_int("--ranks", count)
    positive_float("--gpu-gb", options.gpu_gb)
    configs = [f"--config={name}" for name in options.config or []]
    given = {"ranks": options.ranks, "gpu_gb": options.gpu_gb}
    result = summarise([*configs, *rest], **{key: value for key, value in given.items() if value is not None})
    if options.json:
        emit_json(options.json, result)
    if options.json != "-":
        _print(result)
    return 0


def _print(result: dict[str, Any]) -> None:
    if "bytes_per_rank" in result:
        from launch.summary_appearance import print_appearance

        print_appearance(result)
        return
    for key, value in result.items():
        print(f"{key:<26}{value:,}" if isinstance(value, int) else f"{key:<26}{value}")
