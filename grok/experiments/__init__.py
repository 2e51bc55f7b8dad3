"""Runs that ask a question: ablations, patches, the logit lens, collections."""

from grok.experiments.ablation import AblationSweep, ablation_sweep
from grok.experiments.collecting import collect
from grok.experiments.collection import Collection, load_collection
from grok.experiments.logit_lens import LogitLens, logit_lens
from grok.experiments.metrics import Metric, kl_divergence, logit_difference, probability
from grok.experiments.patching import PatchSweep, patch_sweep
from grok.experiments.what_if import WhatIf, what_if, what_ifs

__all__ = [
    "AblationSweep",
    "Collection",
    "LogitLens",
    "Metric",
    "PatchSweep",
    "WhatIf",
    "ablation_sweep",
    "collect",
    "kl_divergence",
    "load_collection",
    "logit_difference",
    "logit_lens",
    "patch_sweep",
    "probability",
    "what_if",
    "what_ifs",
]
