"""The LatentRM as a trainable network: the generator's backbone with one linear head on every thought.

It reads the prompt, then the thoughts as they were fed; the score of step t is the head's output at the
position of the t-th thought and a trajectory's score is the sum (LatentTTS, arXiv 2510.07745, section 3.2).
"""

from __future__ import annotations

import torch
from network import Shape
from sampling import LatentSampler, Noise, Rows
from torch import Tensor

HEAD = ("classifier.weight", "classifier.bias")


def initial_scorer(generator: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a LatentRM that starts from a generator: its backbone, and a head that scores everything
    0."""
    hidden = generator["ln_f.weight"].shape[0]
    head = {"classifier.weight": torch.zeros(1, hidden), "classifier.bias": torch.zeros(1)}
    return {name: w.clone() for name, w in generator.items()} | head


class Scorer:
    """Step scores of trajectories.

    Args:
        weights: as `initial_scorer` returns, in any one dtype but for the embeddings, which may stay float32.
        shape, start, end, thoughts: as of the generator.
    """

    def __init__(self, weights: dict[str, Tensor], shape: Shape, start: int, end: int, thoughts: int) -> None:
        self.weights = weights
        self.reader = LatentSampler(weights, shape, start, end, thoughts, Noise(), seed=0)

    def step_scores(self, prompts: list[bytes], thoughts: Tensor) -> Tensor:
        """Scores every thought, with the prompt of a question read once.

        Args:
            prompts: of each question.
            thoughts: [questions, rows, steps, hidden].

        Returns:
            float32 [questions, rows, steps].
        """
        count, rows, steps, _ = thoughts.shape
        reader, dtype = self.reader, self.reader.clean.dtype
        questions = reader.read(prompts)
        start = reader.embedded(questions, torch.full((count, rows, 1), reader.start), -1)
        placed = [reader.placed(questions, thoughts[:, :, step].to(dtype), step) for step in range(steps)]
        empty = torch.zeros(count, rows, reader.shape.heads, 0, reader.clean.head_dim, dtype=dtype)
        state = Rows([empty] * reader.shape.layers, [empty] * reader.shape.layers)
        hidden = reader.read_rows(reader.clean, questions, state, torch.cat([start, *placed], 2))
        head, bias = (self.weights[name].float() for name in HEAD)
        return (hidden[:, :, 1:].float() @ head[0]) + bias
