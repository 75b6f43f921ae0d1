"""The control for a LatentRM that reads answers: what it writes itself."""

from __future__ import annotations

from own_answers import own_answer

import latent_ext
from latent_ext.evaluation.problems import shipped_problems
from latent_ext.rewards import AnswerReading, LatentRM
from latent_ext.training.reading import from_generator


def test_before_training_it_writes_what_the_generator_writes() -> None:
    model = latent_ext.load()
    module = from_generator(model, known_answers=AnswerReading(0.4, 0.6)).eval().requires_grad_(False)
    reward = LatentRM(module, "new", answer_format="### {answer}")
    questions = [problem.question for problem in shipped_problems("test_2_5", 12)]
    results = latent_ext.solve(model, questions, n=1, sampler="none", return_thoughts=True)
    # Where the generator writes a step first, it was not asked for what stands behind the mark.
    at_once = [one for one in results if (one.trajectories[0].text or "").strip().startswith("###")]
    assert len(at_once) > 6
    for result in at_once:
        thoughts = result.trajectories[0].thoughts
        assert thoughts is not None
        assert own_answer(model, reward, model.encode(result.question), thoughts) == result.answer
