"""Who really runs the virtual CPUs: one OS thread, a trio loop, OS threads, or a seeded simulator."""
