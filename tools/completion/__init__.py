"""Completion of command lines in bash, zsh and fish: scripts made from the parsers, and words only a mount knows."""
