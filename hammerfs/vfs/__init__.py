"""How a HAMMER file system looks from a mount: nodes with numbers, virtual directories, attributes. Knows no FUSE."""
