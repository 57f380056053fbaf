# SPDX-License-Identifier: Apache-2.0
"""The board layer: the only code that knows /sys and NVML."""
