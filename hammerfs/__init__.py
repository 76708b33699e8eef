"""The HAMMER file system of DragonFly BSD, outside DragonFly BSD."""
