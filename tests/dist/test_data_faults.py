"""Several ranks on a corpus with faulty samples, and on one that is served by http."""

from __future__ import annotations

import functools
import http.server
import json
import shutil
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from conftest import MakeRun
from dist_runs import DistRun, Stop

STEPS = 12


def with_faults(corpus: Path, folder: Path, *places: int) -> Path:
    """A copy of a corpus in which the poses of some training samples, by their place in the shards, are no arrays."""
    shutil.copytree(corpus, folder)
    number = 0
    for shard in sorted((folder / "train").glob("*.tar")):
        with tarfile.open(shard) as archive:
            poses = [member.offset_data for member in archive if member.name.endswith(".poses.npy")]
        with shard.open("r+b") as stream:
            for offset in poses:
                if number in places:
                    stream.seek(offset)
                    stream.write(b"\0\0\0\0")
                number += 1
    return folder


def quarantined(run: DistRun) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.directory / "quarantine.jsonl").read_text(encoding="utf-8").splitlines()]


@contextmanager
def served(folder: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def test_faulty_samples_of_two_ranks_are_recorded_once_and_a_resume_forgets_nothing(
    make_run: MakeRun, dist_corpus: Path, tmp_path: Path
) -> None:
    corpus = with_faults(dist_corpus, tmp_path / "corpus", 3, 17, 30)
    arguments = [f"--data.shards={corpus}", f"--trainer.max_steps={STEPS}", "--checkpoint_every_n_steps=3"]
    straight = make_run(tmp_path / "straight", "ddp", arguments=arguments)
    straight.run()
    events = quarantined(straight)
    assert len({event["sample"] for event in events}) == 3
    assert {event["position"] % 4 // 2 for event in events} == {0, 1}, "both ranks met some"
    assert len({event["position"] for event in events}) == len(events)
    broken = make_run(tmp_path / "broken", "ddp", arguments=arguments)
    broken.die(Stop("batch_start", micro=8, rank=1))
    broken.run()
    assert quarantined(broken) == events
    assert broken.losses() == straight.losses()
    assert len(straight.losses()) == STEPS


def test_one_fault_too_many_ends_all_ranks(make_run: MakeRun, dist_corpus: Path, tmp_path: Path) -> None:
    corpus = with_faults(dist_corpus, tmp_path / "corpus", *range(4))
    arguments = [f"--data.shards={corpus}", f"--trainer.max_steps={STEPS}", "--data.max_quarantined=2"]
    run = make_run(tmp_path / "run", "ddp", arguments=arguments)
    launch = run.run(expect=2)
    assert "3 training samples cannot be used" in launch.said()
    assert len({event["sample"] for event in quarantined(run)}) == 3


def test_two_ranks_share_what_a_server_gives(make_run: MakeRun, dist_corpus: Path, tmp_path: Path) -> None:
    runs = []
    with served(dist_corpus) as url:
        for name, shards in (("local", str(dist_corpus)), ("remote", url)):
            arguments = [f"--data.shards={shards}", f"--data.cache_dir={tmp_path / 'kept'}", "--trainer.max_steps=4"]
            runs.append(make_run(tmp_path / name, "ddp", arguments=arguments))
            runs[-1].run()
    assert runs[0].losses() == runs[1].losses()
    manifest = json.loads((dist_corpus / "manifest.json").read_text(encoding="utf-8"))
    shards = manifest["splits"]["train"]["shards"] + manifest["splits"]["val"]["shards"]
    assert {path.stem for path in (tmp_path / "kept").glob("*.tar")} == {shard["sha256"] for shard in shards}
