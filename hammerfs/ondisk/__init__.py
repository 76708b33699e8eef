"""The structures of hammer_disk.h: decode, encode, verify. Pure functions of bytes; no I/O here."""
