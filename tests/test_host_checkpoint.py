"""Checkpoints of every kind that a user may have, and what a network makes of them."""

import pickle
from fractions import Fraction

import pytest
import torch
from basicsr.models.base_model import BaseModel
from host_tools import TinyBatchNorm, basicsr_log
from safetensors.torch import save_file
from torch import nn

from cir_host import patches
from cir_host.checkpoint import load_into, read_checkpoint, read_state_dict
from cir_host.errors import UserError

STATE = {"a.weight": torch.arange(4.0), "a.bias": torch.ones(1)}
AVERAGED = {name: value + 10 for name, value in STATE.items()}
LIGHTNING = {"pytorch-lightning_version": "2.0", "epoch": 3, "optimizer_states": [{"state": {}}]}


def prefixed(prefix):
    return {prefix + name: value for name, value in STATE.items()}


def same(first, second):
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("content", "key", "expected"),
    [
        (STATE, None, STATE),
        (STATE, "params", STATE),  # what BasicSR asks for by default
        ({"params": STATE}, None, STATE),
        ({"params": STATE}, "params_ema", STATE),
        ({"params": STATE, "params_ema": AVERAGED}, None, AVERAGED),
        ({"params": STATE, "params_ema": AVERAGED}, "params", STATE),
        ({"state_dict": STATE, "epoch": 3}, None, STATE),
        ({"model": STATE, "args": {"lr": 1}}, "params", STATE),
        ({"params": STATE, "ours": AVERAGED}, "ours", AVERAGED),
        ({"params": STATE, "params_ema": AVERAGED}, "params_ema", AVERAGED),
        ({"params_ema": STATE}, "params", STATE),
        ({"model_state_dict": STATE, "loss": 0.1}, None, STATE),
        ({"net": STATE, "optimizer": {}}, None, STATE),
        ({"generator": STATE}, None, STATE),
        ({"state_dict": {"params": STATE}, "epoch": 3}, None, STATE),
        (prefixed("module."), None, STATE),
        (prefixed("_orig_mod."), None, STATE),
        (prefixed("module._orig_mod."), None, STATE),
        ({"a._orig_mod.weight": STATE["a.weight"], "a.bias": STATE["a.bias"]}, None, STATE),
        ({"state_dict": prefixed("net.")}, None, STATE),
        ({"state_dict": prefixed("model.")}, None, STATE),
        ({"state_dict": prefixed("model_g."), **LIGHTNING}, None, STATE),
        ({"state_dict": prefixed("netG."), **LIGHTNING}, None, STATE),
        (
            {"state_dict": {**prefixed("net."), **prefixed("loss.vgg.")}, **LIGHTNING},
            None,
            STATE,
        ),
    ],
)
def test_state_dicts_are_found_in_their_containers(tmp_path, content, key, expected):
    file = tmp_path / "net.pth"
    torch.save(content, file)
    same(read_state_dict(file, key), expected)


