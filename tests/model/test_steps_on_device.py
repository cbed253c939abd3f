"""Steps whose numbers stay on the device; fused optimizers do the same on a CPU."""

from copy import deepcopy
from typing import ClassVar

import pytest
import torch
from command_tools import train_options
from host_tools import basicsr_log
from small_networks import SMALL
from torch.utils._python_dispatch import TorchDispatchMode
from training_tools import assert_close, batch, model, weights

from cir_host.errors import UserError
from cir_host.saving import resume_training
from cir_model import CaVEModel

FUSED = {"optim_g": {"type": "AdamW", "lr": 1e-2, "fused": True}, "ema_decay": 0.9}
PLAIN = {**FUSED, "optim_g": {"type": "AdamW", "lr": 1e-2}}


def poisoned():
    data = batch()
    data["lq"][0, 0, 0, 0] = float("nan")
    return data


def take(made, data, iteration):
    made.feed_data(data)
    made.optimize_parameters(iteration)


class NoReading(TorchDispatchMode):
    """Refuses to read numbers and counts of elements, which would wait for a GPU."""

    refused: ClassVar = {torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero}

    def __torch_dispatch__(self, func, _types, args=(), kwargs=None):
        assert func.overloadpacket not in self.refused
        return func(*args, **(kwargs or {}))


def test_a_step_reads_no_number():
    opt = train_options(network_g={"type": "FBCNN", **SMALL["FBCNN"]})
    opt |= {"is_train": True, "dist": False, "rank": 0, "world_size": 1}
    opt["train"] |= FUSED | {"grad_clip": 1.0, "quality_opt": {"type": "L1Loss"}, "accum_iter": 2}
    made = CaVEModel(opt)
    data = batch() | {"quality": torch.tensor([10, 20, -1, 100])}
    take(made, data, 1)
    with NoReading():
        take(made, data, 2)
    assert made.get_current_log()["l_quality"] > 0


@pytest.mark.parametrize("options", [{}, {"grad_clip": 0.01}, {"ema_warmup": True}])
def test_steps_are_those_without_it(options):
    device, plain = model(**FUSED, **options), model(**PLAIN, **options)
    assert device.steps_on_device is not None
    assert plain.steps_on_device is None
    for iteration in (1, 2, 3):
        for made in (device, plain):
            take(made, batch(seed=iteration), iteration)
    assert device.get_current_log() == pytest.approx(plain.get_current_log(), rel=1e-4)
    for network in ("net_g", "net_g_ema"):
        assert_close(weights(device, network), weights(plain, network), rtol=1e-4, atol=1e-6)


def test_a_step_that_is_not_finite_leaves_everything_as_it_was():
    made = model(**FUSED, max_nonfinite=3)
    take(made, batch(), 1)
    before = weights(made), weights(made, "net_g_ema")
    for iteration in (2, 3):
        take(made, poisoned(), iteration)
    with basicsr_log() as log:
        assert made.get_current_log()["skipped"] == 2
    assert "2 of the last 3 iterations are skipped" in log[-1]
    assert_close(weights(made), before[0], rtol=0, atol=0)
    assert_close(weights(made, "net_g_ema"), before[1], rtol=0, atol=0)
    take(made, batch(), 4)  # a sound step: the row ends, the count stays
    for iteration in (5, 6):
        take(made, poisoned(), iteration)
    assert made.get_current_log()["skipped"] == 4
    take(made, poisoned(), 7)
    with pytest.raises(UserError, match="not finite in 3 steps in a row"):
        made.get_current_log()


def test_numbers_are_read_before_many_steps_have_passed():
    """Without a line of the log, an unsound training ends too."""
    made = model(**FUSED, max_nonfinite=3)
    with pytest.raises(UserError, match="steps in a row"):
        for iteration in range(1, 102):
            take(made, poisoned(), iteration)


@pytest.mark.parametrize(("saved_by", "resumed_by"), [(PLAIN, FUSED), (FUSED, PLAIN)])
def test_a_resumed_run_keeps_its_own_kernels(saved_by, resumed_by):
    """Else a run resumed on a GPU would take steps that are not finite."""
    first, second = model(**saved_by), model(**resumed_by)
    take(first, batch(), 1)
    state = {
        "epoch": 0,
        "iter": 1,
        "optimizers": [first.optimizer_g.state_dict()],
        "schedulers": [s.state_dict() for s in first.schedulers],
        "model": first.state_of_training(),
    }
    second.net_g.load_state_dict(first.net_g.state_dict())
    resume_training(second, deepcopy(state))
    before = weights(second)
    take(second, poisoned(), 2)
    assert_close(weights(second), before, rtol=0, atol=0)
    for made, iteration in ((first, 2), (second, 3)):
        take(made, batch(seed=2), iteration)
    assert_close(weights(first), weights(second), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("channels_last", [False, True])
def test_bytes_are_the_same_as_floats(channels_last):
    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(2, 3, -1, -1)
    given = {"lq": pixels, "gt": pixels.flip(-1)}
    made = model(channels_last=channels_last)
    made.feed_data(given)
    assert torch.equal(made.lq, given["lq"].float() / 255)
    assert torch.equal(made.gt, given["gt"].float() / 255)
