// Which GPUs there are. Needs no driver.
#pragma once

namespace assay::cuda {

// GPUs this process can use; 0 without a driver.
int device_count();

// Compute capability as one number, 80 or 90. Throws std::runtime_error where there is no such device.
int sm(int device);

// Of the current device. Throws std::runtime_error.
int current_sm();

// Multiprocessors of the current device. Throws std::runtime_error.
int num_multiprocessors();

}  // namespace assay::cuda
