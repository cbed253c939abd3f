"""Networks told from their state dicts alone, and built from a file in one call."""

import json

import pytest
import torch
from basicsr.archs import build_network
from basicsr.utils.registry import ARCH_REGISTRY
from network_tools import error, restore
from safetensors.torch import save_file
from small_networks import SMALL
from vector_tools import image, parameter_count, published_shapes, shapes

from cir_arch import basicsr_networks, load_network, recognise
from cir_arch.basicsr_networks import facts_of, run
from cir_arch.state_dict import divisor, ratio
from cir_host.errors import UserError

SWINIR = {"img_size": 16, "window_size": 4, "embed_dim": 12, "depths": [2, 3], "num_heads": [2, 3]}
SWINIR |= {"upscale": 1}
RRDBNET = {"num_in_ch": 3, "num_out_ch": 3, "num_feat": 8, "num_block": 2, "num_grow_ch": 4}
ALL = {**SMALL, "SwinIR": SWINIR, "RRDBNet": RRDBNET}
del ALL["Identity"]  # it has no weights to tell it by

VARIANTS = [
    *((name, {}) for name in ALL),
    ("PromptCIR", {"in_channels": 1}),
    ("PromptCIR", {"dim": 16}),
    ("PromptCIR", {"num_blocks": (1, 3, 2, 4)}),
    ("PromptCIR", {"num_refinement_blocks": 3}),
    ("PromptCIR", {"heads": (2, 4, 4, 2)}),
    ("PromptCIR", {"ffn_expansion": 2.66}),
    ("PromptCIR", {"ffn_expansion": 1.9}),
    ("PromptCIR", {"window_size": 8}),
    ("PromptCIR", {"window_size": 8, "overlap_ratio": 0.25}),
    ("PromptCIR", {"compress_ratio": 8}),
    ("PromptCIR", {"squeeze_factor": 4}),
    ("PromptCIR", {"prompt_tasks": 2}),
    ("PromptCIR", {"prompt_bases": (2, 3, 5)}),
    ("PromptCIR", {"prompt_dims": (6, 4, 10)}),
    ("PromptIR", {"in_channels": 1}),
    ("PromptIR", {"dim": 16}),
    ("PromptIR", {"num_blocks": (2, 1, 3, 1)}),
    ("PromptIR", {"num_refinement_blocks": 2}),
    ("PromptIR", {"heads": (2, 1, 4, 8)}),
    ("PromptIR", {"ffn_expansion": 3.1}),
    ("PromptIR", {"prompt_len": 7}),
    ("PromptIR", {"prompt_dims": (4, 8, 12)}),
    ("PromptIR", {"prompt_sizes": (2, 4, 6)}),
    ("UCIP", {"in_channels": 1}),
    ("UCIP", {"embed_dim": 8}),
    ("UCIP", {"depths": (1, 4, 2)}),
    ("UCIP", {"mlp_ratio": 1.5}),
    ("UCIP", {"share_dim": 4}),
    ("UCIP", {"intv": 1}),
    ("UCIP", {"intv": 3, "depths": (4, 2)}),
    ("UCIP", {"intv": 3, "depths": (3, 2)}),
    ("UCIP", {"p_dim": 4}),
    ("UCIP", {"prompt_bases": 2}),
    ("UCIP", {"num_codecs": 2}),
    ("UCIP", {"fusion_squeeze": 2}),
    ("UCIP", {"modulation_hidden": 4}),
    ("UCIP", {"num_feat": 4}),
    ("UCIP", {"upscale": 1}),
    ("UCIP", {"upscale": 2}),
    ("UCIP", {"task_weights": True}),
    *(
        (name, arguments)
        for name in ("CaVE", "FBCNN")
        for arguments in (
            {"in_nc": 1},
            {"out_nc": 1},
            {"nc": (4, 8, 12, 20)},
            {"nb": 2},
            {"act_mode": "BR"},
            {"act_mode": "R"},
            {"strides": (4, 2, 2)},
            {"quality_nc": 8},
        )
    ),
    ("HAT", {"in_chans": 1}),
    ("HAT", {"embed_dim": 24}),
    ("HAT", {"depths": (1, 2, 3), "num_heads": (1, 2, 3)}),
    ("HAT", {"window_size": 8}),
    ("HAT", {"overlap_ratio": 1.0}),
    ("HAT", {"compress_ratio": 3}),
    ("HAT", {"squeeze_factor": 6}),
    ("HAT", {"mlp_ratio": 3.5}),
    *(("HAT", {"upscale": scale}) for scale in (2, 3, 4, 8)),
    ("HAT", {"num_feat": 4}),
    ("HFT", {"depths": (1,) * 10, "num_heads": (2,) * 10}),
    ("SCUNet", {"in_nc": 1}),
    ("SCUNet", {"config": (0, 1, 2, 1, 0, 1, 3)}),
    ("SCUNet", {"dim": 16}),
    ("SCUNet", {"head_dim": 4}),
    ("SCUNet", {"window_size": 8}),
    ("UnifyFormer", {"in_channels": 1}),
    ("UnifyFormer", {"dim": 40}),
    ("UnifyFormer", {"num_blocks": (2, 1, 1, 3)}),
    ("UnifyFormer", {"num_refinement_blocks": 2}),
    ("UnifyFormer", {"heads": (2, 1, 4, 8)}),
    ("UnifyFormer", {"ffn_expansion": 1.7}),
    ("SAFMN_BCIE", {"dim": 8}),
    ("SAFMN_BCIE", {"n_blocks": 1}),
    ("SAFMN_BCIE", {"num_layers": 1}),
    ("SAFMN_BCIE", {"ffn_scale": 1.5}),
    ("SAFMN_BCIE", {"upscaling_factor": 4}),
    ("SAFMN_BCIE", {"in_channels": 1}),
    ("SwinIR", {"img_size": 24}),
    ("SwinIR", {"in_chans": 1}),
    ("SwinIR", {"embed_dim": 24}),
    ("SwinIR", {"depths": [1, 2], "num_heads": [1, 4]}),
    ("SwinIR", {"window_size": 7, "img_size": 14, "img_range": 255.0}),
    ("SwinIR", {"window_size": 7, "img_size": 14, "upsampler": "pixelshuffle", "upscale": 2}),
    ("SwinIR", {"mlp_ratio": 2.0}),
    ("SwinIR", {"qkv_bias": False}),
    ("SwinIR", {"patch_norm": False}),
    ("SwinIR", {"resi_connection": "3conv"}),
    *(("SwinIR", {"upsampler": "pixelshuffle", "upscale": s}) for s in (1, 3, 4)),
    ("SwinIR", {"upsampler": "pixelshuffledirect", "upscale": 3}),
    ("SwinIR", {"upsampler": "nearest+conv", "upscale": 4}),
    ("RRDBNet", {"num_in_ch": 1, "num_out_ch": 1}),
    ("RRDBNet", {"scale": 1}),
    ("RRDBNet", {"scale": 2}),
    ("RRDBNet", {"num_block": 3}),
    ("RRDBNet", {"num_feat": 4}),
    ("RRDBNet", {"num_grow_ch": 2}),
]


