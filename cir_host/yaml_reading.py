"""How options are read: corrections of PyYAML and BasicSR, and errors of one line."""

import re
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import yaml
from basicsr.utils import options as basicsr_options

from cir_host.encoding import encoding_of
from cir_host.errors import OptionsError

_NUMBER = r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
_BASE_60 = re.compile(r"[0-9]+(?::[0-9]+)+$")
_WITH_EXPONENT = re.compile(_NUMBER + r"[eE][-+]?[0-9]+$")
_INTEGER = re.compile(r"[-+]?[0-9]+$")
_FLOAT = re.compile(_NUMBER + r"(?:[eE][-+]?[0-9]+)?$")

_NOT_UTF8 = "neither UTF-8 nor UTF-16 with a byte order mark; save it as UTF-8"


def read_numbers(original: Callable[..., Any]) -> Callable[..., Any]:
    """Make ``ordered_yaml`` read ``1e-4`` as a number and ``4:2:0`` as a string, as YAML 1.2 does.

    PyYAML reads the first as a string and the second as 14520, a number to base 60.
    """

    @wraps(original)
    def ordered_yaml() -> tuple[Any, Any]:
        base, dumper = original()
        loader = type("Loader", (base,), {})  # PyYAML's own class stays unchanged
        loader.add_implicit_resolver(  # type: ignore[attr-defined]
            "tag:yaml.org,2002:float", _WITH_EXPONENT, list("-+.0123456789")
        )
        # before PyYAML's own resolvers: the first match wins
        for first in "0123456789":
            resolvers = loader.yaml_implicit_resolvers  # type: ignore[attr-defined]
            resolvers[first] = [("tag:yaml.org,2002:str", _BASE_60), *resolvers[first]]
        return loader, dumper

    return ordered_yaml


def sound_sections(original: Callable[..., Any]) -> Callable[..., Any]:
    """Make ``ordered_yaml`` build separate aliases, merge ``<<``, and refuse repeated keys.

    PyYAML uses the object of an anchor again for its aliases, and BasicSR changes sections: it pops
    ``type`` from ``optim_g``, and sets ``phase`` in each data set. BasicSR does not know the merge
    key, and of two sections ``test_1`` it silently keeps the last.
    """

    @wraps(original)
    def ordered_yaml() -> tuple[Any, Any]:
        base, dumper = original()

        def construct_object(self: Any, node: yaml.Node, deep: bool = False) -> Any:
            # deep, so that PyYAML refuses a node that holds itself
            built = base.construct_object(self, node, deep=True)
            self.constructed_objects.pop(node, None)
            return built

        def construct_pairs(self: Any, node: yaml.MappingNode, deep: bool = False) -> Any:
            _refuse_repeated_keys(node)
            self.flatten_mapping(node)
            return base.construct_pairs(self, node, deep)

        methods = {"construct_object": construct_object, "construct_pairs": construct_pairs}
        return type("Loader", (base,), methods), dumper

    return ordered_yaml


def force_numbers(original: Callable[..., Any]) -> Callable[..., Any]:
    """Make ``--force_yml key=value`` read ``1e-4`` and ``-1`` as numbers."""

    @wraps(original)
    def _postprocess_yml_value(value: str) -> Any:
        if _INTEGER.match(value):
            return int(value)
        return float(value) if _FLOAT.match(value) else original(value)

    return _postprocess_yml_value


def expand_lists(original: ModuleType) -> SimpleNamespace:
    """Make ``osp.expanduser`` of BasicSR's options module accept a list of dataroots."""

    def expanduser(path: Any) -> Any:
        return [*map(expanduser, path)] if isinstance(path, list) else original.expanduser(path)

    return SimpleNamespace(**{**vars(original), "expanduser": expanduser})


def read_options(file: Path) -> dict[str, Any]:
    """Return what an options file holds, read like BasicSR does with our patches.

    Raises:
        OptionsError: The file cannot be read, or holds no options.
    """
    try:
        text = file.read_text(encoding=encoding_of(file))
        if "\0" in text:
            raise OptionsError(f"-opt {file}: {_NOT_UTF8} (it holds null characters)")
        content = yaml.load(text, Loader=basicsr_options.ordered_yaml()[0])
    except OSError as error:
        raise OptionsError(f"-opt {file}: {error.strerror or error}") from error
    except UnicodeError as error:
        reason = error.reason if isinstance(error, UnicodeDecodeError) else error
        raise OptionsError(f"-opt {file}: {_NOT_UTF8} ({reason})") from error
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise OptionsError(f"-opt {file}{line}: not YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise OptionsError(f"-opt {file}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise OptionsError(f"-opt {file}: expected lines `key: value`; it holds {content!r}")
    return content


def override(given: dict[str, Any], entry: str) -> None:
    """Apply an entry ``key:key=value`` of ``--force_yml`` like BasicSR.

    Raises:
        OptionsError: The entry is not of this form, or its section is missing.
    """
    keys, *values = entry.split("=")
    if len(values) != 1 or set(keys) & set('"\\\n'):  # BasicSR runs the keys as code
        raise OptionsError(f"--force_yml {entry}: expected KEY:KEY=VALUE with a single `=`")
    *groups, last = keys.strip().split(":")
    section: Any = given
    for depth, group in enumerate(groups, 1):
        section = section.get(group) if isinstance(section, Mapping) else None
        if not isinstance(section, Mapping):
            name = ".".join(groups[:depth])
            raise OptionsError(f"--force_yml {entry}: the options have no section {name}")
    try:
        section[last] = basicsr_options._postprocess_yml_value(values[0].strip())
    except Exception as error:  # BasicSR evaluates lists as code
        raise OptionsError(f"--force_yml {entry}: cannot read the value ({error})") from error


def _refuse_repeated_keys(section: yaml.MappingNode) -> None:
    seen = set()
    for key, _ in section.value:
        if isinstance(key, yaml.ScalarNode):
            if key.value in seen:
                problem = f"the key {key.value!r} is repeated"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
