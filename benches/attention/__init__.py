"""Benchmarks of prefix attention: inputs, providers, correctness, time, and a memory model."""
