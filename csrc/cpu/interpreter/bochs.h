// The C interface of bochscpu, which is the CPU of the Bochs emulator as a library, as far as it is used here.
// Looked up in the library at run time: nothing is linked.
#pragma once

#include <dlfcn.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <type_traits>

namespace assay::interpreter {

// Bochs numbers the registers as instructions encode them.
enum Register : unsigned { kRax, kRcx, kRdx, kRbx, kRsp, kRbp, kRsi, kRdi, kR8, kR9, kR10 };
enum Segment : unsigned { kEs, kCs, kSs, kDs, kFs, kGs };

struct Zmm {
  std::uint32_t lanes[16];
};

constexpr std::uint32_t kBranchIsSyscall = 17;
constexpr std::uint32_t kInvalidOpcode = 6;  // the vector of #UD

// Called at events, with `context` first; the order is the library's.
struct Hooks {
  using Unused = void (*)();
  void* context = nullptr;
  Unused reset = nullptr, hlt = nullptr, mwait = nullptr, branch_taken = nullptr, branch_not_taken = nullptr,
         unconditional_branch = nullptr;
  void (*far_branch)(void*, std::uint32_t cpu, std::uint32_t what, std::uint16_t from_cs, std::uint64_t from,
                     std::uint16_t to_cs, std::uint64_t to) = nullptr;
  Unused opcode = nullptr, interrupt = nullptr;
  void (*exception)(void*, std::uint32_t cpu, std::uint32_t vector, std::uint32_t error) = nullptr;
  Unused hw_interrupt = nullptr, tlb_control = nullptr, cache_control = nullptr, prefetch_hint = nullptr,
         clflush = nullptr;
  void (*before_execution)(void*, std::uint32_t cpu, void* instruction) = nullptr;
  Unused after_execution = nullptr, repeat_iteration = nullptr, inp = nullptr, inp2 = nullptr, outp = nullptr,
         lin_access = nullptr, phy_access = nullptr, wrmsr = nullptr, vmexit = nullptr;
};

// What the library exports, CPU 0 throughout. Everything that is called while code is interpreted is looked up before:
// the interpreted code may be inside the loader, which holds the lock that a look-up takes.
class Bochs {
 public:
  explicit Bochs(const char* path) : library_(dlopen(path, RTLD_NOW | RTLD_LOCAL)) {
    if (library_ == nullptr) throw std::runtime_error(std::string("the interpreter could not be loaded: ") + dlerror());
    find(get_reg_, "cpu_get_reg64");
    find(set_reg_, "cpu_set_reg64");
    find(get_pc_, "cpu_get_pc");
    find(set_pc_, "cpu_set_pc");
    find(get_zmm_, "cpu_get_zmm");
    find(set_zmm_, "cpu_set_zmm");
    find(bail_, "cpu_bail");
    find(opcode_, "bochscpu_instr_bx_opcode");
    find(opcode_name_, "_Z18get_bx_opcode_namet");
    find(stop_, "bochscpu_cpu_stop");
    find(page_insert_, "bochscpu_mem_page_insert");
  }

  template <class Function>
  Function* symbol(const char* name) const {
    void* found = dlsym(library_, name);
    if (found == nullptr) throw std::runtime_error(std::string("the interpreter lacks the function ") + name);
    return reinterpret_cast<Function*>(found);
  }

  // One of cpu_set_cr0, cpu_set_lstar and so on.
  template <class Value>
  void set(const char* name, Value value) const {
    symbol<void(unsigned, Value)>(name)(0, value);
  }

  std::uint64_t reg(unsigned number) const { return get_reg_(0, number); }
  void set_reg(unsigned number, std::uint64_t value) const { set_reg_(0, number, value); }
  std::uint64_t pc() const { return get_pc_(0); }
  void set_pc(std::uint64_t value) const { set_pc_(0, value); }
  // Register 32 holds the memory operand of the instruction that is executed.
  Zmm zmm(unsigned number) const {
    Zmm value;
    get_zmm_(0, number, &value);
    return value;
  }
  void set_zmm(unsigned number, const Zmm& value) const { set_zmm_(0, number, &value); }
  void insert_page(std::uint64_t physical_address, std::uint8_t* page) const { page_insert_(physical_address, page); }
  // The library's number for an instruction, and its name for the number.
  std::uint32_t opcode(const void* instruction) const { return opcode_(instruction); }
  const char* opcode_name(std::uint32_t opcode) const { return opcode_name_(static_cast<std::uint16_t>(opcode)); }
  // Ends `run` after the current instruction.
  void stop(void* cpu) const { stop_(cpu); }
  // Back to the top of the interpreter's loop, by longjmp.
  void bail() const { bail_(0); }

 private:
  template <class Pointer>
  void find(Pointer& pointer, const char* name) {
    pointer = symbol<std::remove_pointer_t<Pointer>>(name);
  }

  void* library_;
  std::uint64_t (*get_reg_)(unsigned, unsigned);
  void (*set_reg_)(unsigned, unsigned, std::uint64_t);
  std::uint64_t (*get_pc_)(unsigned);
  void (*set_pc_)(unsigned, std::uint64_t);
  void (*get_zmm_)(unsigned, unsigned, Zmm*);
  void (*set_zmm_)(unsigned, unsigned, const Zmm*);
  void (*bail_)(unsigned);
  std::uint32_t (*opcode_)(const void*);
  const char* (*opcode_name_)(std::uint16_t);
  void (*stop_)(void*);
  void (*page_insert_)(std::uint64_t, std::uint8_t*);
};

}  // namespace assay::interpreter
