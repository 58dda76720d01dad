"""A tiny Appearance Expert and clips for it, without a corpus."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytorch_lightning as pl
import torch
import yaml
from torch.utils.data import DataLoader, IterableDataset

from macedance.models.appearance_expert.network import AppearanceExpert

#: Sizes of the autoencoder whose latents the network reads.
VAE: dict[str, Any] = {"z_dim": 4, "scale_factor_spatial": 4, "scale_factor_temporal": 1}
TRANSFORMER: dict[str, Any] = {
    "patch_size": [1, 2, 2], "num_attention_heads": 2, "attention_head_dim": 12, "text_dim": 6, "freq_dim": 16,
    "ffn_dim": 32, "num_layers": 2, "image_dim": None, "added_kv_proj_dim": None, "rope_max_seq_len": 32,
    "inject_face_latents_blocks": 2, "motion_encoder_size": 16, "motion_style_dim": 8, "motion_dim": 4,
    "motion_encoder_dim": 8, "face_encoder_hidden_dim": 16, "face_encoder_num_heads": 2,
    "motion_encoder_channel_sizes": {"4": 8, "8": 8, "16": 8},
}  # fmt: skip
#: A small AutoencoderKLWan with those factors.
SMALL_VAE: dict[str, Any] = {
    "base_dim": 8, "z_dim": 4, "dim_mult": [1, 2], "num_res_blocks": 1, "attn_scales": [],
    "temperal_downsample": [False], "in_channels": 12, "out_channels": 12, "patch_size": 2, "scale_factor_spatial": 4,
    "scale_factor_temporal": 1, "latents_mean": [0.0] * 4, "latents_std": [1.0] * 4,
}  # fmt: skip


def clip(number: int, frames: int = 3, side: int = 4) -> dict[str, torch.Tensor]:
    """One encoded clip, the same for the same number."""
    generator = torch.Generator().manual_seed(1000 + number)

    def latents(count: int) -> torch.Tensor:
        return torch.randn(4, count, side, side, generator=generator)

    return {
        "latents": latents(frames),
        "pose": latents(frames),
        "reference": latents(1),
        "known": latents(frames),
        "blank": torch.zeros(4, frames, side, side),
        "text": torch.randn(3, 6, generator=generator),
    }


def pixels(number: int, frames: int = 5, side: int = 16) -> dict[str, torch.Tensor]:
    """One clip as pixels."""
    generator = torch.Generator().manual_seed(2000 + number)
    mask = torch.zeros(frames, side, side, dtype=torch.bool)
    mask[:, 4:12, 6:10] = True

    def picture(count: int) -> torch.Tensor:
        return torch.rand(3, count, side, side, generator=generator) * 2 - 1

    video = picture(frames)
    return {"video": video, "pose_video": picture(frames), "reference_image": video[:, 0], "mask": mask}


class _Clips(IterableDataset):  # type: ignore[type-arg]
    def __init__(self, data: FakeClips, numbers: range | None) -> None:
        self.data, self.numbers = data, numbers

    def __iter__(self) -> Iterator[dict[str, Any]]:
        data, size = self.data, self.data.global_batch_size
        trainer = data.trainer
        rank, world = (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)
        if self.numbers is not None:
            yield data.batch([n for n in self.numbers if n % world == rank])
            return
        start = data.start_position
        while True:
            yield data.batch(list(range(start + rank, start + size, world)))
            start += size


class FakeClips(pl.LightningDataModule):
    """Clips made from their numbers, with what a run asks of a data module.

    With ``slow_bfloat16`` the run trains in bfloat16 on a processor without such products too.
    """

    fps, frames = 16.0, 3
    samples_per_epoch = 8
    pose_parts = None
    manifest = SimpleNamespace(sha256="0" * 64, splits={})
    dropped_text = "zeros"

    def __init__(
        self,
        global_batch_size: int = 2,
        as_pixels: bool = False,
        known_frames: int = 1,
        seed: int = 0,
        vae_identity: str = "f" * 64,
        slow_bfloat16: bool = False,
    ) -> None:
        super().__init__()
        if slow_bfloat16:
            import launch.training_cli

            launch.training_cli.cpu_multiplies_bf16 = lambda: True
        self.global_batch_size, self.as_pixels, self.known_frames = global_batch_size, as_pixels, known_frames
        self.start_position, self.seed = 0, seed
        self.buckets = [(16, 16, 3)]
        self.encoder_identity = {} if as_pixels else {"vae": vae_identity}

    def batch(self, numbers: list[int]) -> dict[str, Any]:
        """The clips of some global sample numbers."""
        make = pixels if self.as_pixels else clip
        clips = [make(number % self.samples_per_epoch) for number in numbers]
        batch: dict[str, Any] = {name: torch.stack([c[name] for c in clips]) for name in clips[0]}
        more: dict[str, Any] = {"prompt": ["a dancer"] * len(numbers)} if self.as_pixels else {}
        if not self.as_pixels:
            more["known_frames"] = self.known_frames
        return {**batch, **more, "position": torch.tensor(numbers), "keys": [str(n) for n in numbers]}

    def check_ranks(self, world_size: int, accumulate: int = 1) -> None:
        """Any number."""

    def epoch_of(self, position: int) -> int:
        """Data epoch of a position."""
        return position // self.samples_per_epoch

    def consumed_after(self, batch: dict[str, Any]) -> int:
        """Samples consumed once a batch's step is done."""
        first = int(batch["position"].min()) // self.global_batch_size * self.global_batch_size
        return first + self.global_batch_size

    def train_dataloader(self) -> DataLoader[Any]:
        """Endless batches."""
        return DataLoader(_Clips(self, None), batch_size=None)

    def val_dataloader(self) -> DataLoader[Any]:
        """Two held-out clips."""
        return DataLoader(_Clips(self, range(2)), batch_size=None)