@pytest.mark.parametrize(("name", "changes"), VARIANTS, ids=str)
def test_the_same_network_comes_back_from_its_state_dict(name, changes):
    torch.manual_seed(0)
    network = build_network({"type": name, **ALL[name], **changes}).eval()
    state = network.state_dict()
    found = recognise(state)
    assert found is not None
    ten_groups = name == "HFT" and len(changes.get("depths", ())) == 10
    assert found.type == ("HAT" if name == "HFT" and not ten_groups else name)
    again = found.build().eval()
    assert shapes(again) == shapes(network)
    again.load_state_dict(state)
    facts = facts_of(network)
    assert facts_of(again) == facts
    x = image(9, 13)[:, : facts.in_channels]
    with torch.inference_mode():
        torch.testing.assert_close(run(again, x), run(network, x), rtol=0, atol=0)


PUBLISHED = {
    "cave": ("CaVE", {}),
    "fbcnn": ("FBCNN", {}),
    "hat_s_x2": ("HAT", {"embed_dim": 144, "compress_ratio": 24, "squeeze_factor": 24}),
    "hat_x1": ("HAT", {"upscale": 1}),
    "hat_x4": ("HAT", {}),
    "hft": ("HFT", {}),
    "promptcir": ("PromptCIR", {}),
    "promptir": ("PromptIR", {}),
    "safmn_bcie": ("SAFMN_BCIE", {}),
    "scunet_large": ("SCUNet", {}),
    "ucip": ("UCIP", {}),
    "unifyformer": ("UnifyFormer", {}),
}
PUBLISHED["hat_s_x2"][1]["upscale"] = 2


def without_memory(shapes):
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


