"""From the scores of the arms to one result of the protocol."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from macedance.errors import DataError
from macedance.metrics.cascade.arms import MOTION_KEYS, Cascade, perturbation_settings
from macedance.metrics.cascade.differences import GATES, Gate
from macedance.metrics.cascade.judges import CONTACT_KEYS
from macedance.metrics.cascade.pixels import PIXEL_KEYS
from macedance.metrics.cascade.scores import GENERATED, ArmScores, cascade_result
from macedance.metrics.cascade.sets import SET_KEYS
from macedance.metrics.honest.adherence import ADHERENCE_KEYS
from macedance.metrics.protocol_result import ProtocolResult
from macedance.metrics.statistics import MEAN_RESAMPLES

if TYPE_CHECKING:
    from macedance.rendering.motion_to_video import Danced

#: What a comparison reports, in this order, null where nothing here can judge it; then whatever else judges it.
CASCADE_KEYS: tuple[str, ...] = (
    *CONTACT_KEYS,
    *ADHERENCE_KEYS,
    "person_identity", "face_similarity", "face_rate",
    "subject_consistency", "background_consistency", "motion_smoothness", "temporal_flickering",
    "warp_error", "warp_error_person", "person_motion",
    *PIXEL_KEYS,
    *MOTION_KEYS,
)  # fmt: skip
NOT_JUDGED = "nothing that judges it was given"


def evaluate_cascade(
    cascade: Cascade,
    generated: Mapping[str, Danced],
    *,
    gates: Sequence[Gate] = GATES,
    resamples: int = MEAN_RESAMPLES,
    allow_small_n: bool = False,
    left_out: Mapping[str, Mapping[str, str]] | None = None,
    notes: Sequence[str] = (),
) -> ProtocolResult:
    """Measure every arm in this process and compare them with the ground truth's.

    Several ranks measure their shares instead (``Cascade.fixed_arms`` and ``Cascade.generated``), gather them, merge
    each arm's parts (``merge_scores``) and call ``cascade_report``.

    Args:
        cascade: The reference's clips with renderer and judges.
        generated: Clip -> generated motion; a clip without one is left out of that arm and said so.
        gates: Limits of the differences.
        resamples: Of the bootstrap; 0: no intervals.
        allow_small_n: Fréchet distances of fewer windows than features too.
        left_out: ``generated`` or ``reference`` -> file -> why it was left out before.
        notes: What a reader must know, one sentence each.

    Raises:
        DataError: No clip, a motion that the renderer refuses, a video that cannot be read or written.
    """
    if not cascade.clips or not generated:
        raise DataError(
            f"{len(generated)} generated and {len(cascade.clips)} reference clips", expected="at least one of each"
        )
    arms = [*cascade.fixed_arms(), cascade.generated(generated)]
    return cascade_report(
        cascade, arms, gates=gates, resamples=resamples, allow_small_n=allow_small_n, left_out=left_out, notes=notes
    )


def cascade_report(
    cascade: Cascade,
    arms: Sequence[ArmScores],
    *,
    gates: Sequence[Gate] = GATES,
    resamples: int = MEAN_RESAMPLES,
    allow_small_n: bool = False,
    left_out: Mapping[str, Mapping[str, str]] | None = None,
    notes: Sequence[str] = (),
) -> ProtocolResult:
    """The result of the scores of all arms, of all ranks together; see evaluate_cascade.

    Args:
        cascade: One with all clips: they, its renderer, judges and settings are what is recorded.
        arms: Each arm once.
        gates: Limits of the differences.
        resamples: Of the bootstrap; 0: no intervals.
        allow_small_n: Fréchet distances of fewer windows than features too.
        left_out: What was left out before.
        notes: What a reader must know.

    Raises:
        DataError: No scores of the ground-truth arm.
    """
    from macedance.rendering.motion_to_video import renderer_facts

    renderer, judges = cascade.renderer, cascade.judges
    by_name = {scores.arm: scores for scores in arms}
    order = [arm for arm in cascade.arms if arm in by_name] + [arm for arm in by_name if arm not in cascade.arms]
    judged = [key for scores in arms for key in scores.values]
    keys = [key for key in dict.fromkeys([*CASCADE_KEYS, *judged, *judges.missing]) if key not in SET_KEYS]
    arms = [_explained(by_name[arm], keys) for arm in order]
    counts = {arm: len(by_name[arm].clips) for arm in order}
    inputs: dict[str, Any] = {
        "fps": {"video": renderer.fps, "motion": _rates(cascade)},
        "resolution": renderer.settings.get("size"),
        "seconds_per_clip": {"reference": _seconds(cascade)},
        "clips": {"generated": counts.get(GENERATED, 0), "reference": max(counts.values(), default=0), "arms": counts},
        "settings": {
            "resamples": resamples,
            "allow_small_n": allow_small_n,
            "seed": cascade.seed,
            "gates": [gate.described() for gate in gates],
        },
        "renderer": renderer_facts(renderer),
        "left_out": {which: dict(names) for which, names in (left_out or {}).items()},
        "notes": {"cascade": list(notes)} if notes else {},
    }
    looker = cascade.looker
    looking = {} if looker is None else {looker.network.name: looker.network.fingerprint}
    conventions = {
        "renderer": type(renderer).__name__,
        "renderer_settings": dict(renderer.settings),
        "reference_images": _pictures(cascade),
        "judges": dict(judges.settings),
        "perturbations": perturbation_settings(cascade.perturbations),
        "levels": list(cascade.levels),
        "windows": None if looker is None else asdict(looker.sampling),
        "judged": "files" if cascade.folder is not None else "what the renderer drew",
    }
    return cascade_result(
        arms,
        keys,
        inputs=inputs,
        conventions=conventions,
        weights={**judges.weights, **looking, **renderer.weights},
        gates=gates,
        resamples=resamples,
        seed=cascade.seed,
        allow_small_n=allow_small_n,
    )


def _explained(scores: ArmScores, keys: Sequence[str]) -> ArmScores:
    """The scores with a reason for every key that has no value at all."""
    reasons = {key: NOT_JUDGED for key in keys if key not in scores.values} | dict(scores.reasons)
    return replace(scores, reasons=reasons)


def _pictures(cascade: Cascade) -> dict[str, Any]:
    """Of how many clips pictures were given, and their content; the renderer drew those of the others."""
    given = {clip.name: clip.reference_image for clip in cascade.clips if clip.reference_image is not None}
    digest = hashlib.sha256()
    for name, picture in sorted(given.items(), key=lambda item: item[0]):
        digest.update(f"{name} {picture.shape} ".encode())
        digest.update(np.ascontiguousarray(picture).tobytes())
    return {"given": len(given), "sha256": digest.hexdigest() if given else None}


def _rates(cascade: Cascade) -> list[float]:
    return sorted({float(clip.motion.fps) for clip in cascade.clips})


def _seconds(cascade: Cascade) -> dict[str, float]:
    from macedance.rendering.motion_to_video import joints_of

    seconds = np.array([len(joints_of(clip.motion)) / clip.motion.fps for clip in cascade.clips])
    return {name: round(float(f(seconds)), 3) for name, f in (("min", np.min), ("median", np.median), ("max", np.max))}
