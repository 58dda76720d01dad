"""The pretrained networks that judge videos: what each is, its licence, and where it lies on this machine.

Nothing is fetched from here unless the caller says so (fetch.py). A network lives in ``<root>/<name>/``; the root is
``$MACEDANCE_WEIGHTS``, or ``weights`` in the cache folder. Folders of hub models are as ``save_pretrained`` writes
them; single files keep their published names.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from macedance.errors import CheckpointError, DependencyError
from macedance.music.cache import cache_root
from macedance.vision.blazepose_weights import SHA256 as BLAZEPOSE_SHA256


@dataclass(frozen=True)
class KnownWeights:
    """One pretrained network.

    Args:
        name: Its name here, and that of its folder.
        what: What it is.
        used_for: What cannot be computed without it.
        licence: Of the weights, as their publisher states it.
        source: Hub id, ``owner/name``, or the address of its files.
        files: Names that must be in the folder; of alternatives in one entry (``a|b``) any one.
        sha256: File name -> sha256, or its first digits where the publisher states no more. Files without an entry
            have no published hash: they are pinned to what was found first (``pinned.json`` in the folder).
        note: What a user must know.
    """

    name: str
    what: str
    used_for: str
    licence: str
    source: str
    files: tuple[str, ...]
    sha256: Mapping[str, str] = field(default_factory=dict)
    note: str = ""

    @property
    def is_hub(self) -> bool:
        """Whether the source is a model hub's id and not an address or a package."""
        return "://" not in self.source and " " not in self.source


_ALL = (
    KnownWeights(
        "dino_vitb16", "DINO ViT-B/16", "subject consistency, person identity", "Apache-2.0", "facebook/dino-vitb16",
        ("config.json", "model.safetensors|pytorch_model.bin"),
    ),
    KnownWeights(
        "clip_vit_b32", "OpenAI CLIP ViT-B/32", "background consistency", "MIT", "openai/clip-vit-base-patch32",
        ("config.json", "model.safetensors|pytorch_model.bin"),
    ),
    KnownWeights(
        "clip_vit_l14", "OpenAI CLIP ViT-L/14", "aesthetic quality", "MIT", "openai/clip-vit-large-patch14",
        ("config.json", "model.safetensors|pytorch_model.bin"),
    ),
    KnownWeights(
        "aesthetic_head", "LAION's linear aesthetic head for CLIP ViT-L/14", "aesthetic quality", "MIT",
        "https://github.com/LAION-AI/aesthetic-predictor/raw/main/sa_0_4_vit_l_14_linear.pth",
        ("sa_0_4_vit_l_14_linear.pth",),
    ),
    KnownWeights(
        "musiq_spaq", "MUSIQ trained on SPAQ", "imaging quality",
        "Apache-2.0 (google-research/musiq)",
        "https://github.com/chaofengc/IQA-PyTorch/releases/download/v0.1-weights/musiq_spaq_ckpt-358bb6af.pth",
        ("musiq_spaq_ckpt-358bb6af.pth",), {"musiq_spaq_ckpt-358bb6af.pth": "358bb6af"},
        note="the converted file comes from pyiqa, whose own code is PolyForm-Noncommercial",
    ),
    KnownWeights(
        "amt_s", "AMT-S frame interpolation", "motion smoothness", "CC BY-NC 4.0: not for commercial use",
        "lalala125/AMT", ("amt-s.pth",),
        note="its code is under the same licence and not part of this package: name a checkout of it",
    ),
    KnownWeights(
        "i3d_kinetics400", "I3D trained on Kinetics-400", "FVD, KVD", "Apache-2.0 (pytorch-i3d)",
        "https://github.com/songweige/TATS/raw/main/tats/fvd/i3d_pretrained_400.pt",
        ("i3d_pretrained_400.pt|i3d_pretrained_400.safetensors",),
    ),
    KnownWeights(
        "i3d_torchscript", "I3D as StyleGAN-V's TorchScript", "FVD as StyleGAN-V computes it",
        "not stated by its publisher", "flateon/FVD-I3D-torchscript", ("i3d_torchscript.pt",),
        note="TorchScript is code: load a file only whose origin you trust",
    ),
    KnownWeights(
        "alexnet", "AlexNet trained on ImageNet", "LPIPS (alex)", "BSD-3-Clause (torchvision)",
        "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
        ("alexnet-owt-7be5be79.pth",), {"alexnet-owt-7be5be79.pth": "7be5be79"},
    ),
    KnownWeights(
        "vgg16", "VGG-16 trained on ImageNet", "LPIPS (vgg)", "BSD-3-Clause (torchvision)",
        "https://download.pytorch.org/models/vgg16-397923af.pth", ("vgg16-397923af.pth",),
        {"vgg16-397923af.pth": "397923af"},
    ),
    KnownWeights(
        "rtdetr_r50", "RT-DETR R50, COCO and Objects365", "persons in videos", "Apache-2.0",
        "PekingU/rtdetr_r50vd_coco_o365", ("config.json", "preprocessor_config.json", "model.safetensors"),
    ),
    KnownWeights(
        "vitpose_base", "ViTPose-B", "2-D keypoints from videos", "Apache-2.0", "usyd-community/vitpose-base-simple",
        ("config.json", "preprocessor_config.json", "model.safetensors"),
    ),
    KnownWeights(
        "yunet", "YuNet", "faces in videos", "MIT",
        "https://github.com/opencv/opencv_zoo/raw/main/models/face_detection_yunet/face_detection_yunet_2023mar.onnx",
        ("face_detection_yunet_2023mar.onnx",),
    ),
    KnownWeights(
        "auraface", "AuraFace-v1", "face similarity", "Apache-2.0", "fal/AuraFace-v1", ("glintr100.onnx",),
    ),
    KnownWeights(
        "blazepose", "BlazePose, full", "2-D keypoints from videos without a hub", "Apache-2.0",
        "PyPI mediapipe==0.10.14", tuple(BLAZEPOSE_SHA256), BLAZEPOSE_SHA256,
        note="two files out of a package on PyPI, which is not installed",
    ),
)  # fmt: skip

