"""What is known of the clips of one set, and the entries of an evaluation made from it.

Shapes: n clips, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from macedance.metrics.conventions import Preset
from macedance.metrics.functional.beat import beat_alignment, shuffled_alignment
from macedance.metrics.functional.beat_matching import match_beats
from macedance.metrics.functional.frechet import frechet_distance, mean_pairwise_distance
from macedance.metrics.statistics import (
    Entry,
    bootstrap_diversity,
    bootstrap_frechet,
    bootstrap_mean,
    reference_floor,
    small_sample_reason,
)

#: Features of the reference that vary less are dead.
DEAD_STD = 1e-6
NO_MUSIC = "no music beats within the clip"


@dataclass(frozen=True)
class Reporting:
    """What is reported beside the values.

    Args:
        allow_small_n: Fréchet distances for fewer clips than features too.
        extras: Also ``beat_precision beat_coverage beat_f1 minima_rate bone_length_variation floor_penetration_m``,
            where the preset counts in seconds.
        resamples: Of the bootstrap of means, a fifth of it for Fréchet distances; 0: no intervals.
        floor_draws: Draws of the reference-against-reference floor; 0: no floor.
        seed: Of both.
    """

    allow_small_n: bool = False
    extras: bool = False
    resamples: int = 0
    floor_draws: int = 0
    seed: int = 0


@dataclass(frozen=True)
class ClipTable:
    """What is known of the n clips of one set.

    Args:
        kinetic: (n, D) features.
        geometric: (n, D) features.
        scalars: Numbers (n,) by name.
        dances: Motion beats of each clip.
        music: Music beats of each clip; empty where it has none.
        songs: Number of each clip's song.
        extents: Where each clip ends, in the unit of the beats.
        left_out: Clips that the preset leaves out.
        ids: Id of each clip, or of the clip that a window is of.
        left_out_ids: Ids of the clips that the preset leaves out.
    """

    kinetic: Tensor
    geometric: Tensor
    scalars: dict[str, np.ndarray]
    dances: list[np.ndarray]
    music: list[np.ndarray]
    songs: list[int]
    extents: np.ndarray
    left_out: int
    ids: list[int] = field(default_factory=list)
    left_out_ids: list[int] = field(default_factory=list)


def entries(generated: ClipTable, reference: ClipTable, preset: Preset, reporting: Reporting) -> dict[str, Entry]:
    """All entries of one preset: see MotionMetrics."""
    result: dict[str, Entry] = {}
    for key, x, y in (
        ("k", generated.kinetic, reference.kinetic),
        ("g", generated.geometric, reference.geometric),
    ):
        result |= _distribution(key, x, y, preset, reporting)
    result |= _clip_means(generated, "", preset, reporting) | _clip_means(reference, "_reference", preset, reporting)
    for key, entry in result.items():
        missing = reference.left_out if key.endswith("_reference") else generated.left_out
        if missing:
            entry["shorter_than_window"] = missing
        if key.startswith("fid_") and reference.left_out:
            entry["reference_shorter_than_window"] = reference.left_out
    return result


def _distribution(key: str, x: Tensor, y: Tensor, preset: Preset, reporting: Reporting) -> dict[str, Entry]:
    """Entries fid_, div_ and div_..._reference of one kind of features, generated x and reference y."""
    n, m, dims = len(x), len(y), x.shape[1]
    fid: Entry = {"value": None, "n": n, "n_reference": m}
    div: Entry = {"value": None, "n": n}
    own: Entry = {"value": None, "n": m}
    result = {f"fid_{key}": fid, f"div_{key}": div, f"div_{key}_reference": own}
    if m < 2:
        for entry in result.values():
            entry["reason"] = f"{m} reference clips: features are standardised by at least 2"
        return result
    if reporting.floor_draws and n:
        options = {"draws": reporting.floor_draws, "seed": reporting.seed, "allow_small_n": reporting.allow_small_n}
        fid["floor"] = reference_floor(y, n, preset, **options)  # type: ignore[arg-type]
    if n < 2:
        own["value"] = mean_pairwise_distance(preset.standardization(y).apply(y))
        fid["reason"] = div["reason"] = f"{n} generated clips: at least 2 are needed"
        return result
    dead = int((y.std(dim=0) < DEAD_STD).sum())
    x, y, dropped = preset.standardized(x, y)
    fid |= {"dims": dims, "dropped_dims": dropped}
    if dead > dropped and not preset.own_statistics:
        # Kept and divided by almost nothing: one generated clip that moves there outweighs all else.
        fid["dead_dims"] = dead
    for entry, features in ((own, y), (div, x)):
        entry["value"] = mean_pairwise_distance(features)
        if reporting.resamples:
            _add_interval(
                entry,
                bootstrap_diversity(features, entry["value"], resamples=reporting.resamples, seed=reporting.seed),
            )
    reason = small_sample_reason(min(n, m), dims)
    if reason and not reporting.allow_small_n:
        fid["reason"] = reason
        return result
    fid["value"] = frechet_distance(x, y)
    if reporting.resamples:
        resamples = max(1, reporting.resamples // 5)
        _add_interval(fid, bootstrap_frechet(x, y, fid["value"], resamples=resamples, seed=reporting.seed))
    return result


def clip_values(table: ClipTable, preset: Preset, *, extras: bool = False) -> dict[str, np.ndarray]:
    """The values (n,) of each clip behind the means, NaN where it has none; ``foot_skating`` is (n, 2), the feet.

    Args:
        table: The clips.
        preset: Its conventions.
        extras: See Reporting.
    """
    scalars, tolerance = table.scalars, preset.beat.tolerance
    pairs = list(zip(table.music, table.dances, strict=True))

    def with_music(score: Callable[[np.ndarray, np.ndarray], float]) -> np.ndarray:
        return np.array([score(music, dance) if music.size else np.nan for music, dance in pairs], dtype=np.float64)

    shuffled = shuffled_alignment(table.dances, table.music, table.songs, table.extents.tolist(), tolerance)
    # The same clips as `bas`, so that the two can be subtracted.
    shuffled[[music.size == 0 for music, _ in pairs]] = np.nan
    values = {
        "bas": with_music(lambda m, d: beat_alignment(m, d, tolerance)),
        # A dance without any minimum never comes to rest on a beat: 0, not left out.
        "bas_motion": with_music(lambda m, d: beat_alignment(d, m, tolerance) if d.size else 0.0),
        "bas_shuffled": shuffled,
        "foot_skating": np.stack([scalars["skating_left"], scalars["skating_right"]], axis=-1),
        **{key: scalars[key] for key in ("pfc", "pbc", "jerk")},
    }
    if extras and not preset.beat.in_frames:
        for name in ("precision", "coverage", "f1"):
            values[f"beat_{name}"] = with_music(lambda m, d, n=name: float(getattr(match_beats(d, m), n)))  # type: ignore[misc]
        values["minima_rate"] = np.array([len(dance) for dance in table.dances]) / table.extents
        values |= {name: scalars[name] for name in ("bone_length_variation", "floor_penetration_m")}
    return values


def _why_missing(key: str, preset: Preset) -> str:
    if key == "bas_shuffled":
        return "no music beats, or no other song"
    if key.startswith(("bas", "beat_")):
        return NO_MUSIC
    return preset.missing_reason or ("no foot touches the floor" if key == "foot_skating" else "no value")


def _clip_means(table: ClipTable, suffix: str, preset: Preset, reporting: Reporting) -> dict[str, Entry]:
    """Entries that are means over the clips of one set."""
    values = clip_values(table, preset, extras=reporting.extras)
    return {f"{key}{suffix}": _mean(array, _why_missing(key, preset), reporting) for key, array in values.items()}


def _mean(values: np.ndarray, why_missing: str, reporting: Reporting) -> Entry:
    """Mean over the clips that have a value; those left out are counted with the reason.

    Of values (n, 2), the feet, the mean of the feet's means; feet without a value are counted where their clip has one.
    """
    columns = values[:, None] if values.ndim == 1 else values
    present = ~np.isnan(columns)
    used = present.any(axis=1)
    entry: Entry = {"value": None, "n": int(used.sum())}
    if used.any():
        entry["value"] = float(np.nanmean(np.where(present, columns, np.nan), axis=0).mean())
        lone = int((~present[used]).sum())
        if lone:
            entry["feet_without_contact"] = lone + 2 * int((~used).sum())
    if not used.all():
        entry |= {"left_out": int((~used).sum()), "reason": why_missing}
    elif not used.size:
        entry["reason"] = "no clips"
    if reporting.resamples:
        _add_interval(entry, bootstrap_mean(values, resamples=reporting.resamples, seed=reporting.seed))
    return entry


def _add_interval(entry: Entry, interval: Sequence[float] | None) -> None:
    if interval is not None:
        entry["ci95"] = [float(end) for end in interval]
