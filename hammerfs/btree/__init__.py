"""The B-Tree: nodes in the buffer cache, search, as-of lookup, iteration, changes saved for UNDO."""
