"""DAIR: weights stored with spectral norm, two files, odd maps, batch statistics."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from network_tools import assert_loads_what_it_saves, restore
from torch.nn.utils import spectral_norm
from vector_tools import image, parameter_count

from cir_arch import DAIR, load_network, recognise
from cir_arch.dair_arch import SPADE, FoldedConv2d, KernelEstimator, _centred
from cir_cli.main import main
from cir_host.errors import UserError

SMALL = dict(DAIR.entry.small)


def small(**arguments):
    torch.manual_seed(0)
    return DAIR(**{**SMALL, **arguments}).eval()


def with_spectral_norm(network):
    """Store seven convolutions as PyTorch's old ``spectral_norm`` does, and return their names.

    Their weights are some multiple of what they are in evaluation.
    """
    names = [name for name, m in network.named_modules() if isinstance(m, FoldedConv2d)]
    for name in names:
        module = network.get_submodule(name)
        with torch.no_grad():
            module.weight *= 3
        spectral_norm(module.train())
        with torch.no_grad():
            module(torch.zeros(1, module.in_channels, 4, 4, dtype=module.bias.dtype))  # one step
        module.eval()
    return names


def published(folder, network):
    """Write the two files of the release."""
    for part, file in (("kernel", "net_kernel.pth"), ("restore", "net_g.pth")):
        torch.save({"params": network.get_submodule(part).state_dict()}, folder / file)
    return str(folder / "net_kernel.pth"), str(folder / "net_g.pth")


def test_spectral_norm_is_folded_when_weights_are_loaded():
    """Against PyTorch's in evaluation: u and v are those of the file, however little they fit."""
    theirs, ours = small().double(), small().double()
    names = with_spectral_norm(theirs)
    assert len(names) == 7
    x = image(64, 64).double()
    expected = restore(theirs, x)
    ours.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(restore(ours, x), expected, rtol=1e-9, atol=1e-9)
    assert "restore.fuse1.blur_spade.conv_0.weight" in ours.state_dict()
    assert not any(name.endswith("_orig") for name in ours.state_dict())


def test_folding_leaves_the_given_state_dict_as_it_is():
    theirs = small()
    with_spectral_norm(theirs)
    state = theirs.state_dict()
    names = list(state)
    small().load_state_dict(state)
    assert list(state) == names


def test_two_files_join_to_one_network(tmp_path, capsys):
    theirs = small()
    with_spectral_norm(theirs)
    kernel, restorer = published(tmp_path, theirs)
    for files, suffix in (((kernel, restorer), ".safetensors"), ((restorer, kernel), ".pth")):
        output = str(tmp_path / f"dair{suffix}")
        assert main(["convert", *files, "-o", output]) == 0
        assert "{type: DAIR, dim: 4," in capsys.readouterr().out
        x = image(20, 70)
        torch.testing.assert_close(restore(load_network(output), x), restore(theirs, x))


def test_joined_weights_may_be_halved(tmp_path, capsys):
    files = published(tmp_path, small())
    output = str(tmp_path / "dair.safetensors")
    assert main(["convert", *files, "-o", output, "--half"]) == 0
    assert main(["models", output]) == 0
    assert "DAIR, " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("file", "held", "lacking"), [(0, "kernel", "restore"), (1, "restore", "kernel")]
)
def test_one_of_the_two_files_is_no_network(tmp_path, capsys, file, held, lacking):
    """And FFTformer, whose blocks the restorer has, does not take it for its own."""
    path = published(tmp_path, small())[file]
    assert recognise(torch.load(path)["params"]) is None
    with pytest.raises(UserError, match=f"holds the part {held} of DAIR and lacks {lacking}; join"):
        load_network(path)
    with pytest.raises(UserError, match=f"does not fit DAIR.*It holds the part {held} of DAIR"):
        load_network(path, type="DAIR", **SMALL)
    assert main(["models", path]) == 0
    assert f"network:      holds the part {held} of DAIR" in capsys.readouterr().out


