// Runs functions of this process on an interpreted CPU: Bochs, by way of the library bochscpu. Code and data are used
// where they lie, so a test can load the ordinary module and have its AVX-512 and AMX instructions executed on a
// machine that has neither. For processes with one thread: locked instructions are not atomic towards other threads.
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <condition_variable>
#include <cstdarg>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>

#include "cpu/interpreter/address_space.h"
#include "cpu/interpreter/bochs.h"
#include "cpu/interpreter/tiles.h"
#include "cpu/interpreter/vcvtne2ps2bf16.h"

namespace assay::interpreter {
namespace {

// Names of the library's C++ functions.
#define ASSAY_CREATE_CPUID "_Z23create_corei3_cnl_cpuidP8BX_CPU_C"
#define ASSAY_LEAF_7 "_ZNK17sapphire_rapids_t20get_std_cpuid_leaf_7EjP16cpuid_function_t"

constexpr std::uint64_t kReturned = 0x7fffff01;  // the "system call" with which an interpreted function ends
constexpr std::size_t kStackBytes = 64u << 20;
constexpr std::size_t kMaxOpcodes = 8192;  // the library numbers some 3,500

// The code that a function returns to (mov rdi, rax; mov eax, kReturned; syscall), and the code that system calls lead
// to, which returns from them (sysretq): on_far_branch has done the work by then.
constexpr std::uint8_t kReturnCode[] = {0x48, 0x89, 0xc7, 0xb8, 0x01, 0xff, 0xff, 0x7f, 0x0f, 0x05};
constexpr std::uint8_t kSystemCallCode[] = {0x48, 0x0f, 0x07};
constexpr std::size_t kSystemCallOffset = 64;

struct CpuidLeaf {
  std::uint32_t eax, ebx, ecx, edx;
};

class Interpreter {
 public:
  Interpreter(const char* library, const char* cpu_model)
      : bochs_(library),
        cpu_model_(cpu_model),
        has_tiles_(cpu_model_ == "sapphire_rapids"),
        has_avx512_(cpu_model_ != "haswell" && cpu_model_ != "arrow_lake") {}

  void start() {
    bochs_.symbol<void(void (*)(std::uint64_t))>("bochscpu_mem_missing_page")(on_missing_page);
    cpu_ = bochs_.symbol<void*(std::uint32_t)>("bochscpu_cpu_new")(0);
    code_ = map_memory(4096, PROT_READ | PROT_WRITE | PROT_EXEC);
    memcpy(code_, kReturnCode, sizeof kReturnCode);
    memcpy(code_ + kSystemCallOffset, kSystemCallCode, sizeof kSystemCallCode);
    stack_ = map_memory(kStackBytes, PROT_READ | PROT_WRITE);
    hooks_.far_branch = on_far_branch;
    hooks_.exception = on_exception;
  }

  // By the System V calling convention: up to four integers or pointers in, one out. `fs_base` is the caller's, so that
  // the function finds the caller's thread-local variables.
  std::uint64_t call(std::uint64_t function, const std::uint64_t* arguments, int count, std::uint64_t fs_base) {
    space_.update();
    // 64-bit mode at user level, paged, with the vector and tile registers switched on (Intel SDM volume 3, 2.5, 2.6).
    bochs_.set<std::uint32_t>("cpu_set_cr0", 0x80050033);
    bochs_.set<std::uint64_t>("cpu_set_cr3", space_.root());
    bochs_.set<std::uint64_t>("cpu_set_cr4", 0x506f0);
    bochs_.set<std::uint32_t>("cpu_set_efer", 0xd01);
    bochs_.set<std::uint32_t>("cpu_set_xcr0", has_avx512_ ? (has_tiles_ ? 0x600e7 : 0xe7) : 0x7);
    set_segment(kCs, 0x33, 0, 0xa0fb);
    for (const Segment segment : {kEs, kSs, kDs, kGs}) set_segment(segment, 0x2b, 0, 0xc0f3);
    set_segment(kFs, 0x2b, fs_base, 0xc0f3);
    bochs_.set<std::uint64_t>("cpu_set_star", 0x0023001000000000);
    bochs_.set<std::uint64_t>("cpu_set_lstar", reinterpret_cast<std::uint64_t>(code_) + kSystemCallOffset);
    bochs_.set<std::uint32_t>("cpu_set_fmask", 0x47700);
    bochs_.set<std::uint32_t>("cpu_set_mxcsr_mask", 0xffff);
    bochs_.set<std::uint32_t>("cpu_set_mxcsr", 0x1f80);
    bochs_.set<std::uint16_t>("cpu_set_fp_cw", 0x37f);
    bochs_.set<std::uint16_t>("cpu_set_fp_tw", 0xffff);
    constexpr Register kOrder[] = {kRdi, kRsi, kRdx, kRcx};
    for (int i = 0; i < count; ++i) bochs_.set_reg(kOrder[i], arguments[i]);
    auto* top = reinterpret_cast<std::uint64_t*>(stack_ + kStackBytes - 4096);
    *--top = reinterpret_cast<std::uint64_t>(code_);
    bochs_.set<std::uint64_t>("cpu_set_sp", reinterpret_cast<std::uint64_t>(top));
    bochs_.set_pc(function);
    bochs_.set<std::uint32_t>("cpu_set_eflags", 0x202);
    bochs_.symbol<void(unsigned)>("cpu_set_mode")(0);
    Hooks* chain[] = {&hooks_, nullptr};
    bochs_.symbol<void(void*, Hooks**)>("bochscpu_cpu_run")(cpu_, chain);
    return result_;
  }

