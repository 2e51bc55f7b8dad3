"""Router sets: files, Gram matrices, matchings, draws of unrelated ones."""

from lens.routers.effective_dimension import unbiased_dimension
from lens.routers.gram import RouterGram, router_gram
from lens.routers.router_set import RouterSet, load_routers, save_routers

__all__ = [
    "RouterGram",
    "RouterSet",
    "load_routers",
    "router_gram",
    "save_routers",
    "unbiased_dimension",
]
