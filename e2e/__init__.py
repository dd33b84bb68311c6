"""End to end: the chart and the images of this checkout on a real cluster, from `helm install` to `helm uninstall`.

`.ci/e2e` makes what is to be installed and calls `python3 -m e2e`. Start reading at `scenario/__init__.py`: it has the
steps in their order, each with the checks that it makes. Then:

- `checks.txt`   every check that there is, reviewed: what is missing there or here is a failure
- `scenario/`    what a user does: install, change, lose, upgrade, remove
- `world.py`     a web server, its client, and a way to look at the node; the server's log is the truth
- `agent.py`     what the agent says
- `watch.py`     what Scope's probe would have missed meanwhile
- `cluster.py`   kubectl, Helm, and how to wait
- `results.py`   what held, for people and for machines
"""
