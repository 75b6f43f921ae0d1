#pragma once

#include <pybind11/pybind11.h>

namespace latent_ext {

// Adds `latent_rollout` to the module.
void bind_rollout(pybind11::module_& m);

}  // namespace latent_ext
