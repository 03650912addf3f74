"""Differentiable rendering of a signed distance field: rays, NeuS weights, rendered depth, flow and semantics."""
