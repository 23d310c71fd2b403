"""Trials that do nothing, through foundry and through Ray Tune, each in a process of its own: what is left is overhead."""
