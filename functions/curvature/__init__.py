"""Gradients per example, Fishers, saliency, influence."""