def test_files_that_are_not_all_parts_are_not_joined(tmp_path, capsys):
    kernel, restorer = published(tmp_path, small())
    whole = str(tmp_path / "whole.pth")
    torch.save(small().state_dict(), whole)
    output = str(tmp_path / "dair.safetensors")
    for files in ((kernel, kernel), (kernel, whole), (kernel, restorer, restorer), (whole, whole)):
        assert main(["convert", *files, "-o", output]) == 2
        message = capsys.readouterr().err
        assert "are not the parts of one network; give one file, or each part" in message
        assert "(DAIR: kernel and restore)" in message
    assert main(["convert", kernel, restorer, "-o", str(tmp_path / "dair.onnx")]) == 2
    assert "join the files into a .safetensors first" in capsys.readouterr().err


def test_maps_of_odd_size_are_padded_in_the_middle():
    """Height and width are halved and rounded down; doubled again they may lack one pixel."""
    torch.manual_seed(0)
    net = KernelEstimator(3, 2, 3, use_checkpoint=False).double()
    sizes = []
    for step in range(1, 6):
        layer = net.get_submodule(f"up_coeff_conv{step}")
        layer.register_forward_hook(lambda _, inputs, out: sizes.append((inputs[0], out)))
    x = image(38, 53).double()
    kernels = net(x)
    assert kernels.shape == (1, 9, 38, 53)
    assert (kernels >= 0).all()
    assert (kernels < 1).all()
    padded = 0
    for (_, below), (joined, _) in pairwise(sizes):
        raised = F.interpolate(below, scale_factor=2, mode="bilinear")
        rows, columns = (a - b for a, b in zip(joined.shape[2:], raised.shape[2:], strict=True))
        assert {rows, columns} <= {0, 1}
        expected = torch.zeros(1, raised.shape[1], *joined.shape[2:]).double()
        expected[..., : raised.shape[2], : raised.shape[3]] = raised  # floor(1 / 2) before
        torch.testing.assert_close(joined[:, -raised.shape[1] :], expected)
        padded += rows + columns
    assert padded


def test_more_than_one_pixel_is_shared_by_both_sides():
    padded = _centred(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 5, 4))
    assert padded[0, 0].tolist() == [[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0] * 4, [0] * 4]


def test_spade_normalises_by_the_batch_in_training_alone():
    """Without scale and shift of its own, epsilon 1e-5 (a dim input tells), momentum 0.1."""
    torch.manual_seed(0)
    layer = SPADE(3, 4)
    x, latent = 0.02 * torch.rand(2, 3, 6, 5) + 1, torch.randn(2, 3, 6, 5)

    def by_definition(mean, variance):
        shared = layer.mlp_shared(latent)
        normed = (x - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt()
        return normed * (1 + layer.mlp_gamma(shared)) + layer.mlp_beta(shared)

    mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
    torch.testing.assert_close(
        layer(x, latent), by_definition(mean, variance), rtol=1e-4, atol=1e-4
    )
    running = layer.param_free_norm
    torch.testing.assert_close(running.running_mean, 0.1 * mean)
    layer.eval()
    expected = by_definition(running.running_mean, running.running_var)
    torch.testing.assert_close(layer(x, latent), expected)


def test_statistics_of_a_training_step_are_saved(tmp_path):
    def trained():
        network = small().train()
        network(image(64, 64))
        return network.eval()

    assert_loads_what_it_saves(trained, tmp_path / "net.pth")
    norm = trained().restore.fuse3.blur_spade.norm_0.param_free_norm
    assert norm.num_batches_tracked == 1


def test_sizes_of_the_parts():
    with torch.device("meta"):
        network = DAIR()
    assert parameter_count(network.kernel) == 5_295_585
    assert parameter_count(network.restore) == 15_906_984


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_blocks": (1, 1, 1)}, r"num_blocks: \[1, 1, 1\] has 3 numbers; give four"),
        ({"dim": 0}, "dim: leaves 0 channels"),
        ({"ffn_expansion_factor": 0.1}, "ffn_expansion_factor: leaves 0 channels"),
        ({"kernel_size": 0}, "kernel_size: leaves 0 channels"),
        ({"kernel_dim": 0}, "kernel_dim: leaves 0 channels"),
        ({"spade_channels": 0}, "spade_channels: leaves 0 channels"),
    ],
)
def test_arguments_that_the_network_cannot_have_are_named(arguments, message):
    with pytest.raises(UserError, match=message):
        small(**arguments)
