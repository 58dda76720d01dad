"""`macedance submit`: the script, what it does with every exit code, and requests that cannot be met."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest

from launch.cluster.checks import _gpus, checkpoint_bytes
from launch.cluster.script import JobRequest, cluster_defaults, render, seconds_of
from launch.cluster.submit import build_parser, build_request
from launch.config_files import shipped_configs
from launch.main import main
from macedance.errors import ConfigError

GOLDEN = Path(__file__).parents[1] / "golden" / "submit"
SMALL = ["--config=mace_motion_demo", "--config=debug/mace_motion_cpu"]


def request_of(run_dir: Path = Path("/runs/first run"), **values: object) -> JobRequest:
    settings = {
        "configs": ("/configs/mace_motion_demo.yaml", "/configs/zero2.yaml"),
        "run_dir": run_dir, "job_name": "first", "cache_dir": "/tmp/macedance-me", "python": "/env/bin/python",
        "passed_on": ("--data.shards", "/data/the corpus", "--trainer.max_steps=100"),
        **values,
    }  # fmt: skip
    return JobRequest(**settings)  # type: ignore[arg-type]


GPU_JOB: dict[str, object] = {
    "nodes": 4, "gpus_per_node": 8, "cpus_per_task": 12, "mem": "0", "time": "24:00:00", "partition": "gpu",
    "account": "dance", "qos": "high", "signal_seconds": 300, "sbatch": ("--exclusive",),
    "srun": ("--cpu-bind=none", "--container-image=/images/a b.sqsh"), "setup": ("module load cuda",),
    "environment": {"NCCL_SOCKET_IFNAME": "^lo,docker"},
}  # fmt: skip
CPU_CHAIN: dict[str, object] = {"nodes": 2, "array_chain": 3, "passed_on": ()}


@pytest.mark.parametrize(("name", "values"), [("gpu.sbatch", GPU_JOB), ("cpu_chain.sbatch", CPU_CHAIN)])
def test_the_script_is_the_golden_one(name: str, values: Mapping[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    """After a change that is meant: MACEDANCE_UPDATE_GOLDEN=1."""
    monkeypatch.setattr("launch.cluster.script.Path.cwd", lambda: Path("/work folder"))
    script = render(request_of(**values))
    golden = GOLDEN / name
    if os.environ.get("MACEDANCE_UPDATE_GOLDEN"):
        golden.parent.mkdir(parents=True, exist_ok=True)
        golden.write_text(script, encoding="utf-8")
    assert script == golden.read_text(encoding="utf-8")
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    assert not re.search(r"[ \t]$|\n\n\n|{[{%#]", script, re.MULTILINE)


# ---------------------------------------------------------------- what the script does
class Node:
    """The script on a machine whose srun and scontrol are two lines of shell."""

    def __init__(self, folder: Path, **values: object) -> None:
        self.folder, self.run_dir = folder, folder / "run dir"
        self.calls = folder / "calls"
        (self.run_dir / "checkpoints").mkdir(parents=True)
        programs = folder / "bin"
        programs.mkdir()
        for name, body in (
            ("srun", 'echo "srun $*" >>"$CALLS"; eval "$FAKE_RANKS"; exit "$FAKE_CODE"'),
            ("scontrol", 'if [ "$1" = show ]; then echo node7; echo node8; else echo "scontrol $*" >>"$CALLS"; fi'),
            ("scancel", 'echo "scancel $*" >>"$CALLS"'),
        ):
            (programs / name).write_text(f"#!/bin/bash\n{body}\n", encoding="utf-8")
            (programs / name).chmod(0o755)
        self.cache = folder / "cache"
        self.script = render(request_of(self.run_dir, **{"cache_dir": str(self.cache), **values}))

    def run(self, code: int, ranks: str = "", restart: int = 0) -> subprocess.CompletedProcess[str]:
        """One start of the job: srun runs `ranks` and exits with `code`."""
        environment = {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}", "CALLS": str(self.calls), "FAKE_RANKS": ranks,
            "FAKE_CODE": str(code), "SLURM_JOB_ID": "31", "SLURM_JOB_NODELIST": "node[7-8]",
            "SLURM_RESTART_COUNT": str(restart), "SLURM_ARRAY_JOB_ID": "30",
            "RANK": "1",
        }  # fmt: skip
        self.calls.write_text("", encoding="utf-8")
        return subprocess.run(
            ["bash"], input=self.script, env=environment, capture_output=True, text=True, timeout=30, check=False
        )

    def called(self, program: str) -> list[str]:
        lines = self.calls.read_text(encoding="utf-8").splitlines()
        return [line.removeprefix(f"{program} ") for line in lines if line.startswith(f"{program} ")]


def ranks_say(*codes: int, also: str = "true") -> str:
    said = "; ".join(f'echo {code} >"$MACEDANCE_OUTCOME/rank-{rank}"' for rank, code in enumerate(codes))
    return f"{said}; {also}"


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path, nodes=2, max_hang_requeues=2)


def test_a_finished_run_is_done(node: Node) -> None:
    done = node.run(0, ranks_say(0, 0))
    assert done.returncode == 0
    assert "finished" in done.stdout
    assert not node.called("scontrol")
    (line,) = node.called("srun")
    assert "--kill-on-bad-exit=1" in line
    assert f"--output={node.run_dir}/slurm/job-%j-rank-%4t.log" in line
    assert "-m launch.main fit --config=/configs/mace_motion_demo.yaml" in line


def test_the_ranks_are_told_where_to_meet(node: Node) -> None:
    show = 'echo "$MASTER_ADDR $MASTER_PORT $MACEDANCE_CACHE $MACEDANCE_OUTCOME ${RANK:-none}" >"$CALLS"'
    ports = set()
    for restart in range(3):
        node.run(0, show, restart=restart)
        address, port, cache, *rest = node.calls.read_text(encoding="utf-8").split()
        ports.add(int(port))
        assert (address, cache, rest[-1]) == ("node7", str(node.cache), "none")
    assert len(ports) == 3  # the old one may still be closing
    assert all(20000 <= port < 32000 for port in ports)


def test_a_preempted_job_is_queued_again_unless_a_rank_did_or_forbids_it(node: Node) -> None:
    saved = f'ln -sfn step-$RANDOM.ckpt "{node.run_dir}/checkpoints/last.ckpt"'
    for restart in range(5):  # as often as it likes
        done = node.run(143, ranks_say(75, 75, also=saved), restart=restart)
        assert done.returncode == 75  # srun reports how it ended the other ranks
        assert node.called("scontrol") == ["requeue 31"]
    for also in (saved, "true"):
        node.run(75, ranks_say(75, 75, also=f'{also}; touch "$MACEDANCE_OUTCOME/no-requeue"'), restart=1)
        assert not node.called("scontrol")


def test_a_limit_shorter_than_the_set_up_does_not_requeue_for_ever(node: Node) -> None:
    for expected in ("1 of 2", "2 of 2", "given up", "1 of 2"):  # given up is given up, and the next submission is new
        done = node.run(75, ranks_say(75, 75))
        assert "preempted before anything was trained" in done.stdout
        assert expected in done.stdout
        assert node.called("scontrol") == ([] if expected == "given up" else ["requeue 31"])


def test_progress_is_seen_where_there_are_no_links(node: Node) -> None:
    for step in ("00000050", "00000100", "00000150"):
        saved = f'mkdir "{node.run_dir}/checkpoints/step-{step}.ckpt"'
        assert "queued again" in node.run(75, ranks_say(75, also=saved)).stdout
    assert "1 of 2" in node.run(75, ranks_say(75)).stdout


@pytest.mark.parametrize("taken", ["writable", "link", "file"])
def test_a_cache_that_others_may_write_is_refused(tmp_path: Path, taken: str) -> None:
    """Compiled code is loaded from it, and its name in /tmp can be guessed."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    cache = shared / "macedance-me"
    node = Node(tmp_path, cache_dir=str(cache))
    assert node.run(0, ranks_say(0)).returncode == 0
    assert cache.stat().st_mode & 0o777 == 0o700
    if taken == "writable":
        cache.chmod(0o770)
    else:
        cache.rename(tmp_path / "elsewhere")
        if taken == "link":
            cache.symlink_to(tmp_path / "elsewhere")
        else:
            cache.touch()
    done = node.run(0, ranks_say(0))
    assert done.returncode == 2
    assert not node.called("srun")
    assert str(cache) in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("code", "ranks"), [(1, ranks_say(1)), (137, ranks_say(76, 1)), (2, ranks_say(2, 2)), (127, "")]
)
def test_an_error_of_the_run_is_not_tried_again(node: Node, code: int, ranks: str) -> None:
    done = node.run(code, ranks)
    assert done.returncode == (1 if code == 137 else code)
    assert "failed with exit code" in done.stdout
    assert not node.called("scontrol")


