// The latent phase as a list of phases: within one, blocks work on their own; between two, all wait for all.
//
// The list is walked by the persistent kernel, which waits for the grid between phases, and by the host,
// which launches one kernel per phase where a grid cannot wait: the same phases, hence the same bits.
//
// A pass sends rows through the layers of a body. The LatentRM reads thought z_t in the same pass as the
// generator, which forms z_{t+1} from it. That includes rows that pruning is about to drop, whose next
// thoughts nobody will form. Where children of one row need forward passes of their own, because they draw
// masks of their own, the LatentRM's pass comes first (`separate`).
#pragma once

#include "latent_ext/platform.h"

namespace latent_ext {

constexpr int kMaxPrunedSteps = 256;

// Index of a body, and its bit in a set of bodies.
constexpr int kGenerator = 0, kReward = 1;
constexpr int kGeneratorBit = 1, kRewardBit = 2;

enum class PhaseKind : int {
  kBegin,            // tables of the rows, and their first inputs
  kQueryKeyValue,    // of one layer, as all to kMlpNorm
  kAttention,        //
  kAttentionOutput,  // partial sums over splits of the inputs
  kAttentionNorm,    // sum of the splits, dropout, residual, norm
  kMlpIn,            //
  kMlpOut,           // partial sums
  kMlpNorm,          // the same again; at the last layer the final norm, and the LatentRM's score
  kHeadStage,        // one stage of the thought head
  kPrune,            // the rows that each question keeps, and their children
  kThought,          // the next thought of each row, and the inputs of the passes over it
  kReread,           // the inputs of the generator's pass over the last thought, where it is separate
  kFinish,           // results of the rows at the end
};

struct RolloutProgram {
  int64_t rows, questions;
  int steps, candidates, stages;
  int layers[2];  // of each body; 0 without a LatentRM
  int suffix_len;
  bool first_is_hidden;
  bool separate;
  bool pruned;  // at any step
  int keep[kMaxPrunedSteps];

  LATENT_EXT_HOST_DEVICE bool reward() const { return layers[kReward] > 0; }
};

struct Phase {
  PhaseKind kind;
  int bodies;  // set
  int layer, stage;
  int step;      // index of the thought formed last, -1 before the first
  int suffix;    // positions that the generator has read behind the prompt
  int table;     // which of the two row tables holds
  bool moved;    // rows are children of those that the last pass computed
  int64_t rows;  // at present
};

LATENT_EXT_HOST_DEVICE inline Phase first_phase(const RolloutProgram& program) {
  return {PhaseKind::kBegin, kGeneratorBit, 0, 0, -1, program.suffix_len, 0, false, program.rows};
}

LATENT_EXT_HOST_DEVICE inline int layers_of(const RolloutProgram& program, int bodies) {
  const int generator = (bodies & kGeneratorBit) != 0 ? program.layers[kGenerator] : 0;
  const int reward = (bodies & kRewardBit) != 0 ? program.layers[kReward] : 0;
  return generator > reward ? generator : reward;
}

LATENT_EXT_HOST_DEVICE inline bool takes_part(const RolloutProgram& program, const Phase& phase, int body) {
  return (phase.bodies >> body & 1) != 0 && phase.layer < program.layers[body];
}

LATENT_EXT_HOST_DEVICE inline bool is_last_layer(const RolloutProgram& program, const Phase& phase,
                                                 int body) {
  return phase.layer + 1 == program.layers[body];
}

LATENT_EXT_HOST_DEVICE inline void begin_pass(const RolloutProgram&, Phase& phase, int bodies) {
  phase.bodies = bodies;
  phase.layer = 0;
  phase.kind = bodies == 0 ? PhaseKind::kFinish : PhaseKind::kQueryKeyValue;
}

LATENT_EXT_HOST_DEVICE inline bool prunes_now(const RolloutProgram& program, const Phase& phase) {
  return program.pruned && (phase.bodies & kRewardBit) != 0 && program.keep[phase.step] > 0;
}

LATENT_EXT_HOST_DEVICE inline int children(const RolloutProgram& program, const Phase& phase) {
  return phase.step + 1 < program.steps ? program.candidates : 1;
}

LATENT_EXT_HOST_DEVICE inline int64_t kept_rows(const RolloutProgram& program, const Phase& phase) {
  const int64_t width = phase.rows / program.questions;
  return program.keep[phase.step] < width ? program.keep[phase.step] : width;
}

// After pruning, or where there is none.
LATENT_EXT_HOST_DEVICE inline void after_pruning(const RolloutProgram& program, Phase& phase) {
  if ((phase.bodies & kGeneratorBit) != 0) {
    ++phase.step;
    phase.kind = PhaseKind::kThought;
  } else if (phase.step + 1 < program.steps) {
    phase.bodies = kGeneratorBit;
    phase.kind = PhaseKind::kReread;
  } else {
    phase.kind = PhaseKind::kFinish;
  }
}

LATENT_EXT_HOST_DEVICE inline void after_pass(const RolloutProgram& program, Phase& phase) {
  if (prunes_now(program, phase)) {
    phase.kind = PhaseKind::kPrune;
  } else {
    after_pruning(program, phase);
  }
}

// The last hidden states are there.
LATENT_EXT_HOST_DEVICE inline void after_hidden(const RolloutProgram& program, Phase& phase) {
  if ((phase.bodies & kGeneratorBit) != 0 && program.stages > 0) {
    phase.kind = PhaseKind::kHeadStage;
    phase.stage = 0;
  } else {
    after_pass(program, phase);
  }
}

// To the phase after `phase`; false behind the last one.
LATENT_EXT_HOST_DEVICE inline bool advance(const RolloutProgram& program, Phase& phase) {
  switch (phase.kind) {
    case PhaseKind::kBegin:
      if (program.first_is_hidden) {
        after_hidden(program, phase);
      } else {
        begin_pass(program, phase, kGeneratorBit);
      }
      return true;
    case PhaseKind::kMlpNorm:
      ++phase.layer;
      if (phase.layer < layers_of(program, phase.bodies)) {
        phase.kind = PhaseKind::kQueryKeyValue;
        return true;
      }
      if ((phase.bodies & kGeneratorBit) != 0) ++phase.suffix;
      after_hidden(program, phase);
      return true;
    case PhaseKind::kHeadStage:
      if (++phase.stage == program.stages) after_pass(program, phase);
      return true;
    case PhaseKind::kPrune:
      phase.rows = program.questions * kept_rows(program, phase) * children(program, phase);
      phase.table ^= 1;
      phase.moved = true;
      after_pruning(program, phase);
      return true;
    case PhaseKind::kThought: {
      const bool last = phase.step + 1 == program.steps;
      const int reward = program.reward() ? kRewardBit : 0;
      phase.moved = false;
      begin_pass(program, phase, program.separate ? reward : reward | (last ? 0 : kGeneratorBit));
      return true;
    }
    case PhaseKind::kReread:
      phase.moved = false;
      begin_pass(program, phase, kGeneratorBit);
      return true;
    case PhaseKind::kFinish:
      return false;
    default:
      phase.kind = static_cast<PhaseKind>(static_cast<int>(phase.kind) + 1);
      return true;
  }
}

}  // namespace latent_ext
