"""Power cuts, failing devices, full volumes."""
