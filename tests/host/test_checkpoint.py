"""Checkpoints of every kind that a user may have."""

import gzip
import io
import os
import pickle
import tarfile
import zipfile
from fractions import Fraction
from functools import partial

import pytest
import torch
from safetensors.torch import save, save_file

from cir_host.checkpoint import read_checkpoint, read_state_dict
from cir_host.errors import UserError

STATE = {"a.weight": torch.arange(4.0), "a.bias": torch.ones(1)}
AVERAGED = {name: value + 10 for name, value in STATE.items()}
LIGHTNING = {"pytorch-lightning_version": "2.0", "epoch": 3, "optimizer_states": [{"state": {}}]}

same = partial(torch.testing.assert_close, rtol=0, atol=0)


def prefixed(prefix):
    return {prefix + name: value for name, value in STATE.items()}


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
