"""The files of a study: the key that says which side was whom, and the raters' answers."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from macedance.errors import DataError
from macedance.metrics.study import QUESTIONS, Answer, System
from macedance.motion.atomic import write_atomically

SCHEMA = 1
#: Columns of the answers as the raters' page writes them; ``left``, ``right`` and ``choice`` name files of the page.
COLUMNS = ("study", "rater", "trial", "question", "left", "right", "choice", "seconds", "order")
TIE = "tie"
_MOST_LISTED = 12


@dataclass(frozen=True)
class Trial:
    """One pair as raters see it.

    Args:
        trial: Its number on the page.
        clip: Name of the clip.
        a: Name of a's file on the page, without ending.
        b: Name of b's.
        repeat: Whether it shows a pair again.
    """

    trial: str
    clip: str
    a: str
    b: str
    repeat: bool = False


@dataclass(frozen=True)
class StudyKey:
    """What the raters must not see.

    Args:
        study: Number of the study; answers carry it.
        seed: Of the choice of clips and of all names.
        names: What system a and system b are called.
        folders: Where their videos were.
        questions: Keys of the questions.
        trials: The pairs.
        remarks: What may give a system away, or what raters cannot judge.
    """

    study: str
    seed: int
    names: dict[str, str]
    folders: dict[str, str]
    questions: tuple[str, ...]
    trials: tuple[Trial, ...]
    remarks: tuple[str, ...] = ()


def write_key(path: str | Path, key: StudyKey) -> None:
    """Write the key.

    Raises:
        DataError: The folder cannot be written.
    """
    text = json.dumps({"schema": SCHEMA} | asdict(key), indent=2, ensure_ascii=False)
    write_atomically(path, f"{text}\n".encode("utf-8", "backslashreplace"))


def read_key(path: str | Path) -> StudyKey:
    """Read the key of a study.

    Raises:
        DataError: Missing, damaged, or no key.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("schema") != SCHEMA:
            raise ValueError("another schema")
        trials = tuple(Trial(**trial) for trial in content.pop("trials"))
        questions, remarks = (tuple(content.pop(name)) for name in ("questions", "remarks"))
        return StudyKey(trials=trials, questions=questions, remarks=remarks, **content)
    except OSError as error:
        raise DataError(
            f"the key of the study cannot be read: {error.strerror}",
            where=path,
            expected="the key.json that `macedance evaluate study --a DIR --b DIR --out DIR` wrote",
        ) from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"this is no key of a study ({error})", where=path) from error


def read_answers(paths: Sequence[str | Path], key: StudyKey) -> tuple[list[Answer], list[str]]:
    """Read the raters' files.

    Args:
        paths: CSV files as the page writes them; a file that was handed in twice counts once.
        key: Of the study.

    Returns:
        The answers, and remarks: what was counted once, and who did not answer everything.

    Raises:
        DataError: Files that cannot be read, of another study, with lines that do not fit, or in which one rater
            answers a question twice and differently; all are listed.
    """
    bad: list[str] = []
    answers: dict[tuple[str, str, str], Answer] = {}
    twice = 0
    for path in map(Path, paths):
        for line, row in _rows(path, bad):
            answer = _answer(row, key)
            if isinstance(answer, str):
                bad.append(f"{path.name} line {line}: {answer}")
                continue
            place = (answer.rater, answer.trial, answer.question)
            known = answers.setdefault(place, answer)
            if known is not answer:
                twice += 1
                if (known.choice, known.left) != (answer.choice, answer.left):
                    bad.append(
                        f"{path.name} line {line}: rater {answer.rater} answered {answer.question} of {answer.trial} "
                        "twice and differently"
                    )
    if bad:
        listed = "; ".join(bad[:_MOST_LISTED])
        more = f"; and {len(bad) - _MOST_LISTED} more" if len(bad) > _MOST_LISTED else ""
        raise DataError(
            f"{len(bad)} lines or files of answers cannot be used: {listed}{more}",
            expected=f"answers to study {key.study}",
            fix="mend or leave out the files; two raters need two codes",
        )
    if not answers:
        raise DataError("no answers", where=", ".join(map(str, paths)), expected="files that the raters' page saved")
    return list(answers.values()), [*_repeated(twice), *_incomplete(list(answers.values()), key)]


def _rows(path: Path, bad: list[str]) -> list[tuple[int, dict[str, str]]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows = [(number, row) for number, row in enumerate(reader, start=2)]
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or [])]
    except OSError as error:
        bad.append(f"{path}: {error.strerror}")
        return []
    except (UnicodeDecodeError, csv.Error) as error:
        bad.append(f"{path}: no CSV ({error})")
        return []
    if missing:
        bad.append(f"{path}: no column {', '.join(missing)}")
        return []
    return rows


def _answer(row: dict[str, Any], key: StudyKey) -> Answer | str:
    """The answer in a line, or what is wrong with it."""
    if any(not isinstance(row[name], str) for name in COLUMNS):
        return "fewer columns than the others"
    if row["study"] != key.study:
        return f"an answer to study {row['study']!r}"
    trial = next((trial for trial in key.trials if trial.trial == row["trial"]), None)
    if trial is None:
        return f"there is no pair {row['trial']!r}"
    if row["question"] not in key.questions or row["question"] not in QUESTIONS:
        return f"there is no question {row['question']!r}"
    systems: dict[str, System] = {trial.a: "a", trial.b: "b"}
    if {row["left"], row["right"]} != set(systems) or row["choice"] not in (*systems, TIE):
        return f"the sides or the choice are not those of pair {trial.trial}"
    if not row["rater"].strip():
        return "no rater"
    seconds = _seconds(row["seconds"])
    if seconds is None:
        return f"{row['seconds']!r} seconds"
    choice = "tie" if row["choice"] == TIE else systems[row["choice"]]
    return Answer(
        row["rater"].strip(), trial.trial, trial.clip, row["question"], choice, systems[row["left"]],
        trial.repeat, seconds,
    )  # fmt: skip


def _seconds(text: str) -> float | None:
    """How long an answer took; None for what no clock shows."""
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if 0 <= seconds < math.inf else None


def _repeated(twice: int) -> list[str]:
    return [f"{twice} answers were handed in more than once and count once"] if twice else []


def _incomplete(answers: Sequence[Answer], key: StudyKey) -> list[str]:
    due = len(key.trials) * len(key.questions)
    given: dict[str, int] = {}
    for answer in answers:
        given[answer.rater] = given.get(answer.rater, 0) + 1
    short = [f"{rater} ({count} of {due})" for rater, count in sorted(given.items()) if count < due]
    return [f"{len(short)} of {len(given)} raters did not answer everything: {', '.join(short)}"] if short else []
