"""A run that is killed, and runs beside each other: every row once, with the vector that an undisturbed run gives."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from corpus_helpers import caption, embed, lines, read, vectors

from llave_hf.corpus.ranks import Ranks

ROOT = Path(__file__).parents[2]
ROWS = 1200


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    for number in range(3):
        rows = range(number * ROWS // 3, (number + 1) * ROWS // 3)
        lines(folder / f"{number:05d}.jsonl", [{"id": row, "text": caption(row)} for row in rows])
    return folder


@pytest.fixture(scope="module")
def undisturbed(source: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    output = tmp_path_factory.mktemp("undisturbed")
    embed(source, model, output, rows_per_shard=50)
    return read(output)


def start(source: Path, model: Path, output: Path, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "llave_hf.embed", str(source), "--model", str(model), "--output", str(output)]
    inherited = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment}
    return subprocess.Popen(
        [*command, "--rows_per_shard", "50"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=inherited,
    )


def shards(output: Path) -> int:
    return len(list(output.glob("*.parquet")))


def wait_for(output: Path, count: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while shards(output) < count and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    assert shards(output) >= count, process.communicate()[0][-3000:] if process.poll() is not None else "too slow"


def assert_every_row_once(output: Path, undisturbed: pa.Table) -> None:
    table = read(output)
    assert table["id"].to_pylist() == list(range(ROWS))
    assert np.array_equal(np.stack(vectors(table)), np.stack(vectors(undisturbed)))
    assert not list(output.rglob("*.unfinished"))


@pytest.mark.slow
def test_a_run_killed_at_random_moments(source: Path, model: Path, undisturbed: pa.Table, tmp_path: Path) -> None:
    output, moments = tmp_path / "out", random.Random(0)
    for kill in range(2):
        process = start(source, model, output)
        wait_for(output, shards(output) + 1 + kill, process)
        time.sleep(moments.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    between = shards(output)
    assert 0 < between < 24, "killed too late to say anything"
    process = start(source, model, output)
    said = process.communicate()[0]
    assert process.returncode == 0 and f"{ROWS:,} rows in 24 files of vectors" in said, said[-3000:]
    assert_every_row_once(output, undisturbed)


@pytest.mark.distributed
def test_a_task_of_slurm_that_dies_is_made_up_for(
    source: Path, model: Path, undisturbed: pa.Table, tmp_path: Path
) -> None:
    """Two tasks that know of each other by Slurm's variables only; one is killed, the other does the whole rest."""
    output = tmp_path / "out"
    tasks = [start(source, model, output, SLURM_PROCID=str(rank), SLURM_NTASKS="2") for rank in range(2)]
    wait_for(output, 2, tasks[0])
    tasks[1].kill()
    said = tasks[0].communicate()[0]
    tasks[1].communicate()
    assert tasks[0].returncode == 0 and f"{ROWS:,} rows in 24 files of vectors" in said, said[-3000:]
    assert_every_row_once(output, undisturbed)


@pytest.mark.distributed
def test_two_processes_of_accelerate_share_a_corpus(
    source: Path, model: Path, undisturbed: pa.Table, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    command += ["-m", "llave_hf.embed", str(source), "--model", str(model), "--output", str(output)]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, "--rows_per_shard", "50"], capture_output=True, text=True, env=environment, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    shares = [line for line in done.stdout.splitlines() if line.startswith("Process ") and " rows in " in line]
    rows = {int(line.split()[1]): int(line.split()[4].replace(",", "")) for line in shares}
    assert sum(rows.values()) == ROWS, done.stdout  # whoever comes too late finds nothing to do, and says so
    assert len(rows) + done.stdout.count("nothing to do") == 2
    assert_every_row_once(output, undisturbed)


def test_processes_that_share_an_output_write_their_lines_whole(model: Path, tmp_path: Path) -> None:
    """Unbuffered, as in most container images: what is written at once comes as one packet of a socket."""
    source = lines(tmp_path / "rows.jsonl", [{"id": row, "text": caption(row)} for row in range(20)])
    command = [sys.executable, "-m", "llave_hf.embed", str(source), "--model", str(model)]
    command += ["--output", str(tmp_path / "out")]
    inherited = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "RANK": "0", "WORLD_SIZE": "2"}
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        subprocess.run(command, stdout=theirs, env=inherited, timeout=120, check=True)
        theirs.close()
        packets = list(iter(lambda: ours.recv(1 << 16).decode(), ""))
    assert packets and all(packet.endswith("\n") for packet in packets), packets
    assert packets[0].startswith("Process 0 of 2: 20 rows in ")


@pytest.mark.parametrize(
    ("environment", "ranks"),
    [
        ({}, Ranks()),
        (
            {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "SLURM_PROCID": "0", "SLURM_NTASKS": "1"},
            Ranks(3, 8, 1),
        ),
        ({"SLURM_PROCID": "5", "SLURM_NTASKS": "16", "SLURM_LOCALID": "2"}, Ranks(5, 16, 2)),
    ],
)
def test_ranks_are_told_by_the_environment(environment: dict[str, str], ranks: Ranks) -> None:
    assert Ranks.from_environment(environment) == ranks


def test_each_rank_begins_with_another_share() -> None:
    orders = [Ranks(rank, 3).order(range(8)) for rank in range(3)]
    assert orders[0] == [0, 3, 6, 1, 4, 7, 2, 5] and orders[2][:2] == [2, 5]
    assert all(sorted(order) == list(range(8)) for order in orders)
