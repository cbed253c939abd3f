"""Each loss against an independent plain form, and how it gets the facts of the samples."""

from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
import torch
from basicsr.archs import vgg_arch
from basicsr.losses import build_loss
from command_tools import train_options
from scipy.fft import dctn
from scipy.ndimage import gaussian_filter
from scipy.stats import wasserstein_distance
from training_tools import batch, model, step
from vgg_tools import narrow_vgg

from cir_host.errors import OptionsError, UserError


def images(number=2, height=24, width=27, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(2, number, 3, height, width, generator=generator)


def dct(output, gt):
    """Block by block by scipy, the grid of each image its own."""
    values = []
    for difference, (top, left) in zip((output - gt).numpy(), OFFSETS, strict=True):
        for plane in difference:
            for row in range(top, 24 - 7, 8):
                for column in range(left, 27 - 7, 8):
                    block = plane[row : row + 8, column : column + 8]
                    values.append(np.abs(dctn(block, norm="ortho")).mean())
    return np.mean(values)


OFFSETS = [[0, 3], [5, 4]]


def fourier(output, gt):
    first, second = np.fft.fft2(output), np.fft.fft2(gt)
    parts = np.stack([(first - second).real, (first - second).imag])
    return np.abs(parts).mean()


def distributions(output, gt):
    sums = []
    for first, second in zip(
        output.numpy().reshape(-1, 24, 27), gt.reshape(-1, 24, 27), strict=True
    ):
        spectra = [np.fft.fft2(plane, norm="ortho").ravel() for plane in (first, second)]
        amplitude = wasserstein_distance(*map(np.abs, spectra))
        sums.append(amplitude + 0.1 * wasserstein_distance(*map(np.angle, spectra)))
    return np.mean(sums)


def psnr(output, gt):
    return np.mean(10 * np.log10(((output - gt).numpy() ** 2).mean(axis=(1, 2, 3))))


def blur(output, gt):
    details = [
        plane - gaussian_filter(plane, 1.5, mode="mirror", radius=5)
        for both in (output, gt)
        for plane in both.numpy().reshape(-1, 24, 27)
    ]
    return np.abs(np.stack(details[:6]) - np.stack(details[6:])).mean()


PLAIN = {
    "DCTLoss": dct,
    "FourierLoss": fourier,
    "FourierDistributionLoss": distributions,
    "PSNRLoss": psnr,
    "BlurResidualLoss": blur,
}


def facts_of(loss):
    return {key: torch.tensor(OFFSETS) for key in getattr(loss, "sample_keys", ())}


@pytest.mark.parametrize("name", PLAIN)
def test_value_is_that_of_the_plain_form(name):
    output, gt = images()
    loss = build_loss({"type": name, "loss_weight": 3.0})
    found = loss(output, gt, **facts_of(loss)).item()
    assert found == pytest.approx(3 * PLAIN[name](output, gt), rel=1e-4)


@pytest.mark.parametrize("name", PLAIN)
def test_gradient_is_that_of_finite_differences(name):
    output, gt = images().double()
    loss = build_loss({"type": name}).double()

    def of(image):
        return loss(image, gt, **facts_of(loss))

    (gradient,) = torch.autograd.grad(of(output.requires_grad_()), output)
    direction = torch.rand(output.shape, generator=torch.Generator().manual_seed(3)).double() - 0.5
    with torch.no_grad():
        slope = (of(output + 1e-7 * direction) - of(output - 1e-7 * direction)) / 2e-7
    assert (gradient * direction).sum().item() == pytest.approx(slope.item(), rel=1e-4)


@pytest.mark.parametrize("name", PLAIN)
def test_equal_images_have_a_finite_gradient(name):
    gt = images()[1]
    loss = build_loss({"type": name})
    value = loss(gt.clone().requires_grad_(), gt, **facts_of(loss))
    assert value.item() == pytest.approx(-80 if name == "PSNRLoss" else 0, abs=1e-3)
    flat = torch.zeros_like(gt).requires_grad_()  # no amplitude, no phase
    (gradient,) = torch.autograd.grad(loss(flat, gt, **facts_of(loss)), flat)
    assert gradient.isfinite().all()


def test_blocks_that_the_crop_cuts_do_not_count():
    loss = build_loss({"type": "DCTLoss"})
    output, gt = images(1)
    cut = output.clone()
    cut[..., :5, :] = 9.0
    cut[..., 21:, :] = 9.0
    cut[..., :4] = 9.0
    cut[..., 20:] = 9.0
    offset = torch.tensor([[5, 4]])
    assert torch.equal(loss(cut, gt, offset), loss(output, gt, offset))
    assert loss(cut, gt, torch.tensor([[4, 4]])) > loss(output, gt, torch.tensor([[4, 4]]))


def test_arguments_and_crops_that_cannot_be_meant():
    with pytest.raises(UserError, match="gt_size to 15 or more"):
        build_loss({"type": "DCTLoss"})(*images(1, 14, 24), torch.zeros(1, 2, dtype=torch.int64))
    with pytest.raises(UserError, match="kernel_size 4 is not an odd"):
        build_loss({"type": "BlurResidualLoss", "kernel_size": 4})
    with pytest.raises(UserError, match="sigma 0 is not above 0"):
        build_loss({"type": "BlurResidualLoss", "sigma": 0})
    made = model()
    losses = {"fourier": {"type": "FourierLoss", "norm": "orto"}}
    made.opt["train"] = train_options(train__losses=losses)["train"]  # what a run has before it
    with pytest.raises(OptionsError, match=r"train\.losses\.fourier: norm 'orto' is not one of"):
        made.rehearse(made.net_g)


def test_the_model_hands_each_part_of_a_batch_its_own_facts():
    data = {**batch(), "block_offset": torch.tensor([[0, 0], [1, 7], [0, 0], [1, 7]])}
    logs = [
        step(model(pixel_opt=None, losses={"dct": {"type": "DCTLoss"}}, accum_iter=parts), data)
        for parts in (1, 2)  # both parts have equally many whole blocks
    ]
    assert logs[0]["l_dct"] == pytest.approx(logs[1]["l_dct"])
    assert logs[0]["grad_norm"] == pytest.approx(logs[1]["grad_norm"], rel=1e-4)
    moved = {**data, "block_offset": data["block_offset"].flip(0)}
    made = model(pixel_opt=None, losses={"dct": {"type": "DCTLoss"}})
    assert step(made, moved)["l_dct"] != pytest.approx(logs[0]["l_dct"], rel=1e-6)


def test_a_data_set_without_the_fact_is_named():
    with pytest.raises(UserError, match=r"DCTLoss needs block_offset .* datasets\.train"):
        step(model(pixel_opt={"type": "DCTLoss"}))


def of_features(output, gt, loss):
    """The distances of each layer, its filters applied patch by patch.

    The transform is torch's, since the sign of a vanishing imaginary part decides between pi and
    -pi.
    """
    total = 0
    found, wanted = loss.vgg(output), loss.vgg(gt)
    for layer in found:
        filters = getattr(loss, f"filters_{layer}").numpy()
        assert np.allclose((filters**2).sum((1, 2, 3)), 1)
        spectra = torch.cat([torch.fft.fft2(maps[layer]) for maps in (found, wanted)]).numpy()
        for part, weight in ((np.abs(spectra), 1), (np.angle(spectra), 0.1)):
            patches = np.lib.stride_tricks.sliding_window_view(part, (5, 5), (2, 3))
            sums = np.einsum("bcyxij,pcij->bpyx", patches, filters).reshape(2, len(filters), -1)
            first, second = np.sort(sums)
            total += weight * np.abs(first - second).mean()
    return total


def test_distances_of_vgg_features_are_those_of_the_plain_form(monkeypatch):
    narrow_vgg(monkeypatch)
    output, gt = images(1, 80, 97)
    loss = build_loss({"type": "FeatureFourierDistributionLoss", "loss_weight": 3.0, "num_proj": 7})
    layers = ["relu1_2", "relu2_2", "relu3_4", "relu4_4", "relu5_4"]
    assert list(loss.vgg(gt)) == layers
    assert loss(output, gt).item() == pytest.approx(3 * of_features(output, gt, loss), rel=1e-3)
    same = build_loss({"type": "FeatureFourierDistributionLoss", "num_proj": 7})
    assert torch.equal(same.filters_relu3_4, loss.filters_relu3_4)
    other = build_loss({"type": "FeatureFourierDistributionLoss", "num_proj": 7, "seed": 1})
    assert not torch.equal(other.filters_relu3_4, loss.filters_relu3_4)
    loss(output.requires_grad_(), gt).backward()
    assert output.grad.isfinite().all()
    assert output.grad.any()
    assert loss(gt, gt).item() == 0
    with pytest.raises(UserError, match=r"crops of 79x96 .*gt_size to 80 or more"):
        loss(*images(1, 79, 96))


def test_a_loss_without_its_vgg_says_where_to_put_it(monkeypatch):
    def no_network(pretrained):
        raise URLError("no route to host")

    monkeypatch.setattr(vgg_arch, "vgg", SimpleNamespace(vgg19=no_network))
    with pytest.raises(UserError, match=r"cannot load the weights of vgg19 .*no route to host"):
        build_loss({"type": "FeatureFourierDistributionLoss"})
