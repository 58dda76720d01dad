"""What a training checkpoint holds of a model, whichever form it has; nothing that is read can run code.

Forms: a checkpoint folder (verified first) or the link ``last.ckpt`` to one, its ``state.ckpt`` alone, or a single file
of an older version. Sharded checkpoints are read from their safetensors fragments, without DeepSpeed.
"""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from macedance.errors import CheckpointError, ConfigError
from macedance.pipelines.checkpoint_folder import MANIFEST_FILE, MODEL_FILE, STATE_FILE, verify
from macedance.pipelines.checkpoint_fragments import assemble_fragments, fragment_names
from macedance.pipelines.folder import CONFIG_FILE, check_weights

if TYPE_CHECKING:
    from macedance.nn.trainable import LoraSettings

Weights = Literal["auto", "ema", "raw"]

#: Prefix of the network in a training checkpoint's state dict.
NETWORK_PREFIX = "network."
CHECKPOINT_KEY = "macedance"
EXPECTED = "a checkpoint of `macedance fit`, or a folder of save_pretrained"


@dataclass(frozen=True)
class CheckpointContent:
    """What a model needs of a checkpoint.

    Attributes:
        path: The checkpoint.
        ours: Its own section: ``config``, ``normalizer``, ``position``, ...
        tensors: The network's weights, by name in the network as it was trained, adapters included.
        average: Their moving averages, of what was averaged.
        only: The one kind of weights that was read, where it was one; None: both.
    """

    path: Path
    ours: Mapping[str, Any]
    tensors: dict[str, Tensor]
    average: dict[str, Tensor]
    only: Literal["ema", "raw"] | None = None

    def weights(self, which: Weights) -> dict[str, Tensor]:
        """The plain network's weights, adapters folded in.

        Args:
            which: ``ema``, ``raw``, or ``auto``: what the run's configuration samples with; raw where no average is.

        Raises:
            CheckpointError: There is no average where one is asked for, it is of another network, or a weight is not
                finite.
            ConfigError: `which` is none of the three, or was not read.
        """
        tensors, lora = self.trained(which), self.lora
        if lora is not None:
            from macedance.nn.trainable import merged_state_dict

            tensors = merged_state_dict(tensors, lora)
        check_weights(tensors, where=self.path)
        return tensors

    @property
    def lora(self) -> LoraSettings | None:
        """Settings of the adapters that the network carries; None: it carries none.

        Raises:
            CheckpointError: They are damaged.
        """
        settings = self.ours["config"].get("lora")
        if not isinstance(settings, Mapping):
            return None
        from macedance.nn.trainable import LoraSettings

        try:
            return LoraSettings(**settings)
        except TypeError as error:
            raise CheckpointError(f"the settings of the adapters are damaged: {error}", where=self.path) from error

    def trained(self, which: Weights) -> dict[str, Tensor]:
        """The weights by name in the network as it was trained, adapters beside what they adapt.

        Args:
            which: As of :meth:`weights`.

        Raises:
            CheckpointError: As of :meth:`weights`.
            ConfigError: As of :meth:`weights`.
        """
        if which not in ("auto", "ema", "raw"):
            raise ConfigError(f"weights {which!r}", expected="ema, raw or auto")
        config, tensors = self.ours["config"], dict(self.tensors)
        if which == "auto":
            which = self.only or ("raw" if config.get("sample_weights") == "raw" or not self.average else "ema")
        if self.only not in (None, which):
            raise ConfigError(f"the checkpoint was read for its {self.only} weights only", expected=f"not {which}")
        if which == "ema":
            if not self.average:
                raise CheckpointError(
                    "the checkpoint holds no average of the weights", where=self.path, fix="take the raw weights"
                )
            foreign = sorted(self.average.keys() - tensors.keys())
            if foreign:
                raise CheckpointError(
                    f"the average holds {len(foreign)} weights that the network has not, the first is {foreign[0]}",
                    where=self.path,
                )
            tensors.update(self.average)
        return tensors


def is_checkpoint_folder(path: str | Path) -> bool:
    """Whether a path is a checkpoint in a folder of its own, rather than a model folder or a file."""
    path = Path(path)
    return (
        path.is_dir()
        and not (path / CONFIG_FILE).exists()
        and ((path / MANIFEST_FILE).exists() or ".ckpt" in path.name)
    )


