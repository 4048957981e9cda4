# What both CUDA modules are made of: _cuda, by nvcc, and _cuda_emulated, by the C++ compiler (emulation/).
set(ASSAY_CUDA_KERNELS
    activation.cu
    attention_bf16.cu
    attention_f16.cu
    attention_f32.cu
    attention_work_list.cu
    causal_conv1d.cu
    embedding.cu
    gather.cu
    gemm.cu
    gemm_f32.cu
    head.cu
    layer_rows.cu
    norm.cu
    pooling.cu
    proof.cu
    residual.cu
    rotary.cu
    selective_scan.cu)
# For sm_90a and nothing else.
set(ASSAY_CUDA_HOPPER_KERNELS attention_hopper.cu)
set(ASSAY_CUDA_HOST
    attention.cpp
    attention_hopper.cpp
    attention_schedule.cpp
    cublas_lt.cpp
    devices.cpp
    gemm.cpp
    layer.cpp
    layer_check.cpp
    product.cpp
    tensor_map.cpp)
set(ASSAY_CUDA_BINDINGS
    bind_cuda.cpp
    bind_cuda_attention.cpp
    bind_cuda_elementwise.cpp
    bind_cuda_head.cpp
    bind_cuda_layer.cpp
    bind_cuda_linear.cpp
    bind_cuda_recurrence.cpp
    bind_cuda_rows.cpp)

list(TRANSFORM ASSAY_CUDA_KERNELS PREPEND ${CMAKE_CURRENT_LIST_DIR}/)
list(TRANSFORM ASSAY_CUDA_HOPPER_KERNELS PREPEND ${CMAKE_CURRENT_LIST_DIR}/)
list(TRANSFORM ASSAY_CUDA_HOST PREPEND ${CMAKE_CURRENT_LIST_DIR}/)
list(TRANSFORM ASSAY_CUDA_BINDINGS PREPEND ${PROJECT_SOURCE_DIR}/csrc/)
set(ASSAY_CUDA_SOURCES ${ASSAY_CUDA_KERNELS} ${ASSAY_CUDA_HOST})
