"""The result of an evaluation and the one JSON that every command and callback writes it as.

``{"schema": 1, "presets": {name: {key: entry}}, "floor": {name: {"fid_k": entry, ...}}, "inputs": {...}, "weights":
{model: sha256}, "hash": ..., "conventions": {name: constants}, "per_clip": {name: {key: {clip: number}}}}``. An entry
is ``{"value", "n", "ci95": [low, high], ...}``; one without a value has ``"value": null`` and a ``"reason"``.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from macedance.errors import ConfigError, DataError
from macedance.metrics.statistics import Entry
from macedance.motion.atomic import write_atomically

SCHEMA = 1
#: What of the inputs makes two evaluations different ones; names of files and remarks do not.
HASHED_INPUTS = ("kind", "fps", "resolution", "seconds_per_clip", "clips", "settings")

#: Numbers of an entry that count something.
_COUNTS = ("n", "n_reference", "n_clips", "n_reference_clips", "n_frames", "n_undefined", "dims")

#: Preset -> key -> clip -> its value, NaN where it has none. Keys of the reference's clips end in ``_reference``.
PerClip = dict[str, dict[str, dict[str, float]]]


@dataclass(frozen=True)
class ProtocolResult:
    """The result of one evaluation.

    Args:
        presets: Preset -> key -> entry.
        floor: Preset -> ``fid_k``, ``fid_g`` -> what two samples of the reference are apart.
        inputs: What was compared: kind (``joints``, ``keypoints``, ``video``, ``animation`` or ``cascade``), fps,
            resolution, seconds per clip, numbers of clips, settings, ``notes`` (preset -> sentences), and every clip
            that was left out or unmatched.
        conventions: Preset -> its constants; they are part of the hash.
        weights: Model -> sha256 of its weights, where networks judged.
        per_clip: Preset -> key -> name of the clip -> its value, NaN where it has none; not part of the hash.
    """

    presets: dict[str, dict[str, Entry]]
    floor: dict[str, dict[str, Entry]]
    inputs: dict[str, Any]
    conventions: dict[str, dict[str, Any]]
    weights: dict[str, str] = field(default_factory=dict)
    per_clip: PerClip = field(default_factory=dict)

    @property
    def hash(self) -> str:
        """Sha256 of how was measured: conventions, frame rates, lengths, numbers of clips, settings, weights.

        Two results of one hash were measured alike; it does not depend on the values.
        """
        inputs = {key: self.inputs.get(key) for key in HASHED_INPUTS}
        measured = {"schema": SCHEMA, "conventions": self.conventions, "inputs": inputs, "weights": self.weights}
        return hashlib.sha256(json.dumps(measured, sort_keys=True, allow_nan=False).encode()).hexdigest()

    def as_json(self) -> dict[str, Any]:
        """The object that is written, of schema 1; NaN of a clip becomes null."""
        return {
            "schema": SCHEMA,
            "presets": self.presets,
            "floor": self.floor,
            "inputs": self.inputs,
            "weights": self.weights,
            "hash": self.hash,
            "conventions": self.conventions,
            "per_clip": {
                preset: {
                    key: {clip: value if math.isfinite(value) else None for clip, value in values.items()}
                    for key, values in keys.items()
                }
                for preset, keys in self.per_clip.items()
            },
        }

    def merge(self, other: ProtocolResult) -> ProtocolResult:
        """Both results as one: other presets, or other keys of a preset, measured on the same inputs.

        Raises:
            ConfigError: A key, constant, input or weight on which the two differ; all are named.
        """
        clashes: list[str] = []
        presets = _merged(self.presets, other.presets, "presets", clashes)
        inputs = _merged(self.inputs, other.inputs, "inputs", clashes)
        merged = ProtocolResult(
            presets=presets,
            floor=_merged(self.floor, other.floor, "floor", clashes),
            inputs=inputs,
            conventions=_merged(self.conventions, other.conventions, "conventions", clashes),
            weights=_merged(self.weights, other.weights, "weights", clashes),
            per_clip=_merged(self.per_clip, other.per_clip, "per_clip", clashes),
        )
        if clashes:
            raise ConfigError(
                f"two results cannot be one, they differ in {', '.join(clashes)}",
                expected="other presets or other keys, measured on the same inputs",
            )
        return merged

    def with_notes(self, notes: Mapping[str, list[str]]) -> ProtocolResult:
        """The same result with more sentences for the reader, by preset."""
        known = dict(self.inputs.get("notes", {}))
        for preset, sentences in notes.items():
            known[preset] = [*known.get(preset, []), *sentences]
        return replace(self, inputs={**self.inputs, "notes": known})


def write_protocol(path: str | Path, result: ProtocolResult) -> None:
    """Write a result, to a temporary name first.

    Raises:
        DataError: The folder cannot be written.
    """
    write_atomically(path, f"{protocol_text(result)}\n".encode())


def protocol_text(result: ProtocolResult) -> str:
    """The text of the file: indented, but the values of the clips, which may be many, one key a line.

    Bytes of file names that are not UTF-8 are escaped, so that they come back as they were.
    """
    content = result.as_json()
    per_clip = content.pop("per_clip")
    presets = []
    for preset, keys in per_clip.items():
        rows = [f"      {_text(key)}: {_text(values)}" for key, values in keys.items()]
        presets.append(f"    {_text(preset)}: {{" + ("\n" + ",\n".join(rows) + "\n    }" if rows else "}"))
    table = "{" + ("\n" + ",\n".join(presets) + "\n  }" if presets else "}")
    head = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False)
    text = f'{head.removesuffix("}").rstrip()},\n  "per_clip": {table}\n}}'
    # Such bytes are lone surrogates in Python, and their escape is JSON's too.
    return text.encode("utf-8", "backslashreplace").decode()


def read_protocol(path: str | Path) -> ProtocolResult:
    """Read a result that was written by ``write_protocol``.

    Raises:
        DataError: Missing, damaged, no result, or one of another schema.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"cannot read the result: {error.strerror}", where=path) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"damaged JSON: {error}", where=path, expected="the result of an evaluation") from error
    if not isinstance(content, dict) or "presets" not in content or "inputs" not in content:
        raise DataError("not the result of an evaluation", where=path, expected="what `macedance evaluate` writes")
    if content.get("schema") != SCHEMA:
        raise DataError(f"schema {content.get('schema')!r}", where=path, expected=f"schema {SCHEMA}")
    parts = {
        name: content.get(name, {}) for name in ("presets", "floor", "inputs", "conventions", "weights", "per_clip")
    }
    wrong = [name for name, part in parts.items() if not isinstance(part, dict)]
    if not wrong:
        for name in ("presets", "floor"):
            wrong += [where for where, entry in _leaves(parts[name], name) if not _is_entry(entry)]
        wrong += [where for where, values in _leaves(parts["per_clip"], "per_clip") if not _are_numbers(values)]
        wrong += [f"conventions.{name}" for name, part in parts["conventions"].items() if not isinstance(part, dict)]
        if not _are_sentences(parts["inputs"].get("notes", {})):
            wrong.append("inputs.notes")
    if wrong:
        raise DataError(f"damaged result: {', '.join(wrong)}", where=path, expected="what `macedance evaluate` writes")
    parts["per_clip"] = {
        preset: {
            key: {clip: math.nan if value is None else float(value) for clip, value in values.items()}
            for key, values in keys.items()
        }
        for preset, keys in parts["per_clip"].items()
    }
    return ProtocolResult(**parts)


