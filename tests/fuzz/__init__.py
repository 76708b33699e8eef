"""Hostile images: sound ones with a few things changed, and what every reader must do with them."""
