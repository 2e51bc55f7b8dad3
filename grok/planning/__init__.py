"""Memory and time of each way of running a model, before anything starts."""