def run_config(
    stage: str | None,
    weights: Path | str | None = None,
    *,
    init_from: Path | None = None,
    as_pixels: bool = False,
    **more: Any,
) -> dict[str, Any]:
    """A config of `macedance fit`; ``more`` are keys of the model."""
    return {
        "seed_everything": 3,
        "init_from": None if init_from is None else str(init_from),
        "checkpoint_every_n_steps": 1,
        "trainer": {
            "max_steps": 3, "val_check_interval": 3, "accelerator": "cpu", "precision": "32-true", "logger": False,
        },
        "model": {
            "class_path": "lightning_modules.appearance_expert.AppearanceExpertModule",
            "init_args": {
                "network": {
                    "class_path": "macedance.models.appearance_expert.network.AppearanceExpert",
                    "init_args": {
                        "transformer": TRANSFORMER, "vae": VAE, "weights": None if weights is None else str(weights),
                    },
                },
                "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1.0e-2}},
                "stage": stage,
                **more,
            },
        },
        "data": {"class_path": "tests.appearance_fakes.FakeClips", "init_args": {"as_pixels": as_pixels}},
    }  # fmt: skip


def write_config(folder: Path, config: dict[str, Any]) -> str:
    """The argument that names a config, written into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return f"--config={folder / 'config.yaml'}"


def save_base(folder: Path, seed: int = 0) -> Path:
    """A pretrained model's folder with a transformer from a seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        AppearanceExpert(TRANSFORMER, VAE).transformer.save_pretrained(folder / "transformer")
    return folder


class SaveWhole(pl.Callback):
    """At the end of training every parameter of the network, whole and as it is computed with, in one file.

    Args:
        path: The file, safetensors.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Gather and save; all ranks call it, after a validation."""
        from safetensors.torch import save_file

        found = {}
        if hasattr(trainer.strategy, "whole_parameters"):
            names = {name for name, _ in trainer.strategy.whole_parameters(pl_module)}
            assert names == {name for name, _ in pl_module.named_parameters()}
        for name, parameter in pl_module.network.named_parameters():
            if hasattr(parameter, "ds_id"):
                import deepspeed

                with deepspeed.zero.GatheredParameters([parameter]):
                    found[name] = parameter.detach().clone()
            else:
                found[name] = parameter.detach().clone()
        if trainer.is_global_zero:
            save_file(found, self.path)
