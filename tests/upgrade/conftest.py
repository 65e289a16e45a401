"""Databases with the extension in a version of one's choice, on the cluster of `make test`."""

import shutil

import psycopg
import pytest

from tests.integration.conftest import paths, pictures, shared  # noqa: F401 - fixtures

pytest.register_assert_rewrite("tests.upgrade.furnished")

from .furnished import ROLES  # noqa: E402


@pytest.fixture
def database(shared):  # noqa: F811
    """Makes databases with a version of the extension, or empty; gives a connection to each."""
    made = []
    with psycopg.connect("", autocommit=True) as admin:

        def make(version=None, empty=False):
            name = f"upgrade_{len(made)}"
            admin.execute(f"CREATE DATABASE {name} TEMPLATE template0")
            made.append(psycopg.connect(dbname=name, autocommit=True))
            if not empty:
                wanted = "" if version is None else f"VERSION '{version}'"
                made[-1].execute(f"CREATE EXTENSION visrec {wanted} CASCADE")
            return made[-1]

        yield make
        for number, connection in enumerate(made):
            connection.close()
            admin.execute(f"DROP DATABASE upgrade_{number} WITH (FORCE)")
        for role in ROLES:
            admin.execute(f"DROP ROLE IF EXISTS {role}")


@pytest.fixture
def roots(pictures, shared):  # noqa: F811
    """Two image roots: the drawn pictures, and an empty one of the test's own."""
    own = shared / "upgrade"
    own.mkdir()
    yield pictures, own
    shutil.rmtree(own)
