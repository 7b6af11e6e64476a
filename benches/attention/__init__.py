"""Prefix attention by several providers: inputs, correctness, time, and a model of it."""
