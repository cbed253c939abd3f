"""Networks told from their state dicts alone, and built from a file in one call."""

import contextlib
import dataclasses
import inspect
import json
from collections.abc import Sequence
from typing import Literal, get_args, get_origin, get_type_hints

import pytest
import torch
from basicsr.archs import build_network
from basicsr.utils.registry import ARCH_REGISTRY
from network_tools import error, input_for, reach, restore
from safetensors.torch import save_file
from small_networks import OURS, untold_by
from vector_tools import image, parameter_count, published_shapes, shapes

from cir_arch import load_network, recognise
from cir_arch import network as network_module
from cir_arch.network import entries, entry_named
from cir_arch.recognition import NetworkOptions, candidates
from cir_arch.running import facts_of, run
from cir_arch.state_dict import divisor, ratio
from cir_host.errors import UserError

ALL = {entry.name: dict(entry.small) for entry in entries()}
del ALL["Identity"]  # it has no weights to recognise it by
SWINIR = ALL["SwinIR"]


def outlined(name, arguments):
    """Build a network without memory; None if it cannot have these arguments."""
    try:
        return NetworkOptions(name, arguments).outline()
    except UserError:
        return None


def other_values(value, hint):
    """Values near one, of its type, that a constructor may take."""
    if get_origin(hint) is Literal:
        return [choice for choice in get_args(hint) if choice != value]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [n for n in (2 * value, value + 1, 3 * value, value // 2) if n > 0]
    if isinstance(value, float):
        return [1.5 * value, value + 0.5, value / 2]
    if isinstance(value, Sequence) and not isinstance(value, str):
        first, *others = value
        changed = [[other, *others] for other in other_values(first, None)]
        others = [i for i in range(1, len(value)) if value[i] is not None]
        return changed + [[*value[:i], 2 * value[i], *value[i + 1 :]] for i in others]
    return [1, 2] if value is None else []


def completed(found, state, arguments):
    """Add to a recognised network those of its arguments that no state dict tells."""
    untold = {name: arguments[name] for name in untold_by(found.type, state)}
    return NetworkOptions(found.type, {**found.arguments, **untold})


def changes_of(entry):
    """Yield an argument of a small network, another value, and the network that has it."""
    hints = get_type_hints(entry.load().__init__)
    for argument, default in entry.defaults.items():
        value = entry.small.get(argument, default)
        for other in other_values(value, hints.get(argument)):
            network = outlined(entry.name, {**entry.small, argument: other})
            if network is not None:
                yield argument, other, network


@pytest.mark.parametrize("name", [name for name in OURS if name in ALL])
def test_every_argument_that_changes_a_shape_is_recognised(name):
    """And those that ``arguments_from`` does not return change none."""
    entry = OURS[name]
    usual = outlined(name, entry.small)
    told = entry.arguments_from(usual.state_dict())
    assert told is not None
    recognised = set()
    for argument, value, network in changes_of(entry):
        if shapes(network) == shapes(usual):
            continue
        assert argument in told, f"{argument}={value} changes shapes"
        found = recognise(network.state_dict())
        assert found is not None, f"{argument}={value}"
        assert found.type in (name, *entry.bases)
        again = completed(found, network.state_dict(), entry.small).outline()
        assert shapes(again) == shapes(network), f"{argument}={value}"
        assert again.facts == network.facts, f"{argument}={value}"
        if argument in found.arguments or value == entry.defaults[argument]:
            recognised.add(argument)
    unread = set(told) - set(entry.untold) - recognised
    assert not unread, "no value of these was told from the small network's"


VARIANTS = [
    *((name, {}) for name in ALL),
    ("PromptCIR", {"window_size": 8, "overlap_ratio": 0.25}),
    ("UCIP", {"intv": 3, "depths": (4, 2)}),
    ("UCIP", {"intv": 3, "depths": (3, 2)}),
    ("HAT", {"depths": (1, 2, 3), "num_heads": (1, 2, 3)}),
    ("HAT", {"overlap_ratio": 1.0}),
    ("ART", {"upsampler": "", "interval": (16, 12)}),
    (
        "ART",
        {
            "upsampler": "",
            "in_chans": 1,
            "window_size": 7,
            "interval": (18, 13),
            "img_range": 255.0,
        },
    ),
    ("ART", {"interval": (8, 8), "mlp_ratio": 2.0, "upscale": 2}),
    ("ART", {"depths": (1, 2, 1), "num_heads": (2, 3, 1), "interval": (4, 4, 4)}),
    *(("ART", {"upscale": scale}) for scale in (2, 3, 4)),
    *(("HAT", {"upscale": scale}) for scale in (2, 3, 4, 8)),
    ("HFT", {"depths": (2,) * 10}),
    ("GRL", {"window_size": 8, "stripe_size": (8, 16), "anchor_window_down_factor": 4}),
    ("GRL", {"embed_dim": 36, "local_connection": True, "mlp_ratio": 1.5}),
    ("GRL", {"in_channels": 1}),
    ("GRL_CIC", {"embed_dim": 72, "local_connection": True}),
    ("GRL_CIC", {"depths": (1,) * 4, "num_heads_window": (1,) * 4, "num_heads_stripe": (1,) * 4}),
    *(("SRFormer", {"upscale": scale}) for scale in (2, 3, 4, 8)),
    *(("SRFormer", {"upsampler": "pixelshuffledirect", "upscale": s}) for s in (1, 3)),
    ("SRFormer", {"upsampler": "nearest+conv", "upscale": 4}),
    ("SRFormer", {"upsampler": "", "window_size": 6, "in_chans": 1}),
    *(("Swin2SR", {"upscale": scale}) for scale in (1, 2, 3, 8)),
    ("Swin2SR", {"upsampler": "pixelshuffle"}),
    ("Swin2SR", {"upsampler": "pixelshuffledirect", "upscale": 2, "in_chans": 1}),
    ("Swin2SR", {"upsampler": "nearest+conv"}),
    ("Swin2SR", {"upsampler": "", "upscale": 1, "window_size": 7, "img_range": 255.0}),
    ("SCUNet", {"config": (0, 1, 2, 1, 0, 1, 3)}),
    ("Restormer", {"LayerNorm_type": "BiasFree"}),
    ("RestormerQF", {"qf_levels": (3, 2, 1), "LayerNorm_type": "BiasFree"}),
    ("RestormerQF", {"qf_levels": (2,)}),
    ("Retinexformer", {"stage": 1, "num_blocks": (2, 1, 3), "in_channels": 1}),
    ("UCIP", {"upscale": 1}),
    ("UCIP", {"task_weights": True}),
    ("CaVE", {"act_mode": "R", "out_nc": 1}),
    ("DiffIR", {"scale": 2, "n_encoder_res": 1}),
    ("DiffIR", {"scale": 4, "n_denoise_res": 2, "in_channels": 1}),
    ("FFTformer", {"num_blocks": (1, 2, 3, 4), "num_refinement_blocks": 0}),
    ("FFTformerQFEM", {"qfem_blocks": 2}),
    ("WaveletUNet", {"channel_attention": True, "blocks": 2}),
    (
        "WaveletUNet",
        {"channel_attention": True, "widths": (8, 20, 12), "squeeze_factor": 5},
    ),
    ("WaveletUNet", {"widths": (4, 5), "in_channels": 1}),
    ("DAIR", {"num_blocks": (2, 1, 3, 2), "kernel_size": 4, "num_refinement_blocks": 0}),
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
    assert found.type == name
    again = completed(found, state, {**ALL[name], **changes}).build().eval()
    assert shapes(again) == shapes(network)
    again.load_state_dict(state)
    facts = facts_of(network)
    assert facts_of(again) == facts
    x = input_for(facts, 9, 13)
    with torch.inference_mode():
        torch.testing.assert_close(run(again, x), run(network, x), rtol=0, atol=0)


@pytest.mark.parametrize("name", ALL)
def test_no_other_network_recognises_a_state_dict(name):
    """In whatever order they are asked; except where one extends the other, as HFT does HAT."""
    state = outlined(name, ALL[name]).state_dict()
    fitting = {entry.name for entry in entries() if fits(entry, state)}
    assert fitting == {name, *entry_named(name).bases}


def fits(entry, state):
    with contextlib.suppress(LookupError, ValueError, ArithmeticError):
        return entry.arguments_from(state) is not None
    return False


def test_a_state_dict_that_two_networks_recognise_needs_a_type(tmp_path, monkeypatch):
    cls = type("Twin", (entry_named("FBCNN").load(),), {})
    twin = dataclasses.replace(entry_named("FBCNN"), name="Twin", load=lambda: cls)
    monkeypatch.setitem(network_module._entries, "Twin", twin)
    path = saved(tmp_path, "FBCNN")
    assert [options.type for options in candidates(torch.load(path))] == ["FBCNN", "Twin"]
    assert recognise(torch.load(path)) is None
    with pytest.raises(UserError, match="FBCNN and Twin all have these tensors"):
        load_network(path)
    assert load_network(path, type="FBCNN").facts


def test_networks_of_basicsr_are_described_as_they_are():
    for entry in entries():
        if entry.package == "basicsr":
            network = NetworkOptions(entry.name, entry.published).outline()
            assert entry.described == (parameter_count(network), facts_of(network))
            parameters = inspect.signature(entry.load()).parameters
            told = entry.arguments_from(outlined(entry.name, entry.small).state_dict())
            defaults = {name: parameters[name].default for name in told}
            assert entry.defaults == {
                name: value
                for name, value in defaults.items()
                if value is not inspect.Parameter.empty
            }


def test_a_name_that_another_package_holds_is_ours_with_a_suffix(monkeypatch):
    theirs = type("HAT", (torch.nn.Module,), {"__module__": "other.archs"})
    held = {**ARCH_REGISTRY._obj_map, "HAT": theirs, "HAT_cir": entry_named("HAT").load()}
    monkeypatch.setattr(ARCH_REGISTRY, "_obj_map", held)
    found = recognise(outlined("HAT", ALL["HAT"]).state_dict())
    assert found.type == "HAT_cir"
    assert type(found.outline()) is entry_named("HAT").load()


GRL_B = {"embed_dim": 180, "local_connection": True}
PUBLISHED = {
    "art_dn": ("ART", {}),
    "cave": ("CaVE", {}),
    "diffir_s1_x1": ("DiffIR", {"stage": 1}),
    "diffir_s2_x1": ("DiffIR", {}),
    "dair": ("DAIR", {}),
    "fbcnn": ("FBCNN", {}),
    "fftformer": ("FFTformer", {}),
    "fftformer_448": ("FFTformer", {"num_blocks": [4, 4, 8]}),
    "grl_b4": ("GRL", {**GRL_B, "num_heads_window": [3] * 4, "num_heads_stripe": [3] * 4}),
    "grl_b_w8": (
        "GRL",
        {
            **GRL_B,
            "depths": [4, 4, 8, 8, 8, 4, 4],
            "num_heads_window": [3] * 7,
            "num_heads_stripe": [3] * 7,
        },
    ),
    "grl_s_w12": ("GRL", {}),
    "hat_s_x2": ("HAT", {"embed_dim": 144, "compress_ratio": 24, "squeeze_factor": 24}),
    "hat_x1": ("HAT", {"upscale": 1}),
    "hat_x4": ("HAT", {}),
    "hft": ("HFT", {}),
    "promptcir": ("PromptCIR", {}),
    "promptir": ("PromptIR", {}),
    "restormer": ("Restormer", {}),
    "restormer_biasfree": ("Restormer", {"LayerNorm_type": "BiasFree"}),
    "retinexformer": ("Retinexformer", {}),
    "safmn_bcie": ("SAFMN_BCIE", {}),
    "scunet_large": ("SCUNet", {}),
    "srformer_x1_w32": ("SRFormer", {}),
    "srformer_x2": (
        "SRFormer",
        {"window_size": 22, "mlp_ratio": 2.0, "upsampler": "pixelshuffle", "upscale": 2},
    ),
    "srformer_light_x4": (
        "SRFormer",
        {
            "embed_dim": 60,
            "depths": [6] * 4,
            "num_heads": [6] * 4,
            "window_size": 16,
            "mlp_ratio": 2.0,
            "upsampler": "pixelshuffledirect",
            "upscale": 4,
        },
    ),
    "srformer_real_x4": (
        "SRFormer",
        {"window_size": 24, "mlp_ratio": 2.0, "upsampler": "nearest+conv", "upscale": 4},
    ),
    "swin2sr_csr_x4": (
        "Swin2SR",
        {"window_size": 8, "img_range": 1.0, "upsampler": "pixelshuffle_aux", "upscale": 4},
    ),
    "swin2sr_jpeg": ("Swin2SR", {}),
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
        ("Restormer", {"inp_channels": 1, "LayerNorm_type": "BiasFree"}),
        ("RestormerQF", {}),
        ("GRL", {"embed_dim": 64}),
        ("GRL_CIC", {}),
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
    untold = {key: ALL[name][key] for key in untold_by(name, network.state_dict())}
    loaded = load_network(tmp_path / "net.pth", **untold)
    assert not loaded.training
    x = input_for(facts_of(network), 9, 13)
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
    assert type(load_network(path, type="HFT", **ALL["HAT"])).__name__ == "HFT"


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
def test_the_halo_of_rrdbnet_is_its_receptive_field_radius(scale):
    torch.manual_seed(0)
    network = build_network({"type": "RRDBNet", **ALL["RRDBNet"], "num_block": 1, "scale": scale})
    facts = facts_of(network)
    assert reach(network.double(), facts) == facts.halo


def test_of_several_divisors_and_ratios_the_default_is_taken():
    assert divisor([(48, 16), (96, 32)], 3) == 3
    assert divisor([(8, 2)], 3) == 3
    assert divisor([(8, 2)], 5) == 4
    assert ratio([(48, 127), (96, 255)], 2.66) == 2.66
    assert ratio([(48, 96)], 2.66) == 2.0
    widths = (8, 16, 24, 32, 48, 64, 80)
    assert ratio([(width, int(3.16 * width)) for width in widths], 2.66) == 3.16
    nearly = 0.1 + 2**-30
    assert int(2**40 * ratio([(2**40, int(2**40 * nearly))], 1.0)) == int(2**40 * nearly)
    with pytest.raises(ValueError, match="no divisor"):
        divisor([(8, 7)], 3)
    with pytest.raises(ValueError, match="no ratio"):
        ratio([(8, 8), (16, 64)], 1.0)
