"""What learned features do, and what they say of routes.

A database of all features of a dictionary is opened with `FeatureStore.open`, searched and shown;
accounts, flips and graphs are given as rows and as JSON.
"""

from lens.features.card import Context, FeatureCard
from lens.features.query import FeatureQuery
from lens.features.store import FeatureStore
from lens.features.summary import Summary

__all__ = ["Context", "FeatureCard", "FeatureQuery", "FeatureStore", "Summary"]