@pytest.mark.parametrize(("code", "ranks"), [(76, ""), (143, ranks_say(76)), (137, "")])
def test_a_hang_or_a_killed_rank_is_tried_again_so_often(node: Node, code: int, ranks: str) -> None:
    for restart in range(2):
        done = node.run(code, ranks, restart=restart)
        assert node.called("scontrol") == ["requeue 31"]
        assert f"{restart + 1} of 2" in done.stdout
    done = node.run(code, ranks, restart=2)
    assert not node.called("scontrol")
    assert "given up" in done.stdout
    assert done.returncode in (76, code)
    node.run(code, ranks)
    # A new checkpoint is progress: the count starts again.
    (node.run_dir / "checkpoints" / "last.ckpt").symlink_to("step-00000050.ckpt")
    node.run(code, ranks, restart=3)
    assert node.called("scontrol") == ["requeue 31"]


def test_a_chain_is_not_queued_again_and_ends_when_the_run_does(tmp_path: Path) -> None:
    node = Node(tmp_path, array_chain=3)
    assert "#SBATCH --array=1-3%1" in node.script
    show = 'echo "chain $MACEDANCE_CHAIN" >>"$CALLS"'
    node.run(75, ranks_say(75, also=show))
    assert node.called("chain") == ["30"]
    assert not node.called("scontrol")
    assert not node.called("scancel")
    for code in (0, 1):
        node.run(code, ranks_say(code))
        assert node.called("scancel") == ["--state=PENDING 30"]


