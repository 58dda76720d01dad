"""How much a video loses because its motion was generated: one renderer, driven by better and worse motion."""

from macedance.metrics.cascade.arms import DEFAULT_PERTURBATIONS, Cascade, CascadeClip
from macedance.metrics.cascade.differences import GATES, Gate, gap_entry, parse_gate
from macedance.metrics.cascade.evaluate import CASCADE_KEYS, cascade_report, evaluate_cascade
from macedance.metrics.cascade.judges import ArmClip, FootContact, Judge, Judges
from macedance.metrics.cascade.scores import ArmScores, gap_values, merge_scores, verdicts

__all__ = [
    "CASCADE_KEYS",
    "DEFAULT_PERTURBATIONS",
    "GATES",
    "ArmClip",
    "ArmScores",
    "Cascade",
    "CascadeClip",
    "FootContact",
    "Gate",
    "Judge",
    "Judges",
    "cascade_report",
    "evaluate_cascade",
    "gap_entry",
    "gap_values",
    "merge_scores",
    "parse_gate",
    "verdicts",
]
