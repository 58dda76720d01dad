"""What raters' choices between two systems say: win rates with honest intervals, agreement, and which metrics follow.

Shapes: R raters, C clips, B resamples. A choice for system a scores 1, for b 0, and no difference 0.5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np

from macedance.metrics.statistics import Entry, Interval

System = Literal["a", "b"]
Choice = Literal["a", "b", "tie"]
_SCORES: dict[str, float] = {"a": 1.0, "tie": 0.5, "b": 0.0}

RESAMPLES = 2000
_COVERED = (0.025, 0.975)
#: Standard normal quantile of a two-sided 95% interval.
_Z = 1.959963984540054
#: Up to so many raters, all patterns of signs are gone through.
_EXACT_RATERS = 14
_PERMUTATIONS = 20000
_FEW_RATERS = 6
_FEWEST_CLIPS = 4


@dataclass(frozen=True)
class Question:
    """One question to raters.

    Args:
        key: Short name in files.
        name: As the paper calls it.
        text: What the rater reads.
        about: ``motion`` or ``appearance``.
        source: Whose question it is.
    """

    key: str
    name: str
    text: str
    about: Literal["motion", "appearance"]
    source: str


#: The six dimensions of MACE-Dance's user study (arXiv 2512.18181v3, supplement 7.1); the wording is ours.
MACE_QUESTIONS: tuple[Question, ...] = (
    Question("ds", "Dance Synchronization", "Which dance goes better with the rhythm and the style of the music?",
             "motion", "MACE-Dance"),
    Question("dq", "Dance Quality", "Which dance is more plausible for a human body, and more beautiful?",
             "motion", "MACE-Dance"),
    Question("dc", "Dance Creativity", "Which dance is more original and more varied?", "motion", "MACE-Dance"),
    Question("pq", "Perceptual Quality", "Which video looks more natural and more pleasing as a picture?",
             "appearance", "MACE-Dance"),
    Question("tc", "Temporal Consistency", "Which video is steadier over time, the dancer and the background alike?",
             "appearance", "MACE-Dance"),
    Question("ic", "Identity Consistency", "In which video does the dancer stay more the same person?",
             "appearance", "MACE-Dance"),
)  # fmt: skip
#: The three columns of EDMG's user study (its Table 6: GM, RM, Div); names and wording are ours, it prints letters.
EDMG_QUESTIONS: tuple[Question, ...] = (
    Question("gm", "Genre Matching", "Which dance suits the genre of the music better?", "motion", "EDMG"),
    Question("rm", "Rhythm Matching", "Which dance follows the beat of the music more closely?", "motion", "EDMG"),
    Question("div", "Diversity", "Which dance is made of more different movements?", "motion", "EDMG"),
)
QUESTION_SETS: Mapping[str, tuple[Question, ...]] = {
    "mace": MACE_QUESTIONS,
    "edmg": EDMG_QUESTIONS,
    "all": MACE_QUESTIONS + EDMG_QUESTIONS,
}
QUESTIONS: Mapping[str, Question] = {question.key: question for question in QUESTION_SETS["all"]}


@dataclass(frozen=True)
class Answer:
    """One choice of one rater.

    Args:
        rater: Code of the rater.
        trial: The pair as it was shown.
        clip: Name of the clip.
        question: Key of the question.
        choice: ``a``, ``b`` or ``tie``.
        left: The system on the left.
        repeat: Whether the pair was shown to this rater before.
        seconds: Spent on the pair when the answer was given.
    """

    rater: str
    trial: str
    clip: str
    question: str
    choice: Choice
    left: System
    repeat: bool = False
    seconds: float = 0.0


def wilson_interval(wins: int, n: int) -> Interval | None:
    """95% interval of a share of n independent choices (Wilson 1927); None of none."""
    if n == 0:
        return None
    share, spread = wins / n, _Z**2 / n
    middle = (share + spread / 2) / (1 + spread)
    half = _Z * np.sqrt(share * (1 - share) / n + spread / (4 * n)) / (1 + spread)
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))


def win_rates(answers: Sequence[Answer], *, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Entry]:
    """For each question, how often system a was preferred.

    Answers of one rater are no independent samples: intervals resample raters, not answers, and the test flips the
    signs of whole raters. Repeated pairs are left out.

    Returns:
        Question -> ``value`` (share of a, a tie counting half), ``ci95`` (raters resampled), ``ci95_raters_and_clips``
        (both resampled: also for other songs), ``n`` answers, ``raters``, ``clips``, ``wins_a wins_b ties``,
        ``win_rate`` (of the answers that are no ties) with ``win_rate_wilson95`` (which takes answers for
        independent), ``p_value`` (two-sided, raters' signs flipped) and ``p_holm`` (for all questions together).
    """
    by_question: dict[str, list[Answer]] = {}
    for answer in answers:
        if not answer.repeat:
            by_question.setdefault(answer.question, []).append(answer)
    entries = {key: _win_rate(given, resamples, seed) for key, given in by_question.items()}
    tested = sorted((entry for entry in entries.values() if "p_value" in entry), key=lambda entry: entry["p_value"])
    highest = 0.0
    for rank, entry in enumerate(tested):
        highest = max(highest, min(1.0, entry["p_value"] * (len(tested) - rank)))
        entry["p_holm"] = highest
    return entries


def _win_rate(given: Sequence[Answer], resamples: int, seed: int) -> Entry:
    scores_RC, counts_RC = _table(given)
    raters, clips = counts_RC.shape
    wins = {choice: sum(answer.choice == choice for answer in given) for choice in _SCORES}
    decided = wins["a"] + wins["b"]
    entry: Entry = {
        "value": float(scores_RC.sum() / counts_RC.sum()), "n": len(given), "raters": raters, "clips": clips,
        "wins_a": wins["a"], "wins_b": wins["b"], "ties": wins["tie"],
        "win_rate": wins["a"] / decided if decided else None,
    }  # fmt: skip
    wilson = wilson_interval(wins["a"], decided)
    if wilson is not None:
        entry["win_rate_wilson95"] = list(wilson)
    if raters < 2:
        return entry | {"reason": "one rater: no interval for other raters"}
    generator = np.random.default_rng(seed)
    by_rater = generator.multinomial(raters, np.full(raters, 1 / raters), size=resamples).astype(np.float64)
    by_clip = generator.multinomial(clips, np.full(clips, 1 / clips), size=resamples).astype(np.float64)
    entry["ci95"] = _quantiles((by_rater @ scores_RC.sum(1)) / (by_rater @ counts_RC.sum(1)))
    counts = ((by_rater @ counts_RC) * by_clip).sum(1)
    both = ((by_rater @ scores_RC) * by_clip).sum(1)[counts > 0] / counts[counts > 0]
    entry["ci95_raters_and_clips"] = _quantiles(both)
    entry["p_value"] = _sign_flips((scores_RC - 0.5 * counts_RC).sum(1), seed)
    if raters < _FEW_RATERS:
        entry["reason"] = f"{raters} raters: too few for a difference to be significant, and the interval is too narrow"
    return entry


def _table(given: Sequence[Answer]) -> tuple[np.ndarray, np.ndarray]:
    """Sums of scores and numbers of answers (R, C)."""
    raters = {name: row for row, name in enumerate(sorted({answer.rater for answer in given}))}
    clips = {name: column for column, name in enumerate(sorted({answer.clip for answer in given}))}
    scores_RC, counts_RC = np.zeros((len(raters), len(clips))), np.zeros((len(raters), len(clips)))
    for answer in given:
        place = raters[answer.rater], clips[answer.clip]
        scores_RC[place] += _SCORES[answer.choice]
        counts_RC[place] += 1
    return scores_RC, counts_RC


def _quantiles(values: np.ndarray) -> list[float]:
    return [float(end) for end in np.quantile(values, _COVERED)]


def _sign_flips(leanings_R: np.ndarray, seed: int) -> float:
    """Two-sided p-value of the sum of the raters' leanings to a, were each as likely to lean to b."""
    raters = len(leanings_R)
    if raters <= _EXACT_RATERS:
        signs = np.array(list(product((-1.0, 1.0), repeat=raters)))
    else:
        signs = np.random.default_rng(seed).choice((-1.0, 1.0), size=(_PERMUTATIONS, raters))
        signs[0] = 1.0
    return float((np.abs(signs @ leanings_R) >= abs(leanings_R.sum()) - 1e-9).mean())


def preferences(answers: Sequence[Answer]) -> dict[str, dict[str, float]]:
    """Question -> clip -> the raters' mean score of a (0 to 1), repeated pairs left out."""
    sums: dict[str, dict[str, list[float]]] = {}
    for answer in answers:
        if not answer.repeat:
            sums.setdefault(answer.question, {}).setdefault(answer.clip, []).append(_SCORES[answer.choice])
    return {key: {clip: float(np.mean(given)) for clip, given in clips.items()} for key, clips in sums.items()}


def krippendorff_alpha(answers: Sequence[Answer]) -> float | None:
    """How far raters agree beyond chance on one question: 1 always, 0 as by chance (Krippendorff's alpha, nominal).

    None where no pair was judged by two raters, or all answers are the same.
    """
    units: dict[str, list[str]] = {}
    for answer in answers:
        if not answer.repeat:
            units.setdefault(answer.clip, []).append(answer.choice)
    kinds = tuple(_SCORES)
    counts = np.array([[given.count(kind) for kind in kinds] for given in units.values() if len(given) > 1], float)
    if not len(counts):
        return None
    sizes, total = counts.sum(1), counts.sum(0)
    n = total.sum()
    observed = ((sizes**2 - (counts**2).sum(1)) / (sizes - 1)).sum() / n
    expected = (n**2 - (total**2).sum()) / (n * (n - 1))
    return None if expected == 0 else float(1 - observed / expected)


def left_share(answers: Sequence[Answer]) -> Entry:
    """How often the left side was chosen, ties left out: far from a half, raters did not look."""
    decided = [answer for answer in answers if answer.choice != "tie"]
    left = sum(answer.choice == answer.left for answer in decided)
    entry: Entry = {"value": left / len(decided) if decided else None, "n": len(decided)}
    interval = wilson_interval(left, len(decided))
    return entry | ({"ci95": list(interval)} if interval else {"reason": "no choice between the sides"})


def self_agreement(answers: Sequence[Answer]) -> Entry:
    """How often a rater chose the same system when a pair came again with its sides exchanged."""
    first = {(a.rater, a.clip, a.question): a.choice for a in answers if not a.repeat}
    again = [a for a in answers if a.repeat and (a.rater, a.clip, a.question) in first]
    same = sum(first[a.rater, a.clip, a.question] == a.choice for a in again)
    entry: Entry = {"value": same / len(again) if again else None, "n": len(again)}
    interval = wilson_interval(same, len(again))
    return entry | ({"ci95": list(interval)} if interval else {"reason": "no pair was shown twice"})


def correlation_with_metric(
    preference: Mapping[str, float],
    metric_a: Mapping[str, float],
    metric_b: Mapping[str, float],
    *,
    better: int = 0,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Entry:
    """Whether a metric prefers what raters prefer, over the clips of both systems.

    Args:
        preference: Clip -> share of a, see ``preferences``.
        metric_a: Clip -> the metric of a's clip; NaN is a missing value.
        metric_b: The same of b's.
        better: 1 where more of the metric is better, -1 where less is, 0 where neither.
        resamples: Of the bootstrap over clips; 0: no intervals.
        seed: Of it.

    Returns:
        ``value`` (Spearman's rank correlation of the metric's difference a - b with the preference), ``n`` clips,
        ``ci95``, ``pearson``, and, where ``better`` says which way, ``agreement``: of the clips on which both decide,
        the share on which raters and metric decide alike, with ``agreement_wilson95``. ``value`` None has a ``reason``.
    """
    names = [name for name in preference if name in metric_a and name in metric_b]
    difference = np.array([metric_a[name] - metric_b[name] for name in names], dtype=np.float64)
    liked = np.array([preference[name] for name in names], dtype=np.float64)
    present = np.isfinite(difference)
    entry: Entry = {"value": None, "n": int(present.sum())}
    if present.size < len(preference) or not present.all():
        entry["left_out"] = len(preference) - int(present.sum())
    difference, liked = difference[present], liked[present]
    if len(liked) < _FEWEST_CLIPS:
        return entry | {"reason": f"{len(liked)} clips have both: at least {_FEWEST_CLIPS} are needed"}
    if np.ptp(liked) == 0 or np.ptp(difference) == 0:
        same = "the raters' preference" if np.ptp(liked) == 0 else "the metric's difference"
        return entry | {"reason": f"{same} is the same on every clip"}
    entry["value"] = float(_spearman(difference[None], liked[None])[0])
    entry["pearson"] = float(np.corrcoef(difference, liked)[0, 1])
    if resamples:
        drawn = np.random.default_rng(seed).integers(0, len(liked), (resamples, len(liked)))
        values = _spearman(difference[drawn], liked[drawn])
        entry["ci95"] = _quantiles(values[np.isfinite(values)])
    if better:
        decided = (liked != 0.5) & (difference != 0)
        alike = int((np.sign(liked[decided] - 0.5) == better * np.sign(difference[decided])).sum())
        if (interval := wilson_interval(alike, int(decided.sum()))) is not None:
            entry |= {"agreement": alike / int(decided.sum()), "agreement_wilson95": list(interval)}
    return entry


def _spearman(x_BN: np.ndarray, y_BN: np.ndarray) -> np.ndarray:
    """Rank correlation of each row (B,), NaN where a row is constant."""
    from scipy.stats import rankdata

    x, y = (rankdata(values, axis=1) for values in (x_BN, y_BN))
    x, y = x - x.mean(1, keepdims=True), y - y.mean(1, keepdims=True)
    with np.errstate(invalid="ignore"):
        return (x * y).sum(1) / np.sqrt((x**2).sum(1) * (y**2).sum(1))