# ---------------------------------------------------------------- requests
def test_a_dry_run_prints_the_script_and_writes_nothing(
    tmp_path: Path, tiny_corpus: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no SLURM
    words = ["submit", *SMALL, "--nodes=2", f"--run_dir={tmp_path / 'run'}", f"--data.shards={tiny_corpus}"]
    assert main([*words, "--time=1:00:00", "--dry-run"]) == 0
    output = capsys.readouterr()
    assert output.out.startswith("#!/bin/bash")
    assert "only a signal and the end of the run save" in output.err
    assert "--checkpoint_every_n_steps" in output.err
    assert "#SBATCH --nodes=2" in output.out
    assert "#SBATCH --time=1:00:00" in output.out
    assert "each rank takes 2 samples at a time" in output.err
    assert "space for 4 checkpoints of about" in output.err
    assert not (tmp_path / "run").exists()
    assert main([*words, "--checkpoint_every_n_steps=100", "--dry-run", "--json"]) == 0
    output = capsys.readouterr()
    assert "only a signal" not in output.err
    result = json.loads(output.out)
    assert result["job_id"] is None
    assert result["ranks"] == 2
    assert result["checkpoint_bytes"] > 4 * result["parameters"]
    assert main(words) == 2
    assert "sbatch is not on this machine" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        (["--nodes=3"], "a multiple of 3; fix: e.g. --data.global_batch_size=3"),
        (["--trainer.accumulate_grad_batches=3"], "does not divide over 2 nodes x 1 rank x 3 accumulated batches"),
        (["--nodes=0"], "--nodes is 0"),
        (["--gpus-per-node=-1"], "--gpus-per-node is -1"),
        (["--array-chain=0"], "--array-chain is 0"),
        (["--nodes=two"], "invalid int value: 'two'"),
        (["--time=soon"], "--time is 'soon'"),
        (["--time=2:00", "--signal-seconds=120"], "leaves no time to train"),
        (["--trainer.devices=4"], "use --nodes and --gpus-per-node"),
        (["--job-name=bash"], "interactive shell"),
        (["--cluster=nowhere"], "there is no such cluster"),
        ([f"--run_dir={__file__}/run"], "is not a folder"),
        (["--run_dir=/tmp/100%"], "pattern"),
        (["--trainer.max_stepz=3"], "max_steps"),
        (["--data.shards=/no/such/corpus"], "/no/such/corpus"),
        (["--config=nothing_like_it"], "there is no such config"),
    ],
)
def test_a_wrong_request_is_one_line(
    extra: list[str], expected: str, tmp_path: Path, tiny_corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*SMALL, "--nodes=2", f"--run_dir={tmp_path / 'run'}", f"--data.shards={tiny_corpus}", "--dry-run"]
    assert main(["submit", *words, *extra]) == 2
    output = capsys.readouterr()
    errors = [line for line in output.err.splitlines() if "error" in line]
    assert len(errors) == 1
    assert expected in errors[0]
    assert not output.out
    assert not (tmp_path / "run").exists()


