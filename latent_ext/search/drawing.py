"""What draws the trajectories of a chunk: prompts are read once, and each call draws more of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from latent_ext.engine.base import Beam, Engine, LatentRequest, LatentRun, PromptCache
from latent_ext.engine.continuation import continue_rows
from latent_ext.engine.prompt_caches import select_prompts
from latent_ext.mixture import Mixture, members
from latent_ext.ops.keys import rollout_key, trajectory_keys
from latent_ext.rewards.latent_rm import LatentRM
from latent_ext.samplers import Sampler
from latent_ext.search.extend import Branch
from latent_ext.search.result import Trajectory


@dataclass(frozen=True)
class Drawn:
    """Trajectories that were drawn together.

    Attributes:
        places: the questions, by their place in the chunk, ascending.
        numbers: of each question's trajectories.
        run: a row for each of them.
        branches: where the questions go on, by place, if these are continuations; else empty.
    """

    places: Sequence[int]
    numbers: Sequence[int]
    run: LatentRun
    branches: Mapping[int, Branch] = field(default_factory=dict)


class Drawing:
    """The trajectories of one chunk.

    Args:
        engine: of the generator.
        sampler: of one sampler, or a mixture.
        seed: run seed.
        prompts: int64 [length] ids of the chunk's questions.
        question_keys: int64 [questions].
        count: trajectories per question, at the most.
        reward, reward_cache: scores the thoughts; None for none.
        beam, trace: as in `LatentRequest`.
        continues: keep what `continued` goes on from.
    """

    def __init__(
        self,
        engine: Engine,
        sampler: Sampler | Mixture,
        seed: int,
        prompts: Sequence[Tensor],
        question_keys: Tensor,
        count: int,
        reward: LatentRM | None,
        reward_cache: PromptCache,
        *,
        beam: Beam | None = None,
        trace: bool = False,
        continues: bool = False,
    ) -> None:
        self.engine, self.sampler, self.seed = engine, sampler, seed
        self.prompts, self.keys = prompts, trajectory_keys(question_keys, count)
        self.reward, self.reward_cache = reward, reward_cache
        self.beam, self.trace, self.continues = beam, trace, continues
        self._caches: dict[Sampler, PromptCache] = {}
        # By place and number: the run that a trajectory was drawn in, and its row there.
        self._origins: dict[int, dict[int, tuple[LatentRun, int]]] = {}

    def fresh(self, places: Sequence[int], first: int, last: int) -> Iterator[Drawn]:
        """Trajectories first, ..., last - 1 of some questions, those of each sampler together."""
        for sampler, numbers in self._by_sampler(first, last) if places else ():
            if sampler not in self._caches:
                self._caches[sampler] = self.engine.read_prompts(self.prompts, sampler)
            group, shared, scored = self.prompts, self._caches[sampler], self.reward_cache
            if len(places) < len(self.prompts):
                group = [self.prompts[b] for b in places]
                shared, scored = select_prompts(shared, places), select_prompts(scored, places)
            keys = self.keys[list(places)][:, numbers].contiguous()
            request = LatentRequest(group, keys, sampler, self.seed, self.beam, self.trace)
            run = self.engine.sample(request, shared, self.reward, scored)
            yield self._kept(Drawn(places, numbers, run))

    def continued(
        self, branches: Mapping[int, Branch], drawn: Sequence[Sequence[Trajectory]], first: int, last: int
    ) -> Iterator[Drawn]:
        """Trajectories first, ..., last - 1 of some questions as continuations of earlier ones.

        Args:
            branches: by place.
            drawn: of every question of the chunk, its trajectories so far.
        """
        groups: dict[tuple[int, int], list[int]] = {}
        for place, branch in sorted(branches.items()):
            run, _ = self._origins[place][branch.parent]
            groups.setdefault((id(run), branch.kept), []).append(place)
        for (_, kept), places in groups.items():
            own = {place: branches[place] for place in places}
            parents = torch.tensor([drawn[place][branch.parent].key for place, branch in own.items()])
            started = torch.tensor([branch.number for branch in own.values()])
            numbers = started.unsqueeze(1) + torch.arange(last - first)
            keys = rollout_key(parents.unsqueeze(1), kept, numbers)
            origins = [self._origins[place][branch.parent] for place, branch in own.items()]
            run, rows = origins[0][0], torch.tensor([row for _, row in origins])
            assert self.reward is not None
            scored = select_prompts(self.reward_cache, places)
            more = continue_rows(self.engine, run, rows, kept, keys, self.reward, scored)
            yield self._kept(Drawn(places, range(first, last), more, own))

    def forget(self, places: Sequence[int]) -> None:
        """Lets go of questions that will not be continued any more."""
        for place in places:
            self._origins.pop(place, None)

    def _kept(self, drawn: Drawn) -> Drawn:
        if self.continues:
            for b, place in enumerate(drawn.places):
                rows = range(b * len(drawn.numbers), (b + 1) * len(drawn.numbers))
                origins = ((drawn.run, row) for row in rows)
                self._origins.setdefault(place, {}).update(zip(drawn.numbers, origins, strict=True))
        return drawn

    def _by_sampler(self, first: int, last: int) -> Iterator[tuple[Sampler, list[int]]]:
        """Each sampler once, with the numbers in [first, last) of the trajectories that it draws."""
        if isinstance(self.sampler, Sampler):
            yield self.sampler, list(range(first, last))
            return
        for sampler in members(self.sampler):
            numbers = [n for n in range(first, last) if self.sampler.of_trajectory(n) == sampler]
            if numbers:
                yield sampler, numbers
