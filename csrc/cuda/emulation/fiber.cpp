#include "cuda/emulation/fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <new>

#if defined(__x86_64__)
// What the ABI has a function keep, then the other stack. Signal masks and rounding modes are the same everywhere.
asm(R"(
.text
.type assay_emulation_switch, @function
assay_emulation_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size assay_emulation_switch, . - assay_emulation_switch
)");
extern "C" __attribute__((visibility("hidden"))) void assay_emulation_switch(void** from, void* to);
#endif

namespace assay::cuda::emulation {

#if defined(__x86_64__)

void prepare_context(Context& context, unsigned char* stack_end, void (*entry)()) {
  constexpr int kSavedRegisters = 6;
  void** top = reinterpret_cast<void**>(stack_end);
  *--top = nullptr;  // entry's return address; it also leaves the stack as a call would, 8 bytes past a multiple of 16
  *--top = reinterpret_cast<void*>(entry);
  for (int i = 0; i < kSavedRegisters; ++i) *--top = nullptr;
  context = top;
}

void switch_context(Context& from, Context& to) { assay_emulation_switch(&from, to); }

#else

void prepare_context(Context& context, unsigned char* stack_end, void (*entry)()) {
  getcontext(&context);
  context.uc_stack.ss_sp = stack_end - (kStackBytes - static_cast<std::size_t>(sysconf(_SC_PAGESIZE)));
  context.uc_stack.ss_size = kStackBytes - static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  context.uc_link = nullptr;
  makecontext(&context, entry, 0);
}

void switch_context(Context& from, Context& to) { swapcontext(&from, &to); }

#endif

unsigned char* map_stacks(std::size_t count) {
  const std::size_t page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  void* memory = mmap(nullptr, count * kStackBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  unsigned char* first = static_cast<unsigned char*>(memory);
  for (std::size_t i = 0; i < count; ++i) {
    if (mprotect(first + i * kStackBytes, page, PROT_NONE) != 0) throw std::bad_alloc();
  }
  return first + kStackBytes;
}

}  // namespace assay::cuda::emulation
