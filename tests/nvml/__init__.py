# SPDX-License-Identifier: Apache-2.0
"""What holds for every NVML GPU, and a C library that stands in for NVIDIA's."""