def read_content(path: str | Path, which: Weights | None = None) -> CheckpointContent:
    """Read what a checkpoint of any form holds itself; its optimizer state is not read.

    Args:
        path: The checkpoint.
        which: The weights that are wanted, so that no others are read from a sharded one; None: both.

    Raises:
        CheckpointError: Missing, foreign or damaged.
    """
    path = Path(path)
    ours, tensors, average, only = _read_folder(path, which) if path.is_dir() else (*_read_file(path), None)
    if not isinstance(ours, Mapping):
        raise CheckpointError("not a checkpoint of this program", where=path, expected=EXPECTED)
    if not isinstance(ours.get("config"), Mapping) or not isinstance(ours.get("normalizer"), Mapping):
        raise CheckpointError("the checkpoint lacks its configuration or its normaliser", where=path)
    return CheckpointContent(path, ours, tensors, average, only)


def holds_model(name: str) -> bool:
    """Whether a file of a checkpoint folder holds something of the model, and not of the training only."""
    return name in (STATE_FILE, MODEL_FILE) or name.startswith(("weights-", "ema-"))


def _read_folder(
    folder: Path, which: Weights | None
) -> tuple[Any, dict[str, Tensor], dict[str, Tensor], Literal["ema", "raw"] | None]:
    """Only what is read is proven by its sha256: the optimizer's files may be hundreds of GB."""
    # Names and sizes of all files are compared, and model.json says which are needed.
    manifest = verify(folder, lambda name: name in (STATE_FILE, MODEL_FILE))
    if not manifest.sharded:
        return *_read_file(folder / STATE_FILE), None
    try:
        ours = json.loads((folder / MODEL_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {MODEL_FILE}: {error}", where=folder) from error
    only = _only_kind(which, ours, any(name.startswith("ema-") for name in manifest.files))
    kinds = ("weights-",) if only == "raw" else ("weights-", "ema-")
    verify(folder, lambda name: name.startswith(kinds))
    average = {} if only == "raw" else assemble_fragments(folder, "ema")
    if only != "ema":
        return ours, _of_network(assemble_fragments(folder, "weights")), _of_network(average), only
    # What was averaged is not read once more as it was trained; the rest has no average.
    averaged = fragment_names(folder, "weights") & average.keys()
    tensors = assemble_fragments(folder, "weights", without=averaged) | {name: average[name] for name in averaged}
    return ours, _of_network(tensors), _of_network(average), only


def _only_kind(which: Weights | None, ours: Any, has_average: bool) -> Literal["ema", "raw"] | None:
    """The one kind of weights that must be read; None where that cannot be told, or both are wanted."""
    if which == "auto" and isinstance(ours, Mapping) and isinstance(ours.get("config"), Mapping):
        which = "raw" if not has_average or ours["config"].get("sample_weights") == "raw" else "ema"
    if which == "raw":
        return "raw"
    return "ema" if which == "ema" and has_average else None


def _of_network(tensors: Mapping[Any, Any]) -> dict[str, Tensor]:
    """The network's own, by its own names."""
    return {
        name.removeprefix(NETWORK_PREFIX): value
        for name, value in tensors.items()
        if isinstance(name, str) and name.startswith(NETWORK_PREFIX) and isinstance(value, Tensor)
    }


def _read_file(path: Path) -> tuple[Any, dict[str, Tensor], dict[str, Tensor]]:
    content = _load(path)
    ours, state = content.get(CHECKPOINT_KEY), content.get("state_dict")
    if not isinstance(state, Mapping):
        raise CheckpointError("not a checkpoint of this program", where=path, expected=EXPECTED)
    return ours, _of_network(state), _average(content.get("ema"))


def _load(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise CheckpointError("no such model", where=path, expected=EXPECTED)
    if not path.is_file() or not zipfile.is_zipfile(path):
        raise CheckpointError("damaged, or not a checkpoint", where=path, expected=EXPECTED)
    try:
        # mmap: the optimizer's moments, twice the weights, are never read.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            "the checkpoint holds objects that could run code, or is damaged", where=path, expected=EXPECTED
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"cannot read the checkpoint: {error}", where=path, expected=EXPECTED) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"the checkpoint holds a {type(content).__name__}", where=path, expected=EXPECTED)
    return content


def _average(section: Any) -> dict[str, Tensor]:
    """Parameter name to average, from either form that `ema` is stored in; empty where there is none."""
    if not isinstance(section, Mapping):
        return {}
    return {
        str(name).removeprefix("shadow."): value
        for name, value in section.items()
        if isinstance(value, Tensor) and name != "num_updates"
    }
