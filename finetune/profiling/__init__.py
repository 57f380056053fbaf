# SPDX-License-Identifier: Apache-2.0
"""What operations and transfers cost on this machine: meters, and the file that carries the result."""
