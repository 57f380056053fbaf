# SPDX-License-Identifier: Apache-2.0
"""Demonstrations and measurements; `make demo` and `make bench-*` run them and write JSON under `out/`."""
