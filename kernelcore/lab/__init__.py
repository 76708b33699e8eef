"""The lab, `python -m kernelcore`: look at the kernel services (ps), time them (bench), watch them (sim)."""
