"""The encoder process and its client, in a directory that stands for a data directory."""

import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from visrec_db import errors
from visrec_db.backend import client, starting
from visrec_db.backend.in_process import Model
from visrec_db.results import Embedding, Look
from visrec_db.service import protocol

PIXELS = Model("pixels", None, "pixels-1")


def nothing():
    """A checkpoint where nothing was cancelled."""


@pytest.fixture
def shared(data_directory, settings):
    return client.Shared(PIXELS, settings, nothing, bulk=False)


def picture(red):
    return b"P6\n1 1\n255\n" + bytes([red, 0, 0])


def ask(shared, sources, **options):
    """Vectors, and errors, which are not the same twice."""
    return [
        getattr(result, "vector", result)
        for some in shared.embed_images(sources, **options)
        for result in some
    ]


def embed(shared, sources):
    return ask(shared, sources)


def pid():
    return client.control("status", nothing)["pid"]


def until(condition, seconds=10):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_it_is_started_and_answers_in_order(shared):
    sources = [picture(red) for red in range(100)]
    sources[50], sources[70] = b"broken", "nowhere.jpg"
    results = embed(shared, sources)
    assert isinstance(results[50], errors.NotAnImage)
    assert isinstance(results[70], errors.ImageMissing)
    vectors = [result for result in results if isinstance(result, str)]
    assert len(vectors) == 98
    assert embed(shared, [sources[99]]) == [results[99]]
    assert embed(shared, []) == []


def test_the_status_counts(shared):
    embed(shared, [picture(1)] * 5)
    status = client.control("status", nothing)
    assert (status["images"], status["waiting"]) == (5, 0)
    assert status["models"][0]["model"] == "pixels"
    assert status["models"][0]["runtime"] == "numpy"


def test_nobody_else_can_reach_it(shared):
    embed(shared, [picture(1)])
    assert Path(protocol.SOCKET).stat().st_mode & 0o777 == 0o600


def test_it_holds_nothing_of_the_backend(shared):
    with Path("secret").open("w") as secret:
        os.set_inheritable(secret.fileno(), True)
        embed(shared, [picture(1)])
    links = Path(f"/proc/{pid()}/fd").iterdir()
    files = [str(link.readlink()) for link in links if link.exists()]
    assert not any("secret" in file for file in files)
    environment = Path(f"/proc/{pid()}/environ").read_bytes().split(b"\0")
    assert {entry.split(b"=")[0] for entry in environment if entry} == {b"PATH", b"LC_ALL", b"HOME"}
    assert Path(f"/proc/{pid()}/stat").read_text().split()[3] != str(os.getpid())


def test_killed_between_two_calls_another_is_started(shared):
    before = embed(shared, [picture(7)])
    first = pid()
    os.kill(first, signal.SIGKILL)
    assert embed(shared, [picture(7)]) == before
    assert pid() != first


def test_killed_in_the_middle_the_rest_is_asked_again(shared):
    expected = embed(shared, [picture(red) for red in range(200)])
    results, killed = [], False
    for some in shared.embed_images([picture(red) for red in range(200)]):
        results += [result.vector for result in some]
        if not killed:
            os.kill(pid(), signal.SIGKILL)
            killed = True
    assert results == expected


def test_killed_again_and_again_is_an_error_and_no_hang(shared, monkeypatch):
    def killed_before_it_answers(connection):
        os.kill(pid(), signal.SIGKILL)
        return receive(connection)

    receive = client.Connection._receive
    monkeypatch.setattr(client, "control", lambda op, checkpoint: {"pid": encoder_pid()})
    monkeypatch.setattr(client.Connection, "_receive", killed_before_it_answers)
    with pytest.raises(errors.EncoderUnavailable, match="ended 4 times"):
        embed(shared, [picture(1)])
    monkeypatch.undo()


def encoder_pid():
    """Whoever holds the lock, asked of the kernel."""
    inode = str(Path(protocol.LOCK).stat().st_ino)
    [line] = [line for line in Path("/proc/locks").read_text().split("\n") if f":{inode} " in line]
    return int(line.split()[4])


def test_it_ends_with_the_postmaster(shared, data_directory):
    embed(shared, [picture(1)])
    encoder = pid()
    data_directory.kill()
    data_directory.wait()
    until(lambda: not running(encoder), seconds=5)
    assert not Path(protocol.SOCKET).exists()


def test_it_ends_after_an_idle_time(data_directory, settings):
    shared = client.Shared(PIXELS, settings | {"encoder_idle_seconds": "1"}, nothing, bulk=False)
    expected = embed(shared, [picture(1)])
    encoder = pid()
    until(lambda: not running(encoder))
    assert embed(shared, [picture(1)]) == expected  # the same session, another process
    assert pid() != encoder


