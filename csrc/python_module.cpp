// Makes _C importable: loading the library registers the ops, and the import fails with a clear error when
// LATENT_EXT_CPU_CAPABILITY asks for something this machine cannot run.
#include <Python.h>

#include "cpu/control.h"

PyMODINIT_FUNC PyInit__C(void) {
  static PyModuleDef definition = {
      PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
  if (const char* error = latent_ext_capability_error()) {
    PyErr_SetString(PyExc_ImportError, error);
    return nullptr;
  }
  return PyModule_Create(&definition);
}
