"""One network in memory, one file at a time, and the estimate of the time."""

import gc
import threading
import weakref

import pytest
from page_tools import photo

from cir_page import engine as engines
from cir_page.engine import Engine, Settings


def jpeg(folder, size=(64, 48)):
    path = folder / "a.jpg"
    photo(size).save(path, quality=30)
    return path.read_bytes()


def nothing(share):
    pass


def test_one_network_is_in_memory(tmp_path, monkeypatch):
    data, engine = jpeg(tmp_path), Engine()
    load, names, networks = engines.load_restorer, [], []

    def remember(*arguments):
        gc.collect()
        assert not [network for network in networks if network()]  # the old one has left
        restorer = load(*arguments)
        names.append(arguments[0].stem)
        networks.append(weakref.ref(restorer.networks[0]))
        return restorer

    monkeypatch.setattr(engines, "load_restorer", remember)
    for best in (False, False, True, False):
        engine.restore(data, "a.jpg", Settings(best), nothing)
    engine.restore(data, "a.jpg", Settings(consistency=False), nothing)  # the same network
    assert names == ["fbcnn_xs_x1", "fbcnn_s_x1", "fbcnn_xs_x1"]


def test_files_wait_for_each_other(tmp_path):
    data, engine = jpeg(tmp_path), Engine()
    inside, go_on, order = threading.Event(), threading.Event(), []

    def slow(share):
        if share == 0:
            inside.set()
            go_on.wait(30)
        order.append("first")

    first = threading.Thread(target=engine.restore, args=(data, "a", Settings(), slow))
    second = threading.Thread(
        target=engine.restore,
        args=(data, "b", Settings(), lambda share: order.append("second")),
    )
    first.start()
    assert inside.wait(30)
    second.start()
    engine.measure(best=False)  # does not wait
    second.join(0.1)
    assert second.is_alive()
    go_on.set()
    first.join(30)
    second.join(30)
    assert order == ["first", "first", "second", "second"]


def test_an_error_leaves_the_engine_usable(tmp_path):
    data, engine = jpeg(tmp_path), Engine()

    def stop(share):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        engine.restore(data, "a.jpg", Settings(), stop)
    assert engine.restore(data, "a.jpg", Settings(), nothing).action == "restored"


def test_the_time_is_estimated_from_the_last_file_or_a_trial(tmp_path, monkeypatch):
    engine = Engine()
    clock = iter(range(0, 100, 4))
    monkeypatch.setattr(engines.time, "perf_counter", lambda: next(clock))
    engine.restore(jpeg(tmp_path), "a.jpg", Settings(), nothing)
    assert engine.seconds(10, best=False) is None  # the file was too small to tell
    engine.measure(best=False)
    trial = 512 * 512
    assert engine.seconds(trial, best=False) == 4
    assert engine.seconds(trial, best=True) is None
    engine.restore(jpeg(tmp_path, (400, 300)), "a.jpg", Settings(), nothing)
    assert engine.seconds(2 * 400 * 300, best=False) == 8
    engine.measure(best=False)  # it is known
    assert engine.seconds(400 * 300, best=False) == 4
