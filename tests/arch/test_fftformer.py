"""FFTformer by its formulas, and FFTformerQFEM, whose quality acts through a loss alone."""

import numpy as np
import pytest
import torch
from naive_fftformer import NaiveFFTformer
from network_tools import gradients, restore
from vector_tools import image, parameter_count

from cir_arch import FFTformer, FFTformerQFEM, recognise
from cir_arch.layers import bands
from cir_arch.layers.frequency import DFFN, FSAS, _convolved, block_transform
from cir_host.errors import UserError

SMALL = {"dim": 6, "num_blocks": (1, 1, 1), "num_refinement_blocks": 1}


def small(cls=FFTformer, **arguments):
    torch.manual_seed(0)
    return cls(**{**SMALL, **arguments}).eval()


def in_blocks(x, function):
    """Apply a function to the 8 x 8 blocks (..., 8, 8) of a numpy map (B, H, W, C)."""
    out = np.empty_like(x)
    for top in range(0, x.shape[1], 8):
        for left in range(0, x.shape[2], 8):
            part = (slice(None), slice(top, top + 8), slice(left, left + 8))
            out[part] = np.moveaxis(function(np.moveaxis(x[part], 3, 1)), 1, 3)
    return out


def test_transform_of_blocks_is_that_of_numpy():
    """Real parts at 4 + 30 frequencies, minus the imaginary parts at 30; the way back is exact."""
    x = torch.randn(1, 8, 8, 1, dtype=torch.float64)
    transform = block_transform(x)
    numbers = transform.of(x)
    spectrum = np.fft.fft2(x[0, :, :, 0].numpy()) / 8
    own = [(u, v) for u in (0, 4) for v in (0, 4)]
    paired = [(u, v) for u in (1, 2, 3) for v in (0, 4)]
    paired += [(u, v) for u in range(8) for v in (1, 2, 3)]
    real = [spectrum[place].real for place in own + paired]
    imag = [-spectrum[place].imag for place in paired]
    np.testing.assert_allclose(numbers[0, :, 0], real + imag, atol=1e-12)
    back = (transform.synthesis @ numbers)[0, :, 0].view(8, 8)
    torch.testing.assert_close(back, x[0, :, :, 0], rtol=0, atol=1e-12)
    exact = block_transform(x).analysis
    assert (block_transform(x.float()).analysis - exact).abs().max() < 1e-7


def test_gate_of_a_half_spectrum_that_is_not_symmetric():
    """An inverse complex transform along the rows, an inverse real one along the columns.

    The latter ignores the imaginary parts that factors differing between a frequency and its mirror
    image leave at horizontal frequency 0 and 4.
    """
    module = DFFN(2, 1.5).double()
    torch.nn.init.normal_(module.fft)
    x = torch.randn(2, 16, 24, 2, dtype=torch.float64)
    transform = block_transform(x)
    halves = module._gated(x, module._gate(), transform)
    found = torch.cat(halves.chunk(2), dim=-1).detach()
    hidden = np.einsum("bijc,hc->bijh", x, module.project_in.weight[:, :, 0, 0].detach())
    factors = module.fft[:, 0, 0].detach().numpy()

    def gated(block):
        half = np.fft.fft2(block)[..., :5] * factors
        return np.fft.irfft(np.fft.ifft(half, axis=-2), 8, axis=-1)

    np.testing.assert_allclose(found, in_blocks(hidden, gated), atol=1e-12)


def test_attention_convolves_the_blocks_of_queries_and_keys():
    """Circularly, turning none around; the norm of the result is the factor of the values."""
    module = FSAS(2).double()
    for parameter in module.norm.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(1, 16, 8, 2, dtype=torch.float64)
    with torch.no_grad():
        found = module(x, block_transform(x))
        q, k, v = module.to_hidden_dw(module.to_hidden(x)).chunk(3, dim=-1)
        convolved = torch.zeros_like(q)
        for m in range(8):
            for n in range(8):
                for top in (0, 8):
                    shifted = k[:, top : top + 8].roll((m, n), (1, 2))
                    convolved[:, top : top + 8] += q[:, top + m, n][:, None, None] * shifted
        expected = module.project_out(v * module.norm(convolved))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("size", [(32, 32), (96, 64)])
def test_bands_of_rows_change_nothing(size, monkeypatch):
    """Bands as low as a block, whose neighbouring rows the 3x3 convolutions see."""
    network, x = small().double(), image(*size).double()
    expected = network(x).detach()  # with gradients there are no bands
    monkeypatch.setattr(bands, "VALUES", 1)
    torch.testing.assert_close(restore(network, x), expected, rtol=0, atol=1e-10)


def test_gradients_of_gates_that_are_not_symmetric():
    network, naive = small().double(), NaiveFFTformer(**SMALL).double()
    for name, parameter in network.named_parameters():
        if name.endswith(".fft"):
            torch.nn.init.normal_(parameter)
    naive.load_state_dict(network.state_dict())
    x = image(32, 64).double()
    found, expected = gradients(network, x), gradients(naive, x)
    for name in (name for name in found if name.endswith(".fft")):
        torch.testing.assert_close(found[name], expected[name], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_transform_in_float32(dtype):
    x = torch.randn(1, 8, 8, 2).to(dtype)
    transform = block_transform(x)
    assert transform.analysis.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        numbers = transform.of(x)
    expected = block_transform(x.double()).of(x.double())
    torch.testing.assert_close(numbers.double(), expected, rtol=0, atol=1e-5)


def test_blocks_are_convolved_in_float32_under_autocast():
    q, k = torch.randn(2, 1, 8, 8, 2)
    with torch.autocast("cpu", torch.bfloat16):
        found = _convolved(q, k, block_transform(q))
    expected = _convolved(q.double(), k.double(), block_transform(q.double()))
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-4)