def running(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def test_an_encoder_of_another_version_is_replaced(shared, monkeypatch):
    embed(shared, [picture(1)])
    first = pid()
    # What a later installation does to the package's directory.
    monkeypatch.setattr(protocol, "build", lambda: "another")
    monkeypatch.setattr(starting, "_spawn", lambda idle: pytest.fail("not while the other runs"))
    with pytest.raises((pytest.fail.Exception, errors.EncoderUnavailable)):
        embed(shared, [picture(1)])
    until(lambda: not running(first))


def test_a_cancel_takes_effect_at_once_and_drops_the_work(shared, data_directory):
    embed(shared, [picture(1)])
    encoder = pid()
    os.kill(encoder, signal.SIGSTOP)  # it answers nobody now
    started = time.monotonic()

    class CancelledError(Exception):
        pass

    def checkpoint():
        if time.monotonic() - started > 0.2:
            raise CancelledError

    shared._checkpoint = checkpoint
    with pytest.raises(CancelledError):
        embed(shared, [picture(1)])
    assert time.monotonic() - started < 0.2 + 0.25
    os.kill(encoder, signal.SIGCONT)
    shared._checkpoint = nothing
    assert len(embed(shared, [picture(2)])) == 1
    assert pid() == encoder


def test_many_first_calls_start_one(data_directory):
    program = (
        f"import sys; sys.path.insert(0, {str(Path(protocol.PACKAGE).parent)!r})\n"
        "from visrec_db.backend import client, starting\n"
        f"starting.PYTHON = {sys.executable!r}\n"
        "client.take(lambda: None, '60')\n"
        "print(client.control('status', lambda: None)['pid'])\n"
    )
    callers = [
        subprocess.Popen([sys.executable, "-I", "-c", program], stdout=subprocess.PIPE)
        for _ in range(30)
    ]
    assert len({caller.communicate()[0] for caller in callers}) == 1


def test_one_that_is_about_to_end_is_waited_for(shared, data_directory):
    """As after a crash of the postmaster: the encoder of before holds the lock, and is deaf."""
    ending = (
        "import fcntl, os, sys, time; lock = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT);"
        " fcntl.flock(lock, fcntl.LOCK_EX); print(flush=True); time.sleep(1.5)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", ending, protocol.LOCK], stdout=subprocess.PIPE
    ) as other:
        other.stdout.readline()
        started = time.monotonic()
        [result] = embed(shared, [picture(1)])
        assert isinstance(result, str)
        assert time.monotonic() - started < 5


def test_a_process_that_cannot_start_says_why(data_directory, settings, monkeypatch, tmp_path):
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho 'no such library' >&2\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setattr(starting, "PYTHON", str(broken))
    with pytest.raises(errors.EncoderUnavailable, match="no such library"):
        client.take(nothing, "60")
    monkeypatch.setattr(starting, "PYTHON", str(tmp_path / "none"))
    with pytest.raises(errors.EncoderUnavailable, match="does not exist"):
        client.take(nothing, "60")


def changed_by(directory, statements):
    """A Python for the encoder process in which these statements run before the server."""
    python = directory / "python"
    python.write_text(
        f"#!{sys.executable}\n"
        "import sys\n"
        "script, sys.argv = sys.argv[3], ['-c', *sys.argv[4:]]\n"
        f"exec(script.replace('server.main()', {statements!r} + '; server.main()'))\n"
    )
    python.chmod(0o755)
    return str(python)


def give_up_after(seconds):
    """A checkpoint that fails the test instead of letting it hang."""
    deadline = time.monotonic() + seconds

    def checkpoint():
        assert time.monotonic() < deadline

    return checkpoint


STUCK = (
    "import time; from visrec_db.pictures import images; decode = images.decode;"
    " images.decode = lambda *given: decode(*given)"
    " if given[0].startswith(b'P6') else time.sleep(600)"
)


def test_worn_out_by_stuck_decoders_it_answers_and_another_goes_on(
    data_directory, settings, tmp_path, monkeypatch
):
    monkeypatch.setattr(starting, "PYTHON", changed_by(tmp_path, STUCK))
    settings["max_image_seconds"] = "1"
    shared = client.Shared(PIXELS, settings, give_up_after(30), bulk=True)
    sources = [b"stuck"] * 4 + [picture(red) for red in range(20)]
    first, results = None, []
    for some in shared.embed_images(sources):
        first = first or pid()
        results += some
    assert [type(result) for result in results] == [errors.ImageTimeout] * 4 + [Embedding] * 20
    assert pid() != first
    until(lambda: not running(first))


NOISY = (
    "import os; from visrec_db.pictures import images; decode = images.decode;"
    " server.MAX_LOG_BYTES = 10_000; flaw = b'a flaw\\n' * 1000;"
    " images.decode = lambda *given: os.write(2, flaw) and decode(*given)"
)


