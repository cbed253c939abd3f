"""Checkpoints of every kind that a user may have, and what a network makes of them."""

import gzip
import io
import os
import pickle
import tarfile
import zipfile
from fractions import Fraction

import pytest
import torch
from basicsr.models.base_model import BaseModel
from host_tools import TinyBatchNorm, basicsr_log
from safetensors.torch import save, save_file
from torch import nn

from cir_host import patches
from cir_host.checkpoint import load_into, not_finite, read_checkpoint, read_state_dict
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
        ({"model": {"name": "jdec", "args": {}, "sd": STATE}, "epoch": 3}, None, STATE),
        ({"state_dict": {"params": STATE}, "epoch": 3}, None, STATE),
        (prefixed("module."), None, STATE),
        (prefixed("_orig_mod."), None, STATE),
        (prefixed("module._orig_mod."), None, STATE),
        ({"a._orig_mod.weight": STATE["a.weight"], "a.bias": STATE["a.bias"]}, None, STATE),
        ({**STATE, "epoch": 3, "psnr": 31.5, "name": "run", "best": None}, None, STATE),
        ({"params": {**STATE, "epoch": 3}, "optimizer": {}}, None, STATE),
        ({0: STATE, 1: AVERAGED}, "1", AVERAGED),
        ({"state_dict": prefixed("net.")}, None, STATE),
        (prefixed("net_g."), None, STATE),
        ({"state_dict": prefixed("generator.")}, None, STATE),
        (prefixed("module.net_g."), None, STATE),
        (prefixed("generator.module._orig_mod."), None, STATE),
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


def torch_bytes(content, **kwargs):
    file = io.BytesIO()
    torch.save(content, file, **kwargs)
    return file.getvalue()


def zipped(path, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name.replace("__", "/").replace("_", "."), data)


WHOLE = torch_bytes(STATE)
OLD = torch_bytes(STATE, _use_new_zipfile_serialization=False)
SAFE = save(STATE, {"network_g": "{}"})


@pytest.mark.parametrize(
    "name", ["a.pth", "a.safetensors", "a.SAFETENSORS", "a.PTH", "a.pth.tar", "a.txt", "a"]
)
@pytest.mark.parametrize(
    ("data", "container"), [(WHOLE, "zip"), (OLD, "legacy"), (SAFE, "safetensors")]
)
def test_the_content_tells_what_a_file_is(tmp_path, name, data, container):
    (tmp_path / name).write_bytes(data)
    file = read_checkpoint(tmp_path / name)
    assert file.container == container
    same(file.state, STATE)


@pytest.mark.parametrize(
    ("data", "container"), [(WHOLE, "zip"), (OLD, "legacy"), (SAFE, "safetensors")]
)
def test_a_zipped_checkpoint_is_read(tmp_path, data, container):
    members = {"__MACOSX__._net_pth": b"junk", "README_md": b"Weights", "models__net_PTH": data}
    zipped(tmp_path / "net.pth", **members)
    file = read_checkpoint(tmp_path / "net.pth")
    assert (file.container, file.member) == (container, "models/net.PTH")
    same(file.state, STATE)
    if container == "safetensors":
        assert file.metadata == {"network_g": "{}"}


def torch_file(path, content, cut=None, **kwargs):
    torch.save(content, path, **kwargs)
    if cut:
        path.write_bytes(path.read_bytes()[:cut])


def tar_file(path):
    with tarfile.open(path, "w") as archive:
        entry = tarfile.TarInfo("net.pth")
        entry.size = len(WHOLE)
        archive.addfile(entry, io.BytesIO(WHOLE))


def encrypted(archive):
    """Set the flag of it in both headers of the only member."""
    central = archive.index(b"PK\1\2")
    return b"".join((archive[:6], b"\1", archive[7 : central + 8], b"\1", archive[central + 9 :]))


def inside_itself(path):
    content = {}
    content["params"] = content
    torch.save(content, path)


def safetensors_file(path, cut):
    save_file(STATE, path)
    path.write_bytes(path.read_bytes()[:cut])


