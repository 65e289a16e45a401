"""A tree that looks like the official image of PostgreSQL: what Dockerfile.postgres begins with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.matrix import image

if TYPE_CHECKING:
    from tests.matrix.tree import Tree

MAJOR = "15"  # bookworm's own: the images have packages of the PostgreSQL project, laid out alike


def be_like_the_base(tree: Tree) -> None:
    """A server without a cluster, its user, its directories; and pgvector, there a package."""
    compiled = image.copy(tree, "pgvector")
    assert compiled.run("make deps") == 0, f"see {compiled.log}"
    record = "usr/local/lib/visrec/installed-by-make-deps"
    done = tree.run(
        "groupadd -r postgres --gid=999"
        " && useradd -r -g postgres --uid=999 -d /var/lib/postgresql -s /bin/bash postgres"
        " && cd /var/lib && install -d -o postgres -g postgres -m 1777 postgresql postgresql/data"
        " && mkdir -p /etc/postgresql-common/createcluster.d /docker-entrypoint-initdb.d"
        " && echo 'create_main_cluster = false'"
        " >/etc/postgresql-common/createcluster.d/none.conf"
        f" && apt-get install -y -qq --no-install-recommends postgresql-{MAJOR}"
        " && apt-get remove -y -qq make"
        " && install -d -o postgres -g postgres -m 3777 /var/run/postgresql"
    )
    assert done == 0, f"see {tree.log}"
    for line in (compiled.root / record).read_text().splitlines():
        kind, _, file = line.partition(" ")
        if kind == "pgvector":
            to = tree.root / file.lstrip("/")
            to.parent.mkdir(parents=True, exist_ok=True)
            to.write_bytes((compiled.root / file.lstrip("/")).read_bytes())


def variables(tree: Tree) -> dict[str, str]:
    """What the image sets."""
    programs = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return {
        "PG_MAJOR": MAJOR,
        "PG_VERSION": server_version(tree),
        "PATH": f"{programs}:/usr/lib/postgresql/{MAJOR}/bin",
        "PGDATA": "/var/lib/postgresql/data",
    }


def server_version(tree: Tree) -> str:
    return tree.ask(f"dpkg-query -W -f '${{Version}}' postgresql-{MAJOR}")
