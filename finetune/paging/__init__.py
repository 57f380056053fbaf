# SPDX-License-Identifier: Apache-2.0
"""How storages leave RAM and come back: the thread, the file, and what is checked on the way."""
