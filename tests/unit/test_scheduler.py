"""Batches across sessions, without sockets and without weights."""

import hashlib
import threading
import time

import numpy as np
import pytest

from visrec_db import errors
from visrec_db.pictures import files, images
from visrec_db.results import Embedding, Look
from visrec_db.service import scheduler

POLICY = images.Policy(roots=("/nonexistent",), max_bytes=1 << 20, max_pixels=1 << 20)


class FakeEncoder:
    """One number a picture: its red. Records the batches, and can be held in a forward pass."""

    dimension, runtime, precision, device, batch, smallest = 2, "fake", "f32", "cpu", 4, None

    def __init__(self):
        self.batches = []
        self.entered = threading.Event()
        self.go = threading.Event()
        self.go.set()

    def prepare(self, picture):
        return picture.getpixel((0, 0))[0]

    def encode_prepared(self, prepared):
        self.entered.set()
        assert self.go.wait(10)
        self.batches.append(list(prepared))
        return np.array([[number, 1.0] for number in prepared], dtype=np.float32)

    def encode_texts(self, texts):
        raise errors.NoTextTower("none")


def picture(red):
    return b"P6\n1 1\n255\n" + bytes([red, 0, 0])


@pytest.fixture
def encoder():
    return FakeEncoder()


@pytest.fixture
def model(encoder):
    return scheduler.LazyEncoder("somewhere", load=lambda *_: encoder)


@pytest.fixture
def work():
    return scheduler.Scheduler(decoders=2)


class Asked(scheduler.Request):
    """A request that can be waited for."""

    def __init__(self, model, sources, bulk=False, policy=POLICY):
        self.changed = threading.Condition()
        super().__init__(model, sources, policy, bulk, self.wake)

    def wake(self):
        with self.changed:
            self.changed.notify_all()

    def wait(self, count=None):
        count = len(self.results) if count is None else count
        with self.changed:
            assert self.changed.wait_for(
                lambda: sum(result is not None for result in self.results) >= count, timeout=10
            )
        return self.results


def reds(results):
    return [round(float(result.vector[1:-1].split(",")[0])) for result in results]


def test_results_are_in_order_with_bad_pictures_in_between(work, model):
    asked = Asked(model, [picture(10), b"broken", picture(20), "nowhere.jpg", picture(30)])
    work.submit(asked)
    results = asked.wait()
    assert reds([results[0], results[2], results[4]]) == [10, 20, 30]
    assert isinstance(results[1], errors.NotAnImage)
    assert isinstance(results[3], errors.ImageMissing)


def test_a_path_comes_with_the_stamp_of_its_file(work, model, tmp_path):
    (tmp_path / "x.ppm").write_bytes(picture(10))
    policy = images.Policy((str(tmp_path),), 1 << 20, 1 << 20)
    asked = Asked(model, ["x.ppm", picture(10)], policy=policy)
    work.submit(asked)
    found, given = asked.wait()
    assert [found.stamp] == files.file_stamps(["x.ppm"], policy)
    assert given.stamp is None


def test_looks_need_no_encoder_and_one_that_cannot_be_decoded_has_a_digest(work):
    asked = Asked(None, [picture(10), picture(10), b"broken", "nowhere.jpg"])
    work.submit(asked)
    first, again, broken, missing = asked.wait()
    assert (first.digest, first.bits) == (again.digest, again.bits)
    assert first.colours == [10, 0, 0] * 16
    assert isinstance(broken, Look)
    assert (broken.digest, broken.bits) == (hashlib.sha256(b"broken").hexdigest(), None)
    assert isinstance(missing, errors.ImageMissing)
    assert work.waiting() == 0


def test_requests_that_wait_together_go_together(work, model, encoder):
    encoder.go.clear()
    first = Asked(model, [picture(1)])
    work.submit(first)
    assert encoder.entered.wait(10)
    others = [Asked(model, [picture(red)]) for red in (2, 3, 4)]
    for asked in others:
        work.submit(asked)
    until(lambda: work.waiting() == 3 and all(item.prepared for a in others for item in a.items))
    encoder.go.set()
    for asked in [first, *others]:
        asked.wait()
    assert encoder.batches[0] == [1]
    assert sorted(encoder.batches[1]) == [2, 3, 4]


