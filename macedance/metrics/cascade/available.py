"""The judges that this machine has weights for, and the reasons for the others."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from macedance.errors import DependencyError
from macedance.metrics.appearance.vbench import vbench_preset
from macedance.metrics.cascade.judges import CONTACT_KEYS, ArmClip, FootContact, Judge, Judges
from macedance.metrics.cascade.sets import WindowLooker
from macedance.metrics.honest.adherence import ADHERENCE_KEYS
from macedance.metrics.honest.driven import KeptKeypoints, PoseAdherence
from macedance.metrics.honest.identity import FaceSimilarity, PersonIdentity
from macedance.metrics.honest.person_motion import VideoMotion
from macedance.metrics.videos import PerVideoMetric
from macedance.vision.keypoints import KeypointSource
from macedance.vision.networks import Networks
from macedance.vision.perceptual import Lpips

#: Each rank judges its own clips and their values are gathered once, by whoever asked.
_LOCAL: dict[str, Any] = {"sync_on_compute": False}


def available_judges(
    weights: Networks | str | Path | None = None,
    *,
    keypoints: KeypointSource | None = None,
    no_keypoints: str = "no source of keypoints was given",
    device: str = "cpu",
    vbench: bool = True,
) -> Judges:
    """Everything that can judge the videos of a cascade here.

    Args:
        weights: Networks that may be shared, or the root of their folders; None: $MACEDANCE_WEIGHTS or the cache.
        keypoints: Finds keypoints and boxes; None: pose adherence, contact and identity are null, and motion is that of
            the whole picture.
        no_keypoints: The reason that is then given.
        device: Where the networks run.
        vbench: Also VBench's dimensions, as far as there are weights.

    Raises:
        CheckpointError: Weights that are there and are not the published ones.
    """
    networks = weights if isinstance(weights, Networks) else Networks(weights)
    found = _Found(networks, device)
    kept = None if keypoints is None else KeptKeypoints(keypoints)
    if kept is None:
        found.lack((*CONTACT_KEYS, *ADHERENCE_KEYS, "person_identity"), no_keypoints)
    else:
        found.by_source(kept)
        found.identity(kept)
    found.faces(kept)
    found.shared(VideoMotion(kept, **_LOCAL))
    if vbench:
        preset = vbench_preset(networks, **_LOCAL)
        for metric in preset.metrics:
            found.shared(metric)
        for key, reason in preset.unavailable.items():
            found.lack((key,), reason)
    return Judges(found.judges, found.missing, found.weights, found.settings, kept, found.pictures())


def available_looker(
    weights: Networks | str | Path | None = None, *, device: str = "cpu"
) -> tuple[WindowLooker | None, str]:
    """What FVD and KVD are computed from, I3D's features; or None and why. Weights as of available_judges.

    Raises:
        CheckpointError: Weights that are there and are not the published ones.
    """
    try:
        network = (weights if isinstance(weights, Networks) else Networks(weights)).i3d
    except DependencyError as error:
        return None, str(error)
    return WindowLooker(network, device=device), ""


class _Found:
    """Collects judges."""

    def __init__(self, networks: Networks, device: str) -> None:
        self.networks, self.device = networks, device
        self.judges: list[Judge] = []
        self.missing: dict[str, str] = {}
        self.weights: dict[str, str] = {}
        self.settings: dict[str, Any] = {}

    def lack(self, keys: Sequence[str], reason: str) -> None:
        """Nothing judges these keys."""
        self.missing |= dict.fromkeys(keys, reason)

    def shared(self, metric: PerVideoMetric) -> None:
        """A metric that needs nothing but the videos: a copy of it judges every arm."""
        pristine = metric.to(self.device)
        self._add(metric, lambda clips: copy.deepcopy(pristine))

    def by_source(self, source: KeptKeypoints) -> None:
        """What is read from keypoints."""

        def adherence(clips: Sequence[ArmClip]) -> PerVideoMetric:
            driving = {clip.name: clip.driving for clip in clips if clip.driving is not None}
            return PoseAdherence(source, driving, **_LOCAL)

        self._add(PoseAdherence(source, {}, **_LOCAL), adherence, needs_driving=True)
        self._add(FootContact((), source, **_LOCAL), lambda clips: FootContact(clips, source, **_LOCAL))

    def identity(self, boxes: KeptKeypoints) -> None:
        """The person against the reference image, by DINO features of the person's box."""
        try:
            features = self.networks.dino
        except DependencyError as error:
            self.lack(("person_identity",), str(error))
            return

        def make(clips: Sequence[ArmClip]) -> PerVideoMetric:
            return PersonIdentity(boxes, features, references=_pictures(clips), **_LOCAL).to(self.device)

        self._add(PersonIdentity(boxes, features, references={}, **_LOCAL), make)

    def faces(self, boxes: KeptKeypoints | None) -> None:
        """The face against that of the reference image."""
        try:
            detector, embedder = self.networks.face_detector, self.networks.face_embedder
        except DependencyError as error:
            self.lack(("face_similarity", "face_rate"), str(error))
            return

        def make(clips: Sequence[ArmClip]) -> PerVideoMetric:
            return FaceSimilarity(detector, embedder, boxes=boxes, references=_pictures(clips), **_LOCAL)

        self._add(FaceSimilarity(detector, embedder, boxes=boxes, references={}, **_LOCAL), make)

    def pictures(self) -> Lpips | None:
        """The network of LPIPS."""
        try:
            network = self.networks.lpips
        except DependencyError as error:
            self.lack(("lpips",), str(error))
            return None
        self.weights[network.name] = network.fingerprint
        return network.to(self.device)

    def _add(self, example: PerVideoMetric, make: Any, *, needs_driving: bool = False) -> None:
        self.judges.append(Judge(tuple(example.keys), make, needs_driving))
        self.weights |= example.weights
        self.settings |= {key: example.settings for key in example.keys}


def _pictures(clips: Sequence[ArmClip]) -> Mapping[str, Any]:
    return {clip.name: clip.reference_image for clip in clips}
