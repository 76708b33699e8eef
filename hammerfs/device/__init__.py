"""Where the bytes of a volume come from: files, block devices, slices of a disk, overlays, faulty devices."""