def test_bulk_goes_in_full_batches(work, model, encoder):
    asked = Asked(model, [picture(red) for red in range(1, 43)], bulk=True)
    work.submit(asked)
    assert reds(asked.wait()) == list(range(1, 43))
    assert [len(batch) for batch in encoder.batches[:-1]] == [4] * 10
    assert len(encoder.batches[-1]) == 2
    assert (work.images, work.batches) == (42, 11)


def test_a_small_request_goes_before_a_bulk(work, model, encoder):
    encoder.go.clear()
    bulk = Asked(model, [picture(1)] * 40, bulk=True)
    work.submit(bulk)
    assert encoder.entered.wait(10)
    small = Asked(model, [picture(200)])
    work.submit(small)
    until(lambda: small.items[0].prepared)
    encoder.go.set()
    small.wait()
    assert 200 in encoder.batches[1]
    bulk.wait()


def test_decoded_bulk_pictures_do_not_pile_up(work, model, encoder):
    encoder.go.clear()
    bulk = Asked(model, [picture(1)] * 200, bulk=True)
    work.submit(bulk)
    assert encoder.entered.wait(10)
    time.sleep(0.3)
    decoded = sum(item.prepared is not None for item in bulk.items)
    assert decoded <= encoder.batch * (scheduler.MAX_READY_BATCHES + 1) + 2
    encoder.go.set()
    bulk.wait()


def test_a_cancelled_request_is_dropped(work, model, encoder):
    encoder.go.clear()
    bulk = Asked(model, [picture(1)] * 100, bulk=True)
    work.submit(bulk)
    assert encoder.entered.wait(10)
    bulk.cancelled = True
    encoder.go.set()
    after = Asked(model, [picture(9)])
    work.submit(after)
    assert reds(after.wait()) == [9]
    until(lambda: work.waiting() == 0)
    assert sum(len(batch) for batch in encoder.batches) < 30


def test_two_models_do_not_share_a_batch(work, model):
    other_encoder = FakeEncoder()
    other = scheduler.LazyEncoder("elsewhere", load=lambda *_: other_encoder)
    asked = [Asked(model, [picture(1)] * 6), Asked(other, [picture(2)] * 6)]
    for one in asked:
        work.submit(one)
    assert reds(asked[0].wait()) == [1] * 6
    assert reds(asked[1].wait()) == [2] * 6
    assert all(set(batch) == {2} for batch in other_encoder.batches)


@pytest.mark.parametrize("seconds", [600, 0], ids=["soon", "too long"])
def test_bulk_waits_for_the_compiled_form_and_single_pictures_do_not(
    work, model, encoder, monkeypatch, seconds
):
    monkeypatch.setattr(scheduler, "MOST_HELD", seconds)
    model.get()
    model.compiling = time.monotonic()
    bulk, single = Asked(model, [picture(1)] * 6, bulk=True), Asked(model, [picture(9)])
    for asked in (bulk, single):
        work.submit(asked)
    assert reds(single.wait()) == [9]
    if seconds:
        assert bulk.results == [None] * 6
        compiled = FakeEncoder()
        model.replace(compiled)
        assert reds(bulk.wait()) == [1] * 6
        assert [red for batch in compiled.batches for red in batch] == [1] * 6
    else:
        assert reds(bulk.wait()) == [1] * 6
        assert sum(len(batch) for batch in encoder.batches) == 7


def test_a_model_that_does_not_load_fails_its_pictures_without_loading_for_each(work):
    attempts = []

    def load(directory, _fingerprint):
        attempts.append(directory)
        raise errors.EncoderUnavailable("it is not there")

    asked = Asked(scheduler.LazyEncoder("nowhere", load=load), [picture(1)] * 20)
    work.submit(asked)
    assert all(isinstance(result, errors.EncoderUnavailable) for result in asked.wait())
    assert len(attempts) == 1


def test_a_forward_pass_that_fails_fails_its_batch_alone(work, model, encoder):
    def fail(prepared):
        raise RuntimeError("out of luck")

    works, encoder.encode_prepared = encoder.encode_prepared, fail
    asked = Asked(model, [picture(1)])
    work.submit(asked)
    assert isinstance(asked.wait()[0], errors.EncoderUnavailable)
    encoder.encode_prepared = works
    again = Asked(model, [picture(5)])
    work.submit(again)
    assert reds(again.wait()) == [5]


