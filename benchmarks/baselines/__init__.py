# SPDX-License-Identifier: Apache-2.0
"""Other ways to find the point, on the interface of the product's search: the peers of `make bench-search`."""
