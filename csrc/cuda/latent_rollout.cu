#include <cmath>
#include <memory>

#include "latent_ext/philox.h"
#include "latent_rollout.cuh"
#include "launch.h"
#include "rollout/plan.h"

namespace latent_ext {
namespace {

using Maybe = std::optional<Tensor>;

// A packed model in rows layout: its header on the host, all of it on the device.
PackedModel check_model(const ArgumentCheck& check, const char* name, const Tensor& bytes,
                        const char* header_name, const Maybe& header) {
  check.tensor(name, bytes, {bytes.numel()}, ScalarType::Byte);
  STD_TORCH_CHECK(header.has_value() && header->is_cpu() && header->scalar_type() == ScalarType::Long &&
                      header->dim() == 1 && header->is_contiguous(),
                  "latent_rollout: ", header_name,
                  " must be given for CUDA: int64 [entries] on the CPU, as packed with ", name);
  return view_packed_model(
      name, {header->const_data_ptr(), header->numel() * int64_t{8}, bytes.const_data_ptr(), bytes.numel()},
      WeightLayout::kRows);
}

// What a body reads besides its weights. The values of lengths and indices stay on the device: rows with
// wrong ones come out as NaN.
struct CacheArguments {
  const char *position_embedding_name, *index_name, *len_name, *key_name, *value_name;
  const Maybe& position_embedding;
  const Tensor &index, &len, &key, &value;
};

void set_caches(const ArgumentCheck& check, const CacheArguments& c, const PackedModel& model, int64_t rows,
                RolloutBody& body) {
  check.dimensions(c.key_name, c.key, 5);
  const int64_t layers = static_cast<int64_t>(model.layers.size());
  body.prompts = c.key.size(1);
  body.max_prompt = c.key.size(3);
  const auto cache = [&](const char* name, const Tensor& tensor) {
    check.tensor(name, tensor, {layers, body.prompts, model.kv_heads, body.max_prompt, model.head_dim});
  };
  cache(c.key_name, c.key);
  cache(c.value_name, c.value);
  check.tensor(c.index_name, c.index, {rows}, ScalarType::Long);
  check.tensor(c.len_name, c.len, {body.prompts}, ScalarType::Long);
  body.positions = kFixedPosition;
  if (c.position_embedding.has_value()) {
    STD_TORCH_CHECK(!model.inverse_frequencies, "latent_rollout: ", c.position_embedding_name,
                    " must be None for a model that rotates by position");
    check.dimensions(c.position_embedding_name, *c.position_embedding, 2);
    body.positions = c.position_embedding->size(0);
    check.tensor(c.position_embedding_name, *c.position_embedding, {body.positions, model.hidden},
                 ScalarType::Float);
    body.position_embedding = static_cast<const float*>(c.position_embedding->const_data_ptr());
  }
  body.prompt_index = c.index.const_data_ptr<int64_t>();
  body.prompt_len = c.len.const_data_ptr<int64_t>();
  body.prefix_key = c.key.const_data_ptr();
  body.prefix_value = c.value.const_data_ptr();
}

// As on the CPU: rows per question after every step fit the capacity.
void check_pruning(const std::vector<int64_t>& keep, int64_t candidates, int64_t questions, int64_t rows,
                   int64_t steps, int64_t capacity) {
  STD_TORCH_CHECK(keep.empty() || static_cast<int64_t>(keep.size()) == steps,
                  "latent_rollout: keep must have one entry per step (", steps, ") or none, got ",
                  keep.size());
  STD_TORCH_CHECK(static_cast<int64_t>(keep.size()) <= kMaxPrunedSteps,
                  "latent_rollout: keep must have at most ", kMaxPrunedSteps, " entries on CUDA, got ",
                  keep.size());
  STD_TORCH_CHECK(candidates >= 1 && candidates <= (1 << 20),
                  "latent_rollout: candidates must be in [1, 2**20], got ", candidates);
  STD_TORCH_CHECK(!keep.empty() || candidates == 1,
                  "latent_rollout: candidates must be 1 where keep prunes nothing, got ", candidates);
  int64_t width = rows / questions;
  for (int64_t t = 0; t < static_cast<int64_t>(keep.size()); ++t) {
    STD_TORCH_CHECK(keep[t] >= 0, "latent_rollout: keep must not be negative, got ", keep[t], " for step ",
                    t);
    if (keep[t] == 0) continue;
    width = std::min(width, keep[t]) * (t + 1 < steps ? candidates : 1);
    STD_TORCH_CHECK(width <= capacity / questions, "latent_rollout: thoughts must have room for the ",
                    questions * width, " rows after step ", t, ", got ", capacity);
  }
}

int device_attribute(cudaDeviceAttr attribute, int32_t device) {
  int value = 0;
  STD_CUDA_CHECK(cudaDeviceGetAttribute(&value, attribute, device));
  return value;
}

template <typename T>
void launch_rollout(RolloutArguments& a, RolloutLayers& layers, const std::string& rung,
                    const Tensor& first) {
  const int32_t device = first.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  void* handle = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &handle));
  const cudaStream_t stream = static_cast<cudaStream_t>(handle);
  STD_TORCH_CHECK(sizeof(T) == 4 || device_attribute(cudaDevAttrComputeCapabilityMajor, device) >= 8,
                  "latent_rollout: bfloat16 needs compute capability 8.0 or later; pack the model as fp32");

