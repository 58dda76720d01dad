"""What an Appearance Expert's ``config.json`` says, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from torch import nn

from macedance.diffusion.flow_matching import FlowMatching, FlowSampler
from macedance.errors import CheckpointError, ConfigError
from macedance.models.appearance_expert.geometry import LatentGeometry
from macedance.models.appearance_expert.network import AppearanceExpert, whole_arguments
from macedance.rendering.pose_parts import parts_read

FORMAT, SCHEMA = "macedance-appearance", 1
NETWORK_CLASS = "macedance.models.appearance_expert.network.AppearanceExpert"
#: What stood for a dropped prompt in training: the embedding of the empty one, or zeros.
DroppedText = Literal["empty_prompt", "zeros"]


@dataclass(frozen=True)
class AppearanceModelConfig:
    """An Appearance Expert without its weights.

    Attributes:
        transformer: Constructor arguments of the transformer.
        vae: Of the autoencoder: ``z_dim``, ``scale_factor_spatial``, ``scale_factor_temporal``.
        flow: Noise levels that it was trained on.
        fps: Frames per second of its videos.
        frames: Frames of a training clip, which is the longest segment that it makes at once.
        size: (height, width) of its training clips, pixels; the first bucket where there were several.
        known_frames: Frames of the segment before that it was trained to go on from; 0: none.
        num_steps: Sampling steps, where nothing else is asked for.
        encoders: Identity of the frozen encoders that it was trained with, by name.
        sample_weights: Which weights of a checkpoint to sample with, ``ema`` or ``raw``.
        sampler: ``euler`` or ``unipc``, where nothing else is asked for; models from before it was told have ``euler``.
        dropped_text: What stood for a dropped prompt in training, which guidance leads away from; models from before it
            was told had ``zeros``.
        pose_parts: Of POSE_PARTS, what the pose drawings of its training showed, by which it is driven; None: it is not
            known, and everything is drawn.
    """

    transformer: dict[str, Any]
    vae: dict[str, Any]
    flow: FlowMatching = field(default_factory=FlowMatching)
    fps: float = 30.0
    frames: int = 77
    size: tuple[int, int] = (480, 832)
    known_frames: int = 1
    num_steps: int = 20
    encoders: dict[str, str] = field(default_factory=dict)
    sample_weights: str = "ema"
    sampler: FlowSampler = "euler"
    dropped_text: DroppedText = "empty_prompt"
    pose_parts: tuple[str, ...] | None = None

    @property
    def geometry(self) -> LatentGeometry:
        """Of the latents."""
        patch = self.transformer.get("patch_size") or (1, 2, 2)
        return LatentGeometry.of(self.vae, int(patch[-1]))

    def to_dict(self) -> dict[str, Any]:
        """The content of ``config.json``."""
        return {
            "format": FORMAT,
            "schema": SCHEMA,
            "network": {
                "class_path": NETWORK_CLASS,
                "init_args": {"transformer": _plain(self.transformer), "vae": _plain(self.vae)},
            },
            "flow": asdict(self.flow),
            "geometry": asdict(self.geometry),
            "fps": self.fps,
            "frames": self.frames,
            "size": list(self.size),
            "known_frames": self.known_frames,
            "steps": self.num_steps,
            "encoders": dict(self.encoders),
            "sample_weights": self.sample_weights,
            "sampler": self.sampler,
            "dropped_text": self.dropped_text,
            "pose_parts": None if self.pose_parts is None else list(self.pose_parts),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str | Path) -> AppearanceModelConfig:
        """The checked content of a ``config.json``.

        Args:
            values: The content.
            where: The file, for the message.

        Raises:
            CheckpointError: Another format or schema, or a value that makes no sense.
        """
        if values.get("format") != FORMAT:
            raise CheckpointError(
                f"the model's format is {values.get('format')!r}", where=where, expected=f"{FORMAT!r}"
            )
        schema = values.get("schema")
        if not isinstance(schema, int) or isinstance(schema, bool) or not 1 <= schema <= SCHEMA:
            raise CheckpointError(
                f"the model's schema is {schema!r}", where=where, expected=f"1 to {SCHEMA}", fix="update macedance"
            )
        try:
            network, flow = values["network"], values["flow"]
            if network["class_path"] != NETWORK_CLASS:
                raise CheckpointError(f"the network is a {network['class_path']}", where=where, expected=NETWORK_CLASS)
            height, width = (int(side) for side in values["size"])
            config = cls(
                transformer=dict(network["init_args"]["transformer"]),
                vae=dict(network["init_args"]["vae"]),
                flow=FlowMatching(float(flow["shift"]), flow["weighting"]),
                fps=float(values["fps"]),
                frames=int(values["frames"]),
                size=(height, width),
                known_frames=int(values["known_frames"]),
                num_steps=int(values["steps"]),
                encoders={str(name): str(value) for name, value in dict(values.get("encoders") or {}).items()},
                sample_weights="raw" if values.get("sample_weights") == "raw" else "ema",
                sampler=values.get("sampler", "euler"),
                dropped_text=values.get("dropped_text", "zeros"),
                pose_parts=parts_read(values.get("pose_parts")),
            )
            config.check()
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"the model's configuration is damaged: {error!r}", where=where) from error
        except ConfigError as error:
            raise CheckpointError(
                f"the model's configuration: {error.what}", where=where, expected=error.expected
            ) from error
        return config

    def check(self) -> None:
        """Raise ConfigError where a value makes no sense or the sizes do not fit the autoencoder."""
        if not 0 < self.fps < 1000:
            raise ConfigError(f"fps is {self.fps}", expected="a number above 0")
        if self.num_steps < 1 or not 0 <= self.known_frames < max(self.frames, 1):
            raise ConfigError(
                f"{self.num_steps} steps, {self.known_frames} known of {self.frames} frames",
                expected="1 step or more, and fewer known frames than frames",
            )
        for name, kinds in (("sampler", FlowSampler), ("dropped_text", DroppedText)):
            if getattr(self, name) not in get_args(kinds):
                raise ConfigError(f"{name} is {getattr(self, name)!r}", expected=" or ".join(get_args(kinds)))
        self.geometry.check(self.frames, *self.size)


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Lists in place of tuples, so that what is read is what was written."""
    return {str(key): list(value) if isinstance(value, (list, tuple)) else value for key, value in values.items()}


def network_arguments(network: nn.Module) -> tuple[dict[str, Any], dict[str, Any]]:
    """Constructor arguments of a built AppearanceExpert: its transformer's and its autoencoder's."""
    return dict(network.transformer_config), dict(network.vae_config)  # type: ignore[arg-type]


def differing_arguments(network: AppearanceExpert, config: AppearanceModelConfig) -> list[str]:
    """What a configuration says otherwise than a network is built; a default may be left out or written.

    Returns:
        ``transformer.ffn_dim 32, not 16`` and the like, the configuration's value first.
    """
    differing = []
    for name, mine, theirs in (
        ("vae", network.vae_config, config.vae),
        (
            "transformer",
            whole_arguments(network.transformer_config, network.vae_config),
            whole_arguments(config.transformer, config.vae),
        ),
    ):
        a, b = _plain(mine), _plain(theirs)
        differing += [
            f"{name}.{key} {b.get(key)}, not {a.get(key)}"
            for key in sorted(a.keys() | b.keys())
            if a.get(key) != b.get(key)
        ]
    return differing
