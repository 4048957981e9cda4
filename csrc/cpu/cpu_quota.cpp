#include "cpu/cpu_quota.h"

#include <algorithm>
#include <fstream>
#include <set>
#include <sstream>
#include <thread>

#ifdef __linux__
#include <sched.h>
#endif

namespace assay::cpu {
namespace {

// Each reader returns CPUs of quota in one cgroup folder, or 0 for "no limit here".
double quota_v2(const std::string& folder) {
  std::ifstream file(folder + "/cpu.max");
  std::string quota;
  double period = 0;
  if (!(file >> quota >> period) || quota == "max" || period <= 0) return 0;
  std::istringstream text(quota);
  double microseconds = 0;
  return text >> microseconds ? microseconds / period : 0;
}

double quota_v1(const std::string& folder) {
  double quota = 0;
  double period = 0;
  std::ifstream(folder + "/cpu.cfs_quota_us") >> quota;
  std::ifstream(folder + "/cpu.cfs_period_us") >> period;
  return quota > 0 && period > 0 ? quota / period : 0;  // -1 = no limit
}

// A parent's limit binds its children, so the smallest on the way up counts.
double smallest_quota(const std::string& mount, std::string path, double (*read)(const std::string&)) {
  double smallest = 0;
  while (true) {
    const double here = read(mount + path);
    if (here > 0 && (smallest == 0 || here < smallest)) smallest = here;
    if (path.empty() || path == "/") return smallest;
    path = path.substr(0, path.rfind('/'));
  }
}

bool lists_cpu_controller(const std::string& controllers) {
  std::istringstream list(controllers);
  for (std::string name; std::getline(list, name, ',');) {
    if (name == "cpu") return true;
  }
  return false;
}

}  // namespace

double cgroup_cpu_quota(const std::string& root) {
  std::ifstream file(root + "/proc/self/cgroup");
  double smallest = 0;
  for (std::string line; std::getline(file, line);) {  // hierarchy-id:controllers:path
    const auto first = line.find(':');
    const auto second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const std::string path = line.substr(second + 1);
    double quota = 0;
    if (controllers.empty()) {
      quota = smallest_quota(root + "/sys/fs/cgroup", path, quota_v2);
    } else if (lists_cpu_controller(controllers)) {
      quota = smallest_quota(root + "/sys/fs/cgroup/" + controllers, path, quota_v1);
      if (quota == 0) quota = smallest_quota(root + "/sys/fs/cgroup/cpu", path, quota_v1);
    }
    if (quota > 0 && (smallest == 0 || quota < smallest)) smallest = quota;
  }
  return smallest;
}

int affinity_cores() {
#ifdef __linux__
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0) {
    std::set<std::string> cores;
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (!CPU_ISSET(cpu, &set)) continue;
      std::string siblings;
      std::ifstream("/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/thread_siblings_list") >> siblings;
      cores.insert(siblings.empty() ? std::to_string(cpu) : siblings);
    }
    if (!cores.empty()) return static_cast<int>(cores.size());
  }
#endif
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

}  // namespace assay::cpu
