"""What a network makes of a checkpoint: all, a part or nothing of it is loaded."""

from functools import partial

import pytest
import torch
from basicsr.models.base_model import BaseModel
from host_tools import TinyBatchNorm, basicsr_log
from torch import nn

from cir_host import patches
from cir_host.errors import UserError
from cir_host.loading import load_into, not_finite

same = partial(torch.testing.assert_close, rtol=0, atol=0)


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


def test_a_partial_load_is_reported_in_training_and_an_error_in_a_test():
    net = TinyBatchNorm()
    state = changed(net.state_dict(), drop=["body.0.bias"], reshape=["body.2.bias"], add=["extra"])
    report = load_into(net, state, False, "net.pth")
    assert report.missing == ("body.0.bias",)
    assert report.unexpected == ("extra",)
    assert not report.complete
    assert "1 missing (body.0.bias)" in str(report)
    assert "1 mismatching" in str(report)
    with pytest.raises(UserError, match=r"does not fill TinyBatchNorm: .* 1 missing"):
        load_into(net, state, False, "net.pth", testing=True)


def test_more_than_enough_is_enough_for_a_test():
    net = TinyBatchNorm()
    report = load_into(
        net, changed(net.state_dict(), add=["extra"]), False, "net.pth", testing=True
    )
    assert report.complete


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf"), 1e300])
@pytest.mark.parametrize("strict", [True, False])
def test_weights_that_are_not_finite_are_refused(number, strict):
    """1e300 is infinity in the network's float32."""
    state = {name: value.double() for name, value in TinyBatchNorm().state_dict().items()}
    state["body.0.bias"][2] = number
    state["body.1.running_var"][0] = number
    with pytest.raises(UserError) as caught:
        load_into(TinyBatchNorm(), state, strict, "net.pth")
    message = str(caught.value)
    assert message.startswith("net.pth: 2 of 8 tensors hold NaN or infinity (first body.0.bias): ")
    assert "damaged, or the training diverged" in message


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2]
)
def test_weights_of_every_precision_are_loaded_and_checked(dtype):
    state = {n: v.to(dtype) for n, v in TinyBatchNorm().state_dict().items() if v.dim()}
    net = TinyBatchNorm()
    assert load_into(net, state, True, "net.pth").complete
    torch.testing.assert_close(net.body[0].weight.data, state["body.0.weight"].float())
    assert not_finite(state) == []
    state["body.2.bias"] = torch.full((3,), float("nan")).to(dtype)
    assert not_finite(state) == ["body.2.bias"]
    with pytest.raises(
        UserError, match=r"1 of 8 tensors hold NaN or infinity \(first body\.2\.bias"
    ):
        load_into(net, state, True, "net.pth")


def test_what_is_finite_or_no_weight_is_not_refused():
    """The sums of large weights overflow; a mask may be infinite; what is not loaded may be."""
    large = {"half": torch.full((4000,), 6e4).half(), "single": torch.full((4,), 3e38)}
    assert not_finite(large) == []
    assert not_finite({"complex": torch.tensor([1j, float("nan")])}) == ["complex"]
    state = Masked().state_dict()
    state["attn_mask"] = torch.full((4, 4), -float("inf"))
    state["extra"] = torch.tensor(float("nan"))
    assert load_into(Masked(), state, False, "net.pth").complete


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int8])
def test_numbers_of_another_kind_do_not_fit(dtype, recwarn):
    """PyTorch would load the real part, or integers without what scales them."""
    state = TinyBatchNorm().state_dict()
    state["body.0.weight"] = state["body.0.weight"].to(dtype)
    kind = str(dtype).removeprefix("torch.")
    reason = rf"1 mismatching \(body\.0\.weight {kind} in the file, float32 in the network\)"
    with pytest.raises(UserError, match=reason):
        load_into(TinyBatchNorm(), state, True, "net.pth")
    assert not [w for w in recwarn if "imaginary" in str(w.message)]


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
    assert log == [  # not BasicSR's list of every name
        "TinyBatchNorm is only partly filled: 7 of 8 tensors (123 of 231 parameters) fit,"
        f" 1 missing (body.0.weight), loaded from {file}, key params"
    ]


def test_what_was_loaded_is_logged_once_for_a_network_and_its_average(tmp_path):
    state, file = TinyBatchNorm().state_dict(), tmp_path / "half.pth"
    half = changed(state, drop=["body.0.weight"])
    model = stock_model(True)
    model.net_g, model.net_g_ema = nn.DataParallel(TinyBatchNorm()), TinyBatchNorm()

    def log_of(content):
        torch.save(content, file)
        with basicsr_log() as log:
            model.load_network(model.net_g, str(file), strict=False)
            model.load_network(model.net_g_ema, str(file), False, "params_ema")
        return log

    facts = "7 of 8 tensors (123 of 231 parameters) fit, 1 missing (body.0.weight), loaded from"
    filled = f"net_g (TinyBatchNorm) is only partly filled: {facts} {file}, key params"
    assert log_of({"params": half}) == [
        filled,
        f"net_g_ema (TinyBatchNorm): loaded from {file}, key params, like net_g (TinyBatchNorm)",
    ]
    assert log_of({"params": half, "params_ema": state}) == [
        filled,
        "net_g_ema (TinyBatchNorm): 8 of 8 tensors (231 parameters) fit, loaded from"
        f" {file}, key params_ema",
    ]


def test_an_average_starts_like_the_network_where_the_file_has_nothing(tmp_path):
    file = tmp_path / "half.pth"
    torch.save(changed(TinyBatchNorm().state_dict(), drop=["body.0.weight"]), file)
    model = stock_model(True)
    model.net_g, model.net_g_ema = TinyBatchNorm(), TinyBatchNorm()
    model.load_network(model.net_g, str(file), strict=False)
    model.load_network(model.net_g_ema, str(file), False, "params_ema")
    same(model.net_g_ema.state_dict(), model.net_g.state_dict())


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


def test_basicsr_s_models_refuse_weights_that_are_not_finite(tmp_path):
    state = {n: v / 0 for n, v in TinyBatchNorm().state_dict().items()}
    torch.save({"params": state}, tmp_path / "net.pth")
    for model in (stock_model(True), stock_model(False)):
        with pytest.raises(UserError, match=r"net\.pth: 8 of 8 tensors hold NaN or infinity"):
            model.load_network(TinyBatchNorm(), str(tmp_path / "net.pth"))


def test_basicsr_s_models_name_a_file_that_is_no_checkpoint(tmp_path):
    file = tmp_path / "page.pth"
    file.write_text("<html>404</html>")
    with pytest.raises(UserError, match="a web page"):
        stock_model(True).load_network(TinyBatchNorm(), str(file))
