// How many CPUs the container grants.
#pragma once

#include <string>

namespace assay::cpu {

// CPUs worth of quota of this process's cgroup and its parents (v1 or v2), or 0 where there is none.
// `root` is "/" but in tests: it holds proc/self/cgroup and sys/fs/cgroup.
double cgroup_cpu_quota(const std::string& root);

// CPUs in this process's affinity mask, hyper-threads of one core counted once.
int affinity_cores();

}  // namespace assay::cpu
