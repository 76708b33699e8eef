"""What hammer(8) does to a file system: the same functions for one that is mounted and for an image."""
