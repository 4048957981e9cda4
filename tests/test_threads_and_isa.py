"""The thread pool's size rules, the ISA table and its overrides."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from assay import ops


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if k not in ("ASSAY_NUM_THREADS", "OMP_NUM_THREADS", "ASSAY_FORCE_ISA")}
    return subprocess.run(
        [sys.executable, "-c", code], env={**env, **environment}, capture_output=True, text=True, check=False
    )


PRINT_THREADS = "from assay import _cpu; print(_cpu.default_num_threads())"
PRINT_ISA = "from assay import _cpu; print(_cpu.active_isa())"


def write_cgroup(root: Path, lines: str, files: dict[str, str]) -> str:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(lines)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(root)


@pytest.mark.parametrize(
    ("lines", "files", "quota"),
    [
        ("0::/a/b\n", {"a/b/cpu.max": "150000 100000\n"}, 1.5),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "50000 100000\n"}, 0.5),
        ("0::/a/b\n", {"a/b/cpu.max": "400000 100000\n", "a/cpu.max": "200000 100000\n"}, 2.0),
        ("0::/\n", {"cpu.max": "300000 100000\n"}, 3.0),
        ("0::/\n", {}, 0.0),
        (
            "4:memory:/x\n3:cpu,cpuacct:/x\n",
            {"cpu,cpuacct/x/cpu.cfs_quota_us": "250000\n", "cpu,cpuacct/x/cpu.cfs_period_us": "100000\n"},
            2.5,
        ),
        ("3:cpu:/x\n", {"cpu/x/cpu.cfs_quota_us": "-1\n", "cpu/x/cpu.cfs_period_us": "100000\n"}, 0.0),
        ("nonsense\n", {}, 0.0),
    ],
)
def test_cgroup_quota_is_read(tmp_path: Path, lines: str, files: dict[str, str], quota: float) -> None:
    assert ops.cpu_module().cgroup_cpu_quota(write_cgroup(tmp_path, lines, files)) == quota


def test_default_threads_respect_affinity_and_environment() -> None:
    pin = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
    assert run_python(pin + PRINT_THREADS).stdout.strip() == "1"
    assert run_python(PRINT_THREADS, OMP_NUM_THREADS="1").stdout.strip() == "1"
    assert run_python(PRINT_THREADS, OMP_NUM_THREADS="1,2").stdout.strip() == "1"
    assert run_python(PRINT_THREADS, ASSAY_NUM_THREADS="3", OMP_NUM_THREADS="1").stdout.strip() == "3"
    broken = run_python(PRINT_THREADS, ASSAY_NUM_THREADS="two")
    assert "ASSAY_NUM_THREADS='two': want a whole number from 1 to 1024" in broken.stderr


def test_set_num_threads_is_checked(restore_threads: None) -> None:
    ops.set_num_threads(3)
    assert ops.num_threads() == 3
    for wrong in (0, -1, 1025):
        with pytest.raises(ValueError, match=f"num_threads must be 1 to 1024, got {wrong}"):
            ops.set_num_threads(wrong)


@pytest.mark.parametrize("speeds", [[1.0], [1.0, 1.0], [0.5, 1.5], [2.0, 0.5, 0.5], [1.0, 0.5, 2.0, 0.7, 0.8]])
@pytest.mark.parametrize("multiple", [1, 3, 6])
@pytest.mark.parametrize("num_rows", [1, 2, 5, 6, 7, 110, 1000])
def test_threads_share_out_every_row_once(speeds: list[float], multiple: int, num_rows: int) -> None:
    shares = ops.cpu_module().share_of_rows(speeds, num_rows, multiple)
    assert [begin for begin, _ in shares] == [0, *(end for _, end in shares[:-1])]
    assert shares[-1][1] == num_rows
    for (begin, end), speed in zip(shares, speeds, strict=True):
        assert 0 <= begin <= end
        assert abs((end - begin) - num_rows * speed / sum(speeds)) <= 2 * multiple


def test_a_pool_that_gives_way_computes_the_same(restore_threads: None) -> None:
    ops.set_num_threads(4)
    x, weight = torch.randn(600, 96), ops.pack_weight(torch.randn(200, 96), None, "float32")
    expected = ops.linear(x, weight)
    assert not ops.cpu_module().gives_way()
    try:
        ops.set_gives_way(True)
        assert ops.cpu_module().gives_way()
        for _ in range(50):
            assert torch.equal(ops.linear(x, weight), expected)
    finally:
        ops.set_gives_way(False)


def test_idle_threads_sleep(restore_threads: None) -> None:
    ops.set_num_threads(4)
    x = torch.randn(64, 64)
    ops.linear(x, ops.pack_weight(x, None, "float32"))
    time.sleep(0.05)
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.1


def test_pool_survives_fork() -> None:
    code = (
        "import os, torch; from assay import ops; ops.set_num_threads(2)\n"
        "x = torch.ones(40, 64); w = ops.pack_weight(torch.ones(32, 64), None, 'float32')\n"
        "assert ops.linear(x, w)[0, 0] == 64\n"
        "pid = os.fork()\n"
        "if pid == 0: os._exit(0 if ops.linear(x, w)[39, 31] == 64 else 1)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
    )
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=60)
    assert result.stdout.strip() == "0", result.stderr


def test_kernels_may_be_called_from_many_threads(restore_threads: None) -> None:
    from concurrent.futures import ThreadPoolExecutor

    ops.set_num_threads(2)
    x, w = torch.randn(100, 64), torch.randn(48, 64)
    packed = ops.pack_weight(w, None, "float32")
    expected = ops.linear(x, packed)
    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(ops.linear, x, packed) for _ in range(200)]
        for i in range(20):
            ops.set_num_threads(1 + i % 3)  # a resize must not disturb calls under way
        assert all(torch.equal(f.result(), expected) for f in futures)


def test_force_isa() -> None:
    for isa in ops.available_isas():
        assert run_python(PRINT_ISA, ASSAY_FORCE_ISA=isa).stdout.strip() == isa
    wrong = run_python(PRINT_ISA, ASSAY_FORCE_ISA="avx9")
    assert wrong.returncode != 0
    assert "ASSAY_FORCE_ISA='avx9': choose one of scalar" in wrong.stderr


def test_best_isa_is_the_default() -> None:
    assert run_python(PRINT_ISA).stdout.strip() == ops.available_isas()[-1]


def test_unsupported_isa_is_refused() -> None:
    if "amx" in ops.available_isas():
        assert "amx" in ops.cpu_module().testable_isas()
    else:
        with pytest.raises(ValueError, match="isa='amx': this machine cannot run it"):
            ops.cpu_module().set_active_isa("amx")


def test_packed_weight_keeps_its_isa() -> None:
    before = ops.active_isa()
    try:
        for isa in ops.cpu_module().testable_isas():
            ops.cpu_module().set_active_isa(isa)
            packed = ops.pack_weight(torch.ones(4, 8), None, "float32")
            ops.cpu_module().set_active_isa("scalar")
            assert packed.isa == isa
            assert ops.linear(torch.ones(1, 8), packed).tolist() == [[8.0] * 4]
    finally:
        ops.cpu_module().set_active_isa(before)
