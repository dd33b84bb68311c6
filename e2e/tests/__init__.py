"""Of what can be wrong without a cluster: `python3 -m unittest discover --top-level-directory . e2e/tests`."""
