"""RAM and CPU time inside containers: nested groups, both versions, and machines without any."""

from collections.abc import Callable, Mapping
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardware.cgroup import (
    MemoryLimit,
    group_directories,
    parse_cpu_max,
    parse_membership,
    parse_memory_stat,
    parse_mounts,
    read_cpu_quota_cores,
    read_memory_limits,
)
from hardware.memory import memory_within, probe_memory
from hardware.snapshot import GIB_BYTES, MIB_BYTES, Memory

Recorded = Callable[[str], str]
V1_UNLIMITED_BYTES = 9223372036854771712
GROUP = "sys/fs/cgroup"


def build(root: Path, files: Mapping[str, object]) -> Path:
    """A filesystem in miniature."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n", encoding="utf-8")
    return root


class TestMemoryWithin:
    def test_without_limits_it_is_the_machine(self) -> None:
        assert memory_within(64, 50) == Memory(64, 50, 64, None)

    def test_the_tightest_limit_counts_for_both_numbers_on_its_own(self) -> None:
        limits = [MemoryLimit(16, 3), MemoryLimit(8, 7)]
        assert memory_within(64, 50, limits) == Memory(total_bytes=8, free_bytes=3, host_total_bytes=64, limit_bytes=8)

    def test_a_full_machine_leaves_less_than_the_limit(self) -> None:
        assert memory_within(64, 2, [MemoryLimit(16, 10)]).free_bytes == 2

    def test_a_limit_above_the_machine_is_none(self) -> None:
        assert memory_within(64, 50, [MemoryLimit(V1_UNLIMITED_BYTES, 5)]) == Memory(64, 50, 64, None)

    def test_a_limit_of_unknown_usage_still_bounds(self) -> None:
        assert memory_within(64, 50, [MemoryLimit(16, None)]).free_bytes == 16

    def test_a_machine_that_says_nothing(self) -> None:
        assert memory_within(None, None) == Memory()
        assert memory_within(None, None, [MemoryLimit(16, 9)]) == Memory(16, 9, None, 16)


class TestVersion2:
    def test_nested_groups_on_a_host(self, recorded: Recorded, tmp_path: Path) -> None:
        root = build(
            tmp_path,
            {
                "proc/self/mountinfo": recorded("linux/mountinfo_v2_host.txt"),
                "proc/self/cgroup": "0::/system.slice/swarm.service/engine",
                f"{GROUP}/system.slice/memory.max": 4 * GIB_BYTES,
                f"{GROUP}/system.slice/memory.current": 2 * GIB_BYTES,
                f"{GROUP}/system.slice/memory.stat": recorded("linux/memory_stat_v2.txt"),
                f"{GROUP}/system.slice/cpu.max": "250000 100000",
                f"{GROUP}/system.slice/swarm.service/memory.max": "max",
                f"{GROUP}/system.slice/swarm.service/memory.current": GIB_BYTES,
                f"{GROUP}/system.slice/swarm.service/cpu.max": "max 100000",
                f"{GROUP}/system.slice/swarm.service/engine/memory.max": 3 * GIB_BYTES,
                f"{GROUP}/system.slice/swarm.service/engine/memory.current": GIB_BYTES,
                f"{GROUP}/system.slice/swarm.service/engine/cpu.max": "1800000 600000",
            },
        )
        reclaimable_bytes = 500 * MIB_BYTES  # inactive_file of the recording
        assert read_memory_limits(root) == (
            MemoryLimit(3 * GIB_BYTES, 2 * GIB_BYTES),
            MemoryLimit(4 * GIB_BYTES, 2 * GIB_BYTES + reclaimable_bytes),
        )
        assert read_cpu_quota_cores(root) == 2.5

    def test_a_container_that_sees_only_its_own_group(self, recorded: Recorded, tmp_path: Path) -> None:
        root = build(
            tmp_path,
            {
                "proc/self/mountinfo": recorded("linux/mountinfo_v2_host.txt"),
                "proc/self/cgroup": "0::/",
                f"{GROUP}/memory.max": GIB_BYTES,
                f"{GROUP}/memory.current": 300 * MIB_BYTES,
                f"{GROUP}/cpu.max": "50000 100000",
            },
        )
        assert read_memory_limits(root) == (MemoryLimit(GIB_BYTES, 724 * MIB_BYTES),)
        assert read_cpu_quota_cores(root) == 0.5

    def test_a_mount_that_shows_a_part_of_the_hierarchy(self, recorded: Recorded, tmp_path: Path) -> None:
        root = build(
            tmp_path,
            {
                "proc/self/mountinfo": recorded("linux/mountinfo_v2_container_host_namespace.txt"),
                "proc/self/cgroup": "0::/system.slice/docker-1f2e.scope/init",
                f"{GROUP}/init/memory.max": "max",
                f"{GROUP}/memory.max": GIB_BYTES,
            },
        )
        assert read_memory_limits(root) == (MemoryLimit(GIB_BYTES, None),)

    def test_cache_beyond_the_usage_does_not_exceed_the_limit(self, recorded: Recorded, tmp_path: Path) -> None:
        root = build(
            tmp_path,
            {
                "proc/self/mountinfo": recorded("linux/mountinfo_v2_host.txt"),
                "proc/self/cgroup": "0::/",
                f"{GROUP}/memory.max": GIB_BYTES,
                f"{GROUP}/memory.current": 1,
                f"{GROUP}/memory.stat": recorded("linux/memory_stat_v2.txt"),
            },
        )
        assert read_memory_limits(root) == (MemoryLimit(GIB_BYTES, GIB_BYTES),)

    def test_usage_above_the_limit_leaves_nothing(self, recorded: Recorded, tmp_path: Path) -> None:
        root = build(
            tmp_path,
            {
                "proc/self/mountinfo": recorded("linux/mountinfo_v2_host.txt"),
                "proc/self/cgroup": "0::/",
                f"{GROUP}/memory.max": GIB_BYTES,
                f"{GROUP}/memory.current": 2 * GIB_BYTES,
            },
        )
        assert read_memory_limits(root) == (MemoryLimit(GIB_BYTES, 0),)


class TestVersion1:
    def test_docker(self, recorded: Recorded, tmp_path: Path) -> None:
        root = build(
            tmp_path,
            {
                "proc/self/mountinfo": recorded("linux/mountinfo_v1_docker.txt"),
                "proc/self/cgroup": recorded("linux/cgroup_v1_docker.txt"),
                f"{GROUP}/memory/memory.limit_in_bytes": 2 * GIB_BYTES,
                f"{GROUP}/memory/memory.usage_in_bytes": GIB_BYTES,
                f"{GROUP}/memory/memory.stat": "cache 900\ninactive_file 5\ntotal_inactive_file 104857600",
                f"{GROUP}/cpu,cpuacct/cpu.cfs_quota_us": 150000,
                f"{GROUP}/cpu,cpuacct/cpu.cfs_period_us": 100000,
            },
        )
        assert read_memory_limits(root) == (MemoryLimit(2 * GIB_BYTES, GIB_BYTES + 100 * MIB_BYTES),)
        assert read_cpu_quota_cores(root) == 1.5

    def test_no_limits(self, recorded: Recorded, tmp_path: Path) -> None:
        root = build(
            tmp_path,
            {
                "proc/self/mountinfo": recorded("linux/mountinfo_v1_docker.txt"),
                "proc/self/cgroup": recorded("linux/cgroup_v1_docker.txt"),
                f"{GROUP}/memory/memory.limit_in_bytes": V1_UNLIMITED_BYTES,
                f"{GROUP}/memory/memory.usage_in_bytes": GIB_BYTES,
                f"{GROUP}/cpu,cpuacct/cpu.cfs_quota_us": -1,
                f"{GROUP}/cpu,cpuacct/cpu.cfs_period_us": 100000,
            },
        )
        memory, notes = probe_memory(root)
        assert memory.limit_bytes is None
        assert notes == ()
        assert read_cpu_quota_cores(root) is None

    def test_beside_an_empty_version_2(self, recorded: Recorded, tmp_path: Path) -> None:
        root = build(
            tmp_path,
            {
                "proc/self/mountinfo": recorded("linux/mountinfo_hybrid.txt"),
                "proc/self/cgroup": recorded("linux/cgroup_hybrid.txt"),
                f"{GROUP}/unified/cgroup.procs": 1,
                f"{GROUP}/memory/memory.limit_in_bytes": V1_UNLIMITED_BYTES,
                f"{GROUP}/memory/machine/memory.limit_in_bytes": 3 * GIB_BYTES,
                f"{GROUP}/memory/machine/guest/memory.limit_in_bytes": 5 * GIB_BYTES,
            },
        )
        assert [limit.limit_bytes for limit in read_memory_limits(root)] == [
            5 * GIB_BYTES,
            3 * GIB_BYTES,
            V1_UNLIMITED_BYTES,
        ]


def test_a_limit_is_told(recorded: Recorded, tmp_path: Path) -> None:
    root = build(
        tmp_path,
        {
            "proc/self/mountinfo": recorded("linux/mountinfo_v2_host.txt"),
            "proc/self/cgroup": "0::/",
            f"{GROUP}/memory.max": 512 * MIB_BYTES,
            f"{GROUP}/memory.current": 512 * MIB_BYTES,
        },
    )
    memory, notes = probe_memory(root)
    assert (memory.total_bytes, memory.free_bytes, memory.limit_bytes) == (512 * MIB_BYTES, 0, 512 * MIB_BYTES)
    assert memory.host_total_bytes == psutil.virtual_memory().total
    assert notes == ("memory: this process's container may use 0.5 GiB (cgroup limit)",)


def test_a_system_without_cgroups(tmp_path: Path) -> None:
    memory, notes = probe_memory(tmp_path)
    assert (memory.total_bytes, memory.limit_bytes, notes) == (psutil.virtual_memory().total, None, ())
    assert read_cpu_quota_cores(tmp_path) is None


def test_a_system_that_hides_its_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise PermissionError(13, "Permission denied", "/proc/meminfo")

    monkeypatch.setattr(psutil, "virtual_memory", refuse)
    memory, [note] = probe_memory(tmp_path)
    assert memory == Memory()
    assert "Permission denied" in note


@pytest.mark.parametrize("group", ["/../outside", "relative", "", "/elsewhere"])
def test_a_group_outside_the_mount_leaves_the_mount_itself(group: str, recorded: Recorded) -> None:
    mounts = parse_mounts(recorded("linux/mountinfo_v2_container_host_namespace.txt"))
    assert group_directories("memory", mounts, {"": group}) == ("/sys/fs/cgroup",)


def test_a_group_that_only_starts_like_the_mounted_one_is_outside(recorded: Recorded) -> None:
    mounts = parse_mounts(recorded("linux/mountinfo_v2_container_host_namespace.txt"))
    groups = {"": "/system.slice/docker-1f2e.scope-other/x"}
    assert group_directories("memory", mounts, groups) == ("/sys/fs/cgroup",)


def test_escaped_mount_points() -> None:
    [mount] = parse_mounts(r"36 28 0:35 / /mnt/my\040cgroup rw - cgroup2 cgroup2 rw")
    assert mount.mount_point == "/mnt/my cgroup"


@pytest.mark.parametrize(
    ("text", "cores"),
    [
        ("max 100000\n", None),
        ("150000 100000\n", 1.5),
        ("100000 0", None),
        ("0 100000", None),
        ("1", None),
        ("-1 100000", None),
        (f"{'9' * 5000} 100000", None),
        ("", None),
    ],
)
def test_cpu_max(text: str, cores: float | None) -> None:
    assert parse_cpu_max(text) == cores


@given(st.text(), st.text())
def test_no_kernel_file_breaks_the_parsers(text: str, path: str) -> None:
    parse_memory_stat(text)
    parse_memory_stat(f"inactive_file {text}")
    parse_cpu_max(text)
    mounts = parse_mounts(f"{text}\n36 28 0:35 {path} /sys/fs/cgroup rw - cgroup2 cgroup2 rw")
    group_directories("memory", mounts, parse_membership(f"{text}\n0::{path}/{text}"))
