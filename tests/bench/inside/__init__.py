"""What runs inside the box: the clients and the clock.

The release's own Python runs it, so uvloop and httptools are there. It imports nothing of the
repository but itself: `python -m inside.run`.
"""
