// The few C functions of _C that _native calls; everything else in _C is hidden.
#pragma once

#include <stdint.h>

#define LATENT_EXT_EXPORT extern "C" __attribute__((visibility("default")))

// Null, or why LATENT_EXT_CPU_CAPABILITY cannot be followed.
LATENT_EXT_EXPORT const char* latent_ext_capability_error();
// Name of the level in use: "default", "avx2" or "avx512".
LATENT_EXT_EXPORT const char* latent_ext_cpu_capability();
// The levels this machine can run, separated by commas, narrowest first.
LATENT_EXT_EXPORT const char* latent_ext_supported_capabilities();
// Null on success, else what is wrong with the name.
LATENT_EXT_EXPORT const char* latent_ext_set_cpu_capability(const char* name);

// Null, or what the thread team (team.h) was promised to do and did not: a test hook. threads and rounds are
// positive.
LATENT_EXT_EXPORT const char* latent_ext_team_selftest(int threads, int rounds);

// Test hooks at the active level: `count` values of elements first .. first + count - 1; first is a multiple
// of 4.
LATENT_EXT_EXPORT void latent_ext_random_words(int64_t seed, int64_t key, int64_t position, uint32_t site,
                                               uint64_t first, int64_t count, uint32_t* out);
LATENT_EXT_EXPORT void latent_ext_normals(int64_t seed, int64_t key, int64_t position, uint32_t site,
                                          int64_t count, float* out);
LATENT_EXT_EXPORT void latent_ext_gumbels(int64_t seed, int64_t key, int64_t position, uint32_t site,
                                          int64_t count, float* out);
LATENT_EXT_EXPORT void latent_ext_keep_mask(int64_t seed, int64_t key, int64_t position, uint32_t site,
                                            int64_t count, double p, bool* out);
LATENT_EXT_EXPORT void latent_ext_log(const float* x, int64_t count, float* out);
// Multiply-adds per second, in units of 2 * 10^9 operations (GFLOP/s), of the calling thread for about
// `seconds` of its CPU time: what a matrix product of the active level cannot exceed.
LATENT_EXT_EXPORT double latent_ext_multiply_add_rate(double seconds);
LATENT_EXT_EXPORT void latent_ext_exp(const float* x, int64_t count, float* out);
