"""First lines of routed texts: of one, of two side by side, of an intervention, of many."""