def test_attention_in_float16_may_sum_beyond_its_range():
    """Queries and keys of 100: their convolution is 640,000, float16 ends at 65,504."""
    module = FSAS(2)
    x = torch.ones(1, 8, 8, 2)
    with torch.no_grad():
        module.to_hidden.weight.fill_(50)
        module.to_hidden_dw.weight.zero_()[:, 0, 1, 1] = 1
        module.norm.body.bias.fill_(1)
        module.norm.body.weight[1] = 2
        expected = module(x, block_transform(x))
        half = x.half()
        found = module.half()(half, block_transform(half))
    assert found.isfinite().all()
    torch.testing.assert_close(found.float(), expected, rtol=1e-2, atol=1e-2)


def test_a_fourth_number_of_blocks_is_ignored():
    network, four = small(num_blocks=(1, 2, 1)), small(num_blocks=(1, 2, 1, 7))
    x = image(16, 16)
    assert torch.equal(restore(four, x), restore(network, x))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_blocks": (1, 1)}, r"num_blocks: \[1, 1\] has 2 numbers; give three"),
        ({"num_blocks": (1,) * 5}, "num_blocks: .* has 5 numbers"),
        ({"bias": True}, "bias: True is not supported"),
        ({"out_channels": 1}, r"out_channels: 1 .* inp_channels \(3\)"),
        ({"dim": 0}, "dim: leaves 0 channels"),
        ({"ffn_expansion_factor": 0.1}, "ffn_expansion_factor: leaves 0 channels"),
    ],
)
def test_arguments_that_the_network_cannot_have_are_named(arguments, message):
    with pytest.raises(UserError, match=message):
        small(**arguments)


def test_authors_arguments_build_the_published_network():
    theirs = {"inp_channels": 3, "out_channels": 3, "dim": 48, "num_blocks": [6, 6, 12, 8]}
    theirs |= {"num_refinement_blocks": 4, "ffn_expansion_factor": 3, "bias": False}
    with torch.device("meta"):
        assert parameter_count(FFTformer(**theirs)) == 16_560_474


QFEM = {"qfem_widths": (4, 6), "qfem_hidden": 5}


def test_size_of_the_branch():
    with torch.device("meta"):
        network = FFTformerQFEM()
    assert parameter_count(network.qfem) == 429_889
    assert parameter_count(network) == 11_868_955


def test_quality_branch_leaves_the_image_as_it_is_and_runs_on_request():
    """Weights of FFTformer load under their own names; ``quality`` is not an input."""
    base, network = small(), small(FFTformerQFEM, **QFEM)
    left = network.load_state_dict(base.state_dict(), strict=False)
    assert left.unexpected_keys == []
    assert {name.split(".")[0] for name in left.missing_keys} == {"qfem"}
    x = image(20, 40, batch=2)
    runs = []
    network.qfem.register_forward_hook(lambda *_: runs.append(1))
    assert torch.equal(restore(network, x), restore(base, x))
    assert runs == []
    with torch.no_grad():
        restored, quality = network(x, return_quality=True)
    assert torch.equal(restored, restore(base, x))
    assert quality.shape == (2, 1)
    assert ((quality > 0) & (quality < 1)).all()
    assert network.facts.extra_inputs == ()


def test_quality_comes_from_the_first_level_of_the_padded_image():
    network, x = small(FFTformerQFEM, **QFEM), image(20, 40)
    seen = []
    network.encoder_level1.register_forward_hook(lambda module, inputs, out: seen.append(out))
    with torch.no_grad():
        _, quality = network(x, return_quality=True)
        (features,) = seen
        expected = network.qfem(features.permute(0, 3, 1, 2))
    assert features.shape == (1, 32, 64, 6)
    assert torch.equal(quality, expected)


def test_loss_on_the_quality_trains_the_branch_and_the_first_level():
    network = small(FFTformerQFEM, **QFEM).double()
    _, quality = network(image(32, 32).double(), return_quality=True)
    quality.sum().backward()
    learning = {
        ".".join(name.split(".")[:1])
        for name, parameter in network.named_parameters()
        if parameter.grad is not None and parameter.grad.any()
    }
    assert learning == {"patch_embed", "encoder_level1", "qfem"}


def test_files_of_the_base_stay_those_of_the_base():
    assert recognise(small().state_dict()).type == "FFTformer"
    assert recognise(small(FFTformerQFEM, **QFEM).state_dict()).type == "FFTformerQFEM"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"qfem_widths": (4,)}, r"qfem_widths: \[4\] has 1 numbers; give two"),
        ({"qfem_widths": (4, 0)}, "qfem_widths: leaves 0 channels"),
        ({"qfem_hidden": 0}, "qfem_hidden: leaves 0 channels"),
    ],
)
def test_arguments_that_the_branch_cannot_have_are_named(arguments, message):
    with pytest.raises(UserError, match=message):
        small(FFTformerQFEM, **{**QFEM, **arguments})
