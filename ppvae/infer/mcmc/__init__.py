"""Markov chains: kernels, their adaptation, and the coordinates in which they move on a manifold."""
