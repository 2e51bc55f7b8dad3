"""Chat templates that lie beside a checkpoint, rendered apart from everything else."""