def test_no_space_for_the_checkpoints_is_said(
    tmp_path: Path, tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("launch.cluster.checks.shutil.disk_usage", lambda path: SimpleNamespace(free=1_000_000))
    words = [*SMALL, "--nodes=2", f"--run_dir={tmp_path / 'run'}", f"--data.shards={tiny_corpus}", "--dry-run"]
    assert main(["submit", *words]) == 2
    assert "no space for 4 checkpoints of about" in capsys.readouterr().err
    assert main(["submit", *words, "--keep_last_checkpoints=50"]) == 2
    assert "no space for 51 checkpoints" in capsys.readouterr().err


def test_the_estimate_is_near_a_real_checkpoint() -> None:
    assert checkpoint_bytes(1000, 1000, sharded=False) == 24_000  # weights, four moments, average: float32
    assert checkpoint_bytes(1000, 10, sharded=False) == 4_200  # adapters
    assert checkpoint_bytes(1000, 1000, sharded=True) == 32_000  # and the master weights and DeepSpeed's copy


SINFO = (
    "gpu|gpu*|up|2-00:00:00|4|64|512000|gpu:h100:8(S:0-1)\ngpu|gpu*|up|2-00:00:00|2|64|256000|gpu:h100:4\n"
    "cpu|cpu|up|infinite|10|16|64000|(null)\nold|old|down|infinite|9|16|64000|(null)\n"
)


@pytest.fixture
def sinfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "sinfo"
    program.write_text(f"#!{shutil.which('bash')}\nprintf '%s' '{SINFO}'\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"nodes": 7}, "7 nodes are asked for and the partition 'gpu' has 6"),
        ({"nodes": 5, "gpus_per_node": 8}, "5 nodes with 8 GPUs per node are asked for and the partition 'gpu' has 4"),
        ({"partition": "cpu", "gpus_per_node": 1}, "has 0"),
        ({"gpus_per_node": 8, "cpus_per_task": 9}, "72 processors per node"),
        ({"nodes": 5, "mem": "300G"}, "has 4"),
        ({"time": "2-00:00:01"}, "longer than the partition 'gpu' allows"),
        ({"partition": "old"}, "is down"),
        ({"partition": "gpuu"}, "one of cpu, gpu, old"),
        ({"mem": "lots"}, "--mem is 'lots'"),
    ],
)
def test_what_the_partition_cannot_satisfy(sinfo: None, values: Mapping[str, object], expected: str) -> None:
    from launch.cluster.checks import Report, check_partition

    with pytest.raises(ConfigError, match=re.escape(expected)):
        check_partition(request_of(**values), Report())


@pytest.mark.parametrize(
    "values",
    [{"nodes": 4, "gpus_per_node": 8, "time": "2-00:00:00"}, {"partition": "cpu", "nodes": 10, "time": "90-0"},
     {"nodes": 4, "mem": "500G"}],
)  # fmt: skip
def test_what_the_partition_can_satisfy(sinfo: None, values: Mapping[str, object]) -> None:
    from launch.cluster.checks import Report, check_partition

    report = Report()
    check_partition(request_of(**values), report)
    assert not report.notes


def test_time_limits_as_sbatch_reads_them() -> None:
    limits = {"30": 1800, "2:30": 150, "1:00:00": 3600, "1-12": 129600, "1-0:30": 88200, "2-00:00:01": 172801, 90: 5400}
    assert {limit: seconds_of(limit) for limit in limits} == limits
    assert seconds_of(None) is None
    assert seconds_of("infinite") is None


def test_generic_resources_are_counted() -> None:
    assert [_gpus(g) for g in ("gpu:8", "gpu:a100:4(S:0-1)", "shard:2,gpu:h100:8", "(null)", "gpu:a:2,gpu:b:2")] == [
        8, 4, 8, 0, 4,
    ]  # fmt: skip


@pytest.mark.parametrize("name", sorted(shipped_configs("clusters")))
def test_shipped_clusters_make_scripts(name: str) -> None:
    options, rest = build_parser().parse_known_args([*SMALL, f"--cluster={name}", "--nodes=3", "--time=2:00:00"])
    request = build_request(options, rest)
    assert request.nodes == 3
    assert request.time == "2:00:00"  # the command line wins
    subprocess.run(["bash", "-n"], input=render(request), text=True, check=True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("gpus: 8", "unknown cluster key 'gpus'"), ("nodes: two", "whole number"), ("- a", "no keys"),
     ("time: 24:00:00", "'time' is 86400.*quote it"), ("time: 90", "quote it"),
     ("environment: {A B: 1}", "no name of a variable"), ("a: [", "cannot be read")],
)  # fmt: skip
def test_a_wrong_cluster_file_is_named(text: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=expected) as caught:
        cluster_defaults(str(tmp_path / "mine.yaml"))
    assert "mine.yaml" in str(caught.value)


def test_a_new_submission_has_all_its_restarts(tmp_path: Path) -> None:
    from launch.cluster.submit import _keep

    counter = tmp_path / "slurm" / "restarts-without-progress"
    counter.parent.mkdir()
    counter.write_text("3 none\n", encoding="utf-8")
    _keep(request_of(tmp_path), "#!/bin/bash\n")
    assert not counter.exists()
