// A stack of its own for a function, left and entered again at any point.
//
// On x86-64 a switch is a few instructions; swapcontext, which saves the signal mask by a system call, is ten
// times slower, and a kernel on the host is little else than switches. The sanitizers follow swapcontext
// only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#if !defined(__x86_64__) || defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define LATENT_EXT_UCONTEXT 1
#include <ucontext.h>
#endif

namespace simt {

constexpr size_t kStackBytes = 128 * 1024;

#if defined(LATENT_EXT_UCONTEXT)

class Context {
 public:
  // `entry` must never return.
  void begin(char* stack, void (*entry)()) {
    getcontext(&context_);
    context_.uc_stack.ss_sp = stack;
    context_.uc_stack.ss_size = kStackBytes;
    context_.uc_link = nullptr;
    makecontext(&context_, entry, 0);
  }
  void switch_to(Context& other) { swapcontext(&context_, &other.context_); }

 private:
  ucontext_t context_;
};

#else

// Registers that a call must preserve go to this stack; those of the other are taken from there.
__attribute__((naked, noinline)) inline void switch_stacks(void** /*save*/, void* /*restore*/) {
  asm volatile(
      "pushq %rbp\n\tpushq %rbx\n\tpushq %r12\n\tpushq %r13\n\tpushq %r14\n\tpushq %r15\n\t"
      "movq %rsp, (%rdi)\n\t"
      "movq %rsi, %rsp\n\t"
      "popq %r15\n\tpopq %r14\n\tpopq %r13\n\tpopq %r12\n\tpopq %rbx\n\tpopq %rbp\n\t"
      "ret");
}

class Context {
 public:
  // `entry` must never return.
  void begin(char* stack, void (*entry)()) {
    uintptr_t top = reinterpret_cast<uintptr_t>(stack + kStackBytes) / 16 * 16;
    auto** words = reinterpret_cast<void**>(top - 8 * sizeof(void*));
    for (int i = 0; i < 6; ++i) words[i] = nullptr;  // the preserved registers
    words[6] = reinterpret_cast<void*>(entry);       // where `ret` goes
    words[7] = nullptr;                              // no caller
    stack_ = words;
  }
  void switch_to(Context& other) { switch_stacks(&stack_, other.stack_); }

 private:
  void* stack_ = nullptr;
};

#endif

}  // namespace simt
