# SPDX-License-Identifier: Apache-2.0
"""Ways to train in less memory, each used as its authors say, and the child process that runs one of them."""
