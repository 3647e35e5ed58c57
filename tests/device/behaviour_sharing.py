"""How a CUDA device behaves: contexts that others use too, several devices, a fork.

Run by test_cuda.py in a process of its own for each package and driver. By hand, on a GPU:
CUDA_PACKAGE=pycuda pytest tests/device/behaviour_sharing.py
"""

from __future__ import annotations

import os

import numpy as np
import pytest
from emulated_cuda import Emulator
from helpers import NBYTES, PACKAGE, SHAPE, numbers, pinned

from whyfake.errors import EngineError
from whyfake.runtime.cuda import Cuda, devices, open_cuda


def test_the_context_before_is_the_context_after(cuda: Cuda, emulator: Emulator) -> None:
    """Another library's context is current, on another device: no call of ours changes that."""
    other = emulator.retain(1)
    emulator.set_current(other)
    memory, stream, event = cuda.allocate(NBYTES), cuda.stream(), cuda.event()
    array = pinned(cuda, numbers())
    for call in (
        cuda.memory,
        lambda: cuda.upload(memory, array, stream),
        lambda: cuda.record(event, stream),
        lambda: cuda.wait(stream, event),
        lambda: cuda.synchronize(stream),
        lambda: cuda.free(memory),
        lambda: open_cuda(0, PACKAGE).close(),
    ):
        call()
        assert emulator.current() == other
    with cuda.current():
        ours = emulator.current()
        assert ours not in (0, other)
        with cuda.current():
            assert emulator.current() == ours
            cuda.memory()
        assert emulator.current() == ours
        emulator.set_current(other)  # what torch does when it is asked for another device
        cuda.free(cuda.allocate(64))
        assert emulator.current() == other
        with cuda.current():
            assert emulator.current() == ours
        assert emulator.current() == other
    assert emulator.current() == other
    cuda.close()
    assert emulator.current() == other
    emulator.set_current(0)
    emulator.release(1)


def test_an_error_inside_leaves_the_context_as_it_was(cuda: Cuda, emulator: Emulator) -> None:
    with pytest.raises(KeyError), cuda.current():
        raise KeyError
    assert emulator.current() == 0


def test_the_primary_context_is_shared(emulator: Emulator) -> None:
    """With an owner before us, and one who stays after us."""
    theirs = emulator.retain(0)
    first, second = open_cuda(0, PACKAGE), open_cuda(0, PACKAGE)
    assert emulator.count("contexts") == 3
    with first.current():
        assert emulator.current() == theirs
    first.allocate(100)
    kept = second.allocate(50)
    first.close()
    assert emulator.alive() == {"contexts": 2, "memory": 1, "bytes": 50}
    second.free(kept)
    second.close()
    assert emulator.alive() == {"contexts": 1}
    emulator.release(0)


def test_several_devices(emulator: Emulator) -> None:
    assert [device["name"] for device in devices()] == [f"Emulated GPU {n}" for n in range(3)]
    with open_cuda(1, PACKAGE) as one, open_cuda(2, PACKAGE) as two:
        assert [one.name, two.name] == ["Emulated GPU 1", "Emulated GPU 2"]
        assert [one.compute_capability, two.compute_capability] == [(9, 1), (9, 2)]
        one.allocate(1000)
        assert one.memory()[0] == two.memory()[0] - 1000
        with one.current(), two.current():
            memory, stream = one.allocate(NBYTES), one.stream()
            one.upload(memory, pinned(two, numbers()), stream)  # pinned for all
            result = two.pinned(SHAPE, np.float32)
            one.download(result, memory, stream)
            one.synchronize(stream)
        np.testing.assert_array_equal(result, numbers())
        with pytest.raises(EngineError, match="is not a stream of this device"):
            two.synchronize(stream)


def test_another_library_has_made_the_same_context_current(emulator: Emulator) -> None:
    """As torch does on the same device; pycuda must be told all the same."""
    theirs = emulator.retain(0)
    emulator.set_current(theirs)
    with open_cuda(0, PACKAGE) as cuda:
        memory, stream = cuda.allocate(NBYTES), cuda.stream()
        cuda.record(cuda.event(), stream)
        cuda.upload(memory, pinned(cuda, numbers()), stream)
        cuda.synchronize(stream)
        assert emulator.current() == theirs
    assert emulator.current() == theirs
    emulator.set_current(0)
    emulator.release(0)


@pytest.mark.skipif(PACKAGE != "pycuda", reason="pycuda keeps a stack of its own")
def test_beside_another_user_of_pycuda(emulator: Emulator) -> None:
    """Whose context is current for pycuda, though torch has made another one so since."""
    import pycuda.driver

    pycuda.driver.init()
    theirs = pycuda.driver.Device(0).retain_primary_context()
    theirs.push()
    other = emulator.retain(1)
    for top in (emulator.current(), other):
        emulator.set_current(top)
        with open_cuda(2, PACKAGE) as cuda, open_cuda(0, PACKAGE) as same:
            for device in (cuda, same):
                memory, stream = device.allocate(NBYTES), device.stream()
                device.upload(memory, numbers(), stream)
                device.synchronize(stream)
                assert emulator.current() == top
        assert emulator.current() == top
    emulator.set_current(theirs.handle)
    assert pycuda.driver.Context.get_current() == theirs
    pycuda.driver.Context.pop()
    theirs.detach()
    emulator.set_current(0)
    emulator.release(1)


def test_a_fork_leaves_the_device_to_its_parent(emulator: Emulator) -> None:
    """CUDA does not work in a fork: the child is told so, and frees nothing of its parent's."""
    cuda = open_cuda(0, PACKAGE)
    array, stream = pinned(cuda, numbers()), cuda.stream()
    before = emulator.alive()
    child = os.fork()
    if not child:
        told = 1
        try:
            cuda.synchronize(stream)
        except EngineError as error:
            told = 0 if "CUDA does not survive a fork" in str(error) else 2
        del array
        cuda.close()
        os._exit(told if emulator.alive() == before else 3)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    del array
    cuda.close()
