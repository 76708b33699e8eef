"""DragonFly's kernel services in user space: LWKT threads, tokens, message ports, IPIs, slab."""
