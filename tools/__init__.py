"""The command-line tools: hammer, undo, fsck.hammer, fstyp_hammer."""
