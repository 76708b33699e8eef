"""The FUSE daemon: pyfuse3 handlers over the vfs layer, mount options, the event loop, the life of a mount."""
