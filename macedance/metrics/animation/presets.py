"""Published conventions of the Fréchet video distance; all share everything else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from macedance.errors import ConfigError
from macedance.vision.video_network import FrameFit


@dataclass(frozen=True)
class AnimationPreset:
    """How one convention looks at videos.

    Args:
        name: Its name in reports.
        fit: How frames become squares.
        ddof: 1: covariances are the unbiased ones; 0: the population's.
    """

    name: str
    fit: FrameFit
    ddof: int


#: Frames squashed to squares, covariances of the population: universome/stylegan-v. The default.
STYLEGANV = AnimationPreset("styleganv", FrameFit(crop=False), ddof=0)
#: Shorter side to 224 pixels and the central square: JunyaoHu/common_metrics_on_video_quality, which most papers on
#: animation copied.
CENTER_CROP = AnimationPreset("center_crop", FrameFit(crop=True), ddof=1)

#: Name -> preset.
PRESETS: Mapping[str, AnimationPreset] = MappingProxyType({p.name: p for p in (STYLEGANV, CENTER_CROP)})


def presets_named(names: Sequence[str]) -> list[AnimationPreset]:
    """Presets by name, each once.

    Raises:
        ConfigError: An unknown name, or none.
    """
    unknown = [name for name in names if name not in PRESETS]
    if unknown or not names:
        raise ConfigError(
            f"unknown preset {', '.join(unknown)}" if unknown else "no preset", expected=f"some of {', '.join(PRESETS)}"
        )
    return [PRESETS[name] for name in dict.fromkeys(names)]