@pytest.mark.parametrize("published", PUBLISHED)
def test_published_state_dicts_are_recognised_by_defaults(published):
    """Of the arguments only those are named that the published network has differently."""
    found = recognise(without_memory(published_shapes(published)[0]))
    assert (found.type, found.arguments) == PUBLISHED[published]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("SCUNet", {"dim": 64, "head_dim": 32, "config": [4] * 7}),
        ("HAT", {"depths": [6] * 12, "num_heads": [6] * 12, "upscale": 3}),
        ("FBCNN", {"in_nc": 1}),
        ("FBCNN", {"act_mode": "BR"}),
        ("PromptIR", {"prompt_len": 7}),
    ],
    ids=str,
)
def test_published_variants_are_recognised(name, arguments):
    with torch.device("meta"):
        state = build_network({"type": name, **arguments}).state_dict()
    found = recognise(state)
    assert (found.type, found.arguments) == (name, arguments)


JPEG_SWINIR = {
    "img_size": 126,
    "embed_dim": 180,
    "depths": [6] * 6,
    "num_heads": [6] * 6,
    "mlp_ratio": 2.0,
    "upscale": 1,
    "img_range": 255.0,
}


def test_swinir_for_jpeg_is_the_published_one():
    """Its keys are BasicSR's; its size is that of the UCIP paper's sources."""
    network = build_network({"type": "SwinIR", "window_size": 7, "upsampler": "", **JPEG_SWINIR})
    assert parameter_count(network) == 11_492_067
    found = recognise(network.state_dict())
    assert (found.type, found.arguments) == ("SwinIR", JPEG_SWINIR)


def test_a_swinir_without_masks_gets_any_size_that_its_window_divides():
    network = build_network({"type": "SwinIR", **SWINIR, "depths": [1, 1], "window_size": 8})
    found = recognise(network.state_dict())
    assert found.arguments.get("img_size", 64) == 64
    assert shapes(found.build()) == shapes(network)


def test_a_state_dict_of_another_network_is_of_none():
    assert recognise({"weight": torch.zeros(1)}) is None
    half = {"pos_blocks.0.proj.weight": torch.zeros(1), "prompts.0.prompt": torch.zeros(1)}
    assert recognise(half) is None  # names of UCIP's, shapes of nothing


@pytest.mark.parametrize("name", ALL)
def test_a_bare_file_is_a_network_in_one_call(name, tmp_path):
    torch.manual_seed(0)
    network = build_network({"type": name, **ALL[name]}).eval()
    torch.save({"params_ema": network.state_dict()}, tmp_path / "net.pth")
    loaded = load_network(tmp_path / "net.pth")
    assert not loaded.training
    x = image(9, 13)[:, : facts_of(network).in_channels]
    torch.testing.assert_close(restore_any(loaded, x), restore_any(network, x), rtol=0, atol=0)


def restore_any(network, x):
    with torch.inference_mode():
        return run(network, x)


def saved(folder, name="HAT", **arguments):
    network = build_network({"type": name, **ALL[name], **arguments})
    torch.save(network.state_dict(), folder / "net.pth")
    return folder / "net.pth"


def test_what_the_caller_knows_goes_before_what_shapes_tell(tmp_path):
    path = saved(tmp_path, conv_scale=0.5)
    assert load_network(path).layers[0].residual_group.blocks[0].conv_scale == 0.01
    told = load_network(path, conv_scale=0.5)
    assert told.layers[0].residual_group.blocks[0].conv_scale == 0.5
    assert type(load_network(path, type="HFT", **ALL["HFT"])).__name__ == "HFT"


@pytest.mark.parametrize("file", ["net.safetensors", "net.pth"])
def test_a_file_that_names_its_network_is_believed(file, tmp_path):
    network = build_network({"type": "HAT", **ALL["HAT"], "conv_scale": 0.5})
    section = json.dumps({"type": "HAT", **ALL["HAT"], "conv_scale": 0.5})
    if file == "net.pth":
        torch.save({"params": network.state_dict(), "network_g": section}, tmp_path / file)
    else:
        save_file(network.state_dict(), tmp_path / file, {"network_g": section})
    loaded = load_network(tmp_path / file)
    assert loaded.layers[0].residual_group.blocks[0].conv_scale == 0.5


@pytest.mark.parametrize("section", ["[1]", "3", "[" * 10**5, '{"embed_dim": 12}'])
def test_a_file_that_names_no_network_is_recognised(section, tmp_path):
    network = build_network({"type": "HAT", **ALL["HAT"]})
    save_file(network.state_dict(), tmp_path / "net.safetensors", {"network_g": section})
    assert type(load_network(tmp_path / "net.safetensors")).__name__ == "HAT"


