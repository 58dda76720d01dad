"""The config schema of training: LightningCLI with our keys, our defaults and errors of one line."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from jsonargparse import ArgumentError
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.plugins.environments import SLURMEnvironment, TorchElasticEnvironment

from launch.config_files import config_paths, explain, given_values, own_error
from launch.options import say
from lightning_modules.base import ExpertModule
from macedance.errors import ConfigError

#: Keys of the run -> keys of its parts that take their values.
_LINKS = {
    "seed_everything": ("model.init_args.seed", "data.init_args.seed"),
    "init_from": ("model.init_args.init_from",),
}
#: What no config may leave to Lightning's own defaults, and why.
_TRAINER_DEFAULTS: dict[str, Any] = {
    "accelerator": "auto",
    "devices": 1,
    "use_distributed_sampler": False,  # the order of samples is ours: a pure function of (seed, epoch)
    "check_val_every_n_epoch": None,  # Lightning sees one endless epoch; validation counts steps
    "num_sanity_val_steps": 0,
    "enable_checkpointing": False,  # callbacks.checkpoints writes them whole
    "enable_progress_bar": False,  # callbacks.speed
    "enable_model_summary": False,
    "logger": False,  # TensorBoard in the run directory, unless the config names another
    "log_every_n_steps": 10,
}


def cpu_multiplies_bf16() -> bool:
    """Whether the processor has instructions for products of bfloat16; without them it is slower than float32."""
    probe = getattr(torch.cpu, "get_capabilities", None)
    if probe is None:
        return bool(torch.cpu._is_avx512_bf16_supported())
    found = probe()
    return any(bool(found.get(name)) for name in ("amx_bf16", "avx512_bf16", "bf16"))


class TrainingCLI(LightningCLI):
    """LightningCLI with our run directory, our seed links and errors instead of a page of usage."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the run's own keys."""
        parser.add_argument("--run_dir", type=str | None, default=None, help="The run's own directory.")
        parser.add_argument(
            "--init_from", type=str | None, default=None, help="Start from the weights of this folder or checkpoint."
        )
        parser.add_argument(
            "--resume", type=str, default="auto", help="auto, never, must, or the path of a checkpoint to go on from."
        )
        parser.add_argument(
            "--resume_changed", type=bool, default=False, help="Resume although the config changed; what did is said."
        )
        parser.add_argument(
            "--watchdog_timeout_s",
            type=float | None,
            default=None,
            help="Seconds that a run may stand still before it ends with 76; null: minutes, by phase; 0: no watch.",
        )
        parser.add_argument("--keep_last_checkpoints", type=int, default=3, help="Periodic checkpoints that stay.")
        parser.add_argument(
            "--checkpoint_every_n_steps", type=int | None, default=None, help="Optimizer steps between two checkpoints."
        )
        parser.add_argument(
            "--num_threads", type=int | None, default=None, help="CPU threads of torch while training; null: its own."
        )
        for source, targets in _LINKS.items():
            for target in targets:
                parser.link_arguments(source, target)

    def before_instantiate_classes(self) -> None:
        """Give the run its directory: ``outputs/runs/<name of the first config>`` unless a key names another."""
        if self.config.get("run_dir") is None:
            self.config.run_dir = str(Path("outputs") / "runs" / Path(str(self.config.config[0])).stem)
        self.config.trainer.default_root_dir = str(self.config.run_dir)

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Build the trainer with a precision that this processor has; the config keeps the one that was asked for."""
        asked = self.config.trainer
        on_cpu = asked.accelerator == "cpu" or (asked.accelerator == "auto" and not torch.cuda.is_available())
        if on_cpu and str(asked.precision).startswith("bf16") and not cpu_multiplies_bf16():
            if not self.parse_only:
                say(f"this processor has no bfloat16 products: training in 32-true instead of {asked.precision}")
            kwargs["precision"] = "32-true"
        if SLURMEnvironment.detect() and not TorchElasticEnvironment.detect():
            given = asked.plugins or []
            given = given if isinstance(given, list) else [given]
            if {"RANK", "LOCAL_RANK", "WORLD_SIZE"} <= os.environ.keys():
                # A launcher inside a job's script, e.g. `deepspeed`: srun started one process, the launcher all ranks.
                kwargs["plugins"] = [*given, TorchElasticEnvironment()]
            else:
                # Lightning would save and requeue inside the signal's handler; callbacks.preemption does both.
                kwargs["plugins"] = [*given, SLURMEnvironment(auto_requeue=False)]
        return super().instantiate_trainer(**kwargs)

    parse_only = False

    def _add_instantiators(self) -> None:
        # LightningCLI would record every class it instantiates; ours are plain constructors with no such need.
        return


class ParsingCLI(TrainingCLI):
    """Parses and validates a config without a run directory."""

    parse_only = True


def build_cli(arguments: Sequence[str], *, kind: type[TrainingCLI] = TrainingCLI) -> TrainingCLI:
    """Parse resolved arguments and instantiate model, data module and trainer.

    Raises:
        ConfigError: A key or value is wrong; one line names the nearest valid key.
    """
    require_config(arguments)
    parser_box: list[Any] = []

    class _Remembering(kind):  # type: ignore[valid-type,misc]
        def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
            super().add_arguments_to_parser(parser)
            parser_box.append(parser)

        def before_instantiate_classes(self) -> None:
            _check_links(self.config, arguments)
            super().before_instantiate_classes()

    try:
        return _Remembering(
            ExpertModule,
            pl.LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=None,
            seed_everything_default=0,
            run=False,
            trainer_defaults=dict(_TRAINER_DEFAULTS),
            parser_kwargs={"exit_on_error": False, "allow_abbrev": False},
            args=list(arguments),
        )
    except (ArgumentError, argparse.ArgumentError, ValueError, TypeError) as error:
        # A constructor's own complaint is the better one; the parser wraps it.
        ours = own_error(error)
        if ours is not None:
            raise ours from error
        names = [a.dest for a in parser_box[0]._actions] if parser_box else []
        raise explain(str(error), arguments, names) from error


def _check_links(config: Any, arguments: Sequence[str]) -> None:
    """Raise ConfigError where a part is given another value than the run's key, which would replace it in silence."""
    for source, targets in _LINKS.items():
        ours = config.get(source)
        beside = given_values(arguments, source)
        for target in targets:
            for where, theirs in given_values(arguments, target).items():
                if theirs != ours and (where not in beside or beside[where] != theirs):  # a run's config.yaml says both
                    raise ConfigError(
                        f"{target} is {theirs!r} and {source} is {ours!r}, which counts",
                        where=where,
                        expected=f"{source} alone, or the same in both",
                        fix=f"--{source}={theirs}, or leave {target} out",
                    )


def require_config(arguments: Sequence[str]) -> None:
    """Raise ConfigError unless a config is among the arguments."""
    if not config_paths(arguments):
        raise ConfigError("no config is given", expected="--config NAME|FILE", fix="e.g. --config mace_motion_demo")
