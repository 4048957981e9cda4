// The interpreted CPU sees this process's memory at this process's addresses: page tables that map every GiB of the
// address space in which something lies, one to one, to a GiB of invented physical memory.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <map>
#include <memory>
#include <new>
#include <vector>

namespace assay::interpreter {

// body(begin, end, line) for every range of addresses in use, with its line of /proc.
template <class Body>
void for_each_mapping(const Body& body) {
  const std::unique_ptr<FILE, int (*)(FILE*)> maps(fopen("/proc/self/maps", "r"), fclose);
  char line[512];
  while (maps != nullptr && fgets(line, sizeof line, maps.get()) != nullptr) {
    unsigned long begin = 0, end = 0;
    if (sscanf(line, "%lx-%lx", &begin, &end) == 2) body(begin, end, line);
  }
}

// Zeros of our own.
inline std::uint8_t* map_memory(std::size_t bytes, int protection) {
  void* memory = mmap(nullptr, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  return static_cast<std::uint8_t*>(memory);
}

class AddressSpace {
 public:
  AddressSpace() : root_(table()) {}

  // Maps what the process has mapped since the last call.
  void update() {
    for_each_mapping([this](std::uint64_t begin, std::uint64_t end, const char*) {
      if (begin >> 47) return;  // the kernel's half
      for (std::uint64_t gib = begin >> kGibBits; gib <= (end - 1) >> kGibBits; ++gib) map(gib);
    });
  }

  // Physical address of the top table, for CR3.
  std::uint64_t root() { return physical(root_); }

  // The process's address of a page of physical memory.
  std::uint8_t* page(std::uint64_t physical_address) const {
    const std::uint64_t gib = gib_of_.at(physical_address >> kGibBits);
    return reinterpret_cast<std::uint8_t*>(gib << kGibBits | (physical_address & (kGib - 1) & ~kPageMask));
  }

  static constexpr std::uint64_t kPageMask = 4095;

 private:
  static constexpr int kGibBits = 30;
  static constexpr std::uint64_t kGib = 1ull << kGibBits;
  // Bits of an entry (Intel SDM volume 3, 4.5): present, writable, user; accessed, dirty; a page rather than a table.
  static constexpr std::uint64_t kTable = 0x07, kPage = 0xe7;

  static std::uint64_t* table() {
    return reinterpret_cast<std::uint64_t*>(map_memory(kPageMask + 1, PROT_READ | PROT_WRITE));
  }

  std::uint64_t physical(const void* address) {
    const auto virtual_address = reinterpret_cast<std::uint64_t>(address);
    return physical_gib(virtual_address >> kGibBits) << kGibBits | (virtual_address & (kGib - 1));
  }

  std::uint64_t physical_gib(std::uint64_t gib) {
    const auto [entry, is_new] = physical_of_.try_emplace(gib, gib_of_.size());
    if (is_new) gib_of_.push_back(gib);
    return entry->second;
  }

  void map(std::uint64_t gib) {
    std::uint64_t*& gibs = tables_[gib / 512];
    if (gibs == nullptr) {
      gibs = table();
      root_[gib / 512] = physical(gibs) | kTable;
    }
    gibs[gib % 512] = physical_gib(gib) << kGibBits | kPage;
  }

  std::uint64_t* root_;
  std::map<std::uint64_t, std::uint64_t*> tables_;
  std::map<std::uint64_t, std::uint64_t> physical_of_;
  // By physical GiB. The first four stay unused: a PC has its devices there, the interrupt controller at 0xFEE00000.
  std::vector<std::uint64_t> gib_of_ = {0, 0, 0, 0};
};

}  // namespace assay::interpreter
