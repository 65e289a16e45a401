"""What this machine can do: how many processors, and which numbers they multiply."""

from __future__ import annotations

import hashlib
import math
import os
from pathlib import Path

BF16 = {
    "amx_bf16",  # x86: matrix units
    "avx512_bf16",  # x86: vector units
    "bf16",  # arm64
}

MASKED: set[str] = set()
"""Units that are taken for absent. Only tests add to it."""

INT8 = {
    "amx_int8",
    "avx512_vnni",
    "avx_vnni",
    "asimddp",  # arm64: dot products
    "i8mm",
}


def cpus(root: Path = Path("/")) -> int:
    """Returns the processors it may use: its affinity, and its control group's quota rounded up.

    ``root`` is where ``proc`` and ``sys`` are.
    """
    allowed = len(os.sched_getaffinity(0))
    for quota, period in _quotas(root):
        allowed = min(allowed, max(1, math.ceil(quota / period)))
    return allowed


def has_bf16(root: Path = Path("/")) -> bool:
    """Returns whether the processor multiplies bfloat16 in hardware; otherwise it is slower."""
    return bool(BF16 & _flags(root))


def has_int8(root: Path = Path("/")) -> bool:
    """Returns whether the processor multiplies 8-bit integers in hardware."""
    return bool(INT8 & _flags(root))


def processor(root: Path = Path("/")) -> str:
    """Returns what tells one kind of processor from another: what was measured holds for it."""
    text = _read(root / "proc/cpuinfo")
    names = {line for line in text.splitlines() if line.startswith("model name")}
    return hashlib.sha256("\n".join(sorted(names | _flags(root))).encode()).hexdigest()[:16]


def may_have_cuda(root: Path = Path("/")) -> bool:
    """Returns whether there is an NVIDIA driver, or WSL's: else torch need not be asked."""
    return (root / "proc/driver/nvidia/version").exists() or (root / "dev/dxg").exists()


def _flags(root: Path) -> set[str]:
    for line in _read(root / "proc/cpuinfo").splitlines():
        name, _, words = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return set(words.split()) - MASKED
    return set()


def _quotas(root: Path) -> list[tuple[int, int]]:
    """Returns (microseconds, of how many) for its group and those above it; none: no limit."""
    mount = root / "sys/fs/cgroup"
    quotas: list[tuple[int, int]] = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers == "":  # version 2
            for directory in _upwards(mount, group):
                quota, *period = _read(directory / "cpu.max").split() or ["max"]
                if quota != "max" and period:
                    quotas.append((int(quota), int(period[0])))
        elif "cpu" in controllers.split(","):
            for directory in _upwards(mount / "cpu", group):
                limit = _read(directory / "cpu.cfs_quota_us").strip()
                interval = _read(directory / "cpu.cfs_period_us").strip()
                if limit.isdigit() and interval.isdigit():  # -1: no limit
                    quotas.append((int(limit), int(interval)))
    return quotas


def _upwards(mount: Path, group: str) -> list[Path]:
    """Returns the group's directory and those above it, up to the mount that a container sees."""
    inner = mount / group.lstrip("/")
    return [inner, *(directory for directory in inner.parents if directory.is_relative_to(mount))]


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