def test_old_files_and_safetensors_are_read(tmp_path):
    torch.save({"params": STATE}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    same(read_state_dict(tmp_path / "old.pth"), STATE)
    save_file(STATE, tmp_path / "net.safetensors")
    same(read_state_dict(str(tmp_path / "net.safetensors")), STATE)


def torch_file(path, content, cut=None, **kwargs):
    torch.save(content, path, **kwargs)
    if cut:
        path.write_bytes(path.read_bytes()[:cut])


def safetensors_file(path, cut):
    save_file(STATE, path)
    path.write_bytes(path.read_bytes()[:cut])


@pytest.mark.parametrize(
    ("name", "write", "key", "reason"),
    [
        ("absent.pth", lambda p: None, None, "no such file"),
        ("folder.pth", lambda p: p.mkdir(), None, "a folder, not a file"),
        ("empty.pth", lambda p: p.write_bytes(b""), None, "an empty file"),
        ("page.pth", lambda p: p.write_text("\n<!DOCTYPE html><p>404"), None, "a web page"),
        ("note.pth", lambda p: p.write_text("Not found"), None, "a text file"),
        (
            "pointer.pth",
            lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0"),
            None,
            "git lfs pull",
        ),
        ("bytes.pth", lambda p: p.write_bytes(bytes(range(256))), None, "not a PyTorch checkpoint"),
        ("cut.pth", lambda p: torch_file(p, STATE, 700), None, "damaged or cut short"),
        (
            "old_cut.pth",
            lambda p: torch_file(p, STATE, 150, _use_new_zipfile_serialization=False),
            None,
            "damaged",
        ),
        ("objects.pth", lambda p: torch_file(p, {"a": Fraction(1)}), None, r"fractions\.Fraction"),
        (
            "pickle.pth",
            lambda p: p.write_bytes(pickle.dumps(Fraction(1), protocol=2)),
            None,
            r"fractions\.Fraction",
        ),
        ("list.pth", lambda p: torch_file(p, [torch.ones(1)]), None, "holds a list"),
        ("epoch.pth", lambda p: torch_file(p, {"epoch": 1}), None, "'epoch' in it is no tensor"),
        (
            "keys.pth",
            lambda p: torch_file(p, {"params": STATE}),
            "ours",
            "no state dict 'ours'. The file holds 'params'",
        ),
        ("net.safetensors", lambda p: safetensors_file(p, 90), None, "not a whole safetensors"),
    ],
)
def test_what_is_no_checkpoint_is_named_in_one_line(tmp_path, name, write, key, reason):
    file = tmp_path / name
    write(file)
    with pytest.raises(UserError, match=reason) as caught:
        read_state_dict(file, key)
    message = str(caught.value)
    assert message.startswith(str(file))
    assert "\n" not in message


def test_a_prefix_that_the_network_has_too_is_kept(tmp_path):
    torch.save(prefixed("model."), tmp_path / "net.pth")
    same(read_checkpoint(tmp_path / "net.pth").state, STATE)
    kept = read_checkpoint(tmp_path / "net.pth", names=prefixed("model."))
    same(kept.state, prefixed("model."))


def test_how_a_file_holds_its_weights_is_told(tmp_path):
    both = {"params": prefixed("module.net."), "params_ema": STATE, "iter": 3}
    torch.save(both, tmp_path / "new.pth")
    file = read_checkpoint(tmp_path / "new.pth", "params")
    assert (file.container, file.keys, file.key) == ("zip", ("params", "params_ema"), "params")
    assert file.prefix == "module.net."
    torch.save(STATE, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    file = read_checkpoint(tmp_path / "old.pth")
    assert (file.container, file.keys, file.key, file.prefix) == ("legacy", (), None, "")
    save_file(STATE, tmp_path / "net.safetensors", {"network_g": "{}"})
    file = read_checkpoint(tmp_path / "net.safetensors")
    assert (file.container, file.metadata) == ("safetensors", {"network_g": "{}"})


def test_reading_runs_no_code(tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path / "sprung").touch, ()

    torch.save({"params": STATE, "trap": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(UserError, match="may run any code"):
        read_state_dict(tmp_path / "trap.pth")
    assert not (tmp_path / "sprung").exists()


def changed(state, drop=(), add=(), reshape=()):
    state = {name: value.clone() for name, value in state.items() if name not in drop}
    state.update({name: torch.ones(1) for name in add})
    return {n: torch.ones(7, 7) if n in reshape else v for n, v in state.items()}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"drop": ["body.0.weight"]},
            ["7 of 8 tensors (123 of 231", "1 missing (body.0.weight)", "strict_load_g"],
        ),
        ({"add": ["extra"]}, ["1 unexpected (extra)"]),
        (
            {"reshape": ["body.0.weight"]},
            ["1 mismatching", "body.0.weight 7x7 in the file, 4x3x3x3 in the network"],
        ),
        (
            {"drop": ["body.0.weight", "body.0.bias", "body.2.weight", "body.2.bias"]},
            ["4 missing (body.0.weight, body.0.bias, body.2.weight, ...)"],
        ),
    ],
)
def test_a_strict_load_that_does_not_fit_is_one_line(change, words):
    net = TinyBatchNorm()
    with pytest.raises(UserError) as caught:
        load_into(net, changed(net.state_dict(), **change), True, "net.pth")
    message = str(caught.value)
    assert message.startswith("net.pth does not fit TinyBatchNorm: ")
    assert all(word in message for word in words), message
    assert "\n" not in message


