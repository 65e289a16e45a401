"""Everything that may happen to a server, for minutes. Started by scripts/soak.sh."""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback

from tests.soak import churn, crashes, files, full_disk, material, mutated, report
from tests.soak.cluster import Cluster

PARTS = [
    ("kill and recover", crashes.run, 0.45),
    ("coverage under load", churn.run, 0.20),
    ("files under change", files.run, 0.15),
    ("a full disk", full_disk.run, 0.05),
    ("damaged pictures", mutated.run, 0.15),
]
"""What there is to try, and its share of the time. Each makes tables of its own."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--part", help="only the parts whose name has this in it")
    options = parser.parse_args()
    parts = [part for part in PARTS if options.part is None or options.part in part[0]]
    if not parts:
        parser.error(f"parts: {', '.join(name for name, _, _ in PARTS)}")

    cluster = Cluster(os.environ["VISREC_SOAK_CLUSTER"])
    say(f"seed {options.seed}, {options.minutes:g} minutes")
    pictures = material.draw(cluster.shared / "pictures")
    lines: list[report.Line] = []
    for name, run, share in parts:
        seconds = 60 * options.minutes * share / sum(other for _, _, other in parts)
        say(f"{name}: {seconds:.0f} s")
        try:
            with cluster.connect() as connection:
                material.prepare(connection, pictures)
            lines += run(cluster, pictures, seconds, options.seed)
        except Exception as error:
            traceback.print_exc()
            lines.append(report.Line(name, lost=[f"did not come to its end: {error!r}"]))
    say(f"seed {options.seed}: done\n")
    print(report.as_table(lines))
    if lost := report.losses(lines):
        print("\nlost:", *lost, sep="\n  ")
        return 1
    return 0


_started = time.monotonic()


def say(text: str) -> None:
    print(f"[{time.monotonic() - _started:4.0f} s] {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
