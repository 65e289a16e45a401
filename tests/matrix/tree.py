"""A Debian in a directory, which commands are run in."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.matrix import host

REPOSITORY = Path(__file__).parents[2]
SOURCE = "srv/visrec"  # where a tree has the repository
CACHES = ("var/cache/apt/archives", "root/.cache/pip")


def mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *arguments], check=True)


@dataclass
class Tree:
    """A release of Debian in ``root``; what is done there is written to ``log``."""

    root: Path
    suite: str
    packages: tuple[str, ...] = ()
    cache: Path | None = None  # shared with other trees
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def log(self) -> Path:
        return self.root.with_suffix(".log")

    def make(self) -> None:
        """Makes it anew, with the repository's files in it, and what it needs to run things."""
        if self.root.exists():
            subprocess.run(["rm", "-rf", "--one-file-system", self.root], check=True)
        self.root.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as log:
            subprocess.run(
                [
                    "mmdebstrap", "--variant=minbase", "--mode=root", "--format=directory",
                    "--aptopt=Acquire::Check-Valid-Until \"false\"",
                    f"--aptopt={self._apt_file()}",
                    self.suite, self.root, host.archive(),
                ],
                stdout=log, stderr=subprocess.STDOUT, check=True,
            )  # fmt: skip
        self._furnish()
        self.enter()
        done = self.run(
            "apt-get update -qq && apt-get install -y -qq --no-install-recommends"
            f" make procps util-linux {' '.join(self.packages)}"
        )
        assert done == 0, f"{self.suite} could not be furnished: see {self.log}"
        for cache in CACHES:
            if not self.cache:
                subprocess.run(["rm", "-rf", *(self.root / cache).glob("*.deb")], check=True)

    def _apt_file(self) -> Path:
        file = self.root.parent / "apt.conf"
        file.write_text(host.apt_settings())
        return file

    def _furnish(self) -> None:
        inside = self.root / host.INSIDE.relative_to("/")
        inside.mkdir()
        for certificate in host.certificates():
            shutil.copy(certificate, inside / certificate.name)
        for file in host.pip_files():
            shutil.copy(file, self.root / "etc/pip.conf")
        for name in ("resolv.conf", "hosts"):
            shutil.copy(Path("/etc") / name, self.root / "etc" / name)
        self.copy_repository()

    def copy_repository(self) -> None:
        """The files that git knows or would, as they are now."""
        (self.root / SOURCE).mkdir(parents=True, exist_ok=True)
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=REPOSITORY, capture_output=True, check=True,
        ).stdout.decode().split("\0")  # fmt: skip
        for name in filter(None, listed):
            if (REPOSITORY / name).is_file():
                to = self.root / SOURCE / name
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(REPOSITORY / name, to)

    def enter(self) -> None:
        """Mounts what a system has: its processes, devices, the packages' indexes, caches."""
        mount("--bind", self.root, self.root)
        mount("-t", "proc", "proc", self.root / "proc")
        mount("--rbind", "/sys", self.root / "sys")
        mount("--rbind", "/dev", self.root / "dev")
        mount("-t", "tmpfs", "-o", "mode=1777", "tmpfs", self.root / "dev/shm")
        for directory in host.directories():
            to = self.root / directory.relative_to("/")
            to.mkdir(parents=True, exist_ok=True)
            mount("--bind", "-o", "ro", directory, to)
        if self.cache:
            for name in CACHES:
                (self.cache / name).mkdir(parents=True, exist_ok=True)
                (self.root / name).mkdir(parents=True, exist_ok=True)
                mount("--bind", self.cache / name, self.root / name)

    def mask(self, *flags: str) -> None:
        """Makes the processor say that it lacks these units, to all who read /proc/cpuinfo."""
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        for number, line in enumerate(lines):
            if line.startswith(("flags", "Features")):
                name, _, words = line.partition(":")
                lines[number] = f"{name}: {' '.join(w for w in words.split() if w not in flags)}"
        masked = self.root.with_suffix(".cpuinfo")
        masked.write_text("\n".join(lines) + "\n")
        mount("--bind", masked, self.root / "proc/cpuinfo")

    def unmask(self) -> None:
        subprocess.run(["umount", self.root / "proc/cpuinfo"], check=True)

    def run(self, command: str, user: str = "root", **more: str) -> int:
        """Runs a shell command in the repository's copy; its exit status."""
        with self.log.open("ab") as log:
            log.write(f"\n=== {time.strftime('%H:%M:%S')} {command}\n".encode())
            log.flush()
            return self._start(command, user, log, **more).wait()

    def ask(self, command: str, user: str = "root") -> str:
        """Runs a shell command and returns what it says."""
        process = self._start(command, user, subprocess.PIPE)
        said, _ = process.communicate()
        assert process.returncode == 0, f"{command}: {said.decode()}"
        return said.decode().strip()

    def start(self, command: str, user: str = "root") -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return self._start(command, user, log)

    def _start(
        self, command: str, user: str, output: object, **more: str
    ) -> subprocess.Popen[bytes]:
        become = (
            []
            if user == "root"
            else ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"]
        )
        variables = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/root" if user == "root" else "/",
            "LC_ALL": "C.UTF-8",
            "DEBIAN_FRONTEND": "noninteractive",
            **host.environment(),
            **self.settings,
            **more,
        }
        return subprocess.Popen(
            ["chroot", self.root, *become, "/bin/sh", "-c", f"cd /{SOURCE} && {command}"],
            env=variables, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def size(self) -> int:
        """Bytes on disk, without caches, package lists, the repository's copy and /tmp."""
        elsewhere = [str(directory.relative_to("/")) for directory in host.directories()]
        skipped = (*CACHES, *elsewhere, "var/lib/apt/lists", "var/tmp", "tmp", SOURCE)
        out = subprocess.run(
            ["du", "-sxk", *(f"--exclude={self.root / name}" for name in skipped), self.root],
            capture_output=True, text=True, check=False,
        ).stdout  # fmt: skip
        return int(out.split()[0]) * 1024

    def fetched(self) -> int | None:
        """Bytes of packages fetched so far; None where the cache is shared."""
        if self.cache:
            return None
        total = sum(file.stat().st_size for file in (self.root / CACHES[0]).glob("*.deb"))
        log = self.root / "var/log/pip.log"
        for line in log.read_text(errors="replace").splitlines() if log.exists() else []:
            if size := re.search(r"Downloading .* \(([\d.]+) ([kMG]?)B\)", line):
                total += int(float(size[1]) * 1000 ** " kMG".index(size[2] or " "))
            elif (taken := re.search(r"Processing (/\S+)", line)) and Path(taken[1]).is_file():
                total += Path(taken[1]).stat().st_size  # from a directory of this machine
        return total
