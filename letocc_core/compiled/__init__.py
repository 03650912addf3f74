"""Loops compiled by numba, for float32 on CPUs: what gathers from many places is slow in PyTorch's own passes.

Each does what a function in plain PyTorch beside its caller does; that one serves GPUs, exports and the tests. They are
compiled on first use (a second or two) and kept on disk for later processes.
"""
