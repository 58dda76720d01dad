"""The preset ``honest``: what VBench does not see, with what is on this machine, the rest with the reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from macedance.metrics.appearance.vbench import gathered
from macedance.metrics.honest.driven import KeptKeypoints, PoseAdherence
from macedance.metrics.honest.identity import FaceSimilarity, PersonIdentity
from macedance.metrics.honest.person_motion import WHOLE_FRAME_NOTE, VideoMotion
from macedance.metrics.protocol_result import ProtocolResult
from macedance.metrics.video_protocol import VideoPreset
from macedance.metrics.videos import PerVideoMetric
from macedance.vision.crops import BoxSource
from macedance.vision.networks import Networks

PRESET = "honest"
_MOTION, _IDENTITY, _FACE, _ADHERENCE = "person_motion", "person_identity", "face_similarity", "pck_05"
_KEYS: Mapping[str, tuple[str, ...]] = {
    _MOTION: VideoMotion.all_keys,
    _IDENTITY: PersonIdentity.keys,
    _FACE: FaceSimilarity.keys,
    _ADHERENCE: PoseAdherence.keys,
}
HONEST_KEYS: tuple[str, ...] = tuple(key for keys in _KEYS.values() for key in keys)
NO_DRIVING = "no driving keypoints were given (--driving DIR): nothing says where the dancer should be"
OWN_REFERENCE_NOTE = "no reference images: person and face are compared with the first frame of each video that has one"
#: Body (or, without a detector, picture) heights per second below which a video is named as one that stands still.
#: Encoded, a frozen video has 0.00003; the slowest of 8 rendered dances has 0.065, and 0.015 of the whole picture.
STILL = 0.005


def honest_preset(
    networks: Networks,
    *,
    keypoints: KeptKeypoints | None = None,
    no_keypoints: str = "no source of keypoints was chosen",
    boxes: BoxSource | None = None,
    references: Mapping[str, np.ndarray] | None = None,
    driving: Mapping[str, np.ndarray] | None = None,
    **options: Any,
) -> VideoPreset:
    """Person motion, warp error, identity of body and face, and pose adherence.

    Args:
        networks: DINO, YuNet and AuraFace.
        keypoints: Finds the dancer and their keypoints; None: no adherence.
        no_keypoints: Why there is none.
        boxes: Finds the dancer; None: ``keypoints`` does. Without either motion is the whole picture's, which the
            result says, and identity has no value.
        references: Video name -> picture that shows the person; None: each video's own first frame.
        driving: Video name -> (T, 17, 3) where the dancer should be, in the video's pixels; None: no pose adherence.
        options: As PerVideoMetric, for all metrics.

    Returns:
        The preset. What it lacks weights or inputs for is in ``unavailable``.

    Raises:
        CheckpointError: Weights that are there and are not what they should be.
    """
    people = keypoints if boxes is None else boxes
    makers: dict[str, Callable[[], PerVideoMetric]] = {
        _MOTION: lambda: VideoMotion(people, **options),
        _FACE: lambda: FaceSimilarity(
            networks.face_detector, networks.face_embedder, boxes=people, references=references, **options
        ),
    }
    reasons = {_ADHERENCE: NO_DRIVING if driving is None else no_keypoints}
    if people is not None:
        makers[_IDENTITY] = lambda: PersonIdentity(people, networks.dino, references=references, **options)
    else:
        reasons[_IDENTITY] = no_keypoints
    if keypoints is not None and driving is not None:
        makers[_ADHERENCE] = lambda: PoseAdherence(keypoints, driving, **options)
        del reasons[_ADHERENCE]
    metrics, absent = gathered(makers)
    unavailable = {key: reason for which, reason in (reasons | absent).items() for key in _KEYS[which]}
    return VideoPreset(PRESET, metrics, unavailable, HONEST_KEYS, _notes(metrics, people is None, references is None))


def _notes(metrics: list[PerVideoMetric], nobody_found: bool, own_reference: bool) -> list[str]:
    notes = [f"{_MOTION}: {WHOLE_FRAME_NOTE}"] if nobody_found else []
    compares = any(isinstance(metric, PersonIdentity | FaceSimilarity) for metric in metrics)
    return [*notes, OWN_REFERENCE_NOTE] if compares and own_reference else notes


def stillness_notes(result: ProtocolResult) -> list[str]:
    """A sentence that names the videos that stand still, which are the best ones of half of VBench."""
    clips = result.per_clip.get(PRESET, {}).get(_MOTION, {})
    still = [name for name, value in clips.items() if value < STILL]
    if not still:
        return []
    return [
        f"{len(still)} of {len(clips)} videos stand still (motion amplitude below {STILL:g}), which consistency, "
        f"smoothness and flicker reward: {', '.join(still)}"
    ]