@pytest.mark.parametrize(
    ("name", "write", "key", "reason"),
    [
        ("absent.pth", lambda p: None, None, "no such file"),
        ("folder.pth", lambda p: p.mkdir(), None, "a folder, not a file"),
        ("empty.pth", lambda p: p.write_bytes(b""), None, "is empty"),
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
        ("epoch.pth", lambda p: torch_file(p, {"epoch": 1}), None, "'epoch' in it is not a tensor"),
        (
            "keys.pth",
            lambda p: torch_file(p, {"params": STATE}),
            "ours",
            "no state dict 'ours'. The file holds 'params'",
        ),
        ("net.safetensors", lambda p: safetensors_file(p, 90), None, "not a whole safetensors"),
        ("misnamed.pth", lambda p: safetensors_file(p, 90), None, "not a whole safetensors"),
        ("gzip.pth", lambda p: p.write_bytes(gzip.compress(WHOLE)), None, "with gzip; unpack it"),
        ("tar.pth", tar_file, None, "packed with tar; unpack it"),
        ("zeros.pth", lambda p: p.write_bytes(bytes(999)), None, "damaged .* zeros"),
        ("onnx.pth", lambda p: p.write_bytes(b"\x08\x0a\x12\x07pytorch"), None, "an ONNX model"),
        (
            "two.zip",
            lambda p: zipped(p, a_pth=WHOLE, b_safetensors=SAFE),
            None,
            r"2 checkpoints \(a\.pth, b\.safetensors\); unpack it",
        ),
        (
            "arrays.npz",
            lambda p: zipped(p, a_npy=b""),
            None,
            r"without a checkpoint; it holds .*a\.npy",
        ),
        ("no.zip", zipped, None, "without a checkpoint; it holds nothing"),
        (
            "web.zip",
            lambda p: zipped(p, a_pth=b"<html>"),
            None,
            r"web\.zip, a\.pth in it: is a web",
        ),
        (
            "bomb.zip",
            lambda p: zipped(p, a_pth=bytes(10**6)),
            None,
            "would unpack to 1,000,000 bytes",
        ),
        ("nested.zip", lambda p: (zipped(p), zipped(p, a_pth=p.read_bytes())), None, "in a zip"),
        (
            "encrypted.zip",
            lambda p: (zipped(p, a_pth=WHOLE), p.write_bytes(encrypted(p.read_bytes()))),
            None,
            "cannot be unpacked .*encrypted",
        ),
        (
            "future.pth",
            lambda p: p.write_bytes(WHOLE.replace(b"PK\1\2\0\0\0\0", b"PK\1\2\0\0\xff\0")),
            None,
            "damaged or cut short",
        ),
        ("pipe.pth", os.mkfifo, None, "a pipe or device, not a file"),
        ("n" * 300 + ".pth", lambda p: None, None, "File name too long"),
        ("cycle.pth", inside_itself, None, "'params' in it is not a tensor"),
        ("list_beside.pth", lambda p: torch_file(p, {**STATE, "l": [1]}), None, "'l' in it is no"),
        ("several.pth", lambda p: torch_file(p, {0: STATE, 1: STATE}), None, r"several \(0, 1\)"),
        (
            "4.state",
            lambda p: torch_file(p, {"epoch": 1, "iter": 4, "optimizers": [], "schedulers": []}),
            None,
            "a training state without a network",
        ),
        (
            "8.state",  # of CIRModel
            lambda p: torch_file(p, {"iter": 8, "optimizers": [], "model": {"scaler": {}}}),
            None,
            "a training state without a network",
        ),
        (
            "program.pth",
            lambda p: zipped(p, program__data_pkl=b"", program__code__a_py=b""),
            None,
            "a TorchScript program",
        ),
        ("long.pth", lambda p: torch_file(p, {"k" * 10**5: 1}), None, r"'kkk.{,250}\.\.\.$"),
        ("line\nbreak.pth", lambda p: p.write_text("no"), None, "a text file"),
        (
            os.fsdecode(b"caf\xe9.pth"),
            lambda p: p.write_text("no"),
            None,
            r"caf\\udce9.pth: is a text",
        ),
    ],
)
def test_what_is_no_checkpoint_is_named_in_one_line(tmp_path, name, write, key, reason):
    file = tmp_path / name
    write(file)
    with pytest.raises(UserError, match=reason) as caught:
        read_state_dict(file, key)
    message = str(caught.value)
    assert message.startswith(str(tmp_path / name[:3]))
    assert message.isprintable()


@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_a_file_name_that_is_not_utf8_is_no_hindrance(tmp_path, kind):
    file = tmp_path / os.fsdecode(b"caf\xe9." + kind.encode())
    file.write_bytes({"pth": WHOLE, "safetensors": SAFE}[kind])
    same(read_state_dict(file), STATE)


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        (torch.eye(3).to_sparse(), "sparse_coo, which no network takes"),
        (torch.eye(3).to_sparse_csr(), "sparse_csr"),
        (torch.zeros(4, dtype=torch.uint8).view(torch.float4_e2m1fn_x2), "float4_e2m1fn_x2"),
        (torch._empty_affine_quantized([2], scale=1, zero_point=0, dtype=torch.qint8), "qint8"),
        (torch.ones(2, device="meta"), "a shape but no values"),
        (torch.ones(1).expand(10**12), "claims 1,000,000,000,000 values"),
    ],
    ids=["sparse", "csr", "packed", "quantised", "meta", "repeated"],
)
@pytest.mark.filterwarnings("ignore")  # of making and saving such tensors
def test_a_tensor_that_is_no_weight_is_refused(tmp_path, tensor, reason):
    torch.save({"params": {**STATE, "odd": tensor}}, tmp_path / "net.pth")
    with pytest.raises(UserError, match=rf"net\.pth: odd in it .*{reason}"):
        read_checkpoint(tmp_path / "net.pth")


@pytest.mark.parametrize(
    "tensor",
    [torch.ones(0, 3), torch.ones(1).expand(64), torch.ones(2, dtype=torch.complex64)],
    ids=["empty", "repeated", "complex"],
)
def test_unusual_tensors_are_read(tmp_path, tensor):
    torch.save({"params": {**STATE, "odd": tensor}}, tmp_path / "net.pth")
    same(read_state_dict(tmp_path / "net.pth"), {**STATE, "odd": tensor})


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
    del model._logged_loads
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