#: Name -> network.
KNOWN: Mapping[str, KnownWeights] = MappingProxyType({weights.name: weights for weights in _ALL})


def weights_root(root: str | Path | None = None) -> Path:
    """The folder that holds the networks' folders: ``root``, or ``$MACEDANCE_WEIGHTS``, or in the cache folder."""
    if root is not None:
        return Path(root).expanduser()
    chosen = os.environ.get("MACEDANCE_WEIGHTS")
    return Path(chosen).expanduser() if chosen else cache_root() / "weights"


def weights_folder(name: str, root: str | Path | None = None) -> Path:
    """Where a network lies, or would."""
    return weights_root(root) / KNOWN[name].name


def missing_files(name: str, root: str | Path | None = None) -> list[str]:
    """Files that a network lacks; empty where it is complete."""
    folder = weights_folder(name, root)
    return [entry for entry in KNOWN[name].files if not any((folder / file).is_file() for file in entry.split("|"))]


def present(name: str, root: str | Path | None = None) -> bool:
    """Whether all files of a network are there."""
    return not missing_files(name, root)


def locate(name: str, root: str | Path | None = None) -> Path:
    """The folder of a network that is complete and whose files are the published or the pinned ones.

    Raises:
        DependencyError: It is not there; says what it is for, its licence and how to get it.
        CheckpointError: A file is another one than the published one, or than the one that was fetched.
    """
    known, folder = KNOWN[name], weights_folder(name, root)
    missing = missing_files(name, root)
    if missing:
        raise DependencyError(
            f"{known.used_for}: no weights of {known.what} ({known.licence}; {known.source})",
            where=folder,
            expected=", ".join(entry.replace("|", " or ") for entry in missing),
            fix=f"`macedance evaluate weights --download {name}`, or put them there",
        )
    check_hashes(known, folder)
    check_pins(known, folder)
    return folder


def check_pins(known: KnownWeights, folder: Path, found: Mapping[str, str] | None = None) -> bool:
    """Compare files with those that came first; returns whether any was pinned.

    Args:
        known: The network.
        folder: Its folder, with the pins.
        found: Name -> sha256 of files elsewhere; None: those in the folder are read.

    Raises:
        CheckpointError: A file is another one, or the pins are damaged.
    """
    path = folder / PINS
    if not path.is_file():
        return False
    try:
        pins = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError("the pinned hashes cannot be read", where=path, fix=f"remove {folder}") from error
    for name, pinned in pins.items():
        file = folder / name
        sha256 = found.get(name) if found is not None else file_sha256(file) if file.is_file() else None
        if sha256 is not None and sha256 != pinned:
            raise CheckpointError(
                f"{known.what}: {name} is another file than the one that came first",
                where=file,
                expected=f"sha256 {pinned}",
                fix=f"remove {folder} and fetch it again, if you trust the new file",
            )
    return bool(pins)


def check_hashes(known: KnownWeights, folder: Path) -> None:
    """Raise CheckpointError unless each file with a published sha256 (or its first digits) has it."""
    for name, expected in known.sha256.items():
        path = folder / name
        if path.is_file() and not (found := file_sha256(path)).startswith(expected):
            raise CheckpointError(
                f"{known.what} is not the published file: its sha256 begins with {found[: max(8, len(expected))]}",
                where=path,
                expected=expected,
                fix=f"remove it and `macedance evaluate weights --download {known.name}`",
            )


def fingerprint(path: str | Path) -> str:
    """Sha256 (64 hex digits) of a file, or of the names and contents of all files in a folder.

    Raises:
        CheckpointError: There is nothing, or it cannot be read.
    """
    path = Path(path)
    if path.is_file():
        return file_sha256(path)
    files = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith(".") and p.name != PINS)
    if not files:
        raise CheckpointError("no weights", where=path, expected="a file or a folder of them")
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(path).as_posix()}\0{file_sha256(file)}\n".encode())
    return digest.hexdigest()


#: What was found first of files without a published hash: name -> sha256.
PINS = "pinned.json"
_BLOCK_BYTES = 1 << 20


def file_sha256(path: Path) -> str:
    """Sha256 (64 hex digits) of a file.

    Raises:
        CheckpointError: It cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
    except OSError as error:
        raise CheckpointError(f"the weights cannot be read ({error.strerror})", where=path) from error
    return digest.hexdigest()