  // From now on instructions are counted, which halves the speed.
  void count() {
    counts_.assign(kMaxOpcodes, 0);
    hooks_.before_execution = on_instruction;
  }

  // Of an opcode that was executed since `count`; nullptr of any other.
  const char* opcode_name(std::uint32_t opcode) const {
    return opcode < kMaxOpcodes && counts_.at(opcode) != 0 ? bochs_.opcode_name(opcode) : nullptr;
  }
  std::uint64_t num_executed(std::uint32_t opcode) const { return counts_.at(opcode); }

  void execute_vcvtne2ps2bf16() const {
    try {
      vcvtne2ps2bf16(bochs_);
    } catch (const std::exception& fault) {
      fail(fault.what());
    }
  }

  // Bochs' description of the CPU that is asked for; called while the library makes its CPU.
  void* cpu_description(void* cpu) const {
    const char* name = cpu_model_ == "haswell"           ? "_Z32create_corei7_haswell_4770_cpuidP8BX_CPU_C"
                       : cpu_model_ == "skylake_x"       ? "_Z29create_corei7_skylake_x_cpuidP8BX_CPU_C"
                       : cpu_model_ == "icelake"         ? "_Z29create_corei7_icelake_u_cpuidP8BX_CPU_C"
                       : cpu_model_ == "sapphire_rapids" ? "_Z28create_sapphire_rapids_cpuidP8BX_CPU_C"
                       : cpu_model_ == "arrow_lake"      ? "_Z23create_arrow_lake_cpuidP8BX_CPU_C"
                                                         : nullptr;
    if (name == nullptr) fail("cpu_model is one of haswell, arrow_lake, skylake_x, icelake, sapphire_rapids");
    return bochs_.symbol<void*(void*)>(name)(cpu);
  }

  // The library's own leaf 7 of Sapphire Rapids. `self` is its description of that CPU.
  void cpuid_leaf_7(const void* self, std::uint32_t sub_leaf, CpuidLeaf* leaf) const { leaf_7_(self, sub_leaf, leaf); }

  const Tiles& tiles() const { return tiles_; }

 private:
  // Ends the process, with the file and offset of the instruction. By /proc, as dladdr would wait for a loader that may
  // be what is interpreted.
  [[noreturn]] void fail(const char* why) const {
    const std::uint64_t pc = bochs_.pc();
    fprintf(stderr, "interpreter: %s, at or just before 0x%lx\n", why, pc);
    for_each_mapping([pc](std::uint64_t begin, std::uint64_t end, const char* line) {
      if (begin <= pc && pc < end) fprintf(stderr, "in %s", line);
    });
    _exit(70);
  }

  void set_segment(Segment segment, std::uint16_t selector, std::uint64_t base, std::uint16_t attributes) const {
    bochs_.symbol<void(unsigned, unsigned, std::uint32_t, std::uint16_t, std::uint64_t, std::uint32_t, std::uint16_t)>(
        "cpu_set_seg")(0, segment, 1, selector, base, 0xffffffff, attributes);
  }

