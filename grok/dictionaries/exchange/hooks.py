"""Names of sites in other tools.

TransformerLens and what builds on it say `blocks.LAYER.HOOK`; folders of sparsify are named after
modules, of which `layers.LAYER` has one reading: the stream that leaves the layer. Sites that other
tools have no name for keep ours, as `blocks.LAYER.SITE`.
"""

from __future__ import annotations

import re
from pathlib import Path

from grok.dictionaries.exchange.opening import refused
from grok.errors import plain
from grok.interventions.sites import AXES, LAYER_SITES

HOOKS = {
    "resid_pre": "hook_resid_pre",
    "resid_mid": "hook_resid_mid",
    "resid_post": "hook_resid_post",
    "attn.normed": "hook_attn_out",
    "router.input": "mlp.hook_in",
    "moe.output": "mlp.hook_out",
    "moe.normed": "hook_mlp_out",
}
SITES = {hook: site for site, hook in HOOKS.items()} | {"hook_mlp_in": "resid_mid"}
WIDE = tuple(site for site in LAYER_SITES if AXES[site] == ("d_model",))
_LAYER = re.compile(r"(?:^|[./])(?:blocks|layers|h|layer)[._](\d{1,3})(?:[./](.+))?$")


def hook_of(site: str) -> str:
    """What other tools call a site within a layer."""
    return HOOKS.get(site, site)


def full_hook(layer: int, site: str) -> str:
    """What TransformerLens calls a site of a layer."""
    return f"blocks.{layer}.{hook_of(site)}"


def layer_of(where: Path, name: str) -> int:
    """The layer that a name is of.

    Raises:
        CheckpointError: it names none.
    """
    match = _LAYER.search(name)
    if match is None:
        raise refused(
            where, f"the hook {plain(name, 80)!r}", "one that names a layer, as blocks.5.HOOK",
            "Write its layer into the file.",
        )  # fmt: skip
    return int(match[1])


def site_of(where: Path, name: str, named: str | None, option: str) -> str:
    """The site that another tool's name means.

    Args:
        where: the file, for messages.
        name: with or without a layer; as `blocks.5.hook_mlp_out`.
        named: what the person says that it is, which counts; None: nothing.
        option: by which that is said, for messages.

    Raises:
        CheckpointError: no site of ours is meant for certain.
    """
    if named is not None:
        if named not in WIDE:
            raise refused(option, f"{plain(named, 40)!r}", f"one of {', '.join(WIDE)}", "See docs.")
        return named
    match = _LAYER.search(name)
    hook = name if match is None else match[2] or "hook_resid_post"
    site = SITES.get(hook, hook)
    if site not in WIDE:
        raise refused(
            where, f"the hook {plain(name, 80)!r}, which can mean more than one site or none",
            f"one of {', '.join(SITES)}", f"Say which site it is with {option} SITE: "
            f"{', '.join(WIDE)}.",
        )  # fmt: skip
    return site
