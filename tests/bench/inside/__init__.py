"""The part of the benchmark that runs in the box: clients and measurements.

The Python of the release runs it, which has uvloop and httptools. It imports no other module of the repository:
`python -m inside.run`.
"""