  // Linux's system calls are made for the function, but for two kinds: permission to use tiles, which the kernel below
  // cannot give and the interpreted CPU does not need, and new threads, which would not be interpreted.
  std::uint64_t system_call(std::uint64_t number) {
    constexpr std::uint64_t kArchGetXcompSupp = 0x1021, kArchReqXcompGuestPerm = 0x1025;
    const auto argument = [this](Register reg) { return static_cast<long>(bochs_.reg(reg)); };
    const auto first = static_cast<std::uint64_t>(argument(kRdi));
    if (number == SYS_arch_prctl && first >= kArchGetXcompSupp && first <= kArchReqXcompGuestPerm) return 0;
    if (number == SYS_clone || number == SYS_clone3) fail("a thread was started");
    const long result = syscall(static_cast<long>(number), argument(kRdi), argument(kRsi), argument(kRdx),
                                argument(kR10), argument(kR8), argument(kR9));
    if (result == -1) return static_cast<std::uint64_t>(-errno);
    if (number == SYS_mmap || number == SYS_brk || number == SYS_mremap) space_.update();
    return static_cast<std::uint64_t>(result);
  }

  static void on_missing_page(std::uint64_t physical_address);

  static void on_instruction(void*, std::uint32_t, void* instruction);

  static void on_far_branch(void*, std::uint32_t, std::uint32_t what, std::uint16_t, std::uint64_t, std::uint16_t,
                            std::uint64_t);

  // The program counter stands behind the instruction that raised it. The instruction is found by its length.
  static void on_exception(void*, std::uint32_t, std::uint32_t vector, std::uint32_t error);

  bool execute_tile_instruction() {
    const std::uint64_t pc = bochs_.pc();
    for (int length = 5; length <= 10; ++length) {
      const auto* code = reinterpret_cast<const std::uint8_t*>(pc) - length;
      const auto found =
          decode_tile_instruction(code, [this](int reg) { return bochs_.reg(static_cast<unsigned>(reg)); });
      if (!found || found->length != length) continue;
      tiles_.execute(*found);
      return true;
    }
    return false;
  }

  const Bochs bochs_;
  const std::string cpu_model_;
  const bool has_tiles_, has_avx512_;
  AddressSpace space_;
  Tiles tiles_;
  Hooks hooks_;
  void (*leaf_7_)(const void*, std::uint32_t,
                  CpuidLeaf*) = bochs_.symbol<void(const void*, std::uint32_t, CpuidLeaf*)>(ASSAY_LEAF_7);
  void* cpu_ = nullptr;
  std::uint8_t* code_ = nullptr;
  std::uint8_t* stack_ = nullptr;
  std::uint64_t result_ = 0;
  std::vector<std::uint64_t> counts_;
};

Interpreter* the_interpreter = nullptr;

void Interpreter::on_missing_page(std::uint64_t physical_address) {
  the_interpreter->bochs_.insert_page(physical_address & ~AddressSpace::kPageMask,
                                      the_interpreter->space_.page(physical_address));
}

void Interpreter::on_instruction(void*, std::uint32_t, void* instruction) {
  ++the_interpreter->counts_[the_interpreter->bochs_.opcode(instruction)];
}

void Interpreter::on_far_branch(void*, std::uint32_t, std::uint32_t what, std::uint16_t, std::uint64_t, std::uint16_t,
                                std::uint64_t) {
  if (what != kBranchIsSyscall) return;
  Interpreter& self = *the_interpreter;
  const std::uint64_t number = self.bochs_.reg(kRax);
  if (number == kReturned) {
    self.result_ = self.bochs_.reg(kRdi);
    self.bochs_.stop(self.cpu_);
    return;
  }
  self.bochs_.set_reg(kRax, self.system_call(number));
}

void Interpreter::on_exception(void*, std::uint32_t, std::uint32_t vector, std::uint32_t error) {
  Interpreter& self = *the_interpreter;
  bool is_done = false;
  try {
    is_done = vector == kInvalidOpcode && self.has_tiles_ && self.execute_tile_instruction();
  } catch (const std::exception& fault) {
    self.fail(fault.what());
  }
  if (!is_done) {
    char text[80];
    snprintf(text, sizeof text, "exception %u, error code %u", vector, error);
    self.fail(text);
  }
  self.bochs_.bail();  // on with the next instruction instead of the exception's handler
}

// The thread on which the interpreter itself runs. The function that is interpreted has the caller's thread-local
// variables, among them its part of the heap, so the interpreter's own allocations must be another thread's.
class Thread {
 public:
  Thread() {
    std::thread([this] { loop(); }).detach();
  }  // lives as long as the process, as this object does

