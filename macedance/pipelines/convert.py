"""Turns released checkpoints into pretrained folders."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from macedance.diffusion.guidance import GuidanceFreeTraining, guidance_to_config
from macedance.models.checkpoint_import import RELEASED_GENRES, import_released_motion_expert
from macedance.pipelines.folder import write_folder
from macedance.pipelines.motion_config import MotionModelConfig

#: The released model was trained and sampled on 40 s at 30 fps.
RELEASED_FPS = 30.0
RELEASED_WINDOW_FRAMES = 1200
RELEASED_SAMPLER = {"name": "ddim", "num_steps": 50, "eta": 1.0}


def convert_mace_motion(checkpoint: str | Path, out_dir: str | Path, weights: Literal["raw", "ema"] = "raw") -> Path:
    """Write the released Motion Expert of MACE-Dance as a folder that `MusicToMotion` loads.

    Args:
        checkpoint: The authors' file; nothing in it is run.
        out_dir: The folder to write, whole or not at all.
        weights: "raw", which the authors sample with, or "ema".

    Returns:
        The folder.

    Raises:
        CheckpointError: The file is missing, damaged or not this model.
        ConfigError: `weights` is neither of the two, or the folder cannot be written.
    """
    state_dict, network, normalizer = import_released_motion_expert(checkpoint, weights)
    objective = GuidanceFreeTraining(
        drop_probability=0.0, unconditional_beta="same", unconditional_dropout=True, default_beta=0.75
    )
    config = MotionModelConfig(
        network=network,
        objective=guidance_to_config(objective),
        fps=RELEASED_FPS,
        window_frames=RELEASED_WINDOW_FRAMES,
        genres=RELEASED_GENRES,
        sampler=dict(RELEASED_SAMPLER),
        sample_weights=weights,
    )
    return write_folder(out_dir, config.to_dict(), normalizer, state_dict)