def test_its_log_does_not_grow_without_end(data_directory, settings, tmp_path, monkeypatch):
    monkeypatch.setattr(starting, "PYTHON", changed_by(tmp_path, NOISY))
    shared = client.Shared(PIXELS, settings, nothing, bulk=False)
    embed(shared, [picture(1)])
    log = Path(protocol.LOG)
    assert log.stat().st_size >= 7_000
    embed(shared, [picture(1)] * 10)
    until(lambda: log.stat().st_size == 0)
    embed(shared, [picture(1)])
    assert log.read_bytes() == b"a flaw\n" * 1000


@pytest.fixture
def paths(tmp_path, settings):
    """Pictures in files inside the image roots."""
    settings["image_roots"] = str(tmp_path)
    for red in range(8):
        (tmp_path / f"{red}.ppm").write_bytes(picture(red))
    return [f"{red}.ppm" for red in range(8)]


def done():
    return client.control("status", nothing)["images"]


def test_work_ahead_is_done_once(paths, shared):
    expected = [ask(shared, some) for some in (paths[:4], paths[4:])]
    before = done()
    first = ask(shared, paths[:4], ahead=paths[4:])
    until(lambda: done() == before + 8)
    second = ask(shared, paths[4:], continues=True)
    assert [first, second] == expected
    assert done() == before + 8


def test_work_ahead_of_another_statement_is_not_used(paths, shared, tmp_path):
    ask(shared, paths[:2], ahead=paths[2:4])
    until(lambda: done() == 4)
    (tmp_path / paths[2]).write_bytes(picture(0))
    assert ask(shared, paths[2:4])[0] == ask(shared, paths[:1])[0]


def test_other_images_than_those_ahead(paths, shared):
    expected = ask(shared, paths[2:3])
    ask(shared, paths[:2], ahead=paths[2:4])
    assert ask(shared, paths[2:3], continues=True) == expected


def test_work_ahead_ends_with_the_connection(paths, shared):
    ask(shared, paths[:4], ahead=paths[4:] * 500)
    for connection in client._idle:
        connection.close()
    until(lambda: client.control("status", nothing)["waiting"] == 0)
    assert done() < 2000


# Several requests in one session -------------------------------------------------------------


def test_a_request_in_the_middle_of_another_gets_its_own_answer(shared, settings):
    sources = [picture(red) for red in range(40)]
    expected = embed(shared, sources)
    other = client.Shared(PIXELS, settings, nothing, bulk=False)
    results, nested = [], []
    for some in shared.embed_images(sources):
        results += [result.vector for result in some]
        nested += embed(other, [picture(len(results) - 1)])
    assert results == expected
    assert len(nested) >= 2
    assert set(nested) <= set(expected)
    assert len(client._idle) == 2


def test_no_more_connections_are_kept_than_two(shared, settings):
    outer = [shared.embed_images([picture(1)] * 20) for _ in range(5)]
    for conversation in outer:
        assert next(conversation)
    for conversation in outer:
        assert list(conversation)
    assert len(client._idle) == client.MAX_IDLE


def test_work_ahead_stays_with_who_told_of_it(paths, shared, settings):
    expected = ask(shared, paths[:6])
    other = client.Shared(PIXELS, settings, nothing, bulk=False)
    before = done()
    first = ask(shared, paths[:2], ahead=paths[2:4])
    assert ask(other, paths[6:]) != expected[4:6]
    assert ask(other, paths[4:6], continues=True) == expected[4:6]  # it was told nothing
    assert first + ask(shared, paths[2:4], continues=True) == expected[:4]
    until(lambda: done() == before + 8)  # and 2 to 4 but once


def test_a_run_that_begins_anew_forgets_what_was_told(paths, settings, tmp_path, data_directory):
    def call(sources, **options):
        shared = client.Shared(PIXELS, settings, nothing, bulk=False, run="backfill")
        return ask(shared, sources, **options)

    fresh, stale = call([paths[7], paths[2]])
    other = client.take(nothing, "60")
    call(paths[:2], ahead=paths[2:4])
    until(lambda: done() == 6)
    (tmp_path / paths[2]).write_bytes(picture(7))
    assert call(paths[2:4], continues=True)[0] == stale
    (tmp_path / paths[2]).write_bytes(picture(2))
    call(paths[:2], ahead=paths[2:4])
    until(lambda: done() == 10)
    (tmp_path / paths[2]).write_bytes(picture(7))
    client._idle.insert(0, other)
    call(paths[:2])  # another run, on the other connection
    assert call(paths[2:4], continues=True)[0] == fresh


