"""One job at a time on a run directory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from launch.run_lock import LOCK_NAME, SILENT_S, RunLock, process_start, read_lock
from macedance.errors import ConfigError


def leave_lock(folder: Path, **changes: object) -> None:
    """The lock file of another job."""
    holder = {
        "host": "elsewhere", "pid": 1, "process_start": None, "slurm_job_id": None, "heartbeat": time.time(),
        "token": "theirs", **changes,
    }  # fmt: skip
    (folder / LOCK_NAME).write_text(json.dumps(holder), encoding="utf-8")


def test_a_second_job_is_refused_and_told_who_holds_the_directory(tmp_path: Path) -> None:
    with RunLock(tmp_path) as lock:
        lock.acquire()
        with pytest.raises(ConfigError, match=f"process {os.getpid()} on "):
            RunLock(tmp_path).acquire()
        assert read_lock(tmp_path / LOCK_NAME) is not None
    assert not list(tmp_path.iterdir())


def test_a_released_directory_is_free(tmp_path: Path) -> None:
    first = RunLock(tmp_path)
    first.acquire()
    first.release()
    second = RunLock(tmp_path)
    assert second.acquire() is None
    second.release()


def test_a_fresh_lock_of_another_host_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    leave_lock(tmp_path)
    started = time.monotonic()
    with pytest.raises(ConfigError, match="process 1 on elsewhere"):
        RunLock(tmp_path).acquire()
    assert time.monotonic() - started < 1


def test_a_job_respects_a_beating_heart_on_another_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "78")
    leave_lock(tmp_path)

    def beat() -> None:
        time.sleep(1.5)
        leave_lock(tmp_path, heartbeat=time.time())

    other = threading.Thread(target=beat)
    other.start()
    with pytest.raises(ConfigError, match="process 1 on elsewhere"):
        RunLock(tmp_path).acquire()
    other.join()
    assert json.loads((tmp_path / LOCK_NAME).read_text())["token"] == "theirs"


def test_a_job_waits_for_a_holder_on_another_host_that_stays_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "78")
    leave_lock(tmp_path, heartbeat=time.time() - SILENT_S + 2)
    lock = RunLock(tmp_path)
    assert "no heartbeat" in str(lock.acquire())
    lock.release()


def test_two_starts_within_one_job_stand_in_each_other_s_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    with RunLock(tmp_path) as lock:
        lock.acquire()
        with pytest.raises(ConfigError, match="SLURM job 77"):
            RunLock(tmp_path).acquire()


def test_the_heartbeat_is_renewed_in_place_and_only_in_our_own_lock(tmp_path: Path) -> None:
    lock = RunLock(tmp_path)
    lock.acquire()
    before = read_lock(tmp_path / LOCK_NAME)
    time.sleep(0.05)
    assert lock._refresh()
    after = read_lock(tmp_path / LOCK_NAME)
    assert before is not None
    assert after is not None
    assert after["heartbeat"] > before["heartbeat"]
    assert after["token"] == before["token"]
    leave_lock(tmp_path)  # another job took it over
    assert not lock._refresh()
    assert read_lock(tmp_path / LOCK_NAME)["token"] == "theirs"  # type: ignore[index]
    lock.release()
    assert (tmp_path / LOCK_NAME).exists()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"heartbeat": time.time() - 90}, "no heartbeat"),
        ({"slurm_job_id": "77"}, "this SLURM job"),
    ],
)
def test_a_silent_or_requeued_job_s_lock_is_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], why: str
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    leave_lock(tmp_path, **changes)
    lock = RunLock(tmp_path)
    assert why in str(lock.acquire())
    lock.release()


def test_a_dead_process_s_lock_is_taken_over_even_unreaped(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    import socket

    leave_lock(tmp_path, host=socket.gethostname(), pid=child.pid, process_start=process_start(child.pid))
    with pytest.raises(ConfigError):
        RunLock(tmp_path).acquire()
    child.kill()
    time.sleep(0.2)  # not waited for: it stays a zombie
    lock = RunLock(tmp_path)
    assert "its process is gone" in str(lock.acquire())
    lock.release()
    child.wait()


def test_another_process_of_the_same_number_is_not_the_holder(tmp_path: Path) -> None:
    import socket

    leave_lock(tmp_path, host=socket.gethostname(), pid=os.getpid(), process_start=1)
    lock = RunLock(tmp_path)
    assert "its process is gone" in str(lock.acquire())
    lock.release()


def test_a_damaged_lock_does_not_block_for_ever(tmp_path: Path) -> None:
    (tmp_path / LOCK_NAME).write_text("{half", encoding="utf-8")
    lock = RunLock(tmp_path)
    lock.acquire()
    lock.release()


def test_of_many_jobs_at_once_one_gets_the_directory(tmp_path: Path) -> None:
    leave_lock(tmp_path, heartbeat=time.time() - 90)
    code = (
        "import sys,time;from pathlib import Path;from launch.run_lock import RunLock;from macedance.errors import *\n"
        "try: RunLock(Path(sys.argv[1])).acquire(); print('mine', flush=True); time.sleep(3)\n"
        "except ConfigError: print('refused', flush=True)"
    )
    jobs = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    said = sorted(job.communicate()[0].strip() for job in jobs)
    assert said == ["mine", "refused", "refused", "refused"]
