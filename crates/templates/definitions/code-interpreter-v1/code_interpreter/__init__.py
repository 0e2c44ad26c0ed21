"""Runs code in Jupyter kernels for the code interpreter clients, on port 49999."""
