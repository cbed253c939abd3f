"""PromptCIR: what the published numbers do not show."""

import itertools

import pytest
import torch
from naive_promptcir import NaivePromptCIR
from network_tools import assert_same_gradients, gradients, restore
from small_networks import SMALL
from torch import nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from vector_tools import fill, filled, image, shapes

from cir_arch import PromptCIR
from cir_host.errors import UserError

ARGUMENTS = SMALL["PromptCIR"]


@pytest.fixture
def small():
    return filled(PromptCIR(**ARGUMENTS))


@pytest.mark.parametrize("size", [(16, 48), (32, 16)])
def test_other_window_equals_the_naive_form(size):
    """Also where a map is one window high or wide, and in gradients."""
    arguments = {**ARGUMENTS, "window_size": 8}
    network, naive = PromptCIR(**arguments), NaivePromptCIR(**arguments)
    assert shapes(naive) == shapes(network)
    for name, buffer in naive.named_buffers():
        assert torch.equal(network.get_buffer(name), buffer), name
    filled(network)
    naive.load_state_dict(network.state_dict())
    x = image(*size, seed=1, batch=2)
    torch.testing.assert_close(restore(network, x), restore(naive.eval(), x), rtol=0, atol=1e-4)
    ours, theirs = gradients(network, x), gradients(naive, x)
    for name, gradient in theirs.items():
        scale = gradient.abs().max().item() + 1e-6
        torch.testing.assert_close(
            ours[name] / scale, gradient / scale, rtol=0, atol=2e-3, msg=name
        )


def test_index_tables_by_their_definition():
    """Computed by the constructor: stored ones would hide a mistake here."""
    with torch.device("cpu"):
        network = PromptCIR(**{**ARGUMENTS, "window_size": 16})
    own = network.relative_position_index_SA
    overlap = network.relative_position_index_OCA
    assert own.dtype == overlap.dtype == torch.int64
    assert (own.shape, overlap.shape) == ((256, 256), (256, 576))
    for qr, qc, kr, kc in itertools.product((0, 1, 7, 15), repeat=4):
        expected = 31 * (qr - kr + 15) + (qc - kc + 15)
        assert own[16 * qr + qc, 16 * kr + kc] == expected
    for qr, qc in itertools.product((0, 3, 15), repeat=2):
        for kr, kc in itertools.product((0, 4, 23), repeat=2):
            expected = 39 * (kr - qr - 7) + (kc - qc - 7)
            assert overlap[16 * qr + qc, 24 * kr + kc] == expected
    assert (overlap.min(), overlap.max()) == (-880, 640)


def test_a_checkpoint_without_index_tables_loads_and_a_wrong_one_is_named(small):
    state = small.state_dict()
    tables = [key for key in state if "relative_position_index" in key]
    assert len(tables) == 2
    bare = {key: value for key, value in state.items() if key not in tables}
    network = PromptCIR(**ARGUMENTS)
    network.load_state_dict(bare)
    x = image(16, 16)
    assert torch.equal(restore(network.eval(), x), restore(small, x))
    other = PromptCIR(**{**ARGUMENTS, "window_size": 8})
    with pytest.raises(UserError, match="window_size"):
        other.load_state_dict({**other.state_dict(), tables[0]: state[tables[0]]})


def test_gradient_checkpointing_recomputes_and_changes_nothing(small):
    checkpointed = PromptCIR(**ARGUMENTS, use_checkpoint=True)
    calls = []
    for chain in (checkpointed.encoder_level1.residual_group.blocks, checkpointed.latent):
        chain[0].register_forward_pre_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    assert_same_gradients(small, checkpointed, image(16, 24, batch=2))
    assert len(calls) == 4, "each block runs once forward and once in the backward"


def test_prompts_are_never_spread_over_the_pixels():
    """No tensor of the network has the size of tasks x bases x width x pixels."""

    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            tensors = [t for t in pytree.tree_leaves(out) if isinstance(t, torch.Tensor)]
            self.numel = max([self.numel, *(t.numel() for t in tensors)])
            return out

    sizes = {"prompt_tasks": 7, "prompt_bases": (32, 32, 32), "prompt_dims": (32, 32, 32)}
    network = PromptCIR(**{**ARGUMENTS, **sizes})
    with Largest() as largest:
        network(image(64, 64)).sum().backward()
    assert largest.numel < 32 * 32 * 32 * 32


def test_backward_is_deterministic_on_two_threads(small):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        x = image(32, 32, batch=2)
        first = gradients(small, x)
        first = {name: gradient.clone() for name, gradient in first.items()}
        for _ in range(2):
            for name, gradient in gradients(small, x).items():
                assert torch.equal(gradient, first[name]), name
    finally:
        torch.set_num_threads(threads)


def test_zero_last_starts_as_the_identity_and_learns():
    network = PromptCIR(**ARGUMENTS, zero_last=True)
    x = image(19, 33)
    assert torch.equal(restore(network, x), x)
    network(x).square().sum().backward()
    assert network.output.weight.grad.abs().sum() > 0


def test_masks_cached_in_inference_serve_training(small):
    x = image(40, 24)
    restore(small, x)
    small(x).sum().backward()


def test_other_channels():
    network = filled(PromptCIR(**ARGUMENTS, in_channels=1))
    assert restore(network, image(20, 20)[:, :1]).shape == (1, 1, 20, 20)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"window_size": 7}, "window_size"),
        ({"heads": (3, 2, 2, 4)}, "heads"),
        ({"num_blocks": (1, 1, 1)}, "num_blocks"),
        ({"squeeze_factor": 100}, "squeeze_factor"),
        ({"dim": 0}, "dim"),
        ({"prompt_bases": (4, 4)}, "prompt_bases"),
    ],
)
def test_contradictory_arguments_are_named(arguments, named):
    with pytest.raises(UserError, match=named):
        PromptCIR(**{**ARGUMENTS, **arguments})


def test_small_details_that_vectors_do_not_show(small):
    """Norms of eps 1e-5, exact GELU: a dim input and the naive form tell them apart."""
    epsilons = {m.eps for m in small.modules() if isinstance(m, nn.LayerNorm)}
    assert epsilons <= {1e-5}
    naive = NaivePromptCIR(**ARGUMENTS)
    naive.load_state_dict(fill(small.state_dict()))
    dim = 0.02 * image(32, 32, seed=4)
    expected = restore(naive.eval(), dim)
    torch.testing.assert_close(restore(small, dim), expected, rtol=0, atol=4e-5)
