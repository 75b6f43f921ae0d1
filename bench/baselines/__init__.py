"""Best-of-N in plain Hugging Face parts, in two ways: as published, and as a careful PyTorch user would."""

from baselines.careful import best_of_n as careful
from baselines.published import best_of_n as published
from baselines.randomness import CounterRandomness, Randomness, TorchRandomness
from baselines.task import Outcome, Task

BASELINES = {"careful": careful, "published": published}

__all__ = [
    "BASELINES",
    "CounterRandomness",
    "Outcome",
    "Randomness",
    "Task",
    "TorchRandomness",
    "careful",
    "published",
]