  void run(std::function<void()> task) {
    std::unique_lock lock(mutex_);
    task_ = std::move(task);
    changed_.notify_all();
    changed_.wait(lock, [this] { return task_ == nullptr; });
  }

 private:
  void loop() {
    std::unique_lock lock(mutex_);
    while (true) {
      changed_.wait(lock, [this] { return task_ != nullptr; });
      task_();
      task_ = nullptr;
      changed_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::function<void()> task_;
};

Thread& the_thread() {
  static Thread& thread = *new Thread;
  return thread;
}

}  // namespace
}  // namespace assay::interpreter

#define EXPORTED extern "C" __attribute__((visibility("default")))

using assay::interpreter::Interpreter;
using assay::interpreter::the_interpreter;

// These stand in front of the library's functions of the same names: this library is loaded first and globally.

// The library always makes the CPU that it was built for; here it makes the one that was asked for.
EXPORTED void* create_cpuid(void* cpu) __asm__(ASSAY_CREATE_CPUID);
void* create_cpuid(void* cpu) { return the_interpreter->cpu_description(cpu); }

// CPUID leaf 7 of Sapphire Rapids, with AMX-BF16, AMX-TILE and AMX-INT8 (EDX bits 22, 24 and 25), which Bochs lacks.
EXPORTED void cpuid_leaf_7(const void* self, std::uint32_t sub_leaf,
                           assay::interpreter::CpuidLeaf* leaf) __asm__(ASSAY_LEAF_7);
void cpuid_leaf_7(const void* self, std::uint32_t sub_leaf, assay::interpreter::CpuidLeaf* leaf) {
  the_interpreter->cpuid_leaf_7(self, sub_leaf, leaf);
  if (sub_leaf == 0) leaf->edx |= 1u << 22 | 1u << 24 | 1u << 25;
}

EXPORTED void execute_vcvtne2ps2bf16(void* instruction) __asm__(
    "_ZN8BX_CPU_C30VCVTNE2PS2BF16_MASK_VphHpsWpsREP15bxInstruction_c");
void execute_vcvtne2ps2bf16(void*) { the_interpreter->execute_vcvtne2ps2bf16(); }

// The library was built against a newer C library than many systems have, and misses two of its functions there.
EXPORTED unsigned long long __isoc23_strtoull(const char* text, char** end, int base) {
  return strtoull(text, end, base);
}
EXPORTED int __isoc23_sscanf(const char* text, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  const int count = vsscanf(text, format, arguments);
  va_end(arguments);
  return count;
}

// Makes the one CPU of this process. Returns nullptr, or what went wrong.
EXPORTED const char* assay_interpreter_start(const char* library, const char* cpu_model) {
  static std::string message;
  assay::interpreter::the_thread().run([&] {
    try {
      the_interpreter = new Interpreter(library, cpu_model);
      the_interpreter->start();
    } catch (const std::exception& fault) {
      message = fault.what();
    }
  });
  return message.empty() ? nullptr : message.c_str();
}

// Calls `function` with `count` (at most 4) integers or pointers on the interpreted CPU.
EXPORTED std::uint64_t assay_interpreter_call(std::uint64_t function, const std::uint64_t* arguments, int count) {
  constexpr int kArchGetFs = 0x1003;
  std::uint64_t fs_base = 0, result = 0;
  syscall(SYS_arch_prctl, kArchGetFs, &fs_base);
  assay::interpreter::the_thread().run([&] { result = the_interpreter->call(function, arguments, count, fs_base); });
  return result;
}

// AMX instructions executed so far: products, loads and stores, others.
EXPORTED void assay_interpreter_tile_counts(std::uint64_t* counts) {
  counts[0] = the_interpreter->tiles().num_products;
  counts[1] = the_interpreter->tiles().num_moves;
  counts[2] = the_interpreter->tiles().num_others;
}

// Counts every instruction from now on, by the library's opcodes.
EXPORTED void assay_interpreter_count() { the_interpreter->count(); }
EXPORTED const char* assay_interpreter_opcode_name(std::uint32_t opcode) {
  return the_interpreter->opcode_name(opcode);
}
EXPORTED std::uint64_t assay_interpreter_num_executed(std::uint32_t opcode) {
  return the_interpreter->num_executed(opcode);
}