  const Tensor workspace =
      torch::stable::new_empty(first, {static_cast<int64_t>(set_workspace<T>(a, nullptr))}, ScalarType::Byte);
  set_workspace<T>(a, static_cast<unsigned char*>(workspace.mutable_data_ptr()));
  STD_CUDA_CHECK(cudaMemsetAsync(a.arrived, 0, sizeof(*a.arrived), stream));

  const RolloutShared shared =
      rollout_shared(widest_row(a), device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  const int processors = device_attribute(cudaDevAttrMultiProcessorCount, device);
  const auto prepare = [&](const void* kernel) {
    STD_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared.total));
  };
  if (rung != "stream") {
    const auto kernel = persistent_rollout_kernel<T>;
    prepare(reinterpret_cast<const void*>(kernel));
    int resident = 0;
    STD_CUDA_CHECK(
        cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, kernel, kRolloutThreads, shared.total));
    const bool possible = resident > 0 && device_attribute(cudaDevAttrCooperativeLaunch, device) != 0;
    STD_TORCH_CHECK(possible || rung == "auto",
                    "latent_rollout: rung \"persistent\" needs a device that launches cooperative kernels");
    if (possible) {
      RolloutShared layout = shared;
      void* arguments[] = {&a, &layers, &layout};
      STD_CUDA_CHECK(cudaLaunchCooperativeKernel(reinterpret_cast<const void*>(kernel), dim3(processors),
                                                 dim3(kRolloutThreads), arguments, shared.total, stream));
      return;
    }
  }
  const auto kernel = rollout_phase_kernel<T>;
  prepare(reinterpret_cast<const void*>(kernel));
  Phase phase = first_phase(a.program);
  do {
    kernel<<<processors, kRolloutThreads, shared.total, stream>>>(a, layers, shared, phase);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  } while (advance(a.program, phase));
}

