"""Router sets: files, Gram matrices, matchings, draws of unrelated ones."""

from lens.routers.gram import RouterGram, effective_dimension, router_gram
from lens.routers.router_set import RouterSet, load_routers, save_routers

__all__ = [
    "RouterGram",
    "RouterSet",
    "effective_dimension",
    "load_routers",
    "router_gram",
    "save_routers",
]