def test_a_whole_load_reports_and_loads():
    source, net = TinyBatchNorm(), TinyBatchNorm()
    report = load_into(net, source.state_dict(), True, "net.pth")
    same(net.state_dict(), source.state_dict())
    assert report.complete
    assert str(report) == "8 of 8 tensors (231 parameters) fit"
    assert (len(report.loaded), report.parameters) == (8, 231)  # not the count of batches


def test_a_partial_load_is_a_warning_in_training_and_an_error_in_a_test():
    net = TinyBatchNorm()
    state = changed(net.state_dict(), drop=["body.0.bias"], reshape=["body.2.bias"], add=["extra"])
    with basicsr_log() as log:
        report = load_into(net, state, False, "net.pth")
    assert report.missing == ("body.0.bias",)
    assert report.unexpected == ("extra",)
    assert not report.complete
    assert len(log) == 1
    assert "1 missing (body.0.bias)" in log[0]
    assert "1 mismatching" in log[0]
    with pytest.raises(UserError, match=r"does not fill TinyBatchNorm: .* 1 missing"):
        load_into(net, state, False, "net.pth", testing=True)


def test_more_than_enough_is_enough_for_a_test():
    net = TinyBatchNorm()
    report = load_into(
        net, changed(net.state_dict(), add=["extra"]), False, "net.pth", testing=True
    )
    assert report.complete


class Masked(nn.Module):
    """Computes an index and a mask, as window attention does."""

    def __init__(self, size=4):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))
        self.register_buffer("index", torch.arange(4))
        self.register_buffer("attn_mask", torch.zeros(size, size))
        self.register_buffer("running_mean", torch.zeros(2))


def test_what_a_network_computes_itself_need_not_be_in_the_file():
    state = changed(Masked().state_dict(), drop=["index", "attn_mask"])
    assert load_into(Masked(), state, True, "net.pth").complete
    bigger = Masked(8).state_dict()
    assert load_into(Masked(), bigger, False, "net.pth", testing=True).complete
    with pytest.raises(UserError, match="8x8 in the file, 4x4 in the network"):
        load_into(Masked(), bigger, True, "net.pth")
    del state["running_mean"]
    with pytest.raises(UserError, match=r"1 missing \(running_mean\)"):
        load_into(Masked(), state, False, "net.pth", testing=True)


def test_a_network_s_own_loading_counts():
    class Renaming(nn.Module):
        def __init__(self):
            super().__init__()
            self.new = nn.Parameter(torch.zeros(2))

        def _load_from_state_dict(self, state, prefix, *args):
            if f"{prefix}old" in state:
                state[f"{prefix}new"] = state.pop(f"{prefix}old")
            super()._load_from_state_dict(state, prefix, *args)

    net = Renaming()
    assert load_into(net, {"old": torch.ones(2)}, True, "net.pth").complete
    assert net.new.tolist() == [1, 1]
    with pytest.raises(UserError, match=r"^net\.pth does not fit Renaming: .*size mismatch"):
        load_into(net, {"old": torch.ones(3)}, True, "net.pth")


def test_a_network_without_memory_is_checked_quietly(recwarn):
    with torch.device("meta"):
        net = TinyBatchNorm()
    assert load_into(net, TinyBatchNorm().state_dict(), True, "net.pth").complete
    assert not recwarn.list
    with pytest.raises(UserError, match="missing"):
        load_into(net, {}, True, "net.pth")


def stock_model(is_train):
    return BaseModel({"num_gpu": 0, "is_train": is_train, "dist": False})


