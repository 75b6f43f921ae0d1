// The whole latent phase: every thought of every row, with noise, dropout, LatentRM and pruning.
//
// One persistent kernel walks the phases of rollout/program.h and waits for the grid between them; weights of
// the next linear layers are on their way into the L2 cache meanwhile. Where a grid cannot wait for itself
// the host launches the same phases one by one. Results do not depend on which of the two it was, on the
// number of blocks, or on the other rows.
//
// Floor: the weights of a pass, once (GPT-2 small in bf16: 170 MB), and T passes of generator and LatentRM.
#pragma once

#include "rollout/attention.cuh"
#include "rollout/grid_wait.cuh"
#include "rollout/prune.cuh"
#include "rollout/rows.cuh"

namespace latent_ext {

// Shared memory: the ring of the linear layers, what a row takes, and the persistent kernel's arguments and
// phase. Where all of it does not fit, rows use the ring's memory, and no weights can be staged ahead.
struct RolloutShared {
  int ring_per_warp;
  int row_offset, arguments_offset, phase_offset;
  bool stages_ahead;
  int total;
};

// limit: bytes that a block can have.
inline RolloutShared rollout_shared(int widest_row, int limit) {
  const auto rounded = [](size_t bytes) { return static_cast<int>((bytes + 15) / 16 * 16); };
  const int row = rounded(row_shared_bytes(widest_row)), arguments = rounded(sizeof(RolloutArguments));
  const int kept = arguments + rounded(sizeof(Phase));
  const int most = kRolloutWarps * 3 * kLargestChunk, least = static_cast<int>(kSmallestRing);
  RolloutShared shared = {};
  shared.stages_ahead = least + row + kept <= limit;
  const int room = limit - kept - (shared.stages_ahead ? row : 0);
  shared.ring_per_warp = (room < most ? room : most) / kRolloutWarps / kPieceBytes * kPieceBytes;
  const int ring = kRolloutWarps * shared.ring_per_warp;
  shared.row_offset = shared.stages_ahead ? ring : 0;
  shared.arguments_offset = shared.stages_ahead ? ring + row : (ring > row ? ring : row);
  shared.phase_offset = shared.arguments_offset + arguments;
  shared.total = shared.phase_offset + rounded(sizeof(Phase));
  return shared;
}

__device__ __forceinline__ bool is_linear(const RolloutArguments& a, const Phase& phase) {
  switch (phase.kind) {
    case PhaseKind::kQueryKeyValue:
    case PhaseKind::kAttentionOutput:
    case PhaseKind::kMlpIn:
    case PhaseKind::kMlpOut:
      return true;
    case PhaseKind::kHeadStage:
      return a.stage[phase.stage].linear.weights != 0;
    default:
      return false;
  }
}

template <typename T>
__device__ __forceinline__ LinearWork<T> layer_work(const RolloutArguments& a, const RolloutLayers& layers,
                                                    const Phase& phase, int b) {
  const RolloutBody& body = a.body[b];
  const RolloutLayer& layer = layers.of[b][phase.layer];
  const auto work = [&](const RolloutLinear& linear, const void* input, int inputs, int outputs) {
    LinearWork<T> made = {};
    made.input = static_cast<const T*>(input);
    made.weights = reinterpret_cast<const T*>(body.model + int64_t{64} * linear.weights);
    made.bias = body.floats(linear.bias);
    made.input_stride = inputs;
    made.inputs = inputs;
    made.outputs = outputs;
    made.splits = 1;
    made.wide = inputs % kPack<T> == 0;
    return made;
  };
  const auto partial = [&](LinearWork<T> made) {
    made.bias = nullptr;  // added with the splits, in the next phase
    made.splits = split_count(made.inputs);
    made.sums = body.partial;
    made.sums_stride = body.hidden;
    made.split_stride = a.capacity * body.hidden;
    return made;
  };
  const int context = body.heads * body.head_dim;
  switch (phase.kind) {
    case PhaseKind::kQueryKeyValue: {
      LinearWork<T> made = work(layer.query_key_value, body.normed, body.hidden, body.query_key_value_size());
      made.sums = body.query_key_value;
      made.sums_stride = made.outputs;
      return made;
    }
    case PhaseKind::kAttentionOutput:
      return partial(work(layer.attention_output, body.context, context, body.hidden));
    case PhaseKind::kMlpIn: {
      LinearWork<T> made = work(layer.mlp_in, body.normed, body.hidden, body.inner);
      made.gated = body.gated;
      made.activation = body.activation;
      made.activations = static_cast<T*>(body.inner_rows);
      made.activations_stride = body.inner;
      return made;
    }
    default:
      return partial(work(layer.mlp_out, body.inner_rows, body.inner, body.hidden));
  }
}

template <typename T>
__device__ __forceinline__ LinearWork<T> stage_work(const RolloutArguments& a, const Phase& phase) {
  const RolloutBody& body = a.body[kGenerator];
  const RolloutStage& stage = a.stage[phase.stage];
  const int to = phase.stage % 2;
  LinearWork<T> made = {};
  made.input = static_cast<const T*>(a.stage_inputs[1 - to]);
  made.weights = reinterpret_cast<const T*>(body.model + int64_t{64} * stage.linear.weights);
  made.bias = body.floats(stage.linear.bias);
  made.input_stride = a.stage_width;
  made.inputs = stage.inputs;
  made.outputs = stage.outputs;
  made.splits = 1;
  made.wide = stage.inputs % kPack<T> == 0;
  made.activation = stage.activation;
  made.sums = a.stage_values[to];
  made.sums_stride = a.stage_width;
  made.activations = static_cast<T*>(a.stage_inputs[to]);
  made.activations_stride = a.stage_width;
  return made;
}

// The linear layers of a phase; active: which bodies have one.
template <typename T>
__device__ __forceinline__ void linears_of(const RolloutArguments& a, const RolloutLayers& layers,
                                           const Phase& phase, LinearWork<T> (&works)[2], bool (&active)[2]) {
  const bool stage = phase.kind == PhaseKind::kHeadStage;
  for (int b = 0; b < 2; ++b) {
    active[b] = stage ? b == kGenerator : takes_part(a.program, phase, b);
    if (active[b]) works[b] = stage ? stage_work<T>(a, phase) : layer_work<T>(a, layers, phase, b);
  }
}

// f(works, active, rows) for the next phase with linear layers.
template <typename T, typename F>
__device__ __forceinline__ void for_next_linears(const RolloutArguments& a, const RolloutLayers& layers,
                                                 Phase phase, const F& f) {
  phase.layer = forgotten(phase.layer);
  phase.step = forgotten(phase.step);
  do {
    if (!advance(a.program, phase)) return;
  } while (!is_linear(a, phase));
  LinearWork<T> works[2];
  bool active[2];
  linears_of(a, layers, phase, works, active);
  f(works, active, phase.rows);
}

__device__ __forceinline__ NormStep norm_step(const RolloutArguments& a, const RolloutLayers& layers,
                                              const Phase& phase, int b) {
  const RolloutLayer& layer = layers.of[b][phase.layer];
  if (phase.kind == PhaseKind::kAttentionNorm) return {layer.attention_output.bias, layer.mlp_norm};
  const bool last = is_last_layer(a.program, phase, b);
  return {layer.mlp_out.bias, last ? a.body[b].final_norm : layers.of[b][phase.layer + 1].attention_norm};
}

// f(body, row) for each row of the bodies that take part, by one block each.
template <typename F>
__device__ __forceinline__ void for_rows(const RolloutArguments& a, const Phase& phase, const F& f) {
  const int64_t of_generator = takes_part(a.program, phase, kGenerator) ? phase.rows : 0;
  const int64_t of_reward = takes_part(a.program, phase, kReward) ? phase.rows : 0;
  for (int64_t item = blockIdx.x; item < of_generator + of_reward; item += gridDim.x) {
    if (item < of_generator) {
      f(kGenerator, item);
    } else {
      f(kReward, item - of_generator);
    }
    __syncthreads();  // shared memory is used again
  }
}

template <typename F>
__device__ __forceinline__ void for_each(int64_t count, const F& f) {
  for (int64_t item = blockIdx.x; item < count; item += gridDim.x) {
    f(item);
    __syncthreads();
  }
}

template <typename T>
__device__ __forceinline__ void begin_rollout_row(const RolloutArguments& a, const Phase& phase, int64_t row,
                                                  RowShared* shared) {
  begin_tables(a, row);
  __syncthreads();  // all threads read the row's tables
  const RolloutBody& body = a.body[kGenerator];
  const float* const input = a.first + row * body.hidden;
  if (!a.program.first_is_hidden) {
    begin_row<T>(a, phase, kGenerator, row, input, shared);
    return;
  }
  for (int first = row_begin(); first < body.hidden; first += kRowStride)
    store_hidden<T>(a, row, first, load_pack(input, first, body.hidden, body.wide));
}

// kAhead: shared memory stays from phase to phase, so weights can be staged for the next linear layers.
template <typename T, bool kAhead>
__device__ __forceinline__ void run_phase(const RolloutArguments& a, const RolloutLayers& layers,
                                          const RolloutShared& layout, const Phase phase) {
  unsigned char* const bytes = dynamic_shared();
  RowShared* const shared = reinterpret_cast<RowShared*>(bytes + layout.row_offset);
  const Ring ring = {bytes, layout.ring_per_warp};
  const bool ahead = kAhead && layout.stages_ahead;
  const auto prefetch_next = [&] {
    for_next_linears<T>(a, layers, phase, [](const auto& works, const auto& active, int64_t rows) {
      prefetch_linears(works, active, rows);
    });
  };
  const auto stage_next = [&] {
    for_next_linears<T>(a, layers, phase, [&](const auto& works, const auto& active, int64_t rows) {
      stage_linears(works, active, rows, ring);
    });
  };
  if (is_linear(a, phase)) {
    prefetch_next();
    LinearWork<T> works[2];
    bool active[2];
    linears_of(a, layers, phase, works, active);
    run_linears(works, active, phase.rows, ring, ahead);
    if (ahead) stage_next();
    return;
  }
  switch (phase.kind) {
    case PhaseKind::kBegin:
      prefetch_next();
      if (ahead) stage_next();
      for_each(phase.rows, [&](int64_t row) { begin_rollout_row<T>(a, phase, row, shared); });
      return;
    case PhaseKind::kAttention:
      run_attention<T>(a, layers, phase);
      return;
    case PhaseKind::kAttentionNorm:
    case PhaseKind::kMlpNorm:
      for_rows(a, phase, [&](int b, int64_t row) {
        norm_row<T>(a, norm_step(a, layers, phase, b), phase, b, row, shared);
      });
      return;
    case PhaseKind::kHeadStage:
      for_each(phase.rows, [&](int64_t row) { stage_norm_row<T>(a, phase, row, shared); });
      return;
    case PhaseKind::kPrune:
      for_each(a.program.questions, [&](int64_t question) { prune_question(a, phase, question); });
      return;
    case PhaseKind::kThought:
      for_each(phase.rows, [&](int64_t row) { thought_row<T>(a, phase, row, shared); });
      return;
    case PhaseKind::kReread:
      for_each(phase.rows, [&](int64_t row) { reread_row<T>(a, phase, row, shared); });
      return;
    default:
      for_each(phase.rows, [&](int64_t row) { finish_row(a, phase, row); });
  }
}

// Cooperative: every block of the grid is resident. Arguments and phase lie in shared memory: of what is
// constant the compiler would keep as much in registers from phase to phase as there are.
template <typename T>
__global__ void __launch_bounds__(kRolloutThreads, 1)
    persistent_rollout_kernel(const __grid_constant__ RolloutArguments given,
                              const __grid_constant__ RolloutLayers layers, const RolloutShared layout) {
  RolloutArguments* const a = reinterpret_cast<RolloutArguments*>(dynamic_shared() + layout.arguments_offset);
  Phase* const phase = reinterpret_cast<Phase*>(dynamic_shared() + layout.phase_offset);
  static_assert(sizeof(RolloutArguments) % sizeof(uint64_t) == 0, "copied in words");
  for (size_t i = threadIdx.x; i < sizeof(RolloutArguments) / sizeof(uint64_t); i += kRolloutThreads)
    reinterpret_cast<uint64_t*>(a)[i] = reinterpret_cast<const uint64_t*>(&given)[i];
  if (threadIdx.x == 0) *phase = first_phase(given.program);
  __syncthreads();
  GridWait grid_wait(given.arrived);
  while (true) {
    run_phase<T, true>(*a, layers, layout, *phase);
    if (phase->kind == PhaseKind::kFinish) break;
    grid_wait([&] { advance(a->program, *phase); });
  }
  wait_copies(0);
}

template <typename T>
__global__ void __launch_bounds__(kRolloutThreads, 1)
    rollout_phase_kernel(const __grid_constant__ RolloutArguments a,
                         const __grid_constant__ RolloutLayers layers, const RolloutShared layout,
                         const Phase phase) {
  run_phase<T, false>(a, layers, layout, phase);
}

}  // namespace latent_ext
