# SPDX-License-Identifier: Apache-2.0
"""What the search believes of a board: physics fitted to trials, a Gaussian process on top, and what to try next."""
