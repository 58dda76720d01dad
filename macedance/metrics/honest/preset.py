"""The preset ``honest``: what VBench does not see, with what is on this machine, the rest with the reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from macedance.metrics.appearance.vbench import gathered
from macedance.metrics.honest.adherence import ADHERENCE_KEYS
from macedance.metrics.honest.driven import KeptKeypoints, PoseAdherence
from macedance.metrics.honest.identity import FaceSimilarity, PersonIdentity
from macedance.metrics.honest.person_motion import VideoMotion
from macedance.metrics.protocol_result import ProtocolResult
from macedance.metrics.video_protocol import VideoPreset
from macedance.metrics.videos import PerVideoMetric
from macedance.vision.networks import Networks

PRESET = "honest"
HONEST_KEYS: tuple[str, ...] = (
    "person_motion",
    "warp_error",
    "warp_error_person",
    "warp_error_background",
    "warp_valid",
    "person_identity",
    "person_identity_p10",
    "face_similarity",
    "face_similarity_p10",
    "face_rate",
    "face_drift",
    *ADHERENCE_KEYS,
)
NO_DRIVING = "no driving keypoints were given (--driving DIR): nothing says where the dancer should be"
#: Body (or, without a detector, picture) heights per second below which a video is named as one that stands still: a
#: tenth of what slow dances have.
STILL = 0.02


def honest_preset(
    networks: Networks,
    *,
    keypoints: KeptKeypoints | None = None,
    no_keypoints: str = "no source of keypoints was chosen",
    references: Mapping[str, np.ndarray] | None = None,
    driving: Mapping[str, np.ndarray] | None = None,
    **options: Any,
) -> VideoPreset:
    """Person motion, warp error, identity of body and face, and pose adherence.

    Args:
        networks: DINO, YuNet and AuraFace.
        keypoints: Finds the dancer and their keypoints; None: motion is the whole picture's, identity and adherence
            have no value.
        no_keypoints: Why there is none.
        references: Video name -> picture that shows the person; None: each video's own first frame.
        driving: Video name -> (T, 17, 3) where the dancer should be, in the video's pixels; None: no pose adherence.
        options: As PerVideoMetric, for all metrics.

    Raises:
        CheckpointError: Weights that are there and are not what they should be.
    """
    makers: dict[str, Callable[[], PerVideoMetric]] = {
        "person_motion": lambda: VideoMotion(keypoints, **options),
        "face_similarity": lambda: FaceSimilarity(
            networks.face_detector, networks.face_embedder, boxes=keypoints, references=references, **options
        ),
    }
    if keypoints is not None:
        makers["person_identity"] = lambda: PersonIdentity(keypoints, networks.dino, references=references, **options)
        if driving is not None:
            makers["pck_05"] = lambda: PoseAdherence(keypoints, driving, **options)
    metrics, unavailable = gathered(makers)
    if "face_similarity" in unavailable:
        unavailable["face_rate"] = unavailable["face_similarity"]
    if keypoints is None:
        unavailable |= dict.fromkeys(("person_identity", *ADHERENCE_KEYS), no_keypoints)
    elif driving is None:
        unavailable |= dict.fromkeys(ADHERENCE_KEYS, NO_DRIVING)
    return VideoPreset(PRESET, metrics, unavailable, HONEST_KEYS)


def stillness_notes(result: ProtocolResult) -> list[str]:
    """A sentence that names the videos that stand still, which are the best ones of half of VBench."""
    clips = result.per_clip.get(PRESET, {}).get("person_motion", {})
    still = [name for name, value in clips.items() if value < STILL]
    if not still:
        return []
    return [
        f"{len(still)} of {len(clips)} videos stand still (motion amplitude below {STILL:g}), which consistency, "
        f"smoothness and flicker reward: {', '.join(still)}"
    ]
