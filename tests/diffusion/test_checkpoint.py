"""``codiff.pkl``: it loads as the release saved it, and what is wrong is one line."""

import pytest
import torch
from diffusion_tools import tiny_cave, tiny_codiff, tiny_pickle
from vector_tools import vectors

from cir_arch import load_network
from cir_diffusion.checkpoint import load_codiff, read_trained_parts
from cir_host.errors import UserError

pytest.importorskip("diffusers")


@torch.no_grad()
def test_the_files_give_the_output_of_the_authors_code(tiny_files):
    codiff = load_codiff(tiny_files.pickle, tiny_files.base)  # cave.pth lies beside
    assert not codiff.training
    assert not any(parameter.requires_grad for parameter in codiff.parameters())
    (vector,) = (v for v in vectors("codiff_tiny") if v.call == "adain")
    assert vector.deviation(codiff(vector.input)) <= 1


def test_a_file_that_was_saved_on_a_gpu_loads_on_the_cpu(tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        torch.save(tiny_pickle(), tmp_path / "codiff.pkl")
    parts = read_trained_parts(tmp_path / "codiff.pkl")
    assert parts.proj["bias"].device.type == "cpu"
    assert (parts.context, parts.embedding) == (48, 32)


def test_the_loader_of_other_networks_says_which_commands_take_it(tiny_files):
    with pytest.raises(UserError, match="no state dict found; it changes a diffusion model, as"):
        load_network(tiny_files.pickle)


def line_of(content, tmp_path, files, **changes):
    torch.save(content, tmp_path / "changed.pkl")
    arguments = {"base": files.base, "cave": files.cave, **changes}
    with pytest.raises(UserError) as caught:
        load_codiff(tmp_path / "changed.pkl", **arguments)
    line = str(caught.value)
    assert "\n" not in line
    return line.replace(f"{tmp_path}/", "")


def without(part, entry=None):
    content = tiny_pickle()
    if entry is None:
        del content[part]
    else:
        del content[part][entry]
    return content


@pytest.mark.parametrize(
    "content, line",
    [
        (
            without("proj"),
            "changed.pkl: is OSEDiff, which needs a text prompt from networks that are not"
            " supported here; give CODiff's checkpoint",
        ),
        (
            without("state_dict_vae"),
            "changed.pkl: is no checkpoint of CODiff; it lacks state_dict_vae",
        ),
        ([1], "changed.pkl: is no checkpoint of CODiff; it lacks state_dict_unet"),
        (without("proj", "bias"), "changed.pkl: proj in it is not a weight matrix and a bias"),
        (
            without("state_dict_unet", "conv_out.lora_A.default_decoder.weight"),
            "changed.pkl: conv_out in it has only one of lora_A and lora_B",
        ),
    ],
)
def test_a_wrong_checkpoint_is_one_line(content, line, tmp_path, tiny_files):
    assert line_of(content, tmp_path, tiny_files) == line


def test_a_layer_without_changes_is_named(tmp_path, tiny_files):
    content = tiny_pickle()
    for factor in "AB":
        del content["state_dict_vae"][f"quant_conv.lora_{factor}.default_encoder.weight"]
    line = line_of(content, tmp_path, tiny_files)
    assert line == "changed.pkl: lacks the changes of quant_conv in AutoencoderKL"


@pytest.mark.parametrize("end", ["weight", "bias"])
def test_the_first_layer_is_needed(end, tmp_path, tiny_files):
    content = without("state_dict_unet", f"conv_in.base_layer.{end}")
    line = line_of(content, tmp_path, tiny_files)
    assert line.startswith("changed.pkl does not fit Conv2d: 1 of 2 tensors")


def test_weights_that_are_not_finite_are_refused(tmp_path, tiny_files):
    content = tiny_pickle()
    name = "quant_conv.lora_A.default_encoder.weight"
    content["state_dict_vae"][name][0] = float("nan")
    line = line_of(content, tmp_path, tiny_files)
    assert line.startswith("changed.pkl: ")
    assert name in line


def test_objects_in_the_file_are_not_run(tmp_path, tiny_files):
    line = line_of({**tiny_pickle(), "rank_unet": Run()}, tmp_path, tiny_files)
    assert "holds Python objects" in line


class Run:
    def __reduce__(self):
        return print, ("this must not be printed",)


def test_a_missing_cave_is_named_with_the_remedy(tmp_path, tiny_files):
    line = line_of(tiny_pickle(), tmp_path, tiny_files, cave=None)
    assert line == (
        "cave.pth: no such file; CODiff needs the checkpoint of CaVE, cave.pth of its release:"
        " put it there, or give its path (restore, convert: --cave FILE)"
    )


def test_another_network_than_cave_is_refused(tmp_path, tiny_files):
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "other.pth")
    line = line_of(tiny_pickle(), tmp_path, tiny_files, cave=tmp_path / "other.pth")
    assert line.startswith("other.pth: is an unknown network, not CaVE; give cave.pth")


def test_a_cave_of_another_width_is_refused(tmp_path, tiny_files):
    from cir_arch.cave_arch import CaVE

    torch.save(CaVE(nc=(8, 8, 8, 8), nb=1).state_dict(), tmp_path / "narrow.pth")
    line = line_of(tiny_pickle(), tmp_path, tiny_files, cave=tmp_path / "narrow.pth")
    assert line == (
        "narrow.pth: this CaVE gives tokens of 8 numbers, and the checkpoint needs 32; give the"
        " one that it was trained with"
    )


@torch.no_grad()
def test_the_bases_own_first_layer_is_replaced(tiny_files):
    """The change comes on top of it."""
    content = tiny_pickle()["state_dict_unet"]
    a, b = (content[f"conv_in.lora_{factor}.default_encoder.weight"] for factor in "AB")
    change = torch.einsum("or,rikl->oikl", b[..., 0, 0], a) * 8 / 4
    weight = tiny_codiff().unet.conv_in.weight
    torch.testing.assert_close(weight, content["conv_in.base_layer.weight"] + change)


def test_a_cave_without_decoder_serves_too(tmp_path, tiny_files):
    state = {
        n: v
        for n, v in tiny_cave().state_dict().items()
        if not n.startswith(("m_up", "m_body_d", "m_tail"))
    }
    torch.save(state, tmp_path / "part.pth")
    codiff = load_codiff(tiny_files.pickle, tiny_files.base, tmp_path / "part.pth")
    assert codiff.cave.sizes.nb == 2
