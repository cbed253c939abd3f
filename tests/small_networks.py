"""What the tests over all networks need to know, from the networks' own entries."""

from cir_arch.network import entries, entry_named

OURS = {entry.name: entry for entry in entries() if entry.package != "basicsr"}
"""Our networks, and the example of CONTRIBUTING.md."""

SMALL = {name: dict(entry.small) for name, entry in OURS.items()}
"""Arguments of small variants."""

RETURN_THE_IMAGE = {name for name, entry in OURS.items() if not entry.restores}
"""Networks whose output is the input."""

APART_FROM_THE_IMAGE = {
    name: entry.unused_parameters for name, entry in OURS.items() if entry.unused_parameters
}
"""Parameters that the restored image does not depend on, as regular expressions of their names."""


def untold_by(name, state):
    """Return the arguments of a network that its state dict does not tell, not even by a rule."""
    entry = entry_named(name)
    return set(entry.untold) - set(entry.arguments_from(state))
