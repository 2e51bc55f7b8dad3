"""Explanations of features: rules, or a language model, judged on contexts they have not seen."""
