"""Frozen networks of one folder of weights, each loaded once, when it is first asked for, and shared by who asks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from macedance.errors import DependencyError
from macedance.vision.aesthetic import AestheticPredictor
from macedance.vision.clip import ClipFeatures
from macedance.vision.dino import DinoFeatures
from macedance.vision.faces import AuraFace, YuNet
from macedance.vision.musiq import Musiq
from macedance.vision.perceptual import ALEX, Lpips
from macedance.vision.video_network import I3dNetwork, VideoNetwork
from macedance.vision.weights import locate, present


class Networks:
    """The networks that judge videos.

    Every property raises DependencyError where its weights are not there, and CheckpointError where they are damaged or
    not the published ones. Nothing is downloaded.

    Args:
        root: Folder of the networks' folders; None: $MACEDANCE_WEIGHTS or the cache.
    """

    def __init__(self, root: str | Path | None = None) -> None:
        self.root = root
        self._loaded: dict[str, Any] = {}

    @property
    def dino(self) -> DinoFeatures:
        """DINO ViT-B/16."""
        return self._once("dino_vitb16", DinoFeatures.from_folder)

    @property
    def clip(self) -> ClipFeatures:
        """CLIP ViT-B/32."""
        return self._once("clip_vit_b32", lambda folder: ClipFeatures.from_folder(folder, "clip_vit_b32"))

    @property
    def aesthetic(self) -> AestheticPredictor:
        """LAION's linear head on CLIP ViT-L/14."""
        absent = [name for name in ("clip_vit_l14", "aesthetic_head") if not present(name, self.root)]
        if len(absent) > 1:
            raise DependencyError(". Also: ".join(self._why_absent(name) for name in absent))
        return self._once("aesthetic_head", lambda folder: AestheticPredictor.from_folder(folder, self._large_clip))

    @property
    def musiq(self) -> Musiq:
        """MUSIQ trained on SPAQ."""
        return self._once("musiq_spaq", Musiq.from_folder)

    @property
    def face_detector(self) -> YuNet:
        """YuNet."""
        return self._once("yunet", YuNet.from_folder)

    @property
    def face_embedder(self) -> AuraFace:
        """AuraFace."""
        return self._once("auraface", AuraFace.from_folder)

    @property
    def i3d(self) -> VideoNetwork:
        """I3D trained on Kinetics-400."""
        return self._once("i3d_kinetics400", I3dNetwork.from_folder)

    @property
    def lpips(self) -> Lpips:
        """LPIPS on AlexNet."""
        return self._once(ALEX.weights, lambda folder: Lpips.from_folder(folder, ALEX))

    @property
    def _large_clip(self) -> ClipFeatures:
        return self._once("clip_vit_l14", lambda folder: ClipFeatures.from_folder(folder, "clip_vit_l14"))

    def _why_absent(self, name: str) -> str:
        try:
            locate(name, self.root)
        except DependencyError as error:
            return str(error)
        return ""

    def _once(self, name: str, load: Callable[[Path], Any]) -> Any:
        if name not in self._loaded:
            self._loaded[name] = load(locate(name, self.root))
        return self._loaded[name]
