"A plain `papermill` shows the lines of a running cell as they come."
c = get_config()  # noqa: F821
c.IPKernelApp.quiet = False
