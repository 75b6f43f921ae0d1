"""Tasks, metrics and the demonstration run."""