def test_weights_that_are_not_finite_are_no_network(tmp_path):
    state = build_network({"type": "CaVE", **ALL["CaVE"]}).state_dict()
    state["m_head.bias"][0] = float("nan")
    torch.save(state, tmp_path / "net.pth")
    with pytest.raises(UserError, match=r"net\.pth: 1 of \d+ tensors hold NaN .*m_head\.bias"):
        load_network(tmp_path / "net.pth")


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("HAT", {"type": "Hat"}, 'did you mean "HAT"'),
        ("HAT", {"window_sise": 8}, "HAT cannot be built as {type: HAT, .*window_sise"),
        ("HAT", {"type": "CaVE"}, "It looks like HAT; try network_g: {type: HAT, "),
        ("CaVE", {"type": "FBCNN"}, "It looks like CaVE; try network_g: {type: CaVE, nc: "),
        ("CaVE", {"nb": 2}, "does not fit CaVE: .* missing"),
    ],
)
def test_what_cannot_be_built_or_loaded_is_one_line(name, arguments, message, tmp_path):
    with pytest.raises(UserError, match=message) as caught:
        load_network(saved(tmp_path, name), **arguments)
    assert "\n" not in str(caught.value)


def test_an_unknown_network_is_named_by_its_tensors(tmp_path):
    torch.save({"stem.weight": torch.zeros(2), "line\nbreak": torch.ones(1)}, tmp_path / "net.pth")
    names = r"stem\.weight, line\\nbreak"
    with pytest.raises(UserError, match=rf"net\.pth: .*{names}.* PromptCIR, .* RRDBNet"):
        load_network(tmp_path / "net.pth")


@pytest.mark.parametrize(
    ("name", "arguments", "padded_to"),
    [
        ("SwinIR", {}, (12, 20)),
        ("RRDBNet", {"scale": 1}, (12, 16)),
        ("RRDBNet", {"scale": 2}, (10, 16)),
    ],
)
def test_basicsr_s_networks_run_at_any_size(name, arguments, padded_to):
    network = build_network({"type": name, **ALL[name], **arguments}).eval()
    facts = facts_of(network)
    assert not facts.pads_itself
    seen = []
    network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape[-2:]))
    assert restore_any(network, image(9, 16)).shape == (1, 3, 9 * facts.scale, 16 * facts.scale)
    assert tuple(seen[0]) == padded_to
    assert restore_any(network, image(1, 1)).shape == (1, 3, facts.scale, facts.scale)
    with pytest.raises(UserError, match="3 channels, this one has 1"):
        run(network, image(8, 8)[:, :1])


def test_swinir_is_padded_by_its_mirror_image():
    network = build_network({"type": "SwinIR", **SWINIR}).eval()
    x = image(9, 16)
    by_hand = torch.cat((x, x.flip(-2)[..., :3, :]), -2)
    by_hand = torch.cat((by_hand, by_hand.flip(-1)[..., :4]), -1)
    with torch.inference_mode():
        expected = network(by_hand)[..., :9, :16]
    torch.testing.assert_close(restore_any(network, x), expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["SwinIR", "RRDBNet"])
def test_basicsr_s_networks_have_the_precisions_of_their_facts(name):
    network = build_network({"type": name, **ALL[name]}).eval()
    x = image(16, 16)
    for precision in facts_of(network).precisions:
        assert error(restore(network, x, precision), restore(network, x)) < 0.05


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_the_halo_of_rrdbnet_holds(scale):
    network = build_network({"type": "RRDBNet", **RRDBNET, "num_block": 1, "scale": scale}).eval()
    halo = facts_of(network).halo
    size = 2 * halo + 8
    x = image(8, size).double().requires_grad_()
    out = network.double()(x)
    out[..., size * scale // 2].sum().backward()
    reached = x.grad.abs().sum((0, 1, 2)).nonzero().flatten()
    assert size // 2 - reached.min() <= halo
    assert reached.max() - size // 2 <= halo
    assert reached.max() - size // 2 > halo - 5 * (4 // scale)  # and is not a guess far too large


def test_of_several_divisors_and_ratios_the_default_is_taken():
    assert divisor([(48, 16), (96, 32)], 3) == 3
    assert divisor([(8, 2)], 3) == 3
    assert divisor([(8, 2)], 5) == 4
    assert ratio([(48, 127), (96, 255)], 2.66) == 2.66
    assert ratio([(48, 96)], 2.66) == 2.0
    with pytest.raises(ValueError, match="no divisor"):
        divisor([(8, 7)], 3)
    with pytest.raises(ValueError, match="no ratio"):
        ratio([(8, 8), (16, 64)], 1.0)


def test_every_network_with_weights_is_recognised():
    ours = {n for n, cls in ARCH_REGISTRY if cls.__module__.startswith("cir_arch.")}
    assert {name for name, _ in VARIANTS} >= ours - {"Identity"}
    assert set(basicsr_networks.RECOGNISERS) == {"SwinIR", "RRDBNet"}
