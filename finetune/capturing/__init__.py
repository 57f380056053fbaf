# SPDX-License-Identifier: Apache-2.0
"""From a module to a graph: tracing, storages, optimizer updates, and running a captured step op by op."""
