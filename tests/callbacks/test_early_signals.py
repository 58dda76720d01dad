"""Signals that come before a run can answer them."""

from __future__ import annotations

import os
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterator

import pytest

from callbacks.early_signals import EarlySignals, early_signals
from callbacks.preemption import Preemption
from launch import main as front

USR1, TERM = signal.SIGUSR1, signal.SIGTERM


@pytest.fixture(autouse=True)
def default_handlers() -> Iterator[None]:
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (USR1, TERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def run_verb(monkeypatch: pytest.MonkeyPatch, verb: str, function: Callable[[list[str]], int]) -> int:
    """`macedance VERB` with a module of that function in the verb's place."""
    module = types.ModuleType("a_verb")
    module.main = function  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "a_verb", module)
    monkeypatch.setitem(front.VERBS, verb, ("a_verb", "help"))
    return front.main([verb])


@pytest.mark.parametrize("number", [USR1, TERM])
def test_a_signal_during_the_imports_reaches_the_run(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def fit(arguments: list[str]) -> int:
        os.kill(os.getpid(), number)
        preemption = Preemption()
        preemption.install()
        seen.append((preemption.requested, preemption._received))
        os.kill(os.getpid(), USR1)
        preemption.restore()
        seen.append(signal.getsignal(number))
        return 75

    assert run_verb(monkeypatch, "fit", fit) == 75
    assert seen == [(True, {number, USR1}), signal.SIG_DFL]
    assert signal.getsignal(number) is signal.SIG_DFL


def test_a_run_that_was_told_to_stop_stays_deaf(monkeypatch: pytest.MonkeyPatch) -> None:
    """`Preemption` ignores both signals at the end; giving back what was there before would undo it."""
    assert run_verb(monkeypatch, "fit", lambda arguments: signal.signal(TERM, signal.SIG_IGN) and 0) == 0
    assert signal.getsignal(TERM) is signal.SIG_IGN
    assert signal.getsignal(USR1) is signal.SIG_DFL


def test_other_verbs_end_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    run_verb(monkeypatch, "summary", lambda arguments: seen.append(signal.getsignal(TERM)) or 0)
    assert seen == [signal.SIG_DFL]


def test_a_caller_s_own_handler_stays() -> None:
    mine: list[int] = []
    signal.signal(TERM, lambda number, frame: mine.append(number))
    with early_signals():
        os.kill(os.getpid(), TERM)
        assert isinstance(signal.getsignal(USR1), EarlySignals)
    assert mine == [TERM]


def test_a_forked_child_ends_by_it() -> None:
    with early_signals():
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), TERM)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -TERM


def test_in_another_thread_it_leaves_the_signals_alone() -> None:
    seen = []

    def look() -> None:
        with early_signals():
            seen.append(signal.getsignal(TERM))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [signal.SIG_DFL]
