"""A server that is process 1, as in a container: the encoder's end is no backend's crash."""

import os
import pwd
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psycopg
import pytest

from tests.servers import program

NAMESPACE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]


@pytest.fixture
def first_process():
    """A cluster whose postmaster is process 1 of a PID namespace of its own."""
    if os.getuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("needs root and unshare")
    # Not every root may: most containers' may not, nor may one in a chroot.
    tried = subprocess.run([*NAMESPACE, "true"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        pytest.skip(f"no PID namespace to be had: {tried.stderr.strip()}")
    server = pwd.getpwnam("postgres")
    directory = Path(f"/var/tmp/visrec-pid1-{os.getpid()}")
    directory.mkdir(mode=0o700)
    os.chown(directory, server.pw_uid, server.pw_gid)
    become = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"]
    data = directory / "data"
    subprocess.run(
        [*become, program("initdb"), "-D", data, "-A", "trust", "-U", "postgres", "--no-sync"],
        cwd="/",
        check=True,
        capture_output=True,
    )
    settings = [
        "-p",
        "5432",
        "-c",
        "listen_addresses=",
        "-c",
        f"unix_socket_directories={directory}",
    ]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [*NAMESPACE, *become, program("postgres"), "-D", data, *settings],
            cwd="/",
            stdout=subprocess.DEVNULL,
            stderr=log,
        )
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                connection = psycopg.connect(
                    host=str(directory), port=5432, user="postgres", password="", autocommit=True
                )
                break
            except psycopg.OperationalError:
                assert time.monotonic() < deadline, (directory / "log").read_text()
                time.sleep(0.1)
        with connection:
            yield connection, directory
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(directory)


def test_a_killed_encoder_is_no_crash(first_process, pictures, paths):
    connection, directory = first_process
    assert (directory / "data" / "postmaster.pid").read_text().startswith("1\n")
    connection.execute("CREATE EXTENSION visrec CASCADE")
    connection.execute("SELECT visrec.set('image_roots', %s)", (str(pictures),))
    embed = "SELECT visrec.embed_image(%s::text, 'pixels')::text"
    before = connection.execute(embed, (paths[0],)).fetchall()
    with psycopg.connect(
        host=str(directory), port=5432, user="postgres", autocommit=True
    ) as starter:  # it will have ended when the encoder does
        starter.execute("SELECT visrec.encoder_restart()")
        starter.execute(embed, (paths[0],))
    [encoder] = [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit()
        and inside(entry, directory)
        and "visrec_db" in (entry / "cmdline").read_text(errors="replace")
        and parent_is_another_encoder(entry)
    ]
    os.kill(encoder, signal.SIGKILL)
    time.sleep(0.5)
    assert connection.execute(embed, (paths[0],)).fetchall() == before  # the same session lives
    assert "terminating any other active server processes" not in (directory / "log").read_text()


def inside(entry, directory):
    try:
        return (entry / "cwd").samefile(directory / "data")  # its name is another in a chroot
    except OSError:
        return False


def parent_is_another_encoder(entry):
    parent = Path("/proc") / (entry / "stat").read_text().rsplit(")", 1)[1].split()[1]
    return "visrec_db" in (parent / "cmdline").read_text(errors="replace")