def _text(content: Any) -> str:
    return json.dumps(content, allow_nan=False, ensure_ascii=False)


def _leaves(presets: Mapping[str, Any], name: str) -> Iterator[tuple[str, Any]]:
    """What each key of each preset holds, with its place; None for a preset that holds no keys."""
    for preset, keys in presets.items():
        if not isinstance(keys, dict):
            yield f"{name}.{preset}", None
            continue
        for key, content in keys.items():
            yield f"{name}.{preset}.{key}", content


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_entry(entry: Any) -> bool:
    """Whether it has a value or says that it has none, and whether all that is read of it elsewhere can be."""
    if (
        not isinstance(entry, dict)
        or "value" not in entry
        or not (entry["value"] is None or _is_number(entry["value"]))
    ):
        return False
    interval = entry.get("ci95")
    interval_fits = interval is None or (
        isinstance(interval, list) and len(interval) == 2 and all(map(_is_number, interval))
    )
    counts_fit = all(entry.get(name) is None or _is_count(entry[name]) for name in _COUNTS)
    return interval_fits and counts_fit and isinstance(entry.get("reason") or "", str)


def _are_numbers(values: Any) -> bool:
    return isinstance(values, dict) and all(value is None or _is_number(value) for value in values.values())


def _are_sentences(notes: Any) -> bool:
    """Whether notes are lists of sentences by preset."""
    return isinstance(notes, dict) and all(
        isinstance(sentences, list) and all(isinstance(sentence, str) for sentence in sentences)
        for sentences in notes.values()
    )


def _merged(ours: Mapping[str, Any], theirs: Mapping[str, Any], where: str, clashes: list[str]) -> dict[str, Any]:
    """Both dictionaries as one, to any depth; what they give differently is added to ``clashes``.

    Sentences are joined. An entry of a metric is one value: two of one key are a clash even where they agree in part.
    """
    merged = dict(ours)
    for key, value in theirs.items():
        if key not in merged:
            merged[key] = value
        elif isinstance(merged[key], dict) and isinstance(value, dict) and not _differing_entries(merged[key], value):
            merged[key] = _merged(merged[key], value, f"{where}.{key}", clashes)
        elif where == "inputs.notes":
            merged[key] = [*merged[key], *(note for note in value if note not in merged[key])]
        elif merged[key] != value:
            clashes.append(f"{where}.{key}")
    return merged


def _differing_entries(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    return "value" in ours and ours != theirs