def test_basicsr_s_models_load_every_container(tmp_path):
    """Its own loader needs the key that it asks for, and asks for params_ema with an EMA."""
    source, net, file = TinyBatchNorm(), TinyBatchNorm(), tmp_path / "raw.pth"
    torch.save(source.state_dict(), file)
    load = patches.original("basicsr.models.base_model:BaseModel.load_network")
    with pytest.raises(KeyError):
        load(stock_model(True), net, str(file), True, "params_ema")
    stock_model(True).load_network(net, str(file), True, "params_ema")
    same(net.state_dict(), source.state_dict())


def test_basicsr_s_models_do_not_test_half_a_network(tmp_path):
    net, file = TinyBatchNorm(), tmp_path / "half.pth"
    torch.save({"params": changed(net.state_dict(), drop=["body.0.weight"])}, file)
    load = patches.original("basicsr.models.base_model:BaseModel.load_network")
    with basicsr_log():
        load(stock_model(False), net, str(file), strict=False)  # goes through with a warning
    with pytest.raises(UserError, match=r"1 missing \(body\.0\.weight\)"):
        stock_model(False).load_network(net, str(file), strict=False)
    with basicsr_log() as log:
        stock_model(True).load_network(net, str(file), strict=False)
    fills, loaded = log  # not BasicSR's list of every name
    assert "fills TinyBatchNorm only in part: 7 of 8 tensors (123 of 231 parameters)" in fills
    assert loaded.endswith(f"loaded from {file}, its params")


def test_a_file_of_which_nothing_fits_is_an_error():
    """Counters and indices do not count."""
    foreign = {"stem": torch.ones(1), "body.1.num_batches_tracked": torch.tensor(5)}
    with pytest.raises(UserError, match=r"net\.pth: nothing in it fits TinyBatchNorm: 0 of 8"):
        load_into(TinyBatchNorm(), foreign, False, "net.pth")


def test_indices_that_the_network_does_not_keep_are_no_error():
    state = {**TinyBatchNorm().state_dict(), "index": torch.arange(3), "n": torch.tensor(1)}
    assert load_into(TinyBatchNorm(), state, True, "net.pth").complete


@pytest.mark.parametrize(
    ("paths", "asked", "expected"),
    [
        ({}, "params", "params_ema"),  # no key in the options
        ({}, "params_ema", "params_ema"),  # the averaged network
        ({"param_key_g": "params"}, "params", "params"),
        ({"param_key_g": "params"}, "params_ema", "params_ema"),
        ({"param_key_g": "ours"}, "ours", "ours"),
        ({"param_key_g": "ours"}, "params_ema", "ours"),
        ({"resume_state": "4.state"}, "params", "params"),
        ({"resume_state": "4.state"}, "params_ema", "params_ema"),
        ({"resume_state": "4.state", "param_key_g": "ours"}, "ours", "params"),
        ({"resume_state": "4.state", "param_key_g": None}, None, "params"),
        (
            {"resume_state": "4.state", "ignore_resume_networks": ["network_g"]},
            "params",
            "params_ema",
        ),
    ],
    ids=str,
)
def test_the_options_key_wins_then_averaged_weights_but_a_resumed_run_goes_on(
    tmp_path, paths, asked, expected
):
    """BasicSR asks for ``params`` also where the options name no key."""
    file, nets = tmp_path / "net.pth", {}
    for key in ("params", "params_ema", "ours"):
        nets[key] = TinyBatchNorm()
    torch.save({key: net.state_dict() for key, net in nets.items()}, file)
    model, loaded = stock_model(True), TinyBatchNorm()
    model.opt["path"] = {"pretrain_network_g": str(file), **paths}
    model.load_network(loaded, str(file), True, asked)
    same(loaded.state_dict(), nets[expected].state_dict())


def test_basicsr_s_models_name_a_file_that_is_no_checkpoint(tmp_path):
    file = tmp_path / "page.pth"
    file.write_text("<html>404</html>")
    with pytest.raises(UserError, match="a web page"):
        stock_model(True).load_network(TinyBatchNorm(), str(file))