# Pictures that take too long ----------------------------------------------------------------


class Stuck:
    """Stands in for ``images.decode``: what begins with "stuck" waits inside a decoder."""

    def __init__(self, monkeypatch):
        self.let_go = threading.Event()
        self.inside = 0
        self.decode = images.decode
        monkeypatch.setattr(images, "decode", self)
        monkeypatch.setattr(scheduler, "GRACE", 0.05)
        monkeypatch.setattr(scheduler, "WATCH_EVERY", 0.01)

    def __call__(self, data, policy, smallest, attempt):
        if data.startswith(b"stuck"):
            self.inside += 1
            assert self.let_go.wait(10)
            self.inside -= 1
            data = data.removeprefix(b"stuck")
        return self.decode(data, policy, smallest, attempt)


@pytest.fixture
def stuck(monkeypatch):
    stuck = Stuck(monkeypatch)
    yield stuck
    stuck.let_go.set()


SOON = images.Policy(roots=(), max_bytes=1 << 20, max_pixels=1 << 20, max_seconds=0.1)


def test_a_picture_that_is_stuck_times_out_and_the_others_go_on(work, model, encoder, stuck):
    threads = threading.active_count()
    asked = Asked(model, [b"stuck" + picture(1), b"stuck" + picture(2), picture(3)], policy=SOON)
    work.submit(asked)
    results = asked.wait()
    assert [type(result) for result in results[:2]] == [errors.ImageTimeout] * 2
    assert "0.1" in results[0].message
    assert reds(results[2:]) == [3]
    assert stuck.inside == 2
    stuck.let_go.set()
    until(lambda: threading.active_count() == threads)
    after = Asked(model, [picture(9)], policy=SOON)
    work.submit(after)
    assert reds(after.wait()) == [9]
    assert encoder.batches == [[3], [9]], "a late picture went into a forward pass"
    assert isinstance(results[0], errors.ImageTimeout)


def test_a_picture_that_ends_as_it_is_given_up_has_one_result(work, model, monkeypatch):
    def around_the_end(data, policy, smallest, attempt):
        time.sleep(delays.pop())
        return decode(data, policy, smallest, attempt)

    decode = images.decode
    delays = [0.02 + 0.0002 * number for number in range(200)]
    monkeypatch.setattr(images, "decode", around_the_end)
    monkeypatch.setattr(scheduler, "GRACE", 0.0)
    monkeypatch.setattr(scheduler, "WATCH_EVERY", 0.001)
    policy = images.Policy(roots=(), max_bytes=99, max_pixels=99, max_seconds=0.04)
    work = scheduler.Scheduler(decoders=4)
    asked = Asked(model, [picture(1)] * 200, policy=policy)
    finished = []
    for item in asked.items:
        item.finish = lambda result, item=item: (
            finished.append(item.place),
            scheduler._Item.finish(item, result),
        )
    work.submit(asked)
    results = asked.wait()
    kinds = {type(result) for result in results}
    assert kinds == {Embedding, errors.ImageTimeout}
    until(lambda: work._lost == 0)
    assert sorted(finished) == list(range(200))


def test_too_many_stuck_threads_wear_it_out(work, model, stuck):
    waits = Asked(model, [b"stuck" + picture(1)] * 4 + [picture(2)] * 50, True, policy=SOON)
    work.submit(waits)
    waits.wait(4)
    until(work.ended)
    late = Asked(model, [picture(3)], policy=SOON)
    work.submit(late)
    time.sleep(0.1)
    assert late.results == [None]
    stuck.let_go.set()  # what was stuck comes back: it is as good as new
    assert reds(late.wait()) == [3]
    assert not work.ended()
    assert sum(isinstance(result, Embedding) for result in waits.wait()) == 50


def test_loading_a_model_is_not_a_pictures_time(work, encoder, stuck):
    def load(directory, _fingerprint):
        time.sleep(0.4)
        return encoder

    asked = Asked(scheduler.LazyEncoder("somewhere", load=load), [picture(1)], policy=SOON)
    work.submit(asked)
    assert reds(asked.wait()) == [1]


def until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)
