"""A plain `papermill` shows the lines of a running cell as they come.

What Jupyter says of its own connections, and of the interrupt by which papermill ends a kernel, is
left out.
"""
c = get_config()  # noqa: F821
c.IPKernelApp.quiet = False
c.IPKernelApp.log_level = 50
