"""Networks of which a small part is trained, on a large base that never changes."""

from copy import deepcopy
from typing import Any

from torch import nn


class OnFrozenBase(nn.Module):
    """A network whose state dict holds only what is trained; the rest comes from other files.

    Copies of the network share what is frozen. A subclass calls :meth:`keep_trained` at the end of
    its constructor.
    """

    _trained: frozenset[str] = frozenset()

    def keep_trained(self) -> None:
        """Take the parameters that now require gradients as those that are trained."""
        self._trained = frozenset(n for n, p in self.named_parameters() if p.requires_grad)
        self.register_load_state_dict_post_hook(_forget_frozen)  # type: ignore[no-untyped-call]

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Return what is trained; arguments are those of ``nn.Module.state_dict``."""
        state = super().state_dict(*args, **kwargs)
        prefix = kwargs.get("prefix", "")
        for name in [name for name in state if name.startswith(prefix)]:
            if name.removeprefix(prefix) not in self._trained:
                del state[name]
        return state

    def __deepcopy__(self, memo: dict[int, Any]) -> "OnFrozenBase":
        """Copy what is trained, and share the rest."""
        shared = (p for name, p in self.named_parameters() if name not in self._trained)
        memo |= {id(parameter): parameter for parameter in shared}
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        copied.__dict__ = deepcopy(self.__dict__, memo)
        return copied


def _forget_frozen(network: Any, found: Any) -> None:
    """Do not miss what is frozen, after a state dict was loaded."""
    found.missing_keys[:] = [name for name in found.missing_keys if name in network._trained]
