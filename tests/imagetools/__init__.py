"""Builders of images that tests read: disks with partition tables and labels, mutated volumes."""