void latent_rollout(const Tensor& model_bytes, Maybe position_embedding, const Tensor& first,
                    bool first_is_hidden, const Tensor& keys, const Tensor& seed, const Tensor& prompt_index,
                    const Tensor& prompt_len, const Tensor& prefix_key, const Tensor& prefix_value,
                    const Tensor& suffix_key, const Tensor& suffix_value, const Tensor& ancestry,
                    int64_t suffix_len, Maybe reward_bytes, Maybe reward_position_embedding,
                    Maybe reward_prompt_index, Maybe reward_prompt_len, Maybe reward_prefix_key,
                    Maybe reward_prefix_value, double p, bool per_trajectory, bool embedding, double svp,
                    double sigma, bool relative, int64_t questions, std::vector<int64_t> keep,
                    int64_t candidates, const Tensor& thoughts, Maybe step_scores, const Tensor& lineage,
                    const Tensor& final_keys, const Tensor& final_prompts, Maybe model_header,
                    Maybe reward_header, std::string rung) {
  const ArgumentCheck check("latent_rollout", "prefix_key", prefix_key);
  STD_TORCH_CHECK(rung == "auto" || rung == "persistent" || rung == "stream",
                  "latent_rollout: rung must be \"auto\", \"persistent\" or \"stream\", got \"", rung, "\"");
  const auto arguments = std::make_unique<RolloutArguments>();
  RolloutArguments& a = *arguments;
  const auto of_layers = std::make_unique<RolloutLayers>();
  RolloutLayers& layers = *of_layers;
  const PackedModel model = check_model(check, "model", model_bytes, "model_header", model_header);
  set_body("model", model, model_bytes.const_data_ptr(), a.body[kGenerator], layers.of[kGenerator]);
  set_head(model, model_bytes.const_data_ptr(), a);
  a.program.layers[kGenerator] = static_cast<int>(model.layers.size());

  check.dimensions("first", first, 2);
  check.dimensions("thoughts", thoughts, 3);
  const int64_t rows = first.size(0), capacity = thoughts.size(0), steps = thoughts.size(1);
  check.tensor("first", first, {rows, model.hidden}, ScalarType::Float);
  check.tensor("thoughts", thoughts, {capacity, steps, model.hidden}, ScalarType::Float);
  STD_TORCH_CHECK(questions >= 1 && rows >= 1 && rows % questions == 0,
                  "latent_rollout: questions must divide the rows of first, got ", questions, " for ", rows,
                  " rows");
  STD_TORCH_CHECK(capacity >= rows, "latent_rollout: thoughts must have room for all ", rows, " rows, got ",
                  capacity);
  check.size("the number of thoughts", steps);
  check.size("the number of rows", capacity);
  check.tensor("keys", keys, {rows}, ScalarType::Long);
  check.seed(seed);
  RolloutBody& body = a.body[kGenerator];
  set_caches(check,
             {"position_embedding", "prompt_index", "prompt_len", "prefix_key", "prefix_value",
              position_embedding, prompt_index, prompt_len, prefix_key, prefix_value},
             model, rows, body);
  check.dimensions("suffix_key", suffix_key, 5);
  body.slots = suffix_key.size(1);
  body.max_suffix = suffix_key.size(3);
  const int64_t depth = static_cast<int64_t>(model.layers.size());
  check.tensor("suffix_key", suffix_key,
               {depth, body.slots, model.kv_heads, body.max_suffix, model.head_dim});
  check.tensor("suffix_value", suffix_value,
               {depth, body.slots, model.kv_heads, body.max_suffix, model.head_dim});
  const int64_t passes = steps - (first_is_hidden ? 1 : 0);
  STD_TORCH_CHECK(body.slots >= capacity,
                  "latent_rollout: suffix_key must have as many slots as thoughts rows, got ", body.slots,
                  " for ", capacity);
  STD_TORCH_CHECK(suffix_len >= 0 && suffix_len <= body.max_suffix - passes,
                  "latent_rollout: suffix_key must have room for suffix_len + ", passes, " positions, got ",
                  body.max_suffix, " with suffix_len ", suffix_len);
  check.tensor("ancestry", ancestry, {capacity, body.max_suffix}, ScalarType::Long);
  STD_TORCH_CHECK(p >= 0 && p < 1, "latent_rollout: p must be in [0, 1), got ", p);
  STD_TORCH_CHECK(svp == 0, "latent_rollout: svp must be 0 on CUDA, got ", svp);
  STD_TORCH_CHECK(std::isfinite(sigma) && sigma >= 0,
                  "latent_rollout: sigma must be finite and not negative, got ", sigma);
  check_pruning(keep, candidates, questions, rows, steps, capacity);
  STD_TORCH_CHECK(reward_bytes.has_value() || keep.empty(),
                  "latent_rollout: keep needs a reward_model, whose scores decide");
  STD_TORCH_CHECK(reward_bytes.has_value() == step_scores.has_value(),
                  "latent_rollout: step_scores must be given with reward_model and only then");
  check.tensor("lineage", lineage, {capacity, steps}, ScalarType::Long);
  check.tensor("final_keys", final_keys, {capacity}, ScalarType::Long);
  check.tensor("final_prompts", final_prompts, {capacity}, ScalarType::Long);

  WeightFormat format = only_format("model", model);
  if (reward_bytes.has_value()) {
    STD_TORCH_CHECK(reward_prompt_index.has_value() && reward_prompt_len.has_value() &&
                        reward_prefix_key.has_value() && reward_prefix_value.has_value(),
                    "latent_rollout: reward_prompt_index, reward_prompt_len, reward_prefix_key and "
                    "reward_prefix_value must be given with reward_model");
    const PackedModel scorer =
        check_model(check, "reward_model", *reward_bytes, "reward_header", reward_header);
    STD_TORCH_CHECK(scorer.hidden == model.hidden, "latent_rollout: reward_model must read thoughts of size ",
                    model.hidden, ", got ", scorer.hidden);
    STD_TORCH_CHECK(scorer.score_weight, "latent_rollout: reward_model must have a score head");
    STD_TORCH_CHECK(only_format("reward_model", scorer) == format,
                    "latent_rollout: reward_model must be packed with the weights of model");
    RolloutBody& reward = a.body[kReward];
    set_body("reward_model", scorer, reward_bytes->const_data_ptr(), reward, layers.of[kReward]);
    a.program.layers[kReward] = static_cast<int>(scorer.layers.size());
    set_caches(check,
               {"reward_position_embedding", "reward_prompt_index", "reward_prompt_len", "reward_prefix_key",
                "reward_prefix_value", reward_position_embedding, *reward_prompt_index, *reward_prompt_len,
                *reward_prefix_key, *reward_prefix_value},
               scorer, rows, reward);
    reward.slots = capacity;
    reward.max_suffix = steps;
    check.tensor("step_scores", *step_scores, {capacity, steps}, ScalarType::Float);
    a.step_scores = static_cast<float*>(step_scores->mutable_data_ptr());
  }
  STD_TORCH_CHECK((format == WeightFormat::kFloat32Rows) == (check.dtype() == ScalarType::Float),
                  "latent_rollout: prefix_key must be ",
                  format == WeightFormat::kFloat32Rows ? "float32" : "bfloat16", " for this model, got ",
                  torch::headeronly::toString(check.dtype()));

  a.capacity = capacity;
  a.dropout = make_dropout(p);
  a.per_trajectory = per_trajectory;
  a.embedding = embedding;
  a.sigma = static_cast<float>(sigma);
  a.relative = relative;
  a.first = static_cast<const float*>(first.const_data_ptr());
  a.keys = keys.const_data_ptr<int64_t>();
  a.seed = seed.const_data_ptr<int64_t>();
  a.ancestry = ancestry.const_data_ptr<int64_t>();
  a.final_slots = ancestry.mutable_data_ptr<int64_t>();
  a.thoughts = static_cast<float*>(thoughts.mutable_data_ptr());
  a.lineage = lineage.mutable_data_ptr<int64_t>();
  a.final_keys = final_keys.mutable_data_ptr<int64_t>();
  a.final_prompts = final_prompts.mutable_data_ptr<int64_t>();
  set_program(a, rows, questions, steps, suffix_len, first_is_hidden, keep, candidates);
  for (int b = 0; b < (reward_bytes.has_value() ? 2 : 1); ++b) {
    RolloutBody& each = a.body[b];
    each.wide = wide_rows(each.hidden, {each.position_embedding, a.first, a.thoughts});
    each.wide_heads =
        each.head_dim % 4 == 0 &&
        can_read_packs<float>(4, {each.prefix_key, each.prefix_value, each.suffix_key, each.suffix_value});
  }
  for_storage_type(check.dtype(),
                   [&](auto storage) { launch_rollout<decltype(storage)>(a, layers, rung, first); });
}

STABLE_TORCH_LIBRARY_IMPL(latent_ext, CUDA, m) {
  m.impl("latent_rollout", TORCH_BOX(&latent_rollout));
}

}  // namespace
}  // namespace latent_ext
