"""Training of the bundled model: text, vocabulary, optimiser loop, evaluation, model card."""
