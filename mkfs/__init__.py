"""newfs_hammer: makes HAMMER volumes."""
