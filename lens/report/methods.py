"""Methods behind the numbers of a report, in a few sentences a section."""

from __future__ import annotations

METHODS: dict[str, str] = {
    "Four questions": (
        "Canonical routers: diag(γ)·W·(I − 11ᵀ/E), the norm's scale folded in and what softmax "
        "cannot see removed. Questions 1 and 2 shuffle the order of the layers. Question 3 mixes "
        "the experts of each layer by a random rotation among themselves and matches anew: every "
        "direction that the layers read stays, which of them is an expert is lost; columns are "
        "mixed as they are and at equal length, and the larger p counts. Question 4 deals the "
        "weights of each coordinate to the experts at random (keeps norm scales, outliers, heavy "
        "tails) and mixes experts from all layers (keeps the covariance that all layers share), "
        "and the larger p counts. An answer is a finding when its p-value, adjusted for four "
        "questions by Holm's method, is below 1 %."
    ),
    "Layers": (
        "CKA = ‖AᵀB‖²_F / (‖AᵀA‖_F ‖BᵀB‖_F). Three references: directions that all layers share "
        "(layers mixed at random from all columns of all layers, which keeps every direction that "
        "they read; the m largest are taken away first, in data and draws alike, by rule the "
        "fewest of 0, 1, 3 and 10 after which none carries more than a tenth of what is left; "
        "matched experts are set against experts mixed within the two layers); unrelated "
        "directions (each layer turned by a random rotation); shuffled coordinates. z = (s − mean) "
        "/ sd of the null. p is the share of draws at least as alike, continued by an exponential "
        "tail where few are; q adjusts it for all pairs (Benjamini–Hochberg). Intervals take the "
        "coordinates anew with replacement, 2s − 2m + quantiles of s*. A transition changes by "
        "|Δ| > 2σ of the series and by more than the largest change of 95 % of series drawn from "
        "the same reference. Effective dimension (tr S)²/tr S², from pairs of columns of different "
        "layers: small where few shared directions carry most of the weight."
    ),
    "Experts": (
        "Breadth is P(z_k among the top K), z ~ N(0, W̃ᵀW̃): an isotropic prior. A chain follows "
        "an expert by the best one-to-one matching of cosines for as long as each match has q ≤ "
        "0.05 against experts mixed within their layers and matched anew. Lengths stand beside "
        "equal experts, by the two nulls of question 4. Within a layer unrelated columns less "
        "their mean have a cosine of −1/(E − 1), give or take 1/√d; a pair is other than that "
        "where it is so beside both kinds of equal experts. Numbers of experts carry no meaning "
        "across layers; what compares by index is marked classic."
    ),
    "Clustering": (
        "Distances √(2 − 2·CKA); average linkage with optimal leaf order. Trees and maps are of "
        "layers without the largest directions that all of them share: the fewest of 0, 1, 3 and "
        "10 after which none carries more than a tenth of what is left. The silhouette of every "
        "cut, the support of branches and the trustworthiness of maps stand beside those of layers "
        "mixed at random from all layers, which keep all that these share (raw routers: beside "
        "layers turned at random); agreement with thirds of the depth (adjusted Rand index) beside "
        "shuffled depths. Support of a branch is the share of trees of resampled coordinates that "
        "have it. t-SNE and UMAP are made with three seeds and compared."
    ),
    "Vocabulary": (
        "Token embeddings through the norm before the router into W̃: the direct path, exact for "
        "what the embedding contributes; later layers see more than the embedding. An expert's "
        "pushes stand beside those of random mixtures of its layer's experts, as long, which know "
        "what the layer as a whole knows, and beside unrelated directions, the absolute zero."
    ),
    "Prompt": (
        "Margin z_K − z_{K+1} of the ordered router logits; gates p = softmax(z) over all experts. "
        "Loads stand beside even use, pairs beside what loads alone explain, repeats beside the "
        "same choices in random order, information beside shuffled tokens. Tokens of a text are "
        "not independent: a value outside its band speaks of this text."
    ),
    "Many prompts": (
        "Each trace counts as one unit: labels are permuted over traces, not over tokens. Lifts "
        "of labels carry q-values (Benjamini–Hochberg)."
    ),
    "Layers of A and of B": (
        "Layers with the same number stand side by side. The null mixes all layers of both sets "
        "at random, which keeps all that they share; unrelated directions are both layers turned "
        "at random. q adjusts over all layers (Benjamini–Hochberg), and over all pairs for the "
        "assignment with the largest total similarity. Unchanged: all experts have the same "
        "direction to rounding; changed: other directions, yet more alike than mixtures of all "
        "layers; shared directions only: no more than those (q > 0.05); unrelated: no more than "
        "layers turned at random; relabelled: an expert's best match has another index. Brackets "
        "hold 95 % bootstrap intervals over coordinates."
    ),
    "Experts of A and of B": (
        "Experts of a layer are matched one to one by the largest total cosine, labels set aside; "
        "every draw mixes the experts within both layers, which keeps all that the layers read, "
        "and matches anew. p is the share of drawn matches at least as good, read off an "
        "exponential tail of Fisher's z where few are. Less the mean of its layer a new expert "
        "keeps a cosine of up to about 1/E with the one it replaced, which wide routers tell from "
        "chance: read the angle too. Selection probability is P(z_k among the top K), z ~ N(0, "
        "W̃ᵀW̃)."
    ),
    "Structure over depth": (
        "What needs no common residual stream, so that widths may differ: the CKA matrices of both "
        "sets, layers paired by relative depth, correlated entry by entry; the null pairs layers "
        "at random (Mantel). Unevenness is the spread of selection probabilities over their mean, "
        "effective rank (Σλ)² / Σλ² / (E − 1) of a layer's Gram matrix, length the mean column "
        "norm over that of all layers; the null shuffles layers, so anything that changes "
        "smoothly with depth in both sets is alike by this measure."
    ),
}
