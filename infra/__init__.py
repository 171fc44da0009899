"""Deployment: images, manifests and what checks the machine."""