def test_an_answer_to_another_request_is_not_taken(shared, monkeypatch):
    expected = embed(shared, [picture(1)])
    receive = client.Connection._receive
    wrong = [True]

    def other(connection):
        answer = receive(connection)
        if not wrong.pop():
            return answer
        return {**answer, "request": answer["request"] - 1, "results": [["[9]", None]]}

    monkeypatch.setattr(client.Connection, "_receive", other)
    wrong[:] = [False] * 10 + [True]
    assert embed(shared, [picture(1)]) == expected


def test_descriptors_beyond_1024_are_waited_for(shared):
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, limits[1]))
    try:
        with ExitStack() as files:
            for _ in range(1100):
                files.enter_context(Path("/dev/null").open())
            assert len(embed(shared, [picture(1)])) == 1
            assert client._idle[0]._socket.fileno() >= 1024
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


# What is too large ---------------------------------------------------------------------------


def test_many_large_images_go_in_several_requests_and_leave_no_memory(
    shared, settings, monkeypatch
):
    settings["max_image_bytes"] = str(1 << 30)
    shared = client.Shared(PIXELS, settings, nothing, bulk=True)
    embed(shared, [picture(1)])
    sent = []
    pack = protocol.pack
    monkeypatch.setattr(
        protocol,
        "pack",
        lambda header, blobs=(): sent.append(sum(map(len, blobs))) or pack(header, blobs),
    )
    before = memory(pid())
    sources = [picture(number) + bytes(15 << 20) for number in range(10)]
    assert embed(shared, sources) == embed(shared, [picture(number) for number in range(10)])
    assert [size >> 20 for size in sent if size > 1 << 20] == [60, 60, 30]
    embed(shared, [picture(1) + bytes(100_000)] * 600)  # too small to be mapped each by itself
    until(lambda: memory(pid()) < before + 20)


def memory(process):
    """Megabytes that a process has."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") >> 20


def test_a_header_beyond_the_limit_is_not_sent_and_not_read(shared, monkeypatch):
    embed(shared, [picture(1)])
    with protocol.connect() as sock:
        sock.sendall(protocol.LENGTH.pack(protocol.MAX_HEADER_BYTES + 1))
        answer = b""
        while some := sock.recv(4096):
            answer += some
    header, _ = protocol.unpack_header(answer[protocol.LENGTH.size :])
    assert (header["error"]["code"], header["error"]["sqlstate"]) == ("invalid_request", "22023")
    monkeypatch.setattr(protocol, "MAX_HEADER_BYTES", 100)
    with pytest.raises(errors.InvalidRequest):
        embed(shared, [picture(1)])


# Other operations ----------------------------------------------------------------------------


def test_paths_come_with_stamps(paths, shared, tmp_path):
    [results] = shared.embed_images(paths[:1])
    assert [result.stamp for result in results] == shared.file_stamps(paths[:1])
    os.utime(tmp_path / paths[0], ns=(1, 1))
    assert [results[0].stamp] != shared.file_stamps([paths[0]])
    assert shared.file_stamps(["none.png"] * 1500) == [None] * 1500


def test_looks_are_no_model(paths, shared):
    results = [look for some in shared.looks([*paths[:1], b"broken", "none"]) for look in some]
    assert [type(result) for result in results] == [Look, Look, errors.ImageMissing]
    assert client.control("status", nothing)["models"] == []


def test_a_text_and_an_operation_that_cannot_be(shared):
    with pytest.raises(errors.NoTextTower):
        shared.embed_text("a red shoe")
    assert shared.dimension() == 512
    with pytest.raises(errors.InvalidRequest, match="does not exist"):
        shared._answer({"op": "nonsense"})
    with pytest.raises(errors.InvalidRequest, match="cannot be computed"):
        shared.components(bytes(16), 4, 5)
    assert len(embed(shared, [picture(1)])) == 1


def test_components_are_computed_beside_the_others_and_end_with_a_cancel(shared, settings):
    class CancelledError(Exception):
        pass

    def checkpoint():
        if children(pid()):
            found.extend(embed(shared, [picture(1)]))
            raise CancelledError

    found = []
    sample = np.random.default_rng(1).random(8_000_000, np.float32).astype(">f4").tobytes()
    other = client.Shared(None, settings, checkpoint, bulk=True)
    embed(shared, [picture(1)])
    with pytest.raises(CancelledError):
        other.components(sample, 4000, 5)
    assert len(found) == 1
    until(lambda: not children(pid()), seconds=2)
    answer = shared.components(sample[: 300 * 64 * 4], 64, 2)
    assert len(answer["components"]) == 2
    status = client.control("status", nothing)
    assert [model["model"] for model in status["models"]] == ["pixels"]


def children(process):
    return [
        entry
        for entry in Path(f"/proc/{process}/task/{process}/children").read_text().split()
        if running(entry)
    ]
