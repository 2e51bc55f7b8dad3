"""One model for many people: the queue, work in the background."""
